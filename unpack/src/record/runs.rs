//! Rows sorted by their key within a bounded memory and a bounded file: batches of a few MiB are
//! sorted, written as runs to a file without a name, and merged by a heap.
//!
//! What rows mean is not known here. A [`Sieve`] that does says which of them are still worth
//! keeping; it is asked whenever runs are merged, so that what was overwritten takes no place.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use crate::record::place::{Filling, MEMORY_MAX, PIECE, Place, Spill, no_place};

/// Bytes of one batch.
pub(crate) const BATCH: usize = 2 << 20;
/// So many runs of about one size are merged into one.
const FAN: usize = 8;

/// A row as it is kept: key length, sequence number, length of the rest (all little-endian), key,
/// rest.
pub(crate) const HEAD: usize = 4 + 8 + 4;

/// One row; rows are ordered by key and then by sequence number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) seq: u64,
    pub(crate) rest: Vec<u8>,
}

impl Row {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) -> io::Result<()> {
        to.extend_from_slice(&length(self.key.len())?.to_le_bytes());
        to.extend_from_slice(&self.seq.to_le_bytes());
        to.extend_from_slice(&length(self.rest.len())?.to_le_bytes());
        to.extend_from_slice(&self.key);
        to.extend_from_slice(&self.rest);
        Ok(())
    }
}

pub(crate) fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::other("record too long"))
}

/// Key length, sequence number and length of the rest of the row at the start of `bytes`.
fn head(bytes: &[u8]) -> (usize, u64, usize) {
    let four =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let seq = u64::from(four(4)) | u64::from(four(8)) << 32;
    (four(0) as usize, seq, four(12) as usize)
}

/// Sorts rows that begin at these places of `batch`.
pub(crate) fn sort(batch: &[u8], rows: &mut [usize]) {
    let place = |row: usize| {
        let (key, seq, _) = head(&batch[row..]);
        (&batch[row + HEAD..row + HEAD + key], seq)
    };
    rows.sort_unstable_by(|&a, &b| place(a).cmp(&place(b)));
}

/// The row at this place of `batch`.
pub(crate) fn row_at(batch: &[u8], row: usize) -> Row {
    let (key, seq, rest) = head(&batch[row..]);
    let (key_at, rest_at) = (row + HEAD, row + HEAD + key);
    Row { key: batch[key_at..rest_at].to_vec(), seq, rest: batch[rest_at..rest_at + rest].to_vec() }
}

/// Says which rows are worth keeping. It sees them in order, and in the end `None`.
pub(crate) trait Sieve {
    /// Hands on what is settled now, in order.
    fn next(
        &mut self,
        row: Option<Row>,
        keep: &mut dyn FnMut(Row) -> io::Result<()>,
    ) -> io::Result<()>;
}

/// Keeps all.
#[derive(Default)]
pub(crate) struct All;

impl Sieve for All {
    fn next(
        &mut self,
        row: Option<Row>,
        keep: &mut dyn FnMut(Row) -> io::Result<()>,
    ) -> io::Result<()> {
        row.map_or(Ok(()), keep)
    }
}

/// The runs of one sorter.
pub(crate) struct Runs {
    spill: Option<Arc<Spill>>,
    /// By size: those of level n are of about FAN to the n batches.
    levels: Vec<Vec<Place>>,
}

impl Runs {
    pub(crate) fn new(spill: Option<Arc<Spill>>) -> Runs {
        Runs { spill, levels: Vec::new() }
    }

    /// Whether `bytes` in memory ought to become a run, and can.
    pub(crate) fn wants(&self, bytes: usize) -> io::Result<bool> {
        match &self.spill {
            Some(_) => Ok(bytes >= BATCH / 2),
            None if bytes > MEMORY_MAX => Err(no_place()),
            None => Ok(false),
        }
    }

    /// Writes sorted rows, encoded, as a run.
    pub(crate) fn add<S: Sieve + Default>(&mut self, rows: &[u8]) -> io::Result<()> {
        let Some(spill) = self.spill.clone() else { return Ok(()) };
        let run = Place::take(&spill, rows.len() as u64)?;
        run.write(0, rows)?;
        self.put(0, run);
        for level in 0.. {
            let Some(runs) = self.levels.get_mut(level).filter(|runs| runs.len() >= FAN) else {
                break;
            };
            let room = runs.iter().map(Place::len).sum();
            // Merging is a saving: without room for it the runs stay as they are.
            let Ok(place) = Place::take(&spill, room) else { break };
            let old = std::mem::take(runs);
            let run = merge_into::<S>(place, &old)?;
            drop(old);
            self.put(level + 1, run);
        }
        Ok(())
    }

    fn put(&mut self, level: usize, run: Place) {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].push(run);
    }

    /// All rows in order, those of the runs and those that begin at `rows` of `batch`, sorted.
    pub(crate) fn merge<'a>(&'a self, batch: &'a [u8], rows: &'a [usize]) -> io::Result<Merge<'a>> {
        let mut sources: Vec<Box<dyn Read + 'a>> = Vec::new();
        for run in self.levels.iter().flatten() {
            sources.push(part(run));
        }
        sources.push(Box::new(Memory { batch, rows, at: 0, part: 0 }));
        Merge::new(sources)
    }
}

fn part(run: &Place) -> Box<dyn Read + '_> {
    Box::new(BufReader::with_capacity(PIECE, Part { run, at: 0 }))
}

fn merge_into<S: Sieve + Default>(place: Place, old: &[Place]) -> io::Result<Place> {
    let mut writing = Filling::new(place);
    let mut merge = Merge::new(old.iter().map(part).collect())?;
    let mut sieve = S::default();
    loop {
        let row = merge.next()?;
        let ended = row.is_none();
        sieve.next(row, &mut |row| {
            row.encode(&mut writing.buffer)?;
            writing.step()
        })?;
        if ended {
            return writing.end();
        }
    }
}

/// Sorted sources, merged.
pub(crate) struct Merge<'a> {
    sources: Vec<Box<dyn Read + 'a>>,
    heads: BinaryHeap<Front>,
}

/// The next row of a source; the least is the greatest, as the heap has it.
#[derive(PartialEq, Eq)]
struct Front(Row, usize);

impl Ord for Front {
    fn cmp(&self, other: &Front) -> Ordering {
        (&other.0.key, other.0.seq, other.1).cmp(&(&self.0.key, self.0.seq, self.1))
    }
}

impl PartialOrd for Front {
    fn partial_cmp(&self, other: &Front) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Merge<'a> {
    fn new(sources: Vec<Box<dyn Read + 'a>>) -> io::Result<Merge<'a>> {
        let mut merge = Merge { heads: BinaryHeap::with_capacity(sources.len()), sources };
        for at in 0..merge.sources.len() {
            merge.advance(at)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, at: usize) -> io::Result<()> {
        let from = &mut self.sources[at];
        let mut bytes = [0; HEAD];
        match from.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
            Ok(()) => {}
        }
        let (key_len, seq, rest_len) = head(&bytes);
        let (mut key, mut rest) = (vec![0; key_len], vec![0; rest_len]);
        from.read_exact(&mut key)?;
        from.read_exact(&mut rest)?;
        self.heads.push(Front(Row { key, seq, rest }, at));
        Ok(())
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Row>> {
        let Some(Front(row, at)) = self.heads.pop() else { return Ok(None) };
        self.advance(at)?;
        Ok(Some(row))
    }
}

/// A part of the file.
struct Part<'a> {
    run: &'a Place,
    at: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = self.run.read(self.at, to)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// The batch that is still in memory.
struct Memory<'a> {
    batch: &'a [u8],
    rows: &'a [usize],
    at: usize,
    /// Bytes of the current row that were read.
    part: usize,
}

impl Read for Memory<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(&row) = self.rows.get(self.at) else { return Ok(0) };
        let (key, _, rest) = head(&self.batch[row..]);
        let left = &self.batch[row + self.part..row + HEAD + key + rest];
        let len = left.len().min(to.len());
        to[..len].copy_from_slice(&left[..len]);
        self.part += len;
        if len == left.len() {
            self.at += 1;
            self.part = 0;
        }
        Ok(len)
    }
}

/// Rows that are pushed in any order and come back sorted.
pub(crate) struct Sorter {
    runs: Runs,
    batch: Vec<u8>,
    rows: Vec<usize>,
}

impl Sorter {
    pub(crate) fn new(spill: Option<Arc<Spill>>) -> Sorter {
        Sorter { runs: Runs::new(spill), batch: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: &Row) -> io::Result<()> {
        self.rows.push(self.batch.len());
        row.encode(&mut self.batch)?;
        if self.batch.len() < BATCH || !self.runs.wants(self.batch.len())? {
            return Ok(());
        }
        sort(&self.batch, &mut self.rows);
        let mut sorted = Vec::with_capacity(self.batch.len());
        for &at in &self.rows {
            let (key, _, rest) = head(&self.batch[at..]);
            sorted.extend_from_slice(&self.batch[at..at + HEAD + key + rest]);
        }
        self.runs.add::<All>(&sorted)?;
        self.batch.clear();
        self.rows.clear();
        Ok(())
    }

    pub(crate) fn sorted(&mut self) -> io::Result<Merge<'_>> {
        sort(&self.batch, &mut self.rows);
        self.runs.merge(&self.batch, &self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::place::unnamed_file;

    #[test]
    fn what_is_pushed_comes_back_in_order() {
        let mut sorter =
            Sorter::new(Some(Spill::new(unnamed_file(None).unwrap().unwrap(), 1 << 30)));
        let count = 100_000u64;
        for n in 0..count {
            let n = n * 7919 % count;
            let row = Row { key: n.to_be_bytes().to_vec(), seq: n, rest: vec![7; 200] };
            sorter.push(&row).unwrap();
        }
        assert!(sorter.runs.levels.iter().map(Vec::len).sum::<usize>() < 2 * FAN);
        let mut merge = sorter.sorted().unwrap();
        for n in 0..count {
            let row = merge.next().unwrap().expect("a row");
            assert_eq!((row.seq, row.key.as_slice()), (n, n.to_be_bytes().as_slice()));
        }
        assert!(merge.next().unwrap().is_none());
    }

    #[test]
    fn without_a_file_memory_is_bounded() {
        let mut sorter = Sorter::new(None);
        let row = Row { key: vec![0; 1 << 20], seq: 0, rest: Vec::new() };
        let refused = (0..=MEMORY_MAX >> 20).find_map(|_| sorter.push(&row).err());
        assert!(refused.expect("refused").to_string().contains("--spill-dir"));
    }
}
