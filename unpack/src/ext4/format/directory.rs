//! Directories (`Documentation/filesystems/ext4/directory.rst`): blocks of names, and the index over them.

use crate::ext4::format::bytes::{get16, get32, put16, put32};
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::inode::{self, seed};

/// Bytes at the end of a block of names: an entry without a name that holds the checksum.
const TAIL: usize = 12;
/// The most bytes of a name.
pub(crate) const NAME_MAX: usize = 255;

/// The type byte of an entry, by the kind in the inode's mode.
pub(crate) fn type_of(kind: u16) -> u8 {
    match kind {
        inode::REGULAR => 1,
        inode::DIRECTORY => 2,
        inode::CHARACTER => 3,
        inode::BLOCK => 4,
        inode::FIFO => 5,
        inode::SYMLINK => 7,
        _ => 0,
    }
}

/// The type byte of a directory, and of a symbolic link.
pub(crate) const DIRECTORY: u8 = 2;
pub(crate) const SYMLINK: u8 = 7;

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub(crate) inode: u32,
    /// The type byte.
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
}

/// Bytes of the entry of a name.
pub(crate) fn entry_len(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

/// A block of names being filled.
#[derive(Debug)]
pub(crate) struct NameBlock {
    bytes: Vec<u8>,
    /// Where the last entry begins, and where the next one will.
    last: Option<usize>,
    at: usize,
}

impl NameBlock {
    /// An empty block of so many bytes.
    pub(crate) fn new(block: usize) -> NameBlock {
        NameBlock { bytes: vec![0; block], last: None, at: 0 }
    }

    /// The first block of a directory that has no index.
    pub(crate) fn first(block: usize, own: u32, parent: u32) -> NameBlock {
        let mut names = NameBlock::new(block);
        names.put(Name { inode: own, kind: DIRECTORY, name: b"." });
        names.put(Name { inode: parent, kind: DIRECTORY, name: b".." });
        names
    }

    /// Adds a name; false if there is no room for it.
    pub(crate) fn put(&mut self, name: Name<'_>) -> bool {
        let len = entry_len(name.name);
        if self.at + len > self.bytes.len() - TAIL {
            return false;
        }
        let entry = &mut self.bytes[self.at..self.at + len];
        put32(entry, 0, name.inode);
        put16(entry, 4, u16::try_from(len).unwrap_or(0));
        entry[6] = u8::try_from(name.name.len()).unwrap_or(0);
        entry[7] = name.kind;
        entry[8..8 + name.name.len()].copy_from_slice(name.name);
        self.last = Some(self.at);
        self.at += len;
        true
    }

    /// The block as it lies on the disk, in directory `own`.
    pub(crate) fn finish(mut self, own: u32) -> Vec<u8> {
        let end = self.bytes.len() - TAIL;
        let last = self.last.unwrap_or(0);
        // The last entry reaches to the tail; one without a name is the whole of an empty block.
        put16(&mut self.bytes, last + 4, u16::try_from(end - last).unwrap_or(0));
        let sum = crc32c(seed(own), &self.bytes[..end]);
        put16(&mut self.bytes, end + 4, 12);
        self.bytes[end + 7] = 0xde;
        put32(&mut self.bytes, end + 8, sum);
        self.bytes
    }
}

/// The names in a block that is ours; `None` where it is no such block, or its checksum is wrong.
pub(crate) fn names(block: &[u8], own: u32) -> Option<Vec<Name<'_>>> {
    let end = block.len() - TAIL;
    if block[end + 7] != 0xde || get32(block, end + 8) != crc32c(seed(own), &block[..end]) {
        return None;
    }
    let (mut names, mut at) = (Vec::new(), 0);
    while at < end {
        let len = usize::from(get16(block, at + 4));
        let name_len = usize::from(block[at + 6]);
        if len < 8 + name_len || !len.is_multiple_of(4) || at + len > end {
            return None;
        }
        let inode = get32(block, at);
        let name = &block[at + 8..at + 8 + name_len];
        if inode != 0 && name != b"." && name != b".." {
            names.push(Name { inode, kind: block[at + 7], name });
        }
        at += len;
    }
    Some(names)
}

/// What `..` is in the first block of a directory, with an index or without; `None` where there is none.
pub(crate) fn dot_dot(block: &[u8]) -> Option<u32> {
    (block[12 + 6] == 2 && block[12 + 8..12 + 10] == *b"..").then(|| get32(block, 12))
}

/// A place in an index: from this hash on, in that block of the directory. Bit 0 of the hash says that the
/// block goes on with names of the same hash as the one before it ends with.
pub(crate) type Place = (u32, u32);

/// Places in the root of an index, and in a node below it.
pub(crate) fn root_places(block: usize) -> usize {
    (block - 40) / 8
}

pub(crate) fn node_places(block: usize) -> usize {
    (block - 16) / 8
}

/// Where the places of a root and of a node begin.
const ROOT_AT: usize = 0x20;
const NODE_AT: usize = 8;

fn put_places(to: &mut [u8], at: usize, limit: usize, places: &[Place], own: u32) {
    put16(to, at, u16::try_from(limit).unwrap_or(0));
    put16(to, at + 2, u16::try_from(places.len()).unwrap_or(0));
    for (n, &(hash, block)) in places.iter().enumerate() {
        // The first one's hash is 0 by meaning; limit and count are in its place.
        if n > 0 {
            put32(to, at + 8 * n, hash);
        }
        put32(to, at + 8 * n + 4, block);
    }
    let tail = at + 8 * limit;
    let sum = crc32c(seed(own), &to[..at + 8 * places.len()]);
    let sum = crc32c(crc32c(sum, &[0; 4]), &[0; 4]);
    put32(to, tail + 4, sum);
}

/// The first block of an indexed directory; `levels` is how many nodes lie between it and the names.
pub(crate) fn index_root(
    block: usize,
    own: u32,
    parent: u32,
    levels: u8,
    places: &[Place],
) -> Vec<u8> {
    let mut to = vec![0; block];
    for (at, inode, len, name) in [(0, own, 12, &b"."[..]), (12, parent, block - 12, b"..")] {
        put32(&mut to, at, inode);
        put16(&mut to, at + 4, u16::try_from(len).unwrap_or(0));
        to[at + 6] = u8::try_from(name.len()).unwrap_or(0);
        to[at + 7] = DIRECTORY;
        to[at + 8..at + 8 + name.len()].copy_from_slice(name);
    }
    // Half-MD4; whether bytes are signed is in the superblock.
    to[0x1c] = 1;
    to[0x1d] = 8;
    to[0x1e] = levels;
    put_places(&mut to, ROOT_AT, root_places(block), places, own);
    to
}

/// A node of the index.
pub(crate) fn index_node(block: usize, own: u32, places: &[Place]) -> Vec<u8> {
    let mut to = vec![0; block];
    put16(&mut to, 4, u16::try_from(block).unwrap_or(0));
    put_places(&mut to, NODE_AT, node_places(block), places, own);
    to
}

/// The places in a root, and the levels below it, or in a node; `None` where it is none of ours.
pub(crate) fn read_root(block: &[u8], own: u32) -> Option<(u8, Vec<Place>)> {
    let places = read_places(block, ROOT_AT, root_places(block.len()), own)?;
    Some((block[0x1e], places))
}

pub(crate) fn read_node(block: &[u8], own: u32) -> Option<Vec<Place>> {
    read_places(block, NODE_AT, node_places(block.len()), own)
}

fn read_places(block: &[u8], at: usize, limit: usize, own: u32) -> Option<Vec<Place>> {
    let count = usize::from(get16(block, at + 2));
    if usize::from(get16(block, at)) != limit || count > limit || count == 0 {
        return None;
    }
    let sum = crc32c(seed(own), &block[..at + 8 * count]);
    let sum = crc32c(crc32c(sum, &[0; 4]), &[0; 4]);
    if get32(block, at + 8 * limit + 4) != sum {
        return None;
    }
    let place = |n: usize| {
        let hash = if n == 0 { 0 } else { get32(block, at + 8 * n) };
        (hash, get32(block, at + 8 * n + 4))
    };
    Some((0..count).map(place).collect())
}

/// Where in the places of a root or node names of `hash` begin.
pub(crate) fn place_of(places: &[Place], hash: u32) -> usize {
    places.partition_point(|&(from, _)| from <= hash).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let mut block = NameBlock::first(2048, 2, 2);
        let long = [b'n'; NAME_MAX];
        let mut put = 0;
        while block.put(Name { inode: 12 + put, kind: 1, name: &long }) {
            put += 1;
        }
        assert_eq!(put, 7);
        let mut bytes = block.finish(2);
        let read = names(&bytes, 2).unwrap();
        assert_eq!(read.len(), 7);
        assert_eq!(read[6], Name { inode: 18, kind: 1, name: &long });
        assert_eq!(names(&bytes, 3), None);
        bytes[40] ^= 1;
        assert_eq!(names(&bytes, 2), None);
        assert_eq!(names(&NameBlock::new(4096).finish(9), 9), Some(vec![]));
    }

    #[test]
    fn places_come_back() {
        for block in [2048, 4096] {
            let all: Vec<Place> = (0..).map(|n| (8 * n, 1 + n)).take(root_places(block)).collect();
            let root = index_root(block, 20, 2, 1, &all);
            assert_eq!(read_root(&root, 20), Some((1, all.clone())));
            assert_eq!(read_root(&root, 21), None);
            let node = index_node(block, 20, &all[..9]);
            assert_eq!(read_node(&node, 20), Some(all[..9].to_vec()));
            assert_eq!(place_of(&all, 0), 0);
            assert_eq!(place_of(&all, 8), 1);
            assert_eq!(place_of(&all, 15), 1);
        }
        assert_eq!((root_places(4096), node_places(4096)), (507, 510));
        assert_eq!((root_places(2048), node_places(2048)), (251, 254));
    }
}
