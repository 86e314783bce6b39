//! What killed processes left in a spool directory: to look at, and to throw away.
//!
//! How a spool is written and continued is in `spool.rs`.

use std::cmp::Reverse;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::flow::spool::{ENDING, STEM, remove_if_unlocked};

/// One file of a spool directory, of a living process or of a dead one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The file.
    pub path: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
    /// Time since it was last written; zero where the clock went back.
    pub age: Duration,
}

impl Leftover {
    /// Removes it, unless a process is at it (then false). One that is gone already is gone.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn discard(&self) -> Result<bool, Error> {
        remove_if_unlocked(&self.path).map_err(|source| Error::File {
            act: "remove",
            path: self.path.clone(),
            source,
        })
    }
}

/// The spools in `dir`, the oldest first; none where there is no such directory. Other files there
/// are not looked at.
///
/// # Errors
/// [`Error::File`].
pub fn leftovers(dir: &Path) -> Result<Vec<Leftover>, Error> {
    let failed = |source| Error::File { act: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let ours = |name: &str| name.starts_with(STEM) && name.ends_with(ENDING);
        if !entry.file_name().to_str().is_some_and(ours) {
            continue;
        }
        // It may go while we look.
        let Ok(stat) = entry.metadata() else { continue };
        if stat.is_file() {
            let age = stat.modified().ok().and_then(|time| time.elapsed().ok());
            let (path, bytes) = (entry.path(), stat.len());
            found.push(Leftover { path, bytes, age: age.unwrap_or_default() });
        }
    }
    found.sort_by_key(|one| Reverse(one.age));
    Ok(found)
}
