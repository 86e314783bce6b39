//! How errors are said: the one `Display` of all of them.

use std::fmt;

use nix::errno::Errno;

use crate::error::Error;
use crate::format::garbled::Garbled;
use crate::format::quote::{clean, clean_said};
use crate::format::units::Bytes;

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
            Error::Garbled { what, text } => Garbled::Text { what, text: text.clone() }.fmt(f),
            Error::Unit { what, value, rule } => {
                Garbled::Unit { what, value: value.clone(), rule }.fmt(f)
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
            Error::RanEarly { id } => write!(
                f,
                "the device of thin {id} was resumed by another program before its snapshot was made; the snapshot \
                 was deleted, since it may be torn: try again"
            ),
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
                    (false, _) => write!(f, ": {}", clean_said(log)),
                }
            }
            Error::NoProgram { program, source } => {
                write!(f, "cannot run {program}: {source}")
            }
            Error::Program { program, device, status, stderr } => {
                write!(f, "{program} {}: {status}: {}", device.display(), clean_said(stderr))
            }
            Error::Io { what, path, source } => {
                write!(f, "{what} \"{}\": {source}", clean(&path.to_string_lossy()))
            }
        }
    }
}
