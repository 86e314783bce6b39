//! Thins as devices: activate, find, grow, deactivate. The device's uuid is made of the pool's
//! id and the thin's, so the kernel itself refuses to have one thin active twice.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::Serialize;

use crate::error::Error;
use crate::format::holder::Holder;
use crate::format::status::ThinStatus;
use crate::format::table::ThinTable;
use crate::format::units::{Dev, DmName, Sectors, ThinId};
use crate::format::wire::Target;
use crate::kernel::dm::{By, DeviceEntry, DeviceState};
use crate::kernel::removal::{self, Removal};
use crate::kernel::{holders, lengths, node, sys};
use crate::pool::Pool;

/// How long udev may look at a device that has just appeared or changed.
const PASSING_WAIT: Duration = Duration::from_secs(1);
const PASSING_PAUSE: Duration = Duration::from_millis(10);

/// Whether an active volume takes writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It does.
    ReadWrite,
    /// The block device itself refuses them.
    ReadOnly,
}

/// An active volume. Dropping it does nothing: see [`Pool::deactivate`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Volume {
    /// Device-mapper name.
    pub name: String,
    /// The thin.
    pub id: ThinId,
    /// Device number.
    pub dev: Dev,
    /// Length.
    pub sectors: Sectors,
}

/// One row of [`Pool::active`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ActiveThin {
    /// Device-mapper name.
    pub name: String,
    /// The thin.
    pub id: ThinId,
    /// Length; 0 without a table.
    pub sectors: Sectors,
    /// I/O is held back, as after a kill in the middle of a suspend.
    pub suspended: bool,
    /// A live table is in; without one it was killed in the middle of an activation.
    pub has_table: bool,
    /// A table is loaded that no resume has made live.
    pub has_inactive: bool,
    /// Goes at its last close.
    pub deferred_remove: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// How many have it open.
    pub open_count: u32,
    /// Device number.
    pub dev: Dev,
}

/// One row of [`Pool::listed`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ListedThin {
    /// Device-mapper name.
    pub name: String,
    /// The thin.
    pub id: ThinId,
    /// It came through its activation; without that it was killed in the middle of one.
    pub whole: bool,
    /// Its length in bytes, rounded down to 1024; 0 where it has none or cannot be told here.
    pub bytes: u64,
}

impl Volume {
    /// `/dev/dm-N`: what to open and mount.
    pub fn path(&self) -> PathBuf {
        node::path(self.dev)
    }

    /// `/dev/mapper/<name>`: what to show to people.
    pub fn mapper_path(&self) -> PathBuf {
        node::mapper_path(&self.name)
    }

    /// Makes the volume longer, live. What is on it does not grow by that; see
    /// [`crate::kernel::mount::grow_ext4`].
    ///
    /// # Errors
    /// [`Error::Shrink`]; [`Error::ReadOnlyVolume`]; those of the commands. After one the old table is in and I/O runs.
    pub fn grow(&self, pool: &Pool, new_sectors: u64) -> Result<Volume, Error> {
        let uuid = pool.thin_uuid(self.id);
        let by = By::Uuid(&uuid);
        if pool.dm.state(by)?.is_some_and(|state| state.read_only) {
            // The table that is loaded would make it one that takes writes.
            return Err(Error::ReadOnlyVolume { name: self.name.clone() });
        }
        if new_sectors < self.sectors.0 {
            let (from, to) = (self.sectors.0, new_sectors);
            return Err(Error::Shrink { name: self.name.clone(), from, to });
        }
        let table = ThinTable { sectors: Sectors(new_sectors), pool: pool.dev, id: self.id };
        pool.dm.load(by, &[table.target()], false)?;
        if let Err(err) = pool.dm.resume(by) {
            pool.mend(by)?;
            return Err(err);
        }
        pool.note_size(self.id, new_sectors);
        Ok(Volume { sectors: Sectors(new_sectors), ..self.clone() })
    }
}

/// Gives bytes of an open volume back to its pool: they read as zeros then. Only whole blocks of the pool go back. False
/// where the pool takes no discards, and nothing was changed.
///
/// # Errors
/// [`Error::Io`].
pub fn discard(device: BorrowedFd<'_>, begin: u64, bytes: u64) -> Result<bool, Error> {
    match sys::discard(device, begin, bytes) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(Error::errno("discard", "a volume", errno)),
    }
}

impl Pool {
    /// Makes thin `id` the device `/dev/mapper/<name>` of `sectors` length, which the pool does
    /// not store. When this returns, both nodes are there. On any failure nothing is left.
    ///
    /// # Errors
    /// [`Error::ThinAbsent`]; [`Error::AlreadyActive`] naming the device that has the thin;
    /// [`Error::NameTaken`]; those of the commands.
    pub fn activate(
        &self,
        id: ThinId,
        name: &str,
        sectors: u64,
        access: Access,
    ) -> Result<Volume, Error> {
        let name = DmName::new(name)?;
        if sectors == 0 {
            return Err(Error::unit("volume size in sectors", "0", "at least 1"));
        }
        let uuid = self.thin_uuid(id);
        if let Err(err) = self.dm.create(name.as_str(), &uuid) {
            if err.raw_errno() != Some(Errno::EBUSY) {
                return Err(err);
            }
            return Err(match self.dm.state(By::Uuid(&uuid))? {
                Some(state) => Error::AlreadyActive { id, name: state.name },
                None => Error::NameTaken { name: name.to_string() },
            });
        }
        let by = By::Uuid(&uuid);
        let table = ThinTable { sectors: Sectors(sectors), pool: self.dev, id };
        let read_only = access == Access::ReadOnly;
        let made = self
            .dm
            .load(by, &[table.target()], read_only)
            .and_then(|()| self.dm.resume(by))
            .and_then(|state| node::ensure(state.dev, name.as_str()).map(|()| state.dev));
        match made {
            Ok(dev) => {
                if access == Access::ReadWrite {
                    self.note_size(id, sectors);
                }
                Ok(Volume { name: name.to_string(), id, dev, sectors: Sectors(sectors) })
            }
            Err(err) => {
                // A node that stays is without a live table: recovery knows it by that.
                let removed = removal::remove(&self.dm, &uuid, name.as_str(), self.remove_wait);
                match (err.raw_errno(), removed) {
                    (Some(Errno::ENODATA), _) => {
                        Err(Error::ThinAbsent { pool: self.name.clone(), id })
                    }
                    (_, Ok(_) | Err(_)) => Err(err),
                }
            }
        }
    }

    /// This pool's devices, as the kernel has them now, whoever activated them.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn active(&self) -> Result<Vec<ActiveThin>, Error> {
        let mut out = Vec::new();
        for entry in self.entries()? {
            // Gone between the two calls is as good as never seen.
            out.extend(self.active_as(entry.id)?);
        }
        out.sort_by_key(|thin| thin.id);
        Ok(out)
    }

    /// This pool's devices by two reads, however many there are. One that was suspended from
    /// outside counts as whole here.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn listed(&self) -> Result<Vec<ListedThin>, Error> {
        let entries = self.entries()?;
        let lengths = lengths::read();
        let mut out = Vec::with_capacity(entries.len());
        for Entry { name, id, dev } in entries {
            let length = lengths.get(&dev).copied();
            let whole = match length {
                Some(_) => true,
                None => match self.dm.state(By::Uuid(&self.thin_uuid(id)))? {
                    Some(state) => state.has_table && !state.suspended,
                    None => continue,
                },
            };
            out.push(ListedThin { name, id, whole, bytes: length.unwrap_or(0) });
        }
        Ok(out)
    }

    /// The device of one thin; `None` when it has none.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn active_as(&self, id: ThinId) -> Result<Option<ActiveThin>, Error> {
        Ok(self.dm.table(By::Uuid(&self.thin_uuid(id)))?.map(|found| active_thin(id, found)))
    }

    /// The device of this name; `None` when there is none, or it is not one of this pool's.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn active_named(&self, name: &str) -> Result<Option<ActiveThin>, Error> {
        let Some(found) = self.dm.table(By::Name(name))? else { return Ok(None) };
        let id = found.0.uuid.as_deref().and_then(|uuid| self.id_in(uuid));
        Ok(id.map(|id| active_thin(id, found)))
    }

    /// Who has the name `name` among all device-mapper devices: a uuid, or an empty text for a device
    /// that has none; `None` when the name is free or belongs to the device of thin `id`.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn stranger(&self, id: Option<ThinId>, name: &str) -> Result<Option<String>, Error> {
        let Some(state) = self.dm.state(By::Name(name))? else { return Ok(None) };
        let uuid = state.uuid.unwrap_or_default();
        let ours = id.is_some_and(|id| self.thin_uuid(id) == uuid);
        Ok((!ours).then_some(uuid))
    }

    /// Who keeps the device of thin `id` open; `None` when nobody does or there is no such device. The
    /// answer may be empty: a mount in another namespace of process ids is open and shows nobody.
    ///
    /// What a device's own appearing causes (udev looks at it for a moment) is waited for; what people
    /// or their programs do is not.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn held(&self, id: ThinId) -> Result<Option<Vec<Holder>>, Error> {
        let uuid = self.thin_uuid(id);
        let begun = Instant::now();
        loop {
            let Some(state) = self.dm.state(By::Uuid(&uuid))? else { return Ok(None) };
            if state.open_count == 0 {
                return Ok(None);
            }
            let holders = holders::of(state.dev);
            let passing = holders.iter().all(Holder::is_passing);
            if !passing || begun.elapsed() >= PASSING_WAIT {
                return Ok(Some(holders));
            }
            sleep(PASSING_PAUSE);
        }
    }

    /// Takes away the device of thin `id`, whatever its name is, if nobody has it open.
    ///
    /// # Errors
    /// [`Error::Held`] at once, naming who has it open; those of the commands.
    pub fn deactivate_thin(&self, id: ThinId) -> Result<Removal, Error> {
        let uuid = self.thin_uuid(id);
        let Some(state) = self.dm.state(By::Uuid(&uuid))? else { return Ok(Removal::WasAbsent) };
        if let Some(holders) = self.held(id)? {
            return Err(Error::Held { name: state.name, waited_ms: 0, holders });
        }
        removal::known(&self.dm, By::Uuid(&uuid), state.dev, &state.name, PASSING_WAIT)
    }

    /// Gives the device of thin `id` the name `new`, whatever it was before, also while it is open; whether there is
    /// such a device. When this returns `/dev/mapper/<new>` leads to it, and the former name is gone.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::NotOurs`] when the former name passed to another device in this moment; those of
    /// the commands.
    pub fn rename(&self, id: ThinId, former: &str, new: &str) -> Result<bool, Error> {
        let (former, new) = (DmName::new(former)?, DmName::new(new)?);
        let uuid = self.thin_uuid(id);
        let Some(state) = self.dm.state(By::Uuid(&uuid))? else { return Ok(false) };
        if state.name != new.as_str() {
            match self.dm.rename(&state.name, new.as_str()) {
                Err(err) if err.raw_errno() == Some(Errno::EBUSY) => {
                    return Err(Error::NameTaken { name: new.to_string() });
                }
                renamed => renamed?,
            }
            let now = self.dm.state(By::Uuid(&uuid))?;
            if now.is_none_or(|now| now.name != new.as_str()) {
                return Err(Error::NotOurs { name: new.to_string(), uuid: None });
            }
        }
        node::ensure(state.dev, new.as_str())?;
        for name in [state.name.as_str(), former.as_str()] {
            if name != new.as_str() {
                node::forget(state.dev, name)?;
            }
        }
        Ok(true)
    }

    pub(super) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let ours = |entry: DeviceEntry| {
            let id = self.id_in(&entry.uuid?)?;
            Some(Entry { name: entry.name, id, dev: entry.dev })
        };
        Ok(self.dm.list()?.into_iter().filter_map(ours).collect())
    }

    fn id_in(&self, uuid: &str) -> Option<ThinId> {
        uuid.strip_prefix(&self.thin_prefix())?.parse().ok()
    }

    /// The active volume of this name.
    ///
    /// # Errors
    /// [`Error::VolumeAbsent`]; [`Error::NotOurs`] when it is not one of this pool's.
    pub fn volume(&self, name: &str) -> Result<Volume, Error> {
        let Some((state, lines)) = self.dm.table(By::Name(name))? else {
            return Err(Error::VolumeAbsent { name: name.to_owned() });
        };
        let id = self.thin_id_of(name, state.uuid)?;
        let sectors = Sectors(lines.iter().map(|line| line.sectors).sum());
        Ok(Volume { name: state.name, id, dev: state.dev, sectors })
    }

    /// What an active volume maps; `None` when it is not active.
    ///
    /// # Errors
    /// Those of the commands; [`Error::Garbled`].
    pub fn thin_status(&self, id: ThinId) -> Result<Option<ThinStatus>, Error> {
        let uuid = self.thin_uuid(id);
        let Some((_, lines)) = self.dm.status(By::Uuid(&uuid), false)? else { return Ok(None) };
        match lines.as_slice() {
            [line] if line.kind == "thin" => Ok(Some(ThinStatus::parse(&line.params)?)),
            _ => Ok(None),
        }
    }

    fn thin_id_of(&self, name: &str, uuid: Option<String>) -> Result<ThinId, Error> {
        match uuid.as_deref().and_then(|uuid| self.id_in(uuid)) {
            Some(id) => Ok(id),
            None => Err(Error::NotOurs { name: name.to_owned(), uuid }),
        }
    }

    /// Takes the device away; what the thin holds stays in the pool. That there is no such
    /// device is no error.
    ///
    /// # Errors
    /// [`Error::Held`] after [`Pool::with_remove_wait`], naming who has it open;
    /// [`Error::NotOurs`].
    pub fn deactivate(&self, name: &str) -> Result<Removal, Error> {
        let name = DmName::new(name)?;
        let Some(state) = self.dm.state(By::Name(name.as_str()))? else {
            return Ok(Removal::WasAbsent);
        };
        let id = self.thin_id_of(name.as_str(), state.uuid)?;
        let uuid = self.thin_uuid(id);
        removal::known(&self.dm, By::Uuid(&uuid), state.dev, name.as_str(), self.remove_wait)
    }

    /// After a resume that failed: reads what the device really is, throws a table away that
    /// did not become live, and lets I/O run again on the old one.
    pub(crate) fn mend(&self, by: By<'_>) -> Result<(), Error> {
        let Some(state) = self.dm.state(by)? else { return Ok(()) };
        if state.has_inactive {
            self.dm.clear(by)?;
        }
        if state.suspended && state.has_table {
            self.dm.resume(by)?;
        }
        Ok(())
    }
}

/// One of this pool's devices in the kernel's list.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) id: ThinId,
    pub(super) dev: Dev,
}

fn active_thin(id: ThinId, (state, lines): (DeviceState, Vec<Target>)) -> ActiveThin {
    ActiveThin {
        name: state.name,
        id,
        sectors: Sectors(lines.iter().map(|line| line.sectors).sum()),
        suspended: state.suspended,
        has_table: state.has_table,
        has_inactive: state.has_inactive,
        deferred_remove: state.deferred_remove,
        read_only: state.read_only,
        open_count: state.open_count,
        dev: state.dev,
    }
}
