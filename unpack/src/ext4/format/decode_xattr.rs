//! Extended attributes, in an inode and in a block of their own
//! (`Documentation/filesystems/ext4/attributes.rst`; `fs/ext4/xattr.c`, `check_xattrs`), and ACLs out of
//! the form that they have on the disk (`fs/ext4/acl.c`, `ext4_acl_from_disk`).

use std::ops::Range;

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::decode_bytes::{index, le16, le32};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header of a block.
const HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Bytes that a value may have (`XATTR_SIZE_MAX`).
const VALUE_MAX: u32 = 65536;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn flaw(rule: &'static str) -> Flaw {
    Flaw::new(FlawKind::Attribute, rule)
}

/// The attributes in an inode: `raw` is what follows the fields that it uses.
pub(crate) fn in_inode(raw: &[u8], found: &mut Attributes) -> Result<(), Flaw> {
    match raw.len() >= 4 && le32(raw, 0) == MAGIC {
        true => list(raw.get(4..).unwrap_or_default(), 0, found),
        // Nothing there, or nothing that the kernel would take for an attribute.
        false => Ok(()),
    }
}

/// The attributes of a block.
pub(crate) fn in_block(
    raw: &[u8],
    number: u64,
    seed: Option<u32>,
    found: &mut Attributes,
) -> Result<(), Flaw> {
    if le32(raw, 0) != MAGIC || le32(raw, 8) != 1 {
        return Err(flaw("a block of attributes is none"));
    }
    if let Some(seed) = seed {
        let (before, after) = (&raw[..0x10], &raw[0x14..]);
        let sum = [&number.to_le_bytes(), before, &[0; 4], after].into_iter().fold(seed, crc32c);
        if sum != le32(raw, 0x10) {
            let rule = "the checksum of a block of attributes does not match";
            return Err(Flaw::new(FlawKind::Checksum, rule));
        }
    }
    list(raw, HEADER, found)
}

/// The entries from `at` on; offsets of values count from the start of `raw`.
fn list(raw: &[u8], from: usize, found: &mut Attributes) -> Result<(), Flaw> {
    let mut at = from;
    let mut values: Vec<Range<usize>> = Vec::new();
    loop {
        if at + 4 > raw.len() {
            return Err(flaw("the list of attributes has no end"));
        }
        if le32(raw, at) == 0 {
            break;
        }
        let head = raw.get(at..at + ENTRY).ok_or_else(|| flaw("an attribute is cut"))?;
        let name_len = usize::from(head[0]);
        let name = raw
            .get(at + ENTRY..at + ENTRY + name_len)
            .ok_or_else(|| flaw("the name of an attribute is cut"))?;
        if le32(head, 4) != 0 {
            return Err(flaw("the value of an attribute is in an inode").value(le32(head, 4)));
        }
        let (offset, size) = (usize::from(le16(head, 2)), le32(head, 8));
        if size > VALUE_MAX {
            return Err(flaw("the value of an attribute is too long").value(size).limit(VALUE_MAX));
        }
        let value = offset..offset + index(size);
        let bytes = match size {
            0 => &[],
            _ => raw.get(value.clone()).ok_or_else(|| flaw("the value of an attribute is cut"))?,
        };
        if size > 0 {
            values.push(value);
        }
        if let Some(key) = key(head[1], name)? {
            found.push((key, shown(head[1], bytes)?));
        }
        at += (ENTRY + name_len).next_multiple_of(4);
    }
    values.sort_by_key(|value| value.start);
    let overlap = values.windows(2).any(|pair| pair[0].end > pair[1].start);
    match overlap || values.first().is_some_and(|first| first.start < at + 4) {
        true => Err(flaw("values of attributes overlap")),
        false => Ok(()),
    }
}

/// The whole name (`fs/ext4/xattr.h`); none for what no file system shows (index 0, inline data, rich ACLs).
fn key(prefix: u8, name: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
    let prefix: &[u8] = match prefix {
        1 => b"user.",
        ACL_ACCESS if name.is_empty() => b"system.posix_acl_access",
        ACL_DEFAULT if name.is_empty() => b"system.posix_acl_default",
        ACL_ACCESS | ACL_DEFAULT => return Err(flaw("an ACL has a name")),
        4 => b"trusted.",
        6 => b"security.",
        _ => return Ok(None),
    };
    if name.contains(&0) {
        return Err(flaw("the name of an attribute holds a NUL"));
    }
    Ok(Some([prefix, name].concat()))
}

/// A value as a system call gives it.
fn shown(prefix: u8, value: &[u8]) -> Result<Vec<u8>, Flaw> {
    match prefix {
        ACL_ACCESS | ACL_DEFAULT => acl(value),
        _ => Ok(value.to_vec()),
    }
}

/// An ACL: version 1 with short entries becomes version 2 with long ones. One without entries is none.
fn acl(value: &[u8]) -> Result<Vec<u8>, Flaw> {
    let bad = || flaw("an ACL is malformed");
    let mut rest = value.strip_prefix(&[1, 0, 0, 0]).ok_or_else(bad)?;
    let mut out = vec![2, 0, 0, 0];
    while !rest.is_empty() {
        let len = match le16(rest, 0) {
            // The owner, its group, the mask and all others: no id.
            0x01 | 0x04 | 0x10 | 0x20 => 4,
            0x02 | 0x08 => 8,
            _ => return Err(bad()),
        };
        let (entry, after) = rest.split_at_checked(len).ok_or_else(bad)?;
        out.extend_from_slice(&entry[..4]);
        out.extend_from_slice(if len == 8 { &entry[4..] } else { &[0xff; 4] });
        rest = after;
    }
    Ok(if out.len() == 4 { Vec::new() } else { out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], prefix: u8, offset: u16, size: u32) -> Vec<u8> {
        let mut raw = vec![u8::try_from(name.len()).unwrap(), prefix];
        raw.extend(offset.to_le_bytes());
        raw.extend([0; 4]);
        raw.extend(size.to_le_bytes());
        raw.extend([0; 4]);
        raw.extend(name);
        raw.resize(raw.len().next_multiple_of(4), 0);
        raw
    }

    fn inode(entries: &[Vec<u8>], values: &[u8]) -> Vec<u8> {
        let mut raw = MAGIC.to_le_bytes().to_vec();
        raw.extend(entries.concat());
        raw.extend([0; 4]);
        raw.extend(values);
        raw
    }

    #[test]
    fn attributes_of_an_inode() {
        let raw = inode(&[entry(b"a", 1, 44, 4), entry(b"empty", 6, 0, 0)], b"\0\0\0\0abcd");
        let mut found = Vec::new();
        in_inode(&raw, &mut found).unwrap_err();
        found.clear();
        let raw = inode(&[entry(b"a", 1, 48, 4), entry(b"empty", 6, 0, 0)], b"abcd");
        in_inode(&raw, &mut found).unwrap();
        let expected: [(&[u8], &[u8]); 2] = [(b"user.a", b"abcd"), (b"security.empty", b"")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_vec(), value.to_vec())));
    }

    #[test]
    fn what_lies_outside_or_over_one_another_is_a_flaw() {
        for raw in [
            inode(&[entry(b"a", 1, 24, 5)], b"abcd"),
            inode(&[entry(b"a", 1, 20, 4)], b"abcd"),
            inode(&[entry(b"a", 1, 24, 65537)], b"abcd"),
            inode(&[entry(b"a", 1, 44, 4), entry(b"b", 1, 46, 4)], b"abcdef"),
            inode(&[entry(b"n", 2, 24, 4)], b"\x01\0\0\0"),
            inode(&[entry(b"", 2, 20, 4)], b"\x02\0\0\0"),
            MAGIC.to_le_bytes().to_vec(),
            inode(&[entry(b"a", 1, 24, 4)], b"abcd")[..20].to_vec(),
        ] {
            assert_eq!(
                in_inode(&raw, &mut Vec::new()).unwrap_err().kind,
                FlawKind::Attribute,
                "{raw:?}"
            );
        }
    }

    #[test]
    fn an_acl_as_a_system_call_gives_it() {
        let disk =
            [&[1u8, 0, 0, 0][..], &[1, 0, 6, 0], &[2, 0, 7, 0, 5, 0, 0, 0], &[0x20, 0, 4, 0]];
        let none = [255; 4];
        let call: Vec<u8> = [
            &[2u8, 0, 0, 0][..],
            &[1, 0, 6, 0],
            &none,
            &[2, 0, 7, 0, 5, 0, 0, 0],
            &[0x20, 0, 4, 0],
            &none,
        ]
        .concat();
        assert_eq!(acl(&disk.concat()).unwrap(), call);
        assert!(acl(&[1, 0, 0, 0]).unwrap().is_empty());
        for bad in
            [&b""[..], b"\x01\0\0\0\x01", b"\x01\0\0\0\x02\0\x07\0", b"\x01\0\0\0\x03\0\x07\0"]
        {
            assert!(acl(bad).is_err());
        }
    }
}
