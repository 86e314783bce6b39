//! The blocks of a journal (`Documentation/filesystems/ext4/journal.rst`; `include/linux/jbd2.h`,
//! `fs/jbd2/recovery.c`). Numbers are big-endian here.

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::{START, crc32c};
use crate::ext4::format::decode_bytes::{be32, join32, sixteen};

/// What every block of the journal's own begins with; a block of data that does is escaped.
pub(crate) const MAGIC: u32 = 0xc03b_3998;
/// Bytes of that head: magic, kind, sequence number.
const HEAD: usize = 12;
/// Bytes of the superblock that its checksum covers.
const SUPER: usize = 1024;

/// Incompatible features.
mod bit {
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const SIXTY_FOUR: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
}

/// Flags of a tag.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Journal, rule)
}

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Descriptor,
    Commit,
    Revoke,
    /// None of the log's.
    Other,
}

/// Kind and sequence number; `None` if the block is not the journal's own.
pub(crate) fn head(raw: &[u8]) -> Option<(Kind, u32)> {
    let kind = match be32(raw, 4) {
        1 => Kind::Descriptor,
        2 => Kind::Commit,
        5 => Kind::Revoke,
        _ => Kind::Other,
    };
    (be32(raw, 0) == MAGIC).then(|| (kind, be32(raw, 8)))
}

/// What a tag says of a block of data that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Where it belongs.
    pub(crate) block: u64,
    /// Whether its first four bytes were [`MAGIC`] and are zeros here.
    pub(crate) escaped: bool,
    sum: Option<u32>,
    /// Which bits of the checksum the tag has.
    mask: u32,
}

/// A journal's superblock.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    /// Its length in blocks, and the first one of the log.
    pub(crate) len: u32,
    pub(crate) first: u32,
    /// The sequence number that the log begins with, and its block; 0 if there is nothing to replay.
    pub(crate) sequence: u32,
    pub(crate) start: u32,
    features: u32,
    /// What checksums begin with, where there are any.
    seed: Option<u32>,
}

impl Journal {
    /// Judges the first block of a journal that has so many blocks.
    pub(crate) fn read(raw: &[u8], block_size: u32, blocks: u64) -> Result<Journal, Flaw> {
        if be32(raw, 0) != MAGIC || !matches!(be32(raw, 4), 3 | 4) || be32(raw, 12) != block_size {
            return Err(flaw("a journal has no superblock, or another size of blocks"));
        }
        // The first version has no features.
        let features = if be32(raw, 4) == 4 { be32(raw, 0x28) } else { 0 };
        let known = bit::REVOKE
            | bit::SIXTY_FOUR
            | bit::ASYNC_COMMIT
            | bit::CSUM_V2
            | bit::CSUM_V3
            | bit::FAST_COMMIT;
        if features & !known != 0 {
            return Err(flaw("a journal uses features that are not known").value(features & !known));
        }
        if features & (bit::ASYNC_COMMIT | bit::FAST_COMMIT) != 0 {
            let rule = "a journal uses fast_commit or async_commit, which is not replayed";
            return Err(flaw(rule));
        }
        let sums = features & (bit::CSUM_V2 | bit::CSUM_V3) != 0;
        if sums {
            let covered = raw.get(..SUPER).unwrap_or_default();
            let (before, after) = covered.split_at_checked(0xfc).unwrap_or_default();
            let rest = after.get(4..).unwrap_or_default();
            let sum = [before, &[0; 4], rest].into_iter().fold(START, crc32c);
            if sum != be32(raw, 0xfc) || raw.get(0x50) != Some(&4) {
                return Err(flaw("the checksum of a journal's superblock does not match"));
            }
        }
        let (len, first, start) = (be32(raw, 16), be32(raw, 20), be32(raw, 28));
        let fits = first > 0 && first < len && u64::from(len) <= blocks;
        if !fits || (start != 0 && !(first..len).contains(&start)) {
            return Err(flaw("a log lies outside its journal").value(start).limit(blocks));
        }
        Ok(Journal {
            len,
            first,
            sequence: be32(raw, 24),
            start,
            features,
            seed: sums.then(|| crc32c(START, &sixteen(raw, 0x30))),
        })
    }

    /// The block of the log after `block`.
    pub(crate) fn after(&self, block: u32) -> u32 {
        if block + 1 < self.len { block + 1 } else { self.first }
    }

    /// Whether the checksum that a block of tags or revocations ends with matches.
    pub(crate) fn is_whole(&self, raw: &[u8]) -> bool {
        let Some(seed) = self.seed else { return true };
        let at = raw.len().saturating_sub(4);
        let covered = raw.get(..at).unwrap_or_default();
        crc32c(crc32c(seed, covered), &[0; 4]) == be32(raw, at)
    }

    /// Whether the checksum of a commit matches.
    pub(crate) fn is_committed(&self, raw: &[u8]) -> bool {
        let Some(seed) = self.seed else { return true };
        let (before, after) = raw.split_at_checked(16).unwrap_or_default();
        let rest = after.get(4..).unwrap_or_default();
        [before, &[0; 4], rest].into_iter().fold(seed, crc32c) == be32(raw, 16)
    }

    /// Whether the data in the log is what its tag says.
    pub(crate) fn is_of(&self, tag: &Tag, sequence: u32, raw: &[u8]) -> bool {
        match (self.seed, tag.sum) {
            (Some(seed), Some(sum)) => {
                let computed = crc32c(crc32c(seed, &sequence.to_be_bytes()), raw);
                computed & tag.mask == sum
            }
            _ => true,
        }
    }

    fn end(&self, raw: &[u8]) -> usize {
        raw.len().saturating_sub(if self.seed.is_some() { 4 } else { 0 })
    }

    /// The tags of a descriptor, in the order of their data.
    pub(crate) fn tags(&self, raw: &[u8]) -> Vec<Tag> {
        let third = self.features & bit::CSUM_V3 != 0;
        let wide = self.features & bit::SIXTY_FOUR != 0;
        let second = self.features & bit::CSUM_V2 != 0;
        let len = match third {
            true => 16,
            false => 8 + if wide { 4 } else { 0 } + if second { 2 } else { 0 },
        };
        let (mut at, mut tags) = (HEAD, Vec::new());
        while at + len <= self.end(raw) {
            let half = be32(raw, at + 4);
            let (flags, sum, mask) = match (third, second) {
                (true, _) => (half, Some(be32(raw, at + 12)), u32::MAX),
                (false, true) => (half & 0xffff, Some(half >> 16), 0xffff),
                (false, false) => (half & 0xffff, None, 0),
            };
            let high = if wide { be32(raw, at + 8) } else { 0 };
            let block = join32(be32(raw, at), high);
            tags.push(Tag { block, escaped: flags & ESCAPED != 0, sum, mask });
            if flags & LAST != 0 {
                break;
            }
            at += len + if flags & SAME_UUID == 0 { 16 } else { 0 };
        }
        tags
    }

    /// The blocks that a block of revocations names.
    pub(crate) fn revoked(&self, raw: &[u8]) -> Result<Vec<u64>, Flaw> {
        let each = if self.features & bit::SIXTY_FOUR != 0 { 8 } else { 4 };
        let end = usize::try_from(be32(raw, HEAD)).unwrap_or(usize::MAX);
        if end > self.end(raw) || end < 16 {
            return Err(flaw("a block of revocations is longer than a block").value(end as u64));
        }
        let block = |at: usize| match each {
            8 => join32(be32(raw, at + 4), be32(raw, at)),
            _ => u64::from(be32(raw, at)),
        };
        Ok((16..=end - each.min(end))
            .step_by(each)
            .filter(|at| at + each <= end)
            .map(block)
            .collect())
    }
}
