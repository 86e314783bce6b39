//! The records of a layer, in path order within a bounded memory: see `runs`. Of those that were
//! overwritten none is kept for long.
//!
//! File digests may come later than their records (see `content`), in the same order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::archive::buffers::Broken;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::place::{Spill, unnamed_file};
use crate::record::runs::{BATCH, HEAD, Row, Runs, Sieve, length, row_at, sort};
use crate::record::{Record, SHA256_AT, key};
use crate::sha::Sha256;

/// The nodes a layer has made, in the order of the layer.
pub(crate) struct Records {
    batch: Vec<u8>,
    /// Where the rows of the batch begin.
    rows: Vec<usize>,
    /// Bytes of the batch at which it is looked through again.
    full: usize,
    /// Where digests of the batch are still to be filled in.
    pending: VecDeque<usize>,
    digests: Option<Receiver<[u8; 32]>>,
    seq: u64,
    runs: Runs,
}

impl Records {
    /// `spill` takes what does not fit; without one all of it stays in memory.
    pub(crate) fn new(spill: Option<Arc<Spill>>, digests: Option<Receiver<[u8; 32]>>) -> Records {
        Records {
            batch: Vec::new(),
            rows: Vec::new(),
            full: BATCH,
            pending: VecDeque::new(),
            digests,
            seq: 0,
            runs: Runs::new(spill),
        }
    }

    /// Keeps a record. If `later`, its file's digest is the next one out of the channel.
    pub(crate) fn push(&mut self, record: &Record, later: bool) -> io::Result<()> {
        self.seq += 1;
        let start = self.batch.len();
        let key = key(&record.path);
        self.batch.extend_from_slice(&length(key.len())?.to_le_bytes());
        self.batch.extend_from_slice(&self.seq.to_le_bytes());
        self.batch.extend_from_slice(&[0; 4]);
        self.batch.extend_from_slice(&key);
        let body = self.batch.len();
        record.encode(&mut self.batch);
        let len = length(self.batch.len() - body)?;
        self.batch[start + 12..start + HEAD].copy_from_slice(&len.to_le_bytes());
        self.rows.push(start);
        if later {
            self.pending.push_back(body + SHA256_AT);
        }
        if self.batch.len() >= self.full { self.flush() } else { Ok(()) }
    }

    /// Fills in the digests that have come; those of what the writer still holds have not, and to
    /// wait for them here would be to wait for ourselves.
    fn fill(&mut self) {
        let Some(digests) = &self.digests else { return };
        while let Some(&at) = self.pending.front() {
            let Ok(digest) = digests.try_recv() else { return };
            self.batch[at..at + 32].copy_from_slice(&digest);
            self.pending.pop_front();
        }
    }

    /// Waits for all digests, and sorts the batch.
    fn settle(&mut self) -> io::Result<()> {
        for at in self.pending.drain(..) {
            let digest = self
                .digests
                .as_ref()
                .and_then(|digests| digests.recv().ok())
                .ok_or_else(|| io::Error::other("a file's digest is missing"))?;
            self.batch[at..at + 32].copy_from_slice(&digest);
        }
        sort(&self.batch, &mut self.rows);
        Ok(())
    }

    /// Drops the rows that were overwritten, of those that are complete, and writes the others out
    /// where they are worth a run of their own.
    fn flush(&mut self) -> io::Result<()> {
        self.fill();
        let whole = match self.pending.front() {
            None => self.rows.len(),
            Some(&at) => self.rows.partition_point(|&row| row < at) - 1,
        };
        let cut = self.rows.get(whole).copied().unwrap_or(self.batch.len());
        if cut < BATCH / 2 {
            return Ok(());
        }
        let tail = self.rows.split_off(whole);
        sort(&self.batch, &mut self.rows);
        let (mut kept, mut rows) = (Vec::with_capacity(cut), Vec::new());
        let mut judge = Judge::default();
        for row in self.rows.iter().map(|&at| Some(row_at(&self.batch, at))).chain([None]) {
            judge.next(row, &mut |row| {
                rows.push(kept.len());
                row.encode(&mut kept)
            })?;
        }
        if self.runs.wants(kept.len())? {
            self.runs.add::<Judge>(&kept)?;
            kept.clear();
            rows.clear();
        }
        self.full = BATCH.max(2 * kept.len());
        let moved = |at: usize| at - cut + kept.len();
        self.pending.iter_mut().for_each(|at| *at = moved(*at));
        rows.extend(tail.into_iter().map(moved));
        self.rows = rows;
        self.batch.splice(..cut, kept);
        Ok(())
    }

    /// Hands every record that is still true at the end to `sink`, in path order: the last one of
    /// a path, unless something that is no directory took the place of one of its parents since.
    pub(crate) fn finish(
        mut self,
        mut sink: impl FnMut(&Record, &[u8]) -> io::Result<()>,
    ) -> io::Result<[u8; 32]> {
        self.settle()?;
        let mut merge = self.runs.merge(&self.batch, &self.rows)?;
        let mut hash = Sha256::new();
        let mut judge = Judge::default();
        loop {
            let row = merge.next()?;
            let ended = row.is_none();
            if let Some(Settled { last, .. }) = judge.settle(row) {
                let path = last.key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect();
                let record = Record::decode(path, &last.rest)
                    .ok_or_else(|| io::Error::other("a kept record is damaged"))?;
                let line = record.line();
                hash.update(&line);
                sink(&record, &line)?;
            }
            if ended {
                return Ok(hash.finish());
            }
        }
    }
}

/// What is true of a path: its last row, and when it was last no directory, if that was before.
struct Settled {
    last: Row,
    before: Option<u64>,
}

/// Sees all rows in order and tells which are still true.
#[derive(Default)]
struct Judge {
    /// Paths on the way down that were something else than a directory once: key, and when that one
    /// or one above it was last.
    killers: Vec<(Vec<u8>, u64)>,
    /// The latest row of the current path, and when that path was last no directory.
    group: Option<(Row, Option<u64>)>,
}

impl Judge {
    /// The next row in order, or the end: what that settles.
    fn settle(&mut self, row: Option<Row>) -> Option<Settled> {
        let settled = match &self.group {
            Some((last, _)) if row.as_ref().is_some_and(|row| row.key == last.key) => None,
            _ => self.group.take(),
        };
        let truth = settled.and_then(|(last, killed)| {
            let above = self.killers.last().map_or(0, |&(_, seq)| seq);
            if let Some(seq) = killed.filter(|&seq| seq > above) {
                self.killers.push((last.key.clone(), seq));
            }
            let before = killed.filter(|&seq| seq > above && seq != last.seq);
            (last.seq > above).then_some(Settled { last, before })
        });
        if let Some(row) = row {
            let before = self.group.take().and_then(|(_, killed)| killed);
            let killed = if Record::is_dir(&row.rest) { before } else { Some(row.seq) };
            while let Some((parent, _)) = self.killers.last() {
                let below = row.key.starts_with(parent)
                    && (parent.is_empty() || row.key.get(parent.len()) == Some(&0));
                if below {
                    break;
                }
                self.killers.pop();
            }
            self.group = Some((row, killed));
        }
        truth
    }
}

impl Sieve for Judge {
    /// Keeps what is true so far. Where a directory took the place of something else that has to be
    /// known, too: it ended what was below it before, of which there may be rows elsewhere.
    fn next(
        &mut self,
        row: Option<Row>,
        keep: &mut dyn FnMut(Row) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(Settled { last, before }) = self.settle(row) else { return Ok(()) };
        if let Some(seq) = before {
            keep(Row { key: last.key.clone(), seq, rest: Record::nothing() })?;
        }
        keep(last)
    }
}

/// For errors that come as `io::Error`; a refusal that came that way is one again.
pub(crate) fn io_fault(call: &'static str, name: &[u8]) -> impl FnOnce(io::Error) -> Fault {
    let name = crate::error::refusal::cut(name).to_vec();
    move |source| match source.downcast::<Broken>() {
        Ok(broken) => Fault::Refusal(broken.0),
        Err(source) => Fault::Fs { call: call.into(), name, source },
    }
}

/// A file for records, where the caller wants it, and a sorter's way to it.
pub(crate) fn spill(limits: &Limits) -> Result<Option<Arc<Spill>>, Error> {
    Ok(spill_file(limits)?.map(|file| Spill::new(file, limits.spill_bytes_max)))
}

/// A file for records, where the caller wants it.
pub(crate) fn spill_file(limits: &Limits) -> Result<Option<File>, Error> {
    let dir = limits.spill_dir.as_deref();
    let name = dir.map(|dir| dir.as_os_str().as_encoded_bytes()).unwrap_or_default();
    unnamed_file(dir).map_err(|e| io_fault("make a temporary file in", name)(e).nowhere())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::pax::Time;
    use crate::record::What;

    fn record(path: &str, what: What) -> Record {
        let time = Time::default();
        Record { path: path.into(), what, mode: 0, uid: 0, gid: 0, mtime: time, xattrs: vec![] }
    }

    fn truth(records: &[Record], spill: Option<File>) -> Vec<String> {
        let mut all = Records::new(spill.map(|file| Spill::new(file, 1 << 30)), None);
        for record in records {
            all.push(record, false).unwrap();
        }
        let mut out = Vec::new();
        all.finish(|record, _| {
            let kind = if record.what == What::Dir { "dir" } else { "file" };
            out.push(format!("{} {kind}", String::from_utf8_lossy(&record.path)));
            Ok(())
        })
        .unwrap();
        out
    }

    fn file() -> What {
        What::File { size: 0, sha256: [0; 32] }
    }

    #[test]
    fn the_last_of_a_path_counts_and_a_file_ends_what_was_below() {
        let records = [
            record("a", What::Dir),
            record("a/old", file()),
            record("a/sub/old", file()),
            record("a", file()),
            record("a", What::Dir),
            record("a/new", file()),
            record("a-b", file()),
        ];
        assert_eq!(truth(&records, None), ["a dir", "a/new file", "a-b file"]);
    }

    #[test]
    fn what_is_spilled_is_merged() {
        let mut records = Vec::new();
        for n in 0..100_000u32 {
            // Every path twice, far apart.
            let n = n.wrapping_mul(2_654_435_761) % 50_000;
            records.push(record(&format!("d/{n:05}"), file()));
        }
        let memory = truth(&records, None);
        let spill = unnamed_file(None).unwrap().expect("TMPDIR or /var/tmp");
        let spilled = truth(&records, Some(spill.try_clone().unwrap()));
        assert!(spill.metadata().unwrap().len() > 2 * BATCH as u64);
        assert_eq!(memory, spilled);
        assert!(memory.is_sorted() && memory.windows(2).all(|pair| pair[0] != pair[1]));
    }

    /// Judged in one piece, or in many that are judged on their own and merged: the same is true.
    #[test]
    fn what_is_judged_in_parts_is_judged_the_same() {
        let mut records = Vec::new();
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..12_000 {
            let depth = 1 + next(4);
            let names: Vec<String> = (0..depth).map(|_| format!("{:0200}", next(5))).collect();
            let what = if next(3) == 0 { file() } else { What::Dir };
            records.push(record(&names.join("/"), what));
        }
        let spill = unnamed_file(None).unwrap().expect("TMPDIR or /var/tmp");
        // The plain rule, over all of them.
        let mut last = std::collections::BTreeMap::new();
        for record in &records {
            let path = record.path.clone();
            if record.what != What::Dir {
                let below = [path.as_slice(), b"/"].concat();
                last.retain(|other: &Vec<u8>, _| !other.starts_with(&below));
            }
            last.insert(path, record.what == What::Dir);
        }
        let mut expected: Vec<Vec<u8>> = last.keys().map(|path| key(path)).collect();
        expected.sort();
        let got: Vec<Vec<u8>> = truth(&records, Some(spill))
            .iter()
            .map(|line| key(line.rsplit_once(' ').unwrap().0.as_bytes()))
            .collect();
        assert_eq!(got, expected);
    }

    /// A layer that writes the same few names for ever writes nothing to the file, and one that
    /// writes more of them takes a small multiple of what it makes.
    #[test]
    fn what_is_overwritten_takes_no_place() {
        for (names, most) in [(100u32, 0), (20_000, 24 * BATCH as u64)] {
            let spill = unnamed_file(None).unwrap().expect("TMPDIR or /var/tmp");
            let mut all = Records::new(Some(Spill::new(spill.try_clone().unwrap(), 1 << 30)), None);
            for n in 0..200_000u32 {
                all.push(&record(&format!("d/{:060}", n % names), file()), false).unwrap();
            }
            let size = spill.metadata().unwrap().len();
            assert!(size <= most, "{size} bytes for {names} names");
            let mut count = 0;
            all.finish(|_, _| {
                count += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(count, names);
        }
    }
}
