//! The device-mapper control node: the one function that issues an ioctl, and a typed method for
//! each command. Knows names, uuids, tables as text; pools and thins are in `pool.rs`.
//!
//! Rules (kernel `drivers/md/dm-ioctl.c`): a successful call writes name and uuid into the
//! header, so no header is ever used twice; BUFFER_FULL is a success with short data, so the call
//! is repeated with more room if, and only if, it changes nothing.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use serde::Serialize;

use crate::error::Error;
use crate::format::garbled::Garbled;
use crate::format::units::Dev;
use crate::format::wire::{self, Command, Key, Reply, Request, Target, flag};
use crate::kernel::sys;

/// The control node's place; its number is fixed (misc 10:236).
const CONTROL: &str = "/dev/mapper/control";
const CONTROL_DEV: Dev = Dev { major: 10, minor: 236 };

/// Room for an answer on the first try, and the most that is ever tried.
const ROOM: usize = 16 << 10;
const ROOM_MAX: usize = 256 << 20;

/// udev: make no links, run no probe, leave the device to us; and this is the event that counts.
/// (`DM_UDEV_DISABLE_{DM,SUBSYSTEM,DISK,OTHER}_RULES_FLAG | DM_UDEV_PRIMARY_SOURCE_FLAG`.)
/// The low half, the semaphore to signal, stays 0: udev is never waited for.
const UDEV_LEAVE_IT: u32 = 0x4f << 16;

/// Suspends are interrupted by any signal; a handful of tries is as good as for ever.
const EINTR_TRIES: u32 = 16;

/// How often a resume is tried.
const RESUMES: usize = 8;

thread_local! {
    static IOCTLS: Cell<u64> = const { Cell::new(0) };
}

/// One row of [`Dm::list`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceEntry {
    /// Device-mapper name, as the kernel has it.
    pub name: String,
    /// Device-mapper uuid.
    pub uuid: Option<String>,
    /// Device number.
    pub dev: Dev,
    /// Counts the device's events; see `events.rs`.
    pub event_nr: u32,
}

/// The state of one device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceState {
    /// Device-mapper name.
    pub name: String,
    /// Device-mapper uuid.
    pub uuid: Option<String>,
    /// Device number.
    pub dev: Dev,
    /// How many have it open, other devices among them.
    pub open_count: u32,
    /// Counts the device's events.
    pub event_nr: u32,
    /// I/O is held back.
    pub suspended: bool,
    /// A live table is in.
    pub has_table: bool,
    /// A table is loaded that no resume has made live.
    pub has_inactive: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// It goes at its last close.
    pub deferred_remove: bool,
}

/// What became of a message that was sent while a device was suspended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quiet {
    /// The answer to the message.
    pub(crate) sent: Result<(), Errno>,
    /// Whether the device was still suspended after it: somebody else may have resumed it.
    pub(crate) stayed: bool,
}

/// How a device is named in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By<'a> {
    /// By name.
    Name(&'a str),
    /// By uuid: the stronger one, since a name may pass to another device.
    Uuid(&'a str),
}

impl<'a> By<'a> {
    fn key(self) -> Key<'a> {
        match self {
            By::Name(name) => Key::Name(name),
            By::Uuid(uuid) => Key::Uuid(uuid),
        }
    }
}

/// The open control node. Clones share it.
#[derive(Clone, Debug)]
pub struct Dm {
    control: Arc<OwnedFd>,
}

impl Dm {
    /// Opens the control node, and makes it first where `/dev` lacks it.
    ///
    /// # Errors
    /// [`Error::NoDeviceMapper`] when the kernel has none; [`Error::Denied`] without root.
    pub fn open() -> Result<Dm, Error> {
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(CONTROL)
                .map_err(|err| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO)))
        };
        let file = match open() {
            Err(Errno::ENOENT) => {
                make_control_node()?;
                open().inspect_err(|_| {
                    // Without the driver behind it the node would only mislead; that it cannot
                    // be removed again is no news.
                    drop(std::fs::remove_file(CONTROL));
                })
            }
            other => other,
        };
        let file = file.map_err(|errno| match errno {
            Errno::ENODEV | Errno::ENOENT | Errno::ENXIO => {
                Error::NoDeviceMapper { what: "open /dev/mapper/control", errno }
            }
            Errno::EACCES | Errno::EPERM => {
                Error::Denied { what: format!("open {CONTROL}"), errno }
            }
            other => Error::errno("open", CONTROL, other),
        })?;
        let dm = Dm { control: Arc::new(file.into()) };
        dm.version()?;
        Ok(dm)
    }

    /// How many device-mapper ioctls this thread has issued.
    pub fn ioctls() -> u64 {
        IOCTLS.get()
    }

    /// The one place where an ioctl is issued.
    fn issue(&self, command: Command, buf: &mut [u8]) -> Result<(), Errno> {
        IOCTLS.set(IOCTLS.get() + 1);
        sys::dm(self.control.as_fd(), command.request(), buf)
    }

    /// Every command passes here: a fresh header each time, repeated only when that is harmless.
    fn call(&self, request: &Request<'_>) -> Result<Reply, Error> {
        let mut room = if request.command.repeatable() { ROOM } else { 0 };
        let mut interrupted = 0;
        loop {
            let mut buf = request.encode(room);
            match self.issue(request.command, &mut buf) {
                Ok(()) => {}
                Err(Errno::EINTR)
                    if request.command == Command::DevSuspend && interrupted < EINTR_TRIES =>
                {
                    interrupted += 1;
                    continue;
                }
                // EPERM would be a target's own answer; without CAP_SYS_ADMIN it is EACCES.
                Err(errno @ Errno::EACCES) => {
                    let what = format!("{} \"{}\"", request.command.name(), request.key.text());
                    return Err(Error::Denied { what, errno });
                }
                Err(errno) => return Err(failed(request, errno)),
            }
            let reply = Reply::new(buf);
            if reply.flags() & flag::BUFFER_FULL == 0 {
                return Ok(reply);
            }
            if !request.command.repeatable() || room >= ROOM_MAX {
                return Err(failed(request, Errno::EMSGSIZE));
            }
            room *= 4;
        }
    }

    /// The kernel's interface version.
    ///
    /// # Errors
    /// Those of the command.
    pub fn version(&self) -> Result<[u32; 3], Error> {
        Ok(self.call(&Request::new(Command::Version, Key::None))?.version())
    }

    /// The version of a target; asking makes the kernel load its module. `None` when there is no
    /// such target, or the kernel (before 5.3) cannot say.
    ///
    /// # Errors
    /// Those of the command.
    pub fn target_version(&self, target: &str) -> Result<Option<[u32; 3]>, Error> {
        match self.call(&Request::new(Command::GetTargetVersion, Key::Name(target))) {
            Ok(reply) => Ok(reply.target_version()),
            Err(err) if matches!(err.raw_errno(), Some(Errno::EINVAL | Errno::ENOTTY)) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Every device-mapper device of the host.
    ///
    /// # Errors
    /// Those of the command.
    pub fn list(&self) -> Result<Vec<DeviceEntry>, Error> {
        let request = Request::new(Command::ListDevices, Key::None).flags(flag::UUID);
        let reply = self.call(&request)?;
        let rows = reply
            .names()
            .ok_or_else(|| Garbled::Text { what: "list of devices", text: String::new() })?;
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            let uuid = match row.uuid {
                Some(uuid) => uuid,
                // A kernel before 5.13 lists no uuids: ask, and skip what vanished meanwhile.
                None => match self.state(By::Name(&row.name))? {
                    Some(state) => state.uuid,
                    None => continue,
                },
            };
            out.push(DeviceEntry { name: row.name, uuid, dev: row.dev, event_nr: row.event_nr });
        }
        Ok(out)
    }

    /// The state of one device; `None` when there is none.
    ///
    /// # Errors
    /// Those of the command.
    pub fn state(&self, by: By<'_>) -> Result<Option<DeviceState>, Error> {
        absent_as_none(self.call(&Request::new(Command::DevStatus, by.key())))
            .map(|reply| reply.map(|reply| state_of(&reply)))
    }

    /// The live table (or, of a device that has only one loaded, that one), with its state.
    ///
    /// # Errors
    /// Those of the command.
    pub fn table(&self, by: By<'_>) -> Result<Option<(DeviceState, Vec<Target>)>, Error> {
        let flags = flag::STATUS_TABLE | flag::NOFLUSH;
        self.lines(Request::new(Command::TableStatus, by.key()).flags(flags))
    }

    /// The status lines. Without `flush` nothing is written; with it a thin pool commits.
    ///
    /// # Errors
    /// Those of the command.
    pub fn status(
        &self,
        by: By<'_>,
        flush: bool,
    ) -> Result<Option<(DeviceState, Vec<Target>)>, Error> {
        let flags = if flush { 0 } else { flag::NOFLUSH };
        self.lines(Request::new(Command::TableStatus, by.key()).flags(flags))
    }

    fn lines(&self, request: Request<'_>) -> Result<Option<(DeviceState, Vec<Target>)>, Error> {
        let Some(reply) = absent_as_none(self.call(&request))? else { return Ok(None) };
        let lines = reply.targets().ok_or_else(|| Garbled::Text {
            what: "status lines",
            text: request.key.text().to_owned(),
        })?;
        Ok(Some((state_of(&reply), lines)))
    }

    /// Makes a device without a table. The kernel answers EBUSY when name or uuid is taken.
    ///
    /// # Errors
    /// Those of the command.
    pub fn create(&self, name: &str, uuid: &str) -> Result<(), Error> {
        self.call(&Request::new(Command::DevCreate, Key::Both(name, uuid))).map(drop)
    }

    /// Loads a table; [`Dm::resume`] makes it live.
    ///
    /// # Errors
    /// Those of the command and of the targets' constructors.
    pub fn load(&self, by: By<'_>, table: &[Target], read_only: bool) -> Result<(), Error> {
        let mut request = Request::new(Command::TableLoad, by.key());
        request.target_count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        request.payload = wire::targets(table);
        if read_only {
            request.flags |= flag::READONLY;
        }
        self.call(&request).map(drop)
    }

    /// Throws a loaded table away that was never made live.
    ///
    /// # Errors
    /// Those of the command.
    pub fn clear(&self, by: By<'_>) -> Result<(), Error> {
        self.call(&Request::new(Command::TableClear, by.key())).map(drop)
    }

    /// Makes the loaded table live, or only resumes.
    ///
    /// # Errors
    /// Those of the command; after one the device may be left suspended, with either table.
    pub fn resume(&self, by: By<'_>) -> Result<DeviceState, Error> {
        let mut request = Request::new(Command::DevSuspend, by.key()).flags(flag::SKIP_LOCKFS);
        request.event_nr = UDEV_LEAVE_IT;
        self.call(&request).map(|reply| state_of(&reply))
    }

    /// Suspends. With `abandon`, held I/O is not waited for and no file system is frozen.
    ///
    /// # Errors
    /// Those of the command.
    pub fn suspend(&self, by: By<'_>, abandon: bool) -> Result<(), Error> {
        let extra = if abandon { flag::NOFLUSH | flag::SKIP_LOCKFS } else { 0 };
        let request = Request::new(Command::DevSuspend, by.key()).flags(flag::SUSPEND | extra);
        self.call(&request).map(drop)
    }

    /// Suspends the device of this uuid, with its file system frozen and its I/O flushed, sends the device `to` a
    /// message, and resumes. All buffers are made before the first call, so that nothing between the calls asks
    /// for memory, which may be had only by a write to the suspended device.
    ///
    /// # Errors
    /// Those of suspend, after which the device runs; those of resume, after which it does not, and recovery has
    /// to see to it.
    pub(crate) fn while_suspended(
        &self,
        uuid: &str,
        to: &str,
        message: &str,
    ) -> Result<Quiet, Error> {
        let device = Key::Uuid(uuid);
        let suspend = Request::new(Command::DevSuspend, device).flags(flag::SUSPEND);
        let mut send = Request::new(Command::TargetMsg, Key::Name(to));
        send.payload = wire::message(message);
        let mut resume = Request::new(Command::DevSuspend, device).flags(flag::SKIP_LOCKFS);
        resume.event_nr = UDEV_LEAVE_IT;
        let mut text = send.encode(0);
        let mut look = Request::new(Command::DevStatus, device).encode(0);
        let mut resumes = [(); RESUMES].map(|()| resume.encode(0));
        self.call(&suspend)?;
        let sent = self.issue(Command::TargetMsg, &mut text);
        let seen = self.issue(Command::DevStatus, &mut look);
        let mut resumed = Err(Errno::EINTR);
        for buf in &mut resumes {
            resumed = self.issue(Command::DevSuspend, buf);
            if resumed.is_ok() {
                break;
            }
        }
        resumed.map_err(|errno| failed(&resume, errno))?;
        let stayed = seen.is_ok() && Reply::new(look).flags() & flag::SUSPEND != 0;
        Ok(Quiet { sent, stayed })
    }

    /// Removes a device; `false` when there was none.
    ///
    /// # Errors
    /// Those of the command; EBUSY while it is open.
    pub fn remove(&self, by: By<'_>) -> Result<bool, Error> {
        let mut request = Request::new(Command::DevRemove, by.key());
        request.event_nr = UDEV_LEAVE_IT;
        absent_as_none(self.call(&request)).map(|reply| reply.is_some())
    }

    /// Gives a device another name, also while it is open. The kernel finds it by its name alone.
    ///
    /// # Errors
    /// Those of the command: EBUSY when the new name is taken.
    pub fn rename(&self, name: &str, new: &str) -> Result<(), Error> {
        let mut request = Request::new(Command::DevRename, Key::Name(name));
        request.event_nr = UDEV_LEAVE_IT;
        request.payload = wire::text(new);
        self.call(&request).map(drop)
    }

    /// Sends a message to the target at sector 0. Never repeated.
    ///
    /// # Errors
    /// Those of the command and of the target.
    pub fn message(&self, by: By<'_>, text: &str) -> Result<(), Error> {
        let mut request = Request::new(Command::TargetMsg, by.key());
        request.payload = wire::message(text);
        self.call(&request).map(drop)
    }

    /// Arms the control node so that `poll` wakes at the next event of any device.
    ///
    /// # Errors
    /// Those of the command.
    pub fn arm(&self) -> Result<(), Error> {
        self.call(&Request::new(Command::DevArmPoll, Key::None)).map(drop)
    }

    /// For `poll`.
    pub(crate) fn control(&self) -> std::os::fd::BorrowedFd<'_> {
        self.control.as_fd()
    }
}

fn state_of(reply: &Reply) -> DeviceState {
    let has = |bit: u32| reply.flags() & bit != 0;
    DeviceState {
        name: reply.name(),
        uuid: reply.uuid(),
        dev: reply.dev(),
        open_count: reply.open_count(),
        event_nr: reply.event_nr(),
        suspended: has(flag::SUSPEND),
        has_table: has(flag::ACTIVE_PRESENT),
        has_inactive: has(flag::INACTIVE_PRESENT),
        read_only: has(flag::READONLY),
        deferred_remove: has(flag::DEFERRED_REMOVE),
    }
}

fn failed(request: &Request<'_>, errno: Errno) -> Error {
    Error::Dm { command: request.command, device: request.key.text().to_owned(), errno }
}

fn absent_as_none(result: Result<Reply, Error>) -> Result<Option<Reply>, Error> {
    match result {
        Ok(reply) => Ok(Some(reply)),
        Err(Error::Dm { errno: Errno::ENXIO, .. }) => Ok(None),
        Err(err) => Err(err),
    }
}

fn make_control_node() -> Result<(), Error> {
    let dir = Path::new("/dev/mapper");
    match std::fs::create_dir(dir) {
        Ok(()) => {}
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(err) => return Err(Error::io("create", dir, err)),
    }
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match mknod(CONTROL, SFlag::S_IFCHR, mode, CONTROL_DEV.to_stat()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => {
            Err(Error::Denied { what: format!("make {CONTROL}"), errno })
        }
        Err(errno) => Err(Error::errno("make", CONTROL, errno)),
    }
}
