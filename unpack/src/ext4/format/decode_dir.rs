//! The entries in a block of a directory (`Documentation/filesystems/ext4/directory.rst`;
//! `fs/ext4/dir.c`, `__ext4_check_dir_entry`).

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::decode_bytes::{index, le16, le32};

/// Bytes before a name.
const HEAD: usize = 8;
/// Bytes of what ends a block where there are checksums, and what it calls itself.
pub(crate) const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xde;

/// One name, and the inode that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    /// What the directory says that the inode is.
    pub(crate) kind: u8,
}

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Directory, rule)
}

/// The length of a record, which at 64 KiB is folded into 16 bits (`ext4_rec_len_from_disk`).
fn length(raw: &[u8], at: usize) -> usize {
    let len = usize::from(le16(raw, at + 4));
    match (raw.len(), len) {
        (0x1_0000, 0xffff | 0) => 0x1_0000,
        (0x1_0000, len) => (len & 0xfffc) | (len & 3) << 16,
        (_, len) => len,
    }
}

/// Hands every name of a block to `each`.
pub(crate) fn entries<'a>(
    raw: &'a [u8],
    has_tail: bool,
    mut each: impl FnMut(Entry<'a>) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    let mut at = 0;
    while at < raw.len() {
        let len = length(raw, at);
        let name_len = usize::from(raw.get(at + 6).copied().unwrap_or(0));
        let is_tail = has_tail && at == raw.len() - TAIL;
        if is_tail {
            return Ok(());
        }
        let least = HEAD + 4;
        if len < least || !len.is_multiple_of(4) || len < HEAD + name_len || len > raw.len() - at {
            return Err(flaw("the length of a directory's entry is out of range").value(len as u64));
        }
        let inode = le32(raw, at);
        if inode != 0 {
            let name = raw.get(at + HEAD..at + HEAD + name_len).unwrap_or_default();
            if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(flaw("a name is empty or holds what no name can").value(inode));
            }
            let kind = raw.get(at + 7).copied().unwrap_or(0);
            each(Entry { name, inode, kind })?;
        }
        at += len;
    }
    Ok(())
}

/// Whether a block of an indexed directory is the index's own: the first, and every one that is
/// one empty entry from end to end.
pub(crate) fn is_index(raw: &[u8], logical: u32) -> bool {
    logical == 0 || (le32(raw, 0) == 0 && length(raw, 0) == raw.len())
}

/// The checksum of a block of names (`ext4_dirblock_csum_verify`).
pub(crate) fn check(raw: &[u8], seed: Option<u32>) -> Result<(), Flaw> {
    let Some(seed) = seed else { return Ok(()) };
    let (covered, tail) = raw.split_at_checked(raw.len().wrapping_sub(TAIL)).unwrap_or_default();
    let is_tail = le32(tail, 0) == 0
        && le16(tail, 4) == 12
        && tail.get(6) == Some(&0)
        && tail.get(7) == Some(&TAIL_TYPE);
    match is_tail && crc32c(seed, covered) == le32(tail, 8) {
        true => Ok(()),
        false => Err(sum("the checksum of a directory's block does not match")),
    }
}

fn sum(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Checksum, rule)
}

/// A node of an index: where its pairs of hash and block begin, and how many there may be and are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    /// Where the count lies: in the place of the first pair's hash.
    pub(crate) at: usize,
    pub(crate) limit: u16,
    pub(crate) count: u16,
}

impl Pairs {
    /// Finds the pairs of an index's block (`get_dx_countlimit`).
    pub(crate) fn find(raw: &[u8]) -> Result<Pairs, Flaw> {
        let at = if length(raw, 0) == raw.len() {
            HEAD
        } else if length(raw, 0) == 12 && length(raw, 12) == raw.len().saturating_sub(12) {
            if le32(raw, 0x18) != 0 || raw.get(0x1d) != Some(&8) {
                return Err(flaw("the root of an index is not what it has to be"));
            }
            0x20
        } else {
            return Err(flaw("a block of an index is not what it has to be"));
        };
        let (limit, count) = (le16(raw, at), le16(raw, at + 2));
        if count == 0 || count > limit || at + 8 * usize::from(limit) > raw.len() {
            return Err(flaw("a node of an index has more entries than room")
                .value(count)
                .limit(limit));
        }
        Ok(Pairs { at, limit, count })
    }

    /// Hash and block of a pair; the first has no hash.
    pub(crate) fn get(&self, raw: &[u8], pair: u16) -> (u32, u32) {
        let at = self.at + 8 * usize::from(pair);
        (if pair == 0 { 0 } else { le32(raw, at) }, le32(raw, at + 4))
    }

    /// The checksum of an index's block (`ext4_dx_csum`).
    pub(crate) fn check(&self, raw: &[u8], seed: Option<u32>) -> Result<(), Flaw> {
        let Some(seed) = seed else { return Ok(()) };
        let rule = "the checksum of an index's block does not match";
        let tail = self.at + 8 * usize::from(self.limit);
        let covered = raw.get(..self.at + 8 * usize::from(self.count)).unwrap_or_default();
        let reserved = raw.get(tail..tail + 4).unwrap_or_default();
        let computed = [covered, reserved, &[0; 4]].into_iter().fold(seed, crc32c);
        match tail + 8 <= raw.len() && computed == le32(raw, tail + 4) {
            true => Ok(()),
            false => Err(sum(rule)),
        }
    }
}

/// What the root of an index says of it: the hash, and the levels between root and leaves.
pub(crate) fn root_info(raw: &[u8]) -> (u8, u8) {
    let byte = |at: u32| raw.get(index(at)).copied().unwrap_or(u8::MAX);
    (byte(0x1c), byte(0x1e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u32, len: u16, name: &[u8]) -> Vec<u8> {
        let mut raw = inode.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend([u8::try_from(name.len()).unwrap(), 1]);
        raw.extend(name);
        raw.resize(usize::from(len).max(raw.len()), 0);
        raw
    }

    fn names(raw: &[u8]) -> Result<Vec<Vec<u8>>, Flaw> {
        let mut names = Vec::new();
        entries(raw, false, |entry| {
            names.push(entry.name.to_vec());
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn names_of_a_block() {
        let raw = [entry(11, 12, b"a"), entry(0, 16, b"gone"), entry(12, 36, b"b")].concat();
        assert_eq!(names(&raw).unwrap(), [b"a", b"b"]);
    }

    #[test]
    fn what_leads_out_of_the_block_is_a_flaw() {
        for raw in [
            entry(11, 0, b"a"),
            entry(11, 8, b""),
            entry(11, 14, b"a"),
            entry(11, 12, b"12345"),
            [entry(11, 24, b"a"), vec![0; 8]].concat(),
            entry(11, 12, b""),
            entry(11, 12, b"a/b"),
            entry(11, 12, b"a\0"),
            entry(11, 16, b"a")[..12].to_vec(),
        ] {
            assert_eq!(names(&raw).unwrap_err().kind, FlawKind::Directory, "{raw:?}");
        }
    }
}
