//! One line per node of a tree, and the digest over them.
//!
//! A manifest is those lines in path order (component by component, bytewise); a tree digest is
//! its sha256, so `sha256sum` of a manifest file is the tree digest. Where nodes come from is in
//! `apply` (a layer) and `tree` (a file system).

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::entry::Entry;
use crate::escape::escaped_whole;
use crate::pax::Time;

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

/// Lower-case hex.
#[derive(Clone, Copy)]
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
                write!(to, ",\"size\":{size},\"sha256\":\"{}\"", Hex(sha256))?;
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
                write!(to, "{comma}\"{}\":\"{}\"", json(key), Hex(value))?;
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

struct Row {
    key: Vec<u8>,
    seq: u64,
    dir: bool,
    link: Option<Vec<u8>>,
    line: Vec<u8>,
}

/// The nodes a layer has made, in the order of the layer.
#[derive(Default)]
pub(crate) struct Records {
    rows: Vec<Row>,
    seq: u64,
}

impl Records {
    pub(crate) fn push(&mut self, record: &Record) {
        self.seq += 1;
        let dir = matches!(record.what, What::Dir);
        let link = match &record.what {
            What::Hardlink { target } => Some(target.clone()),
            _ => None,
        };
        let (key, line) = (key(&record.path), record.line());
        self.rows.push(Row { key, seq: self.seq, dir, link, line });
    }

    /// Hands every line that is still true at the end to `sink`, in path order: the last one of
    /// a path, unless something that is no directory took the place of one of its parents since.
    /// `sink` gets the path, a hard link's target, and the line.
    pub(crate) fn finish(
        mut self,
        mut sink: impl FnMut(&[u8], Option<&[u8]>, &[u8]) -> io::Result<()>,
    ) -> io::Result<[u8; 32]> {
        self.rows.sort_unstable_by(|a, b| (&a.key, a.seq).cmp(&(&b.key, b.seq)));
        let mut hash = Sha256::new();
        // Parents that were something else at some time: their key and when that was.
        let mut killers: Vec<(&[u8], u64)> = Vec::new();
        for group in self.rows.chunk_by(|a, b| a.key == b.key) {
            let Some(last) = group.last() else { continue };
            while let Some((parent, _)) = killers.last() {
                let below = last.key.starts_with(parent)
                    && (parent.is_empty() || last.key.get(parent.len()) == Some(&0));
                if below {
                    break;
                }
                killers.pop();
            }
            let gone = killers.iter().map(|&(_, seq)| seq).max().unwrap_or(0);
            if last.seq > gone {
                hash.update(&last.line);
                let path: Vec<u8> =
                    last.key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect();
                sink(&path, last.link.as_deref(), &last.line)?;
            }
            if let Some(killer) = group.iter().rev().find(|row| !row.dir) {
                killers.push((&killer.key, killer.seq));
            }
        }
        Ok(hash.finalize().into())
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

    fn lines(records: Vec<Record>) -> Vec<String> {
        let mut all = Records::default();
        records.iter().for_each(|record| all.push(record));
        let mut out = Vec::new();
        all.finish(|_, _, line| {
            let line = String::from_utf8(line.to_vec()).unwrap();
            let path = line.split('"').nth(3).unwrap().to_owned();
            out.push(format!("{path} {}", line.split('"').nth(7).unwrap()));
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn the_last_of_a_path_counts_and_a_file_ends_what_was_below() {
        let file = || What::File { size: 0, sha256: [0; 32] };
        let got = lines(vec![
            record("a", What::Dir),
            record("a/old", file()),
            record("a", file()),
            record("a", What::Dir),
            record("a/new", file()),
            record("a-b", file()),
        ]);
        assert_eq!(got, ["a dir", "a/new file", "a-b file"]);
    }

    #[test]
    fn a_name_with_a_newline_is_still_one_line() {
        let line = record("a\nb\\", What::Fifo).line();
        assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["path"], "a\\x0ab\\x5c");
    }
}
