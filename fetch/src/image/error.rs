//! What is wrong with a reference or a document of an image.

use std::fmt;

use crate::image::digest::Digest;
use crate::text::quote::quoted;

/// Which document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// `oci-layout` of an image layout.
    Layout,
    /// An image index, or Docker's manifest list.
    Index,
    /// An image manifest.
    Manifest,
    /// An image's config.
    Config,
    /// `manifest.json` of `docker save`.
    Archive,
    /// A list of what refers to an image.
    Referrers,
    /// A manifest with signatures of an image.
    Signatures,
    /// What was signed, or a bundle with it and its signature.
    Claim,
}

impl Document {
    /// Whether a registry has it among its manifests, and not among its blobs.
    pub fn is_manifest(self) -> bool {
        match self {
            Document::Index | Document::Manifest | Document::Referrers | Document::Signatures => {
                true
            }
            Document::Layout | Document::Config | Document::Archive | Document::Claim => false,
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Document::Layout => "oci-layout",
            Document::Index => "image index",
            Document::Manifest => "image manifest",
            Document::Config => "image config",
            Document::Archive => "manifest.json",
            Document::Referrers => "list of referrers",
            Document::Signatures => "manifest of signatures",
            Document::Claim => "signature",
        })
    }
}

/// A refusal; asking again gives the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No reference to an image.
    Reference {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// No digest that can be checked.
    Digest {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// No platform.
    Platform {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// Longer than any honest one.
    TooLarge {
        /// What it is to be.
        document: Document,
        /// Its size, bytes.
        bytes: u64,
        /// The bound, bytes.
        bytes_max: u64,
    },
    /// No JSON, or not of the shape that is due.
    Json {
        /// What it is to be.
        document: Document,
        /// Line, column and what stands there, by serde_json.
        source: String,
    },
    /// A field that breaks a rule.
    Field {
        /// Which document.
        document: Document,
        /// The field, as a path.
        field: &'static str,
        /// What it says.
        got: String,
        /// The rule.
        why: &'static str,
    },
    /// More of something than an image may have.
    TooMany {
        /// Which document.
        document: Document,
        /// Of what.
        what: &'static str,
        /// How many there are.
        got: u64,
        /// The bound.
        max: u64,
    },
    /// The bytes are not those that the descriptor promises.
    Other {
        /// Which document.
        document: Document,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The size is not the one that the descriptor promises.
    Size {
        /// Which document.
        document: Document,
        /// Its digest.
        digest: Digest,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// No manifest of an image: an artifact, or a kind of layer that cannot be unpacked.
    NotAnImage {
        /// What stands in the place of a config or layer.
        what: &'static str,
        /// The media type.
        media_type: String,
        /// What it is.
        why: &'static str,
    },
    /// The config has not one diff id for each layer of the manifest.
    DiffIds {
        /// Layers of the manifest.
        layers: usize,
        /// `rootfs.diff_ids` of the config.
        diff_ids: usize,
    },
    /// Nothing in the index is for the platform.
    NoPlatform {
        /// The platform that is wanted.
        wanted: String,
        /// What there is, at most a few.
        have: Vec<String>,
    },
    /// Nothing has the name.
    NoName {
        /// The document.
        document: Document,
        /// The name that is wanted.
        name: String,
        /// The names that there are, at most a few.
        have: Vec<String>,
    },
    /// Several images, and none was named.
    Several {
        /// The document.
        document: Document,
        /// Their names, at most a few.
        have: Vec<String>,
    },
    /// An index without a single image.
    Empty {
        /// The document.
        document: Document,
    },
    /// Indexes inside of indexes, without an end.
    Nested {
        /// How deep at most.
        depth_max: u32,
    },
}

fn list(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    names.join(", ")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Reference { text, why } => write!(f, "image reference {}: {why}", quoted(text)),
            Error::Digest { text, why } => write!(f, "digest {}: {why}", quoted(text)),
            Error::Platform { text, why } => write!(f, "platform {}: {why}", quoted(text)),
            Error::TooLarge { document, bytes, bytes_max } => {
                write!(f, "the {document} has {bytes} bytes; at most {bytes_max} are read")
            }
            Error::Json { document, source } => {
                write!(f, "the {document} cannot be read: {source}")
            }
            Error::Field { document, field, got, why } => {
                write!(f, "the {document} has {field} {}: {why}", quoted(got))
            }
            Error::TooMany { document, what, got, max } => {
                write!(f, "the {document} has {got} {what}; at most {max} are taken")
            }
            Error::Other { document, expected, found } => {
                write!(f, "the {document} {expected} has other bytes: their digest is {found}")
            }
            Error::Size { document, digest, expected, found } => {
                write!(f, "the {document} {digest} has {found} bytes, and {expected} were promised")
            }
            Error::NotAnImage { what, media_type, why } => {
                write!(
                    f,
                    "no image that can be unpacked: a {what} is of type {}: {why}",
                    quoted(media_type)
                )
            }
            Error::DiffIds { layers, diff_ids } => write!(
                f,
                "the image config has {diff_ids} diff ids for the {layers} layers of the manifest: \
                 each layer needs its own"
            ),
            Error::NoPlatform { wanted, have } if have.is_empty() => {
                write!(f, "the image index has no image for the platform {wanted}")
            }
            Error::NoPlatform { wanted, have } => write!(
                f,
                "the image index has no image for the platform {wanted}; it has {}",
                list(have)
            ),
            Error::NoName { document, name, have } if have.is_empty() => {
                write!(f, "the {document} has no image {}, and none with a name", quoted(name))
            }
            Error::NoName { document, name, have } => {
                write!(f, "the {document} has no image {}; it has {}", quoted(name), list(have))
            }
            Error::Several { document, have } if have.is_empty() => write!(
                f,
                "the {document} has several images without a name: choose one by its digest"
            ),
            Error::Several { document, have } => {
                write!(f, "the {document} has several images, name one of {}", list(have))
            }
            Error::Empty { document } => write!(f, "the {document} has no image in it"),
            Error::Nested { depth_max } => write!(
                f,
                "image indexes lie inside one another more than {depth_max} deep: no more are read"
            ),
        }
    }
}

impl std::error::Error for Error {}
