//! A layer is applied to the tree below a directory, in this process.

use std::io::{Read, Write};

use nix::sys::resource::{Resource, getrlimit};

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::pipeline;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::applied::Applied;
use crate::record::spill::spill;
use crate::tree::apply::{Work, write};
use crate::tree::fd::directory::Directory;
use crate::tree::fd::root::{Root, sync};

/// Applies one layer, plain, gzip or zstd by its content, to the tree under `root`.
///
/// What is there already is taken to be the layers below. On any error the tree is worth nothing
/// and has to be thrown away: there is no rollback. Does not sync unless `limits.sync` is set.
///
/// # Errors
/// [`Error::Refused`] for what the layer does wrong; an error of `layer` itself comes back whole
/// in [`Error::Stream`].
pub fn apply(layer: impl Read, root: &Root, limits: &Limits) -> Result<Applied, Error> {
    apply_with(layer, root, limits, None)
}

/// [`apply`], which also writes the manifest: one JSON line for each node that the layer made, in
/// path order. Its sha256 is [`Applied::tree_digest`].
///
/// # Errors
/// As [`apply`], and [`Error::Fs`] if `manifest` cannot be written.
pub fn apply_with(
    layer: impl Read,
    root: &Root,
    limits: &Limits,
    manifest: Option<&mut (dyn Write + Send)>,
) -> Result<Applied, Error> {
    let work = Work { manifest, spill: spill(limits)?, alone: false };
    let file_size_max = file_size_max();
    let write = |archive: Archive<'_, Buffers>, digests| {
        let tree = Directory::new(root, limits, file_size_max).map_err(Fault::nowhere)?;
        write(archive, digests, tree, limits, work)
    };
    let ((mut applied, ()), blob, diff) =
        pipeline::run(layer, limits, write, |(done, ())| done.entries)?;
    applied.sealed(&blob, &diff);
    if limits.sync {
        sync(root)?;
    }
    Ok(applied)
}

/// RLIMIT_FSIZE (getrlimit(2)), to be asked for before a wall forbids it.
pub(crate) fn file_size_max() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}
