//! The files of locks that are of one name: where there are many, those that nobody uses go, so that a year
//! of names leaves no more of them than a day. Where their file system is full, each goes with its holder.
//!
//! A file that another process has open may not go: that one would get the lock of a file which is of no
//! name any more. This program would notice, and look again; one from before would not. So a file goes only
//! under a lease (fcntl(2)), which is given only where nobody else has it open, and lets nobody open it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::process::sys;

/// So many may lie about; with one more, all go that nobody uses.
const KEPT: usize = 24;

/// What tells a file from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// That of the file which has this path now.
    pub(crate) fn of_path(path: &Path) -> io::Result<FileId> {
        fs::metadata(path).map(|found| FileId::of(&found))
    }

    fn of(found: &Metadata) -> FileId {
        FileId(found.dev(), found.ino())
    }
}

/// Whether this open file is the one of this path. Where that cannot be found out it is taken for it.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let now = FileId::of_path(path);
    let gone = now.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let opened = file.metadata().map(|found| FileId::of(&found));
    !gone && opened.ok().zip(now.ok()).is_none_or(|(opened, now)| opened == now)
}

/// Whether a lock file is of one run, build or activation. The others are few, and stay.
pub(crate) fn is_named(file: &str) -> bool {
    ["run-", "build-", "activation-"].iter().any(|kind| file.starts_with(kind))
}

/// Removes a lock file whose lock is held by the caller, if nobody else has it open.
pub(crate) fn remove(file: &File, path: &Path) {
    if !sys::lease(file.as_fd()) {
        return;
    }
    if is_at(file, path) {
        // What stays is removed by the next who uses it.
        drop(fs::remove_file(path));
    }
    // Who has come to open it is waiting for this.
    sys::end_lease(file.as_fd());
}

/// Removes those that nobody uses, where there are many.
pub(crate) fn sweep(dir: &Path) {
    sweep_beyond(dir, KEPT);
}

/// Removes all that nobody uses, where there is no room for them.
pub(crate) fn sweep_all(dir: &Path) {
    sweep_beyond(dir, 0);
}

fn sweep_beyond(dir: &Path, kept: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let named = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(is_named);
    let files: Vec<_> = entries.flatten().filter(named).map(|entry| entry.path()).collect();
    if files.len() <= kept {
        return;
    }
    for path in files {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            remove(&file, &path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> File {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn a_file_that_another_has_open_stays_and_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run-x.lock");
        let (first, second) = (open(&path), open(&path));
        remove(&first, &path);
        assert!(path.exists(), "somebody may be waiting for its lock");
        drop(second);
        remove(&first, &path);
        assert!(!path.exists());
        assert!(!is_at(&first, &path));
        // Another has taken its place.
        let third = open(&path);
        assert!(!is_at(&first, &path) && is_at(&third, &path));
        remove(&first, &path);
        assert!(path.exists(), "not its own");
    }

    #[test]
    fn a_sweep_takes_what_nobody_uses_and_nothing_that_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let name = |number: usize| dir.path().join(format!("build-{number}.lock"));
        for number in 0..=KEPT {
            open(&name(number));
        }
        let held = open(&name(3));
        held.lock().unwrap();
        let waits = open(&name(4));
        open(&dir.path().join("store.lock"));
        sweep(dir.path());
        let left: Vec<_> = (0..=KEPT).filter(|number| name(*number).exists()).collect();
        assert_eq!(left, [3, 4]);
        assert!(dir.path().join("store.lock").exists());
        drop(waits);
        sweep(dir.path());
        assert!(name(4).exists(), "there are few");
        sweep_all(dir.path());
        let left: Vec<_> = (0..=KEPT).filter(|number| name(*number).exists()).collect();
        assert_eq!(left, [3], "all but what is held");
    }
}
