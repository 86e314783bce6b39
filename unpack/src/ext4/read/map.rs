//! Where the blocks of a file are: an extent tree, or the older map of direct and indirect blocks
//! (`Documentation/filesystems/ext4/ifork.rst`).

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::le32;
use crate::ext4::format::decode_extent::{Slot, Wanted, below, check, node};
use crate::ext4::format::decode_inode::{Inode, flag};
use crate::ext4::read::image::Image;

/// Blocks of a file that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first, counted in the file.
    pub(crate) logical: u64,
    pub(crate) len: u64,
    /// Where they begin; `None` if they read as zeros.
    pub(crate) at: Option<u64>,
}

/// What takes a run of a file, and the image to read it from.
pub(crate) type EachRun<'a> = dyn FnMut(&mut Image<'_>, Run) -> Result<(), Fault> + 'a;

/// Hands the first `blocks` blocks of a file to `each`, in order and without a gap.
pub(crate) fn runs(
    image: &mut Image<'_>,
    inode: &Inode,
    blocks: u64,
    each: &mut EachRun<'_>,
) -> Result<(), Fault> {
    let done = match inode.flags & flag::EXTENTS {
        0 => mapped(image, inode, blocks, each),
        _ => extents(image, inode, blocks, each),
    };
    done.map_err(|fault| named(fault, inode.number))
}

/// A flaw in what belongs to an inode names it.
pub(crate) fn named(fault: Fault, inode: u32) -> Fault {
    match fault {
        Fault::Image(flaw) => flaw.in_inode(inode).into(),
        other @ (Fault::Refusal(_)
        | Fault::Stream(_)
        | Fault::Fs { .. }
        | Fault::NoSpace { .. }) => other,
    }
}

/// A node on the way down.
struct Level {
    slots: Vec<Slot>,
    next: usize,
    /// The file's block that its last entry ends before.
    to: u64,
    depth: u16,
}

fn extents(
    image: &mut Image<'_>,
    inode: &Inode,
    blocks: u64,
    each: &mut EachRun<'_>,
) -> Result<(), Fault> {
    let to = 1 << 32;
    let (depth, slots) = node(&inode.map, Wanted { depth: None, from: 0, to })?;
    let mut levels = vec![Level { slots, next: 0, to, depth }];
    let (mut done, mut mapped) = (0, 0u64);
    while let Some(level) = levels.last_mut() {
        let at = level.next;
        level.next += 1;
        let Some(&slot) = level.slots.get(at) else {
            levels.pop();
            continue;
        };
        // What is kept beyond the end is nothing that can be read.
        if u64::from(slot.logical()) >= blocks {
            break;
        }
        match slot {
            Slot::Node { block, .. } => {
                let range = below(&level.slots, at, level.to);
                let depth = level.depth.saturating_sub(1);
                let raw = image.block(block)?;
                let wanted = Wanted { depth: Some(depth), from: range.start, to: range.end };
                let slots = check(&raw, inode.seed)
                    .and_then(|()| node(&raw, wanted))
                    .map_err(|flaw| flaw.in_block(block))?;
                levels.push(Level { slots: slots.1, next: 0, to: range.end, depth });
            }
            Slot::Leaf { logical, len, physical, written } => {
                let (logical, len) = (u64::from(logical), u64::from(len));
                mapped += len;
                if !image.sup.may_hold(physical, len) || mapped > image.sup.blocks {
                    let rule = "an extent lies outside the device, or extents are more than it has";
                    let flaw = Flaw::new(FlawKind::Extent, rule).value(physical);
                    return Err(flaw.limit(image.sup.blocks).into());
                }
                if logical > done {
                    each(image, Run { logical: done, len: logical - done, at: None })?;
                }
                let len = len.min(blocks - logical);
                each(image, Run { logical, len, at: written.then_some(physical) })?;
                done = logical + len;
            }
        }
    }
    match blocks > done {
        true => each(image, Run { logical: done, len: blocks - done, at: None }),
        false => Ok(()),
    }
}

/// Blocks that an inode names itself.
const DIRECT: u64 = 12;

/// A block of pointers that is open, and which of its kind in the file it is.
type Held = Option<(u64, u64, Vec<u8>)>;

fn mapped(
    image: &mut Image<'_>,
    inode: &Inode,
    blocks: u64,
    each: &mut EachRun<'_>,
) -> Result<(), Fault> {
    let mut held: [Held; 3] = [None, None, None];
    let mut logical = 0;
    let mut run: Option<Run> = None;
    while logical < blocks {
        let (pointer, span) = pointer(image, inode, logical, &mut held)?;
        let now = Run { logical, len: span.min(blocks - logical), at: pointer };
        logical += now.len;
        run = match run {
            None => Some(now),
            Some(run) if run.at.map(|at| at + run.len) == now.at && now.at.is_some() => {
                Some(Run { len: run.len + now.len, ..run })
            }
            Some(run) if run.at.is_none() && now.at.is_none() => {
                Some(Run { len: run.len + now.len, ..run })
            }
            Some(run) => {
                each(image, run)?;
                Some(now)
            }
        };
    }
    run.map_or(Ok(()), |run| each(image, run))
}

/// Where a block is, and for how many blocks from it on that holds.
fn pointer(
    image: &mut Image<'_>,
    inode: &Inode,
    logical: u64,
    held: &mut [Held; 3],
) -> Result<(Option<u64>, u64), Fault> {
    let some = |block: u32| (block != 0).then_some(u64::from(block));
    let root = |slot: usize| le32(&inode.map, 4 * slot);
    if let Ok(slot @ 0..12) = usize::try_from(logical) {
        return Ok((some(root(slot)), 1));
    }
    let each = u64::from(image.sup.block_size / 4);
    let mut rest = logical - DIRECT;
    let mut levels = 1u32;
    while levels < 3 && rest >= each.pow(levels) {
        rest -= each.pow(levels);
        levels += 1;
    }
    if rest >= each.pow(levels) {
        let rule = "a file is larger than a map of blocks can be";
        return Err(Flaw::new(FlawKind::Extent, rule).value(logical).into());
    }
    let mut block = root([12, 13, 14][levels as usize - 1]);
    for level in (0..levels).rev() {
        let unit = each.pow(level);
        if block == 0 {
            return Ok((None, unit * each - rest % (unit * each)));
        }
        let (number, which) = (u64::from(block), logical - rest % (unit * each));
        let open = &mut held[level as usize];
        // One that is met in two places is read twice, so that who repeats himself is counted.
        if !matches!(open, Some((known, place, _)) if *known == number && *place == which) {
            *open = Some((number, which, image.block(number)?));
        }
        let raw = open.as_ref().map_or(&[][..], |(_, _, raw)| raw);
        let slot = usize::try_from(rest / unit % each).unwrap_or(usize::MAX);
        block = le32(raw, slot.saturating_mul(4));
        if block == 0 {
            return Ok((None, unit - rest % unit));
        }
    }
    if !image.sup.may_hold(u64::from(block), 1) {
        let rule = "a block lies outside the device, or where no file can be";
        return Err(Flaw::new(FlawKind::Extent, rule).value(block).limit(image.sup.blocks).into());
    }
    Ok((some(block), 1))
}
