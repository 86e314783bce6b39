//! What is believed of what others sign or find: catalogs, signatures of cosign's, reports of scanners. Pure.

pub(crate) mod bar;
pub(crate) mod catalog;
pub(crate) mod cosign;
pub(crate) mod keys;
pub(crate) mod moment;
pub(crate) mod report;
pub(crate) mod sarif;
pub(crate) mod scan;
pub(crate) mod strict;
