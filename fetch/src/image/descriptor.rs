//! Descriptors: what a document promises of another (image-spec, descriptor.md), and the media types.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::json::DOCUMENT_BYTES_MAX;
use crate::image::platform::{Platform, Written};

/// A promise of bytes: their digest, their size, and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// As written; what it means is [`Descriptor::media`].
    pub media_type: String,
    /// sha256 of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The machine that it is for, where that is said.
    pub platform: Option<Platform>,
    /// The names that the index has for it: `org.opencontainers.image.ref.name` and
    /// `io.containerd.image.name`.
    pub names: Vec<String>,
    /// Whether builders mark it as an attestation of another manifest.
    pub attestation: bool,
}

/// What a media type says that the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// An index, or Docker's manifest list.
    Index,
    /// A manifest.
    Manifest,
    /// An image's config.
    Config,
    /// A layer; how it is compressed is seen from its bytes.
    Layer,
    /// Something that is refused by name.
    Refused(&'static str),
    /// Anything else.
    Unknown,
}

/// The media types of this project's world.
pub(crate) mod types {
    pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
}

impl Media {
    /// What this type is; parameters after a `;` do not count.
    pub fn of(media_type: &str) -> Media {
        let plain = media_type.split(';').next().unwrap_or_default().trim();
        match plain {
            types::INDEX | types::LIST => return Media::Index,
            types::MANIFEST | types::SCHEMA2 => return Media::Manifest,
            types::CONFIG | types::DOCKER_CONFIG => return Media::Config,
            _ => {}
        }
        if plain.ends_with("+encrypted") {
            return Media::Refused("it is encrypted");
        }
        if plain.starts_with("application/vnd.docker.distribution.manifest.v1+") {
            return Media::Refused("Docker's schema 1 is not supported: push the image again");
        }
        if plain.starts_with("application/vnd.erofs.layer") {
            return Media::Refused("layers of EROFS are not supported");
        }
        let end = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ]
        .iter()
        .find_map(|stem| plain.strip_prefix(stem));
        match end {
            Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd") => Media::Layer,
            Some(_) | None => Media::Unknown,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Raw {
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    size: Option<i64>,
    #[serde(default)]
    platform: Option<Written>,
    #[serde(default, rename = "artifactType")]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Option<String>>>,
}

/// The annotation that is a tag (image-spec, annotations.md).
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";

/// Where containerd and buildkit put the whole name; it is a name as well.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

impl Raw {
    pub(super) fn media(&self) -> Media {
        Media::of(self.media_type.as_deref().unwrap_or_default())
    }

    /// What an artifact says that it is; empty where it says nothing.
    pub(super) fn artifact_type(&self) -> &str {
        self.artifact_type.as_deref().unwrap_or_default()
    }

    /// An annotation, where it has one of this name.
    pub(super) fn annotation(&self, name: &str) -> Option<String> {
        self.annotations.as_ref()?.get(name).cloned().flatten()
    }

    /// Checks all that is needed of it.
    pub(super) fn read(&self, document: Document) -> Result<Descriptor, Error> {
        let digest = Digest::parse(self.digest.as_deref().unwrap_or_default())?;
        let size = self.size.unwrap_or(-1);
        let size = u64::try_from(size).map_err(|_| Error::Field {
            document,
            field: "a descriptor's size",
            got: size.to_string(),
            why: "a descriptor needs the number of bytes, 0 or more",
        })?;
        let annotations = [NAME, FULL_NAME].into_iter().filter_map(|name| self.annotation(name));
        let mut names: Vec<_> = annotations.collect();
        names.dedup();
        let kind = self.annotation("vnd.docker.reference.type");
        Ok(Descriptor {
            media_type: self.media_type.clone().unwrap_or_default(),
            digest,
            size,
            platform: self.platform.as_ref().map(Platform::written),
            names,
            attestation: kind.as_deref() == Some("attestation-manifest"),
        })
    }
}

impl Descriptor {
    /// What it is, by its media type.
    pub fn media(&self) -> Media {
        Media::of(&self.media_type)
    }

    /// No more bytes than this are asked for, when it is a document.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`DOCUMENT_BYTES_MAX`].
    pub fn document_bytes(&self, document: Document) -> Result<u64, Error> {
        match self.size <= DOCUMENT_BYTES_MAX {
            true => Ok(self.size),
            false => {
                Err(Error::TooLarge { document, bytes: self.size, bytes_max: DOCUMENT_BYTES_MAX })
            }
        }
    }

    /// Whether these are the bytes that were promised; the size first, so that nothing is hashed in vain.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Other`].
    pub fn check(&self, document: Document, bytes: &[u8]) -> Result<(), Error> {
        let (digest, expected, found) = (self.digest, self.size, bytes.len() as u64);
        if expected != found {
            return Err(Error::Size { document, digest, expected, found });
        }
        let found = Digest::of(bytes);
        match found == digest {
            true => Ok(()),
            false => Err(Error::Other { document, expected: digest, found }),
        }
    }
}
