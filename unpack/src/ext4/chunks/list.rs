//! The list of chunks: in memory, as text, and the digest of that text. Pure.
//!
//! ```text
//! veneer chunks 1
//! block 4096 base 262144 doublings 0 inodes 8192 align 1048576
//! 0 4bd8d4..(64 hex digits: sha256)
//! 17 9d2cfa..
//! ```
//!
//! The second line is the geometry: bytes of a block, blocks that the file system was made with, how often it
//! was doubled since, inodes of each group, bytes that data is aligned to. Then a line for each chunk that is not all zeros, by rising number. Numbers have no zero in
//! front, each line ends with one newline, and there is nothing else: two texts that differ are two lists.

use std::io::{self, BufRead, Read, Write};

use crate::ext4::format::geometry::Geometry;
use crate::record::chunk_set::CHUNK;
use crate::sha::Sha256;

const FIRST: &str = "veneer chunks 1";
/// Bytes of a line: more than the longest there is.
const LINE_MAX: u64 = 160;

/// Digests of all chunks of an image that are not zeros: what a block digest is the sha256 of. In memory it
/// is 40 bytes for each MiB in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    pub(crate) geometry: Geometry,
    /// By rising number.
    pub(crate) list: Vec<(u64, [u8; 32])>,
}

/// Why a text is no list.
#[derive(Debug, thiserror::Error)]
pub enum ChunksError {
    /// It cannot be read.
    #[error("unable to read the list of chunks")]
    Io(#[source] io::Error),
    /// A line breaks a rule.
    #[error("it is no list of chunks: line {line}: {rule}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// The rule, as a clause.
        rule: &'static str,
    },
}

/// Chunks of a file system; the last one may be shorter.
pub(crate) fn count(geometry: Geometry) -> u64 {
    geometry.bytes().div_ceil(CHUNK)
}

impl Chunks {
    /// The digest of a chunk; none where it is zeros.
    pub(crate) fn get(&self, chunk: u64) -> Option<[u8; 32]> {
        let at = self.list.binary_search_by_key(&chunk, |&(number, _)| number).ok()?;
        Some(self.list[at].1)
    }

    /// How many chunks are listed.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none is: no file system is like that.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Writes the text.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let Geometry { block, blocks: _, inodes_per_group, align, base, doublings } = self.geometry;
        writeln!(
            to,
            "{FIRST}
block {block} base {base} doublings {doublings} inodes {inodes_per_group} align {align}"
        )?;
        self.list
            .iter()
            .try_for_each(|(chunk, digest)| writeln!(to, "{chunk} {}", hex::encode(digest)))
    }

    /// The block digest: the sha256 of the text.
    pub fn digest(&self) -> [u8; 32] {
        struct Hash(Sha256);
        impl Write for Hash {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut hash = Hash(Sha256::new());
        match self.write(&mut hash) {
            // A hash takes everything.
            Ok(()) | Err(_) => hash.0.finish(),
        }
    }

    /// Reads a text, which may be anybody's: what it takes is bounded by the size of a file system that the
    /// format can have.
    ///
    /// # Errors
    /// [`ChunksError::Line`] for everything but the one text of a list.
    pub fn parse(from: &mut dyn BufRead) -> Result<Chunks, ChunksError> {
        let mut line = String::new();
        let refuse = |line, rule| Err(ChunksError::Line { line, rule });
        if !next(from, &mut line, 1)? || line != FIRST {
            return refuse(1, "it is not \"veneer chunks 1\"");
        }
        let geometry = match next(from, &mut line, 2)? {
            true => geometry(&line),
            false => None,
        };
        let Some(geometry) = geometry else {
            return refuse(2, "it is not a geometry that a file system of this program can have");
        };
        let (chunks, mut list, mut free) = (count(geometry), Vec::new(), 0);
        let mut number = 3;
        while next(from, &mut line, number)? {
            let entry = line.split_once(' ').and_then(|(chunk, hex)| {
                let digest = digest(hex)?;
                Some((decimal(chunk)?, digest))
            });
            let Some((chunk, digest)) = entry else {
                return refuse(number, "it is not a number, a blank and 64 hex digits");
            };
            if chunk < free || chunk >= chunks {
                return refuse(
                    number,
                    "a number that does not rise, or lies beyond the file system",
                );
            }
            list.push((chunk, digest));
            free = chunk + 1;
            number += 1;
        }
        Ok(Chunks { geometry, list })
    }
}

/// The next line without its end; whether there is one.
fn next(from: &mut dyn BufRead, line: &mut String, number: u64) -> Result<bool, ChunksError> {
    let mut bytes = Vec::new();
    let mut one = from.take(LINE_MAX);
    one.read_until(b'\n', &mut bytes).map_err(ChunksError::Io)?;
    if bytes.is_empty() {
        return Ok(false);
    }
    let text = bytes.strip_suffix(b"\n").and_then(|bytes| std::str::from_utf8(bytes).ok());
    let Some(text) = text else {
        return Err(ChunksError::Line { line: number, rule: "it is no whole line of text" });
    };
    line.clear();
    line.push_str(text);
    Ok(true)
}

/// A number as it is written, and in no other way.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok()?;
    (plain && (text == "0" || !text.starts_with('0'))).then_some(number)
}

/// A digest as it is written, and in no other way.
fn digest(digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let lower = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    (lower && hex::decode_to_slice(digits, &mut digest).is_ok()).then_some(digest)
}

/// The second line, where it is a geometry that we make.
fn geometry(line: &str) -> Option<Geometry> {
    let mut words = line.split(' ');
    let mut value = |name| match words.next() {
        Some(word) if word == name => decimal(words.next()?),
        Some(_) | None => None,
    };
    let (block, base, doublings) = (value("block")?, value("base")?, value("doublings")?);
    let (inodes, align) = (value("inodes")?, value("align")?);
    if words.next().is_some() {
        return None;
    }
    let (block, inodes) = (block.try_into().ok()?, inodes.try_into().ok()?);
    Geometry::of(block, base, inodes, align.try_into().ok()?, doublings.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Chunks {
        let geometry = Geometry::new(64 << 20, 4096, 0, 1 << 20).unwrap();
        Chunks { geometry, list: vec![(0, [0xab; 32]), (9, [1; 32]), (63, [0; 32])] }
    }

    fn text(chunks: &Chunks) -> String {
        let mut text = Vec::new();
        chunks.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// The form is fixed: other hosts and later programs take the digest of it.
    #[test]
    fn the_text_is_what_is_documented_and_comes_back() {
        let chunks = chunks();
        let (ab, one, none) = ("ab".repeat(32), "01".repeat(32), "00".repeat(32));
        let expected = format!(
            "veneer chunks 1\nblock 4096 base 16384 doublings 0 inodes 8192 align 1048576\n0 {ab}\n9 {one}\n63 {none}\n"
        );
        assert_eq!(text(&chunks), expected);
        assert_eq!(Chunks::parse(&mut expected.as_bytes()).unwrap(), chunks);
        let mut sha = Sha256::new();
        sha.update(&expected);
        assert_eq!(chunks.digest(), sha.finish());
        assert_eq!((chunks.get(9), chunks.get(8)), (Some([1; 32]), None));
    }

    #[test]
    fn every_other_text_is_refused_with_its_line() {
        let good = text(&chunks());
        let ab = "ab".repeat(32);
        let with = |from: &str, to: &str| good.replacen(from, to, 1);
        let cases = [
            (String::new(), 1),
            (with("chunks 1", "chunks 2"), 1),
            (with("\n", "\r\n"), 1),
            (format!(" {good}"), 1),
            ("veneer chunks 1\n".into(), 2),
            (with("block 4096", "block 512"), 2),
            (with("block 4096", "block 04096"), 2),
            (with("base 16384", "base 16383999999999999999999"), 2),
            (with("base 16384", "base 18446744073709551615"), 2),
            (with("base 16384", "base 3"), 2),
            (with("doublings 0", "doublings 7"), 2),
            (with("inodes 8192", "inodes 8191"), 2),
            (with("align 1048576", "align 0"), 2),
            (with("align 1048576", "align 1048576 "), 2),
            (with("0 ab", "+0 ab"), 3),
            (with("0 ab", "00 ab"), 3),
            (with("0 ab", "-1 ab"), 3),
            (with("0 ab", "0  ab"), 3),
            (with("0 ab", "0 AB"), 3),
            (with("0 ab", "0 abc"), 3),
            (with("0 ab", "64 ab"), 3),
            (with("9 01", "0 01"), 4),
            (with("63 00", "64 00"), 5),
            (with("63 00", "8 00"), 5),
            (format!("{good}\n"), 6),
            (format!("{good}63 {ab}\n"), 6),
            (good[..good.len() - 1].to_owned(), 5),
            (format!("{good}{}", "x".repeat(1 << 20)), 6),
        ];
        for (text, wanted) in cases {
            match Chunks::parse(&mut text.as_bytes()) {
                Err(ChunksError::Line { line, .. }) => assert_eq!(line, wanted, "{text:.200}"),
                other => panic!("{other:?}: {text:.200}"),
            }
        }
        let mut bytes = good.into_bytes();
        bytes[60] = 0xff;
        assert!(Chunks::parse(&mut bytes.as_slice()).is_err());
    }
}
