//! What can go wrong with a pool, each variant with its data, and the wording of every one.
//! `kind.rs` sorts them for a caller that decides whether to try again.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::format::room::Room;
use crate::format::status::PoolStatus;
use crate::format::units::{Bytes, ThinId};
use crate::format::wire::Command;
use crate::kernel::holders::Holder;
use crate::pool::spacemap::Unreachable;

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

/// `text` without a byte that could move a terminal's cursor or end the quotes around it.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim_end().chars() {
        match c {
            '\n' => out.push_str("; "),
            '\'' => out.push(c),
            other => out.extend(other.escape_debug()),
        }
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDeviceMapper { what, errno } => write!(
                f,
                "kernel has no device-mapper thin provisioning: {what}: {}: \
                 run `modprobe dm_mod dm_thin_pool`, or boot a kernel that has them",
                errno.desc()
            ),
            Error::Denied { what, errno } => {
                write!(f, "not permitted: {what}: {}: run as root", errno.desc())
            }
            Error::Dm { command, device, errno } => {
                write!(f, "{} \"{}\": {} ({errno:?})", command.name(), clean(device), errno.desc())
            }
            Error::Message { pool, message, errno } => write!(
                f,
                "message \"{message}\" to pool \"{}\": {} ({errno:?})",
                clean(pool),
                errno.desc()
            ),
            Error::Garbled { what, text } => {
                write!(f, "cannot read the kernel's {what}: \"{}\"", clean(text))
            }
            Error::Unit { what, value, rule } => {
                write!(f, "{what} \"{}\": must be {rule}", clean(value))
            }
            Error::PoolMissing { pool } => write!(
                f,
                "no pool \"{}\": bring it up with `thin pool up`, or name another with --pool",
                clean(pool)
            ),
            Error::NoStore { path } => write!(
                f,
                "no pool here, for there is no \"{}\": name its directory, or make one with \
                 `thin pool init`",
                clean(&path.to_string_lossy())
            ),
            Error::NotAPool { name, target } => {
                write!(f, "device \"{}\" is not a thin pool: {target}", clean(name))
            }
            Error::NotWritable { pool, status } => {
                write!(f, "pool \"{}\" takes no changes: {}", clean(pool), status.refusal())
            }
            Error::NoRoom { pool, room } => {
                let size = |blocks: u64| Bytes(blocks.saturating_mul(room.block_bytes));
                write!(
                    f,
                    "no space in pool \"{}\": needs {} of data, free {}; needs {} metadata blocks, \
                     free {}: `orchestrate gc` may free some, else delete volumes or `thin pool grow`",
                    clean(pool),
                    size(room.needs_data),
                    size(room.free_data),
                    room.needs_metadata,
                    room.free_metadata
                )
            }
            Error::ThinAbsent { pool, id } => {
                write!(f, "pool \"{}\" has no thin {id}: see `thin ls`", clean(pool))
            }
            Error::ThinExists { pool, id } => {
                write!(
                    f,
                    "pool \"{}\" already has thin {id}: take an id that `thin ls` lacks",
                    clean(pool)
                )
            }
            Error::AlreadyActive { id, name } => {
                let name = clean(name);
                write!(
                    f,
                    "thin {id} is already active as \"{name}\": `thin deactivate {name}` first"
                )
            }
            Error::NameTaken { name } => {
                let name = clean(name);
                write!(f, "a device-mapper device \"{name}\" already exists: choose another name")
            }
            Error::VolumeAbsent { name } => {
                write!(f, "no active volume \"{}\": see `thin ls`", clean(name))
            }
            Error::NotOurs { name, uuid } => write!(
                f,
                "device \"{}\" is not a volume of this pool: its uuid is \"{}\"",
                clean(name),
                clean(uuid.as_deref().unwrap_or(""))
            ),
            Error::Held { name, waited_ms, holders } => {
                match waited_ms {
                    0 => write!(f, "device \"{}\" is open", clean(name))?,
                    _ => {
                        write!(f, "device \"{}\" is still open after {waited_ms} ms", clean(name))?
                    }
                }
                match holders.as_slice() {
                    [] => write!(f, ", by nobody that /proc or /sys shows: try again"),
                    some => {
                        some.iter().try_for_each(|holder| write!(f, "; {holder}"))?;
                        write!(f, ": end that, then try again")
                    }
                }
            }
            Error::TransactionId { pool, expected, found } => write!(
                f,
                "pool \"{}\" is at transaction {found}, not {expected}: another writer, or an \
                 older copy of one of the two",
                clean(pool)
            ),
            Error::Shrink { name, from, to } => write!(
                f,
                "\"{}\" has {from} sectors: {to} would cut blocks off: sizes only grow",
                clean(name)
            ),
            Error::NotGrown { pool, which, wanted, found } => write!(
                f,
                "pool \"{}\" has {found} {which} blocks after growing to {wanted}: the kernel does \
                 not grow a pool that needs a check: see `thin pool repair`",
                clean(pool)
            ),
            Error::NoSize { dir, data, metadata } => {
                let (dir, more) = (clean(&dir.to_string_lossy()), data.saturating_mul(2) >> 20);
                write!(
                    f,
                    "the new size is missing: the pool has {} of data and {} of metadata; to double \
                     its data, `thin pool grow {dir} --data {more}M`; the other is --metadata",
                    Bytes(*data),
                    Bytes(*metadata)
                )
            }
            Error::Unreachable { pool, dir, unreachable } => {
                let dir = clean(&dir.to_string_lossy());
                write!(
                    f,
                    "pool \"{}\" has grown, but {} data and {} metadata blocks of it will never be \
                     given out: an older thin_repair counted too few: take its volumes down, then \
                     `thin pool down {dir}`, `thin pool repair {dir}`, `thin pool up {dir}`",
                    clean(pool),
                    unreachable.data,
                    unreachable.metadata
                )
            }
            Error::ReadOnlyVolume { name } => {
                let name = clean(name);
                write!(
                    f,
                    "device \"{name}\" is read-only: to change the volume, `thin deactivate {name}` \
                     and activate it again without --ro"
                )
            }
            Error::Seen { id, name, read_only: false } => {
                let name = clean(name);
                write!(
                    f,
                    "thin {id} is active as \"{name}\", where it can be written: look at it there, \
                     where it is mounted, or by `thin run --name {name} --ro -- ls -l` where it is not"
                )
            }
            Error::Seen { id, name, read_only: true } => {
                let name = clean(name);
                write!(f, "thin {id} is active read-only as \"{name}\": look at /dev/mapper/{name}")
            }
            Error::Refused { path, why, hint } => {
                write!(f, "refused \"{}\": {why}: {hint}", clean(&path.to_string_lossy()))
            }
            Error::Mount { device, call, errno, log } => {
                write!(f, "mount {}: {call}: {}", device.display(), errno.desc())?;
                match (log.is_empty(), errno) {
                    // The kernel says so only in its own log.
                    (true, Errno::EINVAL) => write!(f, ": is there such a file system on it?"),
                    (true, _) => Ok(()),
                    (false, _) => write!(f, ": {}", clean(log)),
                }
            }
            Error::NoProgram { program, source } => {
                write!(f, "cannot run {program}: {source}")
            }
            Error::Program { program, device, status, stderr } => {
                write!(f, "{program} {}: {status}: {}", device.display(), clean(stderr))
            }
            Error::Io { what, path, source } => {
                write!(f, "{what} \"{}\": {source}", clean(&path.to_string_lossy()))
            }
        }
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
            | Error::Seen { .. }
            | Error::Refused { .. }
            | Error::Program { .. } => None,
        }
    }
}
