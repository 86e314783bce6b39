//! The records of a layer, sorted into path order within a bounded memory: runs of a few MiB are
//! sorted and written to an unnamed file, and merged at the end.
//!
//! File digests may come later than their records (see `content`), in the same order.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::Receiver;

use crate::record::{Record, SHA256_AT, What, key};
use crate::sha::Sha256;

/// Bytes of one run.
const RUN: usize = 2 << 20;

/// A row as it is kept: key length, sequence number, length of the rest (all little-endian), key,
/// record.
const HEAD: usize = 4 + 8 + 4;

/// The nodes a layer has made, in the order of the layer.
#[derive(Default)]
pub(crate) struct Records {
    run: Vec<u8>,
    /// Where the rows of the run begin.
    rows: Vec<usize>,
    /// Where digests of the run are still to be filled in.
    pending: VecDeque<usize>,
    digests: Option<Receiver<[u8; 32]>>,
    seq: u64,
    spill: Option<File>,
    /// Sorted runs in the file: where each begins and ends.
    runs: Vec<(u64, u64)>,
}

/// A file without a name, where a run may go; `None` if there is no place for one.
pub(crate) fn unnamed_file() -> Option<File> {
    let named = std::env::var_os("TMPDIR").into_iter();
    let usual = ["/var/tmp", "/tmp"].into_iter().map(Into::into);
    named.chain(usual).find_map(|dir| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .mode(0o600)
            .open(dir)
            .ok()
    })
}

impl Records {
    /// `spill` takes what does not fit; without one all of it stays in memory.
    pub(crate) fn new(spill: Option<File>, digests: Receiver<[u8; 32]>) -> Records {
        Records { spill, digests: Some(digests), ..Records::default() }
    }

    /// Keeps a record. If `later`, its file's digest is the next one out of the channel.
    pub(crate) fn push(&mut self, record: &Record, later: bool) -> io::Result<()> {
        self.seq += 1;
        let start = self.run.len();
        let key = key(&record.path);
        self.run.extend_from_slice(&length(key.len())?.to_le_bytes());
        self.run.extend_from_slice(&self.seq.to_le_bytes());
        self.run.extend_from_slice(&[0; 4]);
        self.run.extend_from_slice(&key);
        let body = self.run.len();
        record.encode(&mut self.run);
        let len = length(self.run.len() - body)?;
        self.run[start + 12..start + 16].copy_from_slice(&len.to_le_bytes());
        self.rows.push(start);
        if later {
            self.pending.push_back(body + SHA256_AT);
        }
        if self.run.len() >= RUN && self.spill.is_some() { self.flush() } else { Ok(()) }
    }

    /// Fills in the digests that have come; those of what the writer still holds have not, and to
    /// wait for them here would be to wait for ourselves.
    fn fill(&mut self) {
        let Some(digests) = &self.digests else { return };
        while let Some(&at) = self.pending.front() {
            let Ok(digest) = digests.try_recv() else { return };
            self.run[at..at + 32].copy_from_slice(&digest);
            self.pending.pop_front();
        }
    }

    /// Waits for all digests, and sorts the run.
    fn settle(&mut self) -> io::Result<()> {
        for at in self.pending.drain(..) {
            let digest = self
                .digests
                .as_ref()
                .and_then(|digests| digests.recv().ok())
                .ok_or_else(|| io::Error::other("a file's digest is missing"))?;
            self.run[at..at + 32].copy_from_slice(&digest);
        }
        sort(&self.run, &mut self.rows);
        Ok(())
    }

    /// Writes out the rows that are complete, once they are worth a run of their own.
    fn flush(&mut self) -> io::Result<()> {
        self.fill();
        let whole = match self.pending.front() {
            None => self.rows.len(),
            Some(&at) => self.rows.partition_point(|&row| row < at) - 1,
        };
        let cut = self.rows.get(whole).copied().unwrap_or(self.run.len());
        let Some(file) = &mut self.spill else { return Ok(()) };
        if cut < RUN / 2 {
            return Ok(());
        }
        let kept = self.rows.split_off(whole);
        sort(&self.run, &mut self.rows);
        let start = file.seek(SeekFrom::End(0))?;
        let mut out = BufWriter::new(&*file);
        for &row in &self.rows {
            out.write_all(Row::at(&self.run[row..]).whole)?;
        }
        out.flush()?;
        drop(out);
        self.runs.push((start, start + cut as u64));
        self.run.drain(..cut);
        self.rows = kept.into_iter().map(|row| row - cut).collect();
        self.pending.iter_mut().for_each(|at| *at -= cut);
        Ok(())
    }

    /// Hands every record that is still true at the end to `sink`, in path order: the last one of
    /// a path, unless something that is no directory took the place of one of its parents since.
    pub(crate) fn finish(
        mut self,
        mut sink: impl FnMut(&Record, &[u8]) -> io::Result<()>,
    ) -> io::Result<[u8; 32]> {
        self.settle()?;
        let mut sources = Vec::new();
        for &(start, end) in &self.runs {
            if let Some(file) = &self.spill {
                let part = Part { file, at: start, end };
                sources.push(Source::new(Box::new(BufReader::with_capacity(16 << 10, part)))?);
            }
        }
        let memory = Memory { run: &self.run, rows: &self.rows, at: 0, part: 0 };
        sources.push(Source::new(Box::new(memory))?);

        let mut hash = Sha256::new();
        let mut judge = Judge::default();
        loop {
            let next = (0..sources.len())
                .filter(|&at| sources[at].row.is_some())
                .min_by(|&a, &b| sources[a].row.cmp(&sources[b].row));
            let row = match next {
                Some(at) => sources[at].next()?,
                None => None,
            };
            let ended = row.is_none();
            if let Some(record) = judge.next(row)? {
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

fn sort(run: &[u8], rows: &mut [usize]) {
    rows.sort_unstable_by(|&a, &b| {
        let (a, b) = (Row::at(&run[a..]), Row::at(&run[b..]));
        (a.key, a.seq).cmp(&(b.key, b.seq))
    });
}

fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::other("record too long"))
}

/// A row in a run.
struct Row<'a> {
    key: &'a [u8],
    seq: u64,
    whole: &'a [u8],
}

impl Row<'_> {
    /// The row at the start of `bytes`, which [`Records::push`] has written.
    fn at(bytes: &[u8]) -> Row<'_> {
        let (key, seq, rest) = head(bytes);
        Row { key: &bytes[HEAD..HEAD + key], seq, whole: &bytes[..HEAD + key + rest] }
    }
}

fn head(bytes: &[u8]) -> (usize, u64, usize) {
    let four =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let seq = u64::from(four(4)) | u64::from(four(8)) << 32;
    (four(0) as usize, seq, four(12) as usize)
}

/// A row out of a sorted run, ordered by key and sequence number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Owned {
    key: Vec<u8>,
    seq: u64,
    rest: Vec<u8>,
}

/// A sorted run being read.
struct Source<'a> {
    from: Box<dyn Read + 'a>,
    row: Option<Owned>,
}

impl<'a> Source<'a> {
    fn new(from: Box<dyn Read + 'a>) -> io::Result<Source<'a>> {
        let mut source = Source { from, row: None };
        source.next()?;
        Ok(source)
    }

    fn next(&mut self) -> io::Result<Option<Owned>> {
        let mut bytes = [0; HEAD];
        let next = match self.from.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(e),
            Ok(()) => {
                let (key_len, seq, rest_len) = head(&bytes);
                let (mut key, mut rest) = (vec![0; key_len], vec![0; rest_len]);
                self.from.read_exact(&mut key)?;
                self.from.read_exact(&mut rest)?;
                Some(Owned { key, seq, rest })
            }
        };
        Ok(std::mem::replace(&mut self.row, next))
    }
}

/// A part of the file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(to.len());
        let len = self.file.read_at(&mut to[..left], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// The run that is still in memory.
struct Memory<'a> {
    run: &'a [u8],
    rows: &'a [usize],
    at: usize,
    /// Bytes of the current row that were read.
    part: usize,
}

impl Read for Memory<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(&row) = self.rows.get(self.at) else { return Ok(0) };
        let left = &Row::at(&self.run[row..]).whole[self.part..];
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

/// Sees all rows in order and tells which are still true.
#[derive(Default)]
struct Judge {
    /// Paths on the way down that were something else than a directory once: key, and when last.
    killers: Vec<(Vec<u8>, u64)>,
    /// The latest row of the current path, and when that path was last no directory.
    group: Option<(Owned, Record, Option<u64>)>,
}

impl Judge {
    /// The next row in order, or the end: what that settles.
    fn next(&mut self, row: Option<Owned>) -> io::Result<Option<Record>> {
        let settled = match &self.group {
            Some((last, ..)) if row.as_ref().is_some_and(|row| row.key == last.key) => None,
            _ => self.group.take(),
        };
        let truth = settled.and_then(|(last, record, killed)| {
            let alive = last.seq > self.killers.iter().map(|&(_, seq)| seq).max().unwrap_or(0);
            if let Some(seq) = killed {
                self.killers.push((last.key, seq));
            }
            alive.then_some(record)
        });
        if let Some(row) = row {
            let path = row.key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect();
            let record = Record::decode(path, &row.rest)
                .ok_or_else(|| io::Error::other("a kept record is damaged"))?;
            let dir = matches!(record.what, What::Dir);
            let before = self.group.take().and_then(|(_, _, killed)| killed);
            let killed = if dir { before } else { Some(row.seq) };
            while let Some((parent, _)) = self.killers.last() {
                let below = row.key.starts_with(parent)
                    && (parent.is_empty() || row.key.get(parent.len()) == Some(&0));
                if below {
                    break;
                }
                self.killers.pop();
            }
            self.group = Some((row, record, killed));
        }
        Ok(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pax::Time;

    fn record(path: &str, what: What) -> Record {
        let time = Time::default();
        Record { path: path.into(), what, mode: 0, uid: 0, gid: 0, mtime: time, xattrs: vec![] }
    }

    fn truth(records: &[Record], spill: Option<File>) -> Vec<String> {
        let mut all = Records { spill, ..Records::default() };
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
        let spill = unnamed_file().expect("TMPDIR or /var/tmp");
        let spilled = truth(&records, Some(spill.try_clone().unwrap()));
        assert!(spill.metadata().unwrap().len() > 4 * RUN as u64);
        assert_eq!(memory, spilled);
        assert!(memory.is_sorted() && memory.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
