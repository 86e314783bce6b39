//! How large a file system is and where its fixed parts lie: a function of five numbers, so that equal
//! geometry is equal bytes.
//!
//! All bitmaps and inode tables lie at the head of the device (`flex_bg` allows it). What every layer
//! changes is in the first `align` bytes: superblock, descriptors, the bitmaps of the groups that a usual
//! image reaches, the first block of the journal and the inodes of directories. The inodes of files begin
//! on the next border, and data on a border of its own. See `Documentation/filesystems/ext4/blockgroup.rst`.

use crate::error::refusal::{Class, Refusal};

/// Bytes of one inode.
pub(crate) const INODE: u64 = 256;
/// Bytes of one group descriptor.
pub(crate) const DESCRIPTOR: u64 = 64;
/// Blocks of the journal: the least that the kernel takes (`JBD2_MIN_JOURNAL_BLOCKS`).
pub(crate) const JOURNAL: u64 = 1024;
/// Bytes whose groups have their bitmaps in the first aligned piece.
const NEAR: u64 = 2 << 30;
/// The root directory, the journal, `lost+found`, and the first inode that is free.
pub(crate) const ROOT: u32 = 2;
pub(crate) const JOURNAL_INODE: u32 = 8;
pub(crate) const LOST_AND_FOUND: u32 = 11;
pub(crate) const FIRST_FREE: u32 = 12;
/// Bytes of the device for one inode, where nobody says otherwise.
const BYTES_PER_INODE: u64 = 8192;

/// The five numbers. They belong to the key of a volume: other geometry is other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block: 2048 or 4096.
    pub block: u32,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Inodes of each group.
    pub inodes_per_group: u32,
    /// Bytes of a pool's block: data begins at a multiple of it. A power of two.
    pub align: u32,
}

impl Geometry {
    /// For a device of `bytes`: rounded down to whole blocks, and to a last group that can hold its own
    /// superblock. `inodes` is rounded up to what fills the groups evenly; 0 is one for 8 KiB.
    ///
    /// # Errors
    /// A refusal that says the least or the most.
    pub fn new(bytes: u64, block: u32, inodes: u64, align: u32) -> Result<Geometry, Refusal> {
        let refuse = |rule| Err(Refusal::new(Class::Fs, rule));
        if block != 2048 && block != 4096 {
            let rule = "a file system block has 2048 or 4096 bytes, and not";
            return Err(Refusal::new(Class::Fs, rule).number(block));
        }
        if !align.is_power_of_two() || align < block || !(64 << 10..=1 << 30).contains(&align) {
            let rule = "the alignment is a power of two from 64 KiB to 1 GiB, and not";
            return Err(Refusal::new(Class::Fs, rule).number(align));
        }
        // Less than this is too little in any case, and what follows says how much is enough.
        let mut blocks = (bytes / u64::from(block)).max(64);
        if blocks > u64::from(u32::MAX) {
            return refuse("an image has fewer than 2^32 blocks; take a larger block or less");
        }
        let per_group = u64::from(block) * 8;
        let groups = blocks.div_ceil(per_group);
        let last = blocks - (groups.max(1) - 1) * per_group;
        // As fs/ext4/resize.c rounds: a last group has room for its superblock, its descriptors and some.
        if groups > 1 && last < 1 + groups * DESCRIPTOR / u64::from(block) + 66 {
            blocks -= last;
        }
        let groups = blocks.div_ceil(per_group).max(1);
        let inodes = if inodes == 0 { bytes / BYTES_PER_INODE } else { inodes };
        let in_block = u64::from(block) / INODE;
        let per = inodes.div_ceil(groups).next_multiple_of(in_block).clamp(in_block * 4, per_group);
        if inodes > per * groups || per * groups > u64::from(u32::MAX) {
            let most = (per_group * groups).min(u64::from(u32::MAX));
            let rule = "too many inodes for an image of that size";
            return Err(Refusal::limit("--inodes", rule, inodes, most));
        }
        let geometry = Geometry {
            block,
            blocks,
            inodes_per_group: u32::try_from(per).unwrap_or(u32::MAX),
            align,
        };
        let layout = Layout::new(geometry);
        // One aligned piece for the first layer at least.
        if layout.first_data + geometry.align_blocks() > blocks {
            let least = (layout.first_data + 2 * geometry.align_blocks()) * u64::from(block);
            let rule = "too small for a file system; with these inodes the least is";
            return Err(Refusal::new(Class::Fs, rule).number(least));
        }
        Ok(geometry)
    }

    /// Bytes of a block, as a length.
    pub(crate) fn block_len(&self) -> usize {
        // At most 4096.
        self.block as usize
    }

    /// Blocks of a pool's block.
    pub(crate) fn align_blocks(&self) -> u64 {
        u64::from(self.align / self.block)
    }

    /// Blocks of a group: what one bitmap covers.
    pub(crate) fn blocks_per_group(&self) -> u64 {
        u64::from(self.block) * 8
    }

    /// Block groups.
    pub(crate) fn groups(&self) -> u32 {
        u32::try_from(self.blocks.div_ceil(self.blocks_per_group())).unwrap_or(u32::MAX)
    }

    /// Blocks of this group: fewer in the last one.
    pub(crate) fn blocks_of(&self, group: u32) -> u64 {
        let start = u64::from(group) * self.blocks_per_group();
        self.blocks_per_group().min(self.blocks - start)
    }

    /// Inodes in all.
    pub(crate) fn inodes(&self) -> u32 {
        self.inodes_per_group * self.groups()
    }

    /// Blocks of the table of descriptors.
    pub(crate) fn descriptor_blocks(&self) -> u64 {
        (u64::from(self.groups()) * DESCRIPTOR).div_ceil(u64::from(self.block))
    }

    /// Blocks of one group's inode table.
    pub(crate) fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group) * INODE / u64::from(self.block)
    }

    /// Whether a group begins with a copy of superblock and descriptors (`sparse_super`): 0, 1 and the
    /// powers of 3, 5 and 7.
    pub(crate) fn has_backup(group: u32) -> bool {
        let power = |base: u32| {
            let mut of = group;
            while of > 1 && of.is_multiple_of(base) {
                of /= base;
            }
            of == 1
        };
        group <= 1 || power(3) || power(5) || power(7)
    }

    /// The blocks at the head of a group that hold such a copy.
    pub(crate) fn backup(&self, group: u32) -> Option<Run> {
        let start = u64::from(group) * self.blocks_per_group();
        let len = 1 + self.descriptor_blocks();
        (group > 0 && Geometry::has_backup(group)).then_some(Run { start, len })
    }

    /// What the kernel counts as overhead (`ext4_calculate_overhead`): it has to be exact, or the first
    /// mount writes the superblock anew.
    pub(crate) fn overhead(&self) -> u64 {
        let groups = u64::from(self.groups());
        let copies = (0..self.groups()).filter(|&group| Geometry::has_backup(group)).count() as u64;
        groups * (2 + self.table_blocks()) + copies * (1 + self.descriptor_blocks()) + JOURNAL
    }
}

/// Blocks one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Where the fixed parts lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// By group: the block of its block bitmap, of its inode bitmap, and the first of its inode table.
    pub(crate) block_bitmaps: Vec<u64>,
    pub(crate) inode_bitmaps: Vec<u64>,
    pub(crate) tables: Vec<u64>,
    /// The journal: its first block apart from the rest.
    pub(crate) journal: [Run; 2],
    /// The blocks of the root directory and of `lost+found` in a blank.
    pub(crate) root: u64,
    pub(crate) lost_and_found: u64,
    /// The first inode of the area that is for files.
    pub(crate) first_file: u32,
    /// Where data begins: on a border.
    pub(crate) first_data: u64,
    /// Everything above, and the copies, in their order.
    pub(crate) fixed: Vec<Run>,
}

/// Gives out blocks one after another and steps over copies of the superblock.
struct Cursor {
    geometry: Geometry,
    at: u64,
    fixed: Vec<Run>,
}

impl Cursor {
    fn take(&mut self, len: u64) -> u64 {
        let per_group = self.geometry.blocks_per_group();
        loop {
            let (first, last) = (self.at / per_group, (self.at + len - 1) / per_group);
            let in_the_way = (first..=last)
                .filter_map(|group| self.geometry.backup(u32::try_from(group).ok()?))
                .find(|copy| copy.start < self.at + len && copy.end() > self.at);
            match in_the_way {
                Some(copy) => self.at = copy.end(),
                None => break,
            }
        }
        let start = self.at;
        self.fixed.push(Run { start, len });
        self.at += len;
        start
    }
}

impl Layout {
    pub(crate) fn new(geometry: Geometry) -> Layout {
        let groups = geometry.groups();
        let mut cursor = Cursor { geometry, at: 0, fixed: Vec::new() };
        cursor.take(1 + geometry.descriptor_blocks());
        let near = NEAR.div_ceil(geometry.blocks_per_group() * u64::from(geometry.block));
        // The last group's bitmap is always written: its end is not that of a whole group.
        let is_near = |group: u32| u64::from(group) < near || group + 1 == groups;
        let mut block_bitmaps = vec![0; groups as usize];
        let mut inode_bitmaps = block_bitmaps.clone();
        for bitmaps in [&mut block_bitmaps, &mut inode_bitmaps] {
            for group in (0..groups).filter(|&group| is_near(group)) {
                bitmaps[group as usize] = cursor.take(1);
            }
        }
        let journal = Run { start: cursor.take(1), len: 1 };
        let (root, lost_and_found) = (cursor.take(1), cursor.take(1));
        let tables: Vec<u64> = (0..groups).map(|_| cursor.take(geometry.table_blocks())).collect();
        let body = Run { start: cursor.take(JOURNAL - 1), len: JOURNAL - 1 };
        for bitmaps in [&mut block_bitmaps, &mut inode_bitmaps] {
            for group in (0..groups).filter(|&group| !is_near(group)) {
                bitmaps[group as usize] = cursor.take(1);
            }
        }
        let first_data = cursor.at.next_multiple_of(geometry.align_blocks());
        let mut fixed = cursor.fixed;
        fixed.extend((1..groups).filter_map(|group| geometry.backup(group)));
        fixed.sort_by_key(|run| run.start);
        let first_file = first_file(geometry, tables[0]);
        Layout {
            block_bitmaps,
            inode_bitmaps,
            tables,
            journal: [journal, body],
            root,
            lost_and_found,
            first_file,
            first_data,
            fixed,
        }
    }
}

/// The first inode on a border, so that new files and new directories change one piece each; in a small
/// file system the middle.
fn first_file(geometry: Geometry, table: u64) -> u32 {
    let in_block = u64::from(geometry.block) / INODE;
    let blocks = table.next_multiple_of(geometry.align_blocks()) - table;
    let half = u64::from(geometry.inodes()) / 2 / in_block * in_block;
    let before = (blocks * in_block).min(half).max(2 * in_block);
    u32::try_from(before + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_are_where_the_kernel_looks() {
        let copies: Vec<u32> = (0..130).filter(|&group| Geometry::has_backup(group)).collect();
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    /// Nothing lies on anything else, in any size.
    #[test]
    fn the_fixed_parts_are_apart() {
        for block in [2048, 4096] {
            for mib in [16, 33, 64, 129, 130, 257, 1024, 4096, 6144, 65_536, 300_000] {
                let geometry = Geometry::new(mib << 20, block, 0, 1 << 20).unwrap();
                let layout = Layout::new(geometry);
                for pair in layout.fixed.windows(2) {
                    assert!(pair[0].end() <= pair[1].start, "{block} {mib} {pair:?}");
                }
                assert!(layout.fixed.last().unwrap().end() <= geometry.blocks);
                assert!(layout.first_data.is_multiple_of(geometry.align_blocks()));
                let table = layout.tables[0] * u64::from(block);
                let first = table + u64::from(layout.first_file - 1) * INODE;
                assert!(mib < 128 || first.is_multiple_of(1 << 20), "{block} {mib} {first}");
            }
        }
    }

    #[test]
    fn what_is_too_small_is_told_the_least() {
        let refusal = Geometry::new(1 << 20, 4096, 0, 1 << 20).unwrap_err();
        let crate::error::refusal::Value::Number(least) = refusal.value else {
            panic!("{refusal}");
        };
        let least = u64::try_from(least).unwrap();
        Geometry::new(least, 4096, 0, 1 << 20).unwrap();
        Geometry::new(least, 1024, 0, 1 << 20).unwrap_err();
        Geometry::new(least, 4096, 0, 3 << 20).unwrap_err();
        Geometry::new(least, 4096, 1 << 40, 1 << 20).unwrap_err();
    }
}
