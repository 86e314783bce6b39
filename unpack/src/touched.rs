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
    /// A new file system: nothing but perhaps this one directory, in the root. Every other name
    /// is this layer's own, and need not be kept.
    New { root: u64, lost_and_found: Option<u64> },
    /// Anything, save these directories that this layer made.
    AllBut(HashSet<u64>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Touched {
    below: Below,
    /// Hashes of names; the lowest bit is for those with an entry of their own.
    names: HashMap<u64, HashSet<u64>>,
    key: RandomState,
}

/// Made by mke2fs in a new file system.
pub(crate) const LOST_AND_FOUND: &[u8] = b"lost+found";

impl Touched {
    pub(crate) fn new(below: Below) -> Touched {
        Touched { below, names: HashMap::new(), key: RandomState::new() }
    }

    /// Whether directory `ino` may hold lower names.
    pub(crate) fn lower(&self, ino: u64) -> bool {
        match &self.below {
            Below::New { root, lost_and_found } => match lost_and_found {
                Some(inside) => ino == *root || ino == *inside,
                None => false,
            },
            Below::AllBut(own) => !own.contains(&ino),
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
            Below::AllBut(own) => {
                own.insert(ino);
            }
        }
        self.names.remove(&ino);
    }

    /// This layer has put `name` into `dir`; `explicit` if by an entry of its own.
    pub(crate) fn touch(&mut self, dir: u64, name: &[u8], explicit: bool) {
        if self.lower_name(dir, name) {
            let hash = self.key.hash_one(name) & !1;
            let names = self.names.entry(dir).or_default();
            if explicit {
                names.remove(&hash);
                names.insert(hash | 1);
            } else if !names.contains(&(hash | 1)) {
                names.insert(hash);
            }
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
        let hash = self.key.hash_one(name) & !1 | bit;
        self.names.get(&dir).is_some_and(|names| names.contains(&hash))
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
