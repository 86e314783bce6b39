//! Where the documents and layers of an image with digests are: a repository of a registry, a layout in a bucket or
//! directory, or an archive.

use std::sync::Arc;
use std::time::Duration;

use fetch::image::{Archived, DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, RegistryRef};
use fetch::{BlobRef, Client, Expect, Kind, Locator, ObjectRef, Which};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::local::archive::Archive;
use crate::local::layout::Layout;
use crate::local::piece::Piece;
use crate::process::cancel::{Cancel, heedfully};
use crate::verbs::wanted::Place;

/// How long a blob that an index names is waited for, before it is asked for once more: it may be being uploaded.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// A set of blobs by digest, with an index.
#[derive(Clone, Debug)]
pub(crate) enum Blobs {
    /// Below a prefix.
    Bucket { client: Client, bucket: String, prefix: String, cancel: Cancel },
    /// In a repository of a registry.
    Registry { client: Client, at: RegistryRef, cancel: Cancel },
    /// In a directory.
    Directory(Arc<Layout>),
    /// In a tar.
    Tar(Arc<Archive>),
}

/// `index.json` as it came.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) bytes: Vec<u8>,
    /// Its entity tag, where it is an object of a bucket.
    pub(crate) etag: Option<String>,
}

impl Blobs {
    /// `index.json`.
    pub(crate) fn index(&self) -> Result<Vec<u8>, Error> {
        self.index_unless(None).map(|found| found.map_or_else(Vec::new, |found| found.bytes))
    }

    /// `index.json`; none where it is an object that has this entity tag still.
    pub(crate) fn index_unless(&self, seen: Option<String>) -> Result<Option<Indexed>, Error> {
        let bytes = match self {
            Blobs::Bucket { client, bucket, prefix, cancel } => {
                let object = ObjectRef::new(bucket, &format!("{prefix}index.json"))?;
                let client = client.clone();
                let ask = move || client.read_changed(&object, DOCUMENT_BYTES_MAX, seen.as_deref());
                let found = heedfully(cancel, ask)?.map_err(Error::Fetch)?;
                return Ok(found.map(|found| Indexed { bytes: found.bytes, etag: found.etag }));
            }
            // A tag is asked for by `resolve`: there is no index of all.
            Blobs::Registry { .. } => {
                let empty = fetch::image::Error::Empty { document: Document::Index };
                Err(unusable(self.shown())(empty))
            }
            Blobs::Directory(layout) => layout.index(),
            Blobs::Tar(archive) => archive.document(Document::Index, "index.json"),
        };
        Ok(Some(Indexed { bytes: bytes?, etag: None }))
    }

    /// A document that a descriptor promises, checked.
    pub(crate) fn promised(
        &self,
        document: Document,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, Error> {
        let told = unusable(self.shown());
        descriptor.document_bytes(document).map_err(&told)?;
        let bytes = self.unchecked(document, descriptor.digest)?;
        descriptor.check(document, &bytes).map_err(&told)?;
        Ok(bytes)
    }

    /// A document by its digest alone, checked.
    pub(crate) fn document(&self, document: Document, digest: Digest) -> Result<Vec<u8>, Error> {
        let bytes = self.unchecked(document, digest)?;
        let found = Digest::of(&bytes);
        match found == digest {
            true => Ok(bytes),
            false => {
                let other = fetch::image::Error::Other { document, expected: digest, found };
                Err(unusable(self.shown())(other))
            }
        }
    }

    /// The bytes that stand under a digest: whether those of a file have it, the caller looks.
    fn unchecked(&self, document: Document, digest: Digest) -> Result<Vec<u8>, Error> {
        Ok(match self {
            Blobs::Registry { client, cancel, .. } if document.is_manifest() => {
                let (client, which) = (client.clone(), Which::Digest(digest));
                let manifest = move || client.manifest(&which);
                heedfully(cancel, manifest)?.map_err(Error::Fetch)?.bytes
            }
            Blobs::Bucket { client, cancel, .. } | Blobs::Registry { client, cancel, .. } => {
                let object = self.object(digest)?;
                let expect = Expect {
                    sha256: Some(digest.0),
                    size_max: Some(DOCUMENT_BYTES_MAX),
                    ..Expect::default()
                };
                match read(client, &object, &expect, cancel) {
                    Err(Error::Fetch(error)) if error.kind() == Kind::NotFound => {
                        cancel.sleep(LATE)?;
                        match read(client, &object, &expect, cancel) {
                            Err(Error::Fetch(error)) if error.kind() == Kind::NotFound => {
                                let place = self.shown();
                                return Err(Error::Image(Unusable::NoBlob { place, digest }));
                            }
                            read => read?,
                        }
                    }
                    read => read?,
                }
            }
            Blobs::Directory(layout) => layout.blob(digest)?.document(document, &self.shown())?,
            Blobs::Tar(archive) => archive.blob(digest)?.document(document, &self.shown())?,
        })
    }

    /// Where a layer's bytes are, and what people are told that it is.
    ///
    /// # Errors
    /// [`Error::Image`] where a file of this host has another size than the manifest promises; a server is asked later.
    pub(crate) fn layer(&self, digest: Digest, size: u64) -> Result<(Place, String), Error> {
        let sized = |piece: Piece| match piece.bytes() == size {
            true => Ok(Place::Here(piece)),
            false => Err(Error::Image(Unusable::Size {
                layer: format!("{}: {digest}", self.shown()),
                expected: size,
                found: piece.bytes(),
            })),
        };
        match self {
            Blobs::Bucket { client, .. } | Blobs::Registry { client, .. } => {
                let object = self.object(digest)?;
                let title = object.to_string();
                Ok((Place::Server { client: client.clone(), object }, title))
            }
            Blobs::Directory(layout) => {
                Ok((sized(layout.blob(digest)?)?, format!("{}: {digest}", self.shown())))
            }
            Blobs::Tar(archive) => {
                Ok((sized(archive.blob(digest)?)?, format!("{}: {digest}", self.shown())))
            }
        }
    }

    fn object(&self, digest: Digest) -> Result<Locator, Error> {
        match self {
            Blobs::Bucket { bucket, prefix, .. } => {
                let key = format!("{prefix}blobs/sha256/{}", digest.hex());
                Ok(Locator::Object(ObjectRef::new(bucket, &key)?))
            }
            Blobs::Registry { at, .. } => Ok(Locator::Blob(BlobRef::new(at, digest))),
            Blobs::Directory(_) | Blobs::Tar(_) => {
                Err(Error::Image(Unusable::NoBlob { place: self.shown(), digest }))
            }
        }
    }

    /// The place as a message has it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Blobs::Bucket { bucket, prefix, .. } => format!("oci:s3://{bucket}/{prefix}"),
            Blobs::Registry { at, .. } => format!("docker://{}/{}", at.host, at.name),
            Blobs::Directory(layout) => format!("oci:{}", layout.shown()),
            Blobs::Tar(archive) => archive.shown().to_owned(),
        }
    }
}

/// The config of an image of `docker save`, and its digest.
pub(crate) fn saved_config(
    archive: &Archive,
    archived: &Archived,
) -> Result<(Vec<u8>, Digest), Error> {
    let bytes = archive.document(Document::Config, &archived.config)?;
    let digest = archived.id(&bytes).map_err(unusable(archive.shown()))?;
    Ok((bytes, digest))
}

/// A small object, whole; a wish to stop is heard meanwhile.
fn read(
    client: &Client,
    object: &Locator,
    expect: &Expect,
    cancel: &Cancel,
) -> Result<Vec<u8>, Error> {
    let (client, object, expect) = (client.clone(), object.clone(), expect.clone());
    heedfully(cancel, move || client.read_whole(&object, &expect))?.map_err(Error::Fetch)
}
