//! A look at a thin that cannot harm it: a device of its own name that refuses writes.
//!
//! The kernel lets a thin be active under one uuid only, so a look never stands beside a device that
//! can be written, and nobody can make one as long as somebody looks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::Error;
use crate::format::status::ThinStatus;
use crate::format::table::ThinTable;
use crate::format::units::{SECTOR_BYTES, Sectors, ThinId};
use crate::kernel::dm::By;
use crate::pool::Pool;
use crate::pool::volume::{Access, Volume};

/// No ext4 on a thin is larger, whatever its superblock says.
const LENGTH_MAX: u64 = 16 << 40;
/// Where ext4 has its superblock, and how much of it is read.
const EXT4: usize = 1024;
const EXT4_BYTES: usize = 1024;

impl Pool {
    /// The name of the device by which thin `id` is looked at.
    pub fn seen_name(&self, id: ThinId) -> String {
        format!("{}-seen-{id}", self.name)
    }

    /// Makes thin `id` a device that refuses writes, or gives the one that a look before has made. It is
    /// as long as anything says of the thin (the length noted of it, the size of the ext4 on it, the
    /// last block that it maps), and at least `sectors`.
    ///
    /// # Errors
    /// [`Error::Seen`] when the thin is active under another name; those of [`Pool::activate`].
    pub fn look(&self, id: ThinId, sectors: Option<u64>) -> Result<Volume, Error> {
        let name = self.seen_name(id);
        let first = sectors.unwrap_or(self.block_sectors());
        let volume = match self.active_as(id)? {
            None => self.activate(id, &name, first, Access::ReadOnly)?,
            Some(active) if active.name != name || !active.read_only && active.has_table => {
                let (name, read_only) = (active.name, active.read_only);
                return Err(Error::Seen { id, name, read_only });
            }
            Some(active) if active.has_table && !active.suspended => {
                Volume { name, id, dev: active.dev, sectors: active.sectors }
            }
            // A look that was killed while it made its device.
            Some(_) => {
                self.deactivate(&name)?;
                self.activate(id, &name, first, Access::ReadOnly)?
            }
        };
        // A part of it would look like a file system that is damaged.
        let wanted = self.known_length(&volume)?.max(first);
        if wanted <= volume.sectors.0 {
            return Ok(volume);
        }
        let uuid = self.thin_uuid(id);
        let by = By::Uuid(&uuid);
        let table = ThinTable { sectors: Sectors(wanted), pool: self.dev, id };
        self.dm.load(by, &[table.target()], true)?;
        if let Err(err) = self.dm.resume(by) {
            self.mend(by)?;
            return Err(err);
        }
        Ok(Volume { sectors: Sectors(wanted), ..volume })
    }

    /// The longest that anything says of the thin.
    fn known_length(&self, volume: &Volume) -> Result<u64, Error> {
        let mapped = match self.thin_status(volume.id)? {
            Some(ThinStatus::Working { highest: Some(sector), .. }) => sector.saturating_add(1),
            Some(_) | None => 0,
        };
        let noted = self.noted_sectors(volume.id)?.unwrap_or(0);
        Ok(mapped.max(noted).max(ext4_sectors(&volume.path()).unwrap_or(0)))
    }
}

fn ext4_sectors(device: &Path) -> Option<u64> {
    let mut start = [0; EXT4 + EXT4_BYTES];
    File::open(device).and_then(|file| file.read_exact_at(&mut start, 0)).ok()?;
    ext4_bytes(&start[EXT4..]).map(|bytes| bytes / SECTOR_BYTES)
}

/// Size of the file system of this superblock (`struct ext4_super_block` in the kernel's
/// `fs/ext4/ext4.h`); whoever had the volume may have written it.
fn ext4_bytes(superblock: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?));
    let magic = superblock.get(0x38..0x3a)?;
    if magic != [0x53, 0xef] {
        return None;
    }
    let is_64bit = word(0x60)? & 0x80 != 0;
    let high = if is_64bit { u64::from(word(0x150)?) << 32 } else { 0 };
    let block = 1024_u64.checked_shl(word(0x18)?).filter(|size| (1024..=65536).contains(size))?;
    let bytes = (high | u64::from(word(0x4)?)).checked_mul(block)?;
    (bytes <= LENGTH_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(blocks: u64, log_block: u32, is_64bit: bool) -> Vec<u8> {
        let mut out = vec![0; EXT4_BYTES];
        out[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        out[0x4..0x8].copy_from_slice(&u32::try_from(blocks & 0xffff_ffff).unwrap().to_le_bytes());
        out[0x150..0x154].copy_from_slice(&u32::try_from(blocks >> 32).unwrap().to_le_bytes());
        out[0x18..0x1c].copy_from_slice(&log_block.to_le_bytes());
        out[0x60] = if is_64bit { 0x80 } else { 0 };
        out
    }

    #[test]
    fn a_file_systems_size_and_no_wild_one() {
        assert_eq!(ext4_bytes(&superblock(4096, 1, false)), Some(8 << 20));
        assert_eq!(ext4_bytes(&superblock(1 << 32, 0, true)), Some(4 << 40));
        // Without the feature the upper half is not a part of it.
        assert_eq!(ext4_bytes(&superblock((1 << 32) | 1, 0, false)), Some(1024));
        for (blocks, log) in [(1 << 33, 2), (1 << 40, 0), (8, 7), (8, 64), (8, u32::MAX)] {
            assert_eq!(ext4_bytes(&superblock(blocks, log, true)), None, "{blocks} {log}");
        }
        assert_eq!(ext4_bytes(&[0; EXT4_BYTES]), None);
        assert_eq!(ext4_bytes(&superblock(8, 0, false)[..0x40]), None);
    }
}
