//! The headers of a layer's entries: ustar with PAX records (POSIX.1-2017, pax) for what does not fit. Pure.
//!
//! Extended attributes are `SCHILY.xattr` records, as every reader of layers takes them; a file with holes is in GNU
//! tar's sparse format 1.0. Nothing in a header depends on when or where it is written.

use crate::archive::header::{BLOCK, TIME_MAX, TIME_MIN};
use crate::archive::pax::Time;
use crate::error::refusal::{Class, Refusal};
use crate::limits::Limits;
use crate::record::piece::Parts;
use crate::record::{Record, What};
use crate::tree::site::{depth, split};

/// The largest number of a field of seven octal digits.
const SEVEN_MAX: u64 = 0o7_777_777;
/// The same of eleven.
const ELEVEN_MAX: u64 = 0o77_777_777_777;
/// Bytes of a name, and of a link's target.
const NAME_MAX: usize = 100;
/// Bytes of a name in a directory.
const COMPONENT_MAX: usize = 255;

/// What a whiteout's name begins with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// One header block, before its checksum is known.
struct Block([u8; BLOCK]);

impl Block {
    fn new(name: &[u8], kind: u8) -> Block {
        let mut block = Block([0; BLOCK]);
        block.text(0, NAME_MAX, name);
        block.0[156] = kind;
        block.text(257, 8, b"ustar\x0000");
        block
    }

    /// As much of a text as there is room for.
    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        let len = text.len().min(room);
        self.0[at..at + len].copy_from_slice(&text[..len]);
    }

    /// A number in so many octal digits, with a NUL behind it. One that does not fit is in a PAX record.
    fn octal(&mut self, at: usize, digits: usize, number: u64) {
        let text = format!("{number:0digits$o}");
        self.text(at, digits, if text.len() > digits { b"0" } else { text.as_bytes() });
    }

    fn numbers(&mut self, (mode, uid, gid): (u32, u32, u32), size: u64, mtime: u64) {
        for (at, number) in [(100, mode), (108, uid), (116, gid)] {
            let number = u64::from(number);
            self.octal(at, 7, if number > SEVEN_MAX { 0 } else { number });
        }
        for (at, number) in [(124, size), (136, mtime)] {
            self.octal(at, 11, if number > ELEVEN_MAX { 0 } else { number });
        }
    }

    /// With the sum of all its bytes, for which the sum's own are spaces.
    fn end(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 6, sum);
        self.0[154] = 0;
        self.0
    }
}

/// Adds a PAX record, whose length counts its own digits.
fn pax(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    to.extend_from_slice(format!("{len} ").as_bytes());
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Zeros up to the next whole block.
pub(crate) fn padding(bytes: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(BLOCK as u64) - bytes).unwrap_or(0)
}

/// The blocks after the last entry.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// An owner's time as PAX has it: -1.5 is second -2 and 500,000,000 ns.
fn decimal(time: Time) -> String {
    let (sign, sec, nsec) = match (time.sec < 0, time.nsec) {
        (false, nsec) => ("", time.sec.unsigned_abs(), nsec),
        (true, 0) => ("-", time.sec.unsigned_abs(), 0),
        (true, nsec) => ("-", time.sec.unsigned_abs() - 1, 1_000_000_000 - nsec),
    };
    match nsec {
        0 => format!("{sign}{sec}"),
        nsec => format!("{sign}{sec}.{nsec:09}").trim_end_matches('0').to_owned(),
    }
}

/// What is in front of a file's bytes where it has holes: how many parts, and where each is and how long. The last one
/// ends where the file does, and is empty where that ends in a hole: by it GNU tar knows the size.
pub(crate) fn map(parts: &Parts, size: u64) -> Vec<u8> {
    let end = parts.last().map_or(0, |(offset, len)| offset + len);
    let last = (end < size).then_some((size, 0));
    let mut map = format!("{}\n", parts.len() + usize::from(last.is_some()));
    for (offset, len) in parts.iter().chain(&last) {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// Bytes of the body of a file with these parts.
pub(crate) fn body(size: u64, parts: Option<&Parts>) -> u64 {
    match parts {
        None => size,
        Some(parts) => {
            map(parts, size).len() as u64 + parts.iter().map(|(_, len)| len).sum::<u64>()
        }
    }
}

/// The name of an entry: that of a directory ends in a slash, where there is room for one.
fn name(record: &Record, limits: &Limits) -> Vec<u8> {
    let path = record.path.as_slice();
    match (&record.what, path) {
        (_, b"") => b"./".to_vec(),
        (What::Dir, path) if (path.len() as u64) < limits.path_bytes_max => [path, b"/"].concat(),
        _ => path.to_vec(),
    }
}

/// The header of an entry with the extensions before it.
///
/// # Errors
/// What no layer can hold, or more than an extension may have.
pub(crate) fn head(
    record: &Record,
    parts: Option<&Parts>,
    limits: &Limits,
) -> Result<Vec<u8>, Refusal> {
    let path = name(record, limits);
    let (kind, size, link, device) = match &record.what {
        What::File { size, .. } => (b'0', body(*size, parts), &[][..], (0, 0)),
        What::Dir => (b'5', 0, &[][..], (0, 0)),
        What::Symlink { target } => (b'2', 0, target.as_slice(), (0, 0)),
        What::Hardlink { target } => (b'1', 0, target.as_slice(), (0, 0)),
        What::Char { major, minor } => (b'3', 0, &[][..], (*major, *minor)),
        What::Block { major, minor } => (b'4', 0, &[][..], (*major, *minor)),
        What::Fifo => (b'6', 0, &[][..], (0, 0)),
    };
    let (owner, time) = ((record.mode, record.uid, record.gid), record.mtime);
    let mut more = Vec::new();
    let shown = match (parts, &record.what) {
        (Some(_), What::File { size, .. }) => {
            pax(&mut more, b"GNU.sparse.major", b"1");
            pax(&mut more, b"GNU.sparse.minor", b"0");
            pax(&mut more, b"GNU.sparse.name", &path);
            pax(&mut more, b"GNU.sparse.realsize", size.to_string().as_bytes());
            [b"GNUSparseFile.0/", split(&path).1].concat()
        }
        _ => path.clone(),
    };
    if shown.len() > NAME_MAX {
        pax(&mut more, b"path", &shown);
    }
    if link.len() > NAME_MAX {
        pax(&mut more, b"linkpath", link);
    }
    if size > ELEVEN_MAX {
        pax(&mut more, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], record.uid), (b"gid", record.gid)] {
        if u64::from(id) > SEVEN_MAX {
            pax(&mut more, key, id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(time.sec).ok().filter(|sec| *sec <= ELEVEN_MAX);
    // Of a link to another name all but that name is void.
    if (time.nsec != 0 || seconds.is_none()) && !matches!(record.what, What::Hardlink { .. }) {
        pax(&mut more, b"mtime", decimal(time).as_bytes());
    }
    for (key, value) in &record.xattrs {
        pax(&mut more, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    let bytes = more.len() as u64;
    if bytes > limits.extension_bytes_max {
        let (rule, max) =
            ("attributes and names too large for an entry", limits.extension_bytes_max);
        return Err(Refusal::limit("--extension-bytes-max", rule, bytes, max));
    }
    let mut head = Vec::new();
    if !more.is_empty() {
        let short = [b"PaxHeaders.0/", split(&record.path).1].concat();
        let mut block = Block::new(&short, b'x');
        block.numbers((0o644, 0, 0), bytes, 0);
        head.extend_from_slice(&block.end());
        head.append(&mut more);
        head.resize(head.len() + padding(bytes), 0);
    }
    let mut block = Block::new(&shown, kind);
    block.numbers(owner, size, seconds.unwrap_or(0));
    block.text(157, NAME_MAX, link);
    block.octal(329, 7, device.0.into());
    block.octal(337, 7, device.1.into());
    head.extend_from_slice(&block.end());
    Ok(head)
}

/// The whiteout of a path.
///
/// # Errors
/// As [`head`].
pub(crate) fn whiteout(path: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let (parent, hidden) = split(path);
    let marked = [WHITEOUT, hidden].concat();
    let record = Record {
        path: if parent.is_empty() { marked } else { [parent, b"/", &marked].concat() },
        what: What::File { size: 0, sha256: [0; 32] },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    };
    if WHITEOUT.len() + hidden.len() > COMPONENT_MAX {
        let rule = "it was removed, and its name is too long for a whiteout: a layer cannot say so";
        return Err(Refusal::new(Class::Whiteout, rule).bytes(path));
    }
    fits(&Record { path: path.to_vec(), ..record.clone() }, limits)?;
    head(&record, None, limits)
}

/// Whether a layer can hold this, and whoever applies it takes it.
///
/// # Errors
/// The rule that it breaks, with its path.
pub(crate) fn fits(record: &Record, limits: &Limits) -> Result<(), Refusal> {
    let path = record.path.as_slice();
    let refuse = |class, rule| Err(Refusal::new(class, rule).bytes(path));
    if split(path).1.starts_with(WHITEOUT) {
        let rule = "its name begins with .wh., which a layer has for what was removed: rename it";
        return refuse(Class::Whiteout, rule);
    }
    let bytes = path.len() as u64;
    if bytes > limits.path_bytes_max {
        let rule = "path too long";
        return Err(Refusal::limit("--path-bytes-max", rule, bytes, limits.path_bytes_max));
    }
    let deep = if path.is_empty() { 0 } else { depth(path) + 1 };
    if deep > limits.depth_max {
        let shown = Refusal::limit("--depth-max", "path too deep", deep, limits.depth_max);
        return Err(shown);
    }
    if !(TIME_MIN..=TIME_MAX).contains(&record.mtime.sec) {
        return refuse(Class::Number, "its time is one that a layer cannot hold");
    }
    if record.uid == u32::MAX || record.gid == u32::MAX {
        return refuse(Class::Number, "its owner or group is 4294967295, which stands for none");
    }
    if record.xattrs.iter().any(|(key, _)| key.contains(&b'=')) {
        let rule = "the name of an extended attribute of it holds a =, which a layer cannot hold";
        return refuse(Class::Xattr, rule);
    }
    let longest = record.xattrs.iter().map(|(_, value)| value.len() as u64).max().unwrap_or(0);
    if longest > limits.xattr_bytes_max {
        let (rule, max) = ("extended attribute too large", limits.xattr_bytes_max);
        return Err(Refusal::limit("--xattr-bytes-max", rule, longest, max));
    }
    let count = record.xattrs.len() as u64;
    if count > limits.xattrs_max {
        let rule = "too many extended attributes of one entry";
        return Err(Refusal::limit("--xattrs-max", rule, count, limits.xattrs_max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        let text = |sec, nsec| decimal(Time { sec, nsec });
        assert_eq!(text(1, 123_456_789), "1.123456789");
        assert_eq!(text(5, 500_000_000), "5.5");
        assert_eq!(text(-2, 500_000_000), "-1.5");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(-1, 0), "-1");
        assert_eq!(text(-2_147_483_648, 0), "-2147483648");
    }

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Vec::new();
        pax(&mut records, b"path", b"ab");
        pax(&mut records, b"path", &[b'x'; 92]);
        assert!(records.starts_with(b"11 path=ab\n102 path=xxx"));
    }
}
