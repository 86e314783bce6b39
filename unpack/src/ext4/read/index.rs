//! The index of a directory, checked against the hash of every name (`fs/ext4/namei.c`, `dx_probe`,
//! `ext4_htree_next_block`). A reader does without the index; whoever looks a name up in the kernel
//! does not.

use std::collections::BTreeMap;

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_dir::{Pairs, entries, root_info};
use crate::ext4::format::decode_inode::{Inode, flag};
use crate::ext4::format::hash::half_md4;
use crate::ext4::read::image::Image;
use crate::ext4::read::map::named;
use crate::ext4::read::names::{blocks, dir_blocks};

/// Half-MD4, which is 1 on the disk whether bytes are signed or not.
const HALF_MD4: u8 = 1;
/// The inode of lost+found, as mke2fs makes it.
const LOST_AND_FOUND: u32 = 11;
/// Levels between root and leaves, without `large_dir`.
const LEVELS_MAX: u8 = 1;

/// The hashes that a block of names may hold: from, to (not itself), and whether it goes on with the
/// hash that the block before ends with.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u64,
}

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Index, rule)
}

/// Checks the index of `dir`. One of more than one block has to have one.
pub(crate) fn check(image: &mut Image<'_>, dir: &Inode) -> Result<(), Fault> {
    whole(image, dir).map_err(|fault| named(fault, dir.number))
}

fn whole(image: &mut Image<'_>, dir: &Inode) -> Result<(), Fault> {
    let blocks = blocks(image, dir)?;
    if dir.flags & flag::INDEX == 0 {
        return match blocks {
            1 => Ok(()),
            // mke2fs gives lost+found blocks beforehand, so that a check needs none.
            _ if dir.number == LOST_AND_FOUND => Ok(()),
            // The kernel makes an index of one block that overflows, and never of two.
            _ => Err(flaw("a directory of several blocks has no index").value(blocks).into()),
        };
    }
    if !image.sup.hash_signed {
        return Err(flaw("the hash of names takes bytes as unsigned, which is not checked").into());
    }
    let tail = if dir.seed.is_some() { 8 } else { 0 };
    let (mut spans, mut nodes): (BTreeMap<u32, Span>, BTreeMap<u32, Span>) = Default::default();
    let size = image.block_size();
    // The root is the first block; nodes and leaves may be anywhere behind it.
    let mut levels = 0;
    dir_blocks(image, dir, &mut |logical, raw| {
        if logical == 0 {
            let (hash, depth) = root_info(raw);
            if hash != HALF_MD4 || depth > LEVELS_MAX {
                let rule = "an index is of another hash, or deeper, than is checked";
                return Err(flaw(rule).value(hash).into());
            }
            levels = depth;
            let into = if depth == 0 { &mut spans } else { &mut nodes };
            let all = Span { from: 0, to: 1 << 32 };
            pairs(raw, (size - 0x20 - tail) / 8, all, blocks, into)?;
        }
        Ok(())
    })?;
    if levels > 0 {
        dir_blocks(image, dir, &mut |logical, raw| match nodes.get(&logical) {
            Some(&span) => pairs(raw, (size - 8 - tail) / 8, span, blocks, &mut spans),
            None => Ok(()),
        })?;
    }
    let known = 1 + spans.len() + nodes.len();
    if known as u64 != blocks {
        return Err(flaw("an index does not lead to every block")
            .value(known as u64)
            .limit(blocks)
            .into());
    }
    leaves(image, dir, &spans)
}

/// Takes in the pairs of a node whose hashes have to lie in `span`.
fn pairs(
    raw: &[u8],
    limit: usize,
    span: Span,
    blocks: u64,
    into: &mut BTreeMap<u32, Span>,
) -> Result<(), Fault> {
    let pairs = Pairs::find(raw)?;
    if usize::from(pairs.limit) != limit {
        let rule = "the limit of a node of an index is not the kernel's";
        return Err(flaw(rule).value(pairs.limit).limit(limit as u64).into());
    }
    for at in 0..pairs.count {
        let (hash, block) = pairs.get(raw, at);
        let from = if at == 0 { span.from } else { hash };
        let to = match at + 1 < pairs.count {
            true => u64::from(pairs.get(raw, at + 1).0),
            false => span.to,
        };
        // Leaves that go on with one hash begin with the same odd number.
        let ascends = u64::from(from) < to || (u64::from(from) == to && from & 1 == 1);
        if !ascends || to > span.to {
            return Err(flaw("the hashes of an index do not ascend").value(from).into());
        }
        let block = block & 0x0fff_ffff;
        let is_new = block > 0 && u64::from(block) < blocks && !into.contains_key(&block);
        if !is_new {
            return Err(flaw("an index leads to a block that is not there, or twice")
                .value(block)
                .into());
        }
        into.insert(block, Span { from, to });
    }
    Ok(())
}

/// Every name is in the leaf of its hash.
fn leaves(image: &mut Image<'_>, dir: &Inode, spans: &BTreeMap<u32, Span>) -> Result<(), Fault> {
    let seed = image.sup.hash_seed;
    let has_tail = dir.seed.is_some();
    dir_blocks(image, dir, &mut |logical, raw| {
        let Some(span) = spans.get(&logical) else { return Ok(()) };
        entries(raw, has_tail, |entry| {
            let hash = half_md4(entry.name, seed);
            // Bit 0 of where a leaf begins says that it goes on with the hash of the one before; where
            // the one after it does, this one ends with that hash.
            let from = span.from & !1;
            let to = if span.to & 1 == 1 { span.to + 1 } else { span.to };
            match hash >= from && u64::from(hash) < to {
                true => Ok(()),
                false => Err(flaw("a name is not in the leaf of its hash").value(hash).limit(to)),
            }
        })?;
        Ok(())
    })?;
    Ok(())
}
