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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No reference to an image.
    #[error("image reference {}: {why}", quoted(.text))]
    Reference {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// No digest that can be checked.
    #[error("digest {}: {why}", quoted(.text))]
    Digest {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// No platform.
    #[error("platform {}: {why}", quoted(.text))]
    Platform {
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// Longer than any honest one.
    #[error("the {document} has {bytes} bytes; at most {bytes_max} are read")]
    TooLarge {
        /// What it is to be.
        document: Document,
        /// Its size, bytes.
        bytes: u64,
        /// The bound, bytes.
        bytes_max: u64,
    },
    /// No JSON, or not of the shape that is due.
    #[error("the {document} cannot be read: {source}")]
    Json {
        /// What it is to be.
        document: Document,
        /// Line, column and what stands there, by serde_json.
        r#source: String,
    },
    /// A field that breaks a rule.
    #[error("the {document} has {field} {}: {why}", quoted(.got))]
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
    #[error("the {document} has {got} {what}; at most {max} are taken")]
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
    #[error("the {document} {expected} has other bytes: their digest is {found}")]
    Other {
        /// Which document.
        document: Document,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The size is not the one that the descriptor promises.
    #[error("the {document} {digest} has {found} bytes, and {expected} were promised")]
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
    #[error("no image that can be unpacked: a {what} is of type {}: {why}", quoted(.media_type))]
    NotAnImage {
        /// What stands in the place of a config or layer.
        what: &'static str,
        /// The media type.
        media_type: String,
        /// What it is.
        why: &'static str,
    },
    /// The config has not one diff id for each layer of the manifest.
    #[error(
        "the image config has {diff_ids} diff ids for the {layers} layers of the manifest: \
         each layer needs its own"
    )]
    DiffIds {
        /// Layers of the manifest.
        layers: usize,
        /// `rootfs.diff_ids` of the config.
        diff_ids: usize,
    },
    /// Nothing in the index is for the platform.
    #[error(
        "the image index has no image for the platform {wanted}{}",
        list("; it has ", .have)
    )]
    NoPlatform {
        /// The platform that is wanted.
        wanted: String,
        /// What there is, at most a few.
        have: Vec<String>,
    },
    /// Nothing has the name.
    #[error(fmt = no_name)]
    NoName {
        /// The document.
        document: Document,
        /// The name that is wanted.
        name: String,
        /// The names that there are, at most a few.
        have: Vec<String>,
    },
    /// Several images, and none was named.
    #[error(fmt = several)]
    Several {
        /// The document.
        document: Document,
        /// Their names, at most a few.
        have: Vec<String>,
    },
    /// An index without a single image.
    #[error("the {document} has no image in it")]
    Empty {
        /// The document.
        document: Document,
    },
    /// Indexes inside of indexes, without an end.
    #[error("image indexes lie inside one another more than {depth_max} deep: no more are read")]
    Nested {
        /// How deep at most.
        depth_max: u32,
    },
}

/// The names after `before`; nothing where there are none.
fn list(before: &str, names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    if names.is_empty() { String::new() } else { format!("{before}{}", names.join(", ")) }
}

fn no_name(
    document: &Document,
    name: &str,
    have: &[String],
    f: &mut fmt::Formatter,
) -> fmt::Result {
    let have =
        if have.is_empty() { ", and none with a name".to_owned() } else { list("; it has ", have) };
    write!(f, "the {document} has no image {}{have}", quoted(name))
}

fn several(document: &Document, have: &[String], f: &mut fmt::Formatter) -> fmt::Result {
    match have.is_empty() {
        true => {
            write!(f, "the {document} has several images without a name: choose one by its digest")
        }
        false => write!(f, "the {document} has several images{}", list(", name one of ", have)),
    }
}
