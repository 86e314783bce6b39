//! A tree as the file system has it: records of single names, and a walk over all of them.
//!
//! The walk is in path order, holds the names of the directories on its way and one fd, and
//! follows nothing. What is compared with it is in `verify`.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, major, minor};
use nix::unistd::read;

use crate::dirs::{join, open_dir};
use crate::entry::Xattrs;
use crate::error::{Error, Fault};
use crate::pax::Time;
use crate::record::{Record, What};
use crate::remove::stream;
use crate::root::{Root, is_dir, stat};
use crate::sha::Sha256;
use crate::sys::{self, On};

/// sha256 over every node below `root` (and `root` itself), read from the file system: the lines
/// of a manifest in path order. Of the names of one inode the first in path order has its record,
/// the others are hard links to it. Attributes that no layer can set are left out.
///
/// # Errors
/// [`Error::Fs`].
pub fn tree_digest(root: &Root) -> Result<[u8; 32], Error> {
    whole(root, |_, _| None, |_| {})
}

/// Size and sha256 of a regular file's content.
pub(crate) type Hashed = (u64, [u8; 32]);

/// Hands every line of the tree's manifest to `each`, and gives the digest over them. What `known`
/// tells of a regular file's content is taken for it, and the file is not read.
pub(crate) fn whole(
    root: &Root,
    mut known: impl FnMut(&[u8], &FileStat) -> Option<Hashed>,
    mut each: impl FnMut(&[u8]),
) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let mut line = |record: &Record| {
        let line = record.line();
        hash.update(&line);
        each(&line);
    };
    let mut seen: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let at = root.reopen().map_err(Fault::nowhere)?;
    let top = stat(&at, b".").map_err(Fault::nowhere)?;
    if let Some(top) = top {
        line(&read_node(&at, b".", Vec::new(), &top).map_err(Fault::nowhere)?);
    }
    walk(root, |at, name, path, stat| {
        // Asked for every name, so that who goes along in order misses none.
        let content = known(path, stat);
        if stat.st_nlink > 1 && !is_dir(stat) {
            match seen.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => {
                    line(&hardlink(path, first));
                    return Ok(());
                }
                None => {
                    seen.insert((stat.st_dev, stat.st_ino), path.to_vec());
                }
            }
        }
        line(&read_known(at, name, path.to_vec(), stat, content)?);
        Ok(())
    })
    .map_err(Fault::nowhere)?;
    Ok(hash.finish())
}

pub(crate) fn hardlink(path: &[u8], target: &[u8]) -> Record {
    Record {
        path: path.to_vec(),
        what: What::Hardlink { target: target.to_vec() },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

/// Calls `visit(directory, name, path, stat)` for every name below `root`, parents first, each
/// directory's names in byte order.
pub(crate) fn walk(
    root: &Root,
    mut visit: impl FnMut(&OwnedFd, &[u8], &[u8], &FileStat) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let top = root.reopen()?;
    // One level: the directory's path and its names still to come, last first.
    let mut levels = vec![(Vec::new(), names(&top, b".")?)];
    let mut open: Option<(Vec<u8>, OwnedFd)> = None;
    while let Some((dir, todo)) = levels.last_mut() {
        let Some(name) = todo.pop() else {
            levels.pop();
            continue;
        };
        let dir = dir.clone();
        let fd = match open.take() {
            Some((path, fd)) if path == dir => fd,
            _ if dir.is_empty() => root.reopen()?,
            _ => open_dir(&top, &dir).map_err(Fault::fs("open directory", &dir))?,
        };
        let path = join(&dir, &name);
        if let Some(stat) = stat(&fd, &name)? {
            visit(&fd, &name, &path, &stat)?;
            if is_dir(&stat) {
                let below = names(&fd, &name)?;
                levels.push((path, below));
            }
        }
        open = Some((dir, fd));
    }
    Ok(())
}

/// The names in a directory, in reverse byte order.
fn names(at: &OwnedFd, name: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut names = Vec::new();
    for entry in stream(at, name)?.iter() {
        let entry = entry.map_err(Fault::fs("read directory", name))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// The record of one name. Regular files are read whole.
pub(crate) fn read_node(
    at: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    stat: &FileStat,
) -> Result<Record, Fault> {
    read_known(at, name, path, stat, None)
}

/// As [`read_node`]; a regular file whose content is known is not read.
fn read_known(
    at: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    stat: &FileStat,
    known: Option<Hashed>,
) -> Result<Record, Fault> {
    let device = (
        u32::try_from(major(stat.st_rdev)).unwrap_or(u32::MAX),
        u32::try_from(minor(stat.st_rdev)).unwrap_or(u32::MAX),
    );
    let (what, xattrs) = match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
        SFlag::S_IFREG => {
            let fd = open_file(at, name, &path)?;
            let (size, sha256) = match known {
                Some(hashed) => hashed,
                None => contents(&fd, &path)?,
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
        SFlag::S_IFCHR => (
            What::Char { major: device.0, minor: device.1 },
            xattrs(On::Name(at.as_fd(), name), &path)?,
        ),
        SFlag::S_IFBLK => (
            What::Block { major: device.0, minor: device.1 },
            xattrs(On::Name(at.as_fd(), name), &path)?,
        ),
        SFlag::S_IFIFO => (What::Fifo, xattrs(On::Name(at.as_fd(), name), &path)?),
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

fn contents(fd: &OwnedFd, path: &[u8]) -> Result<(u64, [u8; 32]), Fault> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buffer = vec![0; 128 << 10];
    loop {
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
        if crate::entry::ours(&key)
            && let Some(value) =
                sys::get_xattr(on, &key).map_err(Fault::fs("read extended attribute of", path))?
        {
            found.push((key, value));
        }
    }
    found.sort();
    Ok(found)
}
