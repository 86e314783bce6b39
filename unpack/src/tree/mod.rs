//! Entries to nodes. What a layer means is here, once, over any kind of tree that offers what `sink` asks
//! for; `fd` is one: what is below a directory's descriptor.

pub(crate) mod apply;
pub(crate) mod body;
pub(crate) mod budget;
#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod dirs;
pub(crate) mod fd;
pub(crate) mod make;
pub(crate) mod plnk;
pub(crate) mod sink;
pub(crate) mod site;
pub(crate) mod touched;
pub(crate) mod way;
