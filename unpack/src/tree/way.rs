//! A walk from the root by single components, down and up, with the directories on its way open.
//!
//! So a step costs one component however deep it is; only so many handles are held, and where a walk
//! goes up beyond those, as many again are opened at once. Knows nothing of symbolic links: who
//! walks reads and follows them.

use std::collections::VecDeque;

use crate::error::Fault;
use crate::tree::sink::Sink;

/// Directories held, the one that was reached among them.
const HELD: usize = 64;

/// Where a walk has come to.
#[derive(Debug)]
pub(crate) struct Way<D> {
    root: D,
    /// Canonical path below the root.
    path: Vec<u8>,
    depth: u64,
    /// The last directories of that path, the nearest last; none only at the root.
    held: VecDeque<D>,
}

impl<D: Clone> Way<D> {
    pub(crate) fn new(root: D) -> Way<D> {
        Way { root, path: Vec::new(), depth: 0, held: VecDeque::new() }
    }

    /// One that has come to `path`, which is canonical and open as `dir`.
    pub(crate) fn at(root: D, path: &[u8], dir: D) -> Way<D> {
        if path.is_empty() {
            return Way::new(root);
        }
        let depth = 1 + path.iter().filter(|&&b| b == b'/').count() as u64;
        Way { root, path: path.to_vec(), depth, held: VecDeque::from([dir]) }
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many levels below the root it is.
    pub(crate) fn depth(&self) -> u64 {
        self.depth
    }

    /// The directory that was reached.
    pub(crate) fn here(&self) -> &D {
        self.held.back().unwrap_or(&self.root)
    }

    pub(crate) fn restart(&mut self) {
        self.path.clear();
        self.depth = 0;
        self.held.clear();
    }

    /// Into the directory `name` of this one, which is `dir`.
    pub(crate) fn down(&mut self, name: &[u8], dir: D) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.depth += 1;
        self.held.push_back(dir);
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// To the parent, or nowhere from the root. Says how many components that has cost besides. `told` is
    /// what an error names.
    pub(crate) fn up(&mut self, sink: &mut impl Sink<Dir = D>, told: &[u8]) -> Result<u64, Fault> {
        let parent = self.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        self.path.truncate(parent);
        self.depth = self.depth.saturating_sub(1);
        self.held.pop_back();
        if self.path.is_empty() {
            self.held.clear();
        }
        if self.path.is_empty() || !self.held.is_empty() {
            return Ok(0);
        }
        let names: Vec<&[u8]> = self.path.split(|&b| b == b'/').collect();
        let (far, near) = names.split_at(names.len().saturating_sub(HELD / 2));
        let mut here = self.root.clone();
        if !far.is_empty() {
            here = sink.open(&here, &far.join(&b'/'), told)?.parent(told)?;
        }
        for name in near {
            here = sink.open(&here, name, told)?.parent(told)?;
            self.held.push_back(here.clone());
        }
        Ok(names.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::tree::fd::directory::Directory;
    use crate::tree::fd::root::Root;

    #[test]
    fn up_and_down_beyond_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let deep = 3 * HELD;
        std::fs::create_dir_all(dir.path().join("d/".repeat(deep))).unwrap();
        let mut sink = Directory::to_read(&Root::open(dir.path()).unwrap()).unwrap();
        let mut way = Way::new(sink.root().unwrap());
        for _ in 0..deep {
            let below = sink.open(way.here(), b"d", b"d").unwrap().parent(b"d").unwrap();
            way.down(b"d", below);
            assert!(way.held.len() <= HELD);
        }
        let mut cost = 0;
        for left in (0..deep).rev() {
            cost += way.up(&mut sink, b"d").unwrap();
            let there = std::fs::metadata(dir.path().join("d/".repeat(left))).unwrap().ino();
            assert_eq!(sink.id(way.here(), b"d").unwrap(), there);
            assert_eq!(way.path().len(), (2 * left).saturating_sub(1));
        }
        assert!(cost < 8 * deep as u64, "{cost} components to go up {deep}");
        assert_eq!(way.up(&mut sink, b"d").unwrap(), 0);
        assert!(way.path().is_empty());
    }
}
