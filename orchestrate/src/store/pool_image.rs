//! A thin volume that is an image of the writer: a layer is written into it, or its tree is read, and it is not
//! mounted for either. Where a kernel never reads what a stranger has made, nothing can go wrong there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use registry::VolumeId;
use thin::{Pool, Volume};
use unpack::{Before, Geometry, Unfit};

use crate::error::Error;
use crate::store::content::Content;
use crate::store::pool_ids::volume_id;
use crate::store::pool_open::admit;
use crate::store::pool_seal;
use crate::store::seam::{Reading, Work};

/// Bytes of a block of the file system: hosts whose disks have sectors of 4 KiB can mount no smaller one.
const BLOCK_BYTES: u32 = 4096;
/// What the writer aligns data to where a pool's block is no power of two, or larger than it can take.
const ALIGN_MAX: u64 = 1 << 30;

/// The geometry of a template on a pool with blocks of `pool_block` bytes. Everything that decides a byte of it
/// is in it, and it stands in the mark of every volume above.
pub(super) fn geometry(id: VolumeId, bytes: u64, pool_block: u64) -> Result<Geometry, Error> {
    // The largest power of two whose multiples are borders of pool blocks too.
    let align = (1u64 << pool_block.trailing_zeros().min(63)).min(ALIGN_MAX);
    Geometry::new(bytes, BLOCK_BYTES, 0, u32::try_from(align).unwrap_or(BLOCK_BYTES))
        .map_err(|refusal| unfit(id)(Unfit::Geometry(Box::new(refusal))))
}

fn unfit(volume: VolumeId) -> impl Fn(Unfit) -> Error {
    move |source| Error::Volume { volume, source: Box::new(source) }
}

fn open_device(path: &Path) -> Result<File, Error> {
    // Not beside a mount of it, or another writer (open(2): O_EXCL on a block device).
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_EXCL);
    options.open(path).map_err(|source| Error::Io { doing: "open", path: path.into(), source })
}

/// Makes the empty file system of a template on its active, zeroed volume, and has it on disk.
pub(super) fn make_template(volume: &Volume, pool_block: u64) -> Result<(), Error> {
    let id = volume_id(volume.id);
    let geometry = geometry(id, volume.sectors.bytes(), pool_block)?;
    let path = volume.path();
    let device = open_device(&path)?;
    unpack::make_blank(&device, geometry, Before::Zeros).map_err(unfit(id))?;
    device.sync_all().map_err(|source| Error::Io { doing: "sync", path, source })
}

/// An active work volume that a layer is written into.
pub(super) struct ImageWork {
    pool: Pool,
    volume: Volume,
    device: File,
}

impl ImageWork {
    /// Opens the active `volume`, and has its file system fill it as far as doublings do: a layer for which the
    /// parent was too small gets a larger device.
    pub(super) fn open(pool: Pool, volume: Volume) -> Result<ImageWork, Error> {
        let device = open_device(&volume.path())?;
        let (bytes, unfit) = (volume.sectors.bytes(), unfit(volume_id(volume.id)));
        // This also is the check that it is as it was sealed.
        let mut now = unpack::geometry(&device).map_err(&unfit)?;
        while now.bytes().saturating_mul(2) <= bytes {
            now = unpack::grow_image(&device).map_err(&unfit)?;
        }
        Ok(ImageWork { pool, volume, device })
    }
}

impl Work for ImageWork {
    fn content(&self) -> Content<'_> {
        Content::Image(&self.device)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), Error> {
        // Of the pool. How large the file system has to be is found by writing: so it follows from the parent
        // and the layer alone, and not from what this host happens to know of the layer beforehand.
        admit(&self.pool, bytes, 0)
    }

    fn has_room(&self, bytes: u64) -> Result<(), Error> {
        admit(&self.pool, bytes, 0)
    }

    fn bytes(&self) -> u64 {
        self.volume.sectors.bytes()
    }

    fn close(self: Box<Self>, seal_record: Option<&[u8]>) -> Result<(), Error> {
        let ImageWork { pool, volume, device } = *self;
        let path = volume.path();
        device.sync_all().map_err(|source| Error::Io {
            doing: "sync",
            path: path.clone(),
            source,
        })?;
        drop(device);
        if let Some(seal_record) = seal_record {
            pool_seal::write(&path, seal_record)?;
        }
        pool.deactivate(&volume.name)?;
        pool.commit()?;
        Ok(())
    }
}

/// A sealed image, active read-only.
pub(super) struct ImageReading {
    pool: Pool,
    /// Its device; none where that is somebody else's, who looks at the volume too.
    name: Option<String>,
    device: File,
}

impl ImageReading {
    /// Opens the device at `path`, which is called `name` if it is ours.
    pub(super) fn open(
        pool: Pool,
        name: Option<String>,
        path: PathBuf,
    ) -> Result<ImageReading, Error> {
        let opened = File::open(&path).map_err(|source| Error::Io { doing: "open", path, source });
        match (opened, name) {
            (Ok(device), name) => Ok(ImageReading { pool, name, device }),
            (Err(error), None) => Err(error),
            (Err(error), Some(name)) => {
                pool.deactivate(&name)?;
                Err(error)
            }
        }
    }
}

impl Reading for ImageReading {
    fn content(&self) -> Content<'_> {
        Content::Image(&self.device)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let ImageReading { pool, name, device } = *self;
        drop(device);
        if let Some(name) = name {
            pool.deactivate(&name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data begins where a pool's block does, also where that is no power of two.
    #[test]
    fn every_size_of_a_pools_block_gives_a_geometry() {
        for kib in [64, 128, 192, 320, 1024, 1 << 20, 3 << 18] {
            let block: u64 = kib << 10;
            let geometry = geometry(VolumeId::new(1), 8 << 30, block).unwrap();
            assert!(block.is_multiple_of(geometry.align.into()), "{kib}");
            assert!(
                u64::from(geometry.align) * 2 > block
                    || !block.is_multiple_of(u64::from(geometry.align) * 2)
            );
        }
    }
}
