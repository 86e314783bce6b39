//! Which kind each error is of. Exhaustive on purpose, so that a new variant does not compile until someone has
//! decided whether it is worth a retry.

use nix::errno::Errno;

use crate::error::Error;
use crate::format::garbled::Garbled;
use crate::format::kind::Kind;

impl Error {
    /// What a caller may do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::NoDeviceMapper { .. } => Kind::NoDeviceMapper,
            Error::Denied { .. } => Kind::Denied,
            Error::Dm { errno, .. } | Error::Message { errno, .. } | Error::Mount { errno, .. } => {
                kind_of(*errno)
            }
            Error::Io { source, .. } => {
                source.raw_os_error().map_or(Kind::Io, |code| match Errno::from_raw(code) {
                    Errno::ENOENT => Kind::Absent,
                    other => kind_of(other),
                })
            }
            Error::Garbled(Garbled::Text { .. }) => Kind::Io,
            Error::Garbled(Garbled::Unit { .. }) => Kind::Invalid,
            Error::NotAPool { .. } | Error::NotOurs { .. } => Kind::Invalid,
            Error::NoSize { .. } | Error::Shrink { .. } | Error::ReadOnlyVolume { .. } => {
                Kind::Invalid
            }
            Error::PoolMissing { .. } => Kind::PoolMissing,
            Error::NotWritable { status, .. } => status.refusal_kind(),
            Error::NoRoom { .. } => Kind::NoSpace,
            Error::ThinAbsent { .. } | Error::VolumeAbsent { .. } | Error::NoStore { .. } => {
                Kind::Absent
            }
            Error::ThinExists { .. } | Error::NameTaken { .. } => Kind::Exists,
            Error::AlreadyActive { .. }
            | Error::Held { .. }
            | Error::RanEarly { .. }
            | Error::Seen { .. } => Kind::Busy,
            Error::TransactionId { .. } | Error::Refused { .. } => Kind::Refused,
            Error::NotGrown { .. } | Error::Unreachable { .. } => Kind::NeedsCheck,
            Error::NoProgram { .. } | Error::Program { .. } => Kind::Program,
        }
    }

    /// The kernel's answer, where there was one.
    pub fn raw_errno(&self) -> Option<Errno> {
        match self {
            Error::NoDeviceMapper { errno, .. }
            | Error::Denied { errno, .. }
            | Error::Dm { errno, .. }
            | Error::Message { errno, .. }
            | Error::Mount { errno, .. } => Some(*errno),
            Error::Io { source, .. } | Error::NoProgram { source, .. } => {
                source.raw_os_error().map(Errno::from_raw)
            }
            Error::Garbled(_)
            | Error::PoolMissing { .. }
            | Error::NoStore { .. }
            | Error::NotAPool { .. }
            | Error::NotWritable { .. }
            | Error::NoRoom { .. }
            | Error::ThinAbsent { .. }
            | Error::ThinExists { .. }
            | Error::AlreadyActive { .. }
            | Error::NameTaken { .. }
            | Error::VolumeAbsent { .. }
            | Error::NotOurs { .. }
            | Error::Held { .. }
            | Error::TransactionId { .. }
            | Error::Shrink { .. }
            | Error::NotGrown { .. }
            | Error::NoSize { .. }
            | Error::Unreachable { .. }
            | Error::ReadOnlyVolume { .. }
            | Error::RanEarly { .. }
            | Error::Seen { .. }
            | Error::Refused { .. }
            | Error::Program { .. } => None,
        }
    }
}

fn kind_of(errno: Errno) -> Kind {
    match errno {
        Errno::EBUSY | Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ETXTBSY => Kind::Busy,
        Errno::EEXIST => Kind::Exists,
        Errno::ENXIO | Errno::ENODATA => Kind::Absent,
        Errno::ENOSPC | Errno::EDQUOT => Kind::NoSpace,
        Errno::EACCES | Errno::EPERM => Kind::Denied,
        Errno::EOPNOTSUPP => Kind::ReadOnly,
        Errno::EINVAL | Errno::ENAMETOOLONG | Errno::ERANGE => Kind::Invalid,
        Errno::EILSEQ | Errno::ENOTBLK => Kind::Refused,
        // Every other answer means that the device or the kernel could not do it.
        _ => Kind::Io,
    }
}
