//! What is written about layers, images and activations beside their states.

pub(crate) mod activations;
pub(crate) mod arrivals;
pub(crate) mod attempts;
pub(crate) mod catalogs;
pub(crate) mod condemned;
pub(crate) mod configs;
pub(crate) mod devices;
pub(crate) mod disks;
pub(crate) mod labels;
pub(crate) mod names;
pub(crate) mod quarantine;
pub(crate) mod scans;
pub(crate) mod signatures;
pub(crate) mod sources;
