//! The format of a space map: its root in the superblock, its index, its bitmaps. Pure, and total
//! over any bytes, as `ondisk.rs` is.
//!
//! Layouts: `struct disk_sm_root`, `disk_index_entry`, `disk_metadata_index` and
//! `disk_bitmap_header` in the kernel's `drivers/md/persistent-data/dm-space-map-common.h`.

use crate::format::block::{
    BLOCK, Fault, NODE_HEADER, NODE_XOR, check_sum, crc32c, u32_at, u64_at,
};

pub(crate) const INDEX_XOR: u32 = 160_478;
pub(crate) const BITMAP_XOR: u32 = 240_779;
/// Checksum, four bytes unused, the block's own number.
const HEADER: usize = 16;
/// Bytes of an index entry: bitmap's block, free places, first place that may be free.
const ENTRY: usize = 16;
/// Entries in the one block that is the metadata's index.
const METADATA_INDEX: usize = (BLOCK - HEADER) / ENTRY;

/// Places of a bitmap: two bits each, 0 for free.
pub(crate) const BITMAP_ENTRIES: u64 = 4 * (BLOCK as u64 - HEADER as u64);

/// The root of a space map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SpaceMap {
    /// Blocks in all.
    pub(crate) blocks: u64,
    /// Those in use.
    pub(crate) allocated: u64,
    /// The block of its index.
    pub(crate) index_root: u64,
    /// The data's index is a tree, the metadata's a block.
    pub(crate) is_tree: bool,
}

impl SpaceMap {
    /// The root at this offset of a superblock.
    pub(crate) fn parse(superblock: &[u8], at: usize, is_tree: bool) -> Option<SpaceMap> {
        Some(SpaceMap {
            blocks: u64_at(superblock, at)?,
            allocated: u64_at(superblock, at + 8)?,
            index_root: u64_at(superblock, at + 16)?,
            is_tree,
        })
    }
}

/// What an index says of one bitmap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IndexEntry {
    /// The bitmap's block.
    pub(crate) bitmap: u64,
    /// How many of its places are free.
    pub(crate) free: u32,
    /// Where in its block that count is.
    count_at: usize,
}

fn entry(block: &[u8], at: usize) -> Option<IndexEntry> {
    let (bitmap, free) = (u64_at(block, at)?, u32_at(block, at + 8)?);
    Some(IndexEntry { bitmap, free, count_at: at + 8 })
}

/// The entries of the metadata's index, whose block is at `place`; those not in use are zeros.
pub(crate) fn metadata_index(block: &[u8], place: u64) -> Result<Vec<IndexEntry>, Fault> {
    check_sum(block, INDEX_XOR, place)?;
    (0..METADATA_INDEX).map(|n| entry(block, HEADER + n * ENTRY).ok_or(Fault::Short)).collect()
}

/// The entries of a leaf of the data's index, in a block that is a good node.
pub(crate) fn tree_index(block: &[u8]) -> Result<Vec<IndexEntry>, Fault> {
    let word = |at| u32_at(block, at).and_then(|n| usize::try_from(n).ok()).ok_or(Fault::Short);
    let (entries, most, size) = (word(16)?, word(20)?, word(24)?);
    if size != ENTRY || entries > most {
        return Err(Fault::Node);
    }
    (0..entries)
        .map(|n| {
            let at = n.checked_mul(ENTRY).zip(most.checked_mul(8));
            let at = at.map(|(value, keys)| NODE_HEADER.saturating_add(keys).saturating_add(value));
            at.and_then(|at| entry(block, at)).ok_or(Fault::Node)
        })
        .collect()
}

/// The same block with another count of one entry, and its checksum made good.
pub(crate) fn recounted(
    block: &[u8; BLOCK],
    of: &IndexEntry,
    free: u32,
    is_tree: bool,
) -> [u8; BLOCK] {
    let mut out = *block;
    out[of.count_at..of.count_at + 4].copy_from_slice(&free.to_le_bytes());
    let sum = crc32c(&out[4..]) ^ if is_tree { NODE_XOR } else { INDEX_XOR };
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A bitmap.
pub(crate) struct Bitmap<'a>(&'a [u8]);

impl Bitmap<'_> {
    /// The bitmap in the block at `place`.
    pub(crate) fn parse(block: &[u8], place: u64) -> Result<Bitmap<'_>, Fault> {
        check_sum(block, BITMAP_XOR, place)?;
        block.get(HEADER..BLOCK).map(Bitmap).ok_or(Fault::Short)
    }

    /// How many of the first `places` are free.
    pub(crate) fn free_of(&self, places: u64) -> u64 {
        let places = usize::try_from(places.min(BITMAP_ENTRIES)).unwrap_or(usize::MAX);
        let free = |place: &usize| {
            self.0.get(place / 4).is_some_and(|byte| (byte >> (place % 4 * 2)) & 3 == 0)
        };
        u64::try_from((0..places).filter(free).count()).unwrap_or(0)
    }
}

/// The block with its own number and a checksum that holds.
#[cfg(test)]
pub(crate) fn sealed_for_tests(mut block: Vec<u8>, place: u64, xor: u32) -> Vec<u8> {
    block[8..16].copy_from_slice(&place.to_le_bytes());
    let sum = crc32c(&block[4..]) ^ xor;
    block[..4].copy_from_slice(&sum.to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(block: Vec<u8>, xor: u32) -> Vec<u8> {
        sealed_for_tests(block, 0, xor)
    }

    #[test]
    fn a_bitmap_has_two_bits_a_place() {
        let mut block = vec![0; BLOCK];
        // Places 0 to 3: used once, used twice, used often, free; 9 used.
        block[HEADER] = 0b00_11_10_01;
        block[HEADER + 2] = 0b01_00;
        let block = sealed(block, BITMAP_XOR);
        let bitmap = Bitmap::parse(&block, 0).unwrap();
        for (places, free) in [(0, 0), (3, 0), (4, 1), (9, 6), (10, 6), (u64::MAX, 16_316)] {
            assert_eq!(bitmap.free_of(places), free, "{places}");
        }
        assert!(Bitmap::parse(&block, 1).is_err());
    }

    #[test]
    fn a_count_is_changed_and_nothing_else() {
        let mut block = vec![0; BLOCK];
        block[HEADER + ENTRY..HEADER + ENTRY + 8].copy_from_slice(&7_u64.to_le_bytes());
        let block: [u8; BLOCK] = sealed(block, INDEX_XOR).try_into().unwrap();
        let entries = metadata_index(&block, 0).unwrap();
        assert_eq!((entries.len(), entries[1].bitmap, entries[1].free), (255, 7, 0));
        let after = metadata_index(&recounted(&block, &entries[1], 99, false), 0).unwrap();
        assert_eq!((after[1].bitmap, after[1].free), (7, 99));
        assert_eq!((&after[0], &after[2..]), (&entries[0], &entries[2..]));
    }
}
