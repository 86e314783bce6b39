//! Copies of a pool's metadata, and what can be made of one.
//!
//! A copy has the trees of one commit. On a live pool it is read from a metadata snapshot: the kernel commits, and from
//! then on leaves every block of that commit's trees as it is until the snapshot is released, however much is written
//! meanwhile. Without that, two commits later a block may be another's, under a checksum that holds. A pool that is down,
//! or takes no change, stands still by itself. The space maps are not in a metadata snapshot; they say how often each
//! block is referred to, which the trees say too, so they are counted anew.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::format::block::{BLOCK, Fault, crc32c_on, u64_at};
use crate::format::copy_head::{CopyHead, Taken};
use crate::format::made_maps::Counts;
use crate::format::ondisk::{self, Node, Superblock};
use crate::format::units::DataBlocks;
use crate::kernel::sys::Page;
use crate::pool::Pool;
use crate::pool::metadata::{DEPTH_MAX, Reader};

const HINT: &str = "take another copy";

/// Where blocks of metadata come from.
pub(crate) trait Blocks {
    fn block(&self, place: u64) -> Result<Box<Page>, Error>;
    fn damaged(&self, fault: &Fault) -> Error;
}

impl Blocks for Reader {
    fn block(&self, place: u64) -> Result<Box<Page>, Error> {
        Reader::block(self, place)
    }

    fn damaged(&self, fault: &Fault) -> Error {
        Reader::damaged(self, fault)
    }
}

/// What a walk comes by.
pub(crate) enum Met<'a> {
    /// A node, each time that something refers to it; its page is there the first time.
    Node(u64, Option<&'a Page>),
    /// A data block, each time that a node refers to it.
    Data(u64),
    /// A thin.
    Thin,
}

/// Which tree a node is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// Of thins: its leaves refer to trees of mappings.
    Thins,
    Mappings,
    Details,
}

/// A walk through all trees of one commit. It descends into each node once.
pub(crate) struct Walk<'a> {
    from: &'a dyn Blocks,
    seen: HashSet<u64>,
    met: &'a mut dyn FnMut(Met<'_>) -> Result<(), Error>,
}

impl Walk<'_> {
    pub(crate) fn through(
        from: &dyn Blocks,
        superblock: &Superblock,
        met: &mut dyn FnMut(Met<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut walk = Walk { from, seen: HashSet::new(), met };
        walk.node(superblock.mapping_root, Tree::Thins, 0)?;
        walk.node(superblock.details_root, Tree::Details, 0)
    }

    fn node(&mut self, place: u64, tree: Tree, depth: u32) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.from.damaged(&Fault::Node));
        }
        if !self.seen.insert(place) {
            return (self.met)(Met::Node(place, None));
        }
        let page = self.from.block(place)?;
        let bad = |fault: Fault| self.from.damaged(&fault);
        let node = Node::parse(&page.0, place).map_err(bad)?;
        (self.met)(Met::Node(place, Some(&page)))?;
        match node {
            Node::Internal(children) => {
                children.into_iter().try_for_each(|child| self.node(child, tree, depth + 1))
            }
            Node::Leaf(rows) => rows.iter().try_for_each(|(_, value)| match tree {
                Tree::Thins => {
                    let root =
                        ondisk::root_of(value).ok_or_else(|| self.from.damaged(&Fault::Node))?;
                    (self.met)(Met::Thin)?;
                    self.node(root, Tree::Mappings, 0)
                }
                Tree::Mappings => {
                    let block = ondisk::data_block(value);
                    (self.met)(Met::Data(block.ok_or_else(|| self.from.damaged(&Fault::Node))?))
                }
                Tree::Details => Ok(()),
            }),
        }
    }
}

/// What a tree refers to, and how often.
pub(crate) struct Counted {
    pub(crate) data: Counts,
    pub(crate) metadata: Counts,
    pub(crate) thins: u64,
    pub(crate) nodes: u64,
}

/// Counts all references of a commit, in a pool of so many blocks.
///
/// # Errors
/// [`Error::Refused`] for a reference beyond them.
pub(crate) fn count(
    from: &dyn Blocks,
    superblock: &Superblock,
    data_blocks: usize,
    metadata_blocks: usize,
) -> Result<Counted, Error> {
    let mut all = Counted {
        data: Counts::none(data_blocks),
        metadata: Counts::none(metadata_blocks),
        thins: 0,
        nodes: 0,
    };
    Walk::through(from, superblock, &mut |met| {
        let within = match met {
            Met::Node(place, page) => {
                all.nodes += u64::from(page.is_some());
                place > 0 && all.metadata.add(place)
            }
            Met::Data(block) => all.data.add(block),
            Met::Thin => {
                all.thins += 1;
                true
            }
        };
        if within { Ok(()) } else { Err(from.damaged(&Fault::Node)) }
    })?;
    Ok(all)
}

/// Writes a copy into a file of that name, which is there as a whole or as it was.
pub(crate) fn write(
    from: &dyn Blocks,
    superblock: &Page,
    of: Taken,
    to: &Path,
) -> Result<CopyHead, Error> {
    let mut name = to.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let written = write_new(from, superblock, of, &new).and_then(|head| {
        let place = |source| Error::io("put in place", to, source);
        fs::rename(&new, to).map_err(place)?;
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(place)?;
        Ok(head)
    });
    if written.is_err() {
        // Half a copy is of no use; the error is the first one.
        drop(fs::remove_file(&new));
    }
    written
}

fn write_new(
    from: &dyn Blocks,
    superblock: &Page,
    of: Taken,
    new: &Path,
) -> Result<CopyHead, Error> {
    let fail = |source| Error::io("write", new, source);
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(true).write(true).mode(0o600).open(new).map_err(fail)?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    out.write_all(&[0; BLOCK]).map_err(fail)?;
    let (mut sum, mut pages, mut thins) = (!0, 0_u64, 0_u64);
    let mut put = |page: &Page| {
        sum = crc32c_on(sum, &page.0);
        pages += 1;
        out.write_all(&page.0).map_err(fail)
    };
    put(superblock)?;
    let place = u64_at(&superblock.0, 8).unwrap_or_default();
    let roots = Superblock::parse(&superblock.0, place).map_err(|fault| from.damaged(&fault))?;
    Walk::through(from, &roots, &mut |met| match met {
        Met::Node(_, Some(page)) => put(page),
        Met::Thin => {
            thins += 1;
            Ok(())
        }
        Met::Node(_, None) | Met::Data(_) => Ok(()),
    })?;
    out.flush().map_err(fail)?;
    drop(out);
    let head = CopyHead::new(of, thins, pages, sum);
    let long = || Error::unit("a pool's name", head.name.clone(), "shorter");
    let page = head.page().ok_or_else(long)?;
    file.write_all_at(&page, 0).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(head)
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A copy that was read to its end once, and is whole.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) head: CopyHead,
    pub(crate) superblock: Box<Page>,
    file: File,
    path: PathBuf,
    /// Which page has which block.
    places: HashMap<u64, u64>,
}

impl Copied {
    /// Opens a copy, and reads all of it.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is no copy, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<Copied, Error> {
        let file = File::open(path).map_err(|err| Error::io("open", path, err))?;
        let meta = file.metadata().map_err(|err| Error::io("look at", path, err))?;
        let refuse = |why: String| Error::Refused { path: path.to_owned(), why, hint: HINT };
        let block = BLOCK as u64;
        if !meta.is_file() || meta.len() < 2 * block {
            return Err(refuse("it is no copy of a pool's metadata".to_owned()));
        }
        let mut page = Box::new(Page([0; BLOCK]));
        let read = |at: u64, page: &mut Page| {
            file.read_exact_at(&mut page.0, at * block).map_err(|err| Error::io("read", path, err))
        };
        read(0, &mut page)?;
        let head = CopyHead::parse(&page.0).map_err(refuse)?;
        if meta.len() / block != head.pages.saturating_add(1) || meta.len() % block != 0 {
            let (has, pages) = (meta.len(), head.pages);
            return Err(refuse(format!(
                "it has {has} bytes, and {pages} pages of {BLOCK} were to follow its first"
            )));
        }
        let (mut sum, mut places) = (!0, HashMap::new());
        let mut superblock = page.clone();
        read(1, &mut superblock)?;
        for at in 1..=head.pages {
            read(at, &mut page)?;
            sum = crc32c_on(sum, &page.0);
            let place = u64_at(&page.0, 8).unwrap_or_default();
            if at > 1 && places.insert(place, at).is_some() {
                return Err(refuse(format!("it has block {place} twice")));
            }
        }
        if sum != head.sum {
            return Err(refuse(
                "the checksum of its pages does not hold: it is damaged".to_owned(),
            ));
        }
        Ok(Copied { head, superblock, file, path: path.to_owned(), places })
    }

    /// The superblock as a value.
    pub(crate) fn roots(&self) -> Result<Superblock, Error> {
        let place = u64_at(&self.superblock.0, 8).unwrap_or_default();
        Superblock::parse(&self.superblock.0, place).map_err(|fault| self.damaged(&fault))
    }

    /// Calls `visit` for each node, and where it belongs.
    pub(crate) fn nodes(
        &self,
        mut visit: impl FnMut(u64, &Page) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.places.keys().try_for_each(|place| visit(*place, &*self.block(*place)?))
    }
}

impl Blocks for Copied {
    fn block(&self, place: u64) -> Result<Box<Page>, Error> {
        let at = self.places.get(&place).ok_or_else(|| Error::Refused {
            path: self.path.clone(),
            why: format!("it has no block {place}, which another refers to"),
            hint: HINT,
        })?;
        let mut page = Box::new(Page([0; BLOCK]));
        self.file
            .read_exact_at(&mut page.0, at * BLOCK as u64)
            .map_err(|err| Error::io("read", &self.path, err))?;
        Ok(page)
    }

    fn damaged(&self, fault: &Fault) -> Error {
        Error::Refused { path: self.path.clone(), why: fault.to_string(), hint: HINT }
    }
}

impl Pool {
    /// Writes a copy of the pool's metadata, of one moment, while the pool works. Other readers of its metadata wait
    /// meanwhile: some ten seconds for each gigabyte of metadata that is in use.
    ///
    /// # Errors
    /// Those of the messages; [`Error::Refused`] when the metadata is damaged; [`Error::Io`] of the file, which is
    /// then as it was.
    pub fn backup(&self, to: &Path) -> Result<CopyHead, Error> {
        self.with_frozen_metadata(|reader, superblock| {
            let status = self.status()?;
            let working = status.working();
            let place = working.and_then(|now| now.held_root).unwrap_or(0);
            let DataBlocks(data_blocks) =
                working.map_or(DataBlocks(superblock.data_map.blocks), |now| now.total_data);
            let of = Taken {
                id: self.id.clone(),
                name: self.name.clone(),
                taken_s: now_s(),
                transaction_id: superblock.transaction_id,
                block_sectors: self.block_sectors(),
                data_blocks,
                metadata_blocks: working
                    .map_or(superblock.metadata_blocks, |now| now.total_metadata),
            };
            write(reader, &*reader.block(place)?, of, to)
        })
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
pub(crate) mod tests;
