//! The digest of a whole tree right after a layer was applied, without reading again what the layer
//! and the tree below already had hashed.
//!
//! Two manifests know the contents: the layer's (as [`crate::apply_with`] writes it) and, for what
//! the layer does not name, that of the tree it was applied to. What neither knows is read. So the
//! digest says what the tree must hold, and a later [`crate::read::walk::tree_digest`] whether it does.

use std::io::{BufRead, Read as _, Write};

use nix::sys::stat::FileStat;

use crate::error::Error;
use crate::limits::Limits;
use crate::read::walk::{Reading, whole};
use crate::record::place::Spill;
use crate::record::spill::io_fault;
use crate::record::{Hashed, key};
use crate::tree::budget::Budget;
use crate::tree::fd::root::Root;

/// Writes the manifest of the whole tree below `root` to `out`, and gives its sha256, which is
/// [`crate::read::walk::tree_digest`] of that tree. Of `known`, an earlier manifest that names a path decides
/// for it; a line that does not read ends its manifest.
///
/// # Errors
/// [`Error::Fs`]; also when `out` cannot be written.
pub fn tree_manifest(
    root: &Root,
    known: &mut [&mut dyn BufRead],
    out: &mut dyn Write,
) -> Result<[u8; 32], Error> {
    let limits = Limits::default();
    let spill = crate::record::spill::spill_file(&limits)?;
    let how = Reading { spill: spill.map(|file| Spill::new(file, u64::MAX)), alone: false };
    let mut failed = Ok(());
    let digest = manifest(root, &how, &mut Budget::unlimited(), known, |line| {
        if failed.is_ok() {
            failed = out.write_all(line);
        }
    })?;
    failed.map_err(|e| io_fault("write", b"manifest")(e).nowhere())?;
    Ok(digest)
}

/// [`tree_manifest`] within a budget; each line goes to `each`.
pub(crate) fn manifest(
    root: &Root,
    how: &Reading,
    budget: &mut Budget,
    known: &mut [&mut dyn BufRead],
    each: impl FnMut(&[u8]),
) -> Result<[u8; 32], Error> {
    let mut sources: Vec<Source<'_, '_>> = known
        .iter_mut()
        .map(|lines| Source { lines, next: None, ended: false, broken: false })
        .collect();
    let made = whole(root, how, budget, |path, stat| find(&mut sources, path, stat), each);
    match sources.iter().any(|source| source.broken) {
        true => {
            let why = format!("a line of its manifest is longer than {LINE_MAX} bytes");
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why);
            Err(Error::Sandbox { step: "believe the child".into(), source })
        }
        false => made,
    }
}

/// Bytes of one line: what the most and longest attributes of an entry take is far below. Who wrote a longer
/// one is not the child that it was.
const LINE_MAX: u64 = 192 << 20;

/// What the first manifest that names `path` says of its content.
fn find(sources: &mut [Source<'_, '_>], path: &[u8], stat: &FileStat) -> Option<Hashed> {
    let wanted = key(path);
    let mut found = None;
    for source in sources {
        // Each goes along, also where an earlier one has decided.
        let here = source.at(&wanted);
        found = found.or(here);
    }
    // A name that is no file there, or is of another size, is read.
    found.flatten().filter(|(size, _)| i64::try_from(*size) == Ok(stat.st_size))
}

struct Source<'a, 'b> {
    lines: &'a mut &'b mut dyn BufRead,
    /// The sort key of the next line, and what it says of a file's content.
    next: Option<(Vec<u8>, Option<Hashed>)>,
    ended: bool,
    /// A line was longer than any is.
    broken: bool,
}

impl Source<'_, '_> {
    /// What the line of this path says, where there is one. Paths come in their order.
    fn at(&mut self, wanted: &[u8]) -> Option<Option<Hashed>> {
        while !self.ended {
            match &self.next {
                Some((next, hashed)) if next == wanted => return Some(*hashed),
                Some((next, _)) if next.as_slice() > wanted => return None,
                Some(_) | None => self.advance(),
            }
        }
        None
    }

    fn advance(&mut self) {
        let mut line = String::new();
        self.next = match (&mut **self.lines).take(LINE_MAX).read_line(&mut line) {
            Ok(read) if read as u64 >= LINE_MAX => {
                self.broken = true;
                None
            }
            Ok(1..) => read_line(&line),
            Ok(0) | Err(_) => None,
        };
        self.ended = self.next.is_none();
    }
}

/// The sort key of a manifest line, and the size and sha256 of a regular file.
fn read_line(line: &str) -> Option<(Vec<u8>, Option<Hashed>)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = unescape(line["path"].as_str()?)?;
    // The root's own line is ".", and its key is empty.
    let path = if path == b"." { Vec::new() } else { path };
    let hashed = match line["type"].as_str()? {
        "file" => Some((line["size"].as_u64()?, digest(line["sha256"].as_str()?)?)),
        _ => None,
    };
    Some((key(&path), hashed))
}

/// Reads back what [`crate::escape::escaped_whole`] wrote.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let hex = after.strip_prefix(b"x")?.get(..2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = &after[3..];
    }
    Some(bytes)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::escaped_whole;

    #[test]
    fn every_name_reads_back() {
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(unescape(&escaped_whole(&all).to_string()), Some(all));
        for bad in ["\\", "\\x", "\\x1", "\\y00", "\\xzz"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
