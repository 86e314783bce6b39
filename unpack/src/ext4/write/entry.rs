//! What a name in a directory leads to. Pure.

/// What has become of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 0: there is nothing any more.
    pub(crate) inode: u32,
    /// The type byte.
    pub(crate) kind: u8,
}
