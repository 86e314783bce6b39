//! The names of runs and of memory in one order, each once, as it was last.

use std::cmp::Ordering;
use std::io;

use crate::error::Fault;
use crate::ext4::write::entry::Entry;
use crate::ext4::write::fresh::Fresh;
use crate::ext4::write::run::Reader;
use crate::record::spill::io_fault;

/// A name of a directory with what has become of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Directory and hash.
    pub(crate) key: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) entry: Entry,
}

impl Default for Row {
    fn default() -> Row {
        Row { key: 0, name: Vec::new(), entry: Entry { inode: 0, kind: 0 } }
    }
}

impl Row {
    pub(crate) fn directory(&self) -> u32 {
        u32::try_from(self.key >> 32).unwrap_or(0)
    }

    pub(crate) fn hash(&self) -> u32 {
        u32::try_from(self.key & u64::from(u32::MAX)).unwrap_or(0)
    }
}

/// What names come from.
#[derive(Debug)]
pub(crate) enum Source {
    Run(Reader),
    Fresh {
        fresh: Fresh,
        /// Keys and numbers of records, in order.
        sorted: Vec<(u64, u32)>,
        at: usize,
    },
}

impl Source {
    fn key(&self) -> Option<u64> {
        match self {
            Source::Run(reader) => reader.here.then_some(reader.key),
            Source::Fresh { sorted, at, .. } => sorted.get(*at).map(|&(key, _)| key),
        }
    }

    /// Name and entry, where there is a key.
    fn row(&self) -> (&[u8], Entry) {
        match self {
            Source::Run(reader) => (reader.name(), reader.entry),
            Source::Fresh { fresh, sorted, at } => fresh.at(sorted[*at].1),
        }
    }

    fn step(&mut self) -> io::Result<()> {
        match self {
            Source::Run(reader) => reader.step(),
            Source::Fresh { at, .. } => {
                *at += 1;
                Ok(())
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct InOrder {
    /// The oldest first.
    sources: Vec<Source>,
    /// The row that [`InOrder::of`] has looked at.
    next: Row,
    looked: bool,
    ended: bool,
}

impl InOrder {
    /// Of sorted sources, the oldest first.
    pub(crate) fn new(sources: Vec<Source>) -> InOrder {
        InOrder { sources, next: Row::default(), looked: false, ended: false }
    }

    /// The next row; false at the end.
    pub(crate) fn next(&mut self, row: &mut Row) -> io::Result<bool> {
        // They are a few, and hardly two have the same key.
        let mut least: Option<(usize, u64)> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(key) = source.key() else { continue };
            let order = least.map_or(Ordering::Less, |(other, of)| {
                key.cmp(&of).then_with(|| source.row().0.cmp(self.sources[other].row().0))
            });
            match order {
                Ordering::Less => least = Some((at, key)),
                Ordering::Equal => {
                    // The older one counts no more.
                    least = Some((at, key));
                }
                Ordering::Greater => {}
            }
        }
        let Some((latest, key)) = least else { return Ok(false) };
        let (name, entry) = self.sources[latest].row();
        row.name.clear();
        row.name.extend_from_slice(name);
        (row.key, row.entry) = (key, entry);
        for source in &mut self.sources[..=latest] {
            if source.key() == Some(key) && source.row().0 == row.name {
                source.step()?;
            }
        }
        Ok(true)
    }

    /// The next row where it is one of this directory; those of directories before it are left out.
    pub(crate) fn of(&mut self, directory: u32) -> Result<Option<&Row>, Fault> {
        let fault = io_fault("read the temporary records of", b"names");
        self.look(directory).map_err(fault)?;
        Ok((self.looked && self.next.directory() == directory).then_some(&self.next))
    }

    fn look(&mut self, directory: u32) -> io::Result<()> {
        while !self.ended && (!self.looked || self.next.directory() < directory) {
            let mut row = std::mem::take(&mut self.next);
            self.looked = self.next(&mut row)?;
            self.ended = !self.looked;
            self.next = row;
        }
        Ok(())
    }

    /// What [`InOrder::of`] has said was taken.
    pub(crate) fn take(&mut self) -> Row {
        self.looked = false;
        std::mem::take(&mut self.next)
    }
}
