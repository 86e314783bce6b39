//! What goes between parent and child over their socket: the order down and the verdict up, both
//! as JSON; between them, for each buffer of the stream, that it is filled, and that it was read.

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::archive::End;
use crate::archive::content::Note;
use crate::diff::Diffed;
use crate::error::Error;
use crate::error::image::Flaw;
use crate::error::refusal::{Place, Refusal, Space, cut};
use crate::limits::wall::Standing;
use crate::limits::{Compression, Limits};
use crate::record::applied::Applied;
use crate::record::chunk_set::ChunkSet;

#[derive(Serialize, Deserialize)]
enum Verdict {
    Applied { applied: Box<Applied>, end: End, chunks: ChunkSet },
    Manifest { digest: [u8; 32], written: bool },
    Diffed { diffed: Box<Diffed> },
    Refused { place: Place, refusal: Box<Refusal> },
    Stream { text: String },
    Fs { place: Option<Place>, call: String, name: Vec<u8>, errno: Option<i32> },
    NoSpace { place: Place, what: Space, need: u64, free: u64 },
    Image { flaw: Box<Flaw> },
    Walls { standing: Vec<Standing>, wanted: bool },
    Sandbox { step: String, errno: Option<i32>, text: String },
}

/// What a child is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// To apply a layer of this compression to a tree.
    Apply(Compression),
    /// To apply it to an image.
    ApplyImage(Compression),
    /// To write the manifest of the tree, of which so many manifests tell a part.
    Manifest {
        known: usize,
        /// Whether a file for it comes last.
        out: bool,
    },
    /// To write the manifest of the tree in an image, of which so many manifests tell a part.
    Image {
        known: usize,
        /// Whether a file for it comes last.
        out: bool,
        /// Whether its journal is replayed in memory.
        replay: bool,
    },
    /// To write what one tree has that another has not: the trees of two images, or below two directories.
    Diff {
        images: bool,
        /// Whether the journal of the first image is replayed in memory.
        replay: bool,
    },
    /// To put up its walls, and say which stand.
    Walls,
}

/// What a child has done.
#[derive(Clone, Debug)]
pub(super) enum Finished {
    Applied(Box<Applied>, End),
    /// The digest of the tree, and whether all of its manifest was written.
    Manifest {
        digest: [u8; 32],
        written: bool,
    },
    /// What the layer holds that was written.
    Diffed(Box<Diffed>),
    Walls(Vec<Standing>),
}

/// What a child needs to know.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) limits: Limits,
    pub(super) task: Task,
    /// Whether a place for records comes with it.
    pub(super) spill: bool,
}

pub(super) fn order(order: &Order) -> Vec<u8> {
    // Only maps with odd keys can fail here, and there are none.
    serde_json::to_vec(order).unwrap_or_default()
}

pub(super) fn read_order(order: &[u8]) -> Option<Order> {
    serde_json::from_slice(order).ok()
}

/// Bytes of one buffer in the shared memory, and how many there are. A multiple of 512, so that
/// tar blocks and SHA-256 blocks end where buffers end.
pub(super) const SLOT: usize = 512 << 10;
pub(super) const SLOTS: usize = 6;

/// Bytes of a verdict; [`encode`] keeps the longest names and values in it far below.
const VERDICT_MAX: u32 = 1 << 20;

/// What the parent says of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// That many bytes are in that slot.
    Buffer { slot: usize, len: usize },
    /// No more bytes will come.
    End,
    /// The blob is larger than it may be.
    Over(u64),
    /// Only digests.
    Nothing,
}

/// The message: kind, number, count of digests (little-endian), digests.
pub(super) fn next(next: Next, digests: &[u8]) -> Vec<u8> {
    let (kind, number) = match next {
        Next::Nothing => (0u32, 0),
        Next::Buffer { slot, len } => (1, (slot as u64) << 32 | len as u64),
        Next::End => (2, 0),
        Next::Over(bytes) => (3, bytes),
    };
    let count = (digests.len() / 32) as u64;
    let mut message = Vec::with_capacity(20 + digests.len());
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(&count.to_le_bytes());
    message.extend_from_slice(digests);
    message
}

/// The head of such a message, and the count of digests that follow.
pub(super) fn read_next(from: &mut impl Read) -> io::Result<(Next, u64)> {
    let kind = u32::from_le_bytes(array(from)?);
    let (number, count) = (u64::from_le_bytes(array(from)?), u64::from_le_bytes(array(from)?));
    let next = match kind {
        0 => Next::Nothing,
        1 => Next::Buffer { slot: half(number >> 32), len: half(number) },
        2 => Next::End,
        _ => Next::Over(number),
    };
    Ok((next, count))
}

/// The lower half.
fn half(number: u64) -> usize {
    usize::try_from(number & 0xffff_ffff).unwrap_or(usize::MAX)
}

fn array<const LEN: usize>(from: &mut impl Read) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What the child says.
pub(super) enum Said {
    /// It is done with the oldest buffer that it has.
    Notes(Vec<Note>),
    /// JSON, for [`verdict`].
    Verdict(Vec<u8>),
}

const NOTES: u32 = 1;
const VERDICT: u32 = 2;
const FILE_ENDS: u64 = u64::MAX;

/// The message that gives a buffer back: kind, count, a number for each note (little-endian).
pub(super) fn notes(notes: &[Note]) -> Vec<u8> {
    let count = u32::try_from(notes.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(8 + 8 * notes.len());
    message.extend_from_slice(&NOTES.to_le_bytes());
    message.extend_from_slice(&count.to_le_bytes());
    for note in notes {
        let number = match *note {
            Note::Part { from, to } => (from as u64) << 32 | to as u64,
            Note::End => FILE_ENDS,
        };
        message.extend_from_slice(&number.to_le_bytes());
    }
    message
}

/// The next message of a child that may be anybody's by now: bounded, and checked by [`fit`].
/// A child that is gone without a word has given an empty verdict.
pub(super) fn read_said(from: &mut impl Read) -> io::Result<Said> {
    let kind = match array(from) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
        kind => u32::from_le_bytes(kind?),
    };
    if kind == 0 {
        return Ok(Said::Verdict(Vec::new()));
    }
    let count = u32::from_le_bytes(array(from)?);
    match kind {
        // A part and an end for each tar block is more than there can be.
        NOTES if count as usize <= SLOT / 128 => {
            let mut notes = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let number = u64::from_le_bytes(array(from)?);
                notes.push(match number {
                    FILE_ENDS => Note::End,
                    number => Note::Part { from: half(number >> 32), to: half(number) },
                });
            }
            Ok(Said::Notes(notes))
        }
        VERDICT if count <= VERDICT_MAX => {
            let mut verdict = vec![0; count as usize];
            from.read_exact(&mut verdict)?;
            Ok(Said::Verdict(verdict))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether notes are in order and within `len` bytes.
pub(super) fn fit(notes: &[Note], len: usize) -> bool {
    let mut at = 0;
    notes.iter().all(|note| match *note {
        Note::End => true,
        Note::Part { from, to } => {
            let fits = at <= from && from <= to && to <= len;
            at = to;
            fits
        }
    })
}

/// Bytes of a text of ours in a verdict.
const TEXT_MAX: usize = 4096;

fn text(text: &impl ToString) -> String {
    let mut text = text.to_string();
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}

/// The message that ends it all. Whatever an error holds of the layer is cut: a verdict that does not
/// fit would be none.
pub(super) fn encode(result: &Result<Finished, Error>) -> Vec<u8> {
    let verdict = match result {
        Ok(Finished::Applied(applied, end)) => {
            let (applied, chunks) = (applied.clone(), applied.chunks.clone());
            Verdict::Applied { applied, end: *end, chunks }
        }
        Ok(Finished::Manifest { digest, written }) => {
            Verdict::Manifest { digest: *digest, written: *written }
        }
        Ok(Finished::Diffed(diffed)) => Verdict::Diffed { diffed: diffed.clone() },
        Ok(Finished::Walls(standing)) => {
            Verdict::Walls { standing: standing.clone(), wanted: true }
        }
        Err(Error::Walls { down }) => Verdict::Walls { standing: down.clone(), wanted: false },
        Err(Error::Refused { place, refusal }) => {
            Verdict::Refused { place: place.clone().cut(), refusal: Box::new(refusal.cut()) }
        }
        Err(Error::Stream { source }) => Verdict::Stream { text: text(source) },
        Err(Error::Fs { place, call, name, source }) => Verdict::Fs {
            place: place.clone().map(Place::cut),
            call: text(call),
            name: cut(name).to_vec(),
            errno: source.raw_os_error(),
        },
        Err(Error::NoSpace { place, what, need, free }) => {
            Verdict::NoSpace { place: place.clone().cut(), what: *what, need: *need, free: *free }
        }
        Err(Error::Image { flaw }) => {
            let rule = text(&flaw.rule).into();
            Verdict::Image { flaw: Box::new(Flaw { rule, ..(**flaw).clone() }) }
        }
        Err(Error::Sandbox { step, source }) => {
            Verdict::Sandbox { step: text(step), errno: source.raw_os_error(), text: text(source) }
        }
    };
    let json = serde_json::to_vec(&verdict).unwrap_or_default();
    let mut message = VERDICT.to_le_bytes().to_vec();
    message.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
    message.extend_from_slice(&json);
    message
}

/// `None` if there is no verdict to be read.
pub(super) fn verdict(bytes: &[u8]) -> Option<Result<Finished, Error>> {
    let from = |errno: Option<i32>, text: String| match errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(text),
    };
    Some(match serde_json::from_slice(bytes).ok()? {
        Verdict::Applied { mut applied, end, chunks } => {
            applied.chunks = chunks;
            Ok(Finished::Applied(applied, end))
        }
        Verdict::Manifest { digest, written } => Ok(Finished::Manifest { digest, written }),
        Verdict::Diffed { diffed } => Ok(Finished::Diffed(diffed)),
        Verdict::Walls { standing, wanted: true } => Ok(Finished::Walls(standing)),
        Verdict::Walls { standing: down, wanted: false } => Err(Error::Walls { down }),
        Verdict::Refused { place, refusal } => Err(Error::Refused { place, refusal }),
        // The child reads a socket, which does not fail; the layer's reader is the parent's.
        Verdict::Stream { text } => {
            Err(Error::Sandbox { step: "read the stream".into(), source: io::Error::other(text) })
        }
        Verdict::Fs { place, call, name, errno } => {
            let source = from(errno, "unknown error".into());
            Err(Error::Fs { place, call: call.into(), name, source })
        }
        Verdict::NoSpace { place, what, need, free } => {
            Err(Error::NoSpace { place, what, need, free })
        }
        Verdict::Image { flaw } => Err(Error::Image { flaw }),
        Verdict::Sandbox { step, errno, text } => {
            Err(Error::Sandbox { step: step.into(), source: from(errno, text) })
        }
    })
}

/// The child's name, by which it knows itself.
pub(crate) const NAME: &str = "veneer-unpack-child";

/// Whether this program knows the child in itself: run again, another would begin all of its own work anew.
pub(crate) static ENTERED: AtomicBool = AtomicBool::new(false);

pub(crate) fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Sandbox { step: step.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::refusal::{Class, Value};
    use crate::limits::wall::Wall;
    use crate::record::applied::Counts;

    /// Every kind of verdict with every field at its largest is one that is read back.
    #[test]
    fn the_largest_verdicts_are_read() {
        let huge = vec![b'\xff'; 4 << 20];
        let long = "\u{1f5ff}".repeat(1 << 20);
        let place = Place { index: u64::MAX, offset: u64::MAX, name: huge.clone() };
        let refusal = Refusal {
            class: Class::Compression,
            rule: long.clone().into(),
            value: Value::Bytes(huge.clone()),
            limit: Some((long.clone().into(), u64::MAX)),
            in_tree: true,
        };
        let mut applied = Applied::new(Counts::default(), [255; 32]);
        let walls = Wall::ALL.map(|wall| Standing { wall, stands: false, note: "x".repeat(200) });
        applied.sandbox = walls.to_vec();
        let io = || io::Error::other(long.clone());
        let (call, name) = (long.clone().into(), huge.clone());
        for result in [
            Ok(Finished::Applied(Box::new(applied), End::HalfMarker)),
            Ok(Finished::Manifest { digest: [255; 32], written: false }),
            Err(Error::Refused { place: place.clone(), refusal: Box::new(refusal) }),
            Ok(Finished::Walls(walls.to_vec())),
            Err(Error::Walls { down: walls.to_vec() }),
            Err(Error::Stream { source: io() }),
            Err(Error::Fs { place: Some(place.clone()), call, name, source: io() }),
            Err(Error::NoSpace { place, what: Space::Inodes, need: u64::MAX, free: u64::MAX }),
            Err(Error::Sandbox { step: long.clone().into(), source: io() }),
        ] {
            let message = encode(&result);
            let Ok(Said::Verdict(bytes)) = read_said(&mut message.as_slice()) else {
                panic!("{} bytes are no verdict: {:?}", message.len(), result.map(|_| ()));
            };
            assert!(bytes.len() < 32 << 10, "{} bytes", bytes.len());
            let read = verdict(&bytes).expect("a verdict");
            assert_eq!(read.is_ok(), result.is_ok());
        }
    }
}
