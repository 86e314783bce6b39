//! What an open volume holds, a tree or an image, and what is done with that: the one place where the two ways
//! differ. A sandboxed child of `unpack` does the work.

use std::fs::File;
use std::io::{Read, Write};

use unpack::{Applied, Chunks, Compared, Diffed, ImageError, Limits, Root, Stop, Unfit};

use crate::store::seal::Mark;

/// The bytes of a layer.
pub(crate) type Layer<'a> = &'a mut (dyn Read + Send);

/// What an open volume holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A tree below a directory, which may be that of a mount.
    Tree(&'a Root),
    /// An image of the writer, which is not mounted.
    Image(&'a File),
}

impl Content<'_> {
    /// Applies a layer in a child behind the walls, which also writes the layer's manifest.
    ///
    /// # Errors
    /// Those of the layer, and [`unpack::Unfit`] for a volume in which none can go on.
    pub(crate) fn apply(
        self,
        layer: Layer<'_>,
        manifest: Option<&File>,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Applied, ImageError> {
        match self {
            Content::Tree(root) => {
                Ok(unpack::sandbox::apply_with(layer, root, limits, manifest, stop)?)
            }
            Content::Image(device) => {
                unpack::sandbox::apply_image(layer, device, limits, manifest, stop)
            }
        }
    }

    /// Digest of the whole tree, as [`unpack::sandbox::tree_manifest`] makes it, and whether all of `out` was
    /// written.
    pub(crate) fn digest(
        self,
        known: &[&File],
        out: Option<&File>,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<([u8; 32], bool), unpack::Error> {
        match self {
            Content::Tree(root) => unpack::sandbox::tree_manifest(root, known, out, limits, stop),
            Content::Image(device) => {
                unpack::sandbox::image_manifest(device, false, known, out, limits, stop)
            }
        }
    }

    /// Writes what this has that `below` has not as a layer. What is in the journal of an image counts: whoever wrote to
    /// it may have been killed.
    ///
    /// # Errors
    /// As [`unpack::sandbox::diff_images`].
    pub(crate) fn difference(
        self,
        below: Content<'_>,
        out: &mut dyn Write,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Diffed, unpack::Error> {
        match (self, below) {
            (Content::Tree(upper), Content::Tree(below)) => {
                unpack::sandbox::diff_trees(upper, below, out, limits, stop)
            }
            (Content::Image(upper), Content::Image(below)) => {
                unpack::sandbox::diff_images(upper, below, true, out, limits, stop)
            }
            (Content::Tree(_), Content::Image(_)) | (Content::Image(_), Content::Tree(_)) => {
                // One store has one kind of them.
                let source = std::io::ErrorKind::Unsupported.into();
                Err(unpack::Error::Sandbox { step: "compare a tree with an image".into(), source })
            }
        }
    }

    /// The list of the chunks of an image as it is; none of a tree. `below` is that of the volume before `applied`,
    /// where it is known: then only what has changed is read.
    ///
    /// # Errors
    /// As [`unpack::Chunks::of`].
    pub(crate) fn chunks(
        self,
        below: Option<&Chunks>,
        applied: &Applied,
        stop: &Stop,
    ) -> Result<Option<Chunks>, ImageError> {
        match self {
            Content::Tree(_) => Ok(None),
            Content::Image(device) => {
                let below = below.map(|list| (list, &applied.chunks));
                Chunks::of(device, below, stop).map(Some)
            }
        }
    }

    /// The mark of the writer on an image that is sealed; none of a tree.
    ///
    /// # Errors
    /// [`Unfit`], for an image that is not as it was sealed.
    pub(crate) fn mark(self) -> Result<Option<Mark>, Unfit> {
        match self {
            Content::Tree(_) => Ok(None),
            Content::Image(device) => unpack::mark(device).map(Some),
        }
    }

    /// What the blocks of an image are now, and how that differs from the list, where it is known: all that is in
    /// use is read, and nothing is made of it.
    ///
    /// # Errors
    /// [`ImageError::Unfit`] where it is no image of the writer; [`ImageError::Layer`] where it cannot be read.
    pub(crate) fn blocks(self, list: Option<&Chunks>, stop: &Stop) -> Result<Compared, ImageError> {
        let Content::Image(device) = self else { return Err(Unfit::Foreign.into()) };
        // One that is cut short, or is not as it was sealed, is told by its name.
        unpack::geometry(device)?;
        match list {
            Some(list) => Ok(list.compare(device, stop)?),
            None => {
                let digest = Chunks::of(device, None, stop)?.digest();
                Ok(Compared { digest, differ: 0, first: Vec::new() })
            }
        }
    }
}
