//! Two digests of one stream: that of the tar itself, and that of each file in it.
//!
//! Hashing is the larger part of all the work where the processor has no SHA instructions, so the two
//! may be computed side by side.

use std::thread;

use crate::content::Note;
use crate::sha::Sha256;

/// A piece that is shorter is not worth a thread.
const APART: usize = 128 << 10;

/// Both hashes of a stream being read.
pub(crate) struct Twin {
    stream: Sha256,
    file: Sha256,
}

impl Twin {
    pub(crate) fn new() -> Twin {
        Twin { stream: Sha256::new(), file: Sha256::new() }
    }

    /// The next piece of the stream. `notes` say what of it belongs to files, in order and within
    /// its bounds; each file that ends in it gives a digest.
    pub(crate) fn update(&mut self, bytes: &[u8], notes: &[Note], ended: impl FnMut([u8; 32])) {
        self.stream.update(bytes);
        files(&mut self.file, bytes, notes, ended);
    }

    /// As [`Twin::update`], with the files' part in a thread of its own: not for the child, whose
    /// filter lets it start none.
    pub(crate) fn update_apart(
        &mut self,
        bytes: &[u8],
        notes: &[Note],
        mut ended: impl FnMut([u8; 32]) + Send,
    ) {
        if bytes.len() < APART {
            return self.update(bytes, notes, ended);
        }
        let Twin { stream, file } = self;
        thread::scope(|scope| {
            scope.spawn(|| files(file, bytes, notes, &mut ended));
            stream.update(bytes);
        });
    }

    /// The stream's digest.
    pub(crate) fn finish(self) -> [u8; 32] {
        self.stream.finish()
    }
}

fn files(file: &mut Sha256, bytes: &[u8], notes: &[Note], mut ended: impl FnMut([u8; 32])) {
    for note in notes {
        match *note {
            Note::Part { from, to } => file.update(&bytes[from..to]),
            Note::End => ended(std::mem::replace(file, Sha256::new()).finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256 as Other};

    use super::*;

    fn odd(number: usize) -> u8 {
        u8::try_from(number % 251).unwrap()
    }

    /// Files at tar's places in a stream, cut into buffers of `size`; all digests as they come.
    fn hashed(apart: bool, lens: &[usize], size: usize, shift: usize) -> Vec<[u8; 32]> {
        let mut twin = Twin::new();
        let mut stream = vec![9u8; shift];
        let mut files = Vec::new();
        for (n, &len) in lens.iter().enumerate() {
            stream.extend((0..512).map(|at| odd(at * 7 + n)));
            files.push((stream.len(), stream.len() + len));
            stream.extend((0..len).map(|at| odd(at * 31 + at / 256 + n)));
            stream.resize((stream.len() - shift).next_multiple_of(512) + shift, 0);
        }
        stream.extend([0; 1024]);
        stream.extend(b"odd end");
        let mut expected: Vec<[u8; 32]> =
            files.iter().map(|&(from, to)| Other::digest(&stream[from..to]).into()).collect();
        expected.push(Other::digest(&stream).into());
        let mut got = Vec::new();
        for (n, buffer) in stream.chunks(size).enumerate() {
            let (start, end) = (n * size, n * size + buffer.len());
            let mut notes = Vec::new();
            for &(from, to) in &files {
                let (a, b) = (from.clamp(start, end), to.clamp(start, end));
                if a < b {
                    notes.push(Note::Part { from: a - start, to: b - start });
                }
                if (start < to && to <= end) || (to == start && from == to && n > 0) {
                    notes.push(Note::End);
                }
            }
            match apart {
                true => twin.update_apart(buffer, &notes, |digest| got.push(digest)),
                false => twin.update(buffer, &notes, |digest| got.push(digest)),
            }
        }
        got.push(twin.finish());
        assert!(got == expected, "sizes {lens:?} in buffers of {size}, {shift} bytes before");
        got
    }

    #[test]
    fn both_digests_are_those_of_another_implementation() {
        let lens: Vec<usize> =
            (1..140).chain([447, 511, 512, 513, 575, 576, 1023, 70_000]).collect();
        for size in [512, 1024, 4096, 1 << 20, 77, 500, 1000] {
            for shift in [0, 1, 63, 64] {
                let one = hashed(false, &lens, size, shift);
                assert_eq!(one, hashed(true, &lens, size, shift));
            }
        }
    }

    #[test]
    fn an_empty_file_and_an_empty_stream() {
        let mut twin = Twin::new();
        let mut got = Vec::new();
        twin.update(&[], &[Note::End, Note::End], |digest| got.push(digest));
        let empty: [u8; 32] = Other::digest(b"").into();
        assert_eq!((got, twin.finish()), (vec![empty, empty], empty));
    }
}
