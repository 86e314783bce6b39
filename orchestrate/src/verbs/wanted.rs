//! What is to be built, and on what.

use fetch::{Ahead, Client, Expect, Locator};
use registry::{Blob, Digest, Role, Source, Volume, VolumeId, VolumeState};

use crate::error::Error;
use crate::host::{Host, spools};
use crate::local::piece::Piece;
use crate::store::seal::{self, SealRecord};
use crate::verbs::arriving::Arriving;

/// How the keys of all builds on this volume begin ([`Wanted::key`]).
pub(crate) fn keys_on(parent: VolumeId) -> String {
    format!("{parent} + ")
}

/// Where a layer's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At a server.
    Server {
        /// Who speaks to it.
        client: Client,
        /// Which of its objects.
        object: Locator,
    },
    /// In a file of this host.
    Here(Piece),
}

/// The image that a layer is the last of.
#[derive(Clone, Debug)]
pub(crate) struct TopOf {
    /// Its reference.
    pub(crate) image: String,
    /// Its manifest, where it has one.
    pub(crate) manifest: Option<Digest>,
}

/// One layer that is wanted on top of a sealed parent.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Its place in the image, from 1 (the base).
    pub(crate) number: u64,
    /// What the image's row calls it: the object's key, or the digest that a manifest has.
    pub(crate) key: String,
    /// What people are told that it is.
    pub(crate) title: String,
    /// Bytes, as they come.
    pub(crate) size: u64,
    /// The object's ETag, where the server gives one.
    pub(crate) etag: Option<String>,
    /// Where it is.
    pub(crate) place: Place,
    /// Its identity, where the server gives an ETag that has to stand for it.
    pub(crate) source: Option<Source>,
    /// The blob that it is taken for.
    pub(crate) blob: Option<Blob>,
    /// Whether that is only what another key's ETag says: good enough to use what is sealed, and not to
    /// expect anything of what arrives.
    pub(crate) guessed: bool,
    /// What a signed catalog or a manifest says it is.
    pub(crate) signed: Option<Digest>,
    /// What the image's config says that it unpacks to.
    pub(crate) diff: Option<Digest>,
    /// The image of which this is the last layer.
    pub(crate) top_of: Option<TopOf>,
}

impl Wanted {
    /// What is built, apart from the parent: the digest where it is known, else the identity.
    pub(crate) fn name(&self) -> String {
        match (&self.blob, &self.source, self.signed.or(self.diff)) {
            (Some(blob), _, _) => blob.digest.to_string(),
            (None, Some(s), _) if s.is_single_part() => {
                format!("{}/{} {} {}", s.endpoint, s.bucket, s.etag, s.size)
            }
            // Whoever writes another key may have chosen its ETag: what becomes of that is its own.
            (None, Some(s), _) => {
                format!("{}/{}/{} {} {}", s.endpoint, s.bucket, self.key, s.etag, s.size)
            }
            (None, None, Some(digest)) => digest.to_string(),
            (None, None, None) => self.title.clone(),
        }
    }

    pub(crate) fn key(&self, parent: VolumeId) -> String {
        format!("{}{}", keys_on(parent), self.name())
    }

    /// The sha256 of its plain tar, as far as it is known beforehand.
    pub(crate) fn known_diff(&self) -> Option<Digest> {
        self.diff.or_else(|| self.blob.as_ref().map(|blob| blob.diff))
    }

    /// Whether it is worth while to have it arrive while `other` is put to use: it has to come over the network,
    /// nothing is known that may make it needless, and it is not the same object.
    pub(crate) fn may_come_ahead(&self, other: &Wanted) -> bool {
        let same = match (&self.source, &other.source) {
            (None, None) => self.signed.is_some() && self.signed == other.signed,
            (one, another) => one == another,
        };
        matches!(self.place, Place::Server { .. }) && self.blob.is_none() && !same
    }

    /// What the volume will say of itself.
    pub(crate) fn seal_record(
        &self,
        volume: &Volume,
        applied: &unpack::Applied,
        chain: Digest,
        (tree, blocks): (Digest, Option<Digest>),
        md5: Option<bool>,
        made: Option<u64>,
    ) -> SealRecord {
        SealRecord {
            id: volume.id,
            role: Role::Layer,
            parent: volume.parent,
            bytes: volume.bytes,
            made,
            key: None,
            layer: Some(seal::Layer {
                blob: Digest(applied.blob_digest),
                size: applied.blob_bytes,
                diff: Digest(applied.diff_id),
                diff_size: applied.diff_bytes,
                chain,
                tree: Some(tree),
                blocks,
                entries: applied.entries,
                content: applied.content_bytes,
            }),
            origin: self.origin(md5),
        }
    }

    fn origin(&self, md5: Option<bool>) -> Option<seal::Origin> {
        let image = self.top_of.as_ref().map(|top| top.image.clone());
        let manifest = self.top_of.as_ref().and_then(|top| top.manifest);
        match (&self.source, &self.place) {
            (Some(source), _) => Some(seal::Origin {
                endpoint: source.endpoint.clone(),
                bucket: source.bucket.clone(),
                key: self.key.clone(),
                etag: Some(source.etag.clone()),
                md5,
                image,
                manifest,
            }),
            // By their digest they are known wherever they are: only the image is worth the room.
            (None, Place::Server { client, object }) if image.is_some() => Some(seal::Origin {
                endpoint: client.endpoint().to_owned(),
                bucket: match object {
                    Locator::Object(object) => object.bucket.clone(),
                    Locator::Blob(blob) => blob.name.clone(),
                },
                key: self.key.clone(),
                etag: None,
                md5: None,
                image,
                manifest,
            }),
            (None, Place::Here(_)) if image.is_some() => Some(seal::Origin {
                endpoint: String::new(),
                bucket: String::new(),
                key: self.key.clone(),
                etag: None,
                md5: None,
                image,
                manifest,
            }),
            (None, Place::Server { .. } | Place::Here(_)) => None,
        }
    }

    pub(crate) fn title(&self) -> String {
        self.title.clone()
    }

    /// What was read of this very object at this ETag and size.
    pub(crate) fn remembered(&self) -> Option<&Blob> {
        self.blob.as_ref().filter(|_| !self.guessed)
    }

    /// What it has to be: as signed, or, as long as nothing speaks against it, as it was.
    pub(crate) fn expected(&self) -> Option<Digest> {
        self.signed.or(self.remembered().map(|blob| blob.digest))
    }

    /// How the names of the files begin that are kept of it while it arrives; empty where none are.
    pub(crate) fn spools(&self) -> String {
        match &self.place {
            Place::Server { client, object } => client.spools_of(object),
            Place::Here(_) => String::new(),
        }
    }

    /// Whom else to ask for it; none where nobody else has it.
    pub(crate) fn elsewhere(&self) -> Result<Option<Place>, Error> {
        match &self.place {
            Place::Server { client, object } => {
                let other = client.elsewhere(object).map_err(Error::Fetch)?;
                Ok(other.map(|client| Place::Server { client, object: object.clone() }))
            }
            Place::Here(_) => Ok(None),
        }
    }

    pub(crate) fn stream(&self, host: &Host) -> Result<Arriving, Error> {
        let (client, object) = match &self.place {
            Place::Server { client, object } => (client.clone(), object.clone()),
            Place::Here(piece) => return Ok(Arriving::local(piece)),
        };
        let expect = Expect {
            size: Some(self.size),
            etag: self.etag.clone(),
            sha256: self.expected().map(|digest| digest.0),
            size_max: Some(host.settings.limits.bytes_max),
        };
        let spool = spools::spool_dir(&host.settings.state)?;
        // Whether this server's ETags are what another key may be taken for; what a cache sends tells
        // nothing of that.
        let md5 = match self.source.as_ref().filter(|source| source.is_single_part()) {
            Some(source) if host.settings.etag_dedup && host.settings.fetch.sources.is_empty() => {
                host.registry.etag_doubt(&source.endpoint, &source.bucket)?.is_none()
            }
            Some(_) | None => false,
        };
        Ok(Arriving::Fetched(Ahead::begin(client, object, expect, spool, md5)))
    }
}

/// The chain id of a sealed parent; none for the template.
pub(crate) fn chain_below(parent: &Volume) -> Result<Option<Digest>, Error> {
    match &parent.state {
        VolumeState::Sealed(seal) => Ok(seal.chain),
        VolumeState::Building | VolumeState::Deleting => Err(Error::Lost { volume: parent.id }),
    }
}
