//! A store of thin volumes in one live device-mapper pool: the product.
//!
//! A volume at work is active under `<pool>-work-<id>` and mounted detached, so a killed process
//! unmounts itself; what it leaves is one inactive-able device and one thin id, both found again
//! by recovery.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use registry::StoreBinding;
use thin::{Access, Dm, Pool, SECTOR_BYTES, ThinId, Volume};

use crate::Error;
use crate::plan::Mapping;
use crate::store::{Condition, Mapped, Space, Store, Tree, View, Work, pool_note};

/// How a work volume is mounted. Power loss may tear it: an unsealed volume is thrown away, and
/// sealing syncs and commits the pool before anybody relies on it.
const WORK_OPTIONS: &[(&str, Option<&str>)] = &[
    ("noexec", None),
    ("noinit_itable", None),
    ("nodiscard", None),
    ("barrier", Some("0")),
    // The older search for free blocks keeps what is written together in one place: docs/space.md.
    ("mb_optimize_scan", Some("0")),
    ("errors", Some("remount-ro")),
];

/// Of a thin pool's metadata (kernel's thin-provisioning.rst).
const METADATA_BLOCK_BYTES: u64 = 4096;

/// A volume grows by whole ext4 block groups.
const GROUP_BYTES: u64 = 128 << 20;

/// A live pool that is a store.
#[derive(Debug)]
pub struct ThinStore {
    pool: Pool,
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

    fn work_name(&self, id: u32) -> String {
        format!("{}-work-{id}", self.pool.name())
    }

    fn look_name(&self, id: u32) -> String {
        format!("{}-look-{id}", self.pool.name())
    }

    fn block_bytes(&self) -> u64 {
        self.pool.block_sectors() * SECTOR_BYTES
    }

    /// Whole sectors, and whole pool blocks.
    fn sectors(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block_bytes()) * self.pool.block_sectors()
    }
}

/// Asked before work: data and metadata, each with a reserve, so that no build takes the last block
/// from those who write to activations.
fn admit(pool: &Pool, bytes: u64, volumes: u64) -> Result<(), Error> {
    let need = thin::Need { bytes, pieces: 0, volumes };
    match pool.admit(need, thin::Reserve::default()) {
        Ok(_) => Ok(()),
        Err(thin::Error::NoRoom { room, .. }) if room.needs_data > room.free_data => {
            Err(Error::NoSpace {
                what: format!("the layer in pool {:?}", pool.name()),
                needs: bytes,
                free: room.free_data * room.block_bytes,
                garbage: None,
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn thin_id(id: u32) -> Result<ThinId, Error> {
    Ok(ThinId::new(u64::from(id))?)
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

    fn ids(&self) -> Result<Vec<u32>, Error> {
        Ok(self.pool.ids()?.iter().map(|record| record.id.get()).collect())
    }

    fn make_template(&self, id: u32, bytes: u64) -> Result<u64, Error> {
        let thin = thin_id(id)?;
        match self.pool.create_thin(thin) {
            Err(error) if error.kind() == thin::Kind::Exists => {
                // The id is ours since its row was committed: a killed run came this far.
                self.delete(id)?;
                self.pool.create_thin(thin)?;
            }
            made => made?,
        }
        let name = self.work_name(id);
        let sectors = self.sectors(bytes);
        let volume = self.pool.activate(thin, &name, sectors, Access::ReadWrite)?;
        let made =
            thin::template::format(&volume.path(), &thin::template::FormatOptions::default());
        self.pool.deactivate(&name)?;
        made?;
        self.pool.commit()?;
        Ok(sectors * SECTOR_BYTES)
    }

    fn admit(&self, volumes: u64) -> Result<(), Error> {
        admit(&self.pool, 0, volumes)
    }

    fn snapshot(&self, id: u32, origin: u32) -> Result<(), Error> {
        let (new, origin) = (thin_id(id)?, thin_id(origin)?);
        match self.pool.create_snap(new, origin) {
            Err(error) if error.kind() == thin::Kind::Exists => {
                // The id is ours since its row was committed: a killed run came this far.
                self.delete(id)?;
                Ok(self.pool.create_snap(new, origin)?)
            }
            made => Ok(made?),
        }
    }

    fn open(&self, id: u32, bytes: u64) -> Result<Box<dyn Work>, Error> {
        let name = self.work_name(id);
        let volume =
            self.pool.activate(thin_id(id)?, &name, self.sectors(bytes), Access::ReadWrite)?;
        match mount(&volume) {
            Ok((mount, root)) => {
                let pool = self.pool.clone();
                let mut work = ThinWork { pool, volume, mount, root };
                // A retry may have asked for more than the parent has.
                work.fill_volume()?;
                Ok(Box::new(work))
            }
            Err(error) => {
                self.pool.deactivate(&name)?;
                Err(error)
            }
        }
    }

    fn look(&self, id: u32, bytes: u64) -> Result<Box<dyn View>, Error> {
        let name = self.look_name(id);
        let volume =
            self.pool.activate(thin_id(id)?, &name, self.sectors(bytes), Access::ReadOnly)?;
        let mounted = thin::mount::detached(&volume.path(), "ext4", &[("noexec", None)], true)
            .map_err(Error::Thin)
            .and_then(|mount| {
                let root = thin::mount::open_root(mount.as_fd())?;
                let root = unpack::Root::from_fd(root)
                    .map_err(|source| Error::Tree { doing: "open the volume's root", source })?;
                Ok((mount, root))
            });
        match mounted {
            Ok((mount, root)) => {
                Ok(Box::new(ThinView { pool: self.pool.clone(), name, mount, root }))
            }
            Err(error) => {
                self.pool.deactivate(&name)?;
                Err(error)
            }
        }
    }

    fn put_note(&self, id: u32, bytes: u64, note: &[u8]) -> Result<(), Error> {
        let name = self.work_name(id);
        let volume =
            self.pool.activate(thin_id(id)?, &name, self.sectors(bytes), Access::ReadWrite)?;
        let written = pool_note::write(&volume.path(), note);
        self.pool.deactivate(&name)?;
        written?;
        self.pool.commit()?;
        Ok(())
    }

    fn note(&self, id: u32) -> Result<Option<Vec<u8>>, Error> {
        let thin = thin_id(id)?;
        if let Some(active) = self.pool.active_as(thin)? {
            // Half made, it has nothing to read.
            return match mapping(&active) {
                Mapping::Live => pool_note::read(&self.path(&active.name)).map(Some),
                Mapping::Half | Mapping::Absent => Ok(None),
            };
        }
        let name = self.look_name(id);
        let volume =
            self.pool.activate(thin, &name, self.pool.block_sectors(), Access::ReadOnly)?;
        let note = pool_note::read(&volume.path());
        self.pool.deactivate(&name)?;
        note.map(Some)
    }

    fn delete(&self, id: u32) -> Result<(), Error> {
        let thin = thin_id(id)?;
        if let Some(active) = self.pool.active_as(thin)? {
            self.pool.deactivate(&active.name)?;
        }
        match self.pool.delete(thin) {
            Err(error) if error.kind() == thin::Kind::Absent => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    fn map(&self, id: u32, name: &str, bytes: u64) -> Result<PathBuf, Error> {
        let thin = thin_id(id)?;
        match self.pool.activate(thin, name, self.sectors(bytes), Access::ReadWrite) {
            Ok(volume) => Ok(volume.mapper_path()),
            // A killed run came this far.
            Err(thin::Error::AlreadyActive { name: active, .. }) if active == name => {
                Ok(self.path(name))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn unmap(&self, name: &str) -> Result<(), Error> {
        self.pool.deactivate(name)?;
        Ok(())
    }

    fn grow(&self, id: u32, name: &str, bytes: u64) -> Result<(), Error> {
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

    fn mapped(&self) -> Result<Vec<Mapped>, Error> {
        let mapped = |listed: thin::ListedThin| Mapped {
            mapping: if listed.whole { Mapping::Live } else { Mapping::Half },
            id: listed.id.get(),
            name: listed.name,
        };
        Ok(self.pool.listed()?.into_iter().map(mapped).collect())
    }

    fn mapped_as(&self, id: u32) -> Result<Option<Mapped>, Error> {
        let active = self.pool.active_as(thin_id(id)?)?;
        Ok(active.map(|active| Mapped { mapping: mapping(&active), id, name: active.name }))
    }

    fn mapping(&self, name: &str) -> Result<Mapping, Error> {
        Ok(self.pool.active_named(name)?.map_or(Mapping::Absent, |active| mapping(&active)))
    }

    fn space(&self) -> Result<Space, Error> {
        let block = self.block_bytes();
        let status = self.pool.status()?;
        let (used, total) =
            status.working().map_or((0, 0), |pool| (pool.used_data.0, pool.total_data.0));
        Ok(Space { total: total * block, used: used * block, block })
    }

    fn condition(&self) -> Result<Condition, Error> {
        let block = self.block_bytes();
        let status = self.pool.status()?;
        let Some(pool) = status.working() else {
            let (mode, data) = ("fail".into(), Space { total: 0, used: 0, block });
            return Ok(Condition { mode, data, metadata: None, transaction_id: None });
        };
        let mode = match pool.mode {
            _ if pool.needs_check => "needs_check",
            thin::Mode::ReadWrite => "rw",
            thin::Mode::ReadOnly => "ro",
            thin::Mode::OutOfDataSpace => "out_of_data_space",
        };
        Ok(Condition {
            mode: mode.into(),
            data: Space { total: pool.total_data.0 * block, used: pool.used_data.0 * block, block },
            metadata: Some(Space {
                total: pool.total_metadata * METADATA_BLOCK_BYTES,
                used: pool.used_metadata * METADATA_BLOCK_BYTES,
                block: METADATA_BLOCK_BYTES,
            }),
            transaction_id: Some(pool.transaction_id),
        })
    }

    fn exclusive(&self) -> Result<Option<Vec<(u32, u64)>>, Error> {
        let block = self.block_bytes();
        let usage = self.pool.usage()?;
        Ok(Some(usage.iter().map(|of| (of.record.id.get(), of.exclusive_blocks * block)).collect()))
    }

    fn alone(&self) -> bool {
        true
    }

    fn ioctls(&self) -> u64 {
        Dm::ioctls()
    }
}

fn mapping(active: &thin::ActiveThin) -> Mapping {
    match active.has_table && !active.suspended {
        true => Mapping::Live,
        false => Mapping::Half,
    }
}

fn mount(volume: &Volume) -> Result<(OwnedFd, unpack::Root), Error> {
    let mount = thin::mount::detached(&volume.path(), "ext4", WORK_OPTIONS, false)?;
    gather(volume);
    let root = thin::mount::open_root(mount.as_fd())?;
    let root = unpack::Root::from_fd(root)
        .map_err(|source| Error::Tree { doing: "open the volume's root", source })?;
    Ok((mount, root))
}

/// Has ext4 put every file where the last one ended, small ones too: 2 % fewer pool blocks. A kernel
/// or a container without this file does without.
fn gather(volume: &Volume) {
    let knob = format!("/sys/fs/ext4/dm-{}/mb_stream_req", volume.dev.minor);
    drop(std::fs::write(knob, "0"));
}

/// A sealed volume, active read-only and mounted detached.
struct ThinView {
    pool: Pool,
    name: String,
    mount: OwnedFd,
    root: unpack::Root,
}

impl View for ThinView {
    fn tree(&self) -> Tree<'_> {
        Tree::Mount(self.mount.as_fd())
    }

    fn root(&self) -> &unpack::Root {
        &self.root
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let ThinView { pool, name, mount, root } = *self;
        drop((root, mount));
        pool.deactivate(&name)?;
        Ok(())
    }
}

/// An active work volume with its detached mount.
struct ThinWork {
    pool: Pool,
    volume: Volume,
    mount: OwnedFd,
    root: unpack::Root,
}

impl ThinWork {
    fn stat(&self) -> Result<nix::sys::statvfs::Statvfs, Error> {
        nix::sys::statvfs::fstatvfs(&self.root).map_err(|errno| Error::Io {
            doing: "measure",
            path: self.volume.path(),
            source: errno.into(),
        })
    }

    /// Grows the file system to the size of its volume.
    fn fill_volume(&mut self) -> Result<(), Error> {
        let bytes = self.volume.sectors.bytes();
        let stat = self.stat()?;
        // Metadata is not counted in `blocks`, so only a difference of a group means something.
        if stat.blocks() * stat.fragment_size() + bytes / 8 + GROUP_BYTES < bytes {
            thin::mount::grow_ext4(self.mount.as_fd(), bytes)?;
        }
        Ok(())
    }
}

impl Work for ThinWork {
    fn root(&self) -> &unpack::Root {
        &self.root
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), Error> {
        admit(&self.pool, bytes, 0)?;
        let stat = self.stat()?;
        let room = stat.blocks_available() * stat.fragment_size();
        // Each file ends in a partly used block, and directories and maps come on top.
        let needs = bytes + bytes / 4 + (16 << 20);
        if needs > room {
            let more = (needs - room).div_ceil(GROUP_BYTES) * GROUP_BYTES;
            let grown = self.volume.sectors.bytes() + more;
            self.volume = self.volume.grow(&self.pool, grown.div_ceil(SECTOR_BYTES))?;
            thin::mount::grow_ext4(self.mount.as_fd(), self.volume.sectors.bytes())?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.volume.sectors.bytes()
    }

    fn close(self: Box<Self>, note: Option<&[u8]>) -> Result<(), Error> {
        let ThinWork { pool, volume, mount, root } = *self;
        unpack::sync(&root).map_err(|source| Error::Tree { doing: "sync the layer", source })?;
        drop((root, mount));
        if let Some(note) = note {
            pool_note::write(&volume.path(), note)?;
        }
        pool.deactivate(&volume.name)?;
        pool.commit()?;
        Ok(())
    }
}
