//! Where volumes live: one seam, two real stores. `thin` is the product; `dir` is for hosts
//! without device-mapper.
//!
//! A store knows ids, sizes and mappings; it knows no image, no state and no registry. Every call
//! may be repeated after a crash.

mod dir;
mod pool;
mod pool_note;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use dir::DirStore;
pub use pool::ThinStore;
use registry::StoreBinding;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::plan::Mapping;

/// Which store, as the caller names it: `thin:POOL` or `dir:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreName {
    /// A live thin pool of this device-mapper name.
    Thin(String),
    /// A directory.
    Dir(PathBuf),
}

impl FromStr for StoreName {
    type Err = Error;

    fn from_str(text: &str) -> Result<StoreName, Error> {
        match text.split_once(':') {
            Some(("thin", pool)) if !pool.is_empty() => Ok(StoreName::Thin(pool.into())),
            Some(("dir", path)) if !path.is_empty() => Ok(StoreName::Dir(path.into())),
            Some(_) | None => {
                Err(Error::Usage(format!("--store {text:?}: expected thin:POOL or dir:PATH")))
            }
        }
    }
}

impl std::fmt::Display for StoreName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreName::Thin(pool) => write!(f, "thin:{pool}"),
            StoreName::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// One device or tree that is mapped under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The name; for a volume at work a name that no activation can have.
    pub name: String,
    /// The volume.
    pub id: u32,
    /// Usable, or half made.
    pub mapping: Mapping,
}

/// Room in a store, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is taken.
    pub used: u64,
    /// Granularity of what is taken.
    pub block: u64,
}

impl Space {
    /// What is left.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// What a store says of its own condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// `rw`, `out_of_data_space`, `ro`, `needs_check`, `fail`; `directory` where there is no pool.
    pub mode: String,
    /// Bytes for data.
    pub data: Space,
    /// Bytes for the store's own bookkeeping; none where it has none of its own.
    pub metadata: Option<Space>,
    /// The number that ties it to a registry; none when it cannot say.
    pub transaction_id: Option<u64>,
}

/// A volume that is open for one apply.
pub trait Work {
    /// The tree.
    fn root(&self) -> &unpack::Root;

    /// Makes room for `bytes` more of layer and `inodes` more entries.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the store has not that room.
    fn make_room(&mut self, bytes: u64) -> Result<(), Error>;

    /// The volume's size now, bytes.
    fn bytes(&self) -> u64;

    /// Everything that was written is on disk, then the note about it is; nothing of it is open or
    /// mapped any more, and the store is healthy. Only then may the volume be sealed.
    fn close(self: Box<Self>, note: Option<&[u8]>) -> Result<(), Error>;
}

/// Where a sealed tree is, for who has to mount it somewhere.
#[derive(Clone, Copy, Debug)]
pub enum Tree<'a> {
    /// A detached, read-only mount.
    Mount(BorrowedFd<'a>),
    /// A directory, writable for who has the right.
    Directory(&'a Path),
}

/// A sealed volume that is open to be read.
pub trait View {
    /// Where it is.
    fn tree(&self) -> Tree<'_>;

    /// The tree.
    fn root(&self) -> &unpack::Root;

    /// Nothing of it is open or mapped any more.
    fn close(self: Box<Self>) -> Result<(), Error>;
}

/// A store of volumes.
pub trait Store: Send {
    /// Its kind and identity.
    fn binding(&self) -> StoreBinding;

    /// The number that ties it to a registry.
    fn transaction_id(&self) -> Result<u64, Error>;

    /// Moves the number on by compare-and-swap.
    fn set_transaction_id(&self, current: u64, next: u64) -> Result<(), Error>;

    /// Every id that it has, ours or not.
    fn ids(&self) -> Result<Vec<u32>, Error>;

    /// Makes the empty file system of the template, of this size at least, and closes it.
    /// Returns its size.
    fn make_template(&self, id: u32, bytes: u64) -> Result<u64, Error>;

    /// Whether there is room for so many volumes more.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or what the store says of its own bookkeeping's room.
    fn admit(&self, volumes: u64) -> Result<(), Error>;

    /// Makes `id` a snapshot of the sealed `origin`; whatever was under `id` is lost, since the
    /// caller reserved that id.
    fn snapshot(&self, id: u32, origin: u32) -> Result<(), Error>;

    /// Opens a snapshot of `bytes` for one apply.
    fn open(&self, id: u32, bytes: u64) -> Result<Box<dyn Work>, Error>;

    /// Opens the sealed `id` of `bytes` to be read; nothing can be written through it.
    fn look(&self, id: u32, bytes: u64) -> Result<Box<dyn View>, Error>;

    /// Writes the note of the closed volume `id`, of `bytes`, to disk.
    fn put_note(&self, id: u32, bytes: u64, note: &[u8]) -> Result<(), Error>;

    /// The bytes where the note of `id` is, whoever wrote them; none where there is no such place.
    fn note(&self, id: u32) -> Result<Option<Vec<u8>>, Error>;

    /// Takes away `id` and every mapping of it; an absent one is fine.
    fn delete(&self, id: u32) -> Result<(), Error>;

    /// Maps `id` under `name`, `bytes` large. Returns the path that the user is told.
    fn map(&self, id: u32, name: &str, bytes: u64) -> Result<PathBuf, Error>;

    /// Takes away the mapping `name`; an absent one is fine.
    fn unmap(&self, name: &str) -> Result<(), Error>;

    /// Grows the file system of the mapped `id` to `bytes`.
    fn grow(&self, id: u32, name: &str, bytes: u64) -> Result<(), Error>;

    /// The path of the mapping `name`.
    fn path(&self, name: &str) -> PathBuf;

    /// Everything of this store that is mapped, by a few reads however much it is. That a device
    /// was suspended from outside is seen only by who asks for that one.
    fn mapped(&self) -> Result<Vec<Mapped>, Error>;

    /// The mapping of the volume `id`.
    fn mapped_as(&self, id: u32) -> Result<Option<Mapped>, Error>;

    /// What this store has mapped under `name`.
    fn mapping(&self, name: &str) -> Result<Mapping, Error>;

    /// Its room.
    fn space(&self) -> Result<Space, Error>;

    /// How it is; also where it takes no change any more.
    fn condition(&self) -> Result<Condition, Error>;

    /// What a volume of `content` bytes of files took, by the room there was `before`.
    fn taken(&self, before: &Space, content: u64) -> Result<u64, Error> {
        match self.alone() {
            true => Ok(self.space()?.used.saturating_sub(before.used)),
            false => Ok(content),
        }
    }

    /// Bytes that each volume has and no other; none where volumes cannot be told apart.
    fn exclusive(&self) -> Result<Option<Vec<(u32, u64)>>, Error>;

    /// Whether nobody else takes room here, so that differences mean something.
    fn alone(&self) -> bool;

    /// Device-mapper calls that this thread has made; 0 where there are none.
    fn ioctls(&self) -> u64;
}
