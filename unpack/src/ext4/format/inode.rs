//! Inodes (`Documentation/filesystems/ext4/inodes.rst`), their extents (`ifork.rst`) and device numbers.

use crate::archive::pax::Time;
use crate::ext4::format::bytes::{get16, get32, high32, low16, low32, put16, put32};
use crate::ext4::format::crc::SEED;
use crate::ext4::format::crc::crc32c;

/// Bytes of an inode, of its map of blocks, and of what is left for attributes.
pub(crate) const LEN: usize = 256;
pub(crate) const IBLOCK: usize = 60;
pub(crate) const ATTRIBUTES: usize = 96;
const ATTRIBUTES_AT: usize = 0xa0;

/// Bits of `i_flags`.
pub(crate) const EXTENTS: u32 = 0x8_0000;
pub(crate) const INDEX: u32 = 0x1000;

/// Kinds, in the mode.
pub(crate) const REGULAR: u16 = 0x8000;
pub(crate) const DIRECTORY: u16 = 0x4000;
pub(crate) const SYMLINK: u16 = 0xa000;
pub(crate) const CHARACTER: u16 = 0x2000;
pub(crate) const BLOCK: u16 = 0x6000;
pub(crate) const FIFO: u16 = 0x1000;

/// The first and last second that an inode can hold.
const FIRST: i64 = -(1 << 31);
const LAST: i64 = (1 << 34) - (1 << 31) - 1;

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// Kind and permissions.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// All four times are the same.
    pub(crate) time: Time,
    pub(crate) links: u16,
    /// In units of 512 bytes.
    pub(crate) sectors: u64,
    pub(crate) flags: u32,
    pub(crate) map: [u8; IBLOCK],
    /// The block of attributes, or 0.
    pub(crate) attributes_block: u64,
    /// As they lie in the inode.
    pub(crate) attributes: [u8; ATTRIBUTES],
}

impl Inode {
    pub(crate) fn kind(&self) -> u16 {
        self.mode & 0xf000
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == DIRECTORY
    }

    /// Its bytes, without their checksum.
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut to = [0; LEN];
        put16(&mut to, 0x00, self.mode);
        put16(&mut to, 0x02, low16(self.uid));
        put16(&mut to, 0x78, low16(self.uid >> 16));
        put16(&mut to, 0x18, low16(self.gid));
        put16(&mut to, 0x7a, low16(self.gid >> 16));
        put32(&mut to, 0x04, low32(self.size));
        put32(&mut to, 0x6c, high32(self.size));
        let (seconds, extra) = time(self.time);
        for (at, extra_at) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put32(&mut to, at, seconds);
            put32(&mut to, extra_at, extra);
        }
        put16(&mut to, 0x1a, self.links);
        put32(&mut to, 0x1c, low32(self.sectors));
        put16(&mut to, 0x74, low16(high32(self.sectors)));
        put32(&mut to, 0x20, self.flags);
        to[0x28..0x28 + IBLOCK].copy_from_slice(&self.map);
        put32(&mut to, 0x68, low32(self.attributes_block));
        put16(&mut to, 0x76, low16(high32(self.attributes_block)));
        put16(&mut to, 0x80, 32);
        to[ATTRIBUTES_AT..].copy_from_slice(&self.attributes);
        to
    }

    /// The inverse; the checksum was looked at before.
    pub(crate) fn decode(from: &[u8; LEN]) -> Inode {
        let halves = |low: usize, high: usize| {
            u32::from(get16(from, low)) | (u32::from(get16(from, high)) << 16)
        };
        let (seconds, extra) = (get32(from, 0x10), get32(from, 0x88));
        let mut map = [0; IBLOCK];
        map.copy_from_slice(&from[0x28..0x28 + IBLOCK]);
        let mut attributes = [0; ATTRIBUTES];
        attributes.copy_from_slice(&from[ATTRIBUTES_AT..]);
        Inode {
            mode: get16(from, 0x00),
            uid: halves(0x02, 0x78),
            gid: halves(0x18, 0x7a),
            size: u64::from(get32(from, 0x04)) | (u64::from(get32(from, 0x6c)) << 32),
            time: Time {
                sec: i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32),
                nsec: extra >> 2,
            },
            links: get16(from, 0x1a),
            sectors: u64::from(get32(from, 0x1c)) | (u64::from(get16(from, 0x74)) << 32),
            flags: get32(from, 0x20),
            map,
            attributes_block: u64::from(get32(from, 0x68)) | (u64::from(get16(from, 0x76)) << 32),
            attributes,
        }
    }
}

/// Low seconds and the extra word: two more bits of seconds, and nanoseconds. Outside of what can be
/// held it is what the kernel shows: the first or last second, without a fraction.
fn time(time: Time) -> (u32, u32) {
    let clamped = clamp(time);
    let low = low32(clamped.sec.cast_unsigned());
    let epoch = (clamped.sec - i64::from(low.cast_signed())) >> 32;
    (low, clamped.nsec << 2 | u32::try_from(epoch).unwrap_or(0))
}

/// A time as the file system has it (`timestamp_truncate`).
pub(crate) fn clamp(time: Time) -> Time {
    match time.sec {
        sec if sec <= FIRST => Time { sec: FIRST, nsec: 0 },
        sec if sec >= LAST => Time { sec: LAST, nsec: 0 },
        _ => time,
    }
}

/// Puts the checksum of inode `number` into its bytes. Those of a free inode may be all zeros.
pub(crate) fn sign(bytes: &mut [u8], number: u32) {
    let sum = sum(bytes, number);
    put16(bytes, 0x7c, low16(sum));
    put16(bytes, 0x82, low16(sum >> 16));
}

/// The same for an inode of zeros, which says of itself that it has no place for the upper half.
pub(crate) fn sign_empty(bytes: &mut [u8], number: u32) {
    let sum = sum(bytes, number);
    put16(bytes, 0x7c, low16(sum));
}

/// Whether that checksum is right.
pub(crate) fn is_signed(bytes: &[u8; LEN], number: u32) -> bool {
    let sum = sum(bytes, number);
    get16(bytes, 0x7c) == low16(sum) && get16(bytes, 0x82) == low16(sum >> 16)
}

fn sum(bytes: &[u8], number: u32) -> u32 {
    // The generation is 0 in all that we make.
    let sum = crc32c(seed(number), &bytes[..0x7c]);
    let sum = crc32c(sum, &[0; 2]);
    let sum = crc32c(sum, &bytes[0x7e..0x82]);
    let sum = crc32c(sum, &[0; 2]);
    crc32c(sum, &bytes[0x84..LEN])
}

/// Where the checksums of an inode and of its blocks begin.
pub(crate) fn seed(number: u32) -> u32 {
    crc32c(crc32c(SEED, &number.to_le_bytes()), &[0; 4])
}

/// Blocks of a file that are one after another on the device as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first, counted in the file.
    pub(crate) logical: u32,
    /// At most [`LONGEST`].
    pub(crate) len: u32,
    /// The first, on the device.
    pub(crate) start: u64,
}

/// Blocks of one extent that is written.
pub(crate) const LONGEST: u32 = 32_768;
/// Extents in an inode itself.
pub(crate) const IN_INODE: usize = 4;
const EXTENT_MAGIC: u16 = 0xf30a;

/// Extents of a block of them.
pub(crate) fn in_block(block: usize) -> usize {
    (block - 16) / 12
}

fn header(to: &mut [u8], entries: usize, max: usize, depth: u16) {
    put16(to, 0, EXTENT_MAGIC);
    put16(to, 2, u16::try_from(entries).unwrap_or(u16::MAX));
    put16(to, 4, u16::try_from(max).unwrap_or(u16::MAX));
    put16(to, 6, depth);
}

fn put_extents(to: &mut [u8], extents: &[Extent]) {
    for (extent, to) in extents.iter().zip(to[12..].chunks_exact_mut(12)) {
        put32(to, 0, extent.logical);
        put16(to, 4, u16::try_from(extent.len).unwrap_or(0));
        put16(to, 6, low16(high32(extent.start)));
        put32(to, 8, low32(extent.start));
    }
}

/// The map of a file whose extents fit into its inode.
pub(crate) fn leaf_map(extents: &[Extent]) -> [u8; IBLOCK] {
    let mut to = [0; IBLOCK];
    header(&mut to, extents.len(), IN_INODE, 0);
    put_extents(&mut to, extents);
    to
}

/// The map of a file whose extents are in blocks of their own: the first logical block of each, and
/// where it is.
pub(crate) fn node_map(children: &[(u32, u64)]) -> [u8; IBLOCK] {
    let mut to = [0; IBLOCK];
    header(&mut to, children.len(), IN_INODE, 1);
    for (&(logical, block), to) in children.iter().zip(to[12..].chunks_exact_mut(12)) {
        put32(to, 0, logical);
        put32(to, 4, low32(block));
        put16(to, 8, low16(high32(block)));
    }
    to
}

/// A block of extents of inode `number`, with its checksum.
pub(crate) fn extent_block(extents: &[Extent], number: u32, block: usize) -> Vec<u8> {
    let mut to = vec![0; block];
    let max = in_block(block);
    header(&mut to, extents.len(), max, 0);
    put_extents(&mut to, extents);
    let tail = 12 + 12 * max;
    let sum = crc32c(seed(number), &to[..tail]);
    put32(&mut to, tail, sum);
    to
}

/// What a map says: its extents, or the blocks that hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Leaf(Vec<Extent>),
    Node(Vec<u64>),
}

/// Reads the map of an inode, or a block of extents. `None` where it is no such thing as we write.
pub(crate) fn read_map(from: &[u8]) -> Option<Map> {
    let entries = usize::from(get16(from, 2));
    if get16(from, 0) != EXTENT_MAGIC || 12 + 12 * entries > from.len() {
        return None;
    }
    let entries = from[12..].chunks_exact(12).take(entries);
    match get16(from, 6) {
        0 => Some(Map::Leaf(
            entries
                .map(|from| Extent {
                    logical: get32(from, 0),
                    len: u32::from(get16(from, 4)),
                    start: u64::from(get32(from, 8)) | (u64::from(get16(from, 6)) << 32),
                })
                .collect(),
        )),
        1 => Some(Map::Node(
            entries
                .map(|from| u64::from(get32(from, 4)) | (u64::from(get16(from, 8)) << 32))
                .collect(),
        )),
        _ => None,
    }
}

/// Reads a block of extents and checks its sum.
pub(crate) fn read_extent_block(from: &[u8], number: u32) -> Option<Vec<Extent>> {
    let tail = 12 + 12 * in_block(from.len());
    match read_map(&from[..tail])? {
        Map::Leaf(extents) if get32(from, tail) == crc32c(seed(number), &from[..tail]) => {
            Some(extents)
        }
        Map::Leaf(_) | Map::Node(_) => None,
    }
}

/// The largest device numbers that an inode can hold: 12 and 20 bits.
pub(crate) const MAJOR_MAX: u32 = 0xfff;
pub(crate) const MINOR_MAX: u32 = 0xf_ffff;

/// A device's numbers in the map: the old form where they are small (`old_encode_dev`), else the new one
/// (`new_encode_dev`).
pub(crate) fn device_map(major: u32, minor: u32) -> [u8; IBLOCK] {
    let mut to = [0; IBLOCK];
    if major < 256 && minor < 256 {
        put32(&mut to, 0, major << 8 | minor);
    } else {
        put32(&mut to, 4, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12));
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_kernel() {
        let at = |sec, nsec| time(Time { sec, nsec });
        assert_eq!(at(0, 0), (0, 0));
        assert_eq!(at(-2, 750_000_000), (0xffff_fffe, 750_000_000 << 2));
        assert_eq!(at(1 << 31, 500_000_000), (0x8000_0000, 500_000_000 << 2 | 1));
        assert_eq!(at(LAST, 5), (0x7fff_ffff, 3));
        assert_eq!(at(i64::MAX, 5), (0x7fff_ffff, 3));
        assert_eq!(at(i64::MIN, 5), (0x8000_0000, 0));
    }

    #[test]
    fn an_inode_comes_back() {
        let inode = Inode {
            mode: REGULAR | 0o644,
            uid: 0x1234_5678,
            gid: 0x9abc_def0,
            size: 5 << 32,
            time: Time { sec: -5, nsec: 999_999_999 },
            links: 2,
            sectors: 7 << 32,
            flags: EXTENTS,
            map: leaf_map(&[Extent { logical: 0, len: LONGEST, start: 1 << 33 }]),
            attributes_block: 9 << 32,
            attributes: [4; ATTRIBUTES],
        };
        let mut bytes = inode.encode();
        sign(&mut bytes, 12);
        assert!(is_signed(&bytes, 12) && !is_signed(&bytes, 13));
        assert_eq!(Inode::decode(&bytes), inode);
    }

    #[test]
    fn maps_come_back() {
        let extents = [
            Extent { logical: 0, len: 1, start: 5 },
            Extent { logical: 9, len: LONGEST, start: 1 << 40 },
        ];
        assert_eq!(read_map(&leaf_map(&extents)), Some(Map::Leaf(extents.to_vec())));
        let node = node_map(&[(0, 7), (9, 1 << 40)]);
        assert_eq!(read_map(&node), Some(Map::Node(vec![7, 1 << 40])));
        let mut block = extent_block(&extents, 12, 4096);
        assert_eq!(read_extent_block(&block, 12), Some(extents.to_vec()));
        assert_eq!(read_extent_block(&block, 13), None);
        block[12] ^= 1;
        assert_eq!(read_extent_block(&block, 12), None);
    }
}
