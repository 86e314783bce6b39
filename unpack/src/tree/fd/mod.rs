//! A tree below a directory's descriptor: every node is made, changed and removed by calls that begin at
//! an open directory and never by a host's path.

pub(crate) mod apply;
pub(crate) mod attributes;
pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod handle;
pub(crate) mod look;
pub(crate) mod node;
pub(crate) mod open;
pub(crate) mod remove;
pub(crate) mod root;
