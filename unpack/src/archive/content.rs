//! Hashes a tar stream, and the files in it, out of the buffers they came in: the writer hands
//! each buffer on when it is done with it, with notes of which parts belong to files, and the
//! buffer goes back to whoever fills it.
//!
//! Each digest has a thread of its own, one after the other; for a plain layer that a child writes
//! its parent has them, see `sandbox`. Where the processor has no SHA instructions they are the
//! larger part of all the work.

use std::sync::mpsc::{Receiver, Sender, SyncSender};

use crate::limits::Compression;
use crate::sha::Sha256;

/// A note about a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// These bytes are the next part of the current file.
    Part { from: usize, to: usize },
    /// The current file ends.
    End,
}

/// A buffer that the writer is done with.
pub(crate) type Noted = (Vec<u8>, Vec<Note>);

/// The files of a stream, one after another.
pub(crate) struct Files(Sha256);

impl Files {
    pub(crate) fn new() -> Files {
        Files(Sha256::new())
    }

    /// The next piece of the stream. `notes` say what of it belongs to files, in order and within
    /// its bounds; each file that ends in it gives a digest.
    pub(crate) fn update(&mut self, bytes: &[u8], notes: &[Note], mut ended: impl FnMut([u8; 32])) {
        for note in notes {
            match *note {
                Note::Part { from, to } => self.0.update(&bytes[from..to]),
                Note::End => ended(std::mem::replace(&mut self.0, Sha256::new()).finish()),
            }
        }
    }
}

/// Hashes files until there is no more, and hands each buffer on; digests come out in their order.
pub(crate) fn hash_files(
    noted: Receiver<Noted>,
    digests: Sender<[u8; 32]>,
    onward: SyncSender<Vec<u8>>,
) {
    let mut files = Files::new();
    for (buffer, notes) in noted {
        files.update(&buffer, &notes, |digest| match digests.send(digest) {
            // Whoever asked has gone only when the layer was refused.
            Ok(()) | Err(_) => {}
        });
        match onward.send(buffer) {
            // The stream's digest is no longer wanted only when a thread died.
            Ok(()) | Err(_) => {}
        }
    }
}

/// Hashes the stream until there is no more, and gives the buffers back to be filled.
pub(crate) fn hash_stream(
    mut stream: Sha256,
    buffers: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
) -> Diff {
    let mut bytes = 0;
    for buffer in buffers {
        bytes += buffer.len() as u64;
        stream.update(&buffer);
        match empty.try_send(buffer) {
            // The filler may have reached the end of the stream; the digest is still wanted.
            Ok(()) | Err(_) => {}
        }
    }
    Diff { digest: stream.finish(), bytes }
}

/// What was seen of the blob.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: [u8; 32],
    pub(crate) bytes: u64,
    pub(crate) compression: Compression,
}

/// What was seen of the tar in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diff {
    pub(crate) digest: [u8; 32],
    pub(crate) bytes: u64,
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256 as Other};

    use super::*;

    fn odd(number: usize) -> u8 {
        u8::try_from(number % 251).unwrap()
    }

    /// Files at tar's places in a stream, cut into buffers of `size`.
    fn check(lens: &[usize], size: usize, shift: usize) {
        let mut stream = vec![9u8; shift];
        let mut spans = Vec::new();
        for (n, &len) in lens.iter().enumerate() {
            stream.extend((0..512).map(|at| odd(at * 7 + n)));
            spans.push((stream.len(), stream.len() + len));
            stream.extend((0..len).map(|at| odd(at * 31 + at / 256 + n)));
            stream.resize((stream.len() - shift).next_multiple_of(512) + shift, 0);
        }
        stream.extend(b"odd end");
        let expected: Vec<[u8; 32]> =
            spans.iter().map(|&(from, to)| Other::digest(&stream[from..to]).into()).collect();
        let mut files = Files::new();
        let mut got: Vec<[u8; 32]> = Vec::new();
        for (n, buffer) in stream.chunks(size).enumerate() {
            let (start, end) = (n * size, n * size + buffer.len());
            let mut notes = Vec::new();
            for &(from, to) in &spans {
                let (a, b) = (from.clamp(start, end), to.clamp(start, end));
                if a < b {
                    notes.push(Note::Part { from: a - start, to: b - start });
                }
                if (start < to && to <= end) || (to == start && from == to && n > 0) {
                    notes.push(Note::End);
                }
            }
            files.update(buffer, &notes, |digest| got.push(digest));
        }
        assert!(got == expected, "sizes {lens:?} in buffers of {size}, {shift} bytes before");
    }

    #[test]
    fn digests_of_files_are_those_of_another_implementation() {
        let lens: Vec<usize> =
            (1..140).chain([447, 511, 512, 513, 575, 576, 1023, 70_000]).collect();
        for size in [512, 1024, 4096, 1 << 20, 77, 500, 1000] {
            for shift in [0, 1, 63, 64] {
                check(&lens, size, shift);
            }
        }
    }

    #[test]
    fn an_empty_file() {
        let mut got: Vec<[u8; 32]> = Vec::new();
        Files::new().update(&[], &[Note::End, Note::End], |digest| got.push(digest));
        let empty: [u8; 32] = Other::digest(b"").into();
        assert_eq!(got, vec![empty, empty]);
    }
}
