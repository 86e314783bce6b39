//! The digest of a whole tree right after a layer was applied, without reading again what the layer
//! and the tree below already had hashed.
//!
//! Two manifests know the contents: the layer's (as [`crate::apply_with`] writes it) and, for what
//! the layer does not name, that of the tree it was applied to. What neither knows is read. So the
//! digest says what the tree must hold, and a later [`crate::read::walk::tree_digest`] whether it does.

use std::io::{BufRead, Write};

use nix::sys::stat::FileStat;

use crate::error::Error;
use crate::limits::Limits;
use crate::read::walk::{Reading, whole};
use crate::record::known::Known;
use crate::record::place::Spill;
use crate::record::spill::io_fault;
use crate::tree::budget::Budget;
use crate::tree::fd::root::Root;

/// Writes the manifest of the whole tree below `root` to `out`, and gives its sha256, which is
/// [`crate::read::walk::tree_digest`] of that tree. Of `known`, an earlier manifest that names a path decides
/// for it; a line that does not read ends its manifest.
///
/// # Errors
/// [`Error::Fs`]; also when `out` cannot be written.
pub fn tree_manifest(
    root: &Root,
    known: &mut [&mut dyn BufRead],
    out: &mut dyn Write,
) -> Result<[u8; 32], Error> {
    let limits = Limits::default();
    let spill = crate::record::spill::spill_file(&limits)?;
    let how = Reading { spill: spill.map(|file| Spill::new(file, u64::MAX)), alone: false };
    let mut failed = Ok(());
    let digest = manifest(root, &how, &mut Budget::unlimited(), known, |line| {
        if failed.is_ok() {
            failed = out.write_all(line);
        }
    })?;
    failed.map_err(|e| io_fault("write", b"manifest")(e).nowhere())?;
    Ok(digest)
}

/// [`tree_manifest`] within a budget; each line goes to `each`.
pub(crate) fn manifest(
    root: &Root,
    how: &Reading,
    budget: &mut Budget,
    known: &mut [&mut dyn BufRead],
    each: impl FnMut(&[u8]),
) -> Result<[u8; 32], Error> {
    let mut known = Known::new(known);
    let find = |path: &[u8], stat: &FileStat| {
        u64::try_from(stat.st_size).ok().and_then(|size| known.find(path, size))
    };
    let made = whole(root, how, budget, find, each);
    known.sound().and(made)
}
