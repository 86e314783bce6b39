//! What lies where in an ext4 file system, as values and bytes. Pure.

pub(crate) mod crc;
pub(crate) mod hash;
