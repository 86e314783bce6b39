//! One line per node of a tree, and the digest over them.
//!
//! A manifest is those lines in path order (component by component, bytewise); a tree digest is
//! its sha256, so `sha256sum` of a manifest file is the tree digest. Where nodes come from is in
//! `tree::apply` (a layer) and `read::walk` (a file system).

pub(crate) mod applied;
pub(crate) mod chunk_set;
pub(crate) mod known;
pub(crate) mod piece;
pub(crate) mod place;
pub(crate) mod runs;
pub(crate) mod spill;

use std::io::{self, Write};

use crate::archive::entry::Entry;
use crate::archive::pax::Time;
use crate::error::escape::escaped_whole;

/// What is compared of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Canonical path; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// In name order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    File {
        size: u64,
        sha256: [u8; 32],
    },
    Dir,
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of the inode at this path; the rest of the record is void.
    Hardlink {
        target: Vec<u8>,
    },
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            What::File { .. } => "file",
            What::Dir => "dir",
            What::Symlink { .. } => "symlink",
            What::Hardlink { .. } => "hardlink",
            What::Char { .. } => "char",
            What::Block { .. } => "block",
            What::Fifo => "fifo",
        }
    }
}

fn json(bytes: &[u8]) -> String {
    // A backslash of our escaping is itself escaped for JSON.
    escaped_whole(bytes).to_string().replace('\\', "\\\\")
}

impl Record {
    /// What an entry says, at its canonical path.
    pub(crate) fn of(entry: &Entry, path: Vec<u8>, what: What) -> Record {
        let mut xattrs = entry.xattrs.clone();
        xattrs.sort();
        // Linux gives every symlink this mode.
        let mode = if matches!(what, What::Symlink { .. }) { 0o777 } else { entry.mode };
        let (uid, gid, mtime) = (entry.uid, entry.gid, entry.mtime);
        Record { path, what, mode, uid, gid, mtime, xattrs }
    }

    /// The record as one line of JSON with a fixed order of fields, newline included.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        // Writing to a Vec cannot fail.
        match self.write(&mut line) {
            Ok(()) | Err(_) => line,
        }
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let path: &[u8] = if self.path.is_empty() { b"." } else { &self.path };
        write!(to, "{{\"path\":\"{}\",\"type\":\"{}\"", json(path), self.what.name())?;
        if let What::Hardlink { target } = &self.what {
            return writeln!(to, ",\"link\":\"{}\"}}", json(target));
        }
        write!(
            to,
            ",\"mode\":\"{:04o}\",\"uid\":{},\"gid\":{},\"mtime\":{},\"nsec\":{}",
            self.mode, self.uid, self.gid, self.mtime.sec, self.mtime.nsec
        )?;
        match &self.what {
            What::File { size, sha256 } => {
                write!(to, ",\"size\":{size},\"sha256\":\"{}\"", hex::encode(sha256))?;
            }
            What::Symlink { target } => write!(to, ",\"link\":\"{}\"", json(target))?,
            What::Char { major, minor } | What::Block { major, minor } => {
                write!(to, ",\"rdev\":\"{major}:{minor}\"")?;
            }
            What::Dir | What::Fifo | What::Hardlink { .. } => {}
        }
        if !self.xattrs.is_empty() {
            write!(to, ",\"xattrs\":{{")?;
            for (at, (key, value)) in self.xattrs.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                write!(to, "{comma}\"{}\":\"{}\"", json(key), hex::encode(value))?;
            }
            write!(to, "}}")?;
        }
        writeln!(to, "}}")
    }
}

/// Orders paths component by component: a slash sorts before every byte of a name.
pub(crate) fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|&b| if b == b'/' { 0 } else { b }).collect()
}

/// What a record is when it is kept, not shown: all but the path.
impl Record {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let (tag, size, sha256, link, device): (u8, u64, &[u8], &[u8], (u32, u32)) =
            match &self.what {
                What::File { size, sha256 } => (0, *size, sha256, &[], (0, 0)),
                What::Dir => (1, 0, &[], &[], (0, 0)),
                What::Symlink { target } => (2, 0, &[], target, (0, 0)),
                What::Hardlink { target } => (3, 0, &[], target, (0, 0)),
                &What::Char { major, minor } => (4, 0, &[], &[], (major, minor)),
                &What::Block { major, minor } => (5, 0, &[], &[], (major, minor)),
                What::Fifo => (6, 0, &[], &[], (0, 0)),
            };
        to.push(tag);
        to.extend_from_slice(sha256);
        for number in [self.mode, self.uid, self.gid, self.mtime.nsec, device.0, device.1] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&self.mtime.sec.to_le_bytes());
        to.extend_from_slice(&size.to_le_bytes());
        bytes(to, link);
        to.extend_from_slice(&(self.xattrs.len() as u64).to_le_bytes());
        for (key, value) in &self.xattrs {
            bytes(to, key);
            bytes(to, value);
        }
    }

    /// Whether what was encoded is a directory.
    pub(crate) fn is_dir(encoded: &[u8]) -> bool {
        encoded.first() == Some(&1)
    }

    /// What stands for a node that is no directory and of which nothing more has to be known.
    pub(crate) fn nothing() -> Vec<u8> {
        vec![u8::MAX]
    }

    /// The inverse of [`Record::encode`]; `None` if `from` is no record.
    pub(crate) fn decode(path: Vec<u8>, from: &[u8]) -> Option<Record> {
        let mut from = Reader(from);
        let tag = from.take(1)?[0];
        let sha256: [u8; 32] = match tag {
            0 => from.take(32)?.try_into().ok()?,
            _ => [0; 32],
        };
        let (mode, uid, gid) = (from.u32()?, from.u32()?, from.u32()?);
        let (nsec, major, minor) = (from.u32()?, from.u32()?, from.u32()?);
        let (sec, size) = (from.u64()?.cast_signed(), from.u64()?);
        let target = from.bytes()?;
        let mut xattrs = Vec::new();
        for _ in 0..from.u64()? {
            xattrs.push((from.bytes()?, from.bytes()?));
        }
        let what = match tag {
            0 => What::File { size, sha256 },
            1 => What::Dir,
            2 => What::Symlink { target },
            3 => What::Hardlink { target },
            4 => What::Char { major, minor },
            5 => What::Block { major, minor },
            6 => What::Fifo,
            _ => return None,
        };
        Some(Record { path, what, mode, uid, gid, mtime: Time { sec, nsec }, xattrs })
    }
}

/// Where [`Record::encode`] puts a file's digest.
pub(crate) const SHA256_AT: usize = 1;

fn bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.u64()?).ok()?;
        Some(self.take(len)?.to_vec())
    }
}

/// Size and sha256 of a regular file's content.
pub(crate) type Hashed = (u64, [u8; 32]);

pub(crate) fn hardlink(path: &[u8], target: &[u8]) -> Record {
    Record {
        path: path.to_vec(),
        what: What::Hardlink { target: target.to_vec() },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str, what: What) -> Record {
        Record {
            path: path.into(),
            what,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let all = [
            What::File { size: 7, sha256: [9; 32] },
            What::Dir,
            What::Symlink { target: b"t".to_vec() },
            What::Hardlink { target: b"h".to_vec() },
            What::Char { major: 1, minor: 3 },
            What::Block { major: 8, minor: 1 },
            What::Fifo,
        ];
        for what in all {
            let mut record = record("a/b", what);
            record.mtime = Time { sec: -5, nsec: 3 };
            record.xattrs =
                vec![(b"user.a".to_vec(), b"1\0".to_vec()), (b"user.b".to_vec(), vec![])];
            let mut kept = Vec::new();
            record.encode(&mut kept);
            assert_eq!(Record::decode(b"a/b".to_vec(), &kept), Some(record));
            assert_eq!(Record::decode(Vec::new(), &kept[..kept.len() - 1]), None);
        }
    }

    #[test]
    fn a_name_with_a_newline_is_still_one_line() {
        let line = record("a\nb\\", What::Fifo).line();
        assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["path"], "a\\x0ab\\x5c");
    }
}
