//! A node of an extent tree (`Documentation/filesystems/ext4/ifork.rst`; `fs/ext4/extents.c`,
//! `__ext4_ext_check`, `ext4_valid_extent_entries`).

use std::ops::Range;

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::decode_bytes::{join32, le16, le32};

/// Bytes of the header and of each entry.
const SLOT: usize = 12;
const MAGIC: u16 = 0xf30a;
/// Levels above the leaves (`EXT4_MAX_EXTENT_DEPTH`).
pub(crate) const DEPTH_MAX: u16 = 5;
/// A longer length stands for blocks that were never written.
const WRITTEN_MAX: u16 = 0x8000;

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Blocks of the file from `logical` on, and where they are.
    Leaf { logical: u32, len: u32, physical: u64, written: bool },
    /// Another node, for blocks from `logical` on.
    Node { logical: u32, block: u64 },
}

impl Slot {
    pub(crate) fn logical(&self) -> u32 {
        match *self {
            Slot::Leaf { logical, .. } | Slot::Node { logical, .. } => logical,
        }
    }
}

/// What a node has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// `None` for a root, which may be of any depth that there is.
    pub(crate) depth: Option<u16>,
    /// The file's blocks that it may speak of; a node below an entry begins with the first of them.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Extent, rule)
}

/// A node's depth and entries, ascending and without overlap.
pub(crate) fn node(raw: &[u8], wanted: Wanted) -> Result<(u16, Vec<Slot>), Flaw> {
    let (entries, most, depth) = (le16(raw, 2), le16(raw, 4), le16(raw, 6));
    if le16(raw, 0) != MAGIC {
        return Err(flaw("a node of extents has no magic"));
    }
    match wanted.depth {
        Some(right) if depth != right => {
            return Err(flaw("a node of extents has another depth than its place").value(depth));
        }
        None if depth > DEPTH_MAX => {
            return Err(flaw("an extent tree is too deep").value(depth).limit(DEPTH_MAX));
        }
        Some(_) | None => {}
    }
    let slots = raw.len().saturating_sub(SLOT) / SLOT;
    if most == 0 || usize::from(most) > slots || entries > most {
        return Err(flaw("a node of extents has more entries than room")
            .value(entries)
            .limit(most));
    }
    if entries == 0 && (depth > 0 || wanted.depth.is_some()) {
        return Err(flaw("a node of extents is empty"));
    }
    let mut all = Vec::with_capacity(usize::from(entries));
    let mut next = wanted.from;
    for at in (SLOT..).step_by(SLOT).take(usize::from(entries)) {
        let slot = slot(&raw[at..at + SLOT], depth == 0)?;
        let logical = u64::from(slot.logical());
        let first_is_wrong = all.is_empty() && wanted.depth.is_some() && logical != wanted.from;
        if logical < next || first_is_wrong {
            return Err(flaw("extents are not in order").value(logical));
        }
        next = match slot {
            Slot::Leaf { len, .. } => logical + u64::from(len),
            Slot::Node { .. } => logical + 1,
        };
        if next > wanted.to {
            return Err(flaw("an extent reaches beyond its place").value(logical));
        }
        all.push(slot);
    }
    Ok((depth, all))
}

fn slot(raw: &[u8], leaf: bool) -> Result<Slot, Flaw> {
    let logical = le32(raw, 0);
    if !leaf {
        return Ok(Slot::Node { logical, block: join32(le32(raw, 4), u32::from(le16(raw, 8))) });
    }
    let (len, written) = match le16(raw, 4) {
        0 => return Err(flaw("an extent is empty").value(logical)),
        len @ ..=WRITTEN_MAX => (len, true),
        len => (len - WRITTEN_MAX, false),
    };
    let physical = join32(le32(raw, 8), u32::from(le16(raw, 6)));
    Ok(Slot::Leaf { logical, len: len.into(), physical, written })
}

/// The file's blocks that the node below entry `at` may speak of.
pub(crate) fn below(slots: &[Slot], at: usize, to: u64) -> Range<u64> {
    let logical = |at: usize| slots.get(at).map(|slot| u64::from(slot.logical()));
    logical(at).unwrap_or(to)..logical(at + 1).unwrap_or(to)
}

/// The checksum of a node that has a block of its own (`ext4_extent_block_csum`).
pub(crate) fn check(raw: &[u8], seed: Option<u32>) -> Result<(), Flaw> {
    let Some(seed) = seed else { return Ok(()) };
    let at = SLOT + SLOT * usize::from(le16(raw, 4));
    match raw.get(..at).filter(|_| at + 4 <= raw.len()) {
        Some(covered) if crc32c(seed, covered) == le32(raw, at) => Ok(()),
        Some(_) | None => {
            Err(Flaw::new(FlawKind::Checksum, "the checksum of a block of extents does not match"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Wanted = Wanted { depth: None, from: 0, to: 1 << 32 };

    fn raw(depth: u16, entries: &[(u32, u16, u32)]) -> Vec<u8> {
        let mut raw = vec![0; 60];
        let count = u16::try_from(entries.len()).unwrap();
        for (at, word) in [(0, MAGIC), (2, count), (4, 4), (6, depth)] {
            raw[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        for (slot, (logical, len, physical)) in entries.iter().enumerate() {
            let at = SLOT + SLOT * slot;
            raw[at..at + 4].copy_from_slice(&logical.to_le_bytes());
            if depth == 0 {
                raw[at + 4..at + 6].copy_from_slice(&len.to_le_bytes());
                raw[at + 8..at + 12].copy_from_slice(&physical.to_le_bytes());
            } else {
                raw[at + 4..at + 8].copy_from_slice(&physical.to_le_bytes());
            }
        }
        raw
    }

    #[test]
    fn lengths_of_written_and_unwritten_extents() {
        let (_, slots) = node(&raw(0, &[(0, 0x8000, 9), (0x8000, 0x8001, 7)]), ROOT).unwrap();
        let first = Slot::Leaf { logical: 0, len: 0x8000, physical: 9, written: true };
        let second = Slot::Leaf { logical: 0x8000, len: 1, physical: 7, written: false };
        assert_eq!(slots, [first, second]);
    }

    #[test]
    fn what_contradicts_itself_is_a_flaw() {
        let child = |from| Wanted { depth: Some(0), from, to: 20 };
        for (raw, wanted) in [
            (raw(0, &[(0, 0, 9)]), ROOT),
            (raw(0, &[(0, 2, 9), (1, 1, 20)]), ROOT),
            (raw(0, &[(5, 2, 9), (1, 1, 20)]), ROOT),
            (raw(6, &[(0, 1, 9)]), ROOT),
            (raw(1, &[]), ROOT),
            (raw(1, &[(0, 1, 9), (0, 1, 9)]), ROOT),
            (raw(0, &[(u32::MAX, 2, 9)]), ROOT),
            (raw(0, &[(3, 1, 9)]), child(2)),
            (raw(0, &[(2, 19, 9)]), child(2)),
            (raw(0, &[]), child(2)),
            (raw(1, &[(2, 1, 9)]), child(2)),
            (vec![0; 60], ROOT),
            (Vec::new(), ROOT),
        ] {
            assert_eq!(node(&raw, wanted).unwrap_err().kind, FlawKind::Extent, "{raw:?}");
        }
        assert!(node(&raw(0, &[]), ROOT).is_ok());
        assert!(node(&raw(0, &[(2, 18, 9)]), child(2)).is_ok());
    }
}
