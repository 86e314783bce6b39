//! Builds one layer: reserve, snapshot of the parent, apply, seal; or nothing of it stays.
//!
//! Each function ends in a commit and may be killed anywhere: an intent is on disk before its effect.

use std::io;

use registry::{
    Blob, Digest, KnownBy, NewVolume, Role, Seal, Source, Volume, VolumeState, chain_id,
};

use crate::error::{class, stream_error};
use crate::lock::Lock;
use crate::note::{self, Key, Note};
use crate::perform::{discard_alone, discard_earlier};
use crate::stream::{self, Stream};
use crate::{Error, Host};

/// A build that began this often without any end is not begun again.
const ATTEMPTS_MAX: u32 = 5;

/// How often a too small volume is made anew, each time twice as large.
const SIZES_MAX: u32 = 6;

/// One layer that is wanted on top of a sealed parent.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The object in the bucket.
    pub(crate) layer: fetch::Layer,
    /// Its identity, where the server gives an ETag.
    pub(crate) source: Option<Source>,
    /// The blob, where it was read before.
    pub(crate) blob: Option<Blob>,
    /// What a signed catalog says it is.
    pub(crate) signed: Option<Digest>,
    /// The image of which this is the last layer.
    pub(crate) top_of: Option<String>,
}

/// A layer that is there now.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) volume: u32,
    pub(crate) chain: Digest,
    pub(crate) blob: Blob,
    /// Bytes that came over the network.
    pub(crate) fetched: u64,
    /// Whether the volume is this run's own work.
    pub(crate) own: bool,
}

/// A build's lock, and the body that may be on its way already.
#[derive(Debug)]
pub(crate) struct Begun {
    key: String,
    _lock: Lock,
    stream: Option<Stream>,
}

impl Wanted {
    /// What is built, apart from the parent: the digest where it is known, else the identity.
    fn name(&self) -> String {
        match (&self.blob, &self.source) {
            (Some(blob), _) => blob.digest.to_string(),
            (None, Some(s)) => format!("{}/{} {} {}", s.endpoint, s.bucket, s.etag, s.size),
            (None, None) => self.layer.object.object.to_string(),
        }
    }

    fn key(&self, parent: u32) -> String {
        format!("{parent} + {}", self.name())
    }

    /// What the volume will say of itself.
    fn note(
        &self,
        volume: &Volume,
        applied: &unpack::Applied,
        chain: Digest,
        tree: Digest,
    ) -> Note {
        let object = &self.layer.object;
        let source = self.source.as_ref();
        Note {
            id: volume.id,
            role: Role::Layer,
            parent: volume.parent,
            bytes: volume.bytes,
            key: None,
            layer: Some(note::Layer {
                blob: Digest(applied.blob_digest),
                size: applied.blob_bytes,
                diff: Digest(applied.diff_id),
                diff_size: applied.diff_bytes,
                chain,
                tree: Some(tree),
                entries: applied.entries,
                content: applied.content_bytes,
            }),
            origin: source.map(|source| note::Origin {
                endpoint: source.endpoint.clone(),
                bucket: source.bucket.clone(),
                key: object.object.key.clone(),
                etag: Some(source.etag.clone()),
                image: self.top_of.clone(),
            }),
        }
    }

    fn title(&self) -> String {
        self.layer.object.object.to_string()
    }

    fn stream(&self, host: &Host, client: &fetch::Client) -> Result<Stream, Error> {
        let object = &self.layer.object;
        let mut expect = object.expect();
        expect.sha256 = self.signed.or(self.blob.as_ref().map(|blob| blob.digest)).map(|d| d.0);
        expect.size_max = Some(host.settings.limits.bytes_max);
        let spool = stream::spool_dir(&host.settings.state)?;
        Ok(Stream::begin(client.clone(), object.object.clone(), expect, spool))
    }
}

/// Takes the build's lock; waits for whoever has it.
pub(crate) fn begin(host: &Host, wanted: &Wanted, parent: u32) -> Result<Begun, Error> {
    let key = wanted.key(parent);
    let lock = host.locks.build(&key)?;
    Ok(Begun { key, _lock: lock, stream: None })
}

/// Takes the build's lock and begins to fetch, if nobody else is at it.
pub(crate) fn begin_ahead(
    host: &Host,
    wanted: &Wanted,
    parent: u32,
) -> Result<Option<Begun>, Error> {
    let key = wanted.key(parent);
    let Some(lock) = host.locks.try_build(&key)? else { return Ok(None) };
    let stream = wanted.stream(host, host.client()?)?;
    Ok(Some(Begun { key, _lock: lock, stream: Some(stream) }))
}

impl Begun {
    /// Whether this is the lock for `wanted` on `parent`.
    pub(crate) fn is_for(&self, wanted: &Wanted, parent: u32) -> bool {
        self.key == wanted.key(parent)
    }

    /// It will not be built: nothing of it stays.
    pub(crate) fn discard_spool(self) {
        if let Some(stream) = &self.stream {
            stream.discard_spool();
        }
    }
}

/// Fetches, applies and seals one layer. `ahead` is called with the new volume's id once the
/// stream of this layer flows, so that the next may begin to arrive.
pub(crate) fn build(
    host: &mut Host,
    wanted: &Wanted,
    mut begun: Begun,
    parent: &Volume,
    mut ahead: impl FnMut(&Host, u32),
) -> Result<Built, Error> {
    let attempts = host.registry.attempts(&begun.key)?;
    refused_before(host, wanted)?;
    if attempts >= ATTEMPTS_MAX {
        let what = format!("layer {}", wanted.title());
        return Err(Error::CrashLoop { what, begun: attempts });
    }
    let mut bytes = parent.bytes;
    let mut client = host.client()?.clone();
    let mut size = 1;
    loop {
        let mut stream = match begun.stream.take() {
            Some(stream) => stream,
            None => wanted.stream(host, &client)?,
        };
        let volume = reserve(host, &begun.key, parent, bytes)?;
        ahead(host, volume.id);
        let applied = apply(host, wanted, parent, &volume, &mut stream);
        match applied.and_then(|applied| seal(host, wanted, parent, &volume, &applied)) {
            Ok(built) => {
                stream.discard_spool();
                return Ok(built);
            }
            Err(error) => {
                let error = abandon(host, &volume, error);
                let error = quarantine(host, wanted, &mut stream, error);
                // The file system was full and the pool was not: a compressed layer whose size
                // nobody knew beforehand.
                if size < SIZES_MAX && volume_was_full(host, &error) {
                    bytes = bytes.saturating_mul(2);
                    host.say(
                        1,
                        format_args!(
                            "{}: volume too small, again with {bytes} bytes",
                            wanted.title()
                        ),
                    );
                    stream.release();
                    size += 1;
                    continue;
                }
                if let Some(next) = stream::next(&client, wanted.blob.is_some(), &error)? {
                    client = next;
                    stream.discard_spool();
                    stream.release();
                    continue;
                }
                if !class(&error).may_retry() {
                    stream.discard_spool();
                }
                return Err(error);
            }
        }
    }
}

/// The same bytes are not unpacked again, whatever names them now.
fn refused_before(host: &Host, wanted: &Wanted) -> Result<(), Error> {
    let key = &wanted.layer.object.object.key;
    let same_key = (!host.settings.etag_dedup).then_some(key.as_str());
    let refused = match (&wanted.blob, &wanted.source) {
        (Some(blob), _) => host.registry.refused(blob.digest)?,
        (None, Some(source)) => host.registry.refused_source(source, same_key)?,
        (None, None) => None,
    };
    match refused {
        None => Ok(()),
        Some(refused) => Err(Error::Quarantined {
            layer: wanted.title(),
            digest: refused.digest,
            why: refused.message,
        }),
    }
}

/// Where the layer's own bytes were refused, reads on to their end, so that they are known by
/// digest, and remembers them. A limit is the caller's and not the bytes' own.
fn quarantine(host: &mut Host, wanted: &Wanted, stream: &mut Stream, error: Error) -> Error {
    let refused = matches!(&error, Error::Unpack { source, .. }
        if source.kind() == unpack::Kind::Refused && stream_error(source).is_none());
    // A stream that fails now leaves only a blob that is refused again.
    if !refused || io::copy(stream, &mut io::sink()).is_err() {
        return error;
    }
    let Some(summary) = stream.summary() else { return error };
    let (digest, bytes) = (Digest(summary.sha256), summary.bytes);
    let (key, why) = (&wanted.layer.object.object.key, error.to_string());
    // A cache or a peer may have lied: then the bytes are bad, and the object may be good.
    let source = wanted.source.as_ref().filter(|_| host.settings.fetch.sources.is_empty());
    let kept = host.registry.write(|write| write.refuse(digest, bytes, source, key, &why));
    if let Err(second) = kept {
        host.say(1, format_args!("{}: cannot be quarantined: {second}", wanted.title()));
    }
    error
}

fn volume_was_full(host: &Host, error: &Error) -> bool {
    let full =
        matches!(error, Error::Unpack { source, .. } if source.kind() == unpack::Kind::NoSpace);
    let room = host.store.space().is_ok_and(|space| space.free() > space.total / 50 + space.block);
    full && room && host.store.alone()
}

/// Commits a fresh id and makes it a snapshot of the parent.
fn reserve(host: &mut Host, build: &str, parent: &Volume, bytes: u64) -> Result<Volume, Error> {
    let alone = host.locks.store()?;
    discard_earlier(host, build)?;
    host.store.admit(1)?;
    let new = NewVolume { role: Role::Layer, parent: Some(parent.id), build, bytes };
    let id = host.fenced(|write| write.reserve_volume(&new))?;
    let volume = Volume {
        id,
        role: Role::Layer,
        parent: Some(parent.id),
        build: build.into(),
        bytes,
        state: VolumeState::Building,
    };
    match host.store.snapshot(id, parent.id) {
        Ok(()) => Ok(volume),
        Err(error) => {
            drop(alone);
            Err(abandon(host, &volume, error))
        }
    }
}

/// What one apply found, and how large the volume became.
struct Done {
    applied: unpack::Applied,
    tree: Digest,
    fetched: u64,
    bytes: u64,
    own_bytes: u64,
}

fn apply(
    host: &Host,
    wanted: &Wanted,
    parent: &Volume,
    volume: &Volume,
    stream: &mut Stream,
) -> Result<Done, Error> {
    let title = wanted.title();
    let before = host.store.space()?;
    let mut work = host.store.open(volume.id, volume.bytes)?;
    let plain = wanted.blob.as_ref().map_or(wanted.layer.object.size, |blob| blob.diff_size);
    work.make_room(plain)?;
    let manifest = host.manifests.unnamed(volume.id)?;
    let limits = &host.settings.limits;
    let applied = unpack::sandbox::apply_with(&mut *stream, work.root(), limits, Some(&manifest))
        .map_err(|source| Error::Unpack { layer: title.clone(), source })?;
    let found = Digest(applied.blob_digest);
    let expected = [
        wanted.signed,
        wanted.blob.as_ref().map(|blob| blob.digest),
        stream.summary().map(|summary| Digest(summary.sha256)),
    ];
    if let Some(refused) = host.registry.refused(found)? {
        let (digest, why) = (refused.digest, refused.message);
        return Err(Error::Quarantined { layer: title, digest, why });
    }
    // Two hashes of one stream, by two crates: they agree, or somebody lost a byte in between.
    for expected in expected.into_iter().flatten() {
        if expected != found {
            return Err(Error::Mismatch { layer: title, expected, found });
        }
    }
    let bytes = work.bytes();
    let tree = host.manifests.seal(work.root(), volume.id, parent, manifest)?;
    let volume = Volume { bytes, ..volume.clone() };
    let chain = chain_id(chain_below(parent)?, Digest(applied.diff_id));
    let key = host.registry.seal_key()?;
    // A store that was begun by an older veneer has no key, and its volumes no notes.
    let note = key.map(|key| wanted.note(&volume, &applied, chain, tree).seal(&Key(key.0)));
    work.close(note.as_deref())?;
    let own_bytes = host.store.taken(&before, applied.content_bytes)?;
    let reused = stream.summary().map_or(0, |summary| summary.reused);
    Ok(Done { tree, fetched: applied.blob_bytes.saturating_sub(reused), applied, bytes, own_bytes })
}

/// Commits what was proven. Where the stack turns out to exist already, that one is kept.
fn seal(
    host: &mut Host,
    wanted: &Wanted,
    parent: &Volume,
    volume: &Volume,
    done: &Done,
) -> Result<Built, Error> {
    let applied = &done.applied;
    let diff = Digest(applied.diff_id);
    let chain = chain_id(chain_below(parent)?, diff);
    let blob = Blob {
        digest: Digest(applied.blob_digest),
        diff,
        size: applied.blob_bytes,
        diff_size: applied.diff_bytes,
    };
    let _alone = host.locks.store()?;
    let twin = host.registry.layer(chain)?;
    let volume = Volume { bytes: done.bytes, ..volume.clone() };
    if let Some(twin) = twin {
        host.registry.write(|write| {
            put_blob(write, wanted, &blob)?;
            write.count("fetch_bytes_total", "", done.fetched)?;
            write.count("layers_total", "how=\"adopted\"", 1)
        })?;
        discard_alone(host, &volume)?;
        return Ok(Built { volume: twin.id, chain, blob, fetched: done.fetched, own: false });
    }
    let sealed = VolumeState::Sealed(Seal {
        chain: Some(chain),
        diff: Some(diff),
        blob: Some(blob.digest),
        tree: Some(done.tree),
        own_bytes: done.own_bytes,
        entries: applied.entries,
        content_bytes: applied.content_bytes,
    });
    host.fenced(|write| {
        put_blob(write, wanted, &blob)?;
        write.count("fetch_bytes_total", "", done.fetched)?;
        write.advance_volume(&volume, &sealed)
    })?;
    host.sealed += 1;
    Ok(Built { volume: volume.id, chain, blob, fetched: done.fetched, own: true })
}

/// The chain id of a sealed parent; none for the template.
fn chain_below(parent: &Volume) -> Result<Option<Digest>, Error> {
    match &parent.state {
        VolumeState::Sealed(seal) => Ok(seal.chain),
        VolumeState::Building | VolumeState::Deleting => Err(Error::Lost { volume: parent.id }),
    }
}

fn put_blob(
    write: &registry::Write<'_>,
    wanted: &Wanted,
    blob: &Blob,
) -> Result<(), registry::Error> {
    write.put_blob(blob)?;
    let key = &wanted.layer.object.object.key;
    match &wanted.source {
        Some(source) => write.put_source(source, key, blob, KnownBy::Read),
        None => Ok(()),
    }
}

/// Throws away a volume that was being built, and gives back why. Where that fails too, the next
/// command's recovery does it.
pub(crate) fn abandon(host: &mut Host, volume: &Volume, why: Error) -> Error {
    let discarded = host
        .locks
        .store()
        .and_then(|_alone| discard_alone(host, volume))
        .and_then(|()| Ok(host.registry.write(|write| write.settle_attempt(&volume.build))?));
    if let Err(error) = discarded {
        host.say(1, format_args!("volume {} is left to recovery: {error}", volume.id));
    }
    why
}
