//! A group's descriptor: where its inode table is, and whether it is what was written
//! (`Documentation/filesystems/ext4/group_descr.rst`; `fs/ext4/super.c`, `ext4_group_desc_csum`).

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::decode_bytes::{index, join32, le16, le32};
use crate::ext4::format::decode_super::Super;

/// What a reader wants of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The first block of its inode table.
    pub(crate) table: u64,
}

/// Where the descriptor's checksum is.
const SUM_AT: usize = 0x1e;

impl Group {
    /// Judges the descriptor of `group`.
    pub(crate) fn read(raw: &[u8], group: u32, sup: &Super) -> Result<Group, Flaw> {
        let wide = sup.desc_size >= 64;
        check(raw, group, sup)?;
        let table = join32(le32(raw, 8), if wide { le32(raw, 0x28) } else { 0 });
        match sup.may_hold(table, u64::from(sup.table_blocks())) {
            true => Ok(Group { table }),
            false => Err(Flaw::new(FlawKind::Geometry, "an inode table lies outside the device")
                .value(table)
                .limit(sup.blocks)),
        }
    }
}

fn check(raw: &[u8], group: u32, sup: &Super) -> Result<(), Flaw> {
    let raw = raw.get(..index(sup.desc_size)).unwrap_or_default();
    let (before, rest) = raw.split_at_checked(SUM_AT).unwrap_or_default();
    let after = rest.get(2..).unwrap_or_default();
    let number = group.to_le_bytes();
    let computed = if let Some(seed) = sup.checksums {
        let sum = [&number, before, &[0, 0], after].into_iter().fold(seed, crc32c);
        sum & 0xffff
    } else if sup.gdt_csum {
        // Without 64bit the older checksum ends with its own field.
        let after = if sup.desc_size > 32 { after } else { &[] };
        let sum = [&sup.uuid[..], &number, before, after].into_iter().fold(0xffff, crc16);
        u32::from(sum)
    } else {
        return Ok(());
    };
    match computed == u32::from(le16(raw, SUM_AT)) {
        true => Ok(()),
        false => Err(Flaw::new(
            FlawKind::Checksum,
            "a group descriptor's checksum does not match, group",
        )
        .value(group)),
    }
}

/// CRC-16 (polynomial 0x8005, bits reversed), as `lib/crc16.c` of the kernel has it.
fn crc16(value: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(value, |value, &byte| {
        (0..8).fold(value ^ u16::from(byte), |value, _| match value & 1 {
            0 => value >> 1,
            _ => (value >> 1) ^ 0xa001,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-16/ARC.
    #[test]
    fn the_vector_of_crc16() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
