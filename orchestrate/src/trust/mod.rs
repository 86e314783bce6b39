//! What is believed of what others sign or find: catalogs, reports of scanners. Pure.

pub(crate) mod catalog;
pub(crate) mod report;
pub(crate) mod strict;
