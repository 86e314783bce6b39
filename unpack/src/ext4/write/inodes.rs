//! Inodes: numbers in the order of the stream, those of directories in an area of their own; what was
//! removed leaves a hole.

use crate::error::Fault;
use crate::ext4::format::geometry::{Geometry, INODE};
use crate::ext4::format::inode::{self, Inode, LEN};
use crate::ext4::format::superblock::INODE_UNINIT;
use crate::ext4::write::blocks::{Blocks, set_bits};
use crate::ext4::write::disk::{Disk, damaged};
use crate::tree::sink::no_inode;

/// The next number of each area, and what is free in all.
#[derive(Debug)]
pub(crate) struct Inodes {
    geometry: Geometry,
    first_file: u32,
    pub(crate) next_directory: u32,
    pub(crate) next_file: u32,
    pub(crate) free: u32,
}

impl Inodes {
    pub(crate) fn new(
        geometry: Geometry,
        first_file: u32,
        next_directory: u32,
        next_file: u32,
        free: u32,
    ) -> Inodes {
        Inodes { geometry, first_file, next_directory, next_file, free }
    }

    /// Takes the next number.
    pub(crate) fn take(
        &mut self,
        disk: &mut Disk,
        blocks: &mut Blocks,
        directory: bool,
    ) -> Result<u32, Fault> {
        let has_directory = self.next_directory < self.first_file;
        let has_file = self.next_file <= self.geometry.inodes();
        let from_directories = match (directory, has_directory, has_file) {
            (true, true, _) | (false, true, false) => true,
            (true, false, true) | (false, _, true) => false,
            (_, false, false) => return Err(no_inode()),
        };
        let next = if from_directories { &mut self.next_directory } else { &mut self.next_file };
        let number = *next;
        *next += 1;
        self.mark(disk, blocks, number, directory, true)?;
        self.free -= 1;
        Ok(number)
    }

    /// Gives a number back: its bytes become zeros.
    pub(crate) fn give_back(
        &mut self,
        disk: &mut Disk,
        blocks: &mut Blocks,
        number: u32,
        directory: bool,
    ) -> Result<(), Fault> {
        self.mark(disk, blocks, number, directory, false)?;
        let (block, at) = self.place(blocks, number);
        disk.edit(block)?[at..at + LEN].fill(0);
        self.free += 1;
        Ok(())
    }

    fn mark(
        &mut self,
        disk: &mut Disk,
        blocks: &mut Blocks,
        number: u32,
        directory: bool,
        taken: bool,
    ) -> Result<(), Fault> {
        let per_group = self.geometry.inodes_per_group;
        let (in_group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        // The kernel has both bitmaps of a group that it uses.
        blocks.begin_group(disk, in_group)?;
        let group = blocks.group_changed(in_group);
        if group.flags & INODE_UNINIT != 0 {
            group.flags &= !INODE_UNINIT;
            disk.put(group.inode_bitmap, blank_bits(self.geometry))?;
        }
        if taken {
            group.free_inodes -= 1;
            group.directories += u32::from(directory);
            group.unused = group.unused.min(per_group - index - 1);
        } else {
            group.free_inodes += 1;
            group.directories -= u32::from(directory);
        }
        set_bits(disk.edit(group.inode_bitmap)?, index.into(), 1, taken);
        Ok(())
    }

    /// The block of an inode, and where in it.
    fn place(&self, blocks: &Blocks, number: u32) -> (u64, usize) {
        let per_group = self.geometry.inodes_per_group;
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        let bytes = u64::from(index) * INODE;
        let block = u64::from(self.geometry.block);
        let at = usize::try_from(bytes % block).unwrap_or(0);
        (blocks.groups[group as usize].table + bytes / block, at)
    }

    /// An inode that is in use.
    pub(crate) fn get(
        &self,
        disk: &mut Disk,
        blocks: &Blocks,
        number: u32,
    ) -> Result<Inode, Fault> {
        if number == 0 || number > self.geometry.inodes() {
            return Err(damaged("a name leads to an inode that cannot be", 0));
        }
        let (block, at) = self.place(blocks, number);
        let mut bytes = [0; LEN];
        bytes.copy_from_slice(&disk.read(block)?[at..at + LEN]);
        match inode::is_signed(&bytes, number) {
            true => Ok(Inode::decode(&bytes)),
            false => Err(damaged("the checksum of an inode is wrong", block)),
        }
    }

    pub(crate) fn put(
        &self,
        disk: &mut Disk,
        blocks: &Blocks,
        number: u32,
        inode: &Inode,
    ) -> Result<(), Fault> {
        let (block, at) = self.place(blocks, number);
        let mut bytes = inode.encode();
        inode::sign(&mut bytes, number);
        disk.edit(block)?[at..at + LEN].copy_from_slice(&bytes);
        Ok(())
    }
}

/// A bitmap of inodes with none in use: what lies beyond the last is set.
pub(crate) fn blank_bits(geometry: Geometry) -> Vec<u8> {
    let mut bits = vec![0; geometry.block_len()];
    let (count, all) = (u64::from(geometry.inodes_per_group), geometry.blocks_per_group());
    set_bits(&mut bits, count, all - count, true);
    bits
}
