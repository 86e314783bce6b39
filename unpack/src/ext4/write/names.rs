//! What a layer has changed in directories: one record for each name, the latest counts.
//!
//! The last ones are in memory, the others in sorted runs in the file for records, so that a layer of any
//! number of names takes a bounded memory but for a few bits for each (the filters of the runs). Runs of
//! about one size are merged into one, and a name is looked for in those alone whose filter does not say
//! that it is missing. At the end all of them come in the order in which directories are written.

use std::io;
use std::sync::Arc;

use crate::error::Fault;
use crate::ext4::format::hash::{HASH_SEED, half_md4};
use crate::ext4::write::entry::Entry;
use crate::ext4::write::fresh::Fresh;
use crate::ext4::write::merge::{InOrder, Row, Source};
use crate::ext4::write::run::{Reader, Run, Writer};
use crate::record::place::{MEMORY_MAX, Spill, no_place};
use crate::record::spill::io_fault;

pub(crate) use crate::ext4::write::fresh::Chain;

/// So many runs of about one size are merged into one.
const FAN: usize = 8;
/// Names that were found in runs and are remembered: those that many links lead to.
const FOUND: usize = 1024;

/// A name that was found in a run.
#[derive(Debug)]
struct Found {
    directory: u32,
    name: Box<[u8]>,
    entry: Entry,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Names {
    fresh: Fresh,
    /// By size, those of level n of about FAN to the n times what fits in memory; of a level the oldest
    /// first, and all of them older than those of the level below.
    levels: Vec<Vec<Arc<Run>>>,
    spill: Option<Arc<Spill>>,
    found: Vec<Option<Found>>,
}

fn fault(name: &[u8]) -> impl FnOnce(io::Error) -> Fault {
    io_fault("keep the temporary record of", name)
}

impl Names {
    /// `spill` takes what does not fit in memory; without one all of it stays there, within a bound.
    pub(crate) fn new(spill: Option<Arc<Spill>>) -> Names {
        Names { fresh: Fresh::new(), levels: Vec::new(), spill, found: Vec::new() }
    }

    /// As [`Names::new`], with so many records in memory at most.
    #[cfg(test)]
    pub(crate) fn small(spill: Arc<Spill>, most: usize) -> Names {
        Names { fresh: Fresh::small(most), ..Names::new(Some(spill)) }
    }

    /// Runs that there are.
    #[cfg(test)]
    pub(crate) fn run_count(&self) -> usize {
        self.runs().count()
    }

    /// The runs, the oldest first.
    fn runs(&self) -> impl DoubleEndedIterator<Item = &Arc<Run>> {
        self.levels.iter().rev().flatten()
    }

    /// What this layer has made of a name.
    pub(crate) fn get(&mut self, directory: u32, name: &[u8]) -> Result<Option<Entry>, Fault> {
        let hash = self.fresh.hash(directory, name);
        let known = self.fresh.get(hash, directory, name);
        if known.is_some() || self.levels.is_empty() {
            return Ok(known);
        }
        self.look(hash, directory, name).map_err(fault(name))
    }

    /// The same of the runs alone.
    fn look(&mut self, hash: u64, directory: u32, name: &[u8]) -> io::Result<Option<Entry>> {
        let slot = usize::try_from(hash >> 32).unwrap_or(0) % FOUND;
        if let Some(Some(found)) = self.found.get(slot)
            && found.directory == directory
            && *found.name == *name
        {
            return Ok(Some(found.entry));
        }
        let (mut place, mut latest) = (None, None);
        for run in self.runs().rev().filter(|run| run.may_have(hash)) {
            let place = *place.get_or_insert_with(|| half_md4(name, HASH_SEED));
            latest = run.find(directory, place, name)?;
            if latest.is_some() {
                break;
            }
        }
        if let Some(entry) = latest {
            self.found.resize_with(FOUND, || None);
            self.found[slot] = Some(Found { directory, name: name.into(), entry });
        }
        Ok(latest)
    }

    /// Says what has become of a name of at most 255 bytes.
    ///
    /// # Errors
    /// The file for records cannot be written, or has no more room.
    pub(crate) fn set(&mut self, directory: u32, name: &[u8], entry: Entry) -> Result<(), Fault> {
        let hash = self.fresh.hash(directory, name);
        if self.fresh.set(hash, directory, name, entry) {
            return Ok(());
        }
        if self.fresh.is_full() {
            match &self.spill {
                Some(_) => self.flush().map_err(fault(name))?,
                None if self.fresh.bytes() > MEMORY_MAX => return Err(fault(name)(no_place())),
                None => {}
            }
        }
        self.fresh.add(hash, directory, name, entry);
        Ok(())
    }

    /// What is in memory becomes a run.
    fn flush(&mut self) -> io::Result<()> {
        let Some(spill) = self.spill.clone() else { return Ok(()) };
        let sorted = self.fresh.sorted();
        let (rows, bytes) = (self.fresh.len(), self.fresh.encoded());
        let mut writer = Writer::new(&spill, bytes, rows, self.fresh.directories())?;
        for &(key, number) in &sorted {
            let (name, entry) = self.fresh.at(number);
            writer.put(key, name, entry, &|directory, name| self.fresh.hash(directory, name))?;
        }
        drop(sorted);
        self.fresh.clear();
        // What was remembered may be in the new run otherwise.
        self.found.clear();
        self.add(0, writer.end()?);
        for level in 0.. {
            let Some(runs) = self.levels.get_mut(level).filter(|runs| runs.len() >= FAN) else {
                break;
            };
            let bytes = runs.iter().map(|run| run.len()).sum();
            let (rows, directories) =
                runs.iter().fold((0, 0), |sum, run| (sum.0 + run.rows, sum.1 + run.directories));
            // Merging is a saving: without room for it the runs stay as they are.
            let Ok(mut writer) = Writer::new(&spill, bytes, rows, directories) else { break };
            let old = std::mem::take(runs);
            let sources = old.iter().map(|run| Reader::of(run).map(Source::Run));
            let mut merge = InOrder::new(sources.collect::<io::Result<_>>()?);
            let mut row = Row::default();
            while merge.next(&mut row)? {
                writer.put(row.key, &row.name, row.entry, &|directory, name| {
                    self.fresh.hash(directory, name)
                })?;
            }
            drop((merge, old));
            self.add(level + 1, writer.end()?);
        }
        Ok(())
    }

    fn add(&mut self, level: usize, run: Run) {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].push(Arc::new(run));
    }

    /// Whether the latest of a name is in memory.
    pub(crate) fn is_fresh(&self, directory: u32, name: &[u8]) -> bool {
        let hash = self.fresh.hash(directory, name);
        self.fresh.get(hash, directory, name).is_some()
    }

    /// Some of the names of a directory that are in runs, in their order from the one behind `after` on (a
    /// hash and a name); none where there are no more. What is in memory besides may be later.
    pub(crate) fn in_runs(
        &self,
        directory: u32,
        after: Option<&(u32, Vec<u8>)>,
    ) -> Result<Vec<Row>, Fault> {
        /// As many as come at a time.
        const SOME: usize = 256;
        let hash = self.fresh.hash(directory, b"");
        let from = after.map_or((0, &[][..]), |(hash, name)| (*hash, name.as_slice()));
        let read = || {
            let runs = self.runs().filter(|run| run.may_have(hash));
            let sources = runs.map(|run| Reader::behind(run, directory, from).map(Source::Run));
            let mut merge = InOrder::new(sources.collect::<io::Result<_>>()?);
            let (mut some, mut row) = (Vec::new(), Row::default());
            while some.len() < SOME && merge.next(&mut row)? && row.directory() == directory {
                some.push(row.clone());
            }
            Ok(some)
        };
        read().map_err(fault(from.1))
    }

    /// The last of a directory's names that are in memory.
    pub(crate) fn chain(&self, directory: u32) -> Chain {
        self.fresh.chain(directory)
    }

    /// The next name of a chain, the latest first. Nothing was set since the chain was taken.
    pub(crate) fn next(&self, chain: &mut Chain) -> Option<(&[u8], Entry)> {
        self.fresh.next(chain)
    }

    /// All of them, by directory, hash and name.
    pub(crate) fn in_order(self) -> Result<InOrder, Fault> {
        let sources = self.runs().map(|run| Reader::of(run).map(Source::Run));
        let mut sources = sources.collect::<io::Result<Vec<_>>>().map_err(fault(b"names"))?;
        let sorted = self.fresh.sorted();
        sources.push(Source::Fresh { fresh: self.fresh, sorted, at: 0 });
        Ok(InOrder::new(sources))
    }
}
