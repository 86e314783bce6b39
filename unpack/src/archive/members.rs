//! An archive that is a container and no layer: where each of its members lies, so that one can be read by its
//! offset; and such an archive without its compression. `docker save` and image layouts in a tar are read so.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt as _;

use crate::archive::buffers::Buffers;
use crate::archive::entry::Node;
use crate::archive::{Archive, End, pipeline};
use crate::error::refusal::{Class, Refusal};
use crate::error::{Error, Fault};
use crate::limits::{Compression, Limits};

/// Members of an archive that are kept track of. A thousand images of thirty layers have fewer.
const MEMBERS_MAX: u64 = 200_000;

/// Bytes of all their names and links.
const NAMES_BYTES_MAX: u64 = 32 << 20;

/// Bytes that are read at a time: some headers of small members.
const PIECE: usize = 16 << 10;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Components joined by single slashes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// Bytes of the archive.
    File {
        /// Where they begin.
        offset: u64,
        /// How many.
        size: u64,
    },
    /// Another member, as a symbolic link has it: from the member's own folder, unless it begins with `/`.
    Symlink {
        /// Raw.
        target: Vec<u8>,
    },
    /// Another member, as a hard link has it: from the root of the archive.
    Hardlink {
        /// Like [`Member::path`].
        target: Vec<u8>,
    },
    /// A folder, or anything else that holds no bytes.
    Other,
}

/// The members of an archive that is not compressed, in its order. Nothing but headers is read.
///
/// # Errors
/// As those of a layer: what is no tar, or breaks off.
pub fn members(file: &File, limits: &Limits) -> Result<Vec<Member>, Error> {
    let limits = Limits { entries_max: limits.entries_max.min(MEMBERS_MAX), ..limits.clone() };
    let length = file.metadata().map_err(|source| Fault::Stream(source).nowhere())?.len();
    let input = Jumping { file, at: 0, piece: Vec::new(), used: 0 };
    let mut archive = Archive::new(input, &limits);
    let (mut found, mut names) = (Vec::new(), 0u64);
    loop {
        let entry = match archive.next()? {
            Ok(entry) => entry,
            Err(End::Empty) => {
                let why = Refusal::new(Class::Frame, "there is nothing in the archive");
                return Err(Fault::from(why).at(archive.place().clone()));
            }
            Err(End::Marker | End::HalfMarker | End::Bare) => return Ok(found),
        };
        let body = archive.body;
        let kind = match entry.node {
            Node::File { size } if archive.parts.is_none() => {
                MemberKind::File { offset: archive.pos, size }
            }
            Node::Symlink { target } => MemberKind::Symlink { target },
            Node::Hardlink { target } => MemberKind::Hardlink { target },
            // A sparse member is not the bytes that it stands for.
            Node::File { .. }
            | Node::Dir
            | Node::Char { .. }
            | Node::Block { .. }
            | Node::Fifo
            | Node::Whiteout
            | Node::Opaque
            | Node::Aufs
            | Node::Pseudo { .. } => MemberKind::Other,
        };
        let link = match &kind {
            MemberKind::Symlink { target } | MemberKind::Hardlink { target } => target.len(),
            MemberKind::File { .. } | MemberKind::Other => 0,
        };
        names += (entry.path.len() + link) as u64;
        if names > NAMES_BYTES_MAX {
            let rule = "too many bytes of names";
            let why = Refusal::limit("an archive's names", rule, names, NAMES_BYTES_MAX);
            return Err(Fault::from(why).at(archive.place().clone()));
        }
        if archive.pos.saturating_add(body) > length {
            let why = Refusal::new(Class::Frame, "the stream ends inside an entry's body");
            return Err(Fault::from(why).at(archive.place().clone()));
        }
        archive.jump();
        found.push(Member { path: entry.path, kind });
    }
}

impl Archive<'_, Jumping<'_>> {
    /// Passes over what is left of the body, unread.
    fn jump(&mut self) {
        self.input.jump(self.body);
        self.pos += self.body;
        self.body = 0;
    }
}

/// A file that is read by its offset: passing over costs nothing.
struct Jumping<'f> {
    file: &'f File,
    /// Where `piece` begins.
    at: u64,
    piece: Vec<u8>,
    used: usize,
}

impl Jumping<'_> {
    fn jump(&mut self, bytes: u64) {
        let left = (self.piece.len() - self.used) as u64;
        match usize::try_from(bytes) {
            Ok(bytes) if bytes as u64 <= left => self.used += bytes,
            Ok(_) | Err(_) => {
                self.at = self.at.saturating_add(self.used as u64).saturating_add(bytes);
                self.piece.clear();
                self.used = 0;
            }
        }
    }
}

impl Read for Jumping<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let len = piece.len().min(to.len());
        to[..len].copy_from_slice(&piece[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Jumping<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() {
            self.at += self.used as u64;
            self.used = 0;
            self.piece.resize(PIECE, 0);
            let read = loop {
                match self.file.read_at(&mut self.piece, self.at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.piece.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(&self.piece[self.used..])
    }

    fn consume(&mut self, bytes: usize) {
        self.used += bytes;
    }
}

/// How an archive of images is compressed, by its first bytes; none for what no reader here knows.
pub fn compression(file: &File) -> io::Result<Option<Compression>> {
    let mut start = [0; 6];
    let mut len = 0;
    while len < start.len() {
        match file.read_at(&mut start[len..], len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Compression::sniff(&start[..len]))
}

/// Writes what an archive is without its compression, and gives its bytes. Bounds and rules of compression are
/// those of a layer; what is in it is not looked at.
///
/// # Errors
/// As those of a layer; a write that fails is one of the stream.
pub fn plain(
    archive: impl Read,
    limits: &Limits,
    to: &mut (impl Write + Send),
) -> Result<u64, Error> {
    let limits = Limits { digests: false, reader_verifies: true, ..limits.clone() };
    let copy = |mut archive: Archive<'_, Buffers>, _| loop {
        let fault = |source| Fault::Stream(source).nowhere();
        let piece =
            archive.input.fill_buf().map_err(|e| crate::archive::stream_fault(e).nowhere())?;
        if piece.is_empty() {
            return Ok((archive.pos, End::Marker));
        }
        to.write_all(piece).map_err(fault)?;
        let len = piece.len();
        archive.input.consume(len);
        archive.pos += len as u64;
        if archive.pos > archive.limits.bytes_max {
            let (total, max) = (archive.pos, archive.limits.bytes_max);
            let rule = "archive too large";
            return Err(Fault::from(Refusal::limit("--bytes-max", rule, total, max)).nowhere());
        }
    };
    Ok(pipeline::run(archive, &limits, copy, |_| 0)?.0)
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    fn archive(members: &[(&str, tar::EntryType, &[u8], &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, body, link) in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            match link.is_empty() {
                true => builder.append_data(&mut header, path, *body).unwrap(),
                false => builder.append_link(&mut header, path, link).unwrap(),
            }
        }
        builder.into_inner().unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn each_member_is_found_by_its_offset_in_whatever_order() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let large = vec![7; 100_000];
        let long = format!("{}/layer.tar", "d".repeat(150));
        let bytes = archive(&[
            ("a/", Directory, b"", ""),
            ("a/layer.tar", Regular, &large, ""),
            (&long, Regular, b"long", ""),
            ("b/layer.tar", Symlink, b"", "../a/layer.tar"),
            ("c/layer.tar", Link, b"", "a/layer.tar"),
            ("manifest.json", Regular, b"[]", ""),
            ("empty", Regular, b"", ""),
        ]);
        let found = members(&file(&bytes), &Limits::default()).unwrap();
        let paths: Vec<_> =
            found.iter().map(|m| String::from_utf8_lossy(&m.path).into_owned()).collect();
        let due =
            ["a", "a/layer.tar", &long, "b/layer.tar", "c/layer.tar", "manifest.json", "empty"];
        assert_eq!(paths, due);
        let content = |at: usize| match &found[at].kind {
            MemberKind::File { offset, size } => {
                let (from, len) =
                    (usize::try_from(*offset).unwrap(), usize::try_from(*size).unwrap());
                &bytes[from..from + len]
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((content(1), content(2), content(5)), (&large[..], &b"long"[..], &b"[]"[..]));
        assert_eq!(content(6), b"");
        assert_eq!(found[3].kind, MemberKind::Symlink { target: b"../a/layer.tar".to_vec() });
        assert_eq!(found[4].kind, MemberKind::Hardlink { target: b"a/layer.tar".to_vec() });
    }

    #[test]
    fn what_breaks_off_or_is_no_archive_is_refused() {
        let whole = archive(&[("a", tar::EntryType::Regular, &[7; 5000], "")]);
        for (bytes, name) in [
            (&b""[..], "nothing"),
            (&[1; 700][..], "no tar"),
            (&whole[..3000], "cut in a body"),
            (&whole[..300], "cut in a header"),
        ] {
            assert!(members(&file(bytes), &Limits::default()).is_err(), "{name}");
        }
        let many = Limits { entries_max: 0, ..Limits::default() };
        assert!(members(&file(&whole), &many).is_err(), "more than the limit");
    }

    /// Seeded: whatever an archive says, nothing panics, and each member lies in the file.
    #[test]
    fn archives_that_are_broken_anywhere_never_panic() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let long = "d".repeat(150);
        let whole = archive(&[
            ("a/", Directory, b"", ""),
            ("a/layer.tar", Regular, &[7; 700], ""),
            (&long, Regular, b"long", ""),
            ("b/layer.tar", Symlink, b"", "../a/layer.tar"),
            ("c/layer.tar", Link, b"", &long),
            ("manifest.json", Regular, b"[]", ""),
        ]);
        let limits = Limits::default();
        let number = |name: &str, otherwise: u64| {
            std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
        };
        let seed = number("VENEER_FUZZ_SEED", 0x0a2c);
        let mut taken = 0;
        for round in 0..number("VENEER_FUZZ_ROUNDS", 3000) {
            let mut dice = seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |limit: usize| {
                dice ^= dice >> 12;
                dice ^= dice << 25;
                dice ^= dice >> 27;
                let next = dice.wrapping_mul(0x2545_f491_4f6c_dd1d);
                usize::try_from(next % limit.max(1) as u64).unwrap()
            };
            let mut bytes = whole.clone();
            for _ in 0..=below(3) {
                let block = below(bytes.len() / 512) * 512;
                match below(5) {
                    0 => bytes.truncate(block + below(512)),
                    1 => {
                        let piece = bytes[block..(block + 512).min(bytes.len())].to_vec();
                        bytes.splice(block..block, piece);
                    }
                    2 => drop(bytes.drain(block..(block + 512).min(bytes.len()))),
                    // A field of a header, with the sum made right again.
                    3 if block + 512 <= bytes.len() => {
                        let fields = [(124, 12), (156, 1), (157, 40), (0, 60), (257, 8)];
                        let (from, len) = fields[below(fields.len())];
                        let text = [
                            &b"77777777777"[..],
                            b"\x80\xff\xff",
                            b"L",
                            b"x",
                            b"../",
                            b"00000001000",
                            b"S",
                            b"\0",
                        ];
                        let text = text[below(text.len())];
                        for (at, byte) in text.iter().take(len).enumerate() {
                            bytes[block + from + at] = *byte;
                        }
                        bytes[block + 148..block + 156].copy_from_slice(b"        ");
                        let sum: u32 =
                            bytes[block..block + 512].iter().map(|b| u32::from(*b)).sum();
                        let sum = format!("{sum:06o}\0 ");
                        bytes[block + 148..block + 156].copy_from_slice(sum.as_bytes());
                    }
                    _ => {
                        let at = below(bytes.len());
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte ^= 1 << below(8);
                        }
                    }
                }
                if bytes.len() < 512 {
                    break;
                }
            }
            let length = bytes.len() as u64;
            let file = file(&bytes);
            let read = std::panic::catch_unwind(|| members(&file, &limits));
            let read =
                read.unwrap_or_else(|_| panic!("VENEER_FUZZ_SEED={} breaks it", seed + round));
            for member in read.into_iter().flatten() {
                taken += 1;
                if let MemberKind::File { offset, size } = member.kind {
                    assert!(offset.saturating_add(size) <= length, "seed {}", seed + round);
                }
            }
        }
        assert!(taken > 1000, "only {taken} members were read");
    }

    #[test]
    fn what_is_compressed_is_written_plain_within_the_bound() {
        let whole = archive(&[("a", tar::EntryType::Regular, &[7; 5000], "")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&whole).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(compression(&file(&gzip)).unwrap(), Some(Compression::Gzip));
        let zstd = zstd::encode_all(&whole[..], 1).unwrap();
        for blob in [&whole[..], &gzip, &zstd] {
            let mut out = Vec::new();
            assert_eq!(plain(blob, &Limits::default(), &mut out).unwrap(), whole.len() as u64);
            assert!(out == whole);
        }
        let small = Limits { bytes_max: 1000, ..Limits::default() };
        assert!(plain(&gzip[..], &small, &mut Vec::new()).is_err());
        assert!(
            plain(&gzip[..gzip.len() - 9], &Limits::default(), &mut Vec::new()).is_err(),
            "cut"
        );
    }
}
