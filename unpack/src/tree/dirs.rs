//! The directories of the tree that are at hand, and how a path becomes one of them.
//!
//! Every parent is resolved here: its whole path is tried first, links not followed; a symlink met on
//! the way is read and walked by hand, clamped at the root, so that each directory at hand has one
//! canonical path. Such a walk keeps the directories on its way open, so that each step costs one
//! component however deep it is. What opens them is a `sink`; what then happens to a name in one is in
//! `apply`.
//!
//! A directory is closed when it is at hand no more: children may come long after their directory's
//! entry, and a cache is bounded where a list of all directories is not.

use std::collections::HashMap;

use nix::errno::Errno;

use crate::error::Fault;
use crate::tree::budget::Budget;
use crate::tree::sink::{At, Sink, Step};
use crate::tree::touched::Touched;
use crate::tree::way::Way;

/// Directories kept at hand.
const OPEN_MAX: usize = 256;
/// Bytes of paths under which directories at hand are known. More than one each, and the longest there
/// can be: a layer that spells one directory in ever new ways makes us forget, not grow.
const NAMES_MAX: usize = 4 << 20;
/// The kernel's own bound for one path (path_resolution(7)).
const SYMLINKS_MAX: u32 = 40;
/// The longest path that a kernel takes, in bytes.
const PATH_MAX: usize = 4095;
/// Parents that are looked for among the directories at hand before all are walked from the root.
const NEAR: usize = 8;

/// A directory at hand.
#[derive(Debug)]
pub(crate) struct Dir<D> {
    pub(crate) handle: D,
    pub(crate) id: u64,
    /// Canonical path below the root.
    pub(crate) path: Vec<u8>,
    /// Its whole chain of parents is marked as touched by this layer.
    chained: bool,
    used: u64,
    names: Vec<Vec<u8>>,
}

/// What to do with missing directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make them: 0755, owned by us, at the epoch; and mark all on the way as this layer's.
    Make,
    /// Say that it is missing.
    Report,
}

/// See the module.
pub(crate) struct Dirs<S: Sink> {
    pub(crate) sink: S,
    slots: Vec<Dir<S::Dir>>,
    by_id: HashMap<u64, usize>,
    by_path: HashMap<Vec<u8>, usize>,
    /// Bytes of the keys of `by_path`.
    by_path_bytes: usize,
    tick: u64,
    /// Directories made because an entry's parent was missing, since last taken.
    pub(crate) made: u64,
}

impl<S: Sink> Dirs<S> {
    pub(crate) fn new(mut sink: S) -> Result<Dirs<S>, Fault> {
        let root = sink.root()?;
        let mut dirs = Dirs {
            sink,
            slots: Vec::new(),
            by_id: HashMap::new(),
            by_path: HashMap::new(),
            by_path_bytes: 0,
            tick: 0,
            made: 0,
        };
        dirs.insert(root, Vec::new())?;
        Ok(dirs)
    }

    pub(crate) fn get(&self, slot: usize) -> &Dir<S::Dir> {
        &self.slots[slot]
    }

    /// The root, which stays at hand.
    pub(crate) fn root(&self) -> S::Dir {
        self.slots[0].handle.clone()
    }

    /// The directory with this number, if it is at hand.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Dir<S::Dir>> {
        self.by_id.get(&id).map(|&slot| &self.slots[slot])
    }

    /// Forgets which path leads where: a directory or symlink has gone.
    pub(crate) fn forget_paths(&mut self) {
        self.by_path.clear();
        self.by_path_bytes = 0;
        for dir in &mut self.slots {
            dir.names.clear();
        }
    }

    /// Closes all of them, and the sink.
    pub(crate) fn finish(mut self, budget: &mut Budget) -> Result<S::Done, Fault> {
        for dir in &self.slots {
            self.sink.close(&dir.handle, &dir.path)?;
        }
        self.sink.finish(budget)
    }

    /// The directory an entry's path names, with symlinks followed inside the root.
    pub(crate) fn resolve(
        &mut self,
        path: &[u8],
        missing: Missing,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<Option<usize>, Fault> {
        let slot = match self.lookup(path)? {
            Step::Link | Step::Missing => self.walk(path, missing, touched, budget)?,
            step @ (Step::Dir(_) | Step::NotDir | Step::TooLong | Step::Elsewhere) => {
                Some(step.parent(path)?)
            }
        };
        if let Some(slot) = slot {
            if missing == Missing::Make && !self.slots[slot].chained {
                self.chain(slot, touched, budget)?;
            }
            self.use_slot(slot);
        }
        Ok(slot)
    }

    /// The same for a canonical path: no symlink is followed.
    pub(crate) fn resolve_real(&mut self, path: &[u8]) -> Result<Option<usize>, Fault> {
        let fault = |errno| Err(Fault::fs("open directory", path)(errno));
        match self.lookup(path)? {
            Step::Dir(slot) => Ok(Some(slot)),
            Step::Missing | Step::Link | Step::NotDir => Ok(None),
            Step::TooLong => fault(Errno::ENAMETOOLONG),
            Step::Elsewhere => fault(Errno::EXDEV),
        }
    }

    fn lookup(&mut self, path: &[u8]) -> Result<Step<usize>, Fault> {
        if path.is_empty() {
            return Ok(Step::Dir(0));
        }
        if let Some(&slot) = self.by_path.get(path) {
            self.use_slot(slot);
            return Ok(Step::Dir(slot));
        }
        let step = self.sink.open(&self.slots[0].handle, path, path)?;
        step.then(|dir| self.insert(dir, path.to_vec()))
    }

    fn use_slot(&mut self, slot: usize) {
        self.tick += 1;
        self.slots[slot].used = self.tick;
    }

    fn insert(&mut self, handle: S::Dir, path: Vec<u8>) -> Result<usize, Fault> {
        let id = self.sink.id(&handle, &path)?;
        let slot = match self.by_id.get(&id) {
            // A replaced parent may give a directory at hand a new path; it is the same inode.
            Some(&slot) => {
                self.slots[slot].path.clone_from(&path);
                slot
            }
            None => {
                let (path, names) = (path.clone(), Vec::new());
                let chained = path.is_empty();
                let slot = self.room(Dir { handle, id, path, chained, used: 0, names })?;
                self.by_id.insert(id, slot);
                slot
            }
        };
        self.alias(path, slot);
        self.use_slot(slot);
        Ok(slot)
    }

    fn alias(&mut self, path: Vec<u8>, slot: usize) {
        if path.is_empty() || self.by_path.get(&path) == Some(&slot) {
            return;
        }
        if self.by_path_bytes + path.len() > NAMES_MAX {
            self.forget_paths();
        }
        if self.by_path.insert(path.clone(), slot).is_none() {
            self.by_path_bytes += path.len();
        }
        self.slots[slot].names.push(path);
    }

    /// A place for `dir`: a new slot, or that of the one unused for longest.
    fn room(&mut self, dir: Dir<S::Dir>) -> Result<usize, Fault> {
        if self.slots.len() < OPEN_MAX {
            self.slots.push(dir);
            return Ok(self.slots.len() - 1);
        }
        // Slot 0 is the root, which stays.
        let (slot, _) = self
            .slots
            .iter()
            .enumerate()
            .skip(1)
            .min_by_key(|(_, dir)| dir.used)
            .unwrap_or((1, &self.slots[1]));
        let old = std::mem::replace(&mut self.slots[slot], dir);
        self.sink.close(&old.handle, &old.path)?;
        self.by_id.remove(&old.id);
        for name in old.names {
            if self.by_path.get(&name) == Some(&slot) {
                self.by_path.remove(&name);
                self.by_path_bytes -= name.len();
            }
        }
        Ok(slot)
    }

    /// Component by component, with symlinks read and followed inside the root. A sink cannot do this at
    /// once where a directory has to be made behind a dangling symlink (`var/run -> /run`).
    fn walk(
        &mut self,
        path: &[u8],
        missing: Missing,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<Option<usize>, Fault> {
        let (mut way, rest) = self.near(path);
        let mut todo: Vec<Vec<u8>> = rest.split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        // What was made last, if that is where we are.
        let mut made = None;
        while let Some(component) = todo.pop() {
            budget.walk_one(way.depth())?;
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    made = None;
                    let opened = way.up(&mut self.sink, path)?;
                    budget.walk(opened)?;
                    continue;
                }
                _ => {}
            }
            if way.path().len() + 1 + component.len() > PATH_MAX {
                return Step::TooLong.parent(path);
            }
            let dir = match self.sink.open(way.here(), &component, path)? {
                Step::Missing if missing == Missing::Make => {
                    budget.make(way.depth())?;
                    let parent = match made.take() {
                        Some(slot) => slot,
                        None => self.insert(way.here().clone(), way.path().to_vec())?,
                    };
                    let path = join(way.path(), &component);
                    let slot = self.make(parent, &component, &path, touched, budget)?;
                    way.down(&component, self.slots[slot].handle.clone());
                    made = Some(slot);
                    continue;
                }
                Step::Missing => return Ok(None),
                Step::Link => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Step::Link.parent(path);
                    }
                    let link = join(way.path(), &component);
                    let at = At { dir: way.here(), name: &component, path: &link };
                    let target = self.sink.read_link(&at)?;
                    if target.first() == Some(&b'/') {
                        way.restart();
                    }
                    made = None;
                    todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                step @ (Step::Dir(_) | Step::NotDir | Step::TooLong | Step::Elsewhere) => {
                    step.parent(path)?
                }
            };
            way.down(&component, dir);
            made = None;
        }
        let slot = self.insert(way.here().clone(), way.path().to_vec())?;
        self.alias(path.to_vec(), slot);
        Ok(Some(slot))
    }

    /// Where to begin a walk to `path`: the nearest of its parents that is at hand, and what is left.
    fn near<'p>(&self, path: &'p [u8]) -> (Way<S::Dir>, &'p [u8]) {
        let root = self.root();
        let ends = path.iter().enumerate().rev().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let near = ends.take(NEAR).find_map(|end| Some((*self.by_path.get(&path[..end])?, end)));
        match near {
            Some((slot, end)) => {
                let dir = &self.slots[slot];
                (Way::at(root, &dir.path, dir.handle.clone()), &path[end + 1..])
            }
            None => (Way::new(root), path),
        }
    }

    /// Makes an implicit parent.
    fn make(
        &mut self,
        parent: usize,
        name: &[u8],
        path: &[u8],
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<usize, Fault> {
        self.chain(parent, touched, budget)?;
        let dir = &self.slots[parent];
        let handle = self.sink.make_implicit(&At { dir: &dir.handle, name, path })?;
        touched.touch(dir.id, name, false);
        let slot = self.insert(handle, path.to_vec())?;
        touched.own(self.slots[slot].id);
        self.slots[slot].chained = true;
        self.made += 1;
        Ok(slot)
    }

    /// Marks a directory and its parents as this layer's, up to the root, or to one near by that
    /// was marked before.
    fn chain(
        &mut self,
        slot: usize,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        if self.slots[slot].chained {
            return Ok(());
        }
        self.slots[slot].chained = true;
        let path = self.slots[slot].path.clone();
        let mut ends: Vec<usize> =
            path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at).collect();
        let (mut id, mut here, mut start) = (self.slots[0].id, self.root(), 0);
        let near = ends.iter().enumerate().rev().take(NEAR).find_map(|(at, &end)| {
            let slot = self.by_path.get(&path[..end])?;
            let dir = &self.slots[*slot];
            (dir.chained && dir.path == path[..end]).then(|| (at, end, dir.id, dir.handle.clone()))
        });
        if let Some((at, end, near, at_dir)) = near {
            ends.drain(..=at);
            (id, here, start) = (near, at_dir, end + 1);
        }
        for end in ends.into_iter().chain(std::iter::once(path.len())) {
            let name = &path[start..end];
            touched.touch(id, name, false);
            if end == path.len() || !touched.wants_inodes() {
                break;
            }
            start = end + 1;
            let depth = path[..end].iter().filter(|&&b| b == b'/').count() as u64;
            budget.walk_one(depth)?;
            // Not through `lookup`: a deep path must not push its own end out of the cache.
            here = self.sink.open(&here, name, &path)?.parent(&path)?;
            id = self.sink.id(&here, &path[..end])?;
        }
        Ok(())
    }
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fd::directory::Directory;
    use crate::tree::fd::root::Root;

    /// Ever new spellings of one directory take no more than so much memory.
    #[test]
    fn the_names_of_open_directories_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut dirs = Dirs::new(Directory::to_read(&root).unwrap()).unwrap();
        for n in 0..10_000 {
            dirs.alias(format!("{n}{}", "/s".repeat(2000)).into_bytes(), 0);
            let bytes: usize = dirs.by_path.keys().map(Vec::len).sum();
            assert!(n % 500 != 0 || bytes == dirs.by_path_bytes);
            assert!(dirs.by_path_bytes <= NAMES_MAX);
            assert!(dirs.slots[0].names.len() <= dirs.by_path.len());
        }
        assert!(dirs.by_path_bytes > NAMES_MAX / 4);
    }
}
