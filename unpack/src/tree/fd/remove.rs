//! Removing what is in the way: a name with all below it.
//!
//! Iterative, relative to open directories and never through a symlink; at most `OPEN_MAX` fds are
//! held however deep the tree is. What was closed on the way down is found again by `..` on the way
//! up, and has to be the very directory that was gone through: so the work is linear in the nodes,
//! and who moves directories about meanwhile gets an error and leads nowhere else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::Fault;
use crate::tree::budget::Budget;
use crate::tree::fd::open::open_dir;

/// Directory streams held open at a time; each has a buffer of 32 KiB.
const OPEN_MAX: usize = 16;

/// One directory on the way down.
struct Level {
    name: Vec<u8>,
    /// Device and inode, by which it is known again.
    id: (u64, u64),
    /// `None` when closed to keep within `OPEN_MAX`.
    dir: Option<Dir>,
}

/// Opens `name` in `at` as the next level.
fn enter(at: impl AsFd, name: &[u8]) -> Result<Level, Fault> {
    let dir = stream(at, name)?;
    let id = id(dir.as_fd(), name)?;
    Ok(Level { name: name.to_vec(), id, dir: Some(dir) })
}

fn id(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(u64, u64), Fault> {
    let stat = fstat(dir).map_err(Fault::fs("stat", name))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes `name` from `at`, recursively. Missing is success.
pub(crate) fn remove(at: impl AsFd, name: &[u8], budget: &mut Budget) -> Result<(), Fault> {
    let at = at.as_fd();
    budget.remove(1)?;
    if unlink(at, name)? {
        return Ok(());
    }
    let mut levels = vec![enter(at, name)?];
    loop {
        let depth = levels.len() as u64 + 1;
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some(dir) = &mut level.dir else {
            return Err(Fault::fs("open directory", &level.name)(Errno::EBADF));
        };
        match empty(dir, depth, budget)? {
            Some(below) => {
                let next = match levels.last().and_then(|level| level.dir.as_ref()) {
                    Some(dir) => enter(dir, &below)?,
                    None => return Err(Fault::fs("open directory", &below)(Errno::EBADF)),
                };
                levels.push(next);
                if let Some(far) = levels.len().checked_sub(OPEN_MAX + 1) {
                    levels[far].dir = None;
                }
            }
            None => {
                let Some(Level { name, dir, .. }) = levels.pop() else { return Ok(()) };
                let removed = match (levels.last_mut(), dir) {
                    (None, _) => unlinkat(at, name.as_slice(), UnlinkatFlags::RemoveDir),
                    (Some(parent), dir) => {
                        if parent.dir.is_none() {
                            parent.dir = Some(back(parent, dir)?);
                        }
                        match &parent.dir {
                            Some(dir) => unlinkat(dir, name.as_slice(), UnlinkatFlags::RemoveDir),
                            None => Err(Errno::EBADF),
                        }
                    }
                };
                removed.map_err(Fault::fs("remove", &name))?;
            }
        }
    }
}

/// Opens the closed `parent` again from its child.
fn back(parent: &Level, child: Option<Dir>) -> Result<Dir, Fault> {
    let name = &parent.name;
    let child = child.ok_or_else(|| Fault::fs("open directory", name)(Errno::EBADF))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd =
        openat(&child, "..", flags, Mode::empty()).map_err(Fault::fs("open directory", name))?;
    if id(fd.as_fd(), name)? != parent.id {
        // Somebody has moved it away; what is there now is none of our business.
        return Err(Fault::fs("find again directory", name)(Errno::ESTALE));
    }
    Dir::from_fd(fd).map_err(Fault::fs("read directory", name))
}

/// Removes everything in an open directory.
pub(crate) fn remove_all_in(root: impl AsFd, budget: &mut Budget) -> Result<(), Fault> {
    let root = root.as_fd();
    let mut dir = stream(root, b".")?;
    while let Some(name) = empty(&mut dir, 1, budget)? {
        remove(root, &name, budget)?;
    }
    Ok(())
}

/// Unlinks what is no directory, or an empty one; `false` for one that is not empty. What is not
/// there is gone.
fn unlink(at: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Fault> {
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(Fault::fs("remove", name)(errno)),
    }
    match unlinkat(at, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(Fault::fs("remove", name)(errno)),
    }
}

/// The names in an open directory, in the kernel's order.
pub(crate) fn stream(at: impl AsFd, name: &[u8]) -> Result<Dir, Fault> {
    let fd: OwnedFd = open_dir(at, name).map_err(Fault::fs("open directory", name))?;
    Dir::from_fd(fd).map_err(Fault::fs("read directory", name))
}

/// Unlinks what is no directory and removes empty directories, until one is met that is not
/// empty: that one's name, or `None` at the end.
fn empty(dir: &mut Dir, depth: u64, budget: &mut Budget) -> Result<Option<Vec<u8>>, Fault> {
    // The fd is taken first because iterating borrows the stream.
    let fd = dir.as_fd().try_clone_to_owned().map_err(|source| Fault::Fs {
        call: "duplicate".into(),
        name: Vec::new(),
        source,
    })?;
    for entry in dir.iter() {
        let entry = entry.map_err(Fault::fs("read directory", b""))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        budget.remove(depth)?;
        if !unlink(fd.as_fd(), name)? {
            return Ok(Some(name.to_vec()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::limits::Limits;

    /// The clock is looked at inside one removal, not only before the next entry.
    #[test]
    fn a_removal_ends_at_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let mut late = Budget::new(&Limits::default(), Instant::now(), false);
        match remove(&root, b"a", &mut late) {
            Err(Fault::Refusal(refusal)) => {
                assert_eq!(refusal.limit.map(|(flag, _)| flag), Some("--time-max".into()));
            }
            other => panic!("{other:?}"),
        }
        assert!(dir.path().join("a/b").exists());
    }

    /// Branches at every level of a deep tree: each directory is gone back to many times.
    #[test]
    fn what_is_deeper_than_what_is_open_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().join("top");
        for _ in 0..5 * OPEN_MAX {
            path.push("d");
            std::fs::create_dir_all(path.join("e/f")).unwrap();
            std::fs::write(path.join("z"), "").unwrap();
        }
        let root = std::fs::File::open(dir.path()).unwrap();
        remove(&root, b"top", &mut Budget::unlimited()).unwrap();
        assert!(!dir.path().join("top").exists());
    }
}
