//! A store of thin volumes in one live device-mapper pool: the product.
//!
//! A volume at work is active under `<pool>-work-<id>`, and its layer is written into it, or it is mounted
//! detached, so that a killed process unmounts itself; what it leaves is one inactive-able device and one thin id,
//! both found again by recovery.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use registry::{StoreBinding, VolumeId};
use thin::{Access, Dm, Pool, SECTOR_BYTES, Volume};

use crate::error::Error;
use crate::plan::Mapping;
use crate::plan::guard::Fills;
use crate::plan::mapped::Mapped;
use crate::store::disks::Disks;
use crate::store::pool_ids::{thin_id, volume_id};
use crate::store::pool_image::{self, ImageReading, ImageWork};
use crate::store::pool_open::{ThinView, ThinWork, admit, mount};
use crate::store::pool_read::{self, lost, mapping, not_made, told};
use crate::store::seam::{
    ByStart, Condition, Ground, Made, Peek, Reading, Space, Store, Taken, View, Work,
};
use crate::store::snapshot::Snapshot;
use crate::store::{pool_active, pool_names, pool_room, pool_seal, pool_serials};

/// A live pool that is a store.
#[derive(Debug)]
pub struct ThinStore {
    pub(super) pool: Pool,
}

impl ThinStore {
    /// Adopts the live pool of this device-mapper name.
    ///
    /// # Errors
    /// [`Error::Thin`] naming what is missing: device-mapper, root's rights, or the pool.
    pub fn open(pool: &str) -> Result<ThinStore, Error> {
        let pool = Pool::adopt(Dm::open()?, pool)?;
        Ok(ThinStore { pool: pool.with_notes(&thin::notes::dir(), "orchestrate") })
    }

    pub(super) fn work_name(&self, id: VolumeId) -> String {
        pool_names::work(self.pool.name(), id)
    }

    fn look_name(&self, id: VolumeId) -> String {
        pool_names::look(self.pool.name(), id)
    }

    /// A device through which `id` can be read and not written: one of our own, with its name, or that
    /// of somebody who looks at it.
    pub(super) fn look_device(
        &self,
        id: VolumeId,
        bytes: u64,
    ) -> Result<(Option<String>, PathBuf), Error> {
        let (thin, name) = (thin_id(id)?, self.look_name(id));
        match self.pool.activate(thin, &name, self.sectors(bytes), Access::ReadOnly) {
            Ok(volume) => Ok((Some(name), volume.path())),
            Err(thin::Error::AlreadyActive { name: active, .. })
                if active != name && self.read_only(id)? =>
            {
                Ok((None, self.path(&active)))
            }
            Err(error) => Err(lost(error, id)),
        }
    }

    /// Mounts the active work volume, and fills it.
    fn open_mounted(&self, volume: Volume) -> Result<Box<dyn Work>, Error> {
        let (mount, root) = mount(&volume)?;
        let mut work = ThinWork { pool: self.pool.clone(), volume, mount, root };
        // A retry may have asked for more than the parent has.
        work.fill_volume()?;
        Ok(Box::new(work))
    }

    /// Mounts the sealed `id`, read-only.
    fn view(&self, id: VolumeId, bytes: u64) -> Result<ThinView, Error> {
        let (name, device) = self.look_device(id, bytes)?;
        let mounted = thin::mount::detached(&device, "ext4", &[("noexec", None)], true)
            .map_err(Error::Thin)
            .and_then(|mount| {
                let root = thin::mount::open_root(mount.as_fd())?;
                let root = unpack::Root::from_fd(root)
                    .map_err(|source| Error::Tree { doing: "open the volume's root", source })?;
                Ok((mount, root))
            });
        match mounted {
            Ok((mount, root)) => Ok(ThinView { pool: self.pool.clone(), name, mount, root }),
            Err(error) => {
                if let Some(name) = name {
                    self.pool.deactivate(&name)?;
                }
                Err(error)
            }
        }
    }

    fn block_bytes(&self) -> u64 {
        pool_room::block_bytes(&self.pool)
    }

    /// Whole sectors, and whole pool blocks.
    pub(super) fn sectors(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block_bytes()) * self.pool.block_sectors()
    }
}

impl Store for ThinStore {
    fn binding(&self) -> StoreBinding {
        StoreBinding { kind: "thin".into(), id: self.pool.id() }
    }

    fn transaction_id(&self) -> Result<u64, Error> {
        let status = self.pool.status()?;
        match status.transaction_id() {
            Some(id) => Ok(id),
            // A pool that has failed says nothing but that.
            None => Err(self
                .pool
                .commit()
                .err()
                .map_or(Error::Fence { registry: 0, store: 0 }, Error::Thin)),
        }
    }

    fn set_transaction_id(&self, current: u64, next: u64) -> Result<(), Error> {
        Ok(self.pool.set_transaction_id(current, next)?)
    }

    fn has(&self, id: VolumeId) -> Result<bool, Error> {
        Ok(self.pool.exists(thin_id(id)?)?)
    }

    fn made_at(&self, id: VolumeId) -> Result<Made, Error> {
        let record = self.pool.record(thin_id(id)?)?;
        Ok(record.map_or(Made::Never, |record| Made::At(record.transaction_id)))
    }

    fn ids(&self) -> Result<Vec<VolumeId>, Error> {
        Ok(self.pool.ids()?.iter().map(|record| volume_id(record.id)).collect())
    }

    fn made(&self) -> Result<BTreeMap<VolumeId, Made>, Error> {
        pool_read::made(&self.pool)
    }

    fn make_template(&self, id: VolumeId, bytes: u64) -> Result<u64, Error> {
        let thin = thin_id(id)?;
        self.pool.create_thin(thin).map_err(|error| not_made(error, id, None))?;
        let name = self.work_name(id);
        let sectors = self.sectors(bytes);
        let volume = self.pool.activate(thin, &name, sectors, Access::ReadWrite)?;
        let made = pool_image::make_template(&volume, self.block_bytes());
        self.pool.deactivate(&name)?;
        made?;
        self.pool.commit()?;
        Ok(sectors * SECTOR_BYTES)
    }

    fn fits_template(&self, id: VolumeId, bytes: u64) -> bool {
        pool_image::geometry(id, self.device_bytes(bytes), self.block_bytes()).is_ok()
    }

    fn admit(&self, volumes: u64) -> Result<(), Error> {
        admit(&self.pool, 0, volumes)
    }

    fn snapshot(&self, Snapshot { id, origin }: Snapshot) -> Result<(), Error> {
        let (new, from) = (thin_id(id)?, thin_id(origin)?);
        self.pool.create_snap(new, from).map_err(|error| not_made(error, id, Some(origin)))
    }

    fn open(&self, id: VolumeId, bytes: u64, judge: ByStart<'_>) -> Result<Box<dyn Work>, Error> {
        let name = self.work_name(id);
        let volume =
            self.pool.activate(thin_id(id)?, &name, self.sectors(bytes), Access::ReadWrite)?;
        let ground = pool_seal::read(&volume.path()).and_then(|start| judge(&start));
        let opened = ground.and_then(|ground| match ground {
            Ground::Mounted => self.open_mounted(volume),
            Ground::Written => ImageWork::open(self.pool.clone(), volume)
                .map(|work| -> Box<dyn Work> { Box::new(work) }),
        });
        if opened.is_err() {
            self.pool.deactivate(&name)?;
        }
        opened
    }

    fn read(&self, id: VolumeId, bytes: u64, ground: Ground) -> Result<Box<dyn Reading>, Error> {
        Ok(match ground {
            Ground::Mounted => Box::new(self.view(id, bytes)?),
            Ground::Written => {
                let (name, device) = self.look_device(id, bytes)?;
                Box::new(ImageReading::open(self.pool.clone(), name, device)?)
            }
        })
    }

    fn read_activation(
        &self,
        id: VolumeId,
        _name: &str,
        bytes: u64,
    ) -> Result<Box<dyn Reading>, Error> {
        match self.pool.active_as(thin_id(id)?)? {
            None => self.read(id, bytes, Ground::Written),
            Some(active) => pool_active::open(&self.pool, active),
        }
    }

    fn look(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn View>, Error> {
        Ok(Box::new(self.view(id, bytes)?))
    }

    fn put_seal_record(&self, id: VolumeId, bytes: u64, seal_record: &[u8]) -> Result<(), Error> {
        let name = self.work_name(id);
        let volume =
            self.pool.activate(thin_id(id)?, &name, self.sectors(bytes), Access::ReadWrite)?;
        let written = pool_seal::write(&volume.path(), seal_record);
        self.pool.deactivate(&name)?;
        written?;
        self.pool.commit()?;
        Ok(())
    }

    fn seal_record(&self, id: VolumeId) -> Result<Option<Vec<u8>>, Error> {
        let thin = thin_id(id)?;
        if let Some(active) = self.pool.active_as(thin)? {
            // Half made, it has nothing to read.
            return match mapping(&active) {
                Mapping::Live | Mapping::Astray => {
                    pool_seal::read(&self.path(&active.name)).map(Some)
                }
                Mapping::Half | Mapping::Absent => Ok(None),
            };
        }
        let name = self.look_name(id);
        let volume = self
            .pool
            .activate(thin, &name, self.pool.block_sectors(), Access::ReadOnly)
            .map_err(|error| lost(error, id))?;
        let seal_record = pool_seal::read(&volume.path());
        self.pool.deactivate(&name)?;
        seal_record.map(Some)
    }

    fn peek(&self, id: VolumeId) -> Result<Peek, Error> {
        if let Some(mapped) = self.mapped_as(id)?.filter(|mapped| !self.is_work(mapped)) {
            return Ok(Peek::InUse(mapped.name));
        }
        match self.seal_record(id) {
            Ok(seal_record) => Ok(seal_record.map_or(Peek::InUse(self.look_name(id)), Peek::Bytes)),
            Err(Error::Lost { .. }) => Ok(Peek::Absent),
            Err(error) => Err(error),
        }
    }

    /// A lock on the node below the pool: there is no file of ours yet, and none may be made; the pool's
    /// own is locked by whoever enumerates it.
    fn looks_alone(&self, wait: Duration) -> Result<Option<File>, Error> {
        let path = self.pool.metadata_path()?;
        let fail = |source| Error::Io { doing: "lock", path: path.clone(), source };
        let node = File::open(&path).map_err(fail)?;
        let begun = Instant::now();
        loop {
            match node.try_lock() {
                Ok(()) => return Ok(Some(node)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < wait => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    let what = format!("a look at the volumes of pool {:?}", self.pool.name());
                    let holder = "another process".into();
                    return Err(Error::Locked { what, holder, waited_s: wait.as_secs() });
                }
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
        }
    }

    fn is_work(&self, mapped: &Mapped) -> bool {
        [self.work_name(mapped.id), self.look_name(mapped.id)].contains(&mapped.name)
    }

    fn keeps_name(&self, name: &str) -> bool {
        pool_names::is_kept(self.pool.name(), name)
    }

    fn serials_need_volume(&self) -> bool {
        true
    }

    fn make_serials(&self, id: VolumeId) -> Result<(), Error> {
        self.pool.create_thin(thin_id(id)?).map_err(|error| not_made(error, id, None))?;
        self.pool.commit()?;
        Ok(())
    }

    fn serials(&self, volume: Option<VolumeId>) -> Result<Vec<Vec<u8>>, Error> {
        let Some(id) = volume else { return Ok(Vec::new()) };
        let names = [self.look_name(id), self.work_name(id)];
        pool_serials::on(&self.pool, thin_id(id)?, names, Access::ReadOnly, pool_serials::read)
    }

    fn put_serials(
        &self,
        volume: Option<VolumeId>,
        copy: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let Some(id) = volume else { return Err(Error::Lost { volume: VolumeId::default() }) };
        let names = [self.work_name(id), self.look_name(id)];
        let write = |device: &Path| pool_serials::write(device, copy, bytes);
        pool_serials::on(&self.pool, thin_id(id)?, names, Access::ReadWrite, write)?;
        self.pool.commit()?;
        Ok(())
    }

    fn delete(&self, id: VolumeId) -> Result<(), Error> {
        let thin = thin_id(id)?;
        if let Some(active) = self.pool.active_as(thin)? {
            self.pool.deactivate(&active.name)?;
        }
        match self.pool.delete(thin) {
            Err(error) if error.kind() == thin::Kind::Absent => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    fn purge(&self, id: VolumeId) -> Result<(), Error> {
        match self.pool.delete(thin_id(id)?) {
            // The kernel refuses by itself what is active, whoever made the device.
            Err(thin::Error::AlreadyActive { name, .. }) => {
                let by = format!("the device {name}");
                Err(Error::Taken { name: format!("volume {id}"), by })
            }
            Err(error) if error.kind() == thin::Kind::Absent => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    fn rename(&self, id: VolumeId, former: &str, new: &str) -> Result<(), Error> {
        pool_read::rename(&self.pool, thin_id(id)?, former, new)
    }

    fn map(&self, id: VolumeId, name: &str, bytes: u64, read_only: bool) -> Result<PathBuf, Error> {
        let thin = thin_id(id)?;
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        match self.pool.activate(thin, name, self.sectors(bytes), access) {
            Ok(volume) => Ok(volume.mapper_path()),
            // A killed run came this far.
            Err(thin::Error::AlreadyActive { name: active, .. }) if active == name => {
                match (read_only, self.read_only(id)?) {
                    (true, true) | (false, false) => Ok(self.path(name)),
                    (false, true) => Err(Error::LookedAt { volume: id, name: active }),
                    (true, false) => Err(pool_read::takes_writes(active)),
                }
            }
            Err(thin::Error::AlreadyActive { name: active, .. }) if self.read_only(id)? => {
                Err(Error::LookedAt { volume: id, name: active })
            }
            Err(thin::Error::NameTaken { .. }) => {
                let by = self.stranger(Some(id), name)?.unwrap_or_else(|| "another device".into());
                Err(Error::Stranger { name: name.into(), by })
            }
            Err(thin::Error::ThinAbsent { .. }) => Err(Error::Gone { volume: id }),
            Err(error) => Err(error.into()),
        }
    }

    fn unmap(&self, id: VolumeId, name: &str) -> Result<(), Error> {
        match self.pool.deactivate_thin(thin_id(id)?) {
            Ok(_) => Ok(()),
            Err(thin::Error::Held { holders, .. }) => {
                Err(Error::Held { what: name.into(), by: told(&holders) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn held(&self, id: VolumeId) -> Result<Option<String>, Error> {
        Ok(self.pool.held(thin_id(id)?)?.map(|holders| told(&holders)))
    }

    fn read_only(&self, id: VolumeId) -> Result<bool, Error> {
        Ok(self.pool.active_as(thin_id(id)?)?.is_some_and(|active| active.read_only))
    }

    fn stranger(&self, id: Option<VolumeId>, name: &str) -> Result<Option<String>, Error> {
        let id = id.map(thin_id).transpose()?;
        let device = |uuid: String| match uuid.as_str() {
            "" => "a device-mapper device without a uuid".into(),
            uuid => format!("the device-mapper device with uuid {uuid:?}"),
        };
        Ok(self.pool.stranger(id, name)?.map(device))
    }

    fn device_bytes(&self, bytes: u64) -> u64 {
        self.sectors(bytes) * SECTOR_BYTES
    }

    fn boot(&self) -> Result<Option<String>, Error> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        })?;
        Ok(Some(text.trim().into()))
    }

    fn grow(&self, id: VolumeId, name: &str, bytes: u64) -> Result<(), Error> {
        let volume =
            Volume { sectors: thin::Sectors(self.sectors(bytes)), ..self.pool.volume(name)? };
        if volume.id != thin_id(id)? {
            return Err(Error::Taken { name: name.into(), by: format!("thin {}", volume.id) });
        }
        let (mount, _root) = mount(&volume)?;
        thin::mount::grow_ext4(mount.as_fd(), volume.sectors.bytes())?;
        Ok(thin::mount::sync(mount.as_fd())?)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/dev/mapper").join(name)
    }

    fn device(&self, id: VolumeId) -> Result<Option<(u32, u32)>, Error> {
        let active = self.pool.active_as(thin_id(id)?)?;
        Ok(active.map(|active| (active.dev.major, active.dev.minor)))
    }

    fn disks(&self) -> Option<&dyn Disks> {
        Some(self)
    }

    fn mapped(&self) -> Result<Vec<Mapped>, Error> {
        let mapped = |listed: thin::ListedThin| Mapped {
            mapping: if listed.whole { Mapping::Live } else { Mapping::Half },
            id: volume_id(listed.id),
            name: listed.name,
            bytes: listed.bytes,
        };
        Ok(self.pool.listed()?.into_iter().map(mapped).collect())
    }

    fn mapped_as(&self, id: VolumeId) -> Result<Option<Mapped>, Error> {
        let active = self.pool.active_as(thin_id(id)?)?;
        Ok(active.map(|active| Mapped {
            mapping: mapping(&active),
            id,
            bytes: active.sectors.bytes(),
            name: active.name,
        }))
    }

    fn mapping(&self, id: VolumeId, name: &str) -> Result<Mapping, Error> {
        let Some(active) = self.pool.active_as(thin_id(id)?)? else { return Ok(Mapping::Absent) };
        Ok(match mapping(&active) {
            Mapping::Live if active.name != name => Mapping::Astray,
            found => found,
        })
    }

    fn space(&self) -> Result<Space, Error> {
        pool_room::space(&self.pool)
    }

    fn fills(&self) -> Result<Option<Fills>, Error> {
        pool_room::fills(&self.pool).map(Some)
    }

    fn condition(&self) -> Result<Condition, Error> {
        pool_room::condition(&self.pool)
    }

    fn taken_by_each(&self) -> Result<Option<Vec<Taken>>, Error> {
        pool_room::taken_by_each(&self.pool).map(Some)
    }

    fn alone(&self) -> bool {
        true
    }

    fn ioctls(&self) -> u64 {
        Dm::ioctls()
    }
}
