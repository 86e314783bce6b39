//! Which names this layer has put into directories that the layers below already had.
//!
//! A whiteout hides what lower layers have, never what its own layer has, whatever the order
//! (OCI image spec, layer.md). Keyed by the directory's inode, so that two spellings of a path
//! are one. Names are kept as 64-bit hashes with a random key: a collision cannot be aimed, and
//! all it could do is to spare one lower name. Pure: no I/O.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

/// What lies below the layer being applied.
#[derive(Debug)]
pub(crate) enum Below {
    /// Only these directories; every other one is this layer's own.
    Only(HashSet<u64>),
    /// Anything, save these directories that this layer made.
    AllBut(HashSet<u64>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Touched {
    below: Below,
    names: HashMap<u64, HashSet<u64>>,
    key: RandomState,
}

impl Touched {
    pub(crate) fn new(below: Below) -> Touched {
        Touched { below, names: HashMap::new(), key: RandomState::new() }
    }

    /// Whether directory `ino` may hold lower names.
    pub(crate) fn lower(&self, ino: u64) -> bool {
        match &self.below {
            Below::Only(lower) => lower.contains(&ino),
            Below::AllBut(own) => !own.contains(&ino),
        }
    }

    /// Whether [`Touched::own`] has to be told the inode of each new directory.
    pub(crate) fn wants_inodes(&self) -> bool {
        match self.below {
            Below::Only(_) => false,
            Below::AllBut(_) => true,
        }
    }

    /// Directory `ino` holds nothing of the lower layers (any more).
    pub(crate) fn own(&mut self, ino: u64) {
        match &mut self.below {
            Below::Only(lower) => {
                lower.remove(&ino);
            }
            Below::AllBut(own) => {
                own.insert(ino);
            }
        }
        self.names.remove(&ino);
    }

    /// This layer has put `name` into `dir`; `explicit` if by an entry of its own.
    pub(crate) fn touch(&mut self, dir: u64, name: &[u8], explicit: bool) {
        if self.lower(dir) {
            let names = self.names.entry(dir).or_default();
            names.insert(self.key.hash_one((name, false)));
            if explicit {
                names.insert(self.key.hash_one((name, true)));
            }
        }
    }

    /// Whether `name` in `dir` is this layer's.
    pub(crate) fn touched(&self, dir: u64, name: &[u8]) -> bool {
        self.has(dir, name, false)
    }

    /// Whether this layer has an entry for `name` in `dir`.
    pub(crate) fn explicit(&self, dir: u64, name: &[u8]) -> bool {
        self.has(dir, name, true)
    }

    fn has(&self, dir: u64, name: &[u8], explicit: bool) -> bool {
        !self.lower(dir)
            || self
                .names
                .get(&dir)
                .is_some_and(|names| names.contains(&self.key.hash_one((name, explicit))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directories_are_all_this_layers() {
        let mut touched = Touched::new(Below::AllBut(HashSet::new()));
        assert!(!touched.touched(7, b"a"));
        touched.touch(7, b"a", false);
        assert!(touched.touched(7, b"a") && !touched.explicit(7, b"a"));
        assert!(!touched.touched(7, b"b") && !touched.touched(8, b"a"));
        touched.own(7);
        assert!(touched.touched(7, b"b"));
    }
}
