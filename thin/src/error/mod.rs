//! What can go wrong with a pool, each variant with its data and its wording.
//! `kinds.rs` sorts them for a caller that decides whether to try again.

mod kinds;

use std::path::{Path, PathBuf};
use std::{fmt, io};

use nix::errno::Errno;

use crate::format::garbled::Garbled;
use crate::format::holder::Holder;
use crate::format::quote::{clean, clean_said};
use crate::format::room::{Room, Unreachable};
use crate::format::status::PoolStatus;
use crate::format::units::{Bytes, ThinId};
use crate::format::wire::Command;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/mapper/control` leads nowhere, or a target is missing.
    #[error(
        "kernel has no device-mapper thin provisioning: {what}: {}: \
         run `modprobe dm_mod dm_thin_pool`, or boot a kernel that has them",
        .errno.desc()
    )]
    NoDeviceMapper {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// Root is needed.
    #[error("not permitted: {what}: {}: run as root", .errno.desc())]
    Denied {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A device-mapper command failed in a way that has no meaning of its own here.
    #[error("{} \"{}\": {} ({errno:?})", .command.name(), clean(.device), .errno.desc())]
    Dm {
        /// The command.
        command: Command,
        /// Name or uuid of the device; empty when the command is about none.
        device: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A message to the pool was refused.
    #[error("message \"{message}\" to pool \"{}\": {} ({errno:?})", clean(.pool), .errno.desc())]
    Message {
        /// The pool.
        pool: String,
        /// The whole text sent.
        message: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// What the kernel wrote cannot be read, or a value is outside its unit's rule.
    #[error(transparent)]
    Garbled(#[from] Garbled),
    /// No device-mapper device of this name.
    #[error(
        "no pool \"{}\": bring it up with `thin pool up`, or name another with --pool",
        clean(.pool)
    )]
    PoolMissing {
        /// The name.
        pool: String,
    },
    /// A device of this name is not a thin pool.
    #[error("device \"{}\" is not a thin pool: {target}", clean(.name))]
    NotAPool {
        /// The name.
        name: String,
        /// Its first target, or "no table".
        target: String,
    },
    /// The directory has no pool.
    #[error(
        "no pool here: \"{}\" does not exist; name its directory, or make one with \
         `thin pool init`",
        shown(.path)
    )]
    NoStore {
        /// The header that is not there.
        path: PathBuf,
    },
    /// The pool does not take changes now.
    #[error("pool \"{}\" takes no changes: {}", clean(.pool), .status.refusal())]
    NotWritable {
        /// The pool.
        pool: String,
        /// What it said.
        status: Box<PoolStatus>,
    },
    /// The pool has not got the room for what was to be done.
    #[error(
        "no space in pool \"{}\": needs {} of data, free {}; needs {} metadata blocks, \
         free {}: `orchestrate gc` may free some, else delete volumes or `thin pool grow`",
        clean(.pool),
        Bytes(.room.needs_data.saturating_mul(.room.block_bytes)),
        Bytes(.room.free_data.saturating_mul(.room.block_bytes)),
        .room.needs_metadata,
        .room.free_metadata
    )]
    NoRoom {
        /// The pool.
        pool: String,
        /// Both sides.
        room: Room,
    },
    /// The pool has no such thin.
    #[error("pool \"{}\" has no thin {id}: see `thin ls`", clean(.pool))]
    ThinAbsent {
        /// The pool.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// The pool has such a thin already.
    #[error("pool \"{}\" already has thin {id}: choose an id that `thin ls` does not list", clean(.pool))]
    ThinExists {
        /// The pool.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// The thin is active: it can be neither activated again nor deleted.
    #[error("thin {id} is already active as \"{name}\": `thin deactivate {name}` first", name = clean(.name))]
    AlreadyActive {
        /// The id.
        id: ThinId,
        /// The device that has it.
        name: String,
    },
    /// A device-mapper device of another uuid has the name.
    #[error("a device-mapper device \"{}\" already exists: choose another name", clean(.name))]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No active volume of this name.
    #[error("no active volume \"{}\": see `thin ls`", clean(.name))]
    VolumeAbsent {
        /// The name.
        name: String,
    },
    /// The device is not one of this pool's.
    #[error(
        "device \"{}\" is not a volume of this pool: its uuid is \"{}\"",
        clean(.name),
        clean(.uuid.as_deref().unwrap_or(""))
    )]
    NotOurs {
        /// The name.
        name: String,
        /// Its uuid, if any.
        uuid: Option<String>,
    },
    /// The device stayed open for the whole bounded wait.
    #[error(fmt = held)]
    Held {
        /// The name.
        name: String,
        /// Milliseconds waited.
        waited_ms: u64,
        /// Who has it, as far as can be seen.
        holders: Vec<Holder>,
    },
    /// The pool's transaction id was not the one expected.
    #[error(
        "pool \"{}\" is at transaction {found}, not {expected}: another writer, or an \
         older copy of one of the two",
        clean(.pool)
    )]
    TransactionId {
        /// The pool.
        pool: String,
        /// What the caller believed.
        expected: u64,
        /// What the pool has.
        found: u64,
    },
    /// A size that would cut off blocks.
    #[error("\"{}\" has {from} sectors: {to} would cut blocks off: sizes only grow", clean(.name))]
    Shrink {
        /// The volume or pool.
        name: String,
        /// Its size in sectors.
        from: u64,
        /// The size asked for.
        to: u64,
    },
    /// The pool was asked to grow and did not.
    #[error(
        "pool \"{}\" has {found} {which} blocks after growing to {wanted}: the kernel does \
         not grow a pool that needs a check: see `thin pool repair`",
        clean(.pool)
    )]
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
    #[error(
        "the new size is missing: the pool has {} of data and {} of metadata; `thin pool \
         grow {} --data {}M` would double its data; --metadata grows the metadata",
        Bytes(*.data),
        Bytes(*.metadata),
        shown(.dir),
        .data.saturating_mul(2) >> 20
    )]
    NoSize {
        /// Its directory.
        dir: PathBuf,
        /// Bytes of data it has.
        data: u64,
        /// Bytes of metadata it has.
        metadata: u64,
    },
    /// The pool counts blocks as free that it will never give out.
    #[error(
        "pool \"{}\" has grown, but {} data and {} metadata blocks of it will never be \
         given out: an older thin_repair counted too few blocks: take its volumes down, then \
         `thin pool down {dir}`, `thin pool repair {dir}`, `thin pool up {dir}`",
        clean(.pool),
        .unreachable.data,
        .unreachable.metadata,
        dir = shown(.dir)
    )]
    Unreachable {
        /// The pool.
        pool: String,
        /// Its directory.
        dir: PathBuf,
        /// How many.
        unreachable: Unreachable,
    },
    /// The volume's device refuses writes.
    #[error(
        "device \"{name}\" is read-only: to change the volume, `thin deactivate {name}` \
         and activate it again without --ro",
        name = clean(.name)
    )]
    ReadOnlyVolume {
        /// The name.
        name: String,
    },
    /// Somebody else resumed a device that was suspended for a snapshot, before that was made.
    #[error(
        "the device of thin {id} was resumed by another program before its snapshot was made; the snapshot \
         was deleted, since it may be torn: try again"
    )]
    RanEarly {
        /// The thin that the snapshot is of.
        id: ThinId,
    },
    /// The thin is active, so that no device of its own is made to look at it.
    #[error(fmt = seen)]
    Seen {
        /// The id.
        id: ThinId,
        /// The device that has it.
        name: String,
        /// Whether that device refuses writes.
        read_only: bool,
    },
    /// Something on the disk is not what it should be. Nothing was written to it.
    #[error("refused \"{}\": {why}: {hint}", shown(.path))]
    Refused {
        /// The file or device.
        path: PathBuf,
        /// What is wrong, with the values.
        why: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A file system could not be mounted.
    #[error(fmt = mount)]
    Mount {
        /// The device.
        device: PathBuf,
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
        /// What the kernel wrote to the mount's own log.
        log: String,
    },
    /// An outside program could not be started.
    #[error("cannot run {program}: {source}")]
    NoProgram {
        /// Its name.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// An outside program failed.
    #[error("{program} {}: {status}: {}", .device.display(), clean_said(.stderr))]
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
    #[error("{what} \"{}\": {source}", shown(.path))]
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
    /// A value that is outside its unit's rule.
    pub(crate) fn unit(what: &'static str, value: impl Into<String>, rule: &'static str) -> Error {
        Garbled::Unit { what, value: value.into(), rule }.into()
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::Io { what, path: path.into(), source }
    }

    pub(crate) fn errno(what: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Error {
        Error::io(what, path, io::Error::from(errno))
    }
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

fn held(name: &str, waited_ms: &u64, holders: &[Holder], f: &mut fmt::Formatter) -> fmt::Result {
    match waited_ms {
        0 => write!(f, "device \"{}\" is open", clean(name))?,
        _ => write!(f, "device \"{}\" is still open after {waited_ms} ms", clean(name))?,
    }
    match holders {
        [] => write!(f, ", and neither /proc nor /sys shows by whom: try again"),
        some => {
            some.iter().try_for_each(|holder| write!(f, "; {holder}"))?;
            write!(f, ": end this use, then try again")
        }
    }
}

fn seen(id: &ThinId, name: &str, read_only: &bool, f: &mut fmt::Formatter) -> fmt::Result {
    let name = clean(name);
    match read_only {
        true => {
            write!(f, "thin {id} is active read-only as \"{name}\": look at /dev/mapper/{name}")
        }
        false => write!(
            f,
            "thin {id} is active as \"{name}\", where it can be written: look at it there, \
             where it is mounted, or by `thin run --name {name} --ro -- ls -l` where it is not"
        ),
    }
}

fn mount(
    device: &Path,
    call: &str,
    errno: &Errno,
    log: &str,
    f: &mut fmt::Formatter,
) -> fmt::Result {
    write!(f, "mount {}: {call}: {}", device.display(), errno.desc())?;
    match (log.is_empty(), errno) {
        // The kernel says so only in its own log.
        (true, Errno::EINVAL) => write!(f, ": is there such a file system on it?"),
        (true, _) => Ok(()),
        (false, _) => write!(f, ": {}", clean_said(log)),
    }
}
