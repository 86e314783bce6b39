//! Which blocks are taken: one after another above the parent's, over whole pieces that hold a copy of the
//! superblock. What a layer frees stays free and is not taken again in it.

use crate::error::Fault;
use crate::ext4::format::crc::SEED;
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::geometry::{Geometry, Run};
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{BLOCK_UNINIT, Group};
use crate::ext4::write::disk::Disk;
use crate::tree::sink::no_room;

/// See the module.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) geometry: Geometry,
    pub(crate) groups: Vec<Group>,
    /// Groups whose descriptor has changed.
    changed: Vec<bool>,
    /// The next block that may be taken.
    pub(crate) next: u64,
    /// Pieces to step over, the nearest last.
    over: Vec<Run>,
    /// Blocks that can still be taken.
    left: u64,
    /// Blocks that will be needed at the end.
    pub(crate) reserved: u64,
    /// Free blocks in all.
    pub(crate) free: u64,
}

impl Blocks {
    /// Goes on at `next`, moved up to a border.
    pub(crate) fn new(
        geometry: Geometry,
        layout: &Layout,
        groups: Vec<Group>,
        next: u64,
    ) -> Blocks {
        let next = next.next_multiple_of(geometry.align_blocks()).min(geometry.blocks);
        let over = layout.over.iter().rev().copied();
        let over: Vec<Run> = over.take_while(|piece| piece.end() > next).collect();
        let held: u64 = over.iter().map(|piece| piece.end() - piece.start.max(next)).sum();
        let free = groups.iter().map(|group| u64::from(group.free_blocks)).sum();
        let changed = vec![false; groups.len()];
        let left = geometry.blocks.saturating_sub(next).saturating_sub(held);
        Blocks { geometry, groups, changed, next, over, left, reserved: 0, free }
    }

    /// Whether `blocks` more can be taken beside what is reserved.
    pub(crate) fn room(&self, blocks: u64) -> Result<(), Fault> {
        let need = blocks.saturating_add(self.reserved);
        match need <= self.left {
            true => Ok(()),
            false => {
                let bytes = u64::from(self.geometry.block);
                let free = self.left.saturating_sub(self.reserved);
                Err(no_room(blocks.saturating_mul(bytes), free * bytes))
            }
        }
    }

    /// Takes up to `want` blocks, as many as lie in one run; at least one.
    pub(crate) fn take(&mut self, disk: &mut Disk, want: u64) -> Result<Run, Fault> {
        while let Some(piece) = self.over.last() {
            if self.next < piece.start {
                break;
            }
            self.next = self.next.max(piece.end());
            self.over.pop();
        }
        let end = self.over.last().map_or(self.geometry.blocks, |piece| piece.start);
        let len = want.min(end.saturating_sub(self.next)).min(self.left);
        if len == 0 {
            let bytes = u64::from(self.geometry.block);
            return Err(no_room(want * bytes, 0));
        }
        let run = Run { start: self.next, len };
        self.next += len;
        self.left -= len;
        self.mark(disk, run, true)?;
        Ok(run)
    }

    /// Frees a run.
    pub(crate) fn give_back(&mut self, disk: &mut Disk, run: Run) -> Result<(), Fault> {
        self.mark(disk, run, false)
    }

    fn mark(&mut self, disk: &mut Disk, run: Run, taken: bool) -> Result<(), Fault> {
        let per_group = self.geometry.blocks_per_group();
        let (mut at, end) = (run.start, run.end());
        disk.touch(run.start, run.len);
        while at < end {
            let number = u32::try_from(at / per_group).unwrap_or(u32::MAX);
            let first = at % per_group;
            let count = (end - at).min(per_group - first);
            self.begin_group(disk, number)?;
            let group = &mut self.groups[number as usize];
            let counted = u32::try_from(count).unwrap_or(u32::MAX);
            if taken {
                group.free_blocks -= counted;
                self.free -= count;
            } else {
                group.free_blocks += counted;
                self.free += count;
            }
            self.changed[number as usize] = true;
            set_bits(disk.edit(group.block_bitmap)?, first, count, taken);
            at += count;
        }
        Ok(())
    }

    /// A group whose bitmap was never written gets one.
    pub(crate) fn begin_group(&mut self, disk: &mut Disk, number: u32) -> Result<(), Fault> {
        let group = &mut self.groups[number as usize];
        if group.flags & BLOCK_UNINIT == 0 {
            return Ok(());
        }
        group.flags &= !BLOCK_UNINIT;
        self.changed[number as usize] = true;
        let mut bits = vec![0; self.geometry.block_len()];
        if let Some(copy) = self.geometry.backup(number) {
            set_bits(&mut bits, 0, copy.len, true);
        }
        disk.put(group.block_bitmap, bits)
    }

    pub(crate) fn group_changed(&mut self, number: u32) -> &mut Group {
        self.changed[number as usize] = true;
        &mut self.groups[number as usize]
    }

    /// The sums of the bitmaps that have changed, and then the descriptors, which lie from block 1 on.
    pub(crate) fn finish(&mut self, disk: &mut Disk) -> Result<(), Fault> {
        let block = self.geometry.block_len();
        let inode_bytes = self.geometry.inodes_per_group as usize / 8;
        for number in 0..self.groups.len() {
            if !self.changed[number] {
                continue;
            }
            let group = &mut self.groups[number];
            if group.flags & BLOCK_UNINIT == 0 {
                group.block_bitmap_sum = crc32c(SEED, disk.read(group.block_bitmap)?);
            }
            if group.flags & crate::ext4::format::superblock::INODE_UNINIT == 0 {
                let bits = disk.read(group.inode_bitmap)?;
                group.inode_bitmap_sum = crc32c(SEED, &bits[..inode_bytes]);
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let at = number as usize * 64;
            let bytes = group.encode(number);
            disk.edit(1 + (at / block) as u64)?[at % block..at % block + 64]
                .copy_from_slice(&bytes);
        }
        self.changed.fill(false);
        Ok(())
    }

    /// The bitmap of a group as the fixed parts leave it, and how many of its blocks they take.
    pub(crate) fn fixed_bits(geometry: Geometry, layout: &Layout, group: u32) -> (Vec<u8>, u64) {
        let mut bits = vec![0; geometry.block_len()];
        let start = u64::from(group) * geometry.blocks_per_group();
        let end = start + geometry.blocks_of(group);
        let mut taken = 0;
        // They are in order and apart; a large file system has thousands.
        let first = layout.fixed.partition_point(|run| run.end() <= start);
        for run in layout.fixed[first..].iter().take_while(|run| run.start < end) {
            let (from, to) = (run.start.max(start), run.end().min(end));
            if from < to {
                set_bits(&mut bits, from - start, to - from, true);
                taken += to - from;
            }
        }
        let of = geometry.blocks_of(group);
        set_bits(&mut bits, of, geometry.blocks_per_group() - of, true);
        (bits, taken)
    }
}

/// Sets or clears `count` bits from `first` on.
pub(crate) fn set_bits(bits: &mut [u8], first: u64, count: u64, on: bool) {
    let (mut at, end) = (first, first + count);
    while at < end {
        let byte = usize::try_from(at / 8).unwrap_or(usize::MAX);
        if at.is_multiple_of(8) && end - at >= 8 {
            bits[byte] = if on { 0xff } else { 0 };
            at += 8;
            continue;
        }
        let bit = 1 << (at % 8);
        if on {
            bits[byte] |= bit;
        } else {
            bits[byte] &= !bit;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_cleared() {
        for (first, count) in [(0, 1), (3, 20), (8, 16), (7, 2), (0, 64), (63, 1), (5, 0)] {
            let mut bits = [0; 8];
            set_bits(&mut bits, first, count, true);
            let set: Vec<u64> =
                (0..64).filter(|at| u64::from_le_bytes(bits) & 1 << at != 0).collect();
            assert_eq!(set, (first..first + count).collect::<Vec<_>>());
            set_bits(&mut bits, first, count, false);
            assert_eq!(bits, [0; 8]);
        }
    }
}
