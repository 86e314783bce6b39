//! [`Root`]: the one directory fd through which a tree is reached, and the calls that act on one
//! name in an open directory.
//!
//! No host path is used after [`Root::open`]. How a path becomes an open directory is in `dirs`;
//! which calls an entry needs is in `apply`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::error::stop::Stop;
use crate::error::{Error, Fault};
use crate::tree::budget::Budget;
use crate::tree::fd::remove::remove_all_in;
use crate::tree::sink::Kind;

/// The directory that a layer is applied to.
#[derive(Debug)]
pub struct Root(OwnedFd);

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Root {
    /// Opens a directory by its path on this host. A symlink there is followed: it is the
    /// caller's own.
    ///
    /// # Errors
    /// [`Error::Fs`] if it cannot be opened, or is no directory.
    pub fn open(path: &Path) -> Result<Root, Error> {
        let name = path.as_os_str().as_encoded_bytes();
        open(path, DIR, Mode::empty())
            .map(Root)
            .map_err(|errno| Fault::fs("open root", name)(errno).nowhere())
    }

    /// Takes a directory fd, which may be O_PATH, as `fsmount(2)` gives it.
    ///
    /// # Errors
    /// [`Error::Fs`] if "." cannot be opened through it.
    pub fn from_fd(fd: OwnedFd) -> Result<Root, Error> {
        openat(&fd, ".", DIR, Mode::empty())
            .map(Root)
            .map_err(|errno| Fault::fs("open root", b".")(errno).nowhere())
    }

    pub(crate) fn reopen(&self) -> Result<OwnedFd, Fault> {
        openat(&self.0, ".", DIR, Mode::empty()).map_err(Fault::fs("open root", b"."))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Removes everything below `root`, not `root` itself; says how many names went.
///
/// # Errors
/// [`Error::Fs`].
pub fn remove_tree(root: &Root) -> Result<u64, Error> {
    remove_tree_until(root, &Stop::default())
}

/// [`remove_tree`], until somebody asks to stop: then some of it is left.
///
/// # Errors
/// [`Error::Fs`]; [`Error::Stream`] where it was stopped.
pub fn remove_tree_until(root: &Root, stop: &Stop) -> Result<u64, Error> {
    let mut budget = Budget::until(stop);
    stop.heard(remove_all_in(root, &mut budget).map_err(Fault::nowhere))?;
    Ok(budget.nodes())
}

/// Writes out the whole file system that `root` is on.
///
/// # Errors
/// [`Error::Fs`], also for a write that failed since `root` was opened (syncfs(2), 5.8).
pub fn sync(root: &Root) -> Result<(), Error> {
    nix::unistd::syncfs(&root.0).map_err(|errno| Fault::fs("syncfs", b".")(errno).nowhere())
}

/// What is at `name`, symlinks not followed; `None` if nothing.
pub(crate) fn stat(at: impl AsFd, name: &[u8]) -> Result<Option<FileStat>, Fault> {
    match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Fault::fs("stat", name)(errno)),
    }
}

pub(crate) fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

pub(crate) fn kind(stat: &FileStat) -> Kind {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// Sets the owner of a name that must not be opened.
pub(crate) fn own_name(at: impl AsFd, name: &[u8], uid: u32, gid: u32) -> Result<(), Fault> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fchownat(at, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(Fault::fs("chown", name))
}
