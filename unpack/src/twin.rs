//! Two digests in one pass: that of a tar stream, and that of each file in it.
//!
//! On processors with SHA instructions, and on those without AVX-512, ring computes both, one
//! after the other. In between lies a family (servers before 2020) on which hashing is most of
//! all the work: there both are computed at once, in `lanes`, at the price of one. Pure.

use crate::content::Note;
use crate::sha::Sha256;

/// The states of two hashes: the stream's and the file's.
pub(crate) type Pair = [[u32; 8]; 2];

/// The round constants and the first state (FIPS 180-4, 4.2.2 and 5.3.3).
pub(crate) const ROUND: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
const FIRST: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// Bytes that go into the lanes together.
const CHUNK: usize = 512;
const BLOCK: usize = 64;

/// Both hashes of a stream being read.
pub(crate) struct Twin(Kind);

enum Kind {
    Ring(Box<(Sha256, Sha256)>),
    Lanes(Box<Lanes>),
}

impl Twin {
    pub(crate) fn new() -> Twin {
        if crate::sys::has_lanes() {
            Twin(Kind::Lanes(Box::new(Lanes::new())))
        } else {
            Twin::ring()
        }
    }

    fn ring() -> Twin {
        Twin(Kind::Ring(Box::new((Sha256::new(), Sha256::new()))))
    }

    /// The next piece of the stream. `notes` say what of it belongs to files, in order and within
    /// its bounds; each file that ends in it gives a digest.
    pub(crate) fn update(&mut self, bytes: &[u8], notes: &[Note], mut ended: impl FnMut([u8; 32])) {
        match &mut self.0 {
            Kind::Ring(both) => {
                let (stream, file) = &mut **both;
                stream.update(bytes);
                for note in notes {
                    match *note {
                        Note::Part { from, to } => file.update(&bytes[from..to]),
                        Note::End => ended(std::mem::replace(file, Sha256::new()).finish()),
                    }
                }
            }
            Kind::Lanes(lanes) => {
                let mut at = 0;
                for note in notes {
                    match *note {
                        Note::Part { from, to } => {
                            if at < from {
                                lanes.stream(&bytes[at..from]);
                                at = from;
                            }
                            at = lanes.both(bytes, at, from, to);
                        }
                        Note::End => ended(lanes.end_file()),
                    }
                }
                lanes.stream(&bytes[at..]);
            }
        }
    }

    /// The stream's digest.
    pub(crate) fn finish(self) -> [u8; 32] {
        match self.0 {
            Kind::Ring(both) => both.0.finish(),
            Kind::Lanes(lanes) => lanes.finish(),
        }
    }
}

/// Bytes that do not make a whole piece yet, and how many there were in all.
#[derive(Debug)]
struct Rest {
    bytes: [u8; CHUNK],
    len: usize,
    total: u64,
}

impl Rest {
    fn new() -> Rest {
        Rest { bytes: [0; CHUNK], len: 0, total: 0 }
    }

    /// Takes what fits up to `whole` bytes; says how much that was.
    fn take(&mut self, from: &[u8], whole: usize) -> usize {
        let len = from.len().min(whole - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&from[..len]);
        self.len += len;
        len
    }
}

const STREAM: usize = 0;
const FILE: usize = 1;

#[derive(Debug)]
struct Lanes {
    pair: Pair,
    stream: Rest,
    file: Rest,
}

impl Lanes {
    fn new() -> Lanes {
        Lanes { pair: [FIRST; 2], stream: Rest::new(), file: Rest::new() }
    }

    fn run(&mut self, bytes: &[u8], counts: [usize; 2]) {
        crate::sys::run_lanes(&mut self.pair, bytes, counts);
    }

    /// Bytes of the stream that are no file's.
    fn stream(&mut self, mut bytes: &[u8]) {
        self.stream.total += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.stream.len == 0 && bytes.len() >= CHUNK {
                let whole = bytes.len() / CHUNK * CHUNK;
                self.run(&bytes[..whole], [whole / BLOCK, 0]);
                bytes = &bytes[whole..];
                continue;
            }
            let len = self.stream.take(bytes, CHUNK);
            bytes = &bytes[len..];
            if self.stream.len == CHUNK {
                let chunk = self.stream.bytes;
                self.run(&chunk, [CHUNK / BLOCK, 0]);
                self.stream.len = 0;
            }
        }
    }

    /// Bytes of a file, not of the stream.
    fn file(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = self.file.take(bytes, BLOCK);
            bytes = &bytes[len..];
            if self.file.len == BLOCK {
                let chunk = self.file.bytes;
                self.run(&chunk, [0, 1]);
                self.file.len = 0;
            }
        }
    }

    /// Bytes `from..to` of a buffer, which belong to both. The stream stands at `at`, which is
    /// `from` unless padding before it was taken along already; the result is where it stands then.
    fn both(&mut self, buffer: &[u8], at: usize, from: usize, to: usize) -> usize {
        let len = to - from;
        self.file.total += len as u64;
        let room = (buffer.len() - from) / CHUNK * CHUNK;
        let whole = len.next_multiple_of(CHUNK).min(room);
        if at != from || self.stream.len != 0 || self.file.len != 0 || whole == 0 {
            self.file(&buffer[from..to]);
            if at < to {
                self.stream(&buffer[at..to]);
            }
            return at.max(to);
        }
        let shared = len.min(whole);
        self.run(&buffer[from..from + whole], [whole / BLOCK, shared / BLOCK]);
        self.stream.total += whole as u64;
        self.file(&buffer[from + shared / BLOCK * BLOCK..to]);
        if from + whole < to {
            self.stream(&buffer[from + whole..to]);
        }
        to.max(from + whole)
    }

    fn end_file(&mut self) -> [u8; 32] {
        let rest = std::mem::replace(&mut self.file, Rest::new());
        self.end(&rest, FILE);
        let digest = digest(&self.pair[FILE]);
        self.pair[FILE] = FIRST;
        digest
    }

    fn finish(mut self) -> [u8; 32] {
        let rest = std::mem::replace(&mut self.stream, Rest::new());
        self.end(&rest, STREAM);
        digest(&self.pair[STREAM])
    }

    /// The padding of FIPS 180-4, 5.1.1.
    fn end(&mut self, rest: &Rest, lane: usize) {
        let mut last = [0; 2 * CHUNK];
        last[..rest.len].copy_from_slice(&rest.bytes[..rest.len]);
        last[rest.len] = 0x80;
        let end = (rest.len + 9).next_multiple_of(BLOCK);
        last[end - 8..end].copy_from_slice(&(rest.total * 8).to_be_bytes());
        let mut counts = [0; 2];
        counts[lane] = end / BLOCK;
        self.run(&last, counts);
    }
}

fn digest(state: &[u32; 8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, word) in out.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256 as Other};

    use super::*;

    fn odd(number: usize) -> u8 {
        u8::try_from(number % 251).unwrap()
    }

    /// Files at tar's places in a stream, cut into buffers of `size`; all digests as they come.
    fn hashed(mut twin: Twin, lens: &[usize], size: usize, shift: usize) -> Vec<[u8; 32]> {
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
            twin.update(buffer, &notes, |digest| got.push(digest));
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
                let one = hashed(Twin::ring(), &lens, size, shift);
                // On a processor without the lanes this compares ring with itself.
                assert_eq!(one, hashed(Twin::new(), &lens, size, shift));
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
