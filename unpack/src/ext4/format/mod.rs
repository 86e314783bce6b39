//! What lies where in an ext4 file system, as values and bytes. Pure.

pub(crate) mod attributes;
pub(crate) mod bytes;
pub(crate) mod crc;
pub(crate) mod decode_bytes;
pub(crate) mod decode_dir;
pub(crate) mod decode_extent;
pub(crate) mod decode_group;
pub(crate) mod decode_inode;
pub(crate) mod decode_journal;
pub(crate) mod decode_super;
pub(crate) mod decode_xattr;
pub(crate) mod directory;
pub(crate) mod geometry;
pub(crate) mod hash;
pub(crate) mod inode;
pub(crate) mod journal;
pub(crate) mod layout;
pub(crate) mod sizes;
pub(crate) mod superblock;
