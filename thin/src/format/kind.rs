//! The kinds of errors: what a caller may do about one.

/// What a caller may do about an [`crate::error::Error`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Something else holds it now; later may do.
    Busy,
    /// The id or name is taken.
    Exists,
    /// The volume, id or file is not there.
    Absent,
    /// The pool's data or metadata, or the host's file system, is full.
    NoSpace,
    /// The pool's metadata must be checked before it takes a change.
    NeedsCheck,
    /// The pool is read-only for a reason other than space or `needs_check`.
    ReadOnly,
    /// The pool has failed: it can only be taken down.
    Failed,
    /// Not permitted to this user.
    Denied,
    /// The kernel has no device-mapper, or not the targets.
    NoDeviceMapper,
    /// The pool is not up.
    PoolMissing,
    /// What was asked makes no sense.
    Invalid,
    /// What is on the disk is not what it should be; nothing was written to it.
    Refused,
    /// An outside program (`mkfs.ext4`, `thin_check`) failed or is absent.
    Program,
    /// The device or the kernel reported an error.
    Io,
}
