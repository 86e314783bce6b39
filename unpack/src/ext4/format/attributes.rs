//! Extended attributes (`Documentation/filesystems/ext4/attributes.rst`), in the inode and in a block of
//! their own, split as the kernel splits them (`fs/ext4/xattr.c`, `ext4_xattr_set_handle`): each in its
//! turn into the inode, and into the block where the inode has no room left for it.

use crate::archive::entry::Xattrs;
use crate::ext4::format::bytes::{get16, get32, put16, put32};
use crate::ext4::format::crc::SEED;
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::inode::ATTRIBUTES;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the magic in an inode, and of a block's header.
const IN_INODE: usize = 4;
const HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Four zero bytes end the entries.
const END: usize = 4;

/// Namespaces by their number, the whole name where nothing of it is left.
const NAMESPACES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// One attribute as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    namespace: u8,
    // In the kernel's order of a block: namespace, length of the name, name.
    len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Kept {
    fn size(&self) -> usize {
        ENTRY + self.len.next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }
}

/// Where the attributes of one node go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) inode: [u8; ATTRIBUTES],
    /// A whole block without its checksum, which depends on where it is.
    pub(crate) block: Option<Vec<u8>>,
}

/// Why attributes cannot be held: the first one that cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unheld<'a> {
    /// Its namespace is not known, or what it says.
    Unknown(&'a [u8]),
    /// It takes so many bytes with its name, and in the block so many are left.
    TooLarge { key: &'a [u8], bytes: usize, left: usize },
}

/// Splits attributes for blocks of `block` bytes. The one that does not fit is the error.
pub(crate) fn split(xattrs: &Xattrs, block: usize) -> Result<Split, Unheld<'_>> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let mut room = [ATTRIBUTES - IN_INODE - END, block - HEADER - END];
    for (key, value) in xattrs {
        let kept = keep(key, value).ok_or(Unheld::Unknown(key))?;
        let size = kept.size();
        if size <= room[0] {
            room[0] -= size;
            inside.push(kept);
        } else if size <= room[1] {
            room[1] -= size;
            outside.push(kept);
        } else {
            return Err(Unheld::TooLarge { key, bytes: size, left: room[1] });
        }
    }
    let mut inode = [0; ATTRIBUTES];
    if !inside.is_empty() {
        put32(&mut inode, 0, MAGIC);
        lay(&mut inode, IN_INODE, IN_INODE, &inside, false);
    }
    outside.sort();
    let block = (!outside.is_empty()).then(|| {
        let mut to = vec![0; block];
        put32(&mut to, 0, MAGIC);
        put32(&mut to, 4, 1);
        put32(&mut to, 8, 1);
        let hash = lay(&mut to, HEADER, 0, &outside, true);
        put32(&mut to, 12, hash);
        to
    });
    Ok(Split { inode, block })
}

fn keep(key: &[u8], value: &[u8]) -> Option<Kept> {
    let (namespace, name) = NAMESPACES.iter().find_map(|&(number, prefix)| {
        let name = key.strip_prefix(prefix)?;
        (name.is_empty() == (number == 2 || number == 3)).then_some((number, name))
    })?;
    let value = match namespace {
        2 | 3 => acl_to_disk(value)?,
        _ => value.to_vec(),
    };
    Some(Kept { namespace, len: name.len(), name: name.to_vec(), value })
}

/// Lays entries from `at` upwards and values from the end downwards; offsets count from `base`. Gives the
/// hash over all (`ext4_xattr_rehash`).
fn lay(to: &mut [u8], at: usize, base: usize, kept: &[Kept], hashed: bool) -> u32 {
    let (mut at, mut end, mut all, mut whole) = (at, to.len(), 0u32, true);
    for one in kept {
        end -= one.value.len().next_multiple_of(4);
        to[end..end + one.value.len()].copy_from_slice(&one.value);
        let hash = if hashed {
            hash(&one.name, &to[end..end + one.value.len().next_multiple_of(4)])
        } else {
            0
        };
        let entry = &mut to[at..];
        entry[0] = u8::try_from(one.len).unwrap_or(0);
        entry[1] = one.namespace;
        // An empty value lies nowhere.
        let offset = if one.value.is_empty() { 0 } else { end - base };
        put16(entry, 2, u16::try_from(offset).unwrap_or(0));
        put32(entry, 8, u32::try_from(one.value.len()).unwrap_or(0));
        put32(entry, 12, hash);
        entry[ENTRY..ENTRY + one.len].copy_from_slice(&one.name);
        at += ENTRY + one.len.next_multiple_of(4);
        all = all.rotate_left(16) ^ hash;
        whole &= hash != 0;
    }
    if whole { all } else { 0 }
}

/// Hash of one attribute (`ext4_xattr_hash_entry`); bytes of the name count as unsigned (since 6.2).
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let named = name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    value.chunks_exact(4).fold(named, |hash, word| hash.rotate_left(16) ^ get32(word, 0))
}

/// Puts the checksum of a block of attributes into it, which lies in block `number`.
pub(crate) fn sign(bytes: &mut [u8], number: u64) {
    let sum = sum(bytes, number);
    put32(bytes, 0x10, sum);
}

fn sum(bytes: &[u8], number: u64) -> u32 {
    let sum = crc32c(crc32c(SEED, &number.to_le_bytes()), &bytes[..0x10]);
    crc32c(crc32c(sum, &[0; 4]), &bytes[0x14..])
}

/// The attributes of a node, by name: what [`split`] was given. `None` where it is nothing of ours.
pub(crate) fn join(inode: &[u8; ATTRIBUTES], block: Option<(&[u8], u64)>) -> Option<Xattrs> {
    let mut found = Vec::new();
    if get32(inode, 0) == MAGIC {
        read(inode, IN_INODE, IN_INODE, &mut found)?;
    }
    if let Some((bytes, number)) = block {
        if get32(bytes, 0) != MAGIC || get32(bytes, 0x10) != sum(bytes, number) {
            return None;
        }
        read(bytes, HEADER, 0, &mut found)?;
    }
    found.sort();
    Some(found)
}

fn read(from: &[u8], at: usize, base: usize, to: &mut Xattrs) -> Option<()> {
    let mut at = at;
    while at + END <= from.len() && get32(from, at) != 0 {
        let entry = from.get(at..)?;
        let len = usize::from(*entry.first()?);
        let name = entry.get(ENTRY..ENTRY + len)?;
        let prefix = NAMESPACES.iter().find(|(number, _)| *number == entry[1])?.1;
        let size = usize::try_from(get32(entry, 8)).ok()?;
        let value = match size {
            0 => &[],
            _ => {
                let offset = base + usize::from(get16(entry, 2));
                from.get(offset..offset + size)?
            }
        };
        let value = match entry[1] {
            2 | 3 => acl_from_disk(value)?,
            _ => value.to_vec(),
        };
        to.push(([prefix, name].concat(), value));
        at += ENTRY + len.next_multiple_of(4);
    }
    Some(())
}

/// Tags of entries that name somebody: their form has an id.
fn has_id(tag: u16) -> bool {
    tag == 2 || tag == 8
}

/// An ACL as system calls have it (version 2) to what is on the disk (version 1; `ext4_acl_to_disk`).
fn acl_to_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_at_checked(4)?;
    if get32(version, 0) != 2 || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut to = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        to.extend_from_slice(&entry[..4]);
        if has_id(get16(entry, 0)) {
            to.extend_from_slice(&entry[4..]);
        }
    }
    Some(to)
}

fn acl_from_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, mut rest) = value.split_at_checked(4)?;
    if get32(version, 0) != 1 {
        return None;
    }
    let mut to = 2u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (entry, after) = rest.split_at_checked(4)?;
        to.extend_from_slice(entry);
        rest = after;
        if has_id(get16(entry, 0)) {
            let (id, after) = rest.split_at_checked(4)?;
            to.extend_from_slice(id);
            rest = after;
        } else {
            to.extend_from_slice(&[0xff; 4]);
        }
    }
    Some(to)
}

/// How many nodes have a block of attributes.
pub(crate) fn references(block: &[u8]) -> u32 {
    get32(block, 4)
}

/// Sets that number.
pub(crate) fn set_references(block: &mut [u8], count: u32) {
    put32(block, 4, count);
}

/// The most nodes that may share one (`EXT4_XATTR_REFCOUNT_MAX`).
pub(crate) const REFERENCES_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (key.as_bytes().to_vec(), value.to_vec())
    }

    #[test]
    fn attributes_come_back() {
        let acl =
            [&2u32.to_le_bytes()[..], &[1, 0, 7, 0], &[0xff; 4], &[2, 0, 5, 0], &[9, 0, 0, 0]]
                .concat();
        let mut all = vec![
            pair("user.z", b"1"),
            pair("system.posix_acl_access", &acl),
            pair("trusted.q", b""),
            pair("security.capability", &[7; 20]),
            pair("user.long", &[8; 1000]),
        ];
        let split = split(&all, 2048).unwrap();
        let mut block = split.block.clone().unwrap();
        sign(&mut block, 99);
        all.sort();
        assert_eq!(join(&split.inode, Some((&block, 99))), Some(all));
        assert_eq!(join(&split.inode, Some((&block, 98))), None);
    }

    /// To the byte: 88 in the inode, and a block less its header and end.
    #[test]
    fn each_goes_where_the_kernel_puts_it() {
        let one = |len: usize| vec![pair("user.a", &vec![1; len])];
        let name = ENTRY + 4;
        let fits = split(&one(88 - name), 4096).unwrap();
        assert!(fits.block.is_none());
        assert!(split(&one(88 - name + 1), 4096).unwrap().block.is_some());
        assert!(split(&one(4096 - 36 - name), 4096).unwrap().block.is_some());
        assert_eq!(
            split(&one(4096 - 36 - name + 1), 4096),
            Err(Unheld::TooLarge { key: b"user.a", bytes: 4064, left: 4060 })
        );
        assert!(split(&vec![pair("odd.a", b"")], 4096).is_err());
        assert!(split(&vec![], 4096).unwrap().inode == [0; ATTRIBUTES]);
    }
}
