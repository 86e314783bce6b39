//! The directories of the tree that are open, and how a path becomes one of them.
//!
//! Every parent is resolved here: `openat2` under the root fd with RESOLVE_IN_ROOT,
//! NO_MAGICLINKS, NO_XDEV and NO_SYMLINKS; a symlink met on the way is read and walked by hand,
//! clamped at the root, so that each open directory has one canonical path. Such a walk keeps the
//! directories on its way open, so that each step costs one component however deep it is. What then
//! happens to a name in it is in `root` and `apply`.
//!
//! A directory's modification time is put back when it leaves the cache: children may come long
//! after their directory's entry, and a cache is bounded where a list of all directories is not.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{Mode, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;

use crate::archive::pax::Time;
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::sys::{self, On};
use crate::tree::budget::Budget;
use crate::tree::fd::open::open_dir;
use crate::tree::touched::Touched;
use crate::tree::way::Way;

/// Directories kept open.
const OPEN_MAX: usize = 256;
/// Bytes of paths under which open directories are known. More than one each, and the longest there
/// can be: a layer that spells one directory in ever new ways makes us forget, not grow.
const NAMES_MAX: usize = 4 << 20;
/// The kernel's own bound for one path (path_resolution(7)).
const SYMLINKS_MAX: u32 = 40;
/// Parents that are looked for among the open directories before all are walked from the root.
const NEAR: usize = 8;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: Rc<OwnedFd>,
    pub(crate) ino: u64,
    /// Canonical path below the root.
    pub(crate) path: Vec<u8>,
    /// What its modification time has to be in the end.
    pub(crate) mtime: Time,
    /// Whether it was changed since it was opened.
    pub(crate) dirty: bool,
    /// New children inherit its group.
    pub(crate) setgid: bool,
    /// New children inherit an ACL.
    pub(crate) acl: bool,
    /// Its whole chain of parents is marked as touched by this layer.
    chained: bool,
    used: u64,
    names: Vec<Vec<u8>>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What to do with missing directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make them: 0755, owned by us, at the epoch; and mark all on the way as this layer's.
    Make,
    /// Say that it is missing.
    Report,
}

/// The open directories, by index.
#[derive(Debug)]
pub(crate) struct Dirs {
    slots: Vec<Dir>,
    by_ino: HashMap<u64, usize>,
    by_path: HashMap<Vec<u8>, usize>,
    /// Bytes of the keys of `by_path`.
    by_path_bytes: usize,
    tick: u64,
    /// Whether a default ACL can be met at all.
    pub(crate) acls: bool,
    /// Directories made because an entry's parent was missing, since last taken.
    pub(crate) made: u64,
}

pub(crate) fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.sec, i64::from(time.nsec))
}

impl Dirs {
    pub(crate) fn new(root: OwnedFd) -> Result<Dirs, Fault> {
        let mut dirs = Dirs {
            slots: Vec::new(),
            by_ino: HashMap::new(),
            by_path: HashMap::new(),
            by_path_bytes: 0,
            tick: 0,
            acls: true,
            made: 0,
        };
        dirs.insert(Rc::new(root), Vec::new())?;
        Ok(dirs)
    }

    pub(crate) fn get(&self, slot: usize) -> &Dir {
        &self.slots[slot]
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> &mut Dir {
        &mut self.slots[slot]
    }

    /// The open directory with this inode, if there is one.
    pub(crate) fn by_ino(&mut self, ino: u64) -> Option<&mut Dir> {
        self.by_ino.get(&ino).map(|&slot| &mut self.slots[slot])
    }

    /// Forgets which path leads where: a directory or symlink has gone.
    pub(crate) fn forget_paths(&mut self) {
        self.by_path.clear();
        self.by_path_bytes = 0;
        for dir in &mut self.slots {
            dir.names.clear();
        }
    }

    /// Puts the modification time of every changed directory back.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.slots.iter_mut().try_for_each(settle)
    }

    /// The directory an entry's path names, with symlinks followed inside the root.
    pub(crate) fn resolve(
        &mut self,
        path: &[u8],
        missing: Missing,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<Option<usize>, Fault> {
        let slot = match self.lookup(path) {
            Ok(slot) => Some(slot?),
            Err(Errno::ELOOP | Errno::ENOENT) => self.walk(path, missing, touched, budget)?,
            Err(errno) => return Err(unreachable_parent(path, errno)),
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
        match self.lookup(path) {
            Ok(slot) => slot.map(Some),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(Fault::fs("open directory", path)(errno)),
        }
    }

    fn lookup(&mut self, path: &[u8]) -> Result<Result<usize, Fault>, Errno> {
        if path.is_empty() {
            return Ok(Ok(0));
        }
        if let Some(&slot) = self.by_path.get(path) {
            self.use_slot(slot);
            return Ok(Ok(slot));
        }
        let fd = open_dir(&self.slots[0], path)?;
        Ok(self.insert(Rc::new(fd), path.to_vec()))
    }

    fn use_slot(&mut self, slot: usize) {
        self.tick += 1;
        self.slots[slot].used = self.tick;
    }

    fn insert(&mut self, fd: Rc<OwnedFd>, path: Vec<u8>) -> Result<usize, Fault> {
        self.insert_with(fd, path, true)
    }

    /// [`Dirs::insert`]; `acl` if it may have a default ACL.
    fn insert_with(&mut self, fd: Rc<OwnedFd>, path: Vec<u8>, acl: bool) -> Result<usize, Fault> {
        let stat = fstat(&fd).map_err(Fault::fs("stat", &path))?;
        let slot = match self.by_ino.get(&stat.st_ino) {
            // A replaced parent may give an open directory a new path; the fd is the same inode.
            Some(&slot) => {
                self.slots[slot].path.clone_from(&path);
                slot
            }
            None => {
                let acl = acl
                    && self.acls
                    && sys::get_xattr(On::Fd(fd.as_fd()), b"system.posix_acl_default")
                        .map_err(Fault::fs("read ACL of", &path))?
                        .is_some();
                let dir = Dir {
                    fd,
                    ino: stat.st_ino,
                    path: path.clone(),
                    mtime: Time {
                        sec: stat.st_mtime,
                        nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
                    },
                    dirty: false,
                    setgid: stat.st_mode & libc::S_ISGID != 0,
                    acl,
                    chained: path.is_empty(),
                    used: 0,
                    names: Vec::new(),
                };
                let slot = self.room(dir)?;
                self.by_ino.insert(stat.st_ino, slot);
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

    /// A place for `dir`: a new slot, or that of the directory unused for longest.
    fn room(&mut self, dir: Dir) -> Result<usize, Fault> {
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
        let mut old = std::mem::replace(&mut self.slots[slot], dir);
        settle(&mut old)?;
        self.by_ino.remove(&old.ino);
        for name in old.names {
            if self.by_path.get(&name) == Some(&slot) {
                self.by_path.remove(&name);
                self.by_path_bytes -= name.len();
            }
        }
        Ok(slot)
    }

    /// Component by component, with symlinks read and followed inside the root. `openat2` cannot
    /// do this where a directory has to be made behind a dangling symlink (`var/run -> /run`).
    fn walk(
        &mut self,
        path: &[u8],
        missing: Missing,
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<Option<usize>, Fault> {
        let stuck = |errno| unreachable_parent(path, errno);
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
                    let opened = way.up().map_err(stuck)?;
                    budget.walk(opened)?;
                    continue;
                }
                _ => {}
            }
            if way.path().len() + 1 + component.len() > 4095 {
                return Err(stuck(Errno::ENAMETOOLONG));
            }
            let fd = match open_dir(&**way.here(), &component) {
                Ok(fd) => Rc::new(fd),
                Err(Errno::ENOENT) if missing == Missing::Make => {
                    budget.make(way.depth())?;
                    let parent = match made.take() {
                        Some(slot) => slot,
                        None => self.insert(way.here().clone(), way.path().to_vec())?,
                    };
                    let path = join(way.path(), &component);
                    let slot = self.make(parent, &component, &path, touched, budget)?;
                    let fd = self.slots[slot].fd.clone();
                    way.down(&component, fd);
                    made = Some(slot);
                    continue;
                }
                Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::ELOOP) => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Err(stuck(Errno::ELOOP));
                    }
                    let target = readlinkat(&**way.here(), component.as_slice())
                        .map_err(Fault::fs("read link", &join(way.path(), &component)))?;
                    let target = target.as_encoded_bytes();
                    if target.first() == Some(&b'/') {
                        way.restart();
                    }
                    made = None;
                    todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                Err(errno) => return Err(stuck(errno)),
            };
            way.down(&component, fd);
            made = None;
        }
        let slot = self.insert(way.here().clone(), way.path().to_vec())?;
        self.alias(path.to_vec(), slot);
        Ok(Some(slot))
    }

    /// Where to begin a walk to `path`: the nearest of its parents that is open, and what is left.
    fn near<'p>(&self, path: &'p [u8]) -> (Way, &'p [u8]) {
        let root = self.slots[0].fd.clone();
        let ends = path.iter().enumerate().rev().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let near = ends.take(NEAR).find_map(|end| Some((*self.by_path.get(&path[..end])?, end)));
        match near {
            Some((slot, end)) => {
                let dir = &self.slots[slot];
                (Way::at(root, &dir.path, dir.fd.clone()), &path[end + 1..])
            }
            None => (Way::new(root), path),
        }
    }

    /// Makes an implicit parent: 0755, our owner, epoch, whatever its own parent hands down.
    fn make(
        &mut self,
        parent: usize,
        name: &[u8],
        path: &[u8],
        touched: &mut Touched,
        budget: &mut Budget,
    ) -> Result<usize, Fault> {
        self.chain(parent, touched, budget)?;
        let dir = &mut self.slots[parent];
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&*dir, name, mode).map_err(Fault::fs("make directory", path))?;
        dir.dirty = true;
        let (setgid, acl, ino) = (dir.setgid, dir.acl, dir.ino);
        touched.touch(ino, name, false);
        let fd = open_dir(&*dir, name).map_err(Fault::fs("open directory", path))?;
        // A new directory has a default ACL if its parent has.
        let slot = self.insert_with(Rc::new(fd), path.to_vec(), acl)?;
        touched.own(self.slots[slot].ino);
        // It is at the epoch when it leaves the cache.
        self.slots[slot].mtime = Time::default();
        self.slots[slot].dirty = true;
        if setgid || acl {
            let mine = (nix::unistd::geteuid(), nix::unistd::getegid());
            crate::tree::fd::open::plain_dir(&self.slots[slot], path, mine, 0o755)?;
            self.slots[slot].setgid = false;
            self.slots[slot].acl = false;
        }
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
        let (mut ino, mut fd, mut start) = (self.slots[0].ino, self.slots[0].fd.clone(), 0);
        let near = ends.iter().enumerate().rev().take(NEAR).find_map(|(at, &end)| {
            let slot = self.by_path.get(&path[..end])?;
            let dir = &self.slots[*slot];
            (dir.chained && dir.path == path[..end]).then(|| (at, end, dir.ino, dir.fd.clone()))
        });
        if let Some((at, end, near, at_fd)) = near {
            ends.drain(..=at);
            (ino, fd, start) = (near, at_fd, end + 1);
        }
        for end in ends.into_iter().chain(std::iter::once(path.len())) {
            let name = &path[start..end];
            touched.touch(ino, name, false);
            if end == path.len() || !touched.wants_inodes() {
                break;
            }
            start = end + 1;
            let depth = path[..end].iter().filter(|&&b| b == b'/').count() as u64;
            budget.walk_one(depth)?;
            // Not through `lookup`: a deep path must not push its own end out of the cache.
            fd = Rc::new(open_dir(&*fd, name).map_err(|errno| unreachable_parent(&path, errno))?);
            ino = fstat(&fd).map_err(Fault::fs("stat", &path[..end]))?.st_ino;
        }
        Ok(())
    }
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn settle(dir: &mut Dir) -> Result<(), Fault> {
    if dir.dirty {
        let time = spec(dir.mtime);
        futimens(&dir.fd, &time, &time).map_err(Fault::fs("set time of", &dir.path))?;
        dir.dirty = false;
    }
    Ok(())
}

fn unreachable_parent(path: &[u8], errno: Errno) -> Fault {
    let refuse = |class, rule| Refusal::new(class, rule).bytes(path).into();
    match errno {
        Errno::ELOOP => refuse(Class::Link, "too many symlinks in a parent"),
        Errno::ENOTDIR => refuse(Class::Path, "a parent is not a directory"),
        Errno::ENAMETOOLONG => refuse(Class::Path, "a parent's path is too long"),
        Errno::EXDEV => refuse(Class::Path, "a parent is on another mount"),
        errno => Fault::fs("open directory", path)(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ever new spellings of one directory take no more than so much memory.
    #[test]
    fn the_names_of_open_directories_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::new(std::fs::File::open(dir.path()).unwrap().into()).unwrap();
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
