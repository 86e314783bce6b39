//! What earlier manifests say of the content of files, so that it need not be read again.

use std::io::{BufRead, Read as _};

use crate::error::Error;
use crate::record::{Hashed, key};

/// Manifests, each in path order, of which an earlier one that names a path decides for it. Paths have to be
/// asked for in path order. A line that does not read ends its manifest.
pub(crate) struct Known<'a, 'b> {
    sources: Vec<Source<'a, 'b>>,
}

impl<'a, 'b> Known<'a, 'b> {
    pub(crate) fn new(manifests: &'a mut [&'b mut dyn BufRead]) -> Known<'a, 'b> {
        let source = |lines| Source { lines, next: None, ended: false, broken: false };
        Known { sources: manifests.iter_mut().map(source).collect() }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// What the first manifest that names `path` says of its content, where that is a file of `size` bytes.
    pub(crate) fn find(&mut self, path: &[u8], size: u64) -> Option<Hashed> {
        let wanted = key(path);
        let mut found = None;
        for source in &mut self.sources {
            // Each goes along, also where an earlier one has decided.
            let here = source.at(&wanted);
            found = found.or(here);
        }
        // A name that is no file there, or is of another size, is read.
        found.flatten().filter(|(known, _)| *known == size)
    }

    /// Whether every manifest was what one is.
    ///
    /// # Errors
    /// [`Error::Sandbox`], since whoever wrote a longer line than any can be is not the child that it was.
    pub(crate) fn sound(&self) -> Result<(), Error> {
        if !self.sources.iter().any(|source| source.broken) {
            return Ok(());
        }
        let why = format!("a line of its manifest is longer than {LINE_MAX} bytes");
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why);
        Err(Error::Sandbox { step: "believe the child".into(), source })
    }
}

/// Bytes of one line: what the most and longest attributes of an entry take is far below. Who wrote a longer
/// one is not the child that it was.
const LINE_MAX: u64 = 192 << 20;

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

/// Reads back what [`crate::error::escape::escaped_whole`] wrote.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.extend(hex::decode(after.strip_prefix(b"x")?.get(..2)?).ok()?);
        rest = &after[3..];
    }
    Some(bytes)
}

fn digest(digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(digits, &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::escape::escaped_whole;

    #[test]
    fn every_name_reads_back() {
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(unescape(&escaped_whole(&all).to_string()), Some(all));
        for bad in ["\\", "\\x", "\\x1", "\\y00", "\\xzz"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
