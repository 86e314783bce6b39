//! Where a registry that is made anew goes, and the one that was there.

use std::fs;
use std::path::{Path, PathBuf};

use registry::Registry;

use crate::error::Error;

/// Puts the new registry in the place of the one that is there, which is kept beside it; gives where.
///
/// Into the same file, where that is one that SQLite can write to: who has it open, like a command of an
/// older program that waits for a lock, goes on with what is there now. One that is damaged is moved away.
pub(super) fn put_in_place(path: &Path, new: &Path) -> Result<Option<PathBuf>, Error> {
    if let Ok(mut there) = Registry::open_whole(path) {
        let kept = free_name(path);
        let copied = there.copy_pages_to(&kept);
        let fresh = Registry::open_whole(new)?;
        if copied.is_ok() && there.become_as(&fresh).is_ok() {
            return Ok(Some(kept));
        }
        remove(&kept)?;
    }
    let kept = keep_old(path)?;
    fs::rename(new, path).map_err(io_error("rename", new))?;
    Ok(kept)
}

fn free_name(path: &Path) -> PathBuf {
    let free = (1..).map(|n| with_suffix(path, &format!(".replaced-{n}"))).find(|p| !p.exists());
    free.unwrap_or_else(|| unreachable!("one of endlessly many is free"))
}

/// Moves the registry that is there, with its log, to a name that is free.
pub(super) fn keep_old(path: &Path) -> Result<Option<PathBuf>, Error> {
    if !path.exists() {
        // A log without its file belongs to nothing.
        for suffix in ["-wal", "-shm"] {
            remove(&with_suffix(path, suffix))?;
        }
        return Ok(None);
    }
    let kept = free_name(path);
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&kept, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(io_error("rename", &from))?;
        }
    }
    Ok(Some(kept))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
