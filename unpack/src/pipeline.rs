//! Runs a consumer of the plain tar beside the reading, inflating and hashing of the blob.

use std::io::Read;
use std::panic::resume_unwind;
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::Instant;

use crate::archive::{Archive, End, stream_fault};
use crate::encoding::{Blob, Buffers, Compression, Diff, channel, inflate, pump_blob, sniffed};
use crate::error::{Class, Error, Fault, Place, Refusal};
use crate::limits::Limits;

/// What `consume` made of the tar, and both digests. `consume` gets an archive, has to read it to
/// its end, and says how it ended.
pub(crate) fn run<T: Send>(
    layer: impl Read,
    limits: &Limits,
    consume: impl FnOnce(Archive<'_, Buffers>) -> Result<(T, End), Error> + Send,
) -> Result<(T, Blob, Diff), Error> {
    let start = Instant::now();
    scope(|scope| {
        let (compression, layer) = sniffed(layer, limits).map_err(|e| stream_fault(e).nowhere())?;
        let (filler, buffers) = channel(limits, start);
        let (consumer, inflater, blob) = match compression {
            Compression::Plain => {
                let consumer =
                    spawn(scope, "apply", move || consume(Archive::new(buffers, limits)))?;
                (consumer, None, pump_blob(filler, layer, compression, limits))
            }
            Compression::Gzip | Compression::Zstd => {
                let (plain_filler, plain) = channel(limits, start);
                let inflater = spawn(scope, "inflate", move || {
                    inflate(plain_filler, buffers, compression, limits)
                })?;
                let consumer = spawn(scope, "apply", move || consume(Archive::new(plain, limits)))?;
                (consumer, Some(inflater), pump_blob(filler, layer, compression, limits))
            }
        };
        let consumed = join(consumer);
        let diff = inflater.map(join);
        let (out, end) = consumed?;
        // A consumer that has read to the end has seen the ends of the threads before it.
        let blob = blob.map_err(|_| lost())?;
        let diff = match diff {
            Some(diff) => diff.map_err(|_| lost())?,
            None => Diff { digest: blob.digest, bytes: blob.bytes },
        };
        vouch(&blob, &diff, end, limits)?;
        Ok((out, blob, diff))
    })
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
    std::thread::Builder::new()
        .name(name.into())
        .spawn_scoped(scope, work)
        .map_err(|source| Fault::Fs { call: "start a thread", name: name.into(), source }.nowhere())
}

fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(value) => value,
        Err(panic) => resume_unwind(panic),
    }
}

/// Only the whole stream can be vouched for, so this is the last word.
fn vouch(blob: &Blob, diff: &Diff, end: End, limits: &Limits) -> Result<(), Error> {
    let place = Place { index: 0, offset: diff.bytes, name: Vec::new() };
    let refuse = |rule, digest: &[u8; 32]| {
        let text = format!("sha256:{}", crate::record::Hex(digest));
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
        End::Marker => Ok(()),
        End::HalfMarker | End::Bare if vouched => Ok(()),
        End::HalfMarker | End::Bare => {
            let rule = "no end marker, and no digest to vouch for the end";
            Err(Fault::from(Refusal::new(Class::Digest, rule)).at(place))
        }
    }
}
