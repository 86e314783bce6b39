//! One node as the file system has it: its record.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, major, minor};
use nix::unistd::read;

use crate::archive::entry::Xattrs;
use crate::archive::pax::Time;
use crate::error::Fault;
use crate::record::{Hashed, Record, What};
use crate::sha::Sha256;
use crate::sys::{self, On};
use crate::tree::budget::Budget;
use crate::tree::fd::open::open_dir;

/// The record of one name. Regular files are read whole.
pub(crate) fn read_node(
    at: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    stat: &FileStat,
) -> Result<Record, Fault> {
    read_known(at, name, path, stat, None, false, &mut Budget::unlimited())
}

/// As [`read_node`]; a regular file whose content is known is not read.
pub(crate) fn read_known(
    at: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    stat: &FileStat,
    known: Option<Hashed>,
    alone: bool,
    budget: &mut Budget,
) -> Result<Record, Fault> {
    // Behind a chroot there is no /proc, and what has its name may be a layer's.
    let here = match alone {
        true => On::Here(at.as_fd(), name),
        false => On::Name(at.as_fd(), name),
    };
    let device = (
        u32::try_from(major(stat.st_rdev)).unwrap_or(u32::MAX),
        u32::try_from(minor(stat.st_rdev)).unwrap_or(u32::MAX),
    );
    let (what, xattrs) = match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
        SFlag::S_IFREG => {
            let fd = open_file(at, name, &path)?;
            let (size, sha256) = match known {
                Some(hashed) => hashed,
                None => contents(&fd, &path, budget)?,
            };
            (What::File { size, sha256 }, xattrs(On::Fd(fd.as_fd()), &path)?)
        }
        SFlag::S_IFDIR => {
            let fd = open_dir(at, name).map_err(Fault::fs("open directory", &path))?;
            (What::Dir, xattrs(On::Fd(fd.as_fd()), &path)?)
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(at, name).map_err(Fault::fs("read link", &path))?;
            (What::Symlink { target: target.into_encoded_bytes() }, Vec::new())
        }
        SFlag::S_IFCHR => (What::Char { major: device.0, minor: device.1 }, xattrs(here, &path)?),
        SFlag::S_IFBLK => (What::Block { major: device.0, minor: device.1 }, xattrs(here, &path)?),
        SFlag::S_IFIFO => (What::Fifo, xattrs(here, &path)?),
        // A socket: no layer has one.
        _ => return Err(Fault::fs("read node", &path)(Errno::EOPNOTSUPP)),
    };
    Ok(Record {
        path,
        what,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { sec: stat.st_mtime, nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        xattrs,
    })
}

pub(crate) fn open_file(at: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Fault> {
    // NOATIME keeps a checked tree as it was; only an owner may ask for it.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    match openat(at, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(at, name, flags, Mode::empty()),
        other => other,
    }
    .map_err(Fault::fs("open", path))
}

pub(crate) fn contents(
    fd: &OwnedFd,
    path: &[u8],
    budget: &mut Budget,
) -> Result<(u64, [u8; 32]), Fault> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buffer = vec![0; 128 << 10];
    loop {
        budget.step()?;
        match read(fd, &mut buffer) {
            Ok(0) => return Ok((size, hash.finish())),
            Ok(len) => {
                hash.update(&buffer[..len]);
                size += len as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fault::fs("read", path)(errno)),
        }
    }
}

/// The attributes that a layer can set, in name order.
pub(crate) fn xattrs(on: On<'_>, path: &[u8]) -> Result<Xattrs, Fault> {
    let mut found = Vec::new();
    for key in sys::list_xattr(on).map_err(Fault::fs("list extended attributes of", path))? {
        if crate::archive::entry::ours(&key)
            && let Some(value) =
                sys::get_xattr(on, &key).map_err(Fault::fs("read extended attribute of", path))?
        {
            found.push((key, value));
        }
    }
    found.sort();
    Ok(found)
}
