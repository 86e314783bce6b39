//! A walk from the root by single components, down and up, with the directories on its way open.
//!
//! So a step costs one component however deep it is; only so many fds are held, and where a walk
//! goes up beyond those, as many again are opened at once. Knows nothing of symbolic links: who
//! walks reads and follows them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;

use crate::tree::fd::open::open_dir;

/// Directories held, the one that was reached among them.
const HELD: usize = 64;

/// Where a walk has come to.
#[derive(Debug)]
pub(crate) struct Way {
    root: Rc<OwnedFd>,
    /// Canonical path below the root.
    path: Vec<u8>,
    depth: u64,
    /// The last directories of that path, the nearest last; none only at the root.
    held: VecDeque<Rc<OwnedFd>>,
}

impl Way {
    pub(crate) fn new(root: Rc<OwnedFd>) -> Way {
        Way { root, path: Vec::new(), depth: 0, held: VecDeque::new() }
    }

    /// One that has come to `path`, which is canonical and open as `fd`.
    pub(crate) fn at(root: Rc<OwnedFd>, path: &[u8], fd: Rc<OwnedFd>) -> Way {
        if path.is_empty() {
            return Way::new(root);
        }
        let depth = 1 + path.iter().filter(|&&b| b == b'/').count() as u64;
        Way { root, path: path.to_vec(), depth, held: VecDeque::from([fd]) }
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many levels below the root it is.
    pub(crate) fn depth(&self) -> u64 {
        self.depth
    }

    /// The directory that was reached.
    pub(crate) fn here(&self) -> &Rc<OwnedFd> {
        self.held.back().unwrap_or(&self.root)
    }

    pub(crate) fn restart(&mut self) {
        self.path.clear();
        self.depth = 0;
        self.held.clear();
    }

    /// Into the directory `name` of this one, which is `fd`.
    pub(crate) fn down(&mut self, name: &[u8], fd: Rc<OwnedFd>) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.depth += 1;
        self.held.push_back(fd);
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// To the parent, or nowhere from the root. Says how many components that has cost besides.
    pub(crate) fn up(&mut self) -> Result<u64, Errno> {
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
            here = Rc::new(open_dir(&*here, &far.join(&b'/'))?);
        }
        for name in near {
            here = Rc::new(open_dir(&*here, name)?);
            self.held.push_back(here.clone());
        }
        Ok(names.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn up_and_down_beyond_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let deep = 3 * HELD;
        std::fs::create_dir_all(dir.path().join("d/".repeat(deep))).unwrap();
        let mut way = Way::new(Rc::new(std::fs::File::open(dir.path()).unwrap().into()));
        for _ in 0..deep {
            let fd = open_dir(&**way.here(), b"d").unwrap();
            way.down(b"d", Rc::new(fd));
            assert!(way.held.len() <= HELD);
        }
        let mut cost = 0;
        for left in (0..deep).rev() {
            cost += way.up().unwrap();
            let there = std::fs::metadata(dir.path().join("d/".repeat(left))).unwrap().ino();
            assert_eq!(nix::sys::stat::fstat(way.here()).unwrap().st_ino, there);
            assert_eq!(way.path().len(), (2 * left).saturating_sub(1));
        }
        assert!(cost < 8 * deep as u64, "{cost} components to go up {deep}");
        assert_eq!(way.up(), Ok(0));
        assert!(way.path().is_empty());
    }
}
