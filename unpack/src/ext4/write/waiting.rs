//! What waits for the end of a layer's data. Pure.

use crate::ext4::format::inode::Extent;
use crate::tree::touched::Inodes;

/// One block, or a few, for an inode.
#[derive(Debug)]
pub(crate) enum Item {
    /// The target of a symbolic link.
    Target { inode: u32, target: Vec<u8> },
    /// A block of attributes, for all nodes in a row that have the same.
    Attributes { inodes: Vec<u32>, block: Vec<u8> },
    /// More extents than an inode holds.
    Extents { inode: u32, extents: Vec<Extent> },
}

/// Those of a layer, in its order, and how many bytes they are.
#[derive(Debug, Default)]
pub(crate) struct Later {
    pub(crate) items: Vec<Item>,
    pub(crate) bytes: usize,
    pub(crate) inodes: Inodes,
}
