//! The journal's first block (`Documentation/filesystems/ext4/journal.rst`): clean, and never written
//! again by us. Its numbers are big-endian.

use crate::ext4::format::geometry::{Geometry, JOURNAL};
use crate::ext4::format::superblock::BLANK_UUID;

/// The block as mke2fs makes it: sequence 1, nothing to replay.
pub(crate) fn superblock(geometry: Geometry) -> Vec<u8> {
    let mut to = vec![0; geometry.block_len()];
    let mut put = |at: usize, value: u32| to[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, 0xc03b_3998);
    put(0x04, 4);
    put(0x0c, geometry.block);
    put(0x10, u32::try_from(JOURNAL).unwrap_or(0));
    put(0x14, 1);
    put(0x18, 1);
    put(0x40, 1);
    to[0x30..0x40].copy_from_slice(&BLANK_UUID);
    to
}
