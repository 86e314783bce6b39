//! A journal that nobody has replayed, replayed in memory: which of its blocks stand for which of the file
//! system's (`fs/jbd2/recovery.c`, `do_one_pass`: where the log ends, what is revoked, what is left). The image is
//! not written to.
//!
//! What the kernel would not mount is a flaw: a commit, a descriptor of a committed transaction or its data whose
//! checksum does not match.

use std::collections::BTreeMap;
use std::fs::File;

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_journal::{Journal, Kind, Tag, head};
use crate::ext4::read::cost::Cost;
use crate::ext4::read::image::{Image, Instead, Replayed};
use crate::ext4::read::map::{Run, runs};

/// Blocks that may be replaced, or revoked: what a journal of 1 GiB has with blocks of 4 KiB.
const BLOCKS_MAX: usize = 1 << 18;
/// Pieces that a journal may lie in.
const PIECES_MAX: usize = 1 << 14;

/// Opens an image. A journal that would have to be replayed is a flaw, unless it may be: then what it has stands
/// for what the file system has, here and nowhere else.
pub(crate) fn open<'f>(file: &'f File, cost: Cost, replay: bool) -> Result<Image<'f>, Fault> {
    let mut image = Image::new(file, cost)?;
    match (image.sup.recover, replay) {
        (false, _) => {}
        (true, false) => {
            return Err(flaw("its journal was not replayed: mount and unmount it, or run e2fsck"));
        }
        (true, true) => {
            let replayed = replayed(&mut image)?;
            image.replay(replayed)?;
        }
    }
    Ok(image)
}

fn flaw(rule: &'static str) -> Fault {
    Flaw::new(FlawKind::Journal, rule).into()
}

struct Log {
    journal: Journal,
    pieces: Vec<Run>,
}

/// What one pass over the log does with it.
enum Pass<'a> {
    /// Finds where it ends.
    End,
    /// Learns what is revoked, and since which transaction.
    Revoke(&'a mut BTreeMap<u64, u32>),
    /// Learns what is left.
    Replay(&'a BTreeMap<u64, u32>, &'a mut Replayed),
}

/// What the journal of `image` has that the file system has not.
fn replayed(image: &mut Image<'_>) -> Result<Replayed, Fault> {
    let Some(number) = image.sup.journal else {
        return Err(flaw("it wants a journal replayed and has none"));
    };
    let inode = image.any_inode(number)?;
    let block_size = image.sup.block_size;
    let blocks = inode.size / u64::from(block_size);
    let mut pieces = Vec::new();
    runs(image, &inode, blocks, &mut |_, run| {
        if run.at.is_none() || pieces.len() >= PIECES_MAX {
            return Err(flaw("a journal has holes, or too many pieces"));
        }
        pieces.push(run);
        Ok(())
    })?;
    let first = pieces.first().and_then(|run| run.at);
    let first = first.ok_or_else(|| flaw("a journal is empty"))?;
    let journal = Journal::read(&image.block(first)?, block_size, blocks)?;
    let log = Log { journal, pieces };
    let mut replayed = Replayed::new();
    if log.journal.start == 0 {
        return Ok(replayed);
    }
    let mut revoked = BTreeMap::new();
    let end = log.pass(image, None, Pass::End)?;
    log.pass(image, Some(end), Pass::Revoke(&mut revoked))?;
    log.pass(image, Some(end), Pass::Replay(&revoked, &mut replayed))?;
    Ok(replayed)
}

impl Log {
    /// Where a block of the journal is.
    fn place(&self, block: u32) -> Result<u64, Fault> {
        let block = u64::from(block);
        let at = self.pieces.partition_point(|run| run.logical + run.len <= block);
        let run = self.pieces.get(at).filter(|run| run.logical <= block);
        run.and_then(|run| Some(run.at? + (block - run.logical)))
            .ok_or_else(|| flaw("a block of the log is not in the journal"))
    }

    /// Goes through the log, to transaction `end` if that is known; gives the number of the first transaction that
    /// is not whole.
    fn pass(
        &self,
        image: &mut Image<'_>,
        end: Option<u32>,
        mut pass: Pass<'_>,
    ) -> Result<u32, Fault> {
        let journal = &self.journal;
        let (mut sequence, mut next, mut left) = (journal.sequence, journal.start, journal.len);
        // Of a descriptor whose checksum is wrong: it may be one that was never finished.
        let mut broken = false;
        while end != Some(sequence) {
            let raw = image.block(self.place(next)?)?;
            let kind = match head(&raw) {
                Some((kind, number)) if number == sequence => kind,
                Some(_) | None => break,
            };
            self.advance(&mut next, &mut left, 1)?;
            match kind {
                Kind::Descriptor => {
                    broken |= !journal.is_whole(&raw);
                    let tags = journal.tags(&raw);
                    if let Pass::Replay(revoked, replayed) = &mut pass {
                        self.data(image, &tags, sequence, next, (revoked, replayed))?;
                    }
                    let count = u32::try_from(tags.len()).unwrap_or(u32::MAX);
                    match self.advance(&mut next, &mut left, count) {
                        Err(_) if broken => break,
                        other => other?,
                    }
                }
                Kind::Commit if broken || !journal.is_committed(&raw) => {
                    return Err(flaw("a transaction of the journal is corrupt"));
                }
                Kind::Commit => sequence = sequence.wrapping_add(1),
                Kind::Revoke => {
                    broken |= !journal.is_whole(&raw);
                    if let Pass::Revoke(revoked) = &mut pass {
                        for block in journal.revoked(&raw)? {
                            revoked.insert(block, sequence);
                        }
                        if revoked.len() > BLOCKS_MAX {
                            return Err(flaw("a journal revokes too much"));
                        }
                    }
                }
                Kind::Other => break,
            }
        }
        match end {
            Some(end) if end != sequence => Err(flaw("a log has two ends")),
            Some(_) | None => Ok(sequence),
        }
    }

    /// Goes on by so many blocks; a log that comes back to where it began is none.
    fn advance(&self, next: &mut u32, left: &mut u32, blocks: u32) -> Result<(), Fault> {
        *left = left.checked_sub(blocks).ok_or_else(|| flaw("a log has no end"))?;
        for _ in 0..blocks {
            *next = self.journal.after(*next);
        }
        Ok(())
    }

    /// Takes in the blocks that follow a descriptor.
    fn data(
        &self,
        image: &mut Image<'_>,
        tags: &[Tag],
        sequence: u32,
        from: u32,
        (revoked, replayed): (&BTreeMap<u64, u32>, &mut Replayed),
    ) -> Result<(), Fault> {
        let mut next = from;
        for tag in tags {
            let block = self.place(next)?;
            next = self.journal.after(next);
            // Sequence numbers come round, so a later one is one that is not far ahead.
            let later = |since: &u32| since.wrapping_sub(sequence).cast_signed() >= 0;
            if revoked.get(&tag.block).is_some_and(later) {
                continue;
            }
            if tag.block >= image.sup.blocks {
                return Err(flaw("a journal has a block that lies outside the device"));
            }
            if !self.journal.is_of(tag, sequence, &image.block(block)?) {
                return Err(flaw("data of the journal is corrupt"));
            }
            replayed.insert(tag.block, Instead { block, escaped: tag.escaped });
            if replayed.len() > BLOCKS_MAX {
                return Err(flaw("a journal has too many blocks to replay in memory"));
            }
        }
        Ok(())
    }
}
