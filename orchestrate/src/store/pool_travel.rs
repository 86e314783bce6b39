//! Disks on a thin pool that travel.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use registry::VolumeId;
use thin::{Access, Pool};

use crate::error::Error;
use crate::store::pool::ThinStore;
use crate::store::pool_ids::thin_id;
use crate::store::pool_open::admit;
use crate::store::pool_read::{lost, not_made};
use crate::store::pool_room::block_bytes;
use crate::store::travel::{Blocks, Travels};

impl Travels for ThinStore {
    fn travel_block(&self) -> u64 {
        block_bytes(&self.pool)
    }

    fn delta(
        &self,
        left: Option<VolumeId>,
        right: VolumeId,
        from: u64,
        most: usize,
    ) -> Result<thin::Delta, Error> {
        let left = left.map(thin_id).transpose()?;
        self.pool.delta(left, thin_id(right)?, from, most).map_err(|error| lost(error, right))
    }

    fn open_still(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn Blocks>, Error> {
        let (name, path) = self.look_device(id, bytes)?;
        let block = block_bytes(&self.pool);
        open(&self.pool, name, path, block, false)
    }

    fn make_empty(&self, id: VolumeId) -> Result<(), Error> {
        self.pool.create_thin(thin_id(id)?).map_err(|error| not_made(error, id, None))?;
        self.pool.commit()?;
        Ok(())
    }

    fn open_arriving(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn Blocks>, Error> {
        let name = self.work_name(id);
        let (thin, sectors) = (thin_id(id)?, self.sectors(bytes));
        let volume = self.pool.activate(thin, &name, sectors, Access::ReadWrite);
        let path = volume.map_err(|error| lost(error, id))?.path();
        let block = block_bytes(&self.pool);
        open(&self.pool, Some(name), path, block, true)
    }

    fn has_room(&self, bytes: u64) -> Result<(), Error> {
        admit(&self.pool, bytes, 0)
    }
}

/// The device of a disk.
struct ThinBlocks {
    pool: Pool,
    /// Its device; none where that is somebody else's, who looks at it too.
    name: Option<String>,
    device: File,
    path: PathBuf,
    block: u64,
}

fn open(
    pool: &Pool,
    name: Option<String>,
    path: PathBuf,
    block: u64,
    write: bool,
) -> Result<Box<dyn Blocks>, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(nix::libc::O_CLOEXEC);
    if write {
        options.custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_EXCL);
    }
    match options.open(&path) {
        Ok(device) => Ok(Box::new(ThinBlocks { pool: pool.clone(), name, device, path, block })),
        Err(source) => {
            if let Some(name) = name {
                pool.deactivate(&name)?;
            }
            Err(Error::Io { doing: "open", path, source })
        }
    }
}

impl ThinBlocks {
    fn at(&self, block: u64) -> u64 {
        block.saturating_mul(self.block)
    }

    fn failed(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Io { doing, path: path.clone(), source }
    }
}

impl Blocks for ThinBlocks {
    fn read(&mut self, block: u64, into: &mut [u8]) -> Result<(), Error> {
        self.device.read_exact_at(into, self.at(block)).map_err(self.failed("read"))
    }

    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<(), Error> {
        self.device.write_all_at(bytes, self.at(block)).map_err(self.failed("write"))
    }

    fn zero(&mut self, begin: u64, blocks: u64) -> Result<(), Error> {
        let bytes = blocks.saturating_mul(self.block);
        if thin::discard(self.device.as_fd(), self.at(begin), bytes)? {
            return Ok(());
        }
        // A pool that takes no discards.
        let zeros = vec![0; usize::try_from(self.block).unwrap_or(0)];
        (begin..begin.saturating_add(blocks)).try_for_each(|block| self.write(block, &zeros))
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.device.sync_all().map_err(self.failed("sync"))
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let ThinBlocks { pool, name, device, .. } = *self;
        drop(device);
        if let Some(name) = name {
            pool.deactivate(&name)?;
        }
        Ok(())
    }
}
