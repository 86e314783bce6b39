//! PAX extended header records (POSIX.1-2017, pax, "pax Extended Header"). Pure.
//!
//! A record is parsed by its declared length and never by its newline: values hold any byte.
//! What a key then does to an entry is in `entry`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::archive::header::{TIME_MAX, TIME_MIN, out_of_range};
use crate::archive::number::decimal;
use crate::archive::sparse::Said;
use crate::error::refusal::{Class, Refusal};

/// Seconds since the epoch and nanoseconds after them, `0..1_000_000_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds; may be negative.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

/// What one `x` header says. Later records win over earlier ones, as POSIX has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    /// Name and value, each name once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Access lists and labels that stand there as text, each key once.
    pub(crate) texts: Vec<&'static [u8]>,
    pub(crate) sparse: Option<Box<Said>>,
}

fn malformed(rule: &'static str, value: &[u8]) -> Refusal {
    Refusal::new(Class::Extension, rule).bytes(value)
}

/// The records of a body, in order.
struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Result<(&'a [u8], &'a [u8]), Refusal> {
        let rest = self.rest;
        let bad = |rule| malformed(rule, rest.get(..64).unwrap_or(rest));
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        // A body is at most a few MiB, so seven digits are plenty and cannot overflow.
        if digits == 0 || digits > 9 || rest[0] == b'0' || rest.get(digits) != Some(&b' ') {
            return Err(bad("malformed PAX record length"));
        }
        let len = rest[..digits].iter().fold(0usize, |acc, b| acc * 10 + usize::from(b - b'0'));
        if len > rest.len() || len < digits + 4 {
            return Err(bad("PAX record length does not fit"));
        }
        let (record, rest) = rest.split_at(len);
        let Some((b'\n', body)) = record[digits + 1..].split_last() else {
            return Err(bad("PAX record does not end in a newline"));
        };
        let Some(eq) = body.iter().position(|&b| b == b'=') else {
            return Err(bad("PAX record without ="));
        };
        let (key, value) = (&body[..eq], &body[eq + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(bad("PAX key is empty or holds NUL"));
        }
        self.rest = rest;
        Ok((key, value))
    }
}

/// What a key is to us.
enum Key<'a> {
    Path,
    Linkpath,
    Size,
    Uid,
    Gid,
    Mtime,
    Xattr(&'a [u8]),
    /// GNU tar's --acls and --selinux: what the writer's host had, in its own names.
    Text(&'static [u8]),
    /// What follows `GNU.sparse.`.
    Sparse(&'a [u8]),
    /// star's own kind of sparse file.
    StarSparse,
    /// Readers disagree whether these are honoured.
    Refused,
    Ignored,
}

fn key(key: &[u8]) -> Key<'_> {
    match key {
        b"path" => Key::Path,
        b"linkpath" => Key::Linkpath,
        b"size" => Key::Size,
        b"uid" => Key::Uid,
        b"gid" => Key::Gid,
        b"mtime" => Key::Mtime,
        b"SCHILY.realsize" => Key::StarSparse,
        b"SCHILY.acl.access" => Key::Text(b"SCHILY.acl.access"),
        b"SCHILY.acl.default" => Key::Text(b"SCHILY.acl.default"),
        b"SCHILY.acl.ace" => Key::Text(b"SCHILY.acl.ace"),
        b"RHT.security.selinux" => Key::Text(b"RHT.security.selinux"),
        b"SCHILY.devmajor" | b"SCHILY.devminor" | b"SCHILY.filetype" => Key::Refused,
        _ if key.starts_with(b"SCHILY.acl.") => Key::Refused,
        _ => match (key.strip_prefix(b"SCHILY.xattr."), key.strip_prefix(b"GNU.sparse.")) {
            (Some(name), _) => Key::Xattr(name),
            (None, Some(name)) => Key::Sparse(name),
            (None, None) => Key::Ignored,
        },
    }
}

/// The body of an `x` header, with at most so many extended attributes.
pub(crate) fn parse(body: &[u8], xattrs_max: u64) -> Result<Pax, Refusal> {
    let mut pax = Pax::default();
    // Where each attribute is that was met before: what is said twice must not be looked for in all.
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    for record in (Records { rest: body }) {
        let (name, value) = record?;
        let kind = key(name);
        if value.is_empty() && !matches!(kind, Key::Ignored | Key::Xattr(_) | Key::Text(_)) {
            // POSIX: "delete"; readers keep, clear or ignore it. Attributes are no keys of POSIX: an
            // empty one is what the file had.
            return Err(malformed("empty PAX value", name));
        }
        match kind {
            Key::Path => pax.path = Some(without_nul(value)?),
            Key::Linkpath => pax.linkpath = Some(without_nul(value)?),
            Key::Size => pax.size = Some(decimal(value, "size", i64::MAX.unsigned_abs())?),
            Key::Uid => pax.uid = Some(id(value, "uid")?),
            Key::Gid => pax.gid = Some(id(value, "gid")?),
            Key::Mtime => pax.mtime = Some(time(value)?),
            Key::Xattr(name) => {
                if name.is_empty() {
                    return Err(malformed("extended attribute without a name", value));
                }
                match known.entry(name) {
                    Entry::Occupied(at) => pax.xattrs[*at.get()].1 = value.to_vec(),
                    Entry::Vacant(new) => {
                        let count = pax.xattrs.len() as u64 + 1;
                        if count > xattrs_max {
                            let rule = "too many extended attributes of one entry";
                            return Err(Refusal::limit("--xattrs-max", rule, count, xattrs_max));
                        }
                        new.insert(pax.xattrs.len());
                        pax.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
            Key::Text(text) => {
                if !pax.texts.contains(&text) {
                    pax.texts.push(text);
                }
            }
            Key::Sparse(b"name") => {
                let value = without_nul(value)?;
                pax.sparse.get_or_insert_default().record(b"name", &value)?;
            }
            Key::Sparse(name) => pax.sparse.get_or_insert_default().record(name, value)?,
            Key::StarSparse => {
                return Err(Refusal::new(Class::Sparse, "star's sparse file").bytes(name));
            }
            Key::Refused => return Err(malformed("PAX key that readers disagree on", name)),
            Key::Ignored => {}
        }
    }
    Ok(pax)
}

/// The body of a `g` header: nothing in it may change an entry, because half of the known
/// readers would apply it and half would not.
pub(crate) fn parse_global(body: &[u8]) -> Result<(), Refusal> {
    for record in (Records { rest: body }) {
        let (name, _) = record?;
        match key(name) {
            Key::Ignored => {}
            Key::Sparse(_) | Key::StarSparse => {
                return Err(
                    Refusal::new(Class::Sparse, "sparse files by a global header").bytes(name)
                );
            }
            Key::Path
            | Key::Linkpath
            | Key::Size
            | Key::Uid
            | Key::Gid
            | Key::Mtime
            | Key::Xattr(_)
            | Key::Text(_)
            | Key::Refused => {
                return Err(malformed("global PAX header changes entries", name));
            }
        }
    }
    Ok(())
}

fn without_nul(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    if value.contains(&0) {
        return Err(malformed("NUL in a PAX path", value));
    }
    Ok(value.to_vec())
}

fn id(value: &[u8], what: &'static str) -> Result<u32, Refusal> {
    let id = decimal(value, what, u64::from(u32::MAX - 1))?;
    u32::try_from(id).map_err(|_| out_of_range(what, id))
}

/// `-?digits(.digits)?`, towards minus infinity: -1.5 is second -2 and 500,000,000 ns.
fn time(value: &[u8]) -> Result<Time, Refusal> {
    let bad = || Refusal::new(Class::Number, "malformed PAX time").bytes(value);
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(dot) => (&digits[..dot], Some(&digits[dot + 1..])),
        None => (digits, None),
    };
    if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
        return Err(bad());
    }
    let whole = decimal(whole, "mtime", u64::MAX)?;
    let whole = i64::try_from(whole).map_err(|_| out_of_range("mtime", whole))?;
    let (mut nsec, mut finer) = (0u32, false);
    for (place, &b) in fraction.unwrap_or_default().iter().enumerate() {
        let digit = if b.is_ascii_digit() { u32::from(b - b'0') } else { return Err(bad()) };
        match place {
            0..9 => {
                nsec += digit
                    * [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1000, 100, 10, 1][place]
            }
            _ => finer |= digit != 0,
        }
    }
    let time = match (negative, nsec, finer) {
        (false, nsec, _) => Time { sec: whole, nsec },
        (true, 0, false) => Time { sec: -whole, nsec: 0 },
        (true, nsec, finer) => {
            let back = nsec + u32::from(finer);
            Time { sec: -whole - 1, nsec: 1_000_000_000 - back }
        }
    };
    if !(TIME_MIN..=TIME_MAX).contains(&time.sec) {
        return Err(out_of_range("mtime", time.sec));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Pax, Refusal> {
        super::parse(body, 3)
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while len != body + len.to_string().len() {
            len = body + len.to_string().len();
        }
        let mut out = format!("{len} {key}=").into_bytes();
        out.extend_from_slice(value);
        out.push(b'\n');
        out
    }

    #[test]
    fn a_value_may_hold_newlines_that_look_like_records() {
        let mut body = record("SCHILY.xattr.user.a", b"x\n9 size=9\n");
        body.extend(record("size", b"3"));
        let pax = parse(&body).unwrap();
        assert_eq!(pax.size, Some(3));
        assert_eq!(pax.xattrs, vec![(b"user.a".to_vec(), b"x\n9 size=9\n".to_vec())]);
    }

    #[test]
    fn the_last_record_wins() {
        let body = [record("size", b"4"), record("size", b"512")].concat();
        assert_eq!(parse(&body).unwrap().size, Some(512));
    }

    #[test]
    fn times_round_down() {
        let at = |text: &[u8]| time(text).map(|t| (t.sec, t.nsec)).ok();
        assert_eq!(at(b"1.123456789"), Some((1, 123_456_789)));
        assert_eq!(at(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at(b"-1"), Some((-1, 0)));
        assert_eq!(at(b"-0.0000000001"), Some((-1, 999_999_999)));
        assert_eq!(at(b"-1.9999999999"), Some((-2, 0)));
        for bad in [&b"1."[..], b".5", b"-", b"+1", b"1e3", b"1.5x", b"99999999999999999999"] {
            assert_eq!(at(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_digits_and_fit() {
        for bad in [
            &b"+12 path=abc\n"[..],
            b" 11 path=abc",
            b"012 path=abc\n",
            b"99 path=abc\n",
            b"11 path=abc\n",
            b"12 path=abcd",
            b"5 =x\n",
            b"0 ",
            b"6 abc\n",
        ] {
            assert_eq!(parse(bad).unwrap_err().class, Class::Extension, "{bad:?}");
        }
    }

    #[test]
    fn a_record_length_has_no_leading_zero() {
        assert_eq!(parse(b"11 path=ab\n").unwrap().path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(parse(b"012 path=ab\n").unwrap_err().class, Class::Extension);
    }

    #[test]
    fn the_last_value_of_an_attribute_is_the_only_one() {
        let pax = parse(b"25 SCHILY.xattr.user.a=1\n25 SCHILY.xattr.user.a=2\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn the_names_of_attributes_are_counted_each_once() {
        let name = |n: u32| record(&format!("SCHILY.xattr.user.{n}"), b"x");
        let often: Vec<u8> = (0..300).flat_map(|n| name(n % 3)).collect();
        assert_eq!(parse(&often).unwrap().xattrs.len(), 3);
        let refused = parse(&(0..4).flat_map(name).collect::<Vec<u8>>()).unwrap_err();
        assert_eq!(refused.class, Class::Limit);
        assert_eq!(refused.limit, Some(("--xattrs-max".into(), 3)));
    }
}
