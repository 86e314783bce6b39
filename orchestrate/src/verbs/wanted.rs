//! What is to be built, and on what.

use fetch::Ahead;
use registry::{Blob, Digest, Role, Source, Volume, VolumeState};

use crate::error::Error;
use crate::host::{Host, spools};
use crate::store::seal::{self, SealRecord};

/// One layer that is wanted on top of a sealed parent.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The object in the bucket.
    pub(crate) layer: fetch::Layer,
    /// Its identity, where the server gives an ETag.
    pub(crate) source: Option<Source>,
    /// The blob that it is taken for.
    pub(crate) blob: Option<Blob>,
    /// Whether that is only what another key's ETag says: good enough to use what is sealed, and not to
    /// expect anything of what arrives.
    pub(crate) guessed: bool,
    /// What a signed catalog says it is.
    pub(crate) signed: Option<Digest>,
    /// The image of which this is the last layer.
    pub(crate) top_of: Option<String>,
}

impl Wanted {
    /// What is built, apart from the parent: the digest where it is known, else the identity.
    pub(crate) fn name(&self) -> String {
        match (&self.blob, &self.source) {
            (Some(blob), _) => blob.digest.to_string(),
            (None, Some(s)) if s.is_single_part() => {
                format!("{}/{} {} {}", s.endpoint, s.bucket, s.etag, s.size)
            }
            // Whoever writes another key may have chosen its ETag: what becomes of that is its own.
            (None, Some(s)) => {
                let key = &self.layer.object.object.key;
                format!("{}/{}/{key} {} {}", s.endpoint, s.bucket, s.etag, s.size)
            }
            (None, None) => self.layer.object.object.to_string(),
        }
    }

    pub(crate) fn key(&self, parent: u32) -> String {
        format!("{parent} + {}", self.name())
    }

    /// What the volume will say of itself.
    pub(crate) fn seal_record(
        &self,
        volume: &Volume,
        applied: &unpack::Applied,
        chain: Digest,
        tree: Digest,
        md5: Option<bool>,
        made: Option<u64>,
    ) -> SealRecord {
        let object = &self.layer.object;
        let source = self.source.as_ref();
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
                entries: applied.entries,
                content: applied.content_bytes,
            }),
            origin: source.map(|source| seal::Origin {
                endpoint: source.endpoint.clone(),
                bucket: source.bucket.clone(),
                key: object.object.key.clone(),
                etag: Some(source.etag.clone()),
                md5,
                image: self.top_of.clone(),
            }),
        }
    }

    pub(crate) fn title(&self) -> String {
        self.layer.object.object.to_string()
    }

    /// What was read of this very object at this ETag and size.
    pub(crate) fn remembered(&self) -> Option<&Blob> {
        self.blob.as_ref().filter(|_| !self.guessed)
    }

    /// What it has to be: as signed, or, as long as nothing speaks against it, as it was.
    pub(crate) fn expected(&self) -> Option<Digest> {
        self.signed.or(self.remembered().map(|blob| blob.digest))
    }

    pub(crate) fn stream(&self, host: &Host, client: &fetch::Client) -> Result<Ahead, Error> {
        let object = &self.layer.object;
        let mut expect = object.expect();
        expect.sha256 = self.expected().map(|digest| digest.0);
        expect.size_max = Some(host.settings.limits.bytes_max);
        let spool = spools::spool_dir(&host.settings.state)?;
        // Whether this server's ETags are what another key may be taken for; what a cache sends tells
        // nothing of that.
        let md5 = match self.source.as_ref().filter(|source| source.is_single_part()) {
            Some(source) if host.settings.etag_dedup && host.settings.fetch.sources.is_empty() => {
                host.registry.etag_doubt(&source.endpoint, &source.bucket)?.is_none()
            }
            Some(_) | None => false,
        };
        let (client, object) = (client.clone(), object.object.clone());
        Ok(Ahead::begin(client, object, expect, spool, md5))
    }
}

/// The chain id of a sealed parent; none for the template.
pub(crate) fn chain_below(parent: &Volume) -> Result<Option<Digest>, Error> {
    match &parent.state {
        VolumeState::Sealed(seal) => Ok(seal.chain),
        VolumeState::Building | VolumeState::Deleting => Err(Error::Lost { volume: parent.id }),
    }
}
