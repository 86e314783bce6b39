//! What is below a directory, opened; directories given their attributes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use crate::error::Fault;
use crate::error::refusal::Refusal;
use crate::sys::{self, On};

/// Opens a directory below `at`, never through a symlink.
pub(crate) fn open_dir(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    // Without O_NOFOLLOW: with it a symlink at the end would be ENOTDIR like any other file, and
    // RESOLVE_NO_SYMLINKS says ELOOP.
    let how =
        OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV
                | ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
    patiently(at, path, how)
}

/// Bytes of a path in one call, without its end (path_resolution(7)).
const PATH_BYTES_MAX: u64 = libc::PATH_MAX as u64 - 1;

/// As [`open_dir`], of a tree that somebody else has made: it may be deeper than any path reaches.
pub(crate) fn open_found(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Fault> {
    let bytes = path.len() as u64;
    if bytes > PATH_BYTES_MAX {
        let rule = "path too long";
        return Err(Refusal::limit("--path-bytes-max", rule, bytes, PATH_BYTES_MAX).into());
    }
    open_dir(at, path).map_err(Fault::fs("open directory", path))
}

/// Opens, and again where a rename elsewhere was in the way of it (openat2(2)).
fn patiently(at: impl AsFd, path: &[u8], how: OpenHow) -> Result<OwnedFd, Errno> {
    let at = at.as_fd();
    let mut tries = 0;
    loop {
        match openat2(at, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens what is at `path` below `at`, links followed as somebody sees them for whom `at` is the root directory.
pub(crate) fn open_within(at: impl AsFd, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    patiently(at, path, how)
}

/// Opens a file or a directory for reading that lies beneath an open directory. Links are followed as long as they
/// lead nowhere outside of it; an absolute one does (`RESOLVE_BENEATH`, openat2(2)). A pipe is not waited for.
///
/// # Errors
/// `EXDEV` for a link or path that leads out; those of openat2(2).
pub fn open_beneath(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = path.as_os_str().as_encoded_bytes();
    Ok(patiently(at, if path.is_empty() { b"." } else { path }, how)?)
}

/// Sets the owner of an open file.
pub(crate) fn own(fd: impl AsFd, name: &[u8], uid: u32, gid: u32) -> Result<(), Fault> {
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(Fault::fs("chown", name))
}

pub(crate) fn set_mode(fd: impl AsFd, name: &[u8], bits: u32) -> Result<(), Fault> {
    fchmod(fd, mode(bits)).map_err(Fault::fs("chmod", name))
}

/// Gives an open directory an owner and a mode, and takes away what its parent's ACL gave it.
pub(crate) fn plain_dir(
    fd: impl AsFd,
    name: &[u8],
    (uid, gid): (u32, u32),
    bits: u32,
) -> Result<(), Fault> {
    let fd = fd.as_fd();
    drop_acl(fd, name, true)?;
    own(fd, name, uid, gid)?;
    set_mode(fd, name, bits)
}

/// Removes inherited ACLs.
pub(crate) fn drop_acl(fd: BorrowedFd<'_>, name: &[u8], dir: bool) -> Result<(), Fault> {
    let keys: &[&[u8]] = match dir {
        true => &[b"system.posix_acl_access", b"system.posix_acl_default"],
        false => &[b"system.posix_acl_access"],
    };
    for key in keys {
        match sys::remove_xattr(On::Fd(fd), key) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(Fault::fs("remove ACL of", name)(errno)),
        }
    }
    Ok(())
}

/// openat2(2) may say EAGAIN while something is renamed anywhere on the system.
pub(crate) const RETRIES: u32 = 1000;

pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}
