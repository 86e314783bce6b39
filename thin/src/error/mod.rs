//! What can go wrong with a pool, each variant with its data, and the wording of every one.
//! `kinds.rs` sorts them for a caller that decides whether to try again.

mod kinds;
mod wording;

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::format::garbled::Garbled;
use crate::format::holder::Holder;
use crate::format::room::{Room, Unreachable};
use crate::format::status::PoolStatus;
use crate::format::units::ThinId;
use crate::format::wire::Command;

/// Every failure of this crate.
#[derive(Debug)]
pub enum Error {
    /// `/dev/mapper/control` leads nowhere, or a target is missing.
    NoDeviceMapper {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Root is needed.
    Denied {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A device-mapper command failed in a way that has no meaning of its own here.
    Dm {
        /// The command.
        command: Command,
        /// Name or uuid of the device; empty when the command is about none.
        device: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A message to the pool was refused.
    Message {
        /// The pool.
        pool: String,
        /// The whole text sent.
        message: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel wrote something this crate cannot read.
    Garbled {
        /// What was being read.
        what: &'static str,
        /// The text, as it came.
        text: String,
    },
    /// A value outside its unit's rule.
    Unit {
        /// Which value.
        what: &'static str,
        /// As given.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// No device-mapper device of this name.
    PoolMissing {
        /// The name.
        pool: String,
    },
    /// A device of this name is not a thin pool.
    NotAPool {
        /// The name.
        name: String,
        /// Its first target, or "no table".
        target: String,
    },
    /// The directory has no pool.
    NoStore {
        /// The header that is not there.
        path: PathBuf,
    },
    /// The pool does not take changes now.
    NotWritable {
        /// The pool.
        pool: String,
        /// What it said.
        status: Box<PoolStatus>,
    },
    /// The pool has not got the room for what was to be done.
    NoRoom {
        /// The pool.
        pool: String,
        /// Both sides.
        room: Room,
    },
    /// The pool has no such thin.
    ThinAbsent {
        /// The pool.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// The pool has such a thin already.
    ThinExists {
        /// The pool.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// The thin is active: it can be neither activated again nor deleted.
    AlreadyActive {
        /// The id.
        id: ThinId,
        /// The device that has it.
        name: String,
    },
    /// A device-mapper device of another uuid has the name.
    NameTaken {
        /// The name.
        name: String,
    },
    /// No active volume of this name.
    VolumeAbsent {
        /// The name.
        name: String,
    },
    /// The device is not one of this pool's.
    NotOurs {
        /// The name.
        name: String,
        /// Its uuid, if any.
        uuid: Option<String>,
    },
    /// The device stayed open for the whole bounded wait.
    Held {
        /// The name.
        name: String,
        /// Milliseconds waited.
        waited_ms: u64,
        /// Who has it, as far as can be seen.
        holders: Vec<Holder>,
    },
    /// The pool's transaction id was not the one expected.
    TransactionId {
        /// The pool.
        pool: String,
        /// What the caller believed.
        expected: u64,
        /// What the pool has.
        found: u64,
    },
    /// A size that would cut off blocks.
    Shrink {
        /// The volume or pool.
        name: String,
        /// Its size in sectors.
        from: u64,
        /// The size asked for.
        to: u64,
    },
    /// The pool was asked to grow and did not.
    NotGrown {
        /// The pool.
        pool: String,
        /// "data" or "metadata".
        which: &'static str,
        /// Blocks wanted.
        wanted: u64,
        /// Blocks it has.
        found: u64,
    },
    /// A pool was to grow, and not said how far.
    NoSize {
        /// Its directory.
        dir: PathBuf,
        /// Bytes of data it has.
        data: u64,
        /// Bytes of metadata it has.
        metadata: u64,
    },
    /// The pool counts blocks as free that it will never give out.
    Unreachable {
        /// The pool.
        pool: String,
        /// Its directory.
        dir: PathBuf,
        /// How many.
        unreachable: Unreachable,
    },
    /// The volume's device refuses writes.
    ReadOnlyVolume {
        /// The name.
        name: String,
    },
    /// Somebody else resumed a device that was suspended for a snapshot, before that was made.
    RanEarly {
        /// The thin that the snapshot is of.
        id: ThinId,
    },
    /// The thin is active, so that no device of its own is made to look at it.
    Seen {
        /// The id.
        id: ThinId,
        /// The device that has it.
        name: String,
        /// Whether that device refuses writes.
        read_only: bool,
    },
    /// Something on the disk is not what it should be. Nothing was written to it.
    Refused {
        /// The file or device.
        path: PathBuf,
        /// What is wrong, with the values.
        why: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A file system could not be mounted.
    Mount {
        /// The device.
        device: PathBuf,
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
        /// What the kernel wrote to the mount's own log.
        log: String,
    },
    /// An outside program could not be started.
    NoProgram {
        /// Its name.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// An outside program failed.
    Program {
        /// Its name.
        program: String,
        /// What it was working on.
        device: PathBuf,
        /// Its exit status, as the system words it.
        status: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// A system call on a file or device failed.
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::Io { what, path: path.into(), source }
    }

    pub(crate) fn errno(what: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Error {
        Error::io(what, path, io::Error::from(errno))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NoDeviceMapper { errno, .. }
            | Error::Denied { errno, .. }
            | Error::Dm { errno, .. }
            | Error::Message { errno, .. }
            | Error::Mount { errno, .. } => Some(errno),
            Error::NoProgram { source, .. } | Error::Io { source, .. } => Some(source),
            Error::Garbled { .. }
            | Error::Unit { .. }
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

impl From<Garbled> for Error {
    fn from(garbled: Garbled) -> Error {
        match garbled {
            Garbled::Text { what, text } => Error::Garbled { what, text },
            Garbled::Unit { what, value, rule } => Error::Unit { what, value, rule },
        }
    }
}
