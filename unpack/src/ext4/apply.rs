//! A layer is applied to an image, in this process; an image is made.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::pipeline;
use crate::error::{Error, Fault};
use crate::ext4::format::geometry::Geometry;
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{MARK_LEN, MARK_OFFSET, Mark, Marked};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blank::write_blank;
use crate::ext4::write::grow::grow;
use crate::ext4::write::image::{Head, Image, length, seal};
use crate::ext4::write::unjournal;
use crate::ext4::write::zeros::{clear, first_byte};
use crate::limits::Limits;
use crate::record::applied::Applied;
use crate::record::place::Spill;
use crate::record::spill::spill;
use crate::tree::apply::{Work, write};

/// Why a layer was not applied to an image.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum ImageError {
    /// No layer can go on in it; nothing was written.
    Unfit(#[from] Unfit),
    /// As with a directory. The image holds a part of the layer and has to be thrown away: from now on it
    /// is [`Unfit::Unsealed`].
    Layer(#[from] Error),
}

impl ImageError {
    /// See [`Error::is_full`].
    pub fn is_full(&self) -> bool {
        match self {
            ImageError::Unfit(_) => false,
            ImageError::Layer(error) => error.is_full(),
        }
    }
}

/// What is known of a place in which an empty file system is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: all of it is read, and has to be zeros.
    Unknown,
    /// It reads as zeros: a new file that was given a length, or a new thin volume.
    Zeros,
    /// An image of this program may be there instead of zeros, on storage that reads as zeros wherever that has
    /// not written.
    Image,
}

/// Makes an empty file system in `file`.
///
/// # Errors
/// [`Unfit::InUse`] for what is not empty; [`Unfit::Io`].
pub fn make_blank(file: &File, geometry: Geometry, before: Before) -> Result<(), Unfit> {
    let ours = match before {
        Before::Zeros => return write_blank(file, geometry),
        Before::Unknown => false,
        Before::Image => {
            let mut mark = [0; MARK_LEN];
            file.read_exact_at(&mut mark, MARK_OFFSET).map_err(Unfit::read)?;
            matches!(Mark::decode(&mark), Marked::Yes(_) | Marked::Version(_))
        }
    };
    if ours {
        // Inodes and a journal of before must not come back.
        let block = u64::from(geometry.block);
        for run in &Layout::new(geometry).fixed {
            clear(file, run.start * block, run.end() * block)?;
        }
    } else if let Some(at) = first_byte(file, geometry.bytes())? {
        return Err(Unfit::InUse { at });
    }
    write_blank(file, geometry)
}

/// How many layers a sealed image holds: 0 for a blank.
///
/// # Errors
/// [`Unfit`], for what is no such image.
pub fn layers(image: &File) -> Result<u32, Unfit> {
    Head::read(image).map(|head| head.mark.layers)
}

/// The writer's mark on a sealed image, after a check that the image is as it was sealed: bytes 896 to 1023.
/// Whoever vouches for an image vouches for these bytes, which hold the digest of its superblock and
/// descriptors.
///
/// # Errors
/// [`Unfit`], for what is no sealed image.
pub fn mark(image: &File) -> Result<[u8; MARK_LEN], Unfit> {
    Head::read(image)?;
    let mut mark = [0; MARK_LEN];
    image.read_exact_at(&mut mark, MARK_OFFSET).map_err(Unfit::read)?;
    Ok(mark)
}

/// Whether these first bytes of a device hold the mark of a writer of any version, sealed or not.
pub fn is_marked(start: &[u8]) -> bool {
    let at = usize::try_from(MARK_OFFSET).unwrap_or(usize::MAX);
    let mark = start.get(at..).and_then(|rest| rest.first_chunk());
    mark.is_some_and(|mark| match Mark::decode(mark) {
        Marked::Yes(_) | Marked::Version(_) | Marked::Broken => true,
        Marked::No => false,
    })
}

/// The geometry of a sealed image.
///
/// # Errors
/// [`Unfit`], for what is no such image.
pub fn geometry(image: &File) -> Result<Geometry, Unfit> {
    Head::read(image).map(|head| head.mark.geometry)
}

/// Makes the file system of a sealed image twice as large, without mounting it ([`Geometry::doubled`]), and says what
/// it is now. The file or the device has to be long enough ([`Geometry::bytes`]) and should read as zeros behind
/// the file system; what does not is made zero where inodes will be. The tree stays as it is, no layer is
/// counted, and the image is sealed again and durable: its bytes depend on the geometry, the layers so far and how
/// many of them there were at each doubling, and on nothing else.
///
/// # Errors
/// As [`apply_image`] for what is no sealed image; [`Unfit::Geometry`] where it cannot be doubled again;
/// [`Unfit::NoRoom`]. After [`Unfit::Io`] it has to be thrown away, as an image in which a layer was begun: then
/// it is [`Unfit::Unsealed`]. After all others it is as it was.
pub fn grow_image(image: &File) -> Result<Geometry, Unfit> {
    let head = Head::read(image)?;
    let doubled = head.mark.geometry.doubled();
    let to = doubled.map_err(|refusal| Unfit::Geometry(Box::new(refusal)))?;
    let (bytes, have) = (to.bytes(), length(image)?);
    if have < bytes {
        return Err(Unfit::NoRoom { bytes, have });
    }
    grow(image, head, to)?;
    image.sync_all().map_err(Unfit::write)?;
    seal(image, None)?;
    image.sync_all().map_err(Unfit::write)?;
    Ok(to)
}

/// Takes the journal out of a sealed image, for a file system that is written to without one: its tree stays as it is,
/// the journal's blocks become free, and no layer goes on in it any more. Durable when it returns.
///
/// # Errors
/// As [`apply_image`] for what is no sealed image. After [`Unfit::Io`] it has to be thrown away.
pub fn drop_journal(image: &File) -> Result<(), Unfit> {
    unjournal::drop_journal(image, Head::read(image)?)
}

/// Applies one layer, plain, gzip or zstd by its content, to a sealed image, without mounting it: what the
/// image holds is the layers below. `manifest` is as for [`crate::apply_with`]. Afterwards the image is
/// sealed again; its bytes depend on the geometry and the layers so far and on nothing else.
///
/// # Errors
/// See [`ImageError`]. Where [`ImageError::is_full`], the same layer may fit after [`grow_image`] on what the image
/// was before: so what comes out depends on that and the layer alone.
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
    let ((mut applied, chunks), blob, diff) =
        pipeline::run(layer, limits, write, |(done, _)| done.entries)?;
    applied.chunks = chunks;
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
            make_blank(&file, geometry, Before::Unknown).unwrap();
            let image = open(file.try_clone().unwrap(), None).unwrap();
            crate::tree::contract::holds(image);
        }
    }
}
