//! The names of a layer that are in memory: one after another in one piece, records in a table of their
//! own, and an index over them that is keyed at random, so that no layer can make it slow. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::ext4::format::hash::{HASH_SEED, half_md4};
use crate::ext4::write::entry::Entry;
use crate::ext4::write::run;

/// No record.
const NONE: u32 = u32::MAX;
/// Records, and bytes of names, that make it full: three megabytes with all that belongs to them.
const RECORDS: usize = 1 << 15;
const BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Record {
    directory: u32,
    inode: u32,
    /// Where its name begins: one byte of length, then the name.
    name: u32,
    /// The record before it of the same directory.
    before: u32,
    kind: u8,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fresh {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Numbers of records, by hash; half of it is empty at least.
    index: Vec<u32>,
    /// The last record of each directory.
    last: HashMap<u32, u32>,
    key: RandomState,
    /// Records that make it full.
    most: usize,
}

/// A place among one directory's records, from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u32);

impl Fresh {
    pub(crate) fn new() -> Fresh {
        Fresh {
            bytes: Vec::new(),
            records: Vec::new(),
            index: vec![NONE; 1024],
            last: HashMap::new(),
            key: RandomState::new(),
            most: RECORDS,
        }
    }

    /// One that is full with a few records.
    #[cfg(test)]
    pub(crate) fn small(most: usize) -> Fresh {
        Fresh { most, ..Fresh::new() }
    }

    /// The hash of a name by which it is found.
    pub(crate) fn hash(&self, directory: u32, name: &[u8]) -> u64 {
        self.key.hash_one((directory, name))
    }

    fn name(&self, record: &Record) -> &[u8] {
        let at = record.name as usize;
        let len = usize::from(self.bytes[at]);
        &self.bytes[at + 1..at + 1 + len]
    }

    /// Where in the index a name is, or would be.
    fn slot(&self, hash: u64, directory: u32, name: &[u8]) -> usize {
        let mask = self.index.len() - 1;
        let mut at = usize::try_from(hash & mask as u64).unwrap_or(0);
        while self.index[at] != NONE {
            let record = &self.records[self.index[at] as usize];
            if record.directory == directory && self.name(record) == name {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    pub(crate) fn get(&self, hash: u64, directory: u32, name: &[u8]) -> Option<Entry> {
        let record = self.records.get(self.index[self.slot(hash, directory, name)] as usize)?;
        Some(Entry { inode: record.inode, kind: record.kind })
    }

    /// Says what has become of a name that is here; false where it is not.
    pub(crate) fn set(&mut self, hash: u64, directory: u32, name: &[u8], entry: Entry) -> bool {
        let slot = self.slot(hash, directory, name);
        let Some(record) = self.records.get_mut(self.index[slot] as usize) else { return false };
        (record.inode, record.kind) = (entry.inode, entry.kind);
        true
    }

    /// Adds a name that is not here.
    pub(crate) fn add(&mut self, hash: u64, directory: u32, name: &[u8], entry: Entry) {
        let number = u32::try_from(self.records.len()).unwrap_or(NONE);
        let at = u32::try_from(self.bytes.len()).unwrap_or(NONE);
        self.bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(name);
        let before = self.last.insert(directory, number).unwrap_or(NONE);
        let Entry { inode, kind } = entry;
        let slot = self.slot(hash, directory, name);
        self.records.push(Record { directory, inode, name: at, before, kind });
        self.index[slot] = number;
        if self.records.len() * 2 > self.index.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let len = self.index.len() * 2;
        self.index.clear();
        self.index.resize(len, NONE);
        let mask = len - 1;
        for number in 0..self.records.len() {
            let record = self.records[number];
            let hash = self.hash(record.directory, self.name(&record));
            let mut at = usize::try_from(hash & mask as u64).unwrap_or(0);
            while self.index[at] != NONE {
                at = (at + 1) & mask;
            }
            self.index[at] = u32::try_from(number).unwrap_or(NONE);
        }
    }

    /// Whether one more would be more than ought to be in memory.
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= self.most || self.bytes.len() + 256 > BYTES
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.records.len() * (size_of::<Record>() + 16)
    }

    /// Names that are here.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Directories that they are in.
    pub(crate) fn directories(&self) -> usize {
        self.last.len()
    }

    /// Bytes of them as rows of a run.
    pub(crate) fn encoded(&self) -> u64 {
        // A byte of length is with the names here, and in the head of a row.
        (self.bytes.len() + self.records.len() * (run::HEAD - 1)) as u64
    }

    /// Forgets all of them. The memory is used again.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.last.clear();
        self.index.fill(NONE);
    }

    /// Key and number of each record, by directory, hash and name.
    pub(crate) fn sorted(&self) -> Vec<(u64, u32)> {
        let numbered = (0u32..).zip(&self.records);
        let mut sorted: Vec<(u64, u32)> = numbered
            .map(|(number, record)| {
                let hash = half_md4(self.name(record), HASH_SEED);
                (run::key(record.directory, hash), number)
            })
            .collect();
        sorted.sort_unstable_by(|&(a, first), &(b, second)| {
            a.cmp(&b).then_with(|| self.at(first).0.cmp(self.at(second).0))
        });
        sorted
    }

    /// One of the records.
    pub(crate) fn at(&self, number: u32) -> (&[u8], Entry) {
        let record = &self.records[number as usize];
        (self.name(record), Entry { inode: record.inode, kind: record.kind })
    }

    /// The last record of a directory.
    pub(crate) fn chain(&self, directory: u32) -> Chain {
        Chain(self.last.get(&directory).copied().unwrap_or(NONE))
    }

    /// The next name of a directory, the latest first.
    pub(crate) fn next(&self, chain: &mut Chain) -> Option<(&[u8], Entry)> {
        let record = self.records.get(chain.0 as usize)?;
        chain.0 = record.before;
        Some((self.name(record), Entry { inode: record.inode, kind: record.kind }))
    }
}
