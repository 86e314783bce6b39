//! What is wrong with an image itself: its documents, its place, or what its config says of its layers.

use std::fmt;
use std::path::PathBuf;

use fetch::image::Digest;

/// An image that cannot be used. Asking again gives the same, as long as nobody changes what is there.
#[derive(Debug)]
pub enum Unusable {
    /// Words that are no reference.
    Reference(fetch::image::Error),
    /// A document that breaks a rule.
    Document {
        /// The image.
        image: String,
        /// The rule.
        source: fetch::image::Error,
    },
    /// A place that is no layout and no archive of images.
    NoLayout {
        /// What is missing.
        what: String,
    },
    /// A blob that a local layout or an archive lacks.
    NoBlob {
        /// The layout.
        place: String,
        /// The blob.
        digest: Digest,
    },
    /// Something else where a file has to be.
    Strange {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// An archive that cannot be read.
    Archive {
        /// The archive.
        image: String,
        /// Why.
        source: Box<unpack::Error>,
    },
    /// A layer that does not unpack to what the image's config says: the config lies, and not the layer.
    DiffId {
        /// The layer.
        layer: String,
        /// What the config says.
        expected: registry::Digest,
        /// What it is.
        found: registry::Digest,
    },
    /// A layer of another size than its manifest promises.
    Size {
        /// The layer.
        layer: String,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A layer that a server does not have, after it was waited for.
    NoLayer {
        /// The layer.
        layer: String,
    },
    /// What a server has in the place of a layer is something else.
    Other {
        /// The layer.
        layer: String,
        /// What was said of it.
        said: String,
    },
    /// A daemon was given the path of a local image.
    Daemon {
        /// The image.
        image: String,
    },
    /// What a client had opened, and the daemon that had it is gone.
    Gone {
        /// The image or the file.
        image: String,
    },
    /// An image that was named by its digest, and is neither here nor kept from a pipe.
    NotKept {
        /// The digest.
        digest: Digest,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Reference(source) => source.fmt(f),
            Unusable::Document { image, source } => write!(f, "{}: {source}", image.escape_debug()),
            Unusable::NoLayout { what } => write!(
                f,
                "{}: this is no OCI image layout, or not all of one; docker-archive: is the form for \
                 what docker save writes",
                what.escape_debug()
            ),
            Unusable::NoBlob { place, digest } => write!(
                f,
                "{} has no blob {digest}, which the image needs: the layout was not copied whole",
                place.escape_debug()
            ),
            Unusable::Strange { path, found } => {
                write!(f, "{}: {found}", path.display().to_string().escape_debug())
            }
            Unusable::Archive { image, source } => write!(f, "{}: {source}", image.escape_debug()),
            Unusable::DiffId { layer, expected, found } => write!(
                f,
                "layer {}: it unpacks to {found}, and the image's config says {expected}; the image is \
                 refused, nothing of this layer is kept",
                layer.escape_debug()
            ),
            Unusable::Size { layer, expected, found } => write!(
                f,
                "layer {}: it has {found} bytes, and {expected} were promised by the manifest",
                layer.escape_debug()
            ),
            Unusable::NoLayer { layer } => write!(
                f,
                "layer {}: it is not there, and the image needs it: the layout was not copied whole",
                layer.escape_debug()
            ),
            Unusable::Other { layer, said } => write!(
                f,
                "layer {}: what is there is not what the manifest promises: {said}",
                layer.escape_debug()
            ),
            Unusable::Daemon { image } => write!(
                f,
                "{}: the daemon opens no path for a client: run the command on its host, which passes what it \
                 opens over the unix socket, or put it beneath one of sources.local_roots",
                image.escape_debug()
            ),
            Unusable::Gone { image } => write!(
                f,
                "{}: the open file that came with this request went with the daemon that had it; ask for the \
                 same again",
                image.escape_debug()
            ),
            Unusable::NotKept { digest } => write!(
                f,
                "{digest} names no image on this host; `orchestrate ls` shows what there is"
            ),
        }
    }
}
