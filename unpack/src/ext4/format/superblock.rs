//! The superblock (`Documentation/filesystems/ext4/super.rst`) and the group descriptors
//! (`group_descr.rst`).

use crate::ext4::format::bytes::{get16, get32, get64, high32, low16, low32, put16, put32, put64};
use crate::ext4::format::crc::{SEED, START, crc32c};
use crate::ext4::format::geometry::{DESCRIPTOR, FIRST_FREE, Geometry, INODE, JOURNAL_INODE};
use crate::ext4::format::hash::HASH_SEED;
use crate::ext4::format::inode::IBLOCK;

/// Where the superblock begins on the device, and its length.
pub(crate) const OFFSET: u64 = 1024;
pub(crate) const LEN: usize = 1024;

/// has_journal, ext_attr, dir_index.
pub(crate) const COMPAT: u32 = 0x2c;
const HAS_JOURNAL: u32 = 0x4;
/// filetype, extents, 64bit, flex_bg, metadata_csum_seed.
pub(crate) const INCOMPAT: u32 = 0x22c2;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
pub(crate) const RO_COMPAT: u32 = 0x46b;

/// Half-MD4 in `s_def_hash_version`, and names as signed bytes in `s_flags`.
const HALF_MD4: u8 = 1;
const SIGNED: u32 = 1;
/// The UUID of a blank: of the form that RFC 9562 leaves to the maker (version 8).
pub(crate) const BLANK_UUID: [u8; 16] = *b"veneer\x80\x01\x80\x00blank1";

const CLEAN: u16 = 1;
const REMOUNT_READ_ONLY: u16 = 2;

/// What of a superblock changes from one layer to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changing {
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u32,
    pub(crate) uuid: [u8; 16],
    /// Whether it is whole: not so while a layer is being written.
    pub(crate) clean: bool,
}

/// The 1,024 bytes, for the copy in `group` (0 is the superblock itself). `journal` is the map of inode 8.
pub(crate) fn superblock(
    geometry: Geometry,
    changing: &Changing,
    journal: &[u8; IBLOCK],
    group: u16,
) -> [u8; LEN] {
    let mut to = [0; LEN];
    put32(&mut to, 0x00, geometry.inodes());
    put32(&mut to, 0x04, low32(geometry.blocks));
    put32(&mut to, 0x150, high32(geometry.blocks));
    put32(&mut to, 0x0c, low32(changing.free_blocks));
    put32(&mut to, 0x158, high32(changing.free_blocks));
    put32(&mut to, 0x10, changing.free_inodes);
    let log = geometry.block.trailing_zeros() - 10;
    put32(&mut to, 0x18, log);
    put32(&mut to, 0x1c, log);
    let per_group = low32(geometry.blocks_per_group());
    put32(&mut to, 0x20, per_group);
    put32(&mut to, 0x24, per_group);
    put32(&mut to, 0x28, geometry.inodes_per_group);
    // Never count mounts: with 0 the kernel would write 20 here.
    put16(&mut to, 0x36, 0xffff);
    put16(&mut to, 0x38, 0xef53);
    put16(&mut to, 0x3a, if changing.clean { CLEAN } else { 0 });
    put16(&mut to, 0x3c, REMOUNT_READ_ONLY);
    put32(&mut to, 0x4c, 1);
    put32(&mut to, 0x54, FIRST_FREE - 1);
    put16(&mut to, 0x58, low16(low32(INODE)));
    put16(&mut to, 0x5a, group);
    put32(&mut to, 0x5c, COMPAT);
    put32(&mut to, 0x60, INCOMPAT);
    put32(&mut to, 0x64, RO_COMPAT);
    to[0x68..0x78].copy_from_slice(&changing.uuid);
    put32(&mut to, 0xe0, JOURNAL_INODE);
    for (at, word) in HASH_SEED.into_iter().enumerate() {
        put32(&mut to, 0xec + 4 * at, word);
    }
    to[0xfc] = HALF_MD4;
    // The journal's map once more, for whoever has lost inode 8.
    to[0xfd] = 1;
    put16(&mut to, 0xfe, low16(low32(DESCRIPTOR)));
    // user_xattr, acl: as mke2fs has it.
    put32(&mut to, 0x100, 0xc);
    to[0x10c..0x10c + IBLOCK].copy_from_slice(journal);
    let size = crate::ext4::format::geometry::JOURNAL * u64::from(geometry.block);
    put32(&mut to, 0x10c + IBLOCK, high32(size));
    put32(&mut to, 0x10c + IBLOCK + 4, low32(size));
    put16(&mut to, 0x15c, 32);
    put16(&mut to, 0x15e, 32);
    put32(&mut to, 0x160, SIGNED);
    to[0x174] = 8;
    to[0x175] = 1;
    put32(&mut to, 0x248, low32(geometry.overhead()));
    put32(&mut to, 0x270, SEED);
    let sum = crc32c(START, &to[..0x3fc]);
    put32(&mut to, 0x3fc, sum);
    to
}

/// The same of a file system that has no journal.
pub(crate) fn without_journal(mut of: [u8; LEN]) -> [u8; LEN] {
    put32(&mut of, 0x5c, COMPAT & !HAS_JOURNAL);
    put32(&mut of, 0xe0, 0);
    of[0xfd] = 0;
    of[0x10c..0x10c + IBLOCK + 8].fill(0);
    let journal = crate::ext4::format::geometry::JOURNAL;
    let overhead = get32(&of, 0x248) - low32(journal);
    put32(&mut of, 0x248, overhead);
    let sum = crc32c(START, &of[..0x3fc]);
    put32(&mut of, 0x3fc, sum);
    of
}

/// What [`superblock`] wrote; `None` where it is not one of ours, or has been mounted since.
pub(crate) fn changing(geometry: Geometry, from: &[u8; LEN]) -> Option<Changing> {
    let changing = Changing {
        free_blocks: u64::from(get32(from, 0x0c)) | (u64::from(get32(from, 0x158)) << 32),
        free_inodes: get32(from, 0x10),
        uuid: from[0x68..0x78].try_into().ok()?,
        clean: get16(from, 0x3a) == CLEAN,
    };
    let journal: &[u8; IBLOCK] = from[0x10c..0x10c + IBLOCK].try_into().ok()?;
    (superblock(geometry, &changing, journal, 0) == *from).then_some(changing)
}

/// Bits of `bg_flags`.
pub(crate) const INODE_UNINIT: u16 = 1;
pub(crate) const BLOCK_UNINIT: u16 = 2;
/// The inode table reads as zeros where it was not written.
pub(crate) const INODE_ZEROED: u16 = 4;

/// A group's descriptor: where its parts are, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) directories: u32,
    /// Inodes at the end of the table that were never used.
    pub(crate) unused: u32,
    pub(crate) flags: u16,
    pub(crate) block_bitmap_sum: u32,
    pub(crate) inode_bitmap_sum: u32,
}

impl Group {
    pub(crate) fn encode(&self, number: u32) -> [u8; 64] {
        let mut to = [0; 64];
        let mut split = |value: u64, low: usize, high: usize| {
            put32(&mut to, low, low32(value));
            put32(&mut to, high, high32(value));
        };
        split(self.block_bitmap, 0x00, 0x20);
        split(self.inode_bitmap, 0x04, 0x24);
        split(self.table, 0x08, 0x28);
        let mut halves = |value: u32, low: usize, high: usize| {
            put16(&mut to, low, low16(value));
            put16(&mut to, high, low16(value >> 16));
        };
        halves(self.free_blocks, 0x0c, 0x2c);
        halves(self.free_inodes, 0x0e, 0x2e);
        halves(self.directories, 0x10, 0x30);
        halves(self.unused, 0x1c, 0x32);
        halves(self.block_bitmap_sum, 0x18, 0x38);
        halves(self.inode_bitmap_sum, 0x1a, 0x3a);
        put16(&mut to, 0x12, self.flags);
        let sum = crc32c(crc32c(SEED, &number.to_le_bytes()), &to);
        put16(&mut to, 0x1e, low16(sum));
        to
    }

    /// The inverse; `None` where the checksum is wrong.
    pub(crate) fn decode(from: &[u8; 64], number: u32) -> Option<Group> {
        let join = |low: usize, high: usize| {
            u64::from(get32(from, low)) | (u64::from(get32(from, high)) << 32)
        };
        let halves = |low: usize, high: usize| {
            u32::from(get16(from, low)) | (u32::from(get16(from, high)) << 16)
        };
        let group = Group {
            block_bitmap: join(0x00, 0x20),
            inode_bitmap: join(0x04, 0x24),
            table: join(0x08, 0x28),
            free_blocks: halves(0x0c, 0x2c),
            free_inodes: halves(0x0e, 0x2e),
            directories: halves(0x10, 0x30),
            unused: halves(0x1c, 0x32),
            flags: get16(from, 0x12),
            block_bitmap_sum: halves(0x18, 0x38),
            inode_bitmap_sum: halves(0x1a, 0x3a),
        };
        (group.encode(number) == *from).then_some(group)
    }
}

/// The writer's mark: bytes 896 to 1023 of the device, before the superblock.
pub(crate) const MARK_OFFSET: u64 = 896;
pub(crate) const MARK_LEN: usize = 128;
const MAGIC: &[u8; 8] = b"VNEEXT4\0";
/// Of the format: everything that decides a byte.
pub(crate) const VERSION: u32 = 2;

/// What the writer says of an image that it has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) geometry: Geometry,
    /// Layers applied so far.
    pub(crate) layers: u32,
    /// The first inode that no layer has had: in the directories' area, and in the files'.
    pub(crate) next_directory: u32,
    pub(crate) next_file: u32,
    /// The first block that no layer has had.
    pub(crate) next_block: u64,
    /// sha256 over superblock and descriptors.
    pub(crate) digest: [u8; 32],
}

impl Mark {
    pub(crate) fn encode(&self) -> [u8; MARK_LEN] {
        let mut to = [0; MARK_LEN];
        to[..8].copy_from_slice(MAGIC);
        put32(&mut to, 8, VERSION);
        put32(&mut to, 12, self.geometry.block);
        put64(&mut to, 16, self.geometry.base);
        put32(&mut to, 24, self.geometry.inodes_per_group);
        put32(&mut to, 28, self.geometry.align);
        put32(&mut to, 32, self.layers);
        put32(&mut to, 36, self.next_directory);
        put32(&mut to, 40, self.next_file);
        put32(&mut to, 44, self.geometry.doublings);
        put64(&mut to, 48, self.next_block);
        to[56..88].copy_from_slice(&self.digest);
        let sum = crc32c(START, &to[..124]);
        put32(&mut to, 124, sum);
        to
    }

    /// The inverse.
    pub(crate) fn decode(from: &[u8; MARK_LEN]) -> Marked {
        if from[..8] != *MAGIC {
            return Marked::No;
        }
        if get32(from, 124) != crc32c(START, &from[..124]) {
            return Marked::Broken;
        }
        if get32(from, 8) != VERSION {
            return Marked::Version(get32(from, 8));
        }
        let (block, base) = (get32(from, 12), get64(from, 16));
        let (inodes_per_group, align) = (get32(from, 24), get32(from, 28));
        let geometry = Geometry::of(block, base, inodes_per_group, align, get32(from, 44));
        let Some(geometry) = geometry else { return Marked::Broken };
        let mut digest = [0; 32];
        digest.copy_from_slice(&from[56..88]);
        Marked::Yes(Mark {
            geometry,
            layers: get32(from, 32),
            next_directory: get32(from, 36),
            next_file: get32(from, 40),
            next_block: get64(from, 48),
            digest,
        })
    }
}

/// Whether a device has the writer's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    Yes(Mark),
    /// Of another version of the format.
    Version(u32),
    /// Its checksum is wrong, or its geometry is none that could be made.
    Broken,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        let geometry = Geometry::new(1 << 30, 4096, 0, 1 << 20).unwrap();
        let changing = Changing { free_blocks: 7, free_inodes: 9, uuid: BLANK_UUID, clean: true };
        let mut bytes = superblock(geometry, &changing, &[3; IBLOCK], 0);
        assert_eq!(super::changing(geometry, &bytes), Some(changing));
        // A mount count, with a good checksum.
        bytes[0x34] = 1;
        let sum = crc32c(START, &bytes[..0x3fc]);
        put32(&mut bytes, 0x3fc, sum);
        assert_eq!(super::changing(geometry, &bytes), None);

        let group = Group {
            block_bitmap: 1 << 33,
            inode_bitmap: 2,
            table: 3,
            free_blocks: 32_768,
            free_inodes: 5,
            directories: 70_000,
            unused: 7,
            flags: INODE_ZEROED,
            block_bitmap_sum: 0x1234_5678,
            inode_bitmap_sum: 0x9abc_def0,
        };
        let mut bytes = group.encode(3);
        assert_eq!(Group::decode(&bytes, 3), Some(group));
        assert_eq!(Group::decode(&bytes, 4), None);
        bytes[0x0c] ^= 1;
        assert_eq!(Group::decode(&bytes, 3), None);

        let mark = Mark {
            geometry,
            layers: 2,
            next_directory: 12,
            next_file: 3025,
            next_block: 1 << 40,
            digest: [8; 32],
        };
        let mut bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Marked::Yes(mark));
        bytes[20] ^= 1;
        assert_eq!(Mark::decode(&bytes), Marked::Broken);
        let grown = Mark { geometry: geometry.doubled().unwrap(), ..mark };
        let mut bytes = grown.encode();
        assert_eq!(Mark::decode(&bytes), Marked::Yes(grown));
        // More doublings than there can be, with a good checksum.
        bytes[44] = 7;
        let sum = crc32c(START, &bytes[..124]);
        put32(&mut bytes, 124, sum);
        assert_eq!(Mark::decode(&bytes), Marked::Broken);
        assert_eq!(Mark::decode(&[0; MARK_LEN]), Marked::No);
    }
}
