//! `mount` and `umount`: an activation at a directory of the caller's.

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{major, minor};
use registry::Activation;
use serde::Serialize;

use crate::error::Error;
use crate::handover::mounts;
use crate::handover::unfit::Unfit;
use crate::host::Host;
use crate::process::sys;
use crate::verbs::handover::shown;

/// How the file system of an activation is mounted: readable and writable, nodev, noatime, not nosuid.
///
/// - Without nosuid, since it is a root file system: `sudo`, `ping` or `newuidmap` of an image do not work with it
///   (as containers/storage found with its `vfs` driver). Whether a program may gain by them is for the runtime to say
///   (`noNewPrivileges`). So that nobody else gains by them, it belongs below a directory that others cannot enter.
/// - nodev, as podman's storage has it by default: what runs there has a /dev of its own, and a device node that an
///   image or a guest made leads to no device of the host's.
/// - noatime, since each first read of a file would take a block of the pool from the share of others.
/// - An error of the file system makes it read-only, whatever its superblock asks for: whoever had the device may have
///   asked for a panic.
const OPTIONS: &[(&str, Option<&str>)] = &[("suid", None), ("errors", Some("remount-ro"))];

/// The table of mounts of this process's namespace.
const TABLE: &str = "/proc/self/mountinfo";

/// What `mount` did.
#[derive(Clone, Debug, Serialize)]
pub struct Mounted {
    /// The activation's name.
    pub name: String,
    /// Where it is mounted.
    pub at: PathBuf,
    /// Whether it was there already and nothing had to be done.
    pub already: bool,
}

/// What `umount` did.
#[derive(Clone, Debug, Serialize)]
pub struct Unmounted {
    /// The activation's name.
    pub name: String,
    /// Where it was mounted; empty: nowhere.
    pub from: Vec<PathBuf>,
}

impl Host {
    /// Mounts the activation `name` at the directory `dir`, in the mount namespace of this process. Nothing is
    /// remembered but the mount: the kernel's own table says where an activation is mounted.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Unfit`]; [`Error::Held`] where somebody has the device open: a machine that runs
    /// on it and a mount would destroy its file system together.
    pub fn mount(&mut self, name: &str, dir: &Path) -> Result<Mounted, Error> {
        let row = self.ready(name)?;
        let at = directory("mount", dir)?;
        let already = self.mount_at(&row, &at)?;
        Ok(Mounted { name: name.into(), at, already })
    }

    /// Mounts an activation; whether it was there already.
    pub(super) fn mount_at(&mut self, row: &Activation, at: &Path) -> Result<bool, Error> {
        let _mine = self.locks.activation(&row.name)?;
        // Somebody may have taken it down since.
        if !self.is_up(&row.name, &row.reference)? {
            let (name, image) = (row.name.clone(), row.reference.clone());
            return Err(Unfit::NotUp { name, image, state: "not up any more" }.into());
        }
        if self.mounts_of(row)?.iter().any(|point| point == at) {
            return Ok(true);
        }
        // What refuses writes can be mounted by any number.
        if let Some(by) = self.store.held(row.id)?.filter(|_| !row.read_only) {
            return Err(Error::Held { what: format!("activation {}", row.name), by });
        }
        match self.store.tree(row.id) {
            Some(tree) => bind(&tree, at, row.read_only)?,
            None => {
                let device = self.store.path(&row.name);
                let mounted = thin::mount::detached(&device, "ext4", OPTIONS, row.read_only)?;
                if !row.read_only {
                    self.fill(row, mounted.as_fd())?;
                }
                thin::mount::attach(mounted.as_fd(), at)?;
            }
        }
        if is_open_to_others(at) {
            let line = format!(
                "{} can be entered by every user of this host, and programs of the image that run as root for whoever \
                 starts them are theirs to start; `chmod 700` a directory above it",
                at.display()
            );
            self.warn(&line, &[]);
        }
        Ok(false)
    }

    /// Grows the file system of a disk that was made larger since it was last mounted. One that cannot be grown is
    /// mounted as it is.
    fn fill(&self, row: &Activation, mounted: BorrowedFd<'_>) -> Result<(), Error> {
        let origin = self.registry.volume(row.origin)?;
        if origin.is_some_and(|origin| origin.bytes < row.bytes)
            && let Err(error) = thin::mount::grow_ext4(mounted, self.store.device_bytes(row.bytes))
        {
            self.warn(&format!("the file system of {} keeps its size: {error}", row.name), &[]);
        }
        Ok(())
    }

    /// Unmounts the activation `name` wherever it is mounted in the mount namespace of this process.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Held`] where somebody uses what is in it: that mount stays.
    pub fn unmount(&mut self, name: &str) -> Result<Unmounted, Error> {
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            return Err(self.unknown("activation", name));
        };
        let mut from = Vec::new();
        // What lies on top goes first.
        for point in self.mounts_of(&row)?.into_iter().rev() {
            umount2(&point, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| match errno {
                Errno::EBUSY => Error::Held {
                    what: format!("activation {name}"),
                    by: format!("the mount at {}, where somebody is at work", point.display()),
                },
                errno => Error::Io { doing: "unmount", path: point.clone(), source: errno.into() },
            })?;
            from.push(point);
        }
        Ok(Unmounted { name: name.into(), from })
    }

    /// Where an activation is mounted, what lies on top last.
    fn mounts_of(&self, row: &Activation) -> Result<Vec<PathBuf>, Error> {
        let text = fs::read(TABLE).map_err(|source| {
            let (doing, path) = ("read", PathBuf::from(TABLE));
            Error::Io { doing, path, source }
        })?;
        let table = mounts::table(&text);
        if let Some(tree) = self.store.tree(row.id) {
            return Ok(mounts::of_tree(&table, &tree));
        }
        // Without a device there is no mount of it.
        let Ok(node) = fs::metadata(self.store.path(&row.name)) else { return Ok(Vec::new()) };
        let device = format!("{}:{}", major(node.rdev()), minor(node.rdev()));
        Ok(mounts::of_device(&table, &device))
    }
}

/// A directory that is there, as itself.
pub(super) fn directory(what: &'static str, dir: &Path) -> Result<PathBuf, Error> {
    let bad = |why| Unfit::Place { what, path: shown(dir), why };
    match dir.canonicalize() {
        Ok(at) if at.is_dir() => Ok(at),
        Ok(_) => Err(bad("not a directory").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(bad("there is no such directory; make it first").into())
        }
        Err(source) => Err(Error::Io { doing: "find", path: dir.into(), source }),
    }
}

/// A directory of a store that has no devices, seen a second time. What the store's own mount forbids stays
/// forbidden, since flags are only added.
fn bind(tree: &Path, at: &Path, read_only: bool) -> Result<(), Error> {
    let fail =
        |errno: Errno| Error::Io { doing: "mount at", path: at.into(), source: errno.into() };
    mount(Some(tree), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(fail)?;
    let flags = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    match sys::set_mount(at, false, libc::MOUNT_ATTR_NODEV | flags, 0) {
        Ok(()) => Ok(()),
        Err(errno) => {
            umount2(at, MntFlags::UMOUNT_NOFOLLOW).map_err(fail)?;
            Err(fail(errno))
        }
    }
}

/// Whether every directory above lets others through. One that cannot be looked at does not.
fn is_open_to_others(at: &Path) -> bool {
    let open = |dir: &Path| fs::metadata(dir).is_ok_and(|is| is.permissions().mode() & 0o001 != 0);
    at.ancestors().all(open)
}
