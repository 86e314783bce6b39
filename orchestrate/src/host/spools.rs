//! The folder of a state directory in which layers under way are kept, so that the run after a killed one
//! fetches only the rest. What is in a spool is `fetch`'s matter.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::process::place;

/// The spool directory of a state directory, made when it is not there.
pub(crate) fn spool_dir(state: &Path) -> Result<PathBuf, Error> {
    let path = state.join("spool");
    place::make(&path, place::STATE).map(|()| path)
}

/// Removes spools that nobody came back for, and gives their number and bytes.
pub(crate) fn sweep(state: &Path, age: Duration) -> Result<(usize, u64), Error> {
    let (mut count, mut bytes) = (0, 0);
    for left in fetch::leftovers(&state.join("spool")).map_err(Error::Fetch)? {
        if left.age >= age && left.discard().map_err(Error::Fetch)? {
            count += 1;
            bytes += left.bytes;
        }
    }
    Ok((count, bytes))
}
