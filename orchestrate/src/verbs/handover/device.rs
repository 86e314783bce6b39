//! `activate --device-owner --device-mode --node`: the device of an activation is given to whom a virtual machine runs
//! as, and has a second node where that sees it, as in a jail.
//!
//! It is remembered with the activation, and done again whenever that comes up. The node is made by commands and not
//! by a daemon, whose mount namespace is one of its own; whatever takes the activation down by a command removes it
//! first, since a node that is left may lead to another's device later.

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, makedev, minor, mknodat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};
use registry::{Activation, ActivationState, Device};

use crate::error::Error;
use crate::error::amiss::Amiss;
use crate::handover::device::{Give, Given};
use crate::handover::unfit::Unfit;
use crate::host::Host;
use crate::verbs::handover::shown;

/// A node of which nobody said whose it is.
const NODE_MODE: u32 = 0o600;

/// There while udev is at work on what has happened to devices; it gives every device its own owner and mode.
const UDEV_QUEUE: &str = "/run/udev/queue";

/// How often it is looked whether udev has done its work, and how long in between: two seconds.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Major and minor number.
type Number = (u32, u32);

fn text_of((major, minor): Number) -> String {
    format!("{major}:{minor}")
}

/// The device that a node leads to; none where it is no node of a block device.
fn leads_to(is: &FileStat) -> Option<Number> {
    let block = is.st_mode & libc::S_IFMT == libc::S_IFBLK;
    let number = |part: u64| u32::try_from(part).ok();
    number(major(is.st_rdev)).zip(number(minor(is.st_rdev))).filter(|_| block)
}

/// The place of a node: its directory, which is open, and its name in it.
struct Place {
    dir: File,
    at: PathBuf,
    name: PathBuf,
}

fn bad(path: &Path, why: impl Into<String>) -> Error {
    Unfit::Node { path: shown(path), why: why.into() }.into()
}

impl Place {
    /// As it is remembered, or as it was asked for.
    fn open(path: &Path) -> Result<Place, Error> {
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
    fn is_safe(&self) -> Result<(), Error> {
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
    fn takes_devices(&self) -> Result<(), Error> {
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
    fn found(&self) -> Result<Option<FileStat>, Error> {
        match fstatat(&self.dir, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(is) => Ok(Some(is)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(io_error("look at", &self.at)(errno.into())),
        }
    }

    /// Makes a node of the device, which nobody can open yet; a node of `before`, which is ours, gives way.
    fn make(&self, number: Number, before: Option<&str>) -> Result<(), Error> {
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
    fn give(&self, number: Number, owner: Number, mode: u32) -> Result<(), Error> {
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

    fn remove(&self) -> Result<(), Error> {
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
const ELSE: &str =
    "something else than a node of this activation is there; remove it, or name another place";

/// Changes owner and mode of what is open, which may be by its path alone; whether there was anything to change.
fn give(
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

fn owner_of(device: &Device) -> Option<Number> {
    device.uid.zip(device.gid)
}

/// The device itself, by the path that people use: owner and mode. Whether there was anything to change.
fn give_device(path: &Path, number: Number, device: &Device) -> Result<bool, Error> {
    if owner_of(device).is_none() && device.mode.is_none() {
        return Ok(false);
    }
    let node =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    let node = node.map_err(io_error("open", path))?;
    let is =
        nix::sys::stat::fstat(&node).map_err(|errno| io_error("look at", path)(errno.into()))?;
    if leads_to(&is) != Some(number) {
        // Somebody has put something else there, or it went just now.
        return Err(io_error("give away", path)(io::Error::other(format!(
            "it does not lead to the device {}",
            text_of(number)
        ))));
    }
    give(&node, path, &is, owner_of(device), device.mode)
}

/// Lets udev finish first: what it does to a device that has just appeared would undo this.
fn after_udev() {
    for _ in 0..LOOKS {
        if !Path::new(UDEV_QUEUE).exists() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

impl Host {
    /// From now on this process makes and removes nodes outside of /dev: it does so where its user sees them.
    pub fn makes_nodes(&mut self) {
        self.nodes = true;
    }

    /// Gives the device of the activation `name`, which is up, to whom the caller says, and remembers it.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Unfit`] where the store has no devices, or no node can be made at that place.
    pub fn give_device(&mut self, name: &str, asked: &Give) -> Result<Given, Error> {
        self.has_devices()?;
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            return Err(self.unknown("activation", name));
        };
        let number = self.store.device(row.id)?.filter(|_| row.state == ActivationState::Active);
        let Some(number) = number else {
            let (name, image) = (row.name, row.reference);
            return Err(Unfit::NotUp { name, image, state: "not up any more" }.into());
        };
        let before = self.registry.device(name)?;
        let mut device = before.clone();
        if let Some((uid, gid)) = asked.owner {
            (device.uid, device.gid) = (Some(uid), Some(gid));
        }
        device.mode = asked.mode.or(device.mode);
        if let Some(path) = &asked.node {
            let place = Place::open(path)?;
            place.is_safe()?;
            let text = place.at.to_str().map(str::to_owned);
            let text = text.ok_or_else(|| Unfit::Path { path: shown(&place.at) })?;
            if before.node.as_ref() != Some(&text) {
                if let Some(is) = place.found()?
                    && leads_to(&is) != Some(number)
                {
                    return Err(bad(&place.at, ELSE));
                }
                self.take_node(&row)?;
                device.node = Some(text);
                device.node_leads_to = None;
            }
        }
        if device != before {
            self.commit_told(|write| write.put_device(name, &device))?;
        }
        after_udev();
        self.hand_over(&row, &device, number)?;
        Ok(Given::from(&device))
    }

    /// Whether activations of this store are devices.
    fn has_devices(&self) -> Result<(), Error> {
        match self.store.tree(0) {
            Some(_) => Err(Unfit::NoDevice { store: self.settings.store.to_string() }.into()),
            None => Ok(()),
        }
    }

    /// Owner and mode of the device as they are remembered, and the node where this process makes such. The caller
    /// holds the activation's lock.
    fn hand_over(
        &mut self,
        row: &Activation,
        device: &Device,
        number: Number,
    ) -> Result<bool, Error> {
        let changed = give_device(&self.store.path(&row.name), number, device)?;
        let Some(path) = device.node.as_ref().filter(|_| self.nodes) else { return Ok(changed) };
        let place = Place::open(Path::new(path))?;
        place.is_safe()?;
        let before = device.node_leads_to.as_deref();
        let new = text_of(number);
        if before != Some(new.as_str()) {
            // What another boot, or an earlier device, has left is removed while it is known for ours.
            self.take_node(row)?;
            self.registry.write(|write| write.put_node(&row.name, Some(&new)))?;
        }
        place.make(number, before)?;
        place.give(
            number,
            owner_of(device).unwrap_or_default(),
            device.mode.unwrap_or(NODE_MODE),
        )?;
        Ok(changed)
    }

    /// As [`Host::hand_over`], for an activation that has just come up. What does not work is told: the activation
    /// is up all the same. The caller holds its lock.
    pub(crate) fn hand_over_again(&mut self, name: &str) -> Result<(), Error> {
        let device = self.registry.device(name)?;
        if device == Device::default() {
            return Ok(());
        }
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        let Some(number) = self.store.device(row.id)? else { return Ok(()) };
        after_udev();
        if let Err(error) = self.hand_over(&row, &device, number) {
            self.warn(&format!("the device of activation {name} is not given away: {error}"), &[]);
        }
        Ok(())
    }

    /// Whatever of this is not as it is remembered, as after a boot, or where udev has been at it. It is no repair:
    /// nothing waits for it or fails by it.
    pub(crate) fn hand_over_all(&mut self) {
        let names = self.registry.devices().unwrap_or_default();
        for (name, _) in names {
            if let Err(error) = self.hand_over_one(&name) {
                // A daemon comes by every few seconds.
                let talk = if self.nodes { 1 } else { 2 };
                self.say(
                    talk,
                    format_args!("the device of activation {name} is not given away: {error}"),
                );
            }
        }
    }

    fn hand_over_one(&mut self, name: &str) -> Result<(), Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(()) };
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        let device = self.registry.device(name)?;
        match (row.state, self.store.device(row.id)?) {
            // It is on its way out, and nobody opens it anew.
            (ActivationState::Active, Some(_)) if row.when_closed.is_some() && self.nodes => {
                self.take_node(&row)
            }
            (ActivationState::Active, Some(_)) if row.when_closed.is_some() => Ok(()),
            (ActivationState::Active, Some(number)) => {
                if self.hand_over(&row, &device, number)? {
                    self.say(
                        1,
                        format_args!("recovery: give the device of activation {name} away again"),
                    );
                }
                Ok(())
            }
            // Somebody has taken it down who could not remove the node.
            (ActivationState::Inactive, None) if self.nodes => self.take_node(&row),
            _ => Ok(()),
        }
    }

    /// Whether an activation can go without a node of it staying: what a process does not see it cannot remove.
    ///
    /// # Errors
    /// [`Amiss::HasNode`].
    pub(crate) fn leaves_no_node(&self, name: &str) -> Result<(), Error> {
        let device = self.registry.device(name)?;
        match (device.node, device.node_leads_to) {
            (Some(node), Some(_)) if !self.nodes => {
                Err(Error::Amiss(Amiss::HasNode { name: name.into(), node }))
            }
            _ => Ok(()),
        }
    }

    /// Removes the node of an activation, where this process does such and it is that node still. The caller holds
    /// the activation's lock.
    pub(crate) fn take_node(&mut self, row: &Activation) -> Result<(), Error> {
        let device = self.registry.device(&row.name)?;
        let (Some(path), Some(leads)) = (&device.node, &device.node_leads_to) else {
            return Ok(());
        };
        if !self.nodes {
            // It has to go down all the same, as what is no longer trusted: then people are told.
            let line = format!(
                "activation {} goes down, and its node {} stays where only a command sees it; remove it",
                row.name, path
            );
            self.warn(&line, &[("activation", row.name.as_str().into())]);
            return Ok(());
        }
        match Place::open(Path::new(path)) {
            Ok(place) => {
                let ours = |is: &FileStat| leads_to(is).map(text_of).as_ref() == Some(leads);
                if place.found()?.as_ref().is_some_and(ours) {
                    place.remove()?;
                }
            }
            // The jail is gone, and the node with it.
            Err(Error::Unfit(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.registry.write(|write| write.put_node(&row.name, None))?)
    }

    /// Removes the node of an activation that another process is about to take down. One that somebody has open,
    /// and that is to go only if nobody has, keeps it.
    ///
    /// # Errors
    /// Those of removing it.
    pub fn take_node_before(&mut self, name: &str, when_closed: bool) -> Result<(), Error> {
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        if !when_closed && self.store.held(row.id)?.is_some() {
            return Ok(());
        }
        self.take_node(&row)
    }
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
