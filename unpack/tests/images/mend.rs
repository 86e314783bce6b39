//! Every checksum of an image made right again after bytes were changed, by somebody who wants to be believed.
//! Knows as much of the format as that takes, and trusts nothing either: the bytes are a fuzzer's.

/// CRC-32C, byte by byte through a table.
fn crc(value: u32, bytes: &[u8]) -> u32 {
    static TABLE: std::sync::OnceLock<Vec<u32>> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let half =
            |value: u32| if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
        (0..256).map(|byte| (0..8).fold(byte, |value, _| half(value))).collect()
    });
    bytes.iter().fold(value, |value, &byte| {
        (value >> 8) ^ table[usize::from(value.to_le_bytes()[0] ^ byte)]
    })
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    let part = bytes.get(at..at + len).unwrap_or_default();
    part.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

fn put(bytes: &mut [u8], at: usize, value: u32, len: usize) {
    if let Some(part) = bytes.get_mut(at..at + len) {
        part.copy_from_slice(&value.to_le_bytes()[..len]);
    }
}

struct Mender<'a> {
    image: &'a mut [u8],
    block: usize,
    /// Blocks looked at: a fuzzer's trees can be large.
    left: usize,
}

/// Makes all checksums right, if the image has any.
pub(crate) fn mend(image: &mut [u8]) {
    let sb = 1024;
    if number(image, sb + 0x64, 4) & 0x400 == 0 || number(image, sb + 0x18, 4) > 6 {
        return;
    }
    let sum = crc(u32::MAX, &image[sb..sb + 0x3fc]);
    put(image, sb + 0x3fc, sum, 4);
    let (incompat, block) = (number(image, sb + 0x60, 4), 1024 << number(image, sb + 0x18, 4));
    let seed = match incompat & 0x2000 {
        0 => crc(u32::MAX, &image[sb + 0x68..sb + 0x78]),
        _ => u32::try_from(number(image, sb + 0x270, 4)).unwrap(),
    };
    let desc = if incompat & 0x80 == 0 { 32 } else { number(image, sb + 0xfe, 2).clamp(32, 1024) };
    let inode_size = number(image, sb + 0x58, 2).clamp(128, block);
    let (per_group, blocks) = (number(image, sb + 0x28, 4), number(image, sb + 0x20, 4).max(1));
    let first = number(image, sb + 0x14, 4);
    let groups = number(image, sb + 4, 4).saturating_sub(first).div_ceil(blocks).min(64);
    let mut mender = Mender { image, block, left: 4000 };
    for group in 0..groups {
        let at = (1024 / block + 1) * block + group * desc;
        if at + desc > mender.image.len() {
            return;
        }
        put(mender.image, at + 0x1e, 0, 2);
        let sum = crc(
            crc(seed, &u32::try_from(group).unwrap().to_le_bytes()),
            &mender.image[at..at + desc],
        );
        put(mender.image, at + 0x1e, sum, 2);
        let table = number(mender.image, at + 8, 4).max(4) * block;
        for n in 0..per_group.min(512) {
            let at = table + n * inode_size;
            let inode = u32::try_from(group * per_group + n + 1).unwrap_or(0);
            if number(mender.image, at, 2) != 0 && at + inode_size <= mender.image.len() {
                mender.inode(at, inode, inode_size, seed);
            }
        }
    }
}

impl Mender<'_> {
    fn inode(&mut self, at: usize, number_of: u32, size: usize, seed: u32) {
        let iseed = crc(crc(seed, &number_of.to_le_bytes()), &self.image[at + 0x64..at + 0x68]);
        let wide = size > 128 && number(self.image, at + 0x80, 2) >= 4;
        put(self.image, at + 0x7c, 0, 2);
        if wide {
            put(self.image, at + 0x82, 0, 2);
        }
        let sum = crc(iseed, &self.image[at..at + size]);
        put(self.image, at + 0x7c, sum, 2);
        if wide {
            put(self.image, at + 0x82, sum >> 16, 2);
        }
        let xattrs = number(self.image, at + 0x68, 4);
        if xattrs != 0 {
            self.attributes(xattrs, seed);
        }
        let is_dir = number(self.image, at, 2) >> 12 == 4;
        let indexed = number(self.image, at + 0x20, 4) & 0x1000 != 0;
        if number(self.image, at + 0x20, 4) & 0x8_0000 != 0 {
            self.extents(at + 0x28, 4, 5, iseed, is_dir.then_some(indexed));
        }
    }

    fn attributes(&mut self, block: usize, seed: u32) {
        let at = block * self.block;
        if at + self.block <= self.image.len() {
            put(self.image, at + 0x10, 0, 4);
            let sum = crc(seed, &(block as u64).to_le_bytes());
            let sum = crc(sum, &self.image[at..at + self.block]);
            put(self.image, at + 0x10, sum, 4);
        }
    }

    fn extents(&mut self, at: usize, most: usize, depth: usize, seed: u32, dir: Option<bool>) {
        let (entries, leaf) = (number(self.image, at + 2, 2), number(self.image, at + 6, 2) == 0);
        for n in 0..entries.min(most) {
            let slot = at + 12 + 12 * n;
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            if leaf {
                let (start, len) =
                    (number(self.image, slot + 8, 4), number(self.image, slot + 4, 2));
                for block in (start..start + len).take(if dir.is_some() { 64 } else { 0 }) {
                    self.names(block * self.block, dir == Some(true), seed);
                }
            } else if depth > 0 {
                let block = number(self.image, slot + 4, 4) * self.block;
                if block + self.block > self.image.len() {
                    continue;
                }
                self.extents(block, (self.block - 16) / 12, depth - 1, seed, dir);
                let tail = block + 12 + 12 * number(self.image, block + 4, 2);
                if tail + 4 <= block + self.block {
                    let sum = crc(seed, &self.image[block..tail]);
                    put(self.image, tail, sum, 4);
                }
            }
        }
    }

    fn names(&mut self, at: usize, indexed: bool, seed: u32) {
        if at + self.block > self.image.len() {
            return;
        }
        let first = number(self.image, at + 4, 2);
        let pairs = match first {
            12 if indexed && number(self.image, at + 16, 2) == self.block - 12 => at + 0x20,
            len if indexed && len == self.block => at + 8,
            _ => {
                let sum = crc(seed, &self.image[at..at + self.block - 12]);
                return put(self.image, at + self.block - 4, sum, 4);
            }
        };
        let covered = pairs + 8 * number(self.image, pairs + 2, 2);
        let tail = pairs + 8 * number(self.image, pairs, 2);
        if covered <= at + self.block && tail + 8 <= at + self.block {
            let sum = crc(seed, &self.image[at..covered]);
            let sum = crc(crc(sum, &self.image[tail..tail + 4]), &[0; 4]);
            put(self.image, tail + 4, sum, 4);
        }
    }
}
