//! What a live pool's metadata says: its thins, and which blocks they share.
//!
//! A metadata snapshot freezes one committed state; it is read past the page cache (the kernel
//! writes it by dm-bufio) and released whatever happens. A pool that takes no message changes
//! nothing either, so there the committed state itself is read.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::error::Error;
use crate::format::block::{self, Fault};
use crate::format::ondisk::{self, Details, Node, Superblock};
use crate::format::table::DeviceRef;
use crate::format::units::{Dev, ThinId};
use crate::kernel::{node, sys};
use crate::pool::Pool;

/// Levels no tree of 2^64 keys reaches: more is a loop.
pub(crate) const DEPTH_MAX: u32 = 16;

/// How long another enumeration is waited for.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// One thin of the pool, as its metadata has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ThinRecord {
    /// The id.
    pub id: ThinId,
    /// Data blocks it maps, shared ones among them.
    pub mapped_blocks: u64,
    /// The pool's transaction id when it was made.
    pub transaction_id: u64,
    /// The pool's own clock when it was made: it ticks at each snapshot.
    pub creation_time: u32,
    /// The same clock when it was last an origin, or made as a snapshot.
    pub snapshotted_time: u32,
}

/// One thin's share of the data blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Usage {
    /// Its record.
    #[serde(flatten)]
    pub record: ThinRecord,
    /// Blocks that no other thin maps: what deleting it frees.
    pub exclusive_blocks: u64,
    /// Blocks that others map too.
    pub shared_blocks: u64,
}

/// A metadata device, open for reading past the page cache.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Reader, Error> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(path)
            .map_err(|err| Error::io("open", path, err))?;
        Ok(Reader { file, path: path.to_owned() })
    }

    /// A file in place of a device, by way of the page cache.
    #[cfg(test)]
    pub(crate) fn of_file(path: &Path) -> Reader {
        Reader { file: File::open(path).expect("a file"), path: path.to_owned() }
    }

    pub(crate) fn bytes(&self) -> Result<u64, Error> {
        sys::block_bytes(self.file.as_fd())
            .map_err(|errno| Error::errno("size of", &self.path, errno))
    }

    pub(crate) fn block(&self, number: u64) -> Result<Box<sys::Page>, Error> {
        let mut page = Box::new(sys::Page([0; block::BLOCK]));
        let at = number
            .checked_mul(4096)
            .ok_or_else(|| Error::errno("read", &self.path, Errno::EOVERFLOW))?;
        self.file
            .read_exact_at(&mut page.0, at)
            .map_err(|err| Error::io("read metadata of", &self.path, err))?;
        Ok(page)
    }

    /// As [`Reader::block`], but a device too short for it reads as zeros.
    pub(crate) fn block_or_zero(&self, number: u64) -> Result<Box<sys::Page>, Error> {
        match self.bytes()? {
            bytes if bytes < (number + 1) * 4096 => Ok(Box::new(sys::Page([0; block::BLOCK]))),
            _ => self.block(number),
        }
    }

    pub(crate) fn superblock(&self, place: u64) -> Result<Superblock, Error> {
        Superblock::parse(&self.block(place)?.0, place).map_err(|fault| self.damaged(&fault))
    }

    fn node(&self, place: u64) -> Result<Node, Error> {
        Node::parse(&self.block(place)?.0, place).map_err(|fault| self.damaged(&fault))
    }

    pub(crate) fn damaged(&self, fault: &Fault) -> Error {
        Error::Refused {
            path: self.path.clone(),
            why: fault.to_string(),
            hint: "`thin pool down`, then `thin pool repair`",
        }
    }

    /// Calls `visit` for each leaf row of the tree at `root`.
    pub(crate) fn leaves(
        &self,
        root: u64,
        depth: u32,
        visit: &mut impl FnMut(u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.damaged(&Fault::Node));
        }
        match self.node(root)? {
            Node::Internal(children) => {
                children.into_iter().try_for_each(|child| self.leaves(child, depth + 1, visit))
            }
            Node::Leaf(rows) => rows
                .iter()
                .try_for_each(|(key, value)| visit(*key, value))
                .map_err(|fault| self.damaged(&fault)),
        }
    }

    fn records(&self, superblock: &Superblock) -> Result<Vec<ThinRecord>, Error> {
        let mut out = Vec::new();
        self.leaves(superblock.details_root, 0, &mut |key, value| {
            let details = Details::parse(value).ok_or(Fault::Node)?;
            out.push(ThinRecord {
                id: ThinId::new(key).map_err(|_| Fault::Node)?,
                mapped_blocks: details.mapped_blocks,
                transaction_id: details.transaction_id,
                creation_time: details.creation_time,
                snapshotted_time: details.snapshotted_time,
            });
            Ok(())
        })?;
        Ok(out)
    }

    fn usage(&self, superblock: &Superblock) -> Result<Vec<Usage>, Error> {
        let records = self.records(superblock)?;
        let mut roots = Vec::new();
        self.leaves(superblock.mapping_root, 0, &mut |key, value| {
            let root = ondisk::root_of(value).ok_or(Fault::Node)?;
            roots.push((ThinId::new(key).map_err(|_| Fault::Node)?, root));
            Ok(())
        })?;
        let mut tally = Tally::default();
        for (id, root) in roots {
            self.count(root, 0, id, &mut tally)?;
        }
        let exclusive = tally.exclusive();
        Ok(records
            .into_iter()
            .map(|record| {
                let exclusive_blocks = exclusive.get(&record.id).copied().unwrap_or(0);
                let shared_blocks = record.mapped_blocks.saturating_sub(exclusive_blocks);
                Usage { record, exclusive_blocks, shared_blocks }
            })
            .collect())
    }

    /// Two visits of a subtree suffice: after the second all below it is known to be shared.
    fn count(&self, root: u64, depth: u32, id: ThinId, tally: &mut Tally) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.damaged(&Fault::Node));
        }
        let visits = tally.visits.entry(root).or_insert(0);
        if *visits >= 2 {
            return Ok(());
        }
        *visits += 1;
        match self.node(root)? {
            Node::Internal(children) => {
                children.into_iter().try_for_each(|child| self.count(child, depth + 1, id, tally))
            }
            Node::Leaf(rows) => rows.iter().try_for_each(|(_, value)| {
                let block = ondisk::data_block(value).ok_or_else(|| self.damaged(&Fault::Node))?;
                tally.add(block, id);
                Ok(())
            }),
        }
    }
}

/// Who maps which data block, as far as exclusive use needs it.
#[derive(Debug, Default)]
struct Tally {
    visits: HashMap<u64, u8>,
    /// `None`: more than one.
    owner: HashMap<u64, Option<ThinId>>,
}

impl Tally {
    fn add(&mut self, block: u64, id: ThinId) {
        self.owner
            .entry(block)
            .and_modify(|owner| {
                if *owner != Some(id) {
                    *owner = None;
                }
            })
            .or_insert(Some(id));
    }

    fn exclusive(&self) -> HashMap<ThinId, u64> {
        let mut out = HashMap::new();
        for id in self.owner.values().flatten() {
            *out.entry(*id).or_insert(0) += 1;
        }
        out
    }
}

impl Pool {
    /// Every thin the pool has, by its own metadata.
    ///
    /// # Errors
    /// Those of the messages; [`Error::Refused`] when the metadata is damaged.
    pub fn ids(&self) -> Result<Vec<ThinRecord>, Error> {
        self.with_frozen_metadata(Reader::records)
    }

    /// The record of one thin; none where the pool has no such thin.
    ///
    /// # Errors
    /// As [`Pool::ids`].
    pub fn record(&self, id: ThinId) -> Result<Option<ThinRecord>, Error> {
        Ok(self.ids()?.into_iter().find(|record| record.id == id))
    }

    /// Every thin with its exclusive and shared blocks. Reads all mappings: seconds on a pool
    /// of millions of blocks.
    ///
    /// # Errors
    /// As [`Pool::ids`].
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        self.with_frozen_metadata(Reader::usage)
    }

    /// The block device below the pool that has its maps.
    ///
    /// # Errors
    /// [`Error::Io`] when no node for it can be found.
    pub fn metadata_path(&self) -> Result<PathBuf, Error> {
        match &self.table.metadata {
            DeviceRef::Number(dev) => path_of(*dev),
            DeviceRef::Path(path) => Ok(PathBuf::from(path)),
        }
    }

    /// Releases a metadata snapshot that a killed process left; `true` when there was one.
    ///
    /// # Errors
    /// Those of the message.
    pub fn release_held_root(&self) -> Result<bool, Error> {
        let _turn = self.turn()?;
        self.release_if_held()
    }

    fn release_if_held(&self) -> Result<bool, Error> {
        if self.status()?.working().is_none_or(|w| w.held_root.is_none()) {
            return Ok(false);
        }
        self.send("release_metadata_snap").map(|()| true)
    }

    /// One enumeration at a time: the pool has one held root, and an old one can then only be
    /// a dead process's.
    fn turn(&self) -> Result<Flock<File>, Error> {
        let path = node::path(self.dev);
        let mut file = File::open(&path).map_err(|err| Error::io("open", &path, err))?;
        let start = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(turn) => return Ok(turn),
                Err((back, Errno::EWOULDBLOCK)) if start.elapsed() < TURN_WAIT => file = back,
                Err((_, errno)) => return Err(Error::errno("lock", &path, errno)),
            }
            sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn with_frozen_metadata<T>(
        &self,
        read: impl Fn(&Reader, &Superblock) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let reader = Reader::open(&self.metadata_path()?)?;
        if !self.status()?.takes_deletes() {
            return read(&reader, &reader.superblock(0)?);
        }
        let _turn = self.turn()?;
        self.release_if_held()?;
        self.send("reserve_metadata_snap")?;
        let result = self
            .status()
            .and_then(|status| {
                let held = status.working().and_then(|w| w.held_root);
                held.ok_or_else(|| self.refused("reserve_metadata_snap", Errno::EIO))
            })
            .and_then(|place| reader.superblock(place))
            .and_then(|superblock| read(&reader, &superblock));
        // The snapshot costs space as long as it is held, so it goes first; a failed read is
        // the more telling error of the two.
        let released = self.send("release_metadata_snap");
        let value = result?;
        released?;
        Ok(value)
    }
}

/// A node that leads to `dev`, found by what the kernel calls it.
pub(crate) fn path_of(dev: Dev) -> Result<PathBuf, Error> {
    let uevent = PathBuf::from(format!("/sys/dev/block/{dev}/uevent"));
    let text =
        std::fs::read_to_string(&uevent).map_err(|err| Error::io("look at", &uevent, err))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let path = name.map(|name| Path::new("/dev").join(name));
    match path {
        Some(path) if node::block_dev(&path).is_ok_and(|found| found == Some(dev)) => Ok(path),
        Some(path) => Err(Error::errno("no node for", path, Errno::ENODEV)),
        None => Err(Error::errno("no name in", uevent, Errno::ENODEV)),
    }
}
