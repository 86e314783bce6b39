//! What a layer has changed in directories: one record for each name, the latest counts.
//!
//! Names lie one after another in one piece of memory, records in a table of their own, and the index over
//! them is keyed at random, so that no layer can make it slow. Pure.

use std::hash::{BuildHasher, RandomState};

use crate::ext4::format::hash::HASH_SEED;
use crate::ext4::format::hash::half_md4;

/// No record.
const NONE: u32 = u32::MAX;

/// What has become of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 0: there is nothing any more.
    pub(crate) inode: u32,
    /// The type byte.
    pub(crate) kind: u8,
}

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
pub(crate) struct Names {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Numbers of records, by hash; half of it is empty at least.
    index: Vec<u32>,
    key: RandomState,
}

/// A place in the chain of one directory's records, from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u32);

impl Chain {
    pub(crate) const EMPTY: Chain = Chain(NONE);
}

impl Names {
    pub(crate) fn new() -> Names {
        let index = vec![NONE; 1024];
        Names { bytes: Vec::new(), records: Vec::new(), index, key: RandomState::new() }
    }

    fn name(&self, record: &Record) -> &[u8] {
        let at = record.name as usize;
        let len = usize::from(self.bytes[at]);
        &self.bytes[at + 1..at + 1 + len]
    }

    /// Where in the index a name is, or would be.
    fn slot(&self, directory: u32, name: &[u8]) -> usize {
        let mask = self.index.len() - 1;
        let mut at =
            usize::try_from(self.key.hash_one((directory, name)) & mask as u64).unwrap_or(0);
        while self.index[at] != NONE {
            let record = &self.records[self.index[at] as usize];
            if record.directory == directory && self.name(record) == name {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    pub(crate) fn get(&self, directory: u32, name: &[u8]) -> Option<Entry> {
        let record = self.records.get(self.index[self.slot(directory, name)] as usize)?;
        Some(Entry { inode: record.inode, kind: record.kind })
    }

    /// Says what has become of a name of at most 255 bytes; `chain` is that of its directory.
    pub(crate) fn set(&mut self, directory: u32, name: &[u8], entry: Entry, chain: &mut Chain) {
        let slot = self.slot(directory, name);
        if let Some(record) = self.records.get_mut(self.index[slot] as usize) {
            (record.inode, record.kind) = (entry.inode, entry.kind);
            return;
        }
        let number = u32::try_from(self.records.len()).unwrap_or(NONE);
        let at = u32::try_from(self.bytes.len()).unwrap_or(NONE);
        self.bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(name);
        let Entry { inode, kind } = entry;
        self.records.push(Record { directory, inode, name: at, before: chain.0, kind });
        chain.0 = number;
        self.index[slot] = number;
        if self.records.len() * 2 > self.index.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let len = self.index.len() * 2;
        self.index.clear();
        self.index.resize(len, NONE);
        for number in 0..self.records.len() {
            let record = self.records[number];
            let mask = len - 1;
            let hash = self.key.hash_one((record.directory, self.name(&record)));
            let mut at = usize::try_from(hash & mask as u64).unwrap_or(0);
            while self.index[at] != NONE {
                at = (at + 1) & mask;
            }
            self.index[at] = u32::try_from(number).unwrap_or(NONE);
        }
    }

    /// The records of a directory by the hash of their names, and then by name.
    pub(crate) fn sorted(&self, chain: Chain) -> Vec<(u32, u32)> {
        let (mut sorted, mut at) = (Vec::new(), chain.0);
        while let Some(record) = self.records.get(at as usize) {
            sorted.push((half_md4(self.name(record), HASH_SEED), at));
            at = record.before;
        }
        sorted.sort_unstable_by(|&(a, first), &(b, second)| {
            a.cmp(&b).then_with(|| self.at(first).0.cmp(self.at(second).0))
        });
        sorted
    }

    /// One of those records.
    pub(crate) fn at(&self, number: u32) -> (&[u8], Entry) {
        let record = &self.records[number as usize];
        (self.name(record), Entry { inode: record.inode, kind: record.kind })
    }

    /// The next name of a directory, the latest first.
    pub(crate) fn next(&self, chain: &mut Chain) -> Option<(&[u8], Entry)> {
        let record = self.records.get(chain.0 as usize)?;
        chain.0 = record.before;
        Some((self.name(record), Entry { inode: record.inode, kind: record.kind }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_a_name_counts() {
        let mut names = Names::new();
        let mut chains = [Chain::EMPTY; 3];
        for n in 0..10_000u32 {
            let directory = n % 3;
            let entry = Entry { inode: n, kind: 1 };
            let name = (n / 2).to_string();
            names.set(directory, name.as_bytes(), entry, &mut chains[directory as usize]);
        }
        assert_eq!(names.get(0, b"0"), Some(Entry { inode: 0, kind: 1 }));
        assert_eq!(names.get(1, b"4999"), None);
        assert_eq!(names.get(0, b"4999"), Some(Entry { inode: 9999, kind: 1 }));
        let mut chain = chains[0];
        let mut count = 0;
        while let Some((name, entry)) = names.next(&mut chain) {
            assert_eq!(names.get(0, name), Some(entry));
            count += 1;
        }
        assert_eq!(count, (0..10_000).filter(|n| n % 3 == 0).count());
    }
}
