//! What lies where in an ext4 file system, as values and bytes. Pure.

pub(crate) mod attributes;
pub(crate) mod bytes;
pub(crate) mod crc;
pub(crate) mod directory;
pub(crate) mod geometry;
pub(crate) mod hash;
pub(crate) mod inode;
pub(crate) mod journal;
pub(crate) mod superblock;
