//! A sorted run of names in the file for records: written once in its order, looked up by a sparse index
//! and a filter that are in memory, and read from its beginning or from behind a name.

use std::io;
use std::sync::Arc;

use crate::ext4::write::entry::Entry;
use crate::record::place::{Filling, PIECE, Place, Spill};

/// A row before its name: directory, hash and inode (little-endian), the type byte, the length of the name.
pub(crate) const HEAD: usize = 14;
/// The longest row.
const ROW_MAX: usize = HEAD + 255;
/// Bytes between two rows that the sparse index has: what a look-up reads.
const STEP: u64 = 8 << 10;
/// Bits of the filter for each key, and those that are set for one.
const BITS: usize = 10;
const SET: u32 = 6;

/// By which rows are in order, before their names.
pub(crate) fn key(directory: u32, hash: u32) -> u64 {
    u64::from(directory) << 32 | u64::from(hash)
}

/// Which keys may be in a run: of a hundred that are not it lets one pass. The bits of a key lie in one line
/// of the processor's cache.
#[derive(Debug)]
struct Filter(Vec<[u64; 8]>);

impl Filter {
    fn new(keys: usize) -> Filter {
        Filter(vec![[0; 8]; (keys * BITS).div_ceil(512).max(1)])
    }

    /// The line of a key, and bits for it.
    fn place(&self, hash: u64) -> (usize, impl Iterator<Item = (usize, u64)> + use<>) {
        let line = ((hash >> 32) * self.0.len() as u64) >> 32;
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (0..SET).map(move |n| (mixed >> (10 + 9 * n)) & 511);
        let bits = bits.map(|bit| (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64)));
        (usize::try_from(line).unwrap_or(0), bits)
    }

    fn insert(&mut self, hash: u64) {
        let (line, bits) = self.place(hash);
        bits.for_each(|(word, bit)| self.0[line][word] |= bit);
    }

    fn may_have(&self, hash: u64) -> bool {
        let (line, mut bits) = self.place(hash);
        bits.all(|(word, bit)| self.0[line][word] & bit != 0)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    place: Place,
    pub(crate) rows: usize,
    pub(crate) directories: usize,
    /// The key of a row every few KiB, and where that begins.
    marks: Vec<(u64, u64)>,
    filter: Filter,
}

impl Run {
    /// Bytes of it.
    pub(crate) fn len(&self) -> u64 {
        self.place.len()
    }

    /// Whether a name with this hash (see [`Writer::put`]) may be in it; of an empty name, whether any of the
    /// directory may.
    pub(crate) fn may_have(&self, hash: u64) -> bool {
        self.filter.may_have(hash)
    }

    /// Where to begin to read for what is at `key` or after it.
    fn near(&self, key: u64) -> u64 {
        let after = self.marks.partition_point(|&(of, _)| of < key);
        after.checked_sub(1).map_or(0, |at| self.marks[at].1)
    }

    /// What a name has become.
    pub(crate) fn find(
        self: &Arc<Run>,
        directory: u32,
        hash: u32,
        name: &[u8],
    ) -> io::Result<Option<Entry>> {
        let wanted = key(directory, hash);
        let step = usize::try_from(STEP).unwrap_or(0) + ROW_MAX;
        let mut reader = Reader::at(self, self.near(wanted), step)?;
        while reader.here && (reader.key, reader.name()) < (wanted, name) {
            reader.step()?;
        }
        let found = reader.here && reader.key == wanted && reader.name() == name;
        Ok(found.then_some(reader.entry))
    }
}

/// A run that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    filling: Filling,
    rows: usize,
    directories: usize,
    last: Option<u64>,
    marks: Vec<(u64, u64)>,
    filter: Filter,
}

impl Writer {
    /// For `rows` rows at most, of so many `bytes` and `directories`.
    ///
    /// # Errors
    /// The file has no more room.
    pub(crate) fn new(
        spill: &Arc<Spill>,
        bytes: u64,
        rows: usize,
        directories: usize,
    ) -> io::Result<Writer> {
        Ok(Writer {
            filling: Filling::new(Place::take(spill, bytes)?),
            rows: 0,
            directories: 0,
            last: None,
            marks: Vec::new(),
            filter: Filter::new(rows + directories),
        })
    }

    /// The next row in order; `hash` gives that of a directory and a name.
    pub(crate) fn put(
        &mut self,
        key: u64,
        name: &[u8],
        entry: Entry,
        hash: &dyn Fn(u32, &[u8]) -> u64,
    ) -> io::Result<()> {
        let directory = (key >> 32).to_le_bytes();
        let number = u32::from_le_bytes([directory[0], directory[1], directory[2], directory[3]]);
        if self.last.is_none_or(|last| last >> 32 != key >> 32) {
            self.directories += 1;
            self.filter.insert(hash(number, b""));
        }
        self.filter.insert(hash(number, name));
        self.last = Some(key);
        self.rows += 1;
        let at = self.filling.at();
        if self.marks.last().is_none_or(|&(_, last)| at - last >= STEP) {
            self.marks.push((key, at));
        }
        let row = &mut self.filling.buffer;
        row.extend_from_slice(&key.to_le_bytes());
        row.extend_from_slice(&entry.inode.to_le_bytes());
        row.push(entry.kind);
        row.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        row.extend_from_slice(name);
        self.filling.step()
    }

    pub(crate) fn end(mut self) -> io::Result<Run> {
        self.marks.shrink_to_fit();
        let Writer { filling, rows, directories, marks, filter, .. } = self;
        let place = filling.end()?;
        Ok(Run { place, rows, directories, marks, filter })
    }
}

/// Reads the rows of a run in their order.
#[derive(Debug)]
pub(crate) struct Reader {
    run: Arc<Run>,
    /// Where in the run the buffer ends.
    end: u64,
    buffer: Vec<u8>,
    /// Bytes that are read at a time.
    piece: usize,
    /// Where in the buffer the row begins.
    at: usize,
    /// Whether there is a row, and what is in it besides its name.
    pub(crate) here: bool,
    pub(crate) key: u64,
    pub(crate) entry: Entry,
}

impl Reader {
    fn at(run: &Arc<Run>, from: u64, piece: usize) -> io::Result<Reader> {
        let mut reader = Reader {
            run: run.clone(),
            end: from,
            buffer: Vec::new(),
            piece,
            at: 0,
            here: false,
            key: 0,
            entry: Entry { inode: 0, kind: 0 },
        };
        reader.load()?;
        Ok(reader)
    }

    /// From the beginning on.
    pub(crate) fn of(run: &Arc<Run>) -> io::Result<Reader> {
        Reader::at(run, 0, PIECE)
    }

    /// From the first row of a directory that comes after this hash and name.
    pub(crate) fn behind(
        run: &Arc<Run>,
        directory: u32,
        (hash, name): (u32, &[u8]),
    ) -> io::Result<Reader> {
        let from = key(directory, hash);
        let step = usize::try_from(STEP).unwrap_or(0) + ROW_MAX;
        let mut reader = Reader::at(run, run.near(from), step)?;
        while reader.here && (reader.key, reader.name()) <= (from, name) {
            reader.step()?;
        }
        Ok(reader)
    }

    /// The name of the row.
    pub(crate) fn name(&self) -> &[u8] {
        let len = usize::from(self.buffer[self.at + HEAD - 1]);
        &self.buffer[self.at + HEAD..self.at + HEAD + len]
    }

    /// To the next row, if there is one.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        if self.here {
            self.at += HEAD + self.name().len();
        }
        self.load()
    }

    /// Reads on where less than a row is left, and the row.
    fn load(&mut self) -> io::Result<()> {
        if self.buffer.len() - self.at < ROW_MAX {
            self.buffer.drain(..self.at);
            self.at = 0;
            let kept = self.buffer.len();
            self.buffer.resize(kept + self.piece, 0);
            let mut len = kept;
            while len < self.buffer.len() {
                let more = self.run.place.read(self.end, &mut self.buffer[len..])?;
                if more == 0 {
                    break;
                }
                self.end += more as u64;
                len += more;
            }
            self.buffer.truncate(len);
        }
        let row = &self.buffer[self.at..];
        let Some((head, name)) = row.split_first_chunk::<HEAD>() else {
            self.here = false;
            return match row.is_empty() {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            };
        };
        if name.len() < usize::from(head[HEAD - 1]) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let [k0, k1, k2, k3, k4, k5, k6, k7, i0, i1, i2, i3, kind, _] = *head;
        self.key = u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]);
        self.entry = Entry { inode: u32::from_le_bytes([i0, i1, i2, i3]), kind };
        self.here = true;
        Ok(())
    }
}
