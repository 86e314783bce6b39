//! How large a file system is: a few numbers, and what follows from them by counting. Equal geometry is equal
//! bytes.
//! What lies where in it is in `layout`, and which there can be is in `sizes`.

/// Bytes of one inode.
pub(crate) const INODE: u64 = 256;
/// Bytes of one group descriptor.
pub(crate) const DESCRIPTOR: u64 = 64;
/// Blocks of the journal: the least that the kernel takes (`JBD2_MIN_JOURNAL_BLOCKS`).
pub(crate) const JOURNAL: u64 = 1024;
/// The root directory, the journal, `lost+found`, and the first inode that is free.
pub(crate) const ROOT: u32 = 2;
pub(crate) const JOURNAL_INODE: u32 = 8;
pub(crate) const LOST_AND_FOUND: u32 = 11;
pub(crate) const FIRST_FREE: u32 = 12;
/// How often a file system can be doubled, where its descriptors have room.
pub(crate) const DOUBLINGS_MAX: u32 = 6;
/// Bytes that are left for the table of descriptors, where it could become longer by so many doublings: what
/// lies behind it should still be in the first aligned piece.
const TABLE_MAX: u64 = 128 << 10;

/// The numbers. They belong to the key of a volume: other geometry is other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block: 2048 or 4096.
    pub block: u32,
    /// Blocks of the file system as it is.
    pub blocks: u64,
    /// Inodes of each group.
    pub inodes_per_group: u32,
    /// Bytes of a pool's block: data begins at a multiple of it. A power of two.
    pub align: u32,
    /// Blocks of the file system as it was made.
    pub base: u64,
    /// How often it was doubled since.
    pub doublings: u32,
}

impl Geometry {
    /// Bytes of the file system.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block.into())
    }

    /// The same after so many doublings of what was made, whether that is allowed or not.
    pub(crate) fn after(&self, doublings: u32) -> Geometry {
        let times = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let blocks = self.base.saturating_mul(times);
        let blocks = if doublings == 0 { blocks } else { rounded(blocks, self.block) };
        Geometry { blocks, doublings, ..*self }
    }

    /// Whether a group is the last one, or was it before a doubling: its bitmap is written, because its end was not
    /// that of a whole group.
    pub(crate) fn was_last(&self, group: u32) -> bool {
        (0..=self.doublings).any(|doublings| self.after(doublings).groups() == group + 1)
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

    /// Blocks that the table of descriptors can have: for all doublings that [`TABLE_MAX`] has room for, and for one
    /// in any case.
    pub(crate) fn table_room(&self) -> u64 {
        let blocks = |doublings| self.after(doublings).descriptor_blocks();
        let most = TABLE_MAX / u64::from(self.block);
        blocks(DOUBLINGS_MAX).min(most.max(blocks(1)))
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

    /// The blocks at the head of a group that such a copy can have once the file system has grown.
    pub(crate) fn backup_room(&self, group: u32) -> Option<Run> {
        let len = 1 + self.table_room();
        self.backup(group).map(|copy| Run { len, ..copy })
    }

    /// What the kernel counts as overhead (`ext4_calculate_overhead`): it has to be exact, or the first
    /// mount writes the superblock anew.
    pub(crate) fn overhead(&self) -> u64 {
        let groups = u64::from(self.groups());
        let copies = (0..self.groups()).filter(|&group| Geometry::has_backup(group)).count() as u64;
        groups * (2 + self.table_blocks()) + copies * (1 + self.descriptor_blocks()) + JOURNAL
    }
}

/// Blocks of a file system, rounded as fs/ext4/resize.c does it: a last group has room for its superblock, its
/// descriptors and some.
pub(crate) fn rounded(blocks: u64, block: u32) -> u64 {
    let per_group = u64::from(block) * 8;
    let groups = blocks.div_ceil(per_group);
    let last = blocks - (groups.max(1) - 1) * per_group;
    let small = groups > 1 && last < 1 + groups * DESCRIPTOR / u64::from(block) + 66;
    if small { blocks - last } else { blocks }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_are_where_the_kernel_looks() {
        let copies: Vec<u32> = (0..130).filter(|&group| Geometry::has_backup(group)).collect();
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
