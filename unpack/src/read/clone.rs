//! A second tree like the first: what a store without snapshots does instead of one.
//!
//! File data is shared by FICLONE where the file system can, else copied.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, copy_file_range, openat, readlinkat};
use nix::sys::stat::{FileStat, SFlag, UtimensatFlags, futimens, mkdirat, mknodat, utimensat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, linkat, lseek, symlinkat};

use crate::archive::pax::Time;
use crate::error::stop::Stop;
use crate::error::{Error, Fault};
use crate::read::walk::walk;
use crate::sys::{self, On};
use crate::tree::budget::Budget;
use crate::tree::fd::handle::spec;
use crate::tree::fd::look::{open_file, xattrs};
use crate::tree::fd::node::set_node_mode;
use crate::tree::fd::open::{mode, open_found, own, set_mode};
use crate::tree::fd::root::{Root, own_name};
use crate::tree::site::split;

/// Bytes that the kernel copies at a time: who asks to stop is heard in between.
const PIECE: usize = 16 << 20;

/// What [`clone_tree`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cloned {
    /// Names made, hard links included.
    pub names: u64,
    /// Bytes of regular files, each inode once.
    pub content_bytes: u64,
    /// How many of those bytes are shared with the first tree.
    pub shared_bytes: u64,
}

/// Copies the whole tree of `from` into the empty `to`: hard links among its names, attributes,
/// devices, owners, modes and times kept.
///
/// # Errors
/// [`Error::Fs`]; also if `to` is not empty (File exists). [`Error::Stream`] where it was stopped.
pub fn clone_tree(from: &Root, to: &Root, stop: &Stop) -> Result<Cloned, Error> {
    stop.heard(copy(from, to, &mut Budget::until(stop)).map_err(Fault::nowhere))
}

fn copy(from: &Root, to: &Root, budget: &mut Budget) -> Result<Cloned, Fault> {
    let mut cloned = Cloned::default();
    let mut linked: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    // Times come last, because children change them: path and status of every directory.
    let mut dirs: Vec<(Vec<u8>, FileStat)> = Vec::new();
    let (from_top, top) = (from.reopen()?, to.reopen()?);
    let mut open: Option<(Vec<u8>, OwnedFd)> = None;
    walk(from, |at, name, path, stat| {
        budget.step()?;
        let (parent, _) = split(path);
        let dir = match open.take() {
            Some((known, dir)) if known == parent => dir,
            _ if parent.is_empty() => to.reopen()?,
            _ => open_found(&top, parent)?,
        };
        cloned.names += 1;
        let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        let known = match kind {
            SFlag::S_IFDIR => None,
            _ if stat.st_nlink > 1 => linked.get(&(stat.st_dev, stat.st_ino)),
            _ => None,
        };
        if let Some(first) = known {
            let (first_dir, first_name) = split(first);
            let first_dir = match first_dir {
                b"" => to.reopen()?,
                path => open_found(&top, path)?,
            };
            linkat(&first_dir, first_name, &dir, name, AtFlags::empty())
                .map_err(Fault::fs("link", path))?;
        } else {
            match kind {
                SFlag::S_IFREG => file(at, &dir, name, path, stat, &mut cloned, budget)?,
                SFlag::S_IFDIR => {
                    mkdirat(&dir, name, mode(0o700)).map_err(Fault::fs("make directory", path))?;
                    dirs.push((path.to_vec(), *stat));
                }
                SFlag::S_IFLNK => {
                    let target = readlinkat(at, name).map_err(Fault::fs("read link", path))?;
                    symlinkat(target.as_os_str(), &dir, name)
                        .map_err(Fault::fs("make symlink", path))?;
                    own_name(&dir, name, stat.st_uid, stat.st_gid)?;
                    name_time(&dir, name, stat)?;
                }
                _ => special(at, &dir, name, path, kind, stat)?,
            }
            if stat.st_nlink > 1 && kind != SFlag::S_IFDIR {
                linked.insert((stat.st_dev, stat.st_ino), path.to_vec());
            }
        }
        open = Some((parent.to_vec(), dir));
        Ok(())
    })?;
    for (path, stat) in dirs.iter().rev() {
        let source = open_found(&from_top, path)?;
        let dir = open_found(&top, path)?;
        attributes(&source, &dir, path, stat)?;
    }
    let stat = nix::sys::stat::fstat(&from_top).map_err(Fault::fs("stat", b"."))?;
    attributes(&from_top, &top, b".", &stat)?;
    Ok(cloned)
}

fn time(stat: &FileStat) -> nix::sys::time::TimeSpec {
    let nsec = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    spec(Time { sec: stat.st_mtime, nsec })
}

/// Owner, mode, attributes and time, in the order that keeps each.
fn attributes(from: &OwnedFd, to: &OwnedFd, path: &[u8], stat: &FileStat) -> Result<(), Fault> {
    own(to, path, stat.st_uid, stat.st_gid)?;
    set_mode(to, path, stat.st_mode & 0o7777)?;
    for (key, value) in xattrs(On::Fd(from.as_fd()), path)? {
        sys::set_xattr(On::Fd(to.as_fd()), &key, &value)
            .map_err(Fault::fs("set extended attribute of", path))?;
    }
    let time = time(stat);
    futimens(to, &time, &time).map_err(Fault::fs("set time of", path))
}

fn file(
    at: &OwnedFd,
    dir: &OwnedFd,
    name: &[u8],
    path: &[u8],
    stat: &FileStat,
    cloned: &mut Cloned,
    budget: &mut Budget,
) -> Result<(), Fault> {
    let from = open_file(at, name, path)?;
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let to = openat(dir, name, flags, mode(0o600)).map_err(Fault::fs("create", path))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    cloned.content_bytes += size;
    if size > 0 {
        match sys::clone_file(&from, &to) {
            Ok(()) => cloned.shared_bytes += size,
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::EINVAL) => {
                copy_data(&from, &to, path, stat.st_size, budget)?;
            }
            Err(errno) => return Err(Fault::fs("clone", path)(errno)),
        }
    }
    attributes(&from, &to, path, stat)
}

/// Copies what is there of `size` bytes; holes stay holes.
fn copy_data(
    from: &OwnedFd,
    to: &OwnedFd,
    path: &[u8],
    size: i64,
    budget: &mut Budget,
) -> Result<(), Fault> {
    let mut at = 0;
    while at < size {
        let (start, end) = match lseek(from, at, Whence::SeekData) {
            Ok(start) => {
                let end = lseek(from, start, Whence::SeekHole);
                (start, end.map_err(Fault::fs("find a hole in", path))?)
            }
            // Nothing but a hole is left.
            Err(Errno::ENXIO) => break,
            // A file system that knows of none.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => (at, size),
            Err(errno) => return Err(Fault::fs("find data in", path)(errno)),
        };
        copy_part(from, to, path, (start, end.min(size)), budget)?;
        at = end;
    }
    ftruncate(to, size).map_err(Fault::fs("set the size of", path))
}

/// Copies the bytes from `at` to `end`, to the same place.
fn copy_part(
    from: &OwnedFd,
    to: &OwnedFd,
    path: &[u8],
    (mut at, end): (i64, i64),
    budget: &mut Budget,
) -> Result<(), Fault> {
    let left = |at: i64| usize::try_from(end - at).unwrap_or(0);
    let mut there = at;
    while at < end {
        budget.step()?;
        let most = left(at).min(PIECE);
        match copy_file_range(from, Some(&mut at), to, Some(&mut there), most) {
            // It has become shorter.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            // Another file system, on a kernel that cannot copy across.
            Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => break,
            Err(errno) => return Err(Fault::fs("copy", path)(errno)),
        }
    }
    let mut buffer = vec![0; 128 << 10];
    while at < end {
        budget.step()?;
        let most = left(at).min(buffer.len());
        let len = match pread(from, &mut buffer[..most], at) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Fault::fs("read", path)(errno)),
        };
        let mut done = 0;
        while done < len {
            match pwrite(to, &buffer[done..len], at) {
                Ok(more) => {
                    done += more;
                    at += i64::try_from(more).unwrap_or(i64::MAX);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Fault::fs("write", path)(errno)),
            }
        }
    }
    Ok(())
}

fn special(
    at: &OwnedFd,
    dir: &OwnedFd,
    name: &[u8],
    path: &[u8],
    kind: SFlag,
    stat: &FileStat,
) -> Result<(), Fault> {
    let bits = mode(stat.st_mode & 0o7777);
    mknodat(dir, name, kind, bits, stat.st_rdev).map_err(Fault::fs("make node", path))?;
    own_name(dir, name, stat.st_uid, stat.st_gid)?;
    set_node_mode(dir, name, (kind, stat.st_rdev), stat.st_mode & 0o7777)?;
    for (key, value) in xattrs(On::Name(at.as_fd(), name), path)? {
        sys::set_xattr(On::Name(dir.as_fd(), name), &key, &value)
            .map_err(Fault::fs("set extended attribute of", path))?;
    }
    name_time(dir, name, stat)
}

fn name_time(dir: &OwnedFd, name: &[u8], stat: &FileStat) -> Result<(), Fault> {
    let time = time(stat);
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(Fault::fs("set time of", name))
}
