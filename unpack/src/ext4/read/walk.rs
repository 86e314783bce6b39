//! The whole tree of an image as records in path order, in a memory that does not grow with it.
//!
//! Names are read level by level, and the inodes of a level in the order of their numbers, which is
//! about the order that they and their contents have on the device; what comes of them is sorted by path on
//! disk. Nothing is recursive: a level that leads back to a directory ends there.

use std::sync::Arc;

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_inode::Kind;
use crate::ext4::format::decode_super::ROOT;
use crate::ext4::read::content::hashed;
use crate::ext4::read::image::Image;
use crate::ext4::read::index;
use crate::ext4::read::names::{names, same_kind};
use crate::ext4::read::node::{Contents, record};
use crate::ext4::read::seen::Seen;
use crate::record::known::Known;
use crate::record::place::Spill;
use crate::record::runs::{Row, Sorter};
use crate::record::spill::io_fault;
use crate::record::{Record, What, hardlink, key};
use crate::tree::dirs::join;

/// Bytes of a path, as the kernel takes it.
const PATH_MAX: usize = 4095;

/// How an image is read.
pub(crate) struct How {
    /// Where records go that do not fit in memory.
    pub(crate) spill: Option<Arc<Spill>>,
    /// Whether the index of every directory is checked too.
    pub(crate) strict: bool,
    /// Whether a journal that nobody has replayed is replayed in memory.
    pub(crate) replay: bool,
}

struct Walk<'a, 'f> {
    image: &'a mut Image<'f>,
    how: &'a How,
    contents: Contents,
    seen: Seen,
    /// Records by path.
    out: Sorter,
    /// Names of inodes that have others, by inode and path.
    links: Sorter,
    /// Sockets that were left out; `None` where one is a flaw.
    sockets: Option<u64>,
}

/// Hands every record of the tree to `each`, in path order. What `known` says of a file's content is taken for
/// it, and the file is not read.
pub(crate) fn walk(
    image: &mut Image<'_>,
    how: &How,
    known: &mut Known<'_, '_>,
    each: &mut dyn FnMut(&Record) -> Result<(), Fault>,
) -> Result<(), Fault> {
    // Without manifests each file is read where its inode is, in about the order of the device.
    let contents = if known.is_empty() { Contents::Read } else { Contents::Later };
    all(image, how, contents, None)?.in_order(known, each)
}

/// The record of every name by its path, with its inode; digests of files are void. Sockets, which no layer has, are
/// left out: the number says how many.
pub(crate) fn names_of(image: &mut Image<'_>, how: &How) -> Result<(Sorter, u64), Fault> {
    let walk = all(image, how, Contents::Later, Some(0))?;
    Ok((walk.out, walk.sockets.unwrap_or(0)))
}

/// Goes through the whole tree.
fn all<'a, 'f>(
    image: &'a mut Image<'f>,
    how: &'a How,
    contents: Contents,
    sockets: Option<u64>,
) -> Result<Walk<'a, 'f>, Fault> {
    let sorter = || Sorter::new(how.spill.clone());
    let (out, links) = (sorter(), sorter());
    let mut walk = Walk { image, how, contents, seen: Seen::default(), out, links, sockets };
    let mut level = sorter();
    // An inode with a name, by inode and path, and what its directory is and says of it.
    level.push(&named(ROOT, &[], ROOT, 2)).map_err(sorting)?;
    loop {
        let mut below = sorter();
        if !walk.level(&mut level, &mut below)? {
            break;
        }
        level = below;
    }
    drop(level);
    walk.hard_links()?;
    Ok(walk)
}

fn sorting(error: std::io::Error) -> Fault {
    io_fault("sort names", b".")(error)
}

fn named(inode: u32, path: &[u8], parent: u32, kind: u8) -> Row {
    let key = [&inode.to_be_bytes()[..], &key(path)].concat();
    Row { key, seq: u64::from(parent), rest: vec![kind] }
}

/// Inode and path of such a row.
fn of(row: &Row) -> (u32, Vec<u8>) {
    let (inode, key) = row.key.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    (u32::from_be_bytes(*inode), unkey(key))
}

/// The path that [`key`] made a key of.
pub(crate) fn unkey(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect()
}

impl Walk<'_, '_> {
    /// Takes in all names of a level; whether there is another below it.
    fn level(&mut self, level: &mut Sorter, below: &mut Sorter) -> Result<bool, Fault> {
        let mut more = false;
        let mut rows = level.sorted().map_err(sorting)?;
        while let Some(row) = rows.next().map_err(sorting)? {
            self.image.cost.step()?;
            let (number, path) = of(&row);
            let inode = self.image.inode(number)?;
            same_kind(row.rest.first().copied().unwrap_or(0), &inode)?;
            if inode.kind == Kind::Dir {
                if !self.seen.insert(number) {
                    let rule = "a directory has two names";
                    return Err(Flaw::new(FlawKind::Directory, rule).in_inode(number).into());
                }
                let parent = u32::try_from(row.seq).unwrap_or(u32::MAX);
                if self.how.strict {
                    index::check(self.image, &inode)?;
                }
                names(self.image, &inode, parent, &mut |entry| {
                    let path = join(&path, entry.name);
                    if path.len() > PATH_MAX {
                        let rule = "a path is longer than any can be";
                        let flaw = Flaw::new(FlawKind::Directory, rule).value(path.len() as u64);
                        return Err(flaw.limit(PATH_MAX as u64).into());
                    }
                    more = true;
                    below.push(&named(entry.inode, &path, number, entry.kind)).map_err(sorting)
                })?;
            } else if let (Kind::Socket, Some(count)) = (inode.kind, &mut self.sockets) {
                *count += 1;
                continue;
            } else if inode.links > 1 {
                self.links.push(&Row { rest: Vec::new(), ..row }).map_err(sorting)?;
                continue;
            }
            let record = record(self.image, &inode, path, self.contents)?;
            keep(&mut self.out, &record, number)?;
        }
        Ok(more)
    }

    /// Of every inode with several names the first has its record, the others are links to it.
    fn hard_links(&mut self) -> Result<(), Fault> {
        let mut first: Option<(u32, Vec<u8>)> = None;
        let mut rows = self.links.sorted().map_err(sorting)?;
        while let Some(row) = rows.next().map_err(sorting)? {
            self.image.cost.step()?;
            let (number, path) = of(&row);
            let record = match &first {
                Some((known, target)) if *known == number => hardlink(&path, target),
                Some(_) | None => {
                    first = Some((number, path.clone()));
                    let inode = self.image.inode(number)?;
                    record(self.image, &inode, path, self.contents)?
                }
            };
            keep(&mut self.out, &record, number)?;
        }
        Ok(())
    }

    fn in_order(
        mut self,
        known: &mut Known<'_, '_>,
        each: &mut dyn FnMut(&Record) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut before: Option<Vec<u8>> = None;
        let mut rows = self.out.sorted().map_err(sorting)?;
        while let Some(row) = rows.next().map_err(sorting)? {
            self.image.cost.step()?;
            if before.as_ref() == Some(&row.key) {
                let rule = "a directory has a name twice";
                return Err(Flaw::new(FlawKind::Directory, rule).into());
            }
            let mut record = Record::decode(unkey(&row.key), &row.rest)
                .ok_or_else(|| sorting(std::io::ErrorKind::InvalidData.into()))?;
            if let (Contents::Later, What::File { size, sha256 }) =
                (self.contents, &mut record.what)
            {
                *sha256 = match known.find(&record.path, *size) {
                    Some((_, sha256)) => sha256,
                    None => {
                        let number = u32::try_from(row.seq).unwrap_or(0);
                        let inode = self.image.inode(number)?;
                        hashed(self.image, &inode)?.1
                    }
                };
            }
            each(&record)?;
            before = Some(row.key);
        }
        Ok(())
    }
}

fn keep(out: &mut Sorter, record: &Record, inode: u32) -> Result<(), Fault> {
    let mut rest = Vec::new();
    record.encode(&mut rest);
    out.push(&Row { key: key(&record.path), seq: inode.into(), rest }).map_err(sorting)
}
