//! The place of a directory store: whose its directories are, and who makes the store in them.
//!
//! What is in a layer may be set-user-ID, and recovery removes what no row knows: so nothing of it may be
//! in a place that somebody else can change.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;

use crate::error::Error;
use crate::process::cancel::Cancel;
use crate::process::lock_files;
use crate::process::place::{self, STORE};
use crate::store::dir_files::{io_error, remove};

/// Held by who makes the store; it goes with that.
pub(super) const LOCK: &str = ".veneer-store.lock";

/// A program of before holds the directory itself while it makes a store in it: for so long it is waited for.
/// Any user can hold it for longer, and keeps nobody from anything.
const OLDER: Duration = Duration::from_secs(2);

/// Makes a directory of the store; one that is there stays as it is.
///
/// # Errors
/// [`Error::Usage`] saying what is there instead.
pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    place::make(path, STORE)
}

/// That there is nothing else where the store is to be.
///
/// # Errors
/// As [`make_dir`].
pub(super) fn free(path: &Path) -> Result<(), Error> {
    place::free(path, STORE)
}

/// Opens a directory of the store; it is itself a directory, ours, and not to be written to by others.
///
/// # Errors
/// [`Error::Usage`] saying what it is instead, and what to do.
pub(super) fn own_dir(path: &Path) -> Result<File, Error> {
    place::own(path, STORE, false)
}

/// As [`own_dir`], for the store's own: one with the sticky bit that others may write to is closed to them.
///
/// # Errors
/// As [`own_dir`].
pub(super) fn own_top(path: &Path) -> Result<File, Error> {
    place::own(path, STORE, true)
}

/// A directory that was here before the store is looked into by nobody else.
pub(super) fn make_private(dir: &File, path: &Path) -> Result<(), Error> {
    dir.set_permissions(Permissions::from_mode(0o700)).map_err(io_error("set the mode of", path))
}

/// Held while a store is made: others wait, as long as they wish. Dropping it lets it go.
#[derive(Debug)]
pub(super) struct Making<'p> {
    place: &'p Path,
    _lock: File,
    _older: File,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // What stays is in nobody's way.
        drop(remove(&self.place.join(LOCK)));
    }
}

/// Takes the lock of who makes a store in this directory of ours.
///
/// # Errors
/// [`Error::Locked`] when another does for longer than `wait`; [`Error::Cancelled`].
pub(super) fn making<'p>(
    place: &'p Path,
    dir: File,
    wait: Duration,
    cancel: &Cancel,
) -> Result<Making<'p>, Error> {
    let path = place.join(LOCK);
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(io_error("open", &path))
    };
    let mut lock = open()?;
    while !held(&lock, &path, wait, cancel)? || !lock_files::is_at(&lock, &path) {
        if lock_files::is_at(&lock, &path) {
            return Err(Error::Locked {
                what: format!("{}, in which a store is made", place.display()),
                holder: "another process".into(),
                waited_s: wait.as_secs(),
            });
        }
        lock = open()?;
    }
    held(&dir, place, wait.min(OLDER), cancel)?;
    Ok(Making { place, _lock: lock, _older: dir })
}

/// Removes the lock of a process that was killed between making the store and letting go. One that is held
/// is its holder's to remove, and what is no empty file of ours was put there by somebody else.
pub(super) fn clear(place: &Path) {
    let path = place.join(LOCK);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let Ok(lock) = OpenOptions::new().read(true).custom_flags(flags).open(&path) else { return };
    let ours = lock.metadata().is_ok_and(|found| {
        found.is_file() && found.len() == 0 && found.uid() == nix::unistd::geteuid().as_raw()
    });
    if ours && lock.try_lock().is_ok() && lock_files::is_at(&lock, &path) {
        // What stays is in nobody's way.
        drop(remove(&path));
    }
}

/// Whether the lock was to be had in this time.
fn held(file: &File, path: &Path, wait: Duration, cancel: &Cancel) -> Result<bool, Error> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= wait => return Ok(false),
            Err(TryLockError::WouldBlock) => {
                cancel.sleep(pause)?;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        }
    }
}

/// Whether a directory has nothing in it.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    std::fs::read_dir(path)?.next().transpose().map(|first| first.is_none())
}
