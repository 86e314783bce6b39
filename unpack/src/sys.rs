//! The system calls that `nix` 0.31 does not have: extended attributes and FICLONE.
//!
//! The only file of this crate with `unsafe`. Every function takes borrowed fds and slices,
//! hands the kernel pointers that live as long as the call, and gives back an errno. Knows
//! nothing of layers.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// An extended attribute's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On<'a> {
    /// An open file or directory (not O_PATH).
    Fd(BorrowedFd<'a>),
    /// A name in a directory, not followed; needs /proc. For what must not be opened.
    Name(BorrowedFd<'a>, &'a [u8]),
}

fn c(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// The path by which the l*xattr calls reach a name under a directory fd (xattr(7) has no *at
/// calls before 6.13).
fn by_proc(dir: BorrowedFd<'_>, name: &[u8]) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    c(&path)
}

fn length(got: isize) -> Result<usize, Errno> {
    usize::try_from(got).map_err(|_| Errno::last())
}

fn done(got: c_int) -> Result<(), Errno> {
    Errno::result(got).map(drop)
}

/// setxattr(2).
pub(crate) fn set_xattr(on: On<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let name = c(name)?;
    let (data, len) = (value.as_ptr().cast::<c_void>(), value.len());
    match on {
        // SAFETY: `name` is NUL-terminated and `data` points to `len` readable bytes; both live
        // until the call returns.
        On::Fd(fd) => done(unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), data, len, 0) }),
        On::Name(dir, file) => {
            let path = by_proc(dir, file)?;
            // SAFETY: as above; `path` is NUL-terminated too.
            done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), data, len, 0) })
        }
    }
}

/// removexattr(2).
pub(crate) fn remove_xattr(on: On<'_>, name: &[u8]) -> Result<(), Errno> {
    let name = c(name)?;
    match on {
        // SAFETY: `name` is NUL-terminated and lives until the call returns.
        On::Fd(fd) => done(unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) }),
        On::Name(dir, file) => {
            let path = by_proc(dir, file)?;
            // SAFETY: both strings are NUL-terminated and live until the call returns.
            done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
        }
    }
}

/// getxattr(2), whole value; `None` if there is no such attribute.
pub(crate) fn get_xattr(on: On<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let name = c(name)?;
    // The kernel's own bound (XATTR_SIZE_MAX).
    let mut value = vec![0u8; 65536];
    let (data, len) = (value.as_mut_ptr().cast::<c_void>(), value.len());
    let got = match on {
        // SAFETY: `data` points to `len` writable bytes, `name` is NUL-terminated.
        On::Fd(fd) => unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), data, len) },
        On::Name(dir, file) => {
            let path = by_proc(dir, file)?;
            // SAFETY: as above.
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), data, len) }
        }
    };
    match length(got) {
        Ok(len) => {
            value.truncate(len);
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// listxattr(2): the names, in the kernel's order.
pub(crate) fn list_xattr(on: On<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut small = [0u8; 256];
    let mut large = Vec::new();
    let mut names: &mut [u8] = &mut small;
    let got = loop {
        let (data, len) = (names.as_mut_ptr().cast(), names.len());
        let got = match on {
            // SAFETY: `data` points to `len` writable bytes.
            On::Fd(fd) => unsafe { libc::flistxattr(fd.as_raw_fd(), data, len) },
            On::Name(dir, file) => {
                let path = by_proc(dir, file)?;
                // SAFETY: as above, and `path` is NUL-terminated.
                unsafe { libc::llistxattr(path.as_ptr(), data, len) }
            }
        };
        match length(got) {
            Ok(got) => break got,
            Err(Errno::ERANGE) if names.len() < 65536 => {
                large.resize(65536, 0);
                names = &mut large;
            }
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    };
    Ok(names[..got].split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
}

/// FICLONE (ioctl_ficlone(2)): makes `to` share all of `from`'s blocks.
pub(crate) fn clone_file(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: FICLONE takes an fd by value and touches no memory of ours.
    done(unsafe { libc::ioctl(to, libc::FICLONE, from) })
}
