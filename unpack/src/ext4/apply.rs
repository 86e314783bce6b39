//! A layer is applied to an image, in this process; an image is made.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::{error, fmt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::pipeline;
use crate::error::{Error, Fault};
use crate::ext4::format::geometry::{Geometry, Layout};
use crate::ext4::format::superblock::{MARK_LEN, MARK_OFFSET, Mark, Marked};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blank::write_blank;
use crate::ext4::write::image::{Head, Image, seal};
use crate::limits::Limits;
use crate::record::applied::Applied;
use crate::record::place::Spill;
use crate::record::spill::spill;
use crate::tree::apply::{Work, write};

/// Why a layer was not applied to an image.
#[derive(Debug)]
pub enum ImageError {
    /// No layer can go on in it; nothing was written.
    Unfit(Unfit),
    /// As with a directory. The image holds a part of the layer and has to be thrown away: from now on it
    /// is [`Unfit::Unsealed`].
    Layer(Error),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Unfit(unfit) => unfit.fmt(f),
            ImageError::Layer(error) => error.fmt(f),
        }
    }
}

impl error::Error for ImageError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ImageError::Unfit(unfit) => unfit.source(),
            ImageError::Layer(error) => error.source(),
        }
    }
}

impl From<Unfit> for ImageError {
    fn from(unfit: Unfit) -> ImageError {
        ImageError::Unfit(unfit)
    }
}

impl From<Error> for ImageError {
    fn from(error: Error) -> ImageError {
        ImageError::Layer(error)
    }
}

/// Makes an empty file system in `file`, which has to read as zeros wherever it is written to: a new file
/// that was given a length, or a new thin volume. With `again` an image of this program may be there
/// instead, on storage that then reads as zeros but for what is written here.
///
/// # Errors
/// [`Unfit::InUse`] for what is not empty; [`Unfit::Io`].
pub fn make_blank(file: &File, geometry: Geometry, again: bool) -> Result<(), Unfit> {
    let mut mark = [0; MARK_LEN];
    file.read_exact_at(&mut mark, MARK_OFFSET).map_err(Unfit::read)?;
    let ours = match Mark::decode(&mark) {
        Marked::Yes(_) | Marked::Version(_) => again,
        Marked::Broken | Marked::No => false,
    };
    if !ours {
        let bytes = geometry.blocks * u64::from(geometry.block);
        if let Some(at) = first_byte(file, bytes)? {
            return Err(Unfit::InUse { at });
        }
    }
    if ours {
        // Inodes and a journal of before must not come back.
        let block = u64::from(geometry.block);
        for run in &Layout::new(geometry).fixed {
            clear(file, run.start * block, run.end() * block)?;
        }
    }
    write_blank(file, geometry)
}

/// Makes zero what is not, from `from` to `to`.
fn clear(file: &File, from: u64, to: u64) -> Result<(), Unfit> {
    let zeros = vec![0; 1 << 20];
    let mut buffer = zeros.clone();
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
        file.read_exact_at(&mut buffer[..len], at).map_err(Unfit::read)?;
        if buffer[..len] != zeros[..len] {
            file.write_all_at(&zeros[..len], at).map_err(Unfit::write)?;
        }
        at += len as u64;
    }
    Ok(())
}

/// Where the first byte is that is not zero; holes are not read.
fn first_byte(file: &File, bytes: u64) -> Result<Option<u64>, Unfit> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        at = match next_data(file, at)? {
            Some(next) => next,
            None => return Ok(None),
        };
        let len = usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..len];
        file.read_exact_at(piece, at).map_err(Unfit::read)?;
        if let Some(found) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(at + found as u64));
        }
        at += len as u64;
    }
    Ok(None)
}

/// Where the next bytes are that may not be zero, from `at` on. A device has no holes that could be asked for.
fn next_data(file: &File, at: u64) -> Result<Option<u64>, Unfit> {
    let from = i64::try_from(at).unwrap_or(i64::MAX);
    match lseek(file, from, Whence::SeekData) {
        Ok(next) => Ok(Some(next.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(errno) => Err(Unfit::read(errno.into())),
    }
}

/// How many layers a sealed image holds: 0 for a blank.
///
/// # Errors
/// [`Unfit`], for what is no such image.
pub fn layers(image: &File) -> Result<u32, Unfit> {
    Head::read(image).map(|head| head.mark.layers)
}

/// Applies one layer, plain, gzip or zstd by its content, to a sealed image, without mounting it: what the
/// image holds is the layers below. `manifest` is as for [`crate::apply_with`]. Afterwards the image is
/// sealed again; its bytes depend on the geometry and the layers so far and on nothing else.
///
/// # Errors
/// See [`ImageError`].
pub fn apply_image(
    layer: impl Read,
    image: &File,
    limits: &Limits,
    manifest: Option<&mut (dyn Write + Send)>,
) -> Result<Applied, ImageError> {
    Head::read(image)?;
    let file = image.try_clone().map_err(Unfit::read)?;
    let spill = spill(limits)?;
    let work = Work { manifest, spill: spill.clone(), alone: false };
    let write = |archive: Archive<'_, Buffers>, digests| {
        let tree = open(file, spill).map_err(Fault::nowhere)?;
        write(archive, digests, tree, limits, work)
    };
    let ((mut applied, ()), blob, diff) =
        pipeline::run(layer, limits, write, |(done, ())| done.entries)?;
    applied.sealed(&blob, &diff);
    finish(image, limits, &applied)?;
    Ok(applied)
}

/// The image as a tree; `spill` takes what does not fit in memory. It was looked at before, so what is wrong
/// with it now is a fault.
pub(crate) fn open(image: File, spill: Option<Arc<Spill>>) -> Result<Image, Fault> {
    Image::open(image, spill).map_err(|unfit| Fault::Fs {
        call: "open the".into(),
        name: b"image".to_vec(),
        source: std::io::Error::other(unfit),
    })
}

/// Seals an image that a layer was applied to.
pub(crate) fn finish(image: &File, limits: &Limits, applied: &Applied) -> Result<(), Unfit> {
    let sync = || match limits.sync {
        true => image.sync_all().map_err(Unfit::write),
        false => Ok(()),
    };
    // What is sealed is there.
    sync()?;
    seal(image, limits.digests.then_some(applied.diff_id))?;
    sync()
}

#[cfg(test)]
mod contract_tests {
    use super::*;

    /// It is what a sink is.
    #[test]
    fn it_is_what_a_sink_is() {
        for block in [2048, 4096] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(64 << 20).unwrap();
            let geometry = Geometry::new(64 << 20, block, 4096, 1 << 20).unwrap();
            make_blank(&file, geometry, false).unwrap();
            let image = open(file.try_clone().unwrap(), None).unwrap();
            crate::tree::contract::holds(image);
        }
    }
}
