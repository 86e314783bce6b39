//! The disks of activations on a thin pool.

use registry::VolumeId;
use thin::{Act, FileSystem, InUse, Sectors, Tidied, Volume};

use crate::error::Error;
use crate::plan::disks::DiskUse;
use crate::process::guardian::Guardian;
use crate::store::disks::Disks;
use crate::store::pool::ThinStore;
use crate::store::pool_ids::thin_id;
use crate::store::pool_read::{not_made, told};
use crate::store::snapshot::Snapshot;
use crate::store::travel::Travels;

impl Disks for ThinStore {
    fn travels(&self) -> &dyn Travels {
        self
    }

    fn disk_use(&self, id: VolumeId) -> Result<DiskUse, Error> {
        let (pool, thin) = (&self.pool, thin_id(id)?);
        if pool.active_as(thin)?.is_none_or(|active| !active.has_table) {
            return Ok(DiskUse::Down);
        }
        Ok(match pool.in_use(thin)? {
            InUse::Nobody => DiskUse::Idle,
            InUse::Mounted(holders) => DiskUse::Mounted { by: told(&holders) },
            InUse::Held(holders) => DiskUse::Held { by: told(&holders) },
        })
    }

    fn write_out(&self, id: VolumeId) -> Result<(), Error> {
        Ok(self.pool.write_out(thin_id(id)?)?)
    }

    fn snapshot_live(&self, Snapshot { id, origin }: Snapshot) -> Result<(), Error> {
        let (pool, new, from) = (&self.pool, thin_id(id)?, thin_id(origin)?);
        let active = pool.active_as(from)?.is_some_and(|active| active.has_table);
        let made = match active {
            true => {
                let _guardian = Guardian::over(&pool.thin_uuid(from))?;
                pool.snap_active(new, from)
            }
            false => pool.create_snap(new, from),
        };
        made.map_err(|error| not_made(error, id, Some(origin)))
    }

    fn lengthen(&self, id: VolumeId, bytes: u64) -> Result<(), Error> {
        let (pool, thin) = (&self.pool, thin_id(id)?);
        let Some(active) = pool.active_as(thin)?.filter(|active| active.has_table) else {
            return Ok(());
        };
        let sectors = self.sectors(bytes);
        if sectors <= active.sectors.0 {
            return Ok(());
        }
        if active.read_only {
            return Err(Error::LookedAt { volume: id, name: active.name });
        }
        let (name, dev, sectors_now) = (active.name, active.dev, Sectors(active.sectors.0));
        let volume = Volume { name, id: thin, dev, sectors: sectors_now };
        volume.grow(pool, sectors)?;
        Ok(())
    }

    fn grow_mounted(&self, id: VolumeId, bytes: u64) -> Result<Option<String>, Error> {
        let (pool, thin) = (&self.pool, thin_id(id)?);
        let Some(active) = pool.active_as(thin)? else { return Ok(None) };
        let used = pool.in_use(thin)?;
        let bytes = bytes.min(active.sectors.bytes());
        Ok(match pool.grow_mounted(active.dev, used.holders(), bytes) {
            FileSystem::Grown => None,
            FileSystem::NotGrown(why) => Some(why),
        })
    }

    fn resume_suspended(&self) -> Result<Vec<String>, Error> {
        let line = |done: &Tidied| match done.act {
            Act::NodeMade => {
                format!("device {} had no node below /dev: it has one again", done.name)
            }
            Act::Resumed | Act::Removed | Act::Cleared => format!(
                "device {} was suspended, by a process that was killed or by hand: it runs again",
                done.name
            ),
        };
        Ok(self.pool.resume_all()?.iter().map(line).collect())
    }
}
