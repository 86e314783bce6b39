//! By what the tree of an activation is held. It has no opening of its own: who is in it keeps what is open. But what
//! is mounted inside of it is somebody's, and in the way; and so is the tree itself where it is mounted elsewhere.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::Error;
use crate::handover::mounts;
use crate::process::holders::is_within;

/// A mount of it or in it, in words.
///
/// # Errors
/// [`Error::Io`] where the table of mounts cannot be read.
pub(super) fn held(tree: &Path) -> Result<Option<String>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = match fs::read(table) {
        Ok(text) => text,
        // Without it nothing can be told; a mount is then met by who removes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { doing: "read", path: table.into(), source }),
    };
    let table = mounts::table(&text);
    let is_in = |part: &PathBuf| is_within(part, tree, Path::new("/proc/self"));
    let uses =
        |mount: &&mounts::Mounted| mount.point.starts_with(tree) || mount.parts.iter().any(is_in);
    let mut points = table.iter().filter(uses).map(|mount| mount.point.clone());
    let point = points.next().or_else(|| mounts::within_tree(&table, tree).into_iter().next());
    Ok(point.map(|point| format!("a mount at {}", point.display())))
}
