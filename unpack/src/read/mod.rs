//! Trees that exist are read: verified against a layer, cloned, digested. Only a clone writes.

pub(crate) mod clone;
pub(crate) mod digest;
pub(crate) mod file;
pub(crate) mod verify;
pub(crate) mod walk;
