//! The layer itself: what differs becomes entries, in path order.
//!
//! Everything is gone through twice, first without writing: what a layer cannot hold is told before its first byte.

use std::io::Write;

use crate::archive::header::BLOCK;
use crate::diff::compare::{Name, Names, within};
use crate::diff::groups::Marked;
use crate::diff::source::{Source, Target, size_of, zeros};
use crate::diff::{Diffed, Work, tar};
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::record::piece::{Parts, Piece};
use crate::record::spill::io_fault;
use crate::record::{Record, What};
use crate::sha::Sha256;

/// Parts of a file beyond which its holes are written as zeros.
const PARTS_MAX: usize = 1024;
/// Bytes of holes in a file that are worth a map.
const HOLES_MIN: u64 = 1 << 20;
/// Bytes of holes of a layer that may be left to a map: whoever applies it takes so many, whatever its size.
const HOLES_MAX: u64 = 8 << 30;

/// What happened to a path.
enum Change<'a> {
    /// A directory that is as it was, on the way to something that is not.
    Parent(&'a Record),
    /// Something that has to be brought.
    Brought(&'a Name, bool),
    /// Something that has to go.
    Removed(&'a [u8]),
}

/// Hands every change to `each`, parents before what is in them.
fn changes(
    names: &mut Names,
    marked: &mut Marked,
    work: &mut Work<'_>,
    each: &mut dyn FnMut(Change<'_>, &mut Work<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut marks = marked.marks()?;
    let mut pairs = names.pairs()?;
    // Directories on the way here that were not brought yet, and what is gone with all that was in it.
    let mut waiting: Vec<(Vec<u8>, Record)> = Vec::new();
    let mut gone: Option<Vec<u8>> = None;
    while let Some(pair) = pairs.next()? {
        work.budget.step()?;
        let key = pair.key;
        while waiting.last().is_some_and(|(dir, _)| !within(dir, &key)) {
            waiting.pop();
        }
        let is_brought = pair.upper.is_some() && marks.has(&key)?;
        let is_gone = gone.as_ref().is_some_and(|dir| within(dir, &key));
        let change = match (&pair.upper, &pair.base) {
            (Some(name), below) if is_brought => Some(Change::Brought(name, below.is_none())),
            (Some(_), _) => None,
            (None, Some(below)) if !is_gone => Some(Change::Removed(&below.record.path)),
            (None, Some(_) | None) => None,
        };
        if let Some(change) = change {
            for (_, record) in waiting.drain(..) {
                each(Change::Parent(&record), work)?;
            }
            each(change, work)?;
        }
        let is_dir =
            |name: &Option<Name>| name.as_ref().is_some_and(|name| name.record.what == What::Dir);
        if is_dir(&pair.base) && !is_dir(&pair.upper) && !is_gone {
            gone = Some(key);
        } else if let (false, Some(name)) = (is_brought, pair.upper)
            && name.record.what == What::Dir
        {
            waiting.push((key, name.record));
        }
    }
    Ok(())
}

/// Writes all of it.
pub(crate) fn layer(
    names: &mut Names,
    marked: &mut Marked,
    upper: &mut dyn Source,
    out: &mut dyn Write,
    work: &mut Work<'_>,
) -> Result<Diffed, Fault> {
    let mut judged = Judged::default();
    changes(names, marked, work, &mut |change, work| judged.judge(&change, work))?;
    let (diffed, hash) = (Diffed::default(), Sha256::new());
    let mut writer = Writer { out, diffed, hash, holes: 0 };
    changes(names, marked, work, &mut |change, work| writer.change(&change, upper, work))?;
    writer.put(&tar::END)?;
    let Writer { diffed, hash, .. } = writer;
    Ok(Diffed { diff_id: hash.finish(), ..diffed })
}

/// What is counted before anything is written.
#[derive(Default)]
struct Judged {
    entries: u64,
    links: u64,
    content: u64,
    attributes: u64,
}

impl Judged {
    fn judge(&mut self, change: &Change<'_>, work: &Work<'_>) -> Result<(), Fault> {
        let limits = work.limits;
        let over = |flag, rule, value: u64, max: u64| match value > max {
            true => Err(Refusal::limit(flag, rule, value, max)),
            false => Ok(()),
        };
        self.entries += 1;
        over("--entries-max", "too many entries", self.entries, limits.entries_max)?;
        let record = match change {
            Change::Parent(record) => record,
            Change::Brought(name, _) => &name.record,
            Change::Removed(path) => {
                tar::whiteout(path, limits)?;
                return Ok(());
            }
        };
        tar::fits(record, limits)?;
        tar::head(record, None, limits)?;
        if let What::Hardlink { .. } = record.what {
            self.links += 1;
            over("--links-max", "too many hard links", self.links, limits.links_max)?;
        }
        let attributes = record.xattrs.iter().map(|(key, value)| key.len() + value.len());
        self.attributes += attributes.sum::<usize>() as u64;
        let rule = "too many bytes of extended attributes";
        over("--xattrs-bytes-max", rule, self.attributes, limits.xattrs_bytes_max)?;
        let size = size_of(record).unwrap_or(0);
        over("--file-bytes-max", "a file is too large", size, limits.file_bytes_max)?;
        self.content = self.content.saturating_add(size);
        Ok(over("--bytes-max", "layer too large", self.content, limits.bytes_max)?)
    }
}

struct Writer<'o> {
    out: &'o mut dyn Write,
    diffed: Diffed,
    hash: Sha256,
    /// Bytes of holes that are not written.
    holes: u64,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.diffed.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(io_fault("write", b"layer"))
    }

    fn change(
        &mut self,
        change: &Change<'_>,
        upper: &mut dyn Source,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        self.diffed.entries += 1;
        match change {
            Change::Parent(record) => {
                self.diffed.parents += 1;
                self.put(&tar::head(record, None, work.limits)?)
            }
            Change::Removed(path) => {
                self.diffed.removed += 1;
                self.put(&tar::whiteout(path, work.limits)?)
            }
            Change::Brought(name, is_new) => {
                match is_new {
                    true => self.diffed.added += 1,
                    false => self.diffed.changed += 1,
                }
                self.diffed.attributes += name.attributes;
                match size_of(&name.record) {
                    None => self.put(&tar::head(&name.record, None, work.limits)?),
                    Some(size) => self.file(name, size, upper, work),
                }
            }
        }
    }

    fn file(
        &mut self,
        name: &Name,
        size: u64,
        upper: &mut dyn Source,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        let target = Target { path: &name.record.path, number: name.number, size };
        self.diffed.content_bytes += size;
        let parts = match size > HOLES_MIN {
            true => upper.parts(target, PARTS_MAX)?.filter(|parts| self.is_sparse(parts, size)),
            false => None,
        };
        self.put(&tar::head(&name.record, parts.as_ref(), work.limits)?)?;
        if let Some(parts) = &parts {
            self.holes += holes(parts, size);
            self.put(&tar::map(parts, size))?;
        }
        let body = tar::body(size, parts.as_ref());
        let sent = match &parts {
            Some(parts) => body - tar::map(parts, size).len() as u64,
            None => size,
        };
        let before = self.diffed.bytes;
        upper.content(target, &mut |piece| match (piece, &parts) {
            (Piece::Bytes(bytes), _) => self.put(bytes),
            (Piece::Zeros(len), None) => zeros(len, &mut |bytes| self.put(bytes)),
            (Piece::Zeros(_), Some(_)) => Ok(()),
        })?;
        // Of an image it is what its own structures say; whoever changes a directory meanwhile is found here.
        if self.diffed.bytes - before != sent {
            let rule = "a file is longer or shorter than it was a moment ago";
            return Err(Refusal::new(Class::Fs, rule).bytes(&name.record.path).into());
        }
        let pad = tar::padding(body);
        self.put(&[0; BLOCK][..pad])
    }

    fn is_sparse(&self, parts: &Parts, size: u64) -> bool {
        let holes = holes(parts, size);
        holes >= HOLES_MIN && self.holes.saturating_add(holes) <= HOLES_MAX
    }
}

/// Bytes of a file that are in none of its parts.
fn holes(parts: &Parts, size: u64) -> u64 {
    size.saturating_sub(parts.iter().map(|(_, len)| len).sum())
}
