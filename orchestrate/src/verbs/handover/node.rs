//! The second node of a device: its place, made so that nobody else's things are touched, and given to its owner.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, makedev, minor, mknodat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::Error;
use crate::handover::unfit::Unfit;
use crate::verbs::handover::shown;

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Major and minor number.
pub(super) type Number = (u32, u32);

pub(super) fn text_of((major, minor): Number) -> String {
    format!("{major}:{minor}")
}

/// The device that a node leads to; none where it is no node of a block device.
pub(super) fn leads_to(is: &FileStat) -> Option<Number> {
    let block = is.st_mode & libc::S_IFMT == libc::S_IFBLK;
    let number = |part: u64| u32::try_from(part).ok();
    number(major(is.st_rdev)).zip(number(minor(is.st_rdev))).filter(|_| block)
}

/// The place of a node: its directory, which is open, and its name in it.
pub(super) struct Place {
    dir: File,
    pub(super) at: PathBuf,
    name: PathBuf,
}

pub(super) fn bad(path: &Path, why: impl Into<String>) -> Error {
    Unfit::Node { path: shown(path), why: why.into() }.into()
}

impl Place {
    /// As it is remembered, or as it was asked for.
    pub(super) fn open(path: &Path) -> Result<Place, Error> {
        let named = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
        let (Some(parent), Some(name)) = (path.parent(), named) else {
            return Err(bad(path, "it has to be the path of a node, DIR/NAME"));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let found = parent.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => bad(path, "its directory does not exist; make it first"),
            _ => io_error("find", parent)(error),
        })?;
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(&found);
        let dir = dir.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTDIR) => bad(path, "what should be its directory is none"),
            _ => io_error("open", &found)(error),
        })?;
        Ok(Place { dir, at: found.join(name), name: name.into() })
    }

    /// Whether nobody but its owner and root can put something else into the node's place.
    pub(super) fn is_safe(&self) -> Result<(), Error> {
        let is = self.dir.metadata().map_err(io_error("look at", &self.at))?;
        match is.mode() & 0o022 {
            0 => Ok(()),
            _ => {
                let why = format!(
                    "others than its owner can write to its directory (mode {:04o}), and could put something else \
                     there; `chmod go-w` that first",
                    is.mode() & 0o7777
                );
                Err(bad(&self.at, why))
            }
        }
    }

    /// Whether a node there can be opened at all (mount(8), nodev): a tmpfs of a host's often forbids it.
    pub(super) fn takes_devices(&self) -> Result<(), Error> {
        let is =
            fstatvfs(&self.dir).map_err(|errno| io_error("measure", &self.at)(errno.into()))?;
        match is.flags().contains(FsFlags::ST_NODEV) {
            false => Ok(()),
            true => Err(bad(
                &self.at,
                "its file system is mounted nodev, where no device can be opened; name a place elsewhere, or mount a \
                 tmpfs there",
            )),
        }
    }

    /// What is there.
    pub(super) fn found(&self) -> Result<Option<FileStat>, Error> {
        match fstatat(&self.dir, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(is) => Ok(Some(is)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(io_error("look at", &self.at)(errno.into())),
        }
    }

    /// Makes a node of the device, which nobody can open yet; a node of `before`, which is ours, gives way.
    pub(super) fn make(&self, number: Number, before: Option<&str>) -> Result<(), Error> {
        match self.found()? {
            Some(is) if leads_to(&is) == Some(number) => return Ok(()),
            Some(is) if before.is_some() && leads_to(&is).map(text_of).as_deref() == before => {
                self.remove()?;
            }
            Some(_) => return Err(bad(&self.at, ELSE)),
            None => {}
        }
        let device = makedev(number.0.into(), number.1.into());
        match mknodat(&self.dir, &self.name, SFlag::S_IFBLK, Mode::empty(), device) {
            Ok(()) => Ok(()),
            Err(errno) => Err(io_error("make the node", &self.at)(errno.into())),
        }
    }

    /// To whom the node belongs, and who may open it: told last. What is opened is the node and not the device.
    pub(super) fn give(&self, number: Number, owner: Number, mode: u32) -> Result<(), Error> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let node = openat(&self.dir, &self.name, flags, Mode::empty());
        let node = node.map_err(|errno| io_error("open", &self.at)(errno.into()))?;
        let is =
            nix::sys::stat::fstat(&node).map_err(|e| io_error("look at", &self.at)(e.into()))?;
        if leads_to(&is) != Some(number) {
            return Err(bad(&self.at, "it is not a node of this activation any more"));
        }
        give(&node, &self.at, &is, Some(owner), Some(mode)).map(drop)
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        match unlinkat(&self.dir, &self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(io_error("remove the node", &self.at)(errno.into())),
        }
    }
}

/// Whether a node may be made at this path, as far as that can be told before there is a device.
///
/// # Errors
/// [`Error::Unfit`] where its directory is none, or others can change what is in it, or where something is that is
/// no node of a device.
pub fn check_node(path: &Path) -> Result<(), Error> {
    let place = Place::open(path)?;
    place.is_safe()?;
    place.takes_devices()?;
    match place.found()? {
        Some(is) if leads_to(&is).is_none() => Err(bad(&place.at, ELSE)),
        Some(_) | None => Ok(()),
    }
}

/// What is in the place of a node and was not put there by us.
pub(super) const ELSE: &str =
    "something else than a node of this activation is there; remove it, or name another place";

/// Changes owner and mode of what is open, which may be by its path alone; whether there was anything to change.
pub(super) fn give(
    open: &impl AsFd,
    path: &Path,
    is: &FileStat,
    owner: Option<Number>,
    mode: Option<u32>,
) -> Result<bool, Error> {
    let itself = PathBuf::from(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd()));
    let other_owner = owner.filter(|owner| *owner != (is.st_uid, is.st_gid));
    let other_mode = mode.filter(|mode| *mode != is.st_mode & 0o7777);
    if let Some((uid, gid)) = other_owner {
        std::os::unix::fs::chown(&itself, Some(uid), Some(gid))
            .map_err(io_error("give away", path))?;
    }
    if let Some(mode) = other_mode {
        fs::set_permissions(&itself, Permissions::from_mode(mode))
            .map_err(io_error("change the mode of", path))?;
    }
    Ok(other_owner.is_some() || other_mode.is_some())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    fn is<T>(done: Result<T, Error>, why: &str) -> bool {
        matches!(done, Err(Error::Unfit(unfit)) if unfit.to_string().contains(why))
    }

    #[test]
    fn a_node_has_a_directory_that_others_cannot_change() {
        let top = tempfile::tempdir().unwrap();
        let (dir, file) = (top.path().join("jail"), top.path().join("file"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "").unwrap();
        let mode = |mode| fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        let place = Place::open(&dir.join("rootfs")).unwrap();
        assert_eq!(place.at, dir.canonicalize().unwrap().join("rootfs"));
        assert!(place.is_safe().is_ok() && place.found().unwrap().is_none());
        for open in [0o775, 0o757, 0o1777] {
            mode(open);
            assert!(is(place.is_safe(), "others than its owner can write"), "{open:o}");
        }
        assert!(is(Place::open(&top.path().join("none/rootfs")), "does not exist"));
        assert!(
            is(Place::open(&file.join("rootfs")), "") || Place::open(&file.join("rootfs")).is_err()
        );
        for odd in ["/", "..", "jail/"] {
            assert!(is(Place::open(Path::new(odd)), "DIR/NAME"), "{odd}");
        }
    }

    #[test]
    fn what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootfs");
        let place = Place::open(&path).unwrap();
        for odd in ["file", "link"] {
            match odd {
                "file" => fs::write(&path, "").unwrap(),
                _ => std::os::unix::fs::symlink("/dev/null", &path).unwrap(),
            }
            assert!(is(place.make((7, 1), Some("7:1")), "something else"), "{odd}");
            assert!(is(place.give((7, 1), (0, 0), 0o600), "") || odd == "link");
            fs::remove_file(&path).unwrap();
        }
        // A real node needs root's rights, and a host that lets it be made.
        if place.make((7, 1), None).is_err() {
            return;
        }
        let node = || fs::symlink_metadata(&path).unwrap();
        assert!(node().file_type().is_block_device());
        assert_eq!(node().mode() & 0o7777, 0, "nobody can open it before it is given away");
        place.give((7, 1), (12, 34), 0o660).unwrap();
        assert_eq!((node().uid(), node().gid(), node().mode() & 0o7777), (12, 34, 0o660));
        assert!(is(place.give((7, 2), (0, 0), 0o600), "any more"));
        assert!(is(place.make((7, 2), None), "something else"));
        assert!(is(place.make((7, 2), Some("7:3")), "something else"));
        place.make((7, 2), Some("7:1")).unwrap();
        assert_eq!(minor(node().rdev()), 2);
        place.remove().unwrap();
        place.remove().unwrap();
    }
}
