//! Which names this layer has put into directories that the layers below already had.
//!
//! A whiteout hides what lower layers have, never what its own layer has, whatever the order
//! (OCI image spec, layer.md). Keyed by the directory's inode, so that two spellings of a path
//! are one. Names are kept as 64-bit hashes with a random key: a collision cannot be aimed, and
//! all it could do is to spare one lower name. A layer of a million entries is a million of them, so
//! each takes eight bytes, and directories that were made are bits. Pure: no I/O.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

/// What lies below the layer being applied.
#[derive(Debug)]
pub(crate) enum Below {
    /// A new file system: nothing but perhaps this one directory, in the root. Every other name
    /// is this layer's own, and need not be kept.
    New { root: u64, lost_and_found: Option<u64> },
    /// Anything, save these directories that this layer made.
    AllBut(Inodes),
}

/// Bits of one piece of [`Inodes`].
const PIECE: u64 = 1024;

/// Numbers of inodes, which a file system gives out close together: in pieces, each a bit for every
/// number in it.
#[derive(Debug, Default)]
pub(crate) struct Inodes(HashMap<u64, Box<[u64; 16]>>);

impl Inodes {
    /// Piece, word and bit of a number.
    fn place(ino: u64) -> (u64, usize, u64) {
        let word = usize::try_from(ino % PIECE / 64).unwrap_or(0);
        (ino / PIECE, word, 1 << (ino % 64))
    }

    pub(crate) fn insert(&mut self, ino: u64) {
        let (piece, word, bit) = Inodes::place(ino);
        self.0.entry(piece).or_default()[word] |= bit;
    }

    pub(crate) fn contains(&self, ino: u64) -> bool {
        let (piece, word, bit) = Inodes::place(ino);
        self.0.get(&piece).is_some_and(|bits| bits[word] & bit != 0)
    }
}

/// Hashes that are in a table; then they join the others.
const FEW: usize = 1 << 15;

/// Lists that hashes are in, by their first eight bits.
const LISTS: usize = 256;

/// A set of hashes. A table of a million of them takes twice the memory of sorted lists, and three times while
/// it grows; so only the last ones are in one. There are many lists, so that one that grows takes twice
/// its own part alone.
#[derive(Debug, Default)]
struct Hashes {
    few: HashSet<u64>,
    /// Each in order.
    many: Vec<Vec<u64>>,
}

/// The list of a hash.
fn list(hash: u64) -> usize {
    usize::try_from(hash >> 56).unwrap_or(0)
}

impl Hashes {
    fn insert(&mut self, hash: u64) {
        self.few.insert(hash);
        if self.few.len() >= FEW {
            self.join();
        }
    }

    fn contains(&self, hash: u64) -> bool {
        let in_many = |hashes: &Vec<u64>| hashes.binary_search(&hash).is_ok();
        self.few.contains(&hash) || self.many.get(list(hash)).is_some_and(in_many)
    }

    /// Moves what is in the table into the lists.
    fn join(&mut self) {
        self.many.resize_with(LISTS, Vec::new);
        let mut new: Vec<u64> = self.few.drain().collect();
        new.retain(|&hash| self.many[list(hash)].binary_search(&hash).is_err());
        new.sort_unstable();
        for new in new.chunk_by(|&a, &b| list(a) == list(b)) {
            merge(&mut self.many[list(new[0])], new);
        }
    }
}

/// Adds hashes in order, none of which is there, to those that are: from the greatest on.
fn merge(to: &mut Vec<u64>, mut new: &[u64]) {
    let mut old = to.len();
    to.reserve_exact(new.len());
    to.resize(old + new.len(), 0);
    let mut at = to.len();
    while let Some((&last, rest)) = new.split_last() {
        at -= 1;
        match old.checked_sub(1).map(|old| to[old]) {
            Some(greater) if greater > last => {
                to[at] = greater;
                old -= 1;
            }
            Some(_) | None => {
                to[at] = last;
                new = rest;
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Touched {
    below: Below,
    /// Hashes of directories with names; the lowest bit is for those with an entry of their own. What
    /// was in a directory that has become this layer's own stays, and is not looked for again.
    names: Hashes,
    key: RandomState,
}

/// Made by mke2fs in a new file system.
pub(crate) const LOST_AND_FOUND: &[u8] = b"lost+found";

impl Touched {
    pub(crate) fn new(below: Below) -> Touched {
        Touched { below, names: Hashes::default(), key: RandomState::new() }
    }

    /// Whether directory `ino` may hold lower names.
    pub(crate) fn lower(&self, ino: u64) -> bool {
        match &self.below {
            Below::New { root, lost_and_found } => match lost_and_found {
                Some(inside) => ino == *root || ino == *inside,
                None => false,
            },
            Below::AllBut(own) => !own.contains(ino),
        }
    }

    /// Whether `name` in `dir` may be a lower one.
    fn lower_name(&self, dir: u64, name: &[u8]) -> bool {
        match &self.below {
            Below::New { root, .. } if dir == *root && name != LOST_AND_FOUND => false,
            Below::New { .. } | Below::AllBut(_) => self.lower(dir),
        }
    }

    /// Whether [`Touched::own`] has to be told the inode of each new directory.
    pub(crate) fn wants_inodes(&self) -> bool {
        match self.below {
            Below::New { .. } => false,
            Below::AllBut(_) => true,
        }
    }

    /// Directory `ino` holds nothing of the lower layers (any more).
    pub(crate) fn own(&mut self, ino: u64) {
        match &mut self.below {
            Below::New { root, lost_and_found } => {
                if ino == *root || *lost_and_found == Some(ino) {
                    *lost_and_found = None;
                }
            }
            Below::AllBut(own) => own.insert(ino),
        }
    }

    /// This layer has put `name` into `dir`; `explicit` if by an entry of its own.
    pub(crate) fn touch(&mut self, dir: u64, name: &[u8], explicit: bool) {
        if self.lower_name(dir, name) {
            self.names.insert(self.hash(dir, name) | u64::from(explicit));
        }
    }

    /// Whether `name` in `dir` is this layer's.
    pub(crate) fn touched(&self, dir: u64, name: &[u8]) -> bool {
        self.explicit(dir, name) || self.has(dir, name, 0)
    }

    /// Whether this layer has an entry for `name` in `dir`.
    pub(crate) fn explicit(&self, dir: u64, name: &[u8]) -> bool {
        !self.lower_name(dir, name) || self.has(dir, name, 1)
    }

    fn has(&self, dir: u64, name: &[u8], bit: u64) -> bool {
        self.names.contains(self.hash(dir, name) | bit)
    }

    fn hash(&self, dir: u64, name: &[u8]) -> u64 {
        self.key.hash_one((dir, name)) & !1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directories_are_all_this_layers() {
        let mut touched = Touched::new(Below::AllBut(Inodes::default()));
        assert!(!touched.touched(7, b"a"));
        touched.touch(7, b"a", false);
        assert!(touched.touched(7, b"a") && !touched.explicit(7, b"a"));
        assert!(!touched.touched(7, b"b") && !touched.touched(8, b"a"));
        touched.own(7);
        assert!(touched.touched(7, b"b"));
    }

    #[test]
    fn hashes_are_those_that_were_put_in() {
        let mut hashes = Hashes::default();
        // By a product with an odd number: each once, and in no order.
        let nth = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !1;
        let count = 5 * FEW as u64 / 2;
        for n in (0..count).chain(0..count) {
            hashes.insert(nth(n));
        }
        assert!((0..count).all(|n| hashes.contains(nth(n))));
        assert!(!(0..2 * count).any(|n| hashes.contains(nth(n) | 1)));
        assert!(!(count..2 * count).any(|n| hashes.contains(nth(n))));
        let many: Vec<u64> = hashes.many.concat();
        assert!(many.len() > FEW && many.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(many.len() + hashes.few.len() < 4 * FEW);
    }

    #[test]
    fn inodes_are_those_that_were_put_in() {
        let mut inodes = Inodes::default();
        let some = [0, 1, 63, 64, 1023, 1024, 1 << 40, u64::MAX];
        some.iter().for_each(|&ino| inodes.insert(ino));
        for ino in [0, 1, 2, 62, 63, 64, 65, 127, 1023, 1024, 1025, 1 << 40, u64::MAX - 1, u64::MAX]
        {
            assert_eq!(inodes.contains(ino), some.contains(&ino), "{ino}");
        }
        assert_eq!(inodes.0.len(), 4);
    }
}
