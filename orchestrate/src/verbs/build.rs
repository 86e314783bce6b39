//! Builds one layer: reserve, snapshot of the parent, apply, seal; or nothing of it stays.
//!
//! Each function ends in a commit and may be killed anywhere: an intent is on disk before its effect.

use registry::{Blob, Digest, NewVolume, Role, Seal, Volume, VolumeId, VolumeState, chain_id};
use unpack::{ImageError, Unfit};

use crate::error::Error;
use crate::error::class::Class;
use crate::error::image::Unusable;
use crate::error::leaves::stream_error;
use crate::host::ids::{self, New};
use crate::host::{Host, walls};
use crate::plan::class::class;
use crate::process::lock::Lock;
use crate::store::content::Content;
use crate::store::seal::{self, Key, SealRecord};
use crate::store::seam::Ground;
use crate::store::snapshot::Snapshot;
use crate::verbs::arriving::Arriving;
use crate::verbs::blobs::LATE;
use crate::verbs::catalog::listed::not_as_listed;
use crate::verbs::room::Paced;
use crate::verbs::verdict;
use crate::verbs::volumes::{abandon, discard_alone, discard_earlier};
use crate::verbs::wanted::{Place, Wanted, chain_below};

/// A build that began this often without any end is not begun again.
const ATTEMPTS_MAX: u32 = 5;

/// How often a too small volume is made anew, each time twice as large.
const SIZES_MAX: u32 = 6;

/// A layer that is there now.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) volume: VolumeId,
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
    stream: Option<Arriving>,
}

/// Takes the build's lock; waits for whoever has it, which may take as long as a download: nothing is kept
/// from removal meanwhile.
pub(crate) fn begin(host: &mut Host, wanted: &Wanted, parent: VolumeId) -> Result<Begun, Error> {
    let key = wanted.key(parent);
    let lock = match host.locks.try_build(&key)? {
        Some(lock) => lock,
        None => {
            host.let_images_go();
            let lock = host.locks.build(&key)?;
            host.use_images()?;
            lock
        }
    };
    Ok(Begun { key, _lock: lock, stream: None })
}

/// Takes the build's lock and begins to fetch, if nobody else is at it.
pub(crate) fn begin_ahead(
    host: &Host,
    wanted: &Wanted,
    parent: VolumeId,
) -> Result<Option<Begun>, Error> {
    let key = wanted.key(parent);
    let Some(lock) = host.locks.try_build(&key)? else { return Ok(None) };
    let stream = wanted.stream(host)?;
    Ok(Some(Begun { key, _lock: lock, stream: Some(stream) }))
}

impl Begun {
    /// Whether this is the lock for `wanted` on `parent`.
    pub(crate) fn is_for(&self, wanted: &Wanted, parent: VolumeId) -> bool {
        self.key == wanted.key(parent)
    }

    /// It will not be built: nothing of it stays.
    pub(crate) fn discard_spool(self) {
        if let Some(stream) = &self.stream {
            stream.discard_spool();
        }
    }
}

/// Whom to ask again after a layer failed, if that can help: what a spool had may be rotten, and a
/// cache or a peer may have lied or have another version, where a known digest lets anybody be asked.
fn whom_next(
    host: &Host,
    wanted: &Wanted,
    parent: &Volume,
    error: &Error,
) -> Result<Option<Place>, Error> {
    let (known, fetched) = (wanted.expected().is_some(), stream_error(error));
    if matches!(fetched, Some(fetch::Error::Rotten { .. })) {
        return Ok(Some(wanted.place.clone()));
    }
    // The config lies, and the bytes are those that everybody has.
    if matches!(error, Error::Image(Unusable::DiffId { .. })) {
        return Ok(None);
    }
    // These are the bytes that were wanted, and they were refused: nobody has others.
    if matches!(verdict::refused_before(host, wanted, parent), Err(Error::Quarantined { .. })) {
        return Ok(None);
    }
    let other = fetched.is_some_and(|fetched| fetched.kind() == fetch::Kind::Changed);
    match known && (other || class(error) == Class::Refused) {
        true => wanted.elsewhere(),
        false => Ok(None),
    }
}

/// Fetches, applies and seals one layer. `ahead` is called with the new volume's id once the
/// stream of this layer flows, so that the next may begin to arrive.
pub(crate) fn build(
    host: &mut Host,
    wanted: &Wanted,
    mut begun: Begun,
    parent: &Volume,
    mut ahead: impl FnMut(&Host, VolumeId),
) -> Result<Built, Error> {
    let attempts = host.registry.attempts(&begun.key)?;
    verdict::refused_before(host, wanted, parent)?;
    if attempts >= ATTEMPTS_MAX {
        let what = format!("layer {}", wanted.title());
        return Err(Error::CrashLoop { what, begun: attempts });
    }
    let mut wanted = wanted.clone();
    let mut bytes = parent.bytes;
    let mut size = 1;
    let mut waited = false;
    loop {
        host.use_images()?;
        let mut stream = match begun.stream.take() {
            Some(stream) => stream,
            None => wanted.stream(host)?,
        };
        let volume = reserve(host, &begun.key, parent, bytes)?;
        // From here on the row of the volume keeps what is below it.
        host.let_images_go();
        ahead(host, volume.id);
        let applied = apply(host, &wanted, parent, &volume, &mut stream);
        let applied = applied.and_then(|applied| host.use_images().map(|()| applied));
        match applied.and_then(|applied| seal(host, &wanted, parent, &volume, &applied)) {
            Ok(built) => {
                stream.discard_spool();
                return Ok(built);
            }
            Err(error) => {
                let error = abandon(host, &volume, error);
                if host.settings.cancel.is_set() {
                    // What came stays for whoever asks again.
                    return Err(error);
                }
                let error = verdict::keep(host, &wanted, parent, &mut stream, error);
                // The file system was full and the pool was not.
                if size < SIZES_MAX && volume_was_full(host, parent, &error) {
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
                // Its manifest is there, so it may be on its way.
                if is_missing(&wanted, &error) && !waited {
                    stream.release();
                    waited = true;
                    host.settings.cancel.sleep(LATE)?;
                    continue;
                }
                if let Some(next) = whom_next(host, &wanted, parent, &error)? {
                    wanted.place = next;
                    stream.discard_spool();
                    stream.release();
                    continue;
                }
                let error = for_good(&wanted, error);
                if !class(&error).may_retry() {
                    stream.discard_spool();
                }
                // Nobody signed what it has to be: what arrives counts, not what is remembered.
                if wanted.signed.is_none() && wanted.remembered().is_some() && is_other(&error) {
                    let line = format!("{error}; so what was remembered of it does not count");
                    host.warn(&line, &[]);
                    wanted.blob = None;
                    stream.release();
                    continue;
                }
                return Err(error);
            }
        }
    }
}

/// Whether a server has no such layer, of which a manifest says that there is one.
fn is_missing(wanted: &Wanted, error: &Error) -> bool {
    let missing = stream_error(error).is_some_and(|error| error.kind() == fetch::Kind::NotFound);
    missing && wanted.diff.is_some()
}

/// What a digest names is there or not, and does not become something else by being asked for again.
fn for_good(wanted: &Wanted, error: Error) -> Error {
    let layer = wanted.title();
    if wanted.signed.is_some() && wanted.diff.is_none() {
        return not_as_listed(&layer, error);
    }
    let fetched = stream_error(&error);
    match (wanted.diff.and(wanted.signed), fetched.map(fetch::Error::kind)) {
        (Some(_), Some(fetch::Kind::NotFound)) => Error::Image(Unusable::NoLayer { layer }),
        (Some(_), Some(fetch::Kind::Changed)) => {
            let said = fetched.map(ToString::to_string).unwrap_or_default();
            Error::Image(Unusable::Other { layer, said })
        }
        (_, _) => error,
    }
}

/// Whether whole and other bytes came than were expected.
fn is_other(error: &Error) -> bool {
    matches!(error, Error::Mismatch { .. })
        || matches!(stream_error(error), Some(fetch::Error::Digest { .. }))
}

fn volume_was_full(host: &Host, parent: &Volume, error: &Error) -> bool {
    let Error::Unpack { source, .. } = error else { return false };
    // An image is full by its own account: the place for records, which may be full as well, is none of it.
    let image = parent.is_image() || parent.role == Role::Template && host.store.alone();
    if source.is_full() || image {
        return source.is_full();
    }
    let full = source.kind() == unpack::Kind::NoSpace;
    let room = host.store.space().is_ok_and(|space| space.free() > space.total / 50 + space.block);
    full && room && host.store.alone()
}

/// Commits a fresh id and makes it a snapshot of the parent.
fn reserve(host: &mut Host, build: &str, parent: &Volume, bytes: u64) -> Result<Volume, Error> {
    let alone = host.locks.store()?;
    discard_earlier(host, build)?;
    host.still_sealed(parent.id)?;
    host.store.admit(1)?;
    let new = NewVolume { role: Role::Layer, parent: Some(parent.id), build, bytes };
    let (id, made) = ids::take(host, &New::Volume(new), |host, id| {
        host.store.snapshot(Snapshot { id, origin: parent.id })
    })?;
    let volume = Volume {
        id,
        role: Role::Layer,
        parent: Some(parent.id),
        build: build.into(),
        bytes,
        state: VolumeState::Building,
        condemned: None,
    };
    match made {
        Ok(()) => Ok(volume),
        Err(error) => {
            drop(alone);
            Err(abandon(host, &volume, error))
        }
    }
}

/// What a layer on `parent` is applied to, of which `start` are the first bytes: what the layers below were
/// applied to. An image of the writer is believed only as far as the parent's seal record vouches for it. A
/// template that no writer has made is made again, so that only what was begun through mounts goes on through
/// them.
pub(crate) fn ground(host: &Host, parent: &Volume, start: &[u8]) -> Result<Ground, Error> {
    let unfit = |source| Error::Volume { volume: parent.id, source: Box::new(source) };
    match (seal::mark(start), parent.role) {
        (None, Role::Layer) if parent.is_image() => return Err(unfit(Unfit::Changed)),
        (None, Role::Layer) => return Ok(Ground::Mounted),
        // Of a size or on a pool of which the writer can make none, it goes on as it was begun.
        (None, Role::Template) if !host.store.fits_template(parent.id, parent.bytes) => {
            return Ok(Ground::Mounted);
        }
        (None, Role::Template) => return Err(unfit(Unfit::Foreign)),
        (Some(_), Role::Layer | Role::Template) => {}
    }
    let key = host.registry.seal_key()?.map(|key| Key(key.0));
    match SealRecord::vouches(start, key.as_ref(), parent.id) {
        true => Ok(Ground::Written),
        false => Err(unfit(Unfit::Changed)),
    }
}

/// What one apply found, and how large the volume became.
struct Done {
    applied: unpack::Applied,
    tree: Digest,
    blocks: Option<Digest>,
    fetched: u64,
    bytes: u64,
    own_bytes: u64,
    /// Whether the object's ETag is the MD5 of what came, where that was looked at.
    md5: Option<bool>,
}

fn apply(
    host: &Host,
    wanted: &Wanted,
    parent: &Volume,
    volume: &Volume,
    stream: &mut Arriving,
) -> Result<Done, Error> {
    let title = wanted.title();
    let before = host.store.space()?;
    let judge = |start: &[u8]| ground(host, parent, start);
    // What the snapshot holds is the parent's.
    let mut work =
        host.store.open(volume.id, volume.bytes, &judge).map_err(|error| match error {
            Error::Volume { source, .. } => Error::Volume { volume: parent.id, source },
            other => other,
        })?;
    let plain = wanted.remembered().map_or(wanted.size, |blob| blob.diff_size);
    work.make_room(plain)?;
    let manifest = host.manifests.unnamed(volume.id)?;
    let limits = &host.settings.limits;
    let stop = host.settings.cancel.stop();
    let mut paced = Paced::new(host, &format!("layer {title}"), &mut *stream, work.content())?;
    let applied = work.content().apply(&mut paced, Some(&manifest), limits, &stop);
    if let Some(error) = paced.ended() {
        return Err(error);
    }
    let applied = match applied {
        Ok(applied) => applied,
        Err(ImageError::Layer(source)) => return Err(Error::Unpack { layer: title, source }),
        Err(ImageError::Unfit(source)) => {
            return Err(Error::Volume { volume: volume.id, source: Box::new(source) });
        }
    };
    walls::warn(&format!("layer {title} was unpacked"), &applied.sandbox);
    let found = Digest(applied.blob_digest);
    let expected = [wanted.signed, wanted.remembered().map(|blob| blob.digest), stream.digest()];
    verdict::look(host, found, wanted, parent)?;
    // Two hashes of one stream, by two crates: they agree, or somebody lost a byte in between.
    for expected in expected.into_iter().flatten() {
        if expected != found {
            return Err(Error::Mismatch { layer: title, expected, found });
        }
    }
    // The layer is what its digest says; that the image says otherwise is the image's fault.
    if let Some(expected) = wanted.diff
        && expected != Digest(applied.diff_id)
    {
        let found = Digest(applied.diff_id);
        return Err(Error::Image(Unusable::DiffId { layer: title, expected, found }));
    }
    let bytes = work.bytes();
    let whole = host.limits_of_tree(volume)?;
    let tree = host.manifests.seal(work.content(), volume.id, parent, manifest, &whole, &stop)?;
    let blocks = digest_blocks(host, work.content(), parent, volume.id, &applied)?;
    let volume = Volume { bytes, ..volume.clone() };
    let chain = chain_id(chain_below(parent)?, Digest(applied.diff_id));
    let (key, made) = (host.registry.seal_key()?, host.registry.reserved_at(volume.id)?);
    let md5 = wanted.source.as_ref().zip(stream.md5()).and_then(|(source, md5)| source.is_md5(md5));
    let mark = work
        .content()
        .mark()
        .map_err(|source| Error::Volume { volume: volume.id, source: Box::new(source) })?;
    // A store that was begun by an older veneer has no key, and its volumes no seal records.
    let seal_record = key.map(|key| {
        let record = wanted.seal_record(&volume, &applied, chain, (tree, blocks), md5, made);
        record.seal(&Key(key.0), mark.as_ref())
    });
    work.close(seal_record.as_deref())?;
    let own_bytes = host.store.taken(&before, applied.content_bytes)?;
    let fetched = stream.fetched(applied.blob_bytes);
    Ok(Done { tree, blocks, fetched, applied, bytes, own_bytes, md5 })
}

/// The block digest of a volume that a layer was written into; its list is kept for the next layer, and for `verify`.
fn digest_blocks(
    host: &Host,
    content: Content<'_>,
    parent: &Volume,
    id: VolumeId,
    applied: &unpack::Applied,
) -> Result<Option<Digest>, Error> {
    let below = host.manifests.chunks(parent);
    let list = content.chunks(below.as_ref(), applied, &host.settings.cancel.stop());
    let list = list.map_err(|error| match error {
        ImageError::Layer(source) => Error::Tree { doing: "digest the blocks", source },
        ImageError::Unfit(source) => Error::Volume { volume: id, source: Box::new(source) },
    })?;
    Ok(list.map(|list| {
        host.manifests.keep_chunks(id, &list);
        Digest(list.digest())
    }))
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
    host.not_condemned(parent.id, &wanted.title())?;
    let twin = host.registry.layer(chain)?;
    let volume = Volume { bytes: done.bytes, ..volume.clone() };
    if let Some(twin) = twin {
        let doubt = host.registry.write(|write| {
            let doubt = put_blob(write, wanted, &blob, done.md5)?;
            write.count("fetch_bytes_total", "", done.fetched)?;
            write.count("layers_total", "how=\"adopted\"", 1)?;
            // It came to its end, as if it had been sealed.
            write.settle_attempt(&volume.build)?;
            Ok(doubt)
        })?;
        host.warn_of_etags(doubt);
        discard_alone(host, &volume)?;
        return Ok(Built { volume: twin.id, chain, blob, fetched: done.fetched, own: false });
    }
    let sealed = VolumeState::Sealed(Seal {
        chain: Some(chain),
        diff: Some(diff),
        blob: Some(blob.digest),
        tree: Some(done.tree),
        blocks: done.blocks,
        own_bytes: done.own_bytes,
        entries: applied.entries,
        content_bytes: applied.content_bytes,
    });
    let doubt = host.fenced(|write| {
        let doubt = put_blob(write, wanted, &blob, done.md5)?;
        write.count("fetch_bytes_total", "", done.fetched)?;
        write.advance_volume_told(&volume, &sealed, &walls::told(&applied.sandbox))?;
        Ok(doubt)
    })?;
    host.warn_of_etags(doubt);
    host.sealed += 1;
    Ok(Built { volume: volume.id, chain, blob, fetched: done.fetched, own: true })
}

/// Gives what that says against the server's ETags, where it is news.
fn put_blob(
    write: &registry::Write<'_>,
    wanted: &Wanted,
    blob: &Blob,
    md5: Option<bool>,
) -> Result<Option<String>, registry::Error> {
    write.put_blob(blob)?;
    match &wanted.source {
        Some(source) => write.put_read(source, &wanted.key, blob, md5),
        None => Ok(None),
    }
}
