//! The manifest of an image's tree, as `read::digest` makes it of a mounted one.

use std::fs::File;
use std::io::{BufRead, Write};
use std::time::Instant;

use crate::error::{Error, Fault};
use crate::ext4::read::cost::Cost;
use crate::ext4::read::replay::open;
use crate::ext4::read::walk::{How, walk};
use crate::limits::Limits;
use crate::record::known::Known;
use crate::record::spill::{io_fault, spill};
use crate::sha::Sha256;
use crate::tree::budget::Budget;

/// Writes the manifest of the tree in an ext4 image to `out`, and gives its sha256: of the same tree
/// mounted it is [`crate::tree_digest`]. The image is read by our own code, and is not mounted; it may be
/// a file or a block device, and nobody may write to it meanwhile.
///
/// Of `limits` the ones that bound the work: `file_bytes_max` for each file's size and `bytes_max` for
/// all of them (holes count), `spill_bytes_max` for records that do not fit in memory, `time_max`.
///
/// # Errors
/// [`Error::Image`] with the rule that the image breaks, [`Error::Refused`] with a limit that it is over,
/// [`Error::Fs`]; also when `out` cannot be written.
pub fn image_manifest(
    image: &File,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<[u8; 32], Error> {
    written(image, out, limits, (false, false))
}

/// [`image_manifest`] of an image that we have written ourselves: besides, the index of every directory has to
/// be what the kernel would look a name up by, with each name where its hash says.
///
/// # Errors
/// As [`image_manifest`].
pub fn image_manifest_strict(
    image: &File,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<[u8; 32], Error> {
    written(image, out, limits, (true, false))
}

/// [`image_manifest`] of an image that somebody has mounted and nobody unmounted: what is in its journal counts, as
/// the next mount would show it. The image is not written to.
///
/// # Errors
/// As [`image_manifest`]; also for a journal that the kernel would not replay.
pub fn image_manifest_replayed(
    image: &File,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<[u8; 32], Error> {
    written(image, out, limits, (false, true))
}

fn written(
    image: &File,
    out: &mut dyn Write,
    limits: &Limits,
    (strict, replay): (bool, bool),
) -> Result<[u8; 32], Error> {
    let spill = spill(limits)?;
    let mut failed = Ok(());
    let budget = Budget::new(limits, Instant::now() + limits.time_max, false);
    let cost = Cost::new(limits, budget);
    let digest = manifest(image, cost, &How { spill, strict, replay }, &mut [], &mut |line| {
        if failed.is_ok() {
            failed = out.write_all(line);
        }
    })?;
    failed.map_err(|e| io_fault("write", b"manifest")(e).nowhere())?;
    Ok(digest)
}

/// The digest over all lines; each goes to `each`. `known` is as for [`crate::tree_manifest`].
pub(crate) fn manifest(
    image: &File,
    cost: Cost,
    how: &How,
    known: &mut [&mut dyn BufRead],
    each: &mut dyn FnMut(&[u8]),
) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let mut known = Known::new(known);
    let done = || -> Result<(), Fault> {
        let mut image = open(image, cost, how.replay)?;
        walk(&mut image, how, &mut known, &mut |record| {
            let line = record.line();
            hash.update(&line);
            each(&line);
            Ok(())
        })
    };
    let done = done().map_err(Fault::nowhere);
    known.sound()?;
    done?;
    Ok(hash.finish())
}
