//! Entries to nodes: makes and removes what is below one directory, by descriptors and never by paths.

pub(crate) mod apply;
pub(crate) mod body;
pub(crate) mod budget;
pub(crate) mod dirs;
pub(crate) mod fd;
pub(crate) mod make;
pub(crate) mod plnk;
#[expect(dead_code, reason = "its implementations follow")]
pub(crate) mod sink;
pub(crate) mod site;
pub(crate) mod touched;
pub(crate) mod way;
