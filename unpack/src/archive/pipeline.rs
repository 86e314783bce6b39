//! Runs a consumer of the plain tar beside the reading, inflating and hashing of the blob.

use std::io::{self, Read};
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::Instant;

use crate::archive::buffers::{self, BUFFERS, Buffers, Filler, Gone, Supply};
use crate::archive::compression::{inflate, sniffed};
use crate::archive::content::{Blob, Diff, hash_files, hash_stream};
use crate::archive::{Archive, End, stream_fault};
use crate::error::refusal::{Class, Place, Refusal};
use crate::error::{Error, Fault};
use crate::limits::{Compression, Limits};
use crate::sha::Sha256;

/// Digests of the files whose contents were noted, in order; see [`Archive::end_content`]. The
/// last of them come when the stream has been read to its end.
pub(crate) type Digests = Receiver<[u8; 32]>;

/// What `consume` made of the tar, and both digests, vouched for. `consume` gets an archive, has to
/// read it to its end, and says how it ended; `entries` tells how many it met.
pub(crate) fn run<T: Send>(
    layer: impl Read,
    limits: &Limits,
    consume: impl FnOnce(Archive<'_, Buffers>, Digests) -> Result<(T, End), Error> + Send,
    entries: impl FnOnce(&T) -> u64,
) -> Result<(T, Blob, Diff), Error> {
    let start = Instant::now();
    scope(|scope| {
        let (compression, layer) = sniffed(layer, limits).map_err(|e| stream_fault(e).nowhere())?;
        let tar = Tar::start(scope, limits, start, consume)?;
        let (blob, out, end, diff) = match compression {
            Compression::Plain => {
                let mut bytes = 0;
                let pumped = tar.filler.pump(layer, |piece| counted(&mut bytes, piece, limits));
                let (out, end) = join(tar.consumer)?;
                let diff = join(tar.hasher);
                pumped.map_err(|Gone| lost())?;
                (Blob { digest: diff.digest, bytes, compression }, out, end, diff)
            }
            Compression::Gzip | Compression::Zstd => {
                let (filler, buffers, _) = buffers::channel(limits, start, None);
                let inflater = spawn(scope, "inflate", move || {
                    inflate(tar.filler, buffers, compression, limits)
                })?;
                let (mut hash, mut bytes) = (Sha256::when(limits.digests), 0);
                let pumped = filler.pump(layer, |piece| {
                    hash.update(piece);
                    counted(&mut bytes, piece, limits)
                });
                let (out, end) = join(tar.consumer)?;
                let diff = join(tar.hasher);
                // A consumer that has read to the end has seen the ends of those before it.
                join(inflater).map_err(|Gone| lost())?;
                pumped.map_err(|Gone| lost())?;
                (Blob { digest: hash.finish(), bytes, compression }, out, end, diff)
            }
        };
        vouch(&blob, &diff, end, limits, entries(&out))?;
        Ok((out, blob, diff))
    })
}

/// [`run`] where somebody else reads and hashes the blob, and has the last word: `supply` gives
/// its bytes. A plain layer is the tar; its files' digests come back by `digests`.
pub(crate) fn fed<T: Send>(
    supply: impl Supply + 'static,
    digests: Digests,
    compression: Compression,
    limits: &Limits,
    consume: impl FnOnce(Archive<'_, Buffers>, Digests) -> Result<(T, End), Error> + Send,
) -> Result<(T, End, Option<Diff>), Error> {
    let start = Instant::now();
    let blob = Buffers::new(supply, limits, start);
    match compression {
        Compression::Plain => {
            let (out, end) = consume(Archive::new(blob, limits), digests)?;
            Ok((out, end, None))
        }
        Compression::Gzip | Compression::Zstd => scope(|scope| {
            let tar = Tar::start(scope, limits, start, consume)?;
            let inflated = inflate(tar.filler, blob, compression, limits);
            let (out, end) = join(tar.consumer)?;
            let diff = join(tar.hasher);
            inflated.map_err(|Gone| lost())?;
            Ok((out, end, Some(diff)))
        }),
    }
}

/// The end of the line: a tar being consumed and hashed.
struct Tar<'s, T> {
    filler: Filler,
    consumer: ScopedJoinHandle<'s, Result<(T, End), Error>>,
    hasher: ScopedJoinHandle<'s, Diff>,
}

impl<'s, T: Send + 's> Tar<'s, T> {
    fn start(
        scope: &'s Scope<'s, '_>,
        limits: &'s Limits,
        start: Instant,
        consume: impl FnOnce(Archive<'_, Buffers>, Digests) -> Result<(T, End), Error> + Send + 's,
    ) -> Result<Tar<'s, T>, Error> {
        let (noted, buffers_to_hash) = sync_channel(BUFFERS);
        let (digests, hashed) = channel();
        let (filler, buffers, empty) = buffers::channel(limits, start, Some(noted));
        let (onward, from_files) = sync_channel(BUFFERS);
        spawn(scope, "hash files", move || hash_files(buffers_to_hash, digests, onward))?;
        let stream = Sha256::when(limits.digests);
        let hasher = spawn(scope, "hash stream", move || hash_stream(stream, from_files, empty))?;
        let consumer =
            spawn(scope, "apply", move || consume(Archive::new(buffers, limits), hashed))?;
        Ok(Tar { filler, consumer, hasher })
    }
}

/// Bounds the blob while it is read.
fn counted(bytes: &mut u64, piece: &[u8], limits: &Limits) -> io::Result<()> {
    *bytes += piece.len() as u64;
    match *bytes > limits.blob_bytes_max {
        true => Err(too_large(*bytes, limits).into()),
        false => Ok(()),
    }
}

pub(crate) fn too_large(bytes: u64, limits: &Limits) -> Refusal {
    Refusal::limit("--blob-bytes-max", "blob too large", bytes, limits.blob_bytes_max)
}

fn lost() -> Error {
    let rule = Refusal::new(Class::Frame, "the stream goes on after its end");
    Fault::from(rule).nowhere()
}

fn spawn<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 's,
) -> Result<ScopedJoinHandle<'s, T>, Error> {
    std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(|source| {
        Fault::Fs { call: "start a thread".into(), name: name.into(), source }.nowhere()
    })
}

fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(value) => value,
        Err(panic) => resume_unwind(panic),
    }
}

/// Only the whole stream can be vouched for, so this is the last word.
pub(crate) fn vouch(
    blob: &Blob,
    diff: &Diff,
    end: End,
    limits: &Limits,
    entries: u64,
) -> Result<(), Error> {
    let place = Place { index: entries, offset: diff.bytes, name: Vec::new() };
    let refuse = |rule, digest: &[u8; 32]| {
        let text = format!("sha256:{}", hex::encode(digest));
        let refusal = Refusal::new(Class::Digest, rule).bytes(text.as_bytes());
        Err(Fault::from(refusal).at(place.clone()))
    };
    if limits.blob_digest.is_some_and(|expected| expected != blob.digest) {
        return refuse("the blob's digest is not the one expected, but", &blob.digest);
    }
    if limits.diff_id.is_some_and(|expected| expected != diff.digest) {
        return refuse("the diff id is not the one expected, but", &diff.digest);
    }
    let vouched =
        limits.reader_verifies || limits.blob_digest.is_some() || limits.diff_id.is_some();
    match end {
        End::Marker | End::Empty => Ok(()),
        End::HalfMarker | End::Bare if vouched => Ok(()),
        End::HalfMarker | End::Bare => {
            let rule = "no end marker, and no digest to vouch for the end";
            Err(Fault::from(Refusal::new(Class::Digest, rule)).at(place))
        }
    }
}
