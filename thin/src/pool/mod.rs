//! One live thin pool: made, taken on, looked at, reloaded, taken down.
//!
//! Its messages are in `message.rs`, its volumes in `volume.rs`; the files and loops below it in
//! `store/mod.rs`.

pub(crate) mod admit;
pub(crate) mod copies;
pub(crate) mod delta;
pub(crate) mod disk;
pub(crate) mod events;
pub(crate) mod look;
pub(crate) mod message;
pub(crate) mod metadata;
pub mod notes;
pub(crate) mod provenance;
pub(crate) mod rescue;
pub(crate) mod spacemap;
pub(crate) mod tidy;
pub(crate) mod volume;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::error::Error;
use crate::format::status::{PoolStatus, WhenFull};
use crate::format::table::{DeviceRef, Features, PoolTable};
use crate::format::units::{DataBlockSize, Dev, DmName, Sectors, ThinId};
use crate::kernel::dm::{By, Dm};
use crate::kernel::{node, removal, sys};
use crate::pool::notes::Notes;

/// Uuids of pools this crate makes start so; a pool id follows.
pub(crate) const POOL_UUID: &str = "VENEER-pool-";

/// How long a removal is tried while the device is open.
pub const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// A block device that was looked up and measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Where it was found.
    pub path: PathBuf,
    /// Its number, which is what tables use.
    pub dev: Dev,
    /// Its size.
    pub sectors: Sectors,
}

impl Device {
    /// Looks the device up.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOTBLK when it is not a block device.
    pub fn open(path: &Path) -> Result<Device, Error> {
        let dev = node::block_dev(path)
            .map_err(|err| Error::io("look at", path, err))?
            .ok_or_else(|| Error::errno("not a block device", path, Errno::ENOTBLK))?;
        let file = File::open(path).map_err(|err| Error::io("open", path, err))?;
        let bytes =
            sys::block_bytes(file.as_fd()).map_err(|errno| Error::errno("size of", path, errno))?;
        Ok(Device { path: path.to_owned(), dev, sectors: Sectors::within(bytes) })
    }
}

/// What a pool is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSpec {
    /// Device-mapper name.
    pub name: DmName,
    /// Identity, of the bytes a [`DmName`] may have; without one the name serves.
    pub id: Option<String>,
    /// Where the blocks are.
    pub data: Device,
    /// Where the maps are. **The kernel formats it as a new pool when its first 4 KiB are zero.**
    pub metadata: Device,
    /// Data block size; that of an existing pool cannot change.
    pub block: DataBlockSize,
    /// Free data blocks at which an event is raised.
    pub low_water: u64,
    /// See [`Features::safe`].
    pub features: Features,
}

/// A live pool.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) dm: Dm,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) dev: Dev,
    pub(crate) table: PoolTable,
    pub(crate) remove_wait: Duration,
    pub(crate) notes: Option<Notes>,
}

impl Pool {
    /// Makes the pool live under a uuid of ours. On any failure nothing of it is left.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::NoDeviceMapper`] without the thin-pool target; those of the
    /// target, such as EBUSY when another pool has the devices.
    pub fn create(dm: Dm, spec: &PoolSpec) -> Result<Pool, Error> {
        let whole = spec.data.sectors.0 / spec.block.sectors() * spec.block.sectors();
        let table = PoolTable {
            sectors: Sectors(whole),
            metadata: DeviceRef::Number(spec.metadata.dev),
            data: DeviceRef::Number(spec.data.dev),
            block: spec.block,
            low_water: spec.low_water,
            features: spec.features,
        };
        Pool::bring_up(dm, spec.name.as_str(), spec.id.as_deref(), table)
    }

    /// Makes the pool live from a whole table line, such as
    /// `0 4194304 thin-pool /dev/loop0 /dev/loop1 2048 32768`; paths in it are looked up.
    ///
    /// # Errors
    /// As [`Pool::create`], and [`Error::Garbled`] for a line that is none.
    pub fn create_from_table(dm: Dm, name: &str, table_line: &str) -> Result<Pool, Error> {
        let name = DmName::new(name)?;
        let mut table = PoolTable::parse_line(table_line)?;
        for device in [&mut table.metadata, &mut table.data] {
            if let DeviceRef::Path(path) = device {
                *device = DeviceRef::Number(Device::open(Path::new(path))?.dev);
            }
        }
        Pool::bring_up(dm, name.as_str(), None, table)
    }

    fn bring_up(dm: Dm, name: &str, id: Option<&str>, table: PoolTable) -> Result<Pool, Error> {
        let id = match id {
            Some(id) => DmName::new(id)?.as_str().to_owned(),
            None => id_from_name(name),
        };
        let uuid = format!("{POOL_UUID}{id}");
        dm.create(name, &uuid).map_err(|err| match err.raw_errno() {
            Some(Errno::EBUSY) => Error::NameTaken { name: name.to_owned() },
            _ => err,
        })?;
        let by = By::Uuid(&uuid);
        let made = dm
            .load(by, &[table.target()], false)
            .and_then(|()| dm.resume(by))
            .and_then(|state| node::ensure(state.dev, name).map(|()| state));
        match made {
            Ok(state) => {
                let (name, dev) = (name.to_owned(), state.dev);
                Ok(Pool { dm, name, id, dev, table, remove_wait: REMOVE_WAIT, notes: None })
            }
            Err(err) => {
                // The first failure is the one to tell; a device left is found by the next `up`.
                let left = removal::remove(&dm, &uuid, name, REMOVE_WAIT);
                Err(explain_load(&dm, err, left.is_err()))
            }
        }
    }

    /// Takes on a pool that is live already, whoever made it.
    ///
    /// # Errors
    /// [`Error::PoolMissing`]; [`Error::NotAPool`].
    pub fn adopt(dm: Dm, name: &str) -> Result<Pool, Error> {
        let name = DmName::new(name)?;
        let name = name.as_str().to_owned();
        let Some((state, lines)) = dm.table(By::Name(&name))? else {
            return Err(Error::PoolMissing { pool: name });
        };
        let line = match lines.as_slice() {
            [line] if line.kind == "thin-pool" && state.has_table => line,
            [] => return Err(Error::NotAPool { name, target: "it has no table".to_owned() }),
            [line, ..] => {
                let target = format!("its target is \"{}\"", line.kind);
                return Err(Error::NotAPool { name, target });
            }
        };
        let table = PoolTable::parse(Sectors(line.sectors), &line.params)?;
        let ours = state.uuid.as_deref().and_then(|uuid| uuid.strip_prefix(POOL_UUID));
        let id = ours.map_or_else(|| id_from_name(&name), str::to_owned);
        if state.suspended && ours.is_some() {
            // Left by a process that was killed in between; no thin can be loaded meanwhile.
            dm.resume(By::Name(&name))?;
        }
        Ok(Pool { dm, name, id, dev: state.dev, table, remove_wait: REMOVE_WAIT, notes: None })
    }

    /// How long [`Pool::deactivate`] and [`Pool::remove_pool`] wait for an open device.
    #[must_use]
    pub fn with_remove_wait(mut self, wait: Duration) -> Pool {
        self.remove_wait = wait;
        self
    }

    /// Device-mapper name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pool's identity in the uuids of its volumes: stable as long as pool and name are.
    pub fn id(&self) -> String {
        self.id.clone()
    }

    /// The pool's own device number.
    pub fn dev(&self) -> Dev {
        self.dev
    }

    /// The table it was loaded with.
    pub fn table(&self) -> &PoolTable {
        &self.table
    }

    /// The control node it is reached through.
    pub fn dm(&self) -> &Dm {
        &self.dm
    }

    /// Size of a data block.
    pub fn block_sectors(&self) -> u64 {
        self.table.block.sectors()
    }

    /// The uuid a volume of thin `id` has while it is active.
    pub fn thin_uuid(&self, id: ThinId) -> String {
        format!("{}{id}", self.thin_prefix())
    }

    pub(crate) fn thin_prefix(&self) -> String {
        format!("VENEER-{}-", self.id)
    }

    /// The pool's figures, without writing anything.
    ///
    /// # Errors
    /// [`Error::PoolMissing`] when it has gone; [`Error::Garbled`].
    pub fn status(&self) -> Result<PoolStatus, Error> {
        self.read_status(false)
    }

    /// Commits the pool's metadata, and with it all that was written before, then requires that
    /// the pool is writable: the barrier before a layer is called sealed.
    ///
    /// # Errors
    /// [`Error::NotWritable`] when the commit did not hold; as [`Pool::status`].
    pub fn commit(&self) -> Result<PoolStatus, Error> {
        // The flushing form commits before it reads, but a failed commit is not its failure.
        self.read_status(true)?;
        self.require(PoolStatus::is_writable)
    }

    fn read_status(&self, flush: bool) -> Result<PoolStatus, Error> {
        let gone = || Error::PoolMissing { pool: self.name.clone() };
        let (_, lines) = self.dm.status(By::Name(&self.name), flush)?.ok_or_else(gone)?;
        match lines.as_slice() {
            [line] if line.kind == "thin-pool" => Ok(PoolStatus::parse(&line.params)?),
            _ => Err(gone()),
        }
    }

    /// Loads the pool's table again, as long as `sectors` allows, and makes it live; the kernel
    /// then takes the metadata device's new size as well. I/O waits meanwhile.
    ///
    /// # Errors
    /// [`Error::Shrink`]; those of the commands, after which the old table is in and I/O runs.
    pub fn reload(&mut self, sectors: u64) -> Result<(), Error> {
        let whole = sectors / self.block_sectors() * self.block_sectors();
        if whole < self.table.sectors.0 {
            let (from, to) = (self.table.sectors.0, whole);
            return Err(Error::Shrink { name: self.name.clone(), from, to });
        }
        let table = PoolTable { sectors: Sectors(whole), ..self.table.clone() };
        self.swap(table)
    }

    /// Changes what becomes of a write that finds no free block, live.
    ///
    /// # Errors
    /// Those of the commands, after which the old table is in and I/O runs.
    pub fn set_when_full(&mut self, when_full: WhenFull) -> Result<(), Error> {
        let mut table = self.table.clone();
        table.features.error_if_no_space = when_full == WhenFull::Error;
        self.swap(table)
    }

    fn swap(&mut self, table: PoolTable) -> Result<(), Error> {
        let by = By::Name(&self.name);
        self.dm.load(by, &[table.target()], false)?;
        if let Err(err) = self.dm.resume(by) {
            self.mend(by)?;
            return Err(err);
        }
        self.table = table;
        Ok(())
    }

    /// Takes the pool down.
    ///
    /// # Errors
    /// [`Error::Held`] with the volumes still on it.
    pub fn remove_pool(self) -> Result<(), Error> {
        let Some(state) = self.dm.state(By::Name(&self.name))? else { return Ok(()) };
        match state.uuid {
            Some(uuid) => removal::remove(&self.dm, &uuid, &self.name, self.remove_wait),
            None => removal::remove_by_name(&self.dm, &self.name, self.remove_wait),
        }
        .map(drop)
    }
}

/// A module that is missing shows as EINVAL of the load: say what it is.
fn explain_load(dm: &Dm, err: Error, left_behind: bool) -> Error {
    if err.raw_errno() == Some(Errno::EINVAL)
        && !left_behind
        && dm.target_version("thin-pool").is_ok_and(|version| version.is_none())
    {
        return Error::NoDeviceMapper { what: "load a thin-pool table", errno: Errno::EINVAL };
    }
    err
}

/// An identity for a pool without one: its name. The dot keeps it apart from a random id, and a
/// name too long for a uuid field beside a thin id is cut to a digest of itself (FNV-1a).
fn id_from_name(name: &str) -> String {
    if name.len() <= 96 {
        return format!("name.{name}");
    }
    let digest = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("fnv.{digest:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gives_a_uuid_that_fits() {
        for length in [1, 64, 96, 97, 127] {
            let id = id_from_name(&"n".repeat(length));
            assert!(format!("VENEER-{id}-{}", ThinId::MAX).len() <= 128, "{length}");
            assert!(format!("{POOL_UUID}{id}").len() <= 128, "{length}");
        }
        assert_ne!(id_from_name(&"a".repeat(100)), id_from_name(&"a".repeat(101)));
    }
}
