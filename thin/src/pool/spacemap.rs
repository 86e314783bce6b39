//! Space maps: whether every block that a pool counts as free can also be given out.
//!
//! A space map has an index of bitmaps, and an entry says how many blocks of its bitmap are free. The
//! kernel looks into no bitmap whose entry says 0. For the last bitmap, which is longer than the device,
//! it counts the places beyond the end as free, since they become blocks when the device grows
//! (`sm_ll_extend` in `persistent-data/dm-space-map-common.c` adds to no entry that is there already).
//! `thin_repair` and `thin_restore` 0.9.0 count up to the end only. What they write works until the
//! pool grows: of the blocks added within that bitmap none is ever given out, though the pool's status
//! counts them. So [`recount`] makes the entries what the kernel would have them, while the pool is down.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::error::Error;
use crate::format::bitmaps::{self, BITMAP_ENTRIES, Bitmap, IndexEntry, SpaceMap};
use crate::format::block::Fault;
use crate::format::ondisk::{Node, Superblock};
use crate::format::room::Unreachable;
use crate::kernel::sys;
use crate::pool::Pool;
use crate::pool::metadata::Reader;

/// How often a live pool's metadata is read again that was committed meanwhile.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);
/// As in `metadata.rs`: levels that no tree reaches.
const DEPTH_MAX: u32 = 16;

/// An entry, and the block it is in.
struct Place {
    page: u64,
    entry: IndexEntry,
}

impl Reader {
    /// The index of a space map, in the order of its bitmaps.
    fn index(&self, map: &SpaceMap) -> Result<Vec<Place>, Error> {
        let mut out = Vec::new();
        if map.is_tree {
            self.index_below(map.index_root, 0, &mut out)?;
        } else {
            let page = map.index_root;
            let entries = bitmaps::metadata_index(&self.block(page)?.0, page);
            let entries = entries.map_err(|fault| self.damaged(&fault))?;
            out.extend(entries.into_iter().map(|entry| Place { page, entry }));
        }
        // The metadata's index has a fixed length, of which the first are in use.
        out.truncate(usize::try_from(map.blocks.div_ceil(BITMAP_ENTRIES)).unwrap_or(usize::MAX));
        Ok(out)
    }

    fn index_below(&self, page: u64, depth: u32, out: &mut Vec<Place>) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.damaged(&Fault::Node));
        }
        let block = self.block(page)?;
        match Node::parse(&block.0, page).map_err(|fault| self.damaged(&fault))? {
            Node::Internal(children) => {
                children.into_iter().try_for_each(|child| self.index_below(child, depth + 1, out))
            }
            Node::Leaf(_) => {
                let entries =
                    bitmaps::tree_index(&block.0).map_err(|fault| self.damaged(&fault))?;
                out.extend(entries.into_iter().map(|entry| Place { page, entry }));
                Ok(())
            }
        }
    }

    /// How many of the first `places` of a bitmap are free.
    fn free_of(&self, place: &Place, places: u64) -> Result<u64, Error> {
        let at = place.entry.bitmap;
        let block = self.block(at)?;
        let bitmap = Bitmap::parse(&block.0, at).map_err(|fault| self.damaged(&fault))?;
        Ok(bitmap.free_of(places))
    }

    /// Free blocks that the kernel will never find. Of a bitmap in the middle every place is a block,
    /// so its entry is what can be given out; the last one is looked into.
    fn unreachable_in(&self, map: &SpaceMap) -> Result<u64, Error> {
        let index = self.index(map)?;
        let Some((last, middle)) = index.split_last() else { return Ok(0) };
        let before = BITMAP_ENTRIES * u64::try_from(middle.len()).unwrap_or(0);
        let free = self.free_of(last, map.blocks.saturating_sub(before))?;
        let of_middle: u64 = middle.iter().map(|place| u64::from(place.entry.free)).sum();
        let reachable = of_middle.saturating_add(free.min(last.entry.free.into()));
        Ok(map.blocks.saturating_sub(map.allocated).saturating_sub(reachable))
    }

    fn unreachable(&self, superblock: &Superblock) -> Result<Unreachable, Error> {
        Ok(Unreachable {
            data: self.unreachable_in(&superblock.data_map)?,
            metadata: self.unreachable_in(&superblock.metadata_map)?,
        })
    }

    /// The entries that count fewer free places than their bitmaps have, with the right count.
    fn miscounted(&self, map: &SpaceMap) -> Result<Vec<(Place, u32)>, Error> {
        let mut out = Vec::new();
        for place in self.index(map)? {
            let free = self.free_of(&place, BITMAP_ENTRIES)?;
            let free = u32::try_from(free).unwrap_or(u32::MAX);
            if place.entry.free < free {
                out.push((place, free));
            }
        }
        Ok(out)
    }
}

/// Blocks, of sound metadata that no pool has open, that would never be given out after growing.
pub(crate) fn missed(path: &Path) -> Result<Unreachable, Error> {
    missed_of(&Reader::open(path)?)
}

pub(crate) fn missed_of(reader: &Reader) -> Result<Unreachable, Error> {
    let superblock = reader.superblock(0)?;
    let missed = |map: &SpaceMap| -> Result<u64, Error> {
        let found = reader.miscounted(map)?;
        Ok(found.iter().map(|(place, free)| u64::from(free - place.entry.free)).sum())
    };
    Ok(Unreachable {
        data: missed(&superblock.data_map)?,
        metadata: missed(&superblock.metadata_map)?,
    })
}

/// Makes every entry of sound metadata that no pool has open what the kernel would have it.
pub(crate) fn recount(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_EXCL)
        .open(path)
        .map_err(|err| Error::io("open", path, err))?;
    recount_by(&Reader::open(path)?, &file, path)
}

fn recount_by(reader: &Reader, file: &File, path: &Path) -> Result<(), Error> {
    let superblock = reader.superblock(0)?;
    for map in [&superblock.data_map, &superblock.metadata_map] {
        for (place, free) in reader.miscounted(map)? {
            let mut page: Box<sys::Page> = reader.block(place.page)?;
            page.0 = bitmaps::recounted(&page.0, &place.entry, free, map.is_tree);
            file.write_all_at(&page.0, place.page * 4096)
                .map_err(|err| Error::io("recount", path, err))?;
        }
    }
    file.sync_all().map_err(|err| Error::io("recount", path, err))
}

impl Pool {
    /// Blocks that the pool's status counts as free and that it can never give out; none in a pool
    /// that no old tool has written. As of the last commit.
    ///
    /// # Errors
    /// [`Error::Refused`] when the metadata is damaged; [`Error::Io`].
    pub fn unreachable(&self) -> Result<Unreachable, Error> {
        let reader = Reader::open(&self.metadata_path()?)?;
        let look = || -> Result<Option<Unreachable>, Error> {
            let superblock = reader.superblock(0)?;
            let found = reader.unreachable(&superblock)?;
            // What was read is of one commit if there was no other meanwhile: the kernel writes over
            // no block of the last one.
            let same = reader.superblock(0)?.checksum == superblock.checksum;
            Ok(same.then_some(found))
        };
        let mut busy = Ok(Unreachable::default());
        for _ in 0..TRIES {
            match look() {
                Ok(Some(found)) => return Ok(found),
                // It is asked for again and again, and a pool this busy gives blocks out.
                Ok(None) => busy = Ok(Unreachable::default()),
                // Of two commits at once it may look damaged.
                Err(err) => busy = Err(err),
            }
            sleep(PAUSE);
        }
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bitmaps::sealed_for_tests as sealed;
    use crate::format::bitmaps::{BITMAP_XOR, INDEX_XOR};
    use crate::format::block::{BLOCK, NODE_XOR};
    use crate::format::ondisk::SUPERBLOCK_XOR;

    const USED: [u64; 2] = [100, 5];

    fn put(block: &mut [u8], at: usize, value: u64) {
        block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Metadata as thin_restore 0.9.0 writes it for 14,400 data and 2,048 metadata blocks, and then with
    /// these many: what a growth of the kernel changes, as long as both stay in one bitmap.
    fn written(path: &Path, blocks: [u64; 2]) {
        let mut image = vec![vec![0; BLOCK]; 5];
        put(&mut image[0], 32, 27_022_010);
        image[0][40] = 2;
        for (map, at) in [(0, 64), (1, 192)] {
            put(&mut image[0], at, blocks[map]);
            put(&mut image[0], at + 8, USED[map]);
            put(&mut image[0], at + 16, 1 + map as u64);
        }
        // A leaf with room for 168 entries of 16 bytes; then the metadata's index.
        for (at, value) in [(4, 2_u32), (16, 1), (20, 168), (24, 16)] {
            image[1][at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        put(&mut image[1], 32 + 168 * 8, 3);
        put(&mut image[1], 32 + 168 * 8 + 8, 14_400 - USED[0]);
        put(&mut image[2], 16, 4);
        put(&mut image[2], 16 + 8, 2048 - USED[1]);
        for (map, used) in USED.into_iter().enumerate() {
            for place in 0..usize::try_from(used).unwrap() {
                image[3 + map][16 + place / 4] |= 1 << (place % 4 * 2);
            }
        }
        let xors = [SUPERBLOCK_XOR, NODE_XOR, INDEX_XOR, BITMAP_XOR, BITMAP_XOR];
        let blocks: Vec<Vec<u8>> =
            (0..).zip(image).zip(xors).map(|((at, block), xor)| sealed(block, at, xor)).collect();
        std::fs::write(path, blocks.concat()).unwrap();
    }

    #[test]
    fn what_an_older_tool_counts_short_is_found_and_counted_again() {
        let name = format!("veneer-spacemap-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        written(&path, [14_400, 2048]);
        let unreachable = || {
            let reader = Reader::of_file(&path);
            reader.unreachable(&reader.superblock(0).unwrap()).unwrap()
        };
        let missed = || missed_of(&Reader::of_file(&path)).unwrap();
        let recount = || {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            recount_by(&Reader::of_file(&path), &file, &path).unwrap();
        };
        // As long as it does not grow nothing is wrong with it, and yet it is found.
        assert!(unreachable().is_none());
        let short = Unreachable { data: 16_320 - 14_400, metadata: 16_320 - 2048 };
        assert_eq!(missed(), short);
        // Grown: what was added is counted as free, and the kernel does not find it.
        written(&path, [16_000, 4096]);
        assert_eq!(unreachable(), Unreachable { data: 1600, metadata: 2048 });
        recount();
        assert!(unreachable().is_none() && missed().is_none());
        let once = std::fs::read(&path).unwrap();
        recount();
        assert_eq!(std::fs::read(&path).unwrap(), once);
        std::fs::remove_file(&path).unwrap();
    }
}
