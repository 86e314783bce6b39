//! The seam: what a store can do, whichever it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use registry::{StoreBinding, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::quote::quoted;
use crate::plan::Mapping;
use crate::plan::guard::Fills;
use crate::plan::mapped::Mapped;
use crate::store::content::Content;
use crate::store::disks::Disks;
use crate::store::snapshot::Snapshot;

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
            Some(_) | None => Err(Error::Usage(format!(
                "--store {}: expected thin:POOL or dir:PATH",
                quoted(text)
            ))),
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

/// What a store's own record says of when a volume was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// There is none.
    Never,
    /// At this transaction id.
    At(u64),
    /// The volume is there and its record is not.
    Unknown,
    /// What is in its place is no volume: a link, or a file, that somebody put there.
    Foreign,
}

/// What one volume holds of a store, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The volume.
    pub id: VolumeId,
    /// What no other volume holds.
    pub exclusive_bytes: u64,
    /// What others hold too.
    pub shared_bytes: u64,
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

/// What a layer is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The volume is mounted: an activation, and a stack that was begun through mounts.
    Mounted,
    /// It is an image of the writer, whose mark the parent's seal record vouches for: it is never mounted.
    Written,
}

/// Says by the first bytes of a volume what it is.
pub(crate) type ByStart<'a> = &'a dyn Fn(&[u8]) -> Result<Ground, Error>;

/// A volume that is open for one apply.
pub trait Work {
    /// What it holds.
    fn content(&self) -> Content<'_>;

    /// Makes room for `bytes` more of layer and `inodes` more entries.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the store has not that room.
    fn make_room(&mut self, bytes: u64) -> Result<(), Error>;

    /// Whether there is room for `bytes` more of files in the volume as it is, and in the store.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when there is not.
    fn has_room(&self, bytes: u64) -> Result<(), Error>;

    /// The volume's size now, bytes.
    fn bytes(&self) -> u64;

    /// Everything that was written is on disk, then the seal record about it is; nothing of it is open or
    /// mapped any more, and the store is healthy. Only then may the volume be sealed.
    fn close(self: Box<Self>, seal_record: Option<&[u8]>) -> Result<(), Error>;
}

/// A sealed volume that is open to be compared with what was sealed.
pub trait Reading {
    /// What it holds.
    fn content(&self) -> Content<'_>;

    /// Nothing of it is open or mapped any more.
    fn close(self: Box<Self>) -> Result<(), Error>;
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

/// Bytes that one copy of the believed serials may have.
pub(crate) const COPY_BYTES: usize = 28 << 10;

/// What a look at the place of a volume's seal record gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// The volume is gone.
    Absent,
    /// The bytes that are there; none of a tree that has no record.
    Bytes(Vec<u8>),
    /// It was not looked at: it is active under this name, and not by our own work.
    InUse(String),
}

/// A store of volumes.
pub trait Store: Send {
    /// Its kind and identity.
    fn binding(&self) -> StoreBinding;

    /// The number that ties it to a registry.
    fn transaction_id(&self) -> Result<u64, Error>;

    /// Moves the number on by compare-and-swap.
    fn set_transaction_id(&self, current: u64, next: u64) -> Result<(), Error>;

    /// Whether it has this id, ours or not.
    fn has(&self, id: VolumeId) -> Result<bool, Error>;

    /// When what it has under this id was made, by its own record.
    fn made_at(&self, id: VolumeId) -> Result<Made, Error>;

    /// Every id that it has, ours or not.
    fn ids(&self) -> Result<Vec<VolumeId>, Error>;

    /// Every id that it has, with when that was made.
    fn made(&self) -> Result<BTreeMap<VolumeId, Made>, Error> {
        // One record that cannot be read says nothing, and keeps the others from nothing.
        let made = |id| (id, self.made_at(id).unwrap_or(Made::Unknown));
        Ok(self.ids()?.into_iter().map(made).collect())
    }

    /// Whether it keeps itself which volumes it was told to make, so that those of others have no such record.
    fn keeps_made(&self) -> bool {
        false
    }

    /// Makes the empty file system of the template, of this size at least, and closes it.
    /// Returns its size.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where the store has this id: nothing is changed then.
    fn make_template(&self, id: VolumeId, bytes: u64) -> Result<u64, Error>;

    /// Whether a template of `bytes` can be made here at all.
    fn fits_template(&self, _id: VolumeId, _bytes: u64) -> bool {
        true
    }

    /// How full it is by its own figures, at the cost of a question to the kernel; none of a directory, which has no
    /// room of its own.
    fn fills(&self) -> Result<Option<Fills>, Error> {
        Ok(None)
    }

    /// Whether there is room for so many volumes more.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or what the store says of its own bookkeeping's room.
    fn admit(&self, volumes: u64) -> Result<(), Error>;

    /// Makes a snapshot of the sealed `origin`.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where the store has this id: nothing is changed then. [`Error::Lost`] where
    /// it has no `origin`.
    fn snapshot(&self, snapshot: Snapshot) -> Result<(), Error>;

    /// Opens a snapshot of `bytes` for one apply. Where volumes are images, `judge` says by the first bytes of the
    /// device, which are the origin's as long as nothing was written, what the layer is applied to.
    fn open(&self, id: VolumeId, bytes: u64, judge: ByStart<'_>) -> Result<Box<dyn Work>, Error>;

    /// Opens the sealed `id` of `bytes` to be compared: an image that is on this `ground` without a mount.
    fn read(&self, id: VolumeId, bytes: u64, ground: Ground) -> Result<Box<dyn Reading>, Error>;

    /// Opens the activation `id` of `bytes`, which is mapped as `name` or not at all, to be read as it is.
    ///
    /// # Errors
    /// [`Error::Held`] where somebody has it open, and from closing it where somebody has opened it meanwhile.
    fn read_activation(
        &self,
        id: VolumeId,
        name: &str,
        bytes: u64,
    ) -> Result<Box<dyn Reading>, Error>;

    /// Opens the sealed `id` of `bytes` to be read; nothing can be written through it.
    fn look(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn View>, Error>;

    /// Writes the seal record of the closed volume `id`, of `bytes`, to disk.
    fn put_seal_record(&self, id: VolumeId, bytes: u64, seal_record: &[u8]) -> Result<(), Error>;

    /// The bytes where the seal record of `id` is, whoever wrote them; none where there is no such place.
    fn seal_record(&self, id: VolumeId) -> Result<Option<Vec<u8>>, Error>;

    /// Whether the believed serials need a volume of their own; else they are a file.
    fn serials_need_volume(&self) -> bool;

    /// Makes the volume `id` for them.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where the store has this id: nothing is changed then.
    fn make_serials(&self, id: VolumeId) -> Result<(), Error>;

    /// The copies of the believed serials, as they stand, on this volume or in their file.
    fn serials(&self, volume: Option<VolumeId>) -> Result<Vec<Vec<u8>>, Error>;

    /// Writes one copy of them to disk, number 0 or 1; the other is not touched.
    fn put_serials(&self, volume: Option<VolumeId>, copy: usize, bytes: &[u8])
    -> Result<(), Error>;

    /// As [`Store::seal_record`], and leaves alone what somebody has in use.
    fn peek(&self, id: VolumeId) -> Result<Peek, Error> {
        Ok(self.seal_record(id)?.map_or(Peek::Bytes(Vec::new()), Peek::Bytes))
    }

    /// Held while volumes are looked at without a registry's locks; none where looks do not meet.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody else looks for longer than `wait`.
    fn looks_alone(&self, _wait: Duration) -> Result<Option<File>, Error> {
        Ok(None)
    }

    /// Whether a mapping is that of a build or a look, and of no activation.
    fn is_work(&self, _mapped: &Mapped) -> bool {
        false
    }

    /// Whether a device of a build or a look may need this name, so that no activation can have it.
    fn keeps_name(&self, _name: &str) -> bool {
        false
    }

    /// Takes away `id` and every mapping of it; an absent one is fine.
    fn delete(&self, id: VolumeId) -> Result<(), Error>;

    /// Takes away `id`, unless it is mapped.
    ///
    /// # Errors
    /// [`Error::Taken`] naming the mapping: nothing is changed then.
    fn purge(&self, id: VolumeId) -> Result<(), Error>;

    /// Maps `id` under `name`, `bytes` large; with `read_only` the device, where there is one, refuses writes. Returns
    /// the path that the user is told.
    fn map(&self, id: VolumeId, name: &str, bytes: u64, read_only: bool) -> Result<PathBuf, Error>;

    /// Gives the mapping of `id`, which may have the name `former` still, the name `new`, also while it is open. Where
    /// it is not mapped there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Stranger`] where something else has that name.
    fn rename(&self, id: VolumeId, former: &str, new: &str) -> Result<(), Error>;

    /// Takes away the mapping of `id`, which is to be `name`; an absent one is fine. What another has
    /// mapped under that name is not touched.
    ///
    /// # Errors
    /// [`Error::Held`] at once, when somebody has it open.
    fn unmap(&self, id: VolumeId, name: &str) -> Result<(), Error>;

    /// Whether several names may lead to one volume.
    fn names_are_links(&self) -> bool {
        false
    }

    /// Takes away the name `name`, if it leads to `id`, and no other name of that; whether it did. Where a
    /// volume has one name there is nothing to do.
    fn unlink(&self, _id: VolumeId, _name: &str) -> Result<bool, Error> {
        Ok(false)
    }

    /// Who has the mapping of `id` open; none when nobody has.
    fn held(&self, id: VolumeId) -> Result<Option<String>, Error>;

    /// Whether the mapping of `id` refuses writes: somebody looks at it.
    fn read_only(&self, id: VolumeId) -> Result<bool, Error>;

    /// What else than the mapping of `id` has the name `name`; none when it is free for `id`.
    fn stranger(&self, id: Option<VolumeId>, name: &str) -> Result<Option<String>, Error>;

    /// The size of a device that is to hold `bytes`.
    fn device_bytes(&self, bytes: u64) -> u64;

    /// The boot of the kernel that mappings of now live in; none where they outlive it.
    fn boot(&self) -> Result<Option<String>, Error>;

    /// Grows the file system of the mapped `id` to `bytes`.
    fn grow(&self, id: VolumeId, name: &str, bytes: u64) -> Result<(), Error>;

    /// The path of the mapping `name`.
    fn path(&self, name: &str) -> PathBuf;

    /// The directory that the volume `id` is; none where it is a device.
    fn tree(&self, _id: VolumeId) -> Option<PathBuf> {
        None
    }

    /// The major and minor number of the mapped `id`; none where it is no device, or not mapped.
    fn device(&self, _id: VolumeId) -> Result<Option<(u32, u32)>, Error> {
        Ok(None)
    }

    /// What can be done with the disks of activations; none where those are directories.
    fn disks(&self) -> Option<&dyn Disks> {
        None
    }

    /// Everything of this store that is mapped, by a few reads however much it is. That a device
    /// was suspended from outside is seen only by who asks for that one.
    fn mapped(&self) -> Result<Vec<Mapped>, Error>;

    /// The mapping of the volume `id`.
    fn mapped_as(&self, id: VolumeId) -> Result<Option<Mapped>, Error>;

    /// The mapping of `id`, which is to be `name`.
    fn mapping(&self, id: VolumeId, name: &str) -> Result<Mapping, Error>;

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

    /// What each volume holds; none where volumes cannot be told apart.
    fn taken_by_each(&self) -> Result<Option<Vec<Taken>>, Error> {
        Ok(None)
    }

    /// Whether nobody else takes room here, so that differences mean something.
    fn alone(&self) -> bool;

    /// Device-mapper calls that this thread has made; 0 where there are none.
    fn ioctls(&self) -> u64;
}
