//! The nodes below `/dev` of a device that was just made, with and without udev.
//!
//! devtmpfs makes `/dev/dm-N` before the resume returns; where `/dev` is not a devtmpfs it is made
//! here. `/dev/mapper/<name>` is always ours: udev is told to leave it (`dm.rs`).

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::error::Error;
use crate::format::units::Dev;

/// `/dev/dm-N`.
pub(crate) fn path(dev: Dev) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", dev.minor))
}

/// `/dev/mapper/<name>`.
pub(crate) fn mapper_path(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// The device number behind a path, if it is a block device (links are followed).
pub(crate) fn block_dev(path: &Path) -> io::Result<Option<Dev>> {
    let meta = fs::metadata(path)?;
    Ok(meta.file_type().is_block_device().then(|| Dev::from_stat(meta.rdev())))
}

/// Makes both nodes lead to `dev`.
pub(crate) fn ensure(dev: Dev, name: &str) -> Result<(), Error> {
    let node = path(dev);
    match block_dev(&node) {
        Ok(Some(found)) if found == dev => {}
        Ok(_) => {
            // Left over from a device of the same minor: devtmpfs never leaves one.
            fs::remove_file(&node).map_err(|err| Error::io("replace stale node", &node, err))?;
            make(&node, dev)?;
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => make(&node, dev)?,
        Err(err) => return Err(Error::io("look at", &node, err)),
    }
    let link = mapper_path(name);
    let target = PathBuf::from(format!("../dm-{}", dev.minor));
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    // Made aside and renamed, so that the name never leads elsewhere nor is missing.
    let aside = mapper_path(&format!(".{}-{}", dev.minor, std::process::id()));
    match fs::remove_file(&aside) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(Error::io("remove", &aside, err)),
    }
    symlink(&target, &aside).map_err(|err| Error::io("link", &aside, err))?;
    fs::rename(&aside, &link).map_err(|err| Error::io("link", &link, err))
}

fn make(node: &Path, dev: Dev) -> Result<(), Error> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match mknod(node, SFlag::S_IFBLK, mode, dev.to_stat()) {
        Ok(()) => Ok(()),
        // devtmpfs was quicker after all.
        Err(nix::errno::Errno::EEXIST) if block_dev(node).is_ok_and(|d| d == Some(dev)) => Ok(()),
        Err(errno) => Err(Error::errno("make node", node, errno)),
    }
}

/// Takes both nodes away, if they still lead to `dev`.
pub(crate) fn forget(dev: Dev, name: &str) -> Result<(), Error> {
    let link = mapper_path(name);
    let target = PathBuf::from(format!("../dm-{}", dev.minor));
    let ours = match fs::symlink_metadata(&link) {
        Ok(meta) if meta.file_type().is_symlink() => {
            fs::read_link(&link).is_ok_and(|found| found == target)
        }
        Ok(meta) => meta.file_type().is_block_device() && Dev::from_stat(meta.rdev()) == dev,
        Err(_) => false,
    };
    if ours {
        remove(&link)?;
    }
    let node = path(dev);
    // On a devtmpfs it is gone already.
    if block_dev(&node).is_ok_and(|found| found == Some(dev)) && !exists_in_kernel(dev) {
        remove(&node)?;
    }
    Ok(())
}

/// Another device may have got the minor since.
fn exists_in_kernel(dev: Dev) -> bool {
    Path::new(&format!("/sys/dev/block/{dev}")).exists()
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(Error::io("remove", path, err)),
    }
}
