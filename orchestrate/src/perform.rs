//! Performs one step: the only file in which all four leaves meet.
//!
//! What to do is decided in `plan`. Each function here ends in a commit, and may be killed anywhere:
//! an intent is on disk before its effect.

use registry::{
    ActivationState, Blob, Digest, Image, ImageLayer, KnownBy, NewActivation, NewVolume, Role,
    Seal, Source, Volume, VolumeState, chain_id,
};

use crate::error::class;
use crate::lock::Lock;
use crate::plan::{self, VolumeStep};
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

    fn title(&self) -> String {
        self.layer.object.object.to_string()
    }

    fn stream(&self, host: &Host, client: &fetch::Client) -> Result<Stream, Error> {
        let object = &self.layer.object;
        let mut expect = object.expect();
        expect.sha256 = self.blob.as_ref().map(|blob| blob.digest.0);
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
    if attempts >= ATTEMPTS_MAX {
        return Err(Error::CrashLoop { layer: wanted.title(), begun: attempts });
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
        let applied = apply(host, wanted, &volume, &mut stream);
        match applied.and_then(|applied| seal(host, wanted, parent, &volume, &applied)) {
            Ok(built) => {
                stream.discard_spool();
                return Ok(built);
            }
            Err(error) => {
                let error = abandon(host, &volume, error);
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

fn volume_was_full(host: &Host, error: &Error) -> bool {
    let full =
        matches!(error, Error::Unpack { source, .. } if source.kind() == unpack::Kind::NoSpace);
    let room = host.store.space().is_ok_and(|space| space.free() > space.total / 50 + space.block);
    full && room && host.store.alone()
}

/// Commits a fresh id and makes it a snapshot of the parent.
fn reserve(host: &mut Host, build: &str, parent: &Volume, bytes: u64) -> Result<Volume, Error> {
    let alone = host.locks.store()?;
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
    fetched: u64,
    bytes: u64,
    own_bytes: u64,
}

fn apply(
    host: &Host,
    wanted: &Wanted,
    volume: &Volume,
    stream: &mut Stream,
) -> Result<Done, Error> {
    let title = wanted.title();
    let before = host.store.space()?;
    let mut work = host.store.open(volume.id, volume.bytes)?;
    let plain = wanted.blob.as_ref().map_or(wanted.layer.object.size, |blob| blob.diff_size);
    work.make_room(plain)?;
    let applied = unpack::sandbox::apply(&mut *stream, work.root(), &host.settings.limits)
        .map_err(|source| Error::Unpack { layer: title.clone(), source })?;
    let found = Digest(applied.blob_digest);
    let expected = [
        wanted.blob.as_ref().map(|blob| blob.digest),
        stream.summary().map(|summary| Digest(summary.sha256)),
    ];
    // Two hashes of one stream, by two crates: they agree, or somebody lost a byte in between.
    for expected in expected.into_iter().flatten() {
        if expected != found {
            return Err(Error::Mismatch { layer: title, expected, found });
        }
    }
    let bytes = work.bytes();
    work.close()?;
    let own_bytes = host.store.taken(&before, applied.content_bytes)?;
    let reused = stream.summary().map_or(0, |summary| summary.reused);
    Ok(Done { fetched: applied.blob_bytes.saturating_sub(reused), applied, bytes, own_bytes })
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
    let below = match &parent.state {
        VolumeState::Sealed(seal) => seal.chain,
        VolumeState::Building | VolumeState::Deleting => {
            return Err(Error::Lost { volume: parent.id });
        }
    };
    let chain = chain_id(below, diff);
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
        host.registry.write(|write| put_blob(write, wanted, &blob))?;
        discard_alone(host, &volume)?;
        return Ok(Built { volume: twin.id, chain, blob, fetched: done.fetched, own: false });
    }
    let sealed = VolumeState::Sealed(Seal {
        chain: Some(chain),
        diff: Some(diff),
        blob: Some(blob.digest),
        tree: Some(Digest(applied.tree_digest)),
        own_bytes: done.own_bytes,
        entries: applied.entries,
        content_bytes: applied.content_bytes,
    });
    host.fenced(|write| {
        put_blob(write, wanted, &blob)?;
        write.advance_volume(&volume, &sealed)
    })?;
    Ok(Built { volume: volume.id, chain, blob, fetched: done.fetched, own: true })
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
fn abandon(host: &mut Host, volume: &Volume, why: Error) -> Error {
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

fn discard_alone(host: &mut Host, volume: &Volume) -> Result<(), Error> {
    host.registry.write(|write| write.advance_volume(volume, &VolumeState::Deleting))?;
    delete_volume(host, volume.id)
}

/// Takes a deleting volume out of the store and drops its row. The caller holds the store's lock.
pub(crate) fn delete_volume(host: &mut Host, id: u32) -> Result<(), Error> {
    host.store.delete(id)?;
    host.fenced(|write| write.forget_volume(id))
}

/// One step of a volume that nobody is building. The caller holds the store's lock.
pub(crate) fn settle_volume(
    host: &mut Host,
    volume: &Volume,
    step: VolumeStep,
) -> Result<(), Error> {
    match step {
        VolumeStep::Keep => Ok(()),
        VolumeStep::Unmap => {
            for mapped in host.store.mapped()?.into_iter().filter(|m| m.id == volume.id) {
                host.store.unmap(&mapped.name)?;
            }
            Ok(())
        }
        VolumeStep::Discard => discard_alone(host, volume),
        VolumeStep::Delete => delete_volume(host, volume.id),
    }
}

/// The sealed template; made when there is none.
pub(crate) fn template(host: &mut Host) -> Result<Volume, Error> {
    const BUILD: &str = "template";
    if let Some(template) = host.registry.template()? {
        return Ok(template);
    }
    let _lock = host.locks.build(BUILD)?;
    if let Some(template) = host.registry.template()? {
        return Ok(template);
    }
    let bytes = host.settings.volume_bytes;
    let alone = host.locks.store()?;
    host.say(1, format_args!("making the template file system, once for this store"));
    let before = host.store.space()?;
    let new = NewVolume { role: Role::Template, parent: None, build: BUILD, bytes };
    let id = host.fenced(|write| write.reserve_volume(&new))?;
    let mut volume = Volume {
        id,
        role: Role::Template,
        parent: None,
        build: BUILD.into(),
        bytes,
        state: VolumeState::Building,
    };
    match host.store.make_template(id, bytes) {
        Ok(bytes) => volume.bytes = bytes,
        Err(error) => {
            drop(alone);
            return Err(abandon(host, &volume, error));
        }
    }
    let own_bytes = host.store.taken(&before, 0)?;
    let blank = Seal {
        chain: None,
        diff: None,
        blob: None,
        tree: None,
        own_bytes,
        entries: 0,
        content_bytes: 0,
    };
    let sealed = VolumeState::Sealed(blank);
    host.fenced(|write| write.advance_volume(&volume, &sealed))?;
    volume.state = sealed;
    Ok(volume)
}

/// Publishes an image, with what was learnt of its blobs by ETag.
pub(crate) fn publish(
    host: &mut Host,
    reference: &str,
    chain: Digest,
    layers: &[(Wanted, u32, Blob)],
) -> Result<Image, Error> {
    let image = Image {
        reference: reference.into(),
        endpoint: host.client()?.endpoint().into(),
        chain,
        layers: layers
            .iter()
            .map(|(wanted, volume, blob)| ImageLayer {
                key: wanted.layer.object.object.key.clone(),
                etag: wanted.layer.object.etag.clone(),
                size: wanted.layer.object.size,
                digest: blob.digest,
                volume: *volume,
            })
            .collect(),
    };
    if host.registry.image(reference)?.as_ref() == Some(&image) {
        return Ok(image);
    }
    host.registry.write(|write| {
        for (wanted, _, blob) in layers {
            let key = &wanted.layer.object.object.key;
            if let Some(source) = &wanted.source {
                write.put_source(source, key, blob, KnownBy::Etag)?;
            }
        }
        write.put_image(&image)
    })?;
    Ok(image)
}

/// Commits a fresh activation of `origin`; its snapshot does not exist yet.
pub(crate) fn reserve_activation(host: &mut Host, new: &NewActivation<'_>) -> Result<(), Error> {
    let _alone = host.locks.store()?;
    let id = host.fenced(|write| write.reserve_activation(new))?;
    host.store.snapshot(id, new.origin)
}

/// One step of an activation. The caller holds the activation's lock.
pub(crate) fn activation_step(
    host: &mut Host,
    name: &str,
    step: plan::ActivationStep,
) -> Result<(), Error> {
    use plan::ActivationStep::{Condemn, Delete, Done, Map, Publish, Reserve, Rest, Unmap};
    let row = host.registry.activation(name)?;
    let Some(row) = row else {
        return match step {
            Reserve | Done => Ok(()),
            Publish | Map | Unmap | Rest | Condemn | Delete => {
                Err(Error::Unknown { what: "activation", name: name.into() })
            }
        };
    };
    let advance = |host: &mut Host, next: ActivationState| -> Result<(), Error> {
        Ok(host.registry.write(|write| write.advance_activation(name, row.state, next))?)
    };
    match step {
        Reserve | Done => Ok(()),
        Publish | Map => {
            let origin = host.registry.volume(row.origin)?;
            host.store.map(row.id, name, row.bytes)?;
            if row.state == ActivationState::Reserved
                && origin.is_some_and(|origin| origin.bytes < row.bytes)
            {
                host.store.grow(row.id, name, row.bytes)?;
            }
            match row.state {
                ActivationState::Active => Ok(()),
                ActivationState::Reserved
                | ActivationState::Inactive
                | ActivationState::Deleting => advance(host, ActivationState::Active),
            }
        }
        Unmap => host.store.unmap(name),
        Rest => advance(host, ActivationState::Inactive),
        Condemn => advance(host, ActivationState::Deleting),
        Delete => {
            let _alone = host.locks.store()?;
            host.store.unmap(name)?;
            host.store.delete(row.id)?;
            host.fenced(|write| write.forget_activation(name))
        }
    }
}
