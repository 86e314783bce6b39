//! Times and extended attributes.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::statvfs::fstatvfs;

use crate::archive::entry::Xattrs;
use crate::archive::pax::Time;
use crate::error::Fault;
use crate::sys::{self, On};
use crate::tree::fd::handle::spec;
use crate::tree::sink::cannot_hold_xattr;

/// Sets the times of a name, of a link the link's.
pub(crate) fn set_time(dir: impl AsFd, name: &[u8], told: &[u8], time: Time) -> Result<(), Fault> {
    let time = spec(time);
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(Fault::fs("set time of", told))
}

pub(crate) fn set_xattrs(on: On<'_>, path: &[u8], xattrs: &Xattrs) -> Result<(), Fault> {
    for (key, value) in xattrs {
        match sys::set_xattr(on, key, value) {
            Ok(()) => {}
            // It is also said of an attribute that is too large for an inode where there is room enough.
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) if is_full(on, errno) => {
                return Err(Fault::fs("set extended attribute of", path)(errno));
            }
            Err(
                Errno::ENOSPC | Errno::E2BIG | Errno::ERANGE | Errno::EINVAL | Errno::EOPNOTSUPP,
            ) => return Err(cannot_hold_xattr(key)),
            Err(errno) => return Err(Fault::fs("set extended attribute of", path)(errno)),
        }
    }
    Ok(())
}

/// Whether a file system has no room for the block of an attribute. A few blocks may be free that only its
/// own structures get.
fn is_full(on: On<'_>, errno: Errno) -> bool {
    const FEW: u64 = 16;
    let (On::Fd(fd) | On::Name(fd, _) | On::Here(fd, _)) = on;
    errno == Errno::EDQUOT || fstatvfs(fd).is_ok_and(|stat| stat.blocks_available() < FEW)
}

/// Removes the attributes that a layer can set; says how many that was.
pub(crate) fn clear_xattrs(fd: impl AsFd, path: &[u8]) -> Result<usize, Fault> {
    let (on, mut cleared) = (On::Fd(fd.as_fd()), 0);
    for key in sys::list_xattr(on).map_err(Fault::fs("list extended attributes of", path))? {
        if crate::archive::entry::ours(&key) {
            match sys::remove_xattr(on, &key) {
                Ok(()) | Err(Errno::ENODATA) => cleared += 1,
                Err(errno) => {
                    return Err(Fault::fs("remove extended attribute of", path)(errno));
                }
            }
        }
    }
    Ok(cleared)
}
