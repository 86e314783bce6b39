//! What one tree has that another has not, as an OCI layer: the inverse of applying one.
//!
//! There are two kinds of trees ([`source::Source`]): one in an ext4 image ([`image`]), read by our own reader, and
//! one below a directory ([`directory`]). What a difference is, once for both, is decided in [`compare`] and
//! [`groups`]; [`write`] makes entries of it, whose bytes are in [`tar`].

pub(crate) mod compare;
pub(crate) mod directory;
pub(crate) mod groups;
pub(crate) mod image;
pub(crate) mod source;
pub(crate) mod tar;
pub(crate) mod write;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::diff::directory::Directory;
use crate::diff::image::Ext4;
use crate::diff::source::Source;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::place::Spill;
use crate::record::spill::spill;
use crate::tree::budget::Budget;
use crate::tree::fd::root::Root;

/// What a layer that was made of a difference holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diffed {
    /// The digest of the tar.
    #[serde(skip)]
    pub diff_id: [u8; 32],
    /// Bytes of the tar.
    pub bytes: u64,
    /// Entries of it.
    pub entries: u64,
    /// Names that the lower tree has not.
    pub added: u64,
    /// Names that both trees have and that are not the same; also other names of an inode that changed.
    pub changed: u64,
    /// Whiteouts: names that the upper tree has not. A directory counts once, with all that was in it.
    pub removed: u64,
    /// Directories that are in it because something below them is.
    pub parents: u64,
    /// Bytes of the contents of files in it, holes included.
    pub content_bytes: u64,
    /// Sockets of the upper tree, which no layer can hold: they are left out.
    pub sockets: u64,
    /// Extended attributes of what is in it that no layer can hold: they are left out.
    pub attributes: u64,
}

/// Writes the layer that makes of the tree in the image `base` the one in the image `upper`. The same two trees give the
/// same bytes, if files have their holes in the same places. Neither image is mounted or written to, and nobody may
/// write to them meanwhile. With `replay` what is in the journal of `upper` counts, as the next mount would show it.
///
/// Of `limits` those that bound the work, for each of the two images, as in [`crate::image_manifest`]; and those of a
/// layer that is applied, so that what this writes is not refused for them.
///
/// # Errors
/// [`Error::Image`] with the rule that an image breaks; [`Error::Refused`] with a limit that it is over, or with the
/// name that no layer can hold; [`Error::Fs`]. What was written by then has no end and is no layer.
pub fn diff_images(
    upper: &File,
    base: &File,
    replay: bool,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Diffed, Error> {
    let mut work = Work::new(spill(limits)?, limits, false);
    images((upper, base), replay, out, &mut work)
}

/// As [`diff_images`], of the trees below two directories. Who changes `upper` meanwhile may get an error, or a
/// layer with some of the change.
///
/// # Errors
/// As [`diff_images`].
pub fn diff_trees(
    upper: &Root,
    base: &Root,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Diffed, Error> {
    let mut work = Work::new(spill(limits)?, limits, false);
    trees((upper, base), out, &mut work)
}

/// What a comparison works with.
pub(crate) struct Work<'l> {
    pub(crate) spill: Option<Arc<Spill>>,
    pub(crate) limits: &'l Limits,
    pub(crate) budget: Budget,
    /// This process does nothing else.
    alone: bool,
}

impl<'l> Work<'l> {
    pub(crate) fn new(spill: Option<Arc<Spill>>, limits: &'l Limits, alone: bool) -> Work<'l> {
        let budget = Work::budget(limits, alone);
        Work { spill, limits, budget, alone }
    }

    fn budget(limits: &Limits, alone: bool) -> Budget {
        Budget::new(limits, Instant::now() + limits.time_max, alone)
    }
}

pub(crate) fn images(
    (upper, base): (&File, &File),
    replay: bool,
    out: &mut dyn Write,
    work: &mut Work<'_>,
) -> Result<Diffed, Error> {
    let mut made = || -> Result<Diffed, Fault> {
        let budget = || Work::budget(work.limits, work.alone);
        let spill = work.spill.clone();
        let mut base = Ext4::open(base, (work.limits, budget()), false, spill.clone())?;
        let mut upper = Ext4::open(upper, (work.limits, budget()), replay, spill)?;
        made(&mut upper, &mut base, out, work)
    };
    made().map_err(Fault::nowhere)
}

pub(crate) fn trees(
    (upper, base): (&Root, &Root),
    out: &mut dyn Write,
    work: &mut Work<'_>,
) -> Result<Diffed, Error> {
    let mut made = || -> Result<Diffed, Fault> {
        let budget = || Work::budget(work.limits, work.alone);
        let mut base = Directory::new(base, budget(), work.spill.clone(), work.alone)?;
        let mut upper = Directory::new(upper, budget(), work.spill.clone(), work.alone)?;
        made(&mut upper, &mut base, out, work)
    };
    made().map_err(Fault::nowhere)
}

fn made(
    upper: &mut dyn Source,
    base: &mut dyn Source,
    out: &mut dyn Write,
    work: &mut Work<'_>,
) -> Result<Diffed, Fault> {
    let below = base.names()?;
    let above = upper.names()?;
    let sockets = above.sockets;
    let mut names = compare::Names { upper: above.names, base: below.names };
    let mut marked = groups::marked(&mut names, upper, base, work)?;
    let mut diffed = write::layer(&mut names, &mut marked, upper, out, work)?;
    diffed.sockets = sockets;
    Ok(diffed)
}
