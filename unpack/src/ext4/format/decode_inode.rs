//! An inode (`Documentation/filesystems/ext4/inodes.rst`; the checks of `fs/ext4/inode.c`,
//! `__ext4_iget`, and those that a reader can add).

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::decode_bytes::{index, join32, le16, le32};
use crate::ext4::format::decode_super::Super;

/// Where the part begins that the first 128 bytes had no room for.
const OLD: usize = 128;
/// What the kernel uses of that part where an inode says that it uses none.
const EXTRA: usize = 32;

/// Flags of an inode.
pub(crate) mod flag {
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
}

/// Flags of features that are refused, on an inode of a file system without them.
const ODD: [(u32, &str); 4] = [
    (0x800, "an inode is encrypted"),
    (0x20_0000, "an inode of an attribute's value has a name"),
    (0x1000_0000, "an inode has its data in itself"),
    (0x4000_0000, "a directory folds case"),
];

/// What kind of node an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
}

/// An inode, judged.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    /// Permissions and set-id bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u16,
    /// Bytes of content.
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) flags: u32,
    /// `i_block`: an extent tree's root, a map, a short target or a device number.
    pub(crate) map: [u8; 60],
    /// The block of further attributes; 0 if there is none.
    pub(crate) xattr_block: u64,
    /// What the attributes in the inode have, from their magic on; empty if there are none.
    pub(crate) xattrs: Vec<u8>,
    /// What checksums of blocks that are this inode's begin with.
    pub(crate) seed: Option<u32>,
    /// Whether a symlink's target is in `map`.
    pub(crate) is_fast: bool,
}

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Inode, rule)
}

impl Inode {
    /// Judges the bytes of inode `number`.
    pub(crate) fn read(raw: &[u8], number: u32, sup: &Super) -> Result<Inode, Flaw> {
        Inode::judge(raw, number, sup).map_err(|flaw| flaw.in_inode(number))
    }

    fn judge(raw: &[u8], number: u32, sup: &Super) -> Result<Inode, Flaw> {
        let size = index(sup.inode_size);
        let raw = raw.get(..size).ok_or_else(|| flaw("an inode is cut"))?;
        let extra = if size > OLD { usize::from(le16(raw, 0x80)) } else { 0 };
        if extra % 4 != 0 || OLD + extra > size {
            return Err(flaw("the extra size of an inode is out of range").value(extra as u64));
        }
        let seed = sup.checksums.map(|seed| {
            let seed = crc32c(seed, &number.to_le_bytes());
            crc32c(seed, &raw[0x64..0x68])
        });
        if let Some(seed) = seed {
            check(raw, extra, seed)?;
        }
        let (mode, links) = (le16(raw, 0), le16(raw, 0x1a));
        if mode == 0 || links == 0 {
            return Err(flaw("an inode has a name and is not in use"));
        }
        let kind = kind(mode)?;
        let flags = le32(raw, 0x20);
        if let Some((_, rule)) = ODD.into_iter().find(|(bit, _)| flags & bit != 0) {
            return Err(flaw(rule));
        }
        let ids = [(2, 0x78), (0x18, 0x7a)]
            .map(|(low, high)| u32::from(le16(raw, low)) | u32::from(le16(raw, high)) << 16);
        if ids.contains(&u32::MAX) {
            return Err(flaw("an owner is no user or group"));
        }
        let high = if kind == Kind::File { le32(raw, 0x6c) } else { 0 };
        let mut map = [0; 60];
        map.copy_from_slice(&raw[0x28..0x64]);
        let xattr_block = join32(le32(raw, 0x68), u32::from(le16(raw, 0x76)));
        let is_fast = kind == Kind::Symlink && own_sectors(raw, flags, xattr_block, sup) == 0;
        // What says that it uses nothing there has attributes nowhere, and its times all the same.
        let here = if extra == 0 { size } else { OLD + extra };
        let reach = match (size > OLD, extra) {
            (true, 0) => EXTRA,
            (_, extra) => extra,
        };
        Ok(Inode {
            number,
            kind,
            mode: u32::from(mode) & 0o7777,
            uid: ids[0],
            gid: ids[1],
            links,
            size: join32(le32(raw, 4), high),
            mtime: mtime(raw, reach),
            flags,
            map,
            xattr_block,
            xattrs: raw.get(here..).unwrap_or_default().to_vec(),
            seed,
            is_fast,
        })
    }

    /// The bytes of `i_block` as a device number (`fs/ext4/inode.c`, `old_decode_dev`, `new_decode_dev`).
    pub(crate) fn device(&self) -> (u32, u32) {
        match (le32(&self.map, 0), le32(&self.map, 4)) {
            (0, new) => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            (old, _) => ((old >> 8) & 0xff, old & 0xff),
        }
    }
}

fn kind(mode: u16) -> Result<Kind, Flaw> {
    Ok(match mode >> 12 {
        0o1 => Kind::Fifo,
        0o2 => Kind::Char,
        0o4 => Kind::Dir,
        0o6 => Kind::Block,
        0o10 => Kind::File,
        0o12 => Kind::Symlink,
        0o14 => Kind::Socket,
        other => return Err(flaw("an inode is of no kind that there is").value(other)),
    })
}

/// The inode's checksum (`ext4_inode_csum`).
fn check(raw: &[u8], extra: usize, seed: u32) -> Result<(), Flaw> {
    let wide = extra >= 4;
    let mut sum = [&raw[..0x7c], &[0, 0], &raw[0x7e..OLD]].into_iter().fold(seed, crc32c);
    let mut stored = u32::from(le16(raw, 0x7c));
    let (mask, rest) = if wide {
        stored |= u32::from(le16(raw, 0x82)) << 16;
        sum = [&raw[OLD..0x82], &[0, 0]].into_iter().fold(sum, crc32c);
        (u32::MAX, &raw[0x84..])
    } else {
        (0xffff, &raw[OLD..])
    };
    match crc32c(sum, rest) & mask == stored {
        true => Ok(()),
        false => Err(Flaw::new(FlawKind::Checksum, "an inode's checksum does not match")),
    }
}

/// Seconds since 1970 and nanoseconds, as the kernel shows them (`ext4_decode_extra_time`).
fn mtime(raw: &[u8], reach: usize) -> (i64, u32) {
    let low = i64::from(le32(raw, 0x10).cast_signed());
    // i_mtime_extra is at 0x88, and ends 12 bytes into the extra part.
    if reach < 12 {
        return (low, 0);
    }
    let extra = le32(raw, 0x88);
    (low + (i64::from(extra & 3) << 32), extra >> 2)
}

/// Sectors without those of the attributes' block, as `ext4_inode_is_fast_symlink` counts them.
fn own_sectors(raw: &[u8], flags: u32, xattr_block: u64, sup: &Super) -> u64 {
    let sectors = join32(le32(raw, 0x1c), u32::from(le16(raw, 0x74)));
    let sectors = match flags & flag::HUGE_FILE {
        0 => sectors,
        _ => sectors.saturating_mul(u64::from(sup.block_size / 512)),
    };
    match xattr_block {
        0 => sectors,
        _ => sectors.wrapping_sub(u64::from(sup.cluster_size / 512)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(map: [u32; 2]) -> Inode {
        let mut bytes = [0; 60];
        bytes[..4].copy_from_slice(&map[0].to_le_bytes());
        bytes[4..8].copy_from_slice(&map[1].to_le_bytes());
        Inode {
            number: 12,
            kind: Kind::Char,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
            size: 0,
            mtime: (0, 0),
            flags: 0,
            map: bytes,
            xattr_block: 0,
            xattrs: Vec::new(),
            seed: None,
            is_fast: false,
        }
    }

    /// `linux/kdev_t.h`: 12 bits of major, 20 of minor.
    #[test]
    fn device_numbers_of_both_forms() {
        assert_eq!(inode([0x0103, 0]).device(), (1, 3));
        assert_eq!(inode([0, 0]).device(), (0, 0));
        assert_eq!(inode([0, 0xffff_ffff]).device(), (0xfff, 0xfffff));
        assert_eq!(inode([0, 0x0010_0300]).device(), (3, 0x100));
    }

    /// `Documentation/filesystems/ext4/inodes.rst`, the table of extra epoch bits.
    #[test]
    fn times_from_1901_to_2446() {
        let time = |low: i32, extra: u32| {
            let mut raw = [0; 160];
            raw[0x10..0x14].copy_from_slice(&low.to_le_bytes());
            raw[0x88..0x8c].copy_from_slice(&extra.to_le_bytes());
            mtime(&raw, 32)
        };
        assert_eq!(time(i32::MIN, 0), (-0x8000_0000, 0));
        assert_eq!(time(-2, 750_000_000 << 2), (-2, 750_000_000));
        assert_eq!(time(i32::MIN, 1), (0x8000_0000, 0));
        assert_eq!(time(i32::MAX, 3 | 999_999_999 << 2), (0x3_7fff_ffff, 999_999_999));
        assert_eq!(mtime(&[0xff; 160], 8), (-1, 0));
    }
}
