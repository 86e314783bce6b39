//! Entries to nodes: makes and removes what is below one directory, by descriptors and never by paths.

pub(crate) mod apply;
pub(crate) mod body;
pub(crate) mod budget;
pub(crate) mod dirs;
pub(crate) mod look;
pub(crate) mod make;
pub(crate) mod node;
pub(crate) mod open;
pub(crate) mod plnk;
pub(crate) mod remove;
pub(crate) mod root;
#[expect(dead_code, reason = "its implementations follow")]
pub(crate) mod sink;
pub(crate) mod site;
pub(crate) mod touched;
pub(crate) mod way;
