//! Our own reader of ext4: an open file in, inodes, names and contents out, by `pread` alone.
//!
//! It is made to meet what a guest could write to while it had the volume, so nothing that the image
//! says is believed before it was held against the device: see `format` for the rules of each
//! structure. Memory does not grow with what a field says, and what is read is counted
//! ([`cost::Cost`]), so that what leads round in circles ends. An image that breaks a rule is an
//! error with the rule in it ([`crate::error::image::Flaw`]).

pub(crate) mod content;
pub(crate) mod cost;
pub(crate) mod image;
pub(crate) mod index;
pub(crate) mod manifest;
pub(crate) mod map;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod replay;
pub(crate) mod seen;
pub(crate) mod walk;
