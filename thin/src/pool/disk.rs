//! A thin that somebody uses: who that is, growth of what is mounted from it, and a snapshot of it while it is
//! active.
//!
//! The kernel does not check that an origin is quiet (thin-provisioning.rst, "Internal snapshots": "If the origin
//! device that you wish to snapshot is active, you must suspend it before creating the snapshot"). Between suspend
//! and resume nothing is done that could wait for the suspended device: three calls whose buffers are ready before
//! the first, and no file, no log line and no allocation among them.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};

use crate::error::Error;
use crate::format::holder::Holder;
use crate::format::units::{Dev, ThinId};
use crate::kernel::dm::{By, Quiet};
use crate::kernel::{mount, node};
use crate::pool::Pool;
use crate::pool::tidy::{Act, Tidied, leads_to};
use crate::pool::volume::Entry;

/// How often, and after which pause, a suspend is tried again whose file system cannot be frozen.
const FREEZE_TRIES: usize = 10;
const FREEZE_PAUSE: Duration = Duration::from_millis(50);

/// Who has the device of a thin open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InUse {
    /// Nobody.
    Nobody,
    /// This kernel has it mounted, in this mount namespace or another.
    Mounted(Vec<Holder>),
    /// Somebody has it open who is no mount of this kernel: a virtual machine, a loop device, a process. The list
    /// may be empty: not everybody is seen.
    Held(Vec<Holder>),
}

impl InUse {
    /// Those who have it open, as far as they are seen.
    pub fn holders(&self) -> &[Holder] {
        match self {
            InUse::Nobody => &[],
            InUse::Mounted(holders) | InUse::Held(holders) => holders,
        }
    }
}

/// Whether the file system of a device has grown with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// It fills the device.
    Grown,
    /// It has not, and this is why.
    NotGrown(String),
}

impl Pool {
    /// Who has the device of thin `id` open; [`InUse::Nobody`] also where it has none.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn in_use(&self, id: ThinId) -> Result<InUse, Error> {
        let Some(holders) = self.held(id)? else { return Ok(InUse::Nobody) };
        let mounted = holders.iter().any(|holder| matches!(holder, Holder::Mount { .. }));
        Ok(if mounted { InUse::Mounted(holders) } else { InUse::Held(holders) })
    }

    /// Grows the mounted ext4 of `dev` to `bytes`, through one of the mounts in `holders`. Nothing is mounted for
    /// it: who has unmounted it meanwhile may have given it to a machine.
    pub fn grow_mounted(&self, dev: Dev, holders: &[Holder], bytes: u64) -> FileSystem {
        let mut why = "it is not mounted any more".to_owned();
        for holder in holders {
            let Holder::Mount { pid, target, .. } = holder else { continue };
            match open_mount(*pid, target, dev) {
                Ok(root) => match grow(&root, bytes) {
                    Ok(()) => return FileSystem::Grown,
                    Err(error) => why = error.to_string(),
                },
                Err(error) => why = error.to_string(),
            }
        }
        FileSystem::NotGrown(why)
    }

    /// Makes thin `new` a snapshot of thin `origin`, whose device is active: it is suspended meanwhile, with all
    /// that was written flushed and a file system that this kernel has mounted from it frozen, and runs again when
    /// this returns, whatever has failed.
    ///
    /// # Errors
    /// As [`Pool::create_snap`]; [`Error::RanEarly`] when somebody else resumed the device before the snapshot was
    /// made: `new` is deleted then, since it may be torn.
    pub fn snap_active(&self, new: ThinId, origin: ThinId) -> Result<(), Error> {
        let uuid = self.thin_uuid(origin);
        let message = format!("create_snap {new} {origin}");
        let quiet = self.quietly(&uuid, &message)?;
        match quiet.sent {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                return Err(Error::ThinExists { pool: self.name.clone(), id: new });
            }
            Err(Errno::ENODATA) => {
                return Err(Error::ThinAbsent { pool: self.name.clone(), id: origin });
            }
            Err(errno) => return Err(self.refused(&message, errno)),
        }
        if !quiet.stayed {
            self.delete(new)?;
            return Err(Error::RanEarly { id: origin });
        }
        self.made(new, Some(origin))
    }

    /// A file system that is being mounted or unmounted just now cannot be frozen, and can be in a moment.
    fn quietly(&self, uuid: &str, message: &str) -> Result<Quiet, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.dm.while_suspended(uuid, &self.name, message) {
                Err(Error::Dm { errno: Errno::EINVAL | Errno::EBUSY, .. })
                    if tries < FREEZE_TRIES && self.mended(uuid)? =>
                {
                    sleep(FREEZE_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Whether the device runs, after a suspend that failed.
    fn mended(&self, uuid: &str) -> Result<bool, Error> {
        self.mend(By::Uuid(uuid))?;
        Ok(self.dm.state(By::Uuid(uuid))?.is_some_and(|state| !state.suspended))
    }

    /// Writes out what the kernel has of the device of thin `id`: the file system that is mounted from it, or what
    /// was written through its node. What is left for a suspend to flush is then little.
    ///
    /// # Errors
    /// Those of the commands; [`Error::Io`] where a write fails.
    pub fn write_out(&self, id: ThinId) -> Result<(), Error> {
        let Some(active) = self.active_as(id)? else { return Ok(()) };
        for holder in self.in_use(id)?.holders() {
            if let Holder::Mount { pid, target, .. } = holder
                && let Ok(root) = open_mount(*pid, target, active.dev)
            {
                let written = nix::unistd::syncfs(&root);
                return written.map_err(|errno| Error::errno("sync", "mount", errno));
            }
        }
        Ok(())
    }

    /// Has every suspended device of this pool run again, and gives each that runs its nodes below `/dev`: a process
    /// was killed that had suspended it, or that had not made them yet. Gives what was done. The caller keeps away who
    /// suspends or activates one now.
    ///
    /// # Errors
    /// Those of the commands, after all the devices were tried.
    pub fn resume_all(&self) -> Result<Vec<Tidied>, Error> {
        let (mut done, mut failed) = (Vec::new(), None);
        for entry in self.entries()? {
            let has_nodes = leads_to(entry.dev, &entry.name);
            if !is_suspended(entry.dev) && has_nodes {
                continue;
            }
            let mut note = |act| {
                done.push(Tidied { name: entry.name.clone(), id: entry.id, act });
            };
            if let Err(error) = self.runs_again(&entry, has_nodes, &mut note) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(done), Err)
    }
}

impl Pool {
    fn runs_again(
        &self,
        entry: &Entry,
        has_nodes: bool,
        note: &mut dyn FnMut(Act),
    ) -> Result<(), Error> {
        let uuid = self.thin_uuid(entry.id);
        let by = By::Uuid(&uuid);
        // Without a table it was killed in the middle of an activation: others see to that.
        let Some(state) = self.dm.state(by)?.filter(|state| state.has_table) else { return Ok(()) };
        if state.suspended {
            self.mend(by)?;
            note(Act::Resumed);
        }
        if !has_nodes {
            node::ensure(entry.dev, &entry.name)?;
            note(Act::NodeMade);
        }
        Ok(())
    }
}

/// Whether a device-mapper device is suspended, by a read; where that cannot be read it may be.
fn is_suspended(dev: Dev) -> bool {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{dev}/dm/suspended"));
    text.map_or(true, |text| text.trim() != "0")
}

/// The root of a mount of `dev`, as process `pid` sees it. What is opened is judged by its device, whatever path
/// it has: others may have put something else there.
fn open_mount(pid: u32, target: &Path, dev: Dev) -> Result<OwnedFd, Error> {
    let inside = unescaped(target);
    let inside = inside.strip_prefix("/").unwrap_or(&inside);
    let path = PathBuf::from(format!("/proc/{pid}/root")).join(inside);
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path);
    let file: File = file.map_err(|err| Error::io("open", &path, err))?;
    let is = file.metadata().map_err(|err| Error::io("look at", &path, err))?;
    match Dev::from_stat(is.dev()) == dev {
        true => Ok(file.into()),
        false => Err(Error::errno("find the device below", &path, Errno::ENODEV)),
    }
}

fn grow(root: &OwnedFd, bytes: u64) -> Result<(), Error> {
    let kind = fstatfs(root).map_err(|errno| Error::errno("measure", "mount", errno))?;
    match kind.filesystem_type() == EXT4_SUPER_MAGIC {
        true => mount::grow_ext4(root.as_fd(), bytes),
        // The number of the call may mean something else to another file system.
        false => Err(Error::errno("grow what is no ext4 on", "mount", Errno::EOPNOTSUPP)),
    }
}

/// A path as `mountinfo` writes it, with octal escapes for what separates its fields (proc(5)).
fn unescaped(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(escaped) => {
                out.push(escaped);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_blank_is_found_again() {
        let read = |text: &str| unescaped(Path::new(text)).to_string_lossy().into_owned();
        assert_eq!(read("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
        assert_eq!(read("/mnt/plain"), "/mnt/plain");
        assert_eq!(read("/odd\\9\\04"), "/odd\\9\\04");
    }

    #[test]
    fn a_directory_on_another_device_is_not_taken_for_the_mount() {
        let none = Dev { major: 511, minor: 1_048_575 };
        let found = open_mount(std::process::id(), Path::new("/"), none);
        assert!(found.is_err_and(|error| error.raw_errno() == Some(Errno::ENODEV)));
    }
}
