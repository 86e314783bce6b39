//! Where the fixed parts of a file system lie: a function of its geometry.
//!
//! All bitmaps and inode tables lie at the head of the device (`flex_bg` allows it). What every layer
//! changes is in the first `align` bytes: superblock, descriptors, the bitmaps of the groups that a usual
//! image reaches, the first block of the journal and the inodes of directories. The inodes of files begin
//! on the next border, and data on a border of its own. See `Documentation/filesystems/ext4/blockgroup.rst`.
//!
//! A file system grows by doublings. What is there stays where it is: each doubling adds a section, which has
//! the bitmaps and inode tables of its groups at its own head. Only the table of descriptors has to stay in one
//! piece, so room for it is left from the beginning, behind the table and behind each copy: those blocks are
//! free, and the writer never takes them.

use crate::ext4::format::geometry::{Geometry, INODE, JOURNAL, Run};

/// Bytes whose groups have their bitmaps in the first aligned piece.
const NEAR: u64 = 2 << 30;

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
    /// What data steps over, on borders, in order and apart: the copies, with the room that is left for them, and
    /// the heads of the sections.
    pub(crate) over: Vec<Run>,
}

/// Gives out blocks one after another and steps over copies of the superblock and the room for them.
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
                .filter_map(|group| self.geometry.backup_room(u32::try_from(group).ok()?))
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
        let mut layout = Layout::made(geometry);
        for doublings in 1..=geometry.doublings {
            layout.add_section(geometry.after(doublings - 1), geometry.after(doublings));
        }
        let groups = 1..geometry.groups();
        layout.fixed.extend(groups.clone().filter_map(|group| geometry.backup(group)));
        layout.fixed.sort_by_key(|run| run.start);
        layout.over.extend(groups.filter_map(|group| geometry.backup_room(group)));
        layout.over = on_borders(std::mem::take(&mut layout.over), geometry);
        layout
    }

    /// The part that was made first, without the copies.
    fn made(geometry: Geometry) -> Layout {
        // The table is as long as it is now, and all else where it was.
        let head = Run { start: 0, len: 1 + geometry.descriptor_blocks() };
        let geometry = geometry.after(0);
        let groups = geometry.groups();
        let mut cursor = Cursor { geometry, at: 1 + geometry.table_room(), fixed: vec![head] };
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
            fixed: cursor.fixed,
            over: Vec::new(),
        }
    }

    /// What one doubling adds: the parts of the new groups, from the first border on. A last group that becomes a
    /// whole one had its parts before.
    fn add_section(&mut self, from: Geometry, to: Geometry) {
        let start = from.blocks.next_multiple_of(to.align_blocks());
        let mut cursor = Cursor { geometry: to, at: start, fixed: Vec::new() };
        let groups = from.groups()..to.groups();
        self.block_bitmaps.extend(groups.clone().map(|_| cursor.take(1)));
        self.inode_bitmaps.extend(groups.clone().map(|_| cursor.take(1)));
        self.tables.extend(groups.map(|_| cursor.take(to.table_blocks())));
        self.fixed.append(&mut cursor.fixed);
        if cursor.at > start {
            self.over.push(Run { start, len: cursor.at - start });
        }
    }
}

/// Runs in any order as the aligned pieces that hold them, in order and apart.
fn on_borders(mut runs: Vec<Run>, geometry: Geometry) -> Vec<Run> {
    let align = geometry.align_blocks();
    runs.sort_by_key(|run| run.start);
    let mut pieces: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let start = run.start / align * align;
        let end = run.end().next_multiple_of(align).min(geometry.blocks);
        match pieces.last_mut() {
            Some(last) if start <= last.end() => last.len = last.len.max(end - last.start),
            Some(_) | None => pieces.push(Run { start, len: end - start }),
        }
    }
    pieces
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
