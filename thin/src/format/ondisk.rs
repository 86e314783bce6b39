//! The metadata device's format, read only: superblock and B-tree nodes out of 4 KiB blocks.
//! Pure, and total over any bytes.
//!
//! Layouts: `struct thin_disk_superblock` and `struct disk_device_details` in the kernel's
//! `drivers/md/dm-thin-metadata.c`, `struct node_header` in `persistent-data/dm-btree-internal.h`;
//! all little-endian. Checksum: CRC-32C of bytes 4.. without the final inversion, xor a number
//! that tells the kinds of blocks apart.

use crate::format::bitmaps::SpaceMap;
use crate::format::block::{
    BLOCK, Fault, NODE_HEADER, NODE_XOR, SUPERBLOCK_MAGIC, check_sum, crc32c, u32_at, u64_at,
};

pub(crate) const SUPERBLOCK_XOR: u32 = 160_774;

const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// The pool's root record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The block's own checksum: two superblocks with one checksum are one commit.
    pub checksum: u32,
    /// Sixteen bytes that the kernel carries along from commit to commit and never looks at.
    /// A pool of [`crate::store::Store`] has its id here, which ties the metadata to its header.
    pub uuid: [u8; 16],
    /// A commit failed: the metadata must be checked before it is written again.
    pub needs_check: bool,
    /// The caller's fence.
    pub transaction_id: u64,
    /// The block of a held metadata snapshot; 0 for none.
    pub held_root: u64,
    /// Root of the tree of trees: thin id to mappings.
    pub(crate) mapping_root: u64,
    /// Root of the tree of thin id to details.
    pub(crate) details_root: u64,
    /// Which data blocks are in use.
    pub(crate) data_map: SpaceMap,
    /// Which metadata blocks are in use.
    pub(crate) metadata_map: SpaceMap,
    /// Data block size in sectors.
    pub data_block_sectors: u32,
    /// Blocks of the metadata device when it was last committed.
    pub metadata_blocks: u64,
}

impl Superblock {
    /// Reads the superblock that was found at block `place`: 0, or a held root.
    ///
    /// # Errors
    /// A [`Fault`], the most telling one first.
    pub fn parse(block: &[u8], place: u64) -> Result<Superblock, Fault> {
        let block = block.get(..BLOCK).ok_or(Fault::Short)?;
        if block.iter().all(|&byte| byte == 0) {
            return Err(Fault::Zeroed);
        }
        let magic = u64_at(block, 32).ok_or(Fault::Short)?;
        if magic != SUPERBLOCK_MAGIC {
            return Err(Fault::Magic(magic));
        }
        check_sum(block, SUPERBLOCK_XOR, place)?;
        let version = u32_at(block, 40).ok_or(Fault::Short)?;
        if !VERSIONS.contains(&version) {
            return Err(Fault::Version(version));
        }
        let long = |at| u64_at(block, at).ok_or(Fault::Short);
        let word = |at| u32_at(block, at).ok_or(Fault::Short);
        let uuid = block.get(16..32).and_then(|b| b.try_into().ok()).ok_or(Fault::Short)?;
        Ok(Superblock {
            checksum: word(0)?,
            uuid,
            needs_check: word(4)? & 1 != 0,
            transaction_id: long(48)?,
            held_root: long(56)?,
            mapping_root: long(320)?,
            details_root: long(328)?,
            data_map: SpaceMap::parse(block, 64, true).ok_or(Fault::Short)?,
            metadata_map: SpaceMap::parse(block, 192, false).ok_or(Fault::Short)?,
            data_block_sectors: word(336)?,
            metadata_blocks: long(344)?,
        })
    }
}

/// The same superblock with another uuid and its checksum made good.
pub(crate) fn stamped(block: &[u8; BLOCK], uuid: [u8; 16]) -> [u8; BLOCK] {
    let mut out = *block;
    out[16..32].copy_from_slice(&uuid);
    let sum = crc32c(&out[4..]) ^ SUPERBLOCK_XOR;
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A B-tree node: keys with, per key, a block number below it or a leaf's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    /// Children.
    Internal(Vec<u64>),
    /// Keys and their values' bytes.
    Leaf(Vec<(u64, Vec<u8>)>),
}

impl Node {
    pub(crate) fn parse(block: &[u8], place: u64) -> Result<Node, Fault> {
        check_sum(block, NODE_XOR, place)?;
        let word = |at| u32_at(block, at).and_then(|n| usize::try_from(n).ok()).ok_or(Fault::Short);
        let (flags, entries, most, size) = (word(4)?, word(16)?, word(20)?, word(24)?);
        let fits = entries <= most
            && size > 0
            && most
                .checked_mul(size.saturating_add(8))
                .is_some_and(|bytes| bytes <= BLOCK - NODE_HEADER);
        if !fits {
            return Err(Fault::Node);
        }
        let values = NODE_HEADER + most * 8;
        let value = |at: usize| &block[values + at * size..values + (at + 1) * size];
        match flags & 3 {
            1 if size == 8 => (0..entries)
                .map(|at| u64_at(value(at), 0).ok_or(Fault::Node))
                .collect::<Result<_, _>>()
                .map(Node::Internal),
            2 => (0..entries)
                .map(|at| {
                    let key = u64_at(block, NODE_HEADER + at * 8).ok_or(Fault::Node)?;
                    Ok((key, value(at).to_vec()))
                })
                .collect::<Result<_, _>>()
                .map(Node::Leaf),
            _ => Err(Fault::Node),
        }
    }
}

/// The keys of a node that [`Node::parse`] has found to have so many entries.
pub(crate) fn keys(block: &[u8], entries: usize) -> Vec<u64> {
    (0..entries).filter_map(|at| u64_at(block, NODE_HEADER + at * 8)).collect()
}

/// The details of one thin: `struct disk_device_details`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Details {
    pub(crate) mapped_blocks: u64,
    pub(crate) transaction_id: u64,
    pub(crate) creation_time: u32,
    pub(crate) snapshotted_time: u32,
}

impl Details {
    pub(crate) fn parse(value: &[u8]) -> Option<Details> {
        Some(Details {
            mapped_blocks: u64_at(value, 0)?,
            transaction_id: u64_at(value, 8)?,
            creation_time: u32_at(value, 16)?,
            snapshotted_time: u32_at(value, 20)?,
        })
    }
}

/// A leaf value of the tree of trees: the root of one thin's mappings.
pub(crate) fn root_of(value: &[u8]) -> Option<u64> {
    u64_at(value, 0)
}

/// A leaf value of a thin's mappings: the data block; the low 24 bits are a time.
pub(crate) fn data_block(value: &[u8]) -> Option<u64> {
    u64_at(value, 0).map(|packed| packed >> 24)
}

/// The block with a checksum and a place (0) that hold, for tests.
#[cfg(test)]
pub(crate) fn resealed(block: &[u8], superblock: bool) -> Vec<u8> {
    let mut out = block.to_vec();
    out[8..16].fill(0);
    let sum = crc32c(&out[4..]) ^ if superblock { SUPERBLOCK_XOR } else { NODE_XOR };
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(block: &mut [u8], xor: u32) {
        let sum = crc32c(&block[4..]) ^ xor;
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }

    fn superblock() -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[32..40].copy_from_slice(&SUPERBLOCK_MAGIC.to_le_bytes());
        block[40..44].copy_from_slice(&2_u32.to_le_bytes());
        block[48..56].copy_from_slice(&41_u64.to_le_bytes());
        block[336..340].copy_from_slice(&128_u32.to_le_bytes());
        seal(&mut block, SUPERBLOCK_XOR);
        block
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        // The check value of CRC-32C is 0xe3069283, with the final inversion.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_good_superblock_and_every_way_to_spoil_it() {
        let good = superblock();
        let parsed = Superblock::parse(&good, 0).unwrap();
        assert_eq!((parsed.transaction_id, parsed.data_block_sectors), (41, 128));
        assert!(!parsed.needs_check);

        assert_eq!(Superblock::parse(&[0; BLOCK], 0), Err(Fault::Zeroed));
        assert_eq!(Superblock::parse(&good[..4095], 0), Err(Fault::Short));
        assert_eq!(Superblock::parse(&good, 7), Err(Fault::Place { at: 7, says: 0 }));
        assert_eq!(Superblock::parse(&[1; BLOCK], 0), Err(Fault::Magic(0x0101_0101_0101_0101)));
        for at in (0..32).chain(40..BLOCK) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(
                matches!(Superblock::parse(&bad, 0), Err(Fault::Checksum { .. })),
                "byte {at} is not covered"
            );
        }
        let mut newer = good.clone();
        newer[40] = 3;
        seal(&mut newer, SUPERBLOCK_XOR);
        assert_eq!(Superblock::parse(&newer, 0), Err(Fault::Version(3)));
        let mut flagged = good;
        flagged[4] = 1;
        seal(&mut flagged, SUPERBLOCK_XOR);
        assert!(Superblock::parse(&flagged, 0).unwrap().needs_check);
    }

    #[test]
    fn a_stamp_changes_only_the_uuid() {
        let block: [u8; BLOCK] = superblock().try_into().unwrap();
        let before = Superblock::parse(&block, 0).unwrap();
        let after = Superblock::parse(&stamped(&block, [7; 16]), 0).unwrap();
        assert_eq!(after.uuid, [7; 16]);
        assert_ne!(after.checksum, before.checksum);
        assert_eq!(Superblock { checksum: before.checksum, uuid: before.uuid, ..after }, before);
    }

    fn node(flags: u32, entries: u32, most: u32, size: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[4..8].copy_from_slice(&flags.to_le_bytes());
        block[8..16].copy_from_slice(&9_u64.to_le_bytes());
        for (at, value) in [(16, entries), (20, most), (24, size)] {
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        block
    }

    #[test]
    fn leaves_and_children() {
        let mut leaf = node(2, 2, 126, 24);
        leaf[32..40].copy_from_slice(&5_u64.to_le_bytes());
        leaf[40..48].copy_from_slice(&6_u64.to_le_bytes());
        let second = 32 + 126 * 8 + 24;
        leaf[second..second + 8].copy_from_slice(&77_u64.to_le_bytes());
        seal(&mut leaf, NODE_XOR);
        let Node::Leaf(rows) = Node::parse(&leaf, 9).unwrap() else { panic!("a leaf") };
        assert_eq!(rows[1].0, 6);
        assert_eq!(Details::parse(&rows[1].1).unwrap().mapped_blocks, 77);

        let mut inner = node(1, 1, 252, 8);
        let value = 32 + 252 * 8;
        inner[value..value + 8].copy_from_slice(&123_u64.to_le_bytes());
        seal(&mut inner, NODE_XOR);
        assert_eq!(Node::parse(&inner, 9), Ok(Node::Internal(vec![123])));
        assert_eq!(data_block(&((55_u64 << 24) | 3).to_le_bytes()), Some(55));
    }

    #[test]
    fn wild_counts_are_a_fault() {
        for (flags, entries, most, size) in [
            (2, 127, 126, 24),
            (2, 1, u32::MAX, 24),
            (2, 1, 200, u32::MAX),
            (2, 1, 126, 0),
            (1, 1, 126, 24),
            (3, 1, 126, 24),
            (0, 1, 126, 24),
        ] {
            let mut block = node(flags, entries, most, size);
            seal(&mut block, NODE_XOR);
            assert_eq!(Node::parse(&block, 9), Err(Fault::Node), "{flags} {entries} {most} {size}");
        }
    }
}
