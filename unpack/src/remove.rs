//! Removing what is in the way: a name with all below it.
//!
//! Iterative, relative to open directories, without `..` and never through a symlink; at most
//! `OPEN_MAX` fds are held however deep the tree is.

use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dirs::open_dir;
use crate::error::{Fault, Refusal};

/// Directory streams held open at a time; each has a buffer of 32 KiB.
const OPEN_MAX: usize = 16;

/// Work that whiteouts and replacements may still do.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) done: u64,
    pub(crate) max: u64,
}

impl Budget {
    pub(crate) fn spend(&mut self) -> Result<(), Refusal> {
        self.done += 1;
        if self.done > self.max {
            let rule = "too much to remove";
            return Err(Refusal::limit("--removals-max", rule, self.done, self.max));
        }
        Ok(())
    }
}

/// One directory on the way down.
struct Level {
    name: Vec<u8>,
    /// `None` when closed to keep within `OPEN_MAX`.
    dir: Option<Dir>,
}

/// Removes `name` from `at`, recursively. Missing is success.
pub(crate) fn remove(at: impl AsFd, name: &[u8], budget: &mut Budget) -> Result<(), Fault> {
    let at = at.as_fd();
    budget.spend()?;
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(Fault::fs("remove", name)(errno)),
    }
    match unlinkat(at, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => return Ok(()),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
        Err(errno) => return Err(Fault::fs("remove", name)(errno)),
    }
    let mut levels = vec![Level { name: name.to_vec(), dir: Some(stream(at, name)?) }];
    while let Some(last) = levels.len().checked_sub(1) {
        if levels[last].dir.is_none() {
            reopen(at, &mut levels)?;
        }
        let below = match levels[last].dir.as_mut() {
            Some(dir) => empty(dir, budget)?,
            None => None,
        };
        match below {
            Some(name) => {
                let dir = match &levels[last].dir {
                    Some(dir) => stream(dir, &name)?,
                    None => return Err(Fault::fs("open directory", &name)(Errno::EBADF)),
                };
                levels.push(Level { name, dir: Some(dir) });
                if levels.len() > OPEN_MAX {
                    let far = levels.len() - OPEN_MAX - 1;
                    levels[far].dir = None;
                }
            }
            None => {
                let Some(level) = levels.pop() else { break };
                drop(level.dir);
                let result = match levels.last() {
                    None => unlinkat(at, level.name.as_slice(), UnlinkatFlags::RemoveDir),
                    Some(_) => {
                        reopen(at, &mut levels)?;
                        match levels.last().and_then(|parent| parent.dir.as_ref()) {
                            Some(dir) => {
                                unlinkat(dir, level.name.as_slice(), UnlinkatFlags::RemoveDir)
                            }
                            None => Err(Errno::EBADF),
                        }
                    }
                };
                result.map_err(Fault::fs("remove", &level.name))?;
            }
        }
    }
    Ok(())
}

/// Removes everything in an open directory.
pub(crate) fn remove_all_in(root: impl AsFd, budget: &mut Budget) -> Result<(), Fault> {
    let root = root.as_fd();
    let mut dir = stream(root, b".")?;
    while let Some(name) = empty(&mut dir, budget)? {
        remove(root, &name, budget)?;
    }
    Ok(())
}

/// The names in an open directory, in the kernel's order.
pub(crate) fn stream(at: impl AsFd, name: &[u8]) -> Result<Dir, Fault> {
    let fd: OwnedFd = open_dir(at, name).map_err(Fault::fs("open directory", name))?;
    Dir::from_fd(fd).map_err(Fault::fs("read directory", name))
}

/// Unlinks what is no directory and removes empty directories, until one is met that is not
/// empty: that one's name, or `None` at the end.
fn empty(dir: &mut Dir, budget: &mut Budget) -> Result<Option<Vec<u8>>, Fault> {
    // The fd is taken first because iterating borrows the stream.
    let fd = dir.as_fd().try_clone_to_owned().map_err(|source| Fault::Fs {
        call: "duplicate",
        name: Vec::new(),
        source,
    })?;
    for entry in dir.iter() {
        let entry = entry.map_err(Fault::fs("read directory", b""))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        budget.spend()?;
        match unlinkat(&fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(errno) => return Err(Fault::fs("remove", name)(errno)),
        }
        match unlinkat(&fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name.to_vec())),
            Err(errno) => return Err(Fault::fs("remove", name)(errno)),
        }
    }
    Ok(None)
}

/// Opens the last level, and as many above it as may be open, from the nearest open one.
fn reopen(at: impl AsFd, levels: &mut [Level]) -> Result<(), Fault> {
    let at = at.as_fd();
    let Some(last) = levels.len().checked_sub(1) else { return Ok(()) };
    let from = levels.iter().rposition(|level| level.dir.is_some());
    for now in from.map_or(0, |open| open + 1)..=last {
        let dir = match now.checked_sub(1).map(|above| &levels[above].dir) {
            None => stream(at, &levels[now].name)?,
            Some(Some(above)) => stream(above, &levels[now].name)?,
            Some(None) => return Err(Fault::fs("open directory", b"")(Errno::EBADF)),
        };
        levels[now].dir = Some(dir);
        if let Some(far) = now.checked_sub(OPEN_MAX) {
            levels[far].dir = None;
        }
    }
    Ok(())
}
