//! The mode of a node that must not be opened: a device, or a FIFO.
//!
//! It is set through a handle to what was made, never through its name: between the making and the
//! setting the name may become another one's link. Owners, times and attributes have calls that do
//! not follow; for modes that is so only with a handle.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::sys;
use crate::tree::fd::open::mode;

/// Sets the mode of `name` in `at`, which has to be a node of this kind and device.
pub(crate) fn set_node_mode(
    at: impl AsFd,
    name: &[u8],
    (kind, device): (SFlag, u64),
    bits: u32,
) -> Result<(), Fault> {
    let at = at.as_fd();
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = openat(at, name, flags, Mode::empty()).map_err(Fault::fs("open", name))?;
    let made = fstat(&handle).map_err(Fault::fs("stat", name))?;
    if made.st_mode & libc::S_IFMT != kind.bits()
        || (kind != SFlag::S_IFIFO && made.st_rdev != device)
    {
        return Err(replaced(name));
    }
    match sys::chmod_handle(handle.as_fd(), bits) {
        // Not before 6.6; a filter around us may say so in its own way.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {}
        other => return other.map_err(Fault::fs("chmod", name)),
    }
    if kind == SFlag::S_IFIFO {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fifo = openat(at, name, flags, Mode::empty()).map_err(Fault::fs("open", name))?;
        let opened = fstat(&fifo).map_err(Fault::fs("stat", name))?;
        if id(&opened) != id(&made) {
            return Err(replaced(name));
        }
        return fchmod(&fifo, mode(bits)).map_err(Fault::fs("chmod", name));
    }
    by_proc(&handle, bits).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES => {
            let rule = "this kernel cannot set such a mode of a device node (6.6 can)";
            Refusal::new(Class::Fs, rule).bytes(name).into()
        }
        errno => Fault::fs("chmod", name)(errno),
    })
}

fn id(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn replaced(name: &[u8]) -> Fault {
    Fault::fs("find again", name)(Errno::ESTALE)
}

/// By the handle's own name in /proc, if that is the kernel's: behind a chroot it may be a layer's.
fn by_proc(handle: &OwnedFd, bits: u32) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc = open("/proc/self/fd", flags, Mode::empty())?;
    if fstatfs(&proc)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Errno::ENOENT);
    }
    let number = handle.as_raw_fd().to_string();
    fchmodat(&proc, number.as_str(), mode(bits), FchmodatFlags::FollowSymlink)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use nix::sys::stat::mknodat;

    use super::*;

    #[test]
    fn a_name_that_became_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("victim"), "").unwrap();
        let victim = || std::fs::metadata(dir.path().join("victim")).unwrap().mode();
        let before = victim();
        symlink("victim", dir.path().join("node")).unwrap();
        let at = std::fs::File::open(dir.path()).unwrap();
        for kind in [SFlag::S_IFIFO, SFlag::S_IFCHR] {
            set_node_mode(&at, b"node", (kind, 0), 0o6777).unwrap_err();
            assert_eq!(victim(), before);
        }
    }

    #[test]
    fn every_way_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let at = std::fs::File::open(dir.path()).unwrap();
        mknodat(&at, "p", SFlag::S_IFIFO, mode(0o600), 0).unwrap();
        let now = || std::fs::metadata(dir.path().join("p")).unwrap().permissions().mode() & 0o7777;
        set_node_mode(&at, b"p", (SFlag::S_IFIFO, 0), 0o4711).unwrap();
        assert_eq!(now(), 0o4711);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        by_proc(&openat(&at, "p", flags, Mode::empty()).unwrap(), 0o2640).unwrap();
        assert_eq!(now(), 0o2640);
    }
}
