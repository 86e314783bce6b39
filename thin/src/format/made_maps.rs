//! Space maps made anew, from how often each block is referred to. A copy of a pool's metadata has none: they follow
//! from its trees, and the kernel keeps none in a metadata snapshot. Pure.
//!
//! Layouts as in `bitmaps.rs`; the order of the two bits of a count is that of `sm_set_bitmap`, the number of entries of
//! a node that of `calc_max_entries`, in the kernel's `drivers/md/persistent-data`.

use std::collections::BTreeMap;

use crate::format::bitmaps::{BITMAP_ENTRIES, BITMAP_XOR, INDEX_XOR};
use crate::format::block::{BLOCK, NODE_HEADER, NODE_XOR, crc32c};

/// Bytes before the counts of a bitmap, and before the entries of the metadata's index.
const HEADER: usize = 16;
/// Bytes of an entry of an index.
const ENTRY: usize = 16;
/// Bitmaps that the metadata's index has room for.
const METADATA_BITMAPS: usize = 255;
/// Places of a bitmap.
const PLACES: usize = 4 * (BLOCK - HEADER);
/// A count from here on is in a tree of its own.
const MANY: u32 = 3;

/// How often each block is referred to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Counts(Vec<u32>);

impl Counts {
    /// Of so many blocks, none of which is in use.
    pub(crate) fn none(blocks: usize) -> Counts {
        Counts(vec![0; blocks])
    }

    /// One more; false where there is no such block.
    pub(crate) fn add(&mut self, block: u64) -> bool {
        let place = usize::try_from(block).ok().and_then(|at| self.0.get_mut(at));
        place.map(|count| *count = count.saturating_add(1)).is_some()
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.0.iter().filter(|count| **count > 0).count() as u64
    }
}

/// A space map's root, as the superblock has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MadeRoot {
    blocks: u64,
    allocated: u64,
    index: u64,
    counts: u64,
}

impl MadeRoot {
    pub(crate) fn bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (at, value) in [self.blocks, self.allocated, self.index, self.counts].iter().enumerate()
        {
            out[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        out
    }
}

/// Both space maps.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) data: MadeRoot,
    pub(crate) metadata: MadeRoot,
    /// Where which block goes.
    pub(crate) pages: BTreeMap<u64, [u8; BLOCK]>,
}

/// Makes both space maps in free blocks of the metadata, block 0 being the superblock's; none where these do not
/// suffice.
pub(crate) fn make(data: &Counts, metadata: Counts) -> Option<Made> {
    let mut room = Room { counts: metadata, next: 1, pages: BTreeMap::new() };
    let superblock = room.counts.0.first_mut()?;
    *superblock = superblock.saturating_add(1);
    let index = data_bitmaps(data, &mut room)?;
    let data_root = MadeRoot {
        blocks: data.0.len() as u64,
        allocated: data.allocated(),
        index: tree(&index, &mut room)?,
        counts: tree(&many(data), &mut room)?,
    };
    // What has a block of its own from here on is counted once, so this tree is complete.
    let counts = tree(&many(&room.counts), &mut room)?;
    let index = room.take()?;
    let bitmaps = room.counts.0.len().div_ceil(PLACES);
    if bitmaps > METADATA_BITMAPS {
        return None;
    }
    let places: Vec<u64> = (0..bitmaps).map(|_| room.take()).collect::<Option<_>>()?;
    // Every block has its place now.
    let mut page = [0; BLOCK];
    let Room { counts: all, mut pages, .. } = room;
    for (at, (place, counts)) in places.iter().zip(all.0.chunks(PLACES)).enumerate() {
        let (bitmap, entry) = bitmap(counts, *place);
        pages.insert(*place, bitmap);
        page[HEADER + at * ENTRY..][..ENTRY].copy_from_slice(&entry);
    }
    pages.insert(index, sealed(page, index, INDEX_XOR));
    let metadata =
        MadeRoot { blocks: all.0.len() as u64, allocated: all.allocated(), index, counts };
    Some(Made { data: data_root, metadata, pages })
}

/// The free blocks of the metadata, from the lowest on.
struct Room {
    counts: Counts,
    next: usize,
    pages: BTreeMap<u64, [u8; BLOCK]>,
}

impl Room {
    fn take(&mut self) -> Option<u64> {
        while *self.counts.0.get(self.next)? > 0 {
            self.next += 1;
        }
        self.counts.0[self.next] = 1;
        u64::try_from(self.next).ok()
    }
}

type Row = (u64, Vec<u8>);

fn data_bitmaps(data: &Counts, room: &mut Room) -> Option<Rows> {
    let mut rows = Rows { size: ENTRY, rows: Vec::new() };
    for (counts, key) in data.0.chunks(PLACES).zip(0..) {
        let place = room.take()?;
        let (bitmap, entry) = bitmap(counts, place);
        room.pages.insert(place, bitmap);
        rows.rows.push((key, entry.to_vec()));
    }
    Some(rows)
}

/// The counts that two bits cannot hold.
fn many(counts: &Counts) -> Rows {
    let many = counts.0.iter().zip(0..).filter(|(count, _)| **count >= MANY);
    Rows { size: 4, rows: many.map(|(count, key)| (key, count.to_le_bytes().to_vec())).collect() }
}

/// A bitmap, and the entry of the index about it.
fn bitmap(counts: &[u32], place: u64) -> ([u8; BLOCK], [u8; ENTRY]) {
    let mut page = [0; BLOCK];
    let mut used = 0_u32;
    for (at, count) in counts.iter().enumerate() {
        let count = (*count).min(MANY);
        used += u32::from(count > 0);
        // The higher bit comes first.
        let bits = ((count >> 1) | (count << 1)) & 3;
        page[HEADER + at / 4] |= u8::try_from(bits).unwrap_or(3) << (at % 4 * 2);
    }
    // Places beyond the end count as free, since they become blocks when the device grows: `pool/spacemap.rs`.
    let entries = u32::try_from(BITMAP_ENTRIES).unwrap_or(u32::MAX);
    let before = counts.iter().position(|count| *count == 0).unwrap_or(counts.len());
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(&place.to_le_bytes());
    entry[8..12].copy_from_slice(&(entries - used).to_le_bytes());
    entry[12..].copy_from_slice(&u32::try_from(before).unwrap_or(entries).to_le_bytes());
    (sealed(page, place, BITMAP_XOR), entry)
}

/// Rows of a tree, whose values have so many bytes.
struct Rows {
    size: usize,
    rows: Vec<Row>,
}

/// Makes a tree; gives its root.
fn tree(rows: &Rows, room: &mut Room) -> Option<u64> {
    let mut level = nodes(&rows.rows, rows.size, 2, room)?;
    while level.len() > 1 {
        level = nodes(&level, 8, 1, room)?;
    }
    let (_, root) = level.first()?;
    Some(u64::from_le_bytes(root.as_slice().try_into().ok()?))
}

/// One level, as rows of the level above it. Nodes are filled alike, so that none has too few entries.
fn nodes(rows: &[Row], size: usize, flags: u32, room: &mut Room) -> Option<Vec<Row>> {
    let most = (BLOCK - NODE_HEADER) / (8 + size) / 3 * 3;
    let count = rows.len().div_ceil(most).max(1);
    let mut out = Vec::with_capacity(count);
    for at in 0..count {
        let part = &rows[rows.len() * at / count..rows.len() * (at + 1) / count];
        let place = room.take()?;
        let mut page = [0; BLOCK];
        let head =
            [(4, flags), (16, u32::try_from(part.len()).ok()?), (20, u32::try_from(most).ok()?)];
        for (at, value) in head.into_iter().chain([(24, u32::try_from(size).ok()?)]) {
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, (key, value)) in part.iter().enumerate() {
            page[NODE_HEADER + at * 8..][..8].copy_from_slice(&key.to_le_bytes());
            page[NODE_HEADER + most * 8 + at * size..][..size].copy_from_slice(value);
        }
        room.pages.insert(place, sealed(page, place, NODE_XOR));
        let first = part.first().map_or(0, |(key, _)| *key);
        out.push((first, place.to_le_bytes().to_vec()));
    }
    Some(out)
}

fn sealed(mut page: [u8; BLOCK], place: u64, xor: u32) -> [u8; BLOCK] {
    page[8..16].copy_from_slice(&place.to_le_bytes());
    let sum = crc32c(&page[4..]) ^ xor;
    page[..4].copy_from_slice(&sum.to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bitmaps::{Bitmap, metadata_index, tree_index};
    use crate::format::block::check_sum;
    use crate::format::ondisk::Node;

    /// The rows of a tree, by the reader.
    fn rows(made: &Made, root: u64) -> Vec<(u64, Vec<u8>)> {
        match Node::parse(&made.pages[&root], root).unwrap() {
            Node::Internal(children) => {
                children.iter().flat_map(|child| rows(made, *child)).collect()
            }
            Node::Leaf(rows) => rows,
        }
    }

    #[test]
    fn what_is_made_says_what_was_counted() {
        let mut data = Counts::none(40_000);
        for block in (0..40_000).step_by(3) {
            for _ in 0..block % 7 {
                assert!(data.add(block));
            }
        }
        assert!(!data.add(40_000));
        let mut metadata = Counts::none(2048);
        for block in [1, 2, 3, 5, 5, 7, 7, 7, 7] {
            metadata.add(block);
        }
        let made = make(&data, metadata.clone()).unwrap();
        // Nothing lies on what was in use, and all that was put somewhere is counted.
        assert!([0, 1, 2, 3, 5, 7].iter().all(|used| !made.pages.contains_key(used)));
        assert_eq!(made.metadata.allocated, 6 + made.pages.len() as u64);
        let index = rows(&made, made.data.index);
        assert_eq!(index.len(), 3);
        let free: u64 = tree_index(&made.pages[&made.data.index])
            .unwrap()
            .iter()
            .map(|entry| {
                let page = &made.pages[&entry.bitmap];
                let found = Bitmap::parse(page, entry.bitmap).unwrap().free_of(BITMAP_ENTRIES);
                assert_eq!(found, u64::from(entry.free));
                found
            })
            .sum();
        assert_eq!(free, 3 * BITMAP_ENTRIES - data.allocated());
        let many = rows(&made, made.data.counts);
        let wanted: Vec<u64> = (0..40_000).filter(|at| at % 3 == 0 && at % 7 >= 3).collect();
        assert_eq!(many.iter().map(|(key, _)| *key).collect::<Vec<_>>(), wanted);
        assert!(many.iter().all(|(key, count)| *count == (key % 7).to_le_bytes()[..4]));
        assert_eq!(rows(&made, made.metadata.counts), [(7, 4_u32.to_le_bytes().to_vec())]);
        let entries =
            metadata_index(&made.pages[&made.metadata.index], made.metadata.index).unwrap();
        assert_eq!(u64::from(entries[0].free), BITMAP_ENTRIES - made.metadata.allocated);
        check_sum(&made.pages[&entries[0].bitmap], BITMAP_XOR, entries[0].bitmap).unwrap();
    }

    #[test]
    fn a_count_of_one_and_of_two_have_the_kernels_bits() {
        let (page, entry) = bitmap(&[1, 2, 9, 0], 7);
        assert_eq!(page[HEADER], 0b00_11_01_10);
        assert_eq!(entry[12], 3);
    }

    #[test]
    fn where_there_is_no_room_nothing_is_made() {
        // Superblock, a bitmap, its index, two trees of counts, an index and a bitmap.
        assert!(make(&Counts::none(9), Counts::none(7)).is_some());
        assert!(make(&Counts::none(9), Counts::none(6)).is_none());
        assert!(make(&Counts::none(9), Counts::none(0)).is_none());
    }

    #[test]
    fn no_node_of_a_large_tree_has_too_few_entries() {
        let rows = Rows { size: 4, rows: (0..337).map(|key| (key, vec![0; 4])).collect() };
        let mut room = Room { counts: Counts::none(99), next: 1, pages: BTreeMap::new() };
        let root = tree(&rows, &mut room).unwrap();
        assert_eq!(Node::parse(&room.pages[&root], root).unwrap(), Node::Internal(vec![1, 2]));
        for place in [1, 2] {
            let Node::Leaf(rows) = Node::parse(&room.pages[&place], place).unwrap() else {
                panic!()
            };
            assert!(rows.len() >= 336 / 3, "{}", rows.len());
        }
    }
}
