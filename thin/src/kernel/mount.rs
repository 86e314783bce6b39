//! Detached mounts: a file system on a descriptor and nowhere else.
//!
//! No mount point exists, no other namespace sees it, and the kernel unmounts it when the last
//! descriptor closes, also after `kill -9` (fsmount(2)). What is in it is other crates' business.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::kernel::sys;

/// Bytes of the kernel's own words kept for a message, and how many of them are read.
const LOG_LINE: usize = 1024;
const LOG_LINES: usize = 16;

/// Mounts the file system on `device` detached: nodev, noatime, nosuid unless `options` has `suid`, and noexec
/// when it has that. The other options go to the file system, a value of `None` being a flag.
///
/// The descriptor is `O_PATH`: see [`open_root`] for one that reads and syncs.
///
/// # Errors
/// [`Error::Mount`] with the step, the errno and what the kernel logged for this mount.
pub fn detached(
    device: &Path,
    fstype: &str,
    options: &[(&str, Option<&str>)],
    read_only: bool,
) -> Result<OwnedFd, Error> {
    let fail = |call: &'static str, errno: Errno, log: String| Error::Mount {
        device: device.to_owned(),
        call,
        errno,
        log,
    };
    let text = |value: &[u8]| {
        CString::new(value).map_err(|_| fail("fsconfig", Errno::EINVAL, String::new()))
    };
    let context = sys::fsopen(&text(fstype.as_bytes())?, sys::mount::FSOPEN_CLOEXEC)
        .map_err(|errno| fail("fsopen", errno, String::new()))?;
    let set = |key: &str, value: Option<&[u8]>| -> Result<(), Error> {
        let key = text(key.as_bytes())?;
        let value = value.map(text).transpose()?;
        let command = if value.is_some() { sys::mount::SET_STRING } else { sys::mount::SET_FLAG };
        sys::fsconfig(context.as_fd(), command, Some(&key), value.as_deref())
            .map_err(|errno| fail("fsconfig", errno, log_of(&context)))
    };
    set("source", Some(device.as_os_str().as_encoded_bytes()))?;
    let mut attributes =
        sys::mount::ATTR_NODEV | sys::mount::ATTR_NOSUID | sys::mount::ATTR_NOATIME;
    if read_only {
        set("ro", None)?;
        attributes |= sys::mount::ATTR_RDONLY;
    }
    for (key, value) in options {
        match *key {
            "noexec" => attributes |= sys::mount::ATTR_NOEXEC,
            "suid" => attributes &= !sys::mount::ATTR_NOSUID,
            key => set(key, value.map(str::as_bytes))?,
        }
    }
    sys::fsconfig(context.as_fd(), sys::mount::CMD_CREATE, None, None)
        .map_err(|errno| fail("fsconfig(create)", errno, log_of(&context)))?;
    sys::fsmount(context.as_fd(), sys::mount::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| fail("fsmount", errno, log_of(&context)))
}

/// What the kernel wrote about this mount: one message per read, the first byte its level.
fn log_of(context: &OwnedFd) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut line = [0; LOG_LINE];
    for _ in 0..LOG_LINES {
        match nix::unistd::read(context.as_fd(), &mut line) {
            Ok(0) | Err(_) => break,
            Ok(n) => out.push(String::from_utf8_lossy(&line[..n]).trim_end().to_owned()),
        }
    }
    out.join("; ")
}

/// Attaches a detached mount at the directory `target`, in this process's mount namespace.
///
/// # Errors
/// [`Error::Mount`]: EPERM without the right to mount here.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
    let fail = |errno| Error::Mount {
        device: target.to_owned(),
        call: "move_mount",
        errno,
        log: String::new(),
    };
    let path = CString::new(target.as_os_str().as_encoded_bytes());
    sys::move_mount(mount, &path.map_err(|_| fail(Errno::EINVAL))?).map_err(fail)
}

/// The mount's root directory, readable: for `fchdir`, `syncfs` and listing.
///
/// # Errors
/// [`Error::Io`].
pub fn open_root(mount: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(mount, ".", flags, Mode::empty())
        .map_err(|errno| Error::errno("open the root of", "mount", errno))
}

/// Writes all of the file system out. An error here means that writes were lost.
///
/// # Errors
/// [`Error::Io`], such as ENOSPC from a full pool.
pub fn sync(mount: BorrowedFd<'_>) -> Result<(), Error> {
    let root = open_root(mount)?;
    nix::unistd::syncfs(root).map_err(|errno| Error::errno("sync", "mount", errno))
}

/// Grows a mounted ext4 to `bytes`, less what does not fill a block of it.
///
/// # Errors
/// [`Error::Io`]: ENOSPC or EINVAL when the device is smaller than that.
pub fn grow_ext4(mount: BorrowedFd<'_>, bytes: u64) -> Result<(), Error> {
    let root = open_root(mount)?;
    let grow = || -> nix::Result<()> {
        let block = nix::sys::statvfs::fstatvfs(&root)?.block_size();
        sys::ext4_resize(root.as_fd(), bytes / block.max(1))
    };
    grow().map_err(|errno| Error::errno("grow the ext4 of", "mount", errno))
}
