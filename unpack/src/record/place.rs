//! A file without a name for records that do not fit in memory, shared by several sorters: who takes which
//! part of it, and what is free again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::refusal::Refusal;

/// Bytes that one sorter keeps in memory where there is no file.
pub(crate) const MEMORY_MAX: usize = 64 << 20;

/// Bytes that are read of a run, or written, at a time.
pub(crate) const PIECE: usize = 32 << 10;

/// The error of more than [`MEMORY_MAX`] without a file.
pub(crate) fn no_place() -> io::Error {
    let text = "no place for temporary records: name one by TMPDIR or --spill-dir";
    io::Error::other(text)
}

/// A file without a name, in `dir` or in one of the usual places; `None` if there is no place.
pub(crate) fn unnamed_file(dir: Option<&Path>) -> io::Result<Option<File>> {
    let open = |dir: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .mode(0o600)
            .open(dir)
    };
    if let Some(dir) = dir {
        // Who says where wants it there, and nowhere else.
        return open(dir).map(Some);
    }
    let named = std::env::var_os("TMPDIR").into_iter();
    let usual = ["/var/tmp", "/tmp"].into_iter().map(Into::into);
    Ok(named.chain(usual).find_map(|dir| open(Path::new(&dir)).ok()))
}

/// A file that several sorters share, and which parts of it are free.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
    max: u64,
    space: Mutex<Space>,
}

#[derive(Debug, Default)]
struct Space {
    end: u64,
    /// Free parts before the end, in order: start and length.
    free: Vec<(u64, u64)>,
}

impl Spill {
    pub(crate) fn new(file: File, max: u64) -> Arc<Spill> {
        Arc::new(Spill { file, max, space: Mutex::default() })
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `len` bytes fit.
    fn take(&self, len: u64) -> Result<u64, Refusal> {
        let mut space = self.space();
        if let Some(at) = space.free.iter().position(|&(_, free)| free >= len) {
            let (start, free) = space.free[at];
            match free - len {
                0 => drop(space.free.remove(at)),
                left => space.free[at] = (start + len, left),
            }
            return Ok(start);
        }
        let (start, end) = (space.end, space.end.saturating_add(len));
        if end > self.max {
            let rule = "too many bytes of temporary records";
            return Err(Refusal::limit("--spill-bytes-max", rule, end, self.max));
        }
        space.end = end;
        Ok(start)
    }

    /// These bytes are no longer needed.
    fn give(&self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let mut space = self.space();
        let at = space.free.partition_point(|&(other, _)| other < start);
        space.free.insert(at, (start, len));
        // One with its neighbours.
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(space.free.len());
        for &(start, len) in &space.free {
            match joined.last_mut() {
                Some((before, length)) if *before + *length == start => *length += len,
                _ => joined.push((start, len)),
            }
        }
        if let Some(&(start, len)) = joined.last()
            && start + len == space.end
        {
            space.end = start;
            joined.pop();
        }
        space.free = joined;
    }
}

/// A part of the file; it is free again when this goes.
#[derive(Debug)]
pub(crate) struct Place {
    spill: Arc<Spill>,
    start: u64,
    len: u64,
}

impl Place {
    /// Room for `len` bytes.
    ///
    /// # Errors
    /// The refusal of more than `--spill-bytes-max` in all.
    pub(crate) fn take(spill: &Arc<Spill>, len: u64) -> Result<Place, Refusal> {
        let start = spill.take(len)?;
        Ok(Place { spill: spill.clone(), start, len })
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes at `offset` of it; never beyond its end.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.len {
            return Err(io::Error::other("a run outgrows its place"));
        }
        self.spill.file.write_all_at(bytes, self.start + offset)
    }

    /// Reads from `offset` of it on, up to its end; says how many bytes that was.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(to.len());
        self.spill.file.read_at(&mut to[..len], self.start + offset)
    }

    /// Gives back what lies beyond the first `len` bytes.
    pub(crate) fn cut(&mut self, len: u64) {
        self.spill.give(self.start + len, self.len - len);
        self.len = len;
    }
}

/// A place that is filled from its beginning, a piece at a time.
#[derive(Debug)]
pub(crate) struct Filling {
    place: Place,
    written: u64,
    /// What comes next; [`Filling::step`] writes it where it has become a piece.
    pub(crate) buffer: Vec<u8>,
}

impl Filling {
    pub(crate) fn new(place: Place) -> Filling {
        Filling { place, written: 0, buffer: Vec::with_capacity(2 * PIECE) }
    }

    /// Where in the place the next byte will be.
    pub(crate) fn at(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn step(&mut self) -> io::Result<()> {
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.place.write(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// What was written.
    pub(crate) fn end(mut self) -> io::Result<Place> {
        self.flush()?;
        self.place.cut(self.written);
        Ok(self.place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.spill.give(self.start, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        unnamed_file(None).unwrap().expect("TMPDIR, /var/tmp or /tmp")
    }

    #[test]
    fn a_place_given_back_is_taken_again() {
        let spill = Spill::new(file(), 100);
        let (a, b, c) = (spill.take(40).unwrap(), spill.take(30).unwrap(), spill.take(30).unwrap());
        assert_eq!(spill.take(1).unwrap_err().limit.unwrap().0, "--spill-bytes-max");
        spill.give(a, 40);
        spill.give(b, 30);
        assert_eq!(spill.take(70).unwrap(), 0);
        spill.give(c, 30);
        spill.give(0, 70);
        assert_eq!(spill.take(100).unwrap(), 0);
    }

    #[test]
    fn a_place_is_read_and_written_within_its_borders() {
        let spill = Spill::new(file(), 100);
        let before = Place::take(&spill, 10).unwrap();
        let mut place = Place::take(&spill, 10).unwrap();
        let after = Place::take(&spill, 10).unwrap();
        after.write(0, b"zzzzzzzzzz").unwrap();
        place.write(4, b"abcdef").unwrap();
        assert!(place.write(5, b"abcdef").is_err());
        let mut bytes = [0; 20];
        assert_eq!(place.read(4, &mut bytes).unwrap(), 6);
        assert_eq!(&bytes[..6], b"abcdef");
        assert_eq!(place.read(10, &mut bytes).unwrap(), 0);
        place.cut(4);
        assert_eq!((place.len(), spill.take(6).unwrap()), (4, 14));
        drop(before);
        assert_eq!(spill.take(10).unwrap(), 0);
    }
}
