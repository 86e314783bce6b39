//! Room that is kept back in the state directory, bytes and files, for what makes room: without it a full
//! file system would keep `rm`, `deactivate` and `gc` from their locks and commits.
//!
//! ```text
//!   STATE/reserve/room    bytes that are allocated
//!   STATE/reserve/1 ..    files without content: each is an inode
//! ```
//!
//! It is given up as a whole when there is no other room, and made again of what is free after that.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::{Error, OfState};
use crate::process::lock_files;

/// Bytes that are kept back, on a file system that is not much smaller than this.
const BYTES: u64 = 512 << 10;

/// The smallest piece of them.
const BLOCK: u64 = 4 << 10;

/// Files that are kept back: the registry's log and its index, a run's lock and an activation's, and a few.
const FILES: u64 = 8;

/// With fewer bytes or files free than these a command may meet the end of the room.
const FEW_BYTES: u64 = 256 << 10;
const FEW_FILES: u64 = 6;

/// What is free in a file system.
#[derive(Clone, Copy, Debug)]
struct Free {
    bytes: u64,
    /// Of all.
    total: u64,
    /// None where files have no bound of their own.
    files: Option<u64>,
}

fn free(state: &Path) -> Option<Free> {
    let found = nix::sys::statvfs::statvfs(state).ok()?;
    let block = found.fragment_size();
    Some(Free {
        bytes: found.blocks_available() * block,
        total: found.blocks() * block,
        files: (found.files() > 0).then(|| found.files_available()),
    })
}

/// What the file system of the state directory has hardly any of; none where it has room.
pub fn lacks(state: &Path) -> Option<&'static str> {
    let free = free(state)?;
    match free.files {
        Some(files) if files < FEW_FILES => Some("inodes"),
        _ => (free.bytes < FEW_BYTES).then_some("bytes"),
    }
}

fn dir(state: &Path) -> PathBuf {
    state.join("reserve")
}

/// Keeps room back, where there is enough of it and it is not kept yet.
pub(crate) fn keep(state: &Path) {
    if is_whole(state) {
        return;
    }
    let enough = |free: Free| {
        free.bytes >= bytes(free.total) + BYTES && free.files.is_none_or(|files| files >= 3 * FILES)
    };
    if free(state).is_some_and(enough) {
        fill(state);
    }
}

/// Whether all of it is there.
fn is_whole(state: &Path) -> bool {
    free(state).is_some_and(|free| missing(state, free.total) == (0, 0))
}

/// Bytes and files of it that are not there: given up, or not had again since.
fn missing(state: &Path, total: u64) -> (u64, u64) {
    let dir = dir(state);
    let room = fs::metadata(dir.join("room")).map_or(0, |room| room.blocks() * 512);
    let there = (1..=FILES).filter(|number| dir.join(number.to_string()).exists()).count() as u64;
    (bytes(total).saturating_sub(room), FILES - there)
}

/// What there is hardly any of beside what is kept back, or was and is in use; none where there is room.
pub(crate) fn short_of(state: &Path) -> Option<&'static str> {
    let free = free(state)?;
    let (bytes, files) = missing(state, free.total);
    if free.bytes < bytes + FEW_BYTES {
        return Some("bytes");
    }
    free.files.is_some_and(|free| free < files + FEW_FILES).then_some("inodes")
}

/// Whether some of its bytes are kept.
pub(crate) fn has_some(state: &Path) -> bool {
    fs::metadata(dir(state).join("room")).is_ok_and(|room| room.blocks() > 0)
}

/// Refuses what makes no room where there is hardly any beside what is kept back for what does, also where that
/// has been given up just now, or could not be had again.
///
/// # Errors
/// [`OfState::Full`].
pub fn spare(state: &Path) -> Result<(), Error> {
    let Some(what) = short_of(state).filter(|_| dir(state).exists()) else { return Ok(()) };
    let kind = std::io::ErrorKind::StorageFull;
    let source = Error::Io {
        doing: "leave alone what is kept back in",
        path: dir(state),
        source: kind.into(),
    };
    let kept = has_some(state);
    Err(OfState::Full { path: state.into(), what, kept, source: Box::new(source) }.into())
}

/// A small file system is not taken up by it.
fn bytes(total: u64) -> u64 {
    if total >= 8 * BYTES { BYTES } else { BYTES / 2 }
}

/// Takes what it can: nothing fails by what it cannot.
fn fill(state: &Path) {
    let dir = dir(state);
    if DirBuilder::new().recursive(true).mode(0o700).create(&dir).is_err() {
        return;
    }
    let file = |name: &str| {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600).open(dir.join(name))
    };
    if let (Ok(room), Some(free)) = (file("room"), free(state)) {
        // All that there is, to the last block: what is left would be taken by others, and a little each time.
        let whole = bytes(free.total);
        let (mut length, mut step) = (0, whole);
        while step >= BLOCK && length < whole {
            let longer = i64::try_from(length + step).unwrap_or(0);
            match fallocate(&room, FallocateFlags::empty(), 0, longer).is_ok() {
                true => length += step,
                false => step /= 2,
            }
        }
    }
    for number in 1..=FILES {
        if file(&number.to_string()).is_err() {
            return;
        }
    }
}

/// Whether a run of this verb makes room.
pub(crate) fn is_for(verb: registry::Verb) -> bool {
    match verb {
        registry::Verb::Deactivate | registry::Verb::Rm | registry::Verb::Gc => true,
        registry::Verb::Ensure | registry::Verb::Activate => false,
    }
}

/// What makes room may have the reserve until this is dropped; of several at once the last one makes it again.
#[derive(Debug)]
pub struct GivenUp {
    state: PathBuf,
    /// Its directory, locked shared by each of them: that needs no room.
    shared: File,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if self.shared.try_lock().is_ok() && !is_whole(&self.state) {
            // What lies about there and nobody uses is room, too.
            lock_files::sweep_all(&self.state.join("locks"));
            fill(&self.state);
        }
    }
}

/// Gives the reserve to a command that makes room, where there is hardly any other.
pub fn give_up(state: &Path) -> Option<GivenUp> {
    let shared = File::open(dir(state)).ok()?;
    shared.lock_shared().ok()?;
    if lacks(state).is_some() {
        for entry in fs::read_dir(dir(state)).ok()?.flatten() {
            // What stays is one file less.
            drop(fs::remove_file(entry.path()));
        }
    }
    Some(GivenUp { state: state.to_owned(), shared })
}

/// For a run of this verb: gives the reserve to one that makes room, and has every other leave it alone.
///
/// # Errors
/// As [`spare`].
pub(crate) fn of(verb: registry::Verb, state: &Path) -> Result<Option<GivenUp>, Error> {
    match is_for(verb) {
        true => Ok(give_up(state)),
        false => spare(state).map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_again_after_it_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path());
        let count = || fs::read_dir(dir.path().join("reserve")).unwrap().count();
        assert_eq!(count(), 9);
        let (first, second) = (give_up(dir.path()).unwrap(), give_up(dir.path()).unwrap());
        assert_eq!(count(), 9, "there is room");
        for entry in fs::read_dir(super::dir(dir.path())).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        drop(first);
        assert_eq!(count(), 0, "another has it still");
        // While it is given up, it is left alone by what makes no room; and where not all of it is there.
        let total = free(dir.path()).unwrap().total;
        assert_eq!(missing(dir.path(), total), (bytes(total), FILES));
        assert!(spare(dir.path()).is_ok(), "there is room for both");
        drop(second);
        assert_eq!(count(), 9);
        assert_eq!(missing(dir.path(), total), (0, 0));
        let room =
            OpenOptions::new().write(true).open(super::dir(dir.path()).join("room")).unwrap();
        room.set_len(0).unwrap();
        assert!(!is_whole(dir.path()), "all files are there, and no bytes");
        keep(dir.path());
        assert!(is_whole(dir.path()));
    }
}
