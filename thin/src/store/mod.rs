//! A pool with its files: made once by [`Store::init`] (`init.rs`), brought up at every boot by
//! [`Store::up`]. The files are attached to loop devices that detach themselves when the pool
//! goes; whole disks do as well. What may be loaded is decided in `header.rs`.
//!
//! Discards: the files are allocated in full and keep what they have, so discards end at the pool. A
//! sparse pool passes them on to its file, which is the only way it ever shrinks: deleting a thin
//! frees its blocks for the next thin alone. To discard the whole thin first would cost a request for
//! each of its blocks, shared ones among them, in the one worker that all volumes of the pool wait for.

pub(crate) mod growth;
pub(crate) mod header;
pub(crate) mod init;
pub(crate) mod repair;
pub(crate) mod restore;
pub mod template;

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use crate::error::Error;
use crate::format::ondisk::Superblock;
use crate::format::status::PoolStatus;
use crate::format::table::Features;
use crate::format::units::{DataBlockSize, Dev, DmName};
use crate::kernel::dm::{By, Dm};
use crate::kernel::loopdev::{self, Loop, LoopOptions};
use crate::pool::metadata::Reader;
use crate::pool::tidy::Tidied;
use crate::pool::{Device, POOL_UUID, Pool, PoolSpec};
use crate::store::header::{Header, LastDown, Part};

/// The kernel uses no more metadata than this (255 * (2^14 - 64) blocks of 4 KiB).
pub(crate) const METADATA_MAX: u64 = 255 * ((1 << 14) - 64) * 4096;

/// How long a pool's directory is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How to bring a pool up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UpOptions {
    /// The transaction id the caller's own records have.
    pub expected_transaction: Option<u64>,
    /// Take damaged metadata, read-only.
    pub rescue: bool,
    /// The files were moved on purpose: take their new inodes.
    pub moved: bool,
}

/// A pool's directory, locked.
#[derive(Debug)]
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) header: Header,
    pub(crate) _lock: Flock<File>,
}

/// A pool that came up.
#[derive(Debug)]
pub struct Up {
    /// The pool.
    pub pool: Pool,
    /// It was up before.
    pub was_up: bool,
    /// A metadata snapshot of a killed process was released.
    pub released_held_root: bool,
    /// What else a killed process had left.
    pub tidied: Vec<Tidied>,
}

/// A device of the pool and, for a file, the loop that must stay open until the pool holds it.
#[derive(Debug)]
pub(crate) enum Held {
    Disk(Device),
    File(Loop),
}

impl Held {
    pub(crate) fn dev(&self) -> Dev {
        match self {
            Held::Disk(device) => device.dev,
            Held::File(device) => device.dev(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Held::Disk(device) => &device.path,
            Held::File(device) => device.path(),
        }
    }
}

impl Store {
    /// Opens and locks the directory of a pool.
    ///
    /// # Errors
    /// [`Error::Io`], ENOENT when there is no header; [`Error::Refused`] for one that is none.
    pub fn open(dir: &Path) -> Result<Store, Error> {
        // Before the lock, so that a wrong directory gets no lock file.
        Header::read(dir)?;
        let lock = lock(dir)?;
        Ok(Store { dir: dir.to_owned(), header: Header::read(dir)?, _lock: lock })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn header_mut(&mut self) -> &mut Header {
        &mut self.header
    }

    pub(crate) fn save(&self) -> Result<(), Error> {
        self.header.write(&self.dir)
    }

    pub(crate) fn path_of(&self, part: &Part) -> PathBuf {
        self.dir.join(&part.path)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The live pool of this directory, if it is up.
    ///
    /// # Errors
    /// [`Error::Refused`] when the live one runs on other devices.
    pub fn live(&self, dm: &Dm) -> Result<Option<Pool>, Error> {
        let uuid = format!("{POOL_UUID}{}", self.header.id);
        let Some(state) = dm.state(By::Uuid(&uuid))? else { return Ok(None) };
        if !state.has_table {
            // A process was killed between making the device and its first resume.
            dm.remove(By::Uuid(&uuid))?;
            return Ok(None);
        }
        let pool = Pool::adopt(dm.clone(), &state.name)?;
        for (part, found) in [
            (&self.header.metadata, &pool.table().metadata),
            (&self.header.data, &pool.table().data),
        ] {
            let held = self.find(part)?;
            let same = held.as_ref().is_some_and(|h| h.dev().to_string() == found.to_string());
            if !same {
                return Err(Error::Refused {
                    path: self.path_of(part),
                    why: format!("pool \"{}\" is up on {found} instead", state.name),
                    hint: "take it down with `thin --pool NAME pool down`, then try again",
                });
            }
        }
        Ok(Some(pool))
    }

    /// Brings the pool up, or takes it on as it is; then puts right what a killed process left.
    ///
    /// # Errors
    /// [`Error::Refused`] for metadata that is not this pool's, without a byte written to it;
    /// those of the commands, after which nothing is left.
    pub fn up(&mut self, dm: Dm, options: UpOptions) -> Result<Up, Error> {
        if options.moved {
            self.take_moved()?;
        }
        let live = self.live(&dm)?;
        let was_up = live.is_some();
        let pool = match live {
            Some(pool) => pool,
            None => self.load(dm, options)?,
        };
        if options.moved {
            // It is this pool's, so that the next command need not be told again.
            self.save()?;
        }
        let writable = pool.status()?.takes_deletes();
        let released_held_root = writable && pool.release_held_root()?;
        let tidied = pool.tidy()?;
        Ok(Up { pool, was_up, released_held_root, tidied })
    }

    fn load(&mut self, dm: Dm, options: UpOptions) -> Result<Pool, Error> {
        let metadata = self.attach(&self.header.metadata)?;
        let reader = Reader::open(metadata.path())?;
        let found = Superblock::parse(&reader.block_or_zero(0)?.0, 0);
        self.header
            .judge(&found, reader.bytes()?, options.expected_transaction, options.rescue)
            .map_err(|verdict| Error::Refused {
                path: self.path_of(&self.header.metadata),
                why: verdict.why,
                hint: verdict.hint,
            })?;
        let data = self.attach(&self.header.data)?;
        let features = Features {
            read_only: options.rescue,
            no_discard_passdown: !self.header.sparse,
            ..Features::safe()
        };
        let spec = PoolSpec {
            name: DmName::new(&self.header.name)?,
            id: Some(self.header.id.clone()),
            data: Device::open(data.path())?,
            metadata: Device::open(metadata.path())?,
            block: DataBlockSize::new(self.header.block_sectors)?,
            low_water: self.header.low_water,
            features,
        };
        if !options.rescue {
            // From here on the metadata may change, so the exact mark is void before it does.
            self.header.last_down = None;
            if let Ok(superblock) = &found {
                self.header.transaction_floor = superblock.transaction_id;
            }
            self.save()?;
        }
        Pool::create(dm, &spec)
    }

    /// Takes the files that are there now for the pool's own, as after they were moved or restored on
    /// purpose. Written down by what comes next: [`Store::up`], or a repair.
    ///
    /// # Errors
    /// [`Error::Io`] when data or metadata is not there.
    pub fn take_moved(&mut self) -> Result<(), Error> {
        let dir = &self.dir;
        let inode = |part: &Part| -> Result<Option<u64>, Error> {
            let path = dir.join(&part.path);
            match part.inode {
                None => Ok(None),
                Some(_) => fs::metadata(&path)
                    .map(|meta| Some(meta.ino()))
                    .map_err(|err| Error::io("look at", &path, err)),
            }
        };
        let (data, metadata) = (inode(&self.header.data)?, inode(&self.header.metadata)?);
        self.header.data.inode = data;
        self.header.metadata.inode = metadata;
        // A pool does without its spare until it has to be repaired.
        if let Some(spare) = &mut self.header.spare
            && let Ok(found) = fs::metadata(dir.join(&spare.path))
        {
            spare.inode = spare.inode.map(|_| found.ino());
        }
        Ok(())
    }

    /// Takes the pool down, and notes where its metadata stands.
    ///
    /// # Errors
    /// [`Error::Held`] with the volumes still on it; those of the commands.
    pub fn down(&mut self, dm: &Dm) -> Result<bool, Error> {
        let live = self.live(dm)?;
        let was_up = live.is_some();
        let mut mark = None;
        if let Some(pool) = live {
            let read_only = pool.table().features.read_only;
            // Held open, or a loop that clears itself would be gone before it is read.
            let metadata = self.attach(&self.header.metadata)?;
            pool.remove_pool()?;
            let superblock = Reader::open(metadata.path())?.superblock(0);
            mark = superblock.ok().filter(|_| !read_only);
        }
        for part in [&self.header.metadata, &self.header.data] {
            if let Some(Held::File(device)) = self.find(part)? {
                device.detach()?;
            }
        }
        // Last: the pool is down whether this can be written or not.
        if let Some(superblock) = mark {
            self.header.transaction_floor = superblock.transaction_id;
            self.header.last_down = Some(LastDown { superblock: superblock.checksum });
            self.save()?;
        }
        Ok(was_up)
    }

    /// Makes data or metadata larger (bytes), live, and reads the totals back.
    ///
    /// # Errors
    /// [`Error::PoolMissing`] when it is down; [`Error::Shrink`]; [`Error::NotGrown`];
    /// [`Error::Unreachable`] when it has grown by blocks that it will never give out.
    pub fn grow(
        &mut self,
        dm: &Dm,
        data: Option<u64>,
        metadata: Option<u64>,
    ) -> Result<PoolStatus, Error> {
        let mut pool =
            self.live(dm)?.ok_or_else(|| Error::PoolMissing { pool: self.header.name.clone() })?;
        self.copy_before_growing(&pool);
        if let Some(bytes) = metadata {
            self.header.metadata.bytes = self.enlarge(&self.header.metadata, bytes, false)?;
            if let Some(spare) = &self.header.spare {
                let bytes = self.enlarge(spare, bytes, false)?;
                self.header.spare = Some(Part { bytes, ..spare.clone() });
            }
        }
        if let Some(bytes) = data {
            self.header.data.bytes = self.enlarge(&self.header.data, bytes, self.header.sparse)?;
        }
        self.save()?;
        let metadata_blocks = self.header.metadata.bytes.min(METADATA_MAX) / 4096;
        pool.reload(self.header.data.bytes / 512)?;
        let status = pool.status()?;
        let blocks = self.header.data.bytes / 512 / self.header.block_sectors;
        if let Some(working) = status.working() {
            let checks = [
                ("data", blocks, working.total_data.0),
                ("metadata", metadata_blocks, working.total_metadata),
            ];
            for (which, wanted, found) in checks {
                if found < wanted {
                    let pool = pool.name().to_owned();
                    return Err(Error::NotGrown { pool, which, wanted, found });
                }
            }
            // The totals are only what the pool was told: this is what it will give out.
            let unreachable = pool.unreachable()?;
            if !unreachable.is_none() {
                let (pool, dir) = (pool.name().to_owned(), self.dir.clone());
                return Err(Error::Unreachable { pool, dir, unreachable });
            }
        }
        Ok(status)
    }

    /// Gives the size the part really has now.
    fn enlarge(&self, part: &Part, bytes: u64, sparse: bool) -> Result<u64, Error> {
        let path = self.path_of(part);
        if part.inode.is_none() {
            return Ok(Device::open(&path)?.sectors.bytes());
        }
        let bytes = bytes / 4096 * 4096;
        if bytes < part.bytes {
            let name = path.display().to_string();
            return Err(Error::Shrink { name, from: part.bytes / 512, to: bytes / 512 });
        }
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|err| Error::io("open", &path, err))?;
        let before = file.metadata().map_err(|err| Error::io("look at", &path, err))?.len();
        if let Err(err) = size_file(&file, &path, bytes, sparse) {
            // What was allocated so far belongs to nobody: the pool knows nothing of it yet.
            file.set_len(before).map_err(|err| Error::io("size", &path, err))?;
            return Err(err);
        }
        if let Some(Held::File(mut device)) = self.find(part)? {
            device.refresh_size()?;
        }
        Ok(bytes)
    }

    fn find(&self, part: &Part) -> Result<Option<Held>, Error> {
        let path = self.path_of(part);
        match part.inode {
            None => Device::open(&path).map(|device| Some(Held::Disk(device))),
            Some(_) => loopdev::find_by_backing(&path).map(|found| found.map(Held::File)),
        }
    }

    pub(crate) fn attach(&self, part: &Part) -> Result<Held, Error> {
        let path = self.path_of(part);
        let meta = fs::metadata(&path).map_err(|err| Error::io("look at", &path, err))?;
        let refuse = |why, hint| Err(Error::Refused { path: path.clone(), why, hint });
        match part.inode {
            None if !meta.file_type().is_block_device() => {
                return refuse("it is no block device".to_owned(), "check the header's paths");
            }
            Some(inode) if inode != meta.ino() => {
                return refuse(
                    format!("it has inode {}, the pool's file had {inode}", meta.ino()),
                    "if you moved or restored it on purpose, say `thin pool up DIR --moved` once; \
                     where that is refused, `thin pool repair DIR --moved`",
                );
            }
            Some(_) if meta.len() < part.bytes => {
                let (has, had) = (meta.len(), part.bytes);
                return refuse(format!("it was cut to {has} of {had} bytes"), "restore it");
            }
            Some(_) | None => {}
        }
        if let Some(held) = self.find(part)? {
            return Ok(held);
        }
        loopdev::attach(&path, LoopOptions::default()).map(Held::File)
    }
}

pub(crate) fn lock(dir: &Path) -> Result<Flock<File>, Error> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|err| Error::io("open", &path, err))?;
    // Who may read it may lock it.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|err| Error::io("set the mode of", &path, err))?;
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // A daemon that looks after its pool's room has it for a moment, again and again.
            Err((back, Errno::EWOULDBLOCK)) if begun.elapsed() < LOCK_WAIT => file = back,
            Err((_, errno)) => {
                return Err(Error::errno("another `thin pool` command holds", &path, errno));
            }
        }
        sleep(Duration::from_millis(20));
    }
}

pub(crate) fn size_file(file: &File, path: &Path, bytes: u64, sparse: bool) -> Result<(), Error> {
    file.set_len(bytes).map_err(|err| Error::io("size", path, err))?;
    if !sparse {
        let length =
            i64::try_from(bytes).map_err(|_| Error::errno("allocate", path, Errno::EFBIG))?;
        fallocate(file, FallocateFlags::empty(), 0, length)
            .map_err(|errno| Error::errno("allocate", path, errno))?;
    }
    file.sync_all().map_err(|err| Error::io("sync", path, err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_free_soon_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("veneer-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let held = lock(&dir).unwrap();
        let waiting = std::thread::spawn({
            let dir = dir.clone();
            move || lock(&dir).map(drop)
        });
        sleep(Duration::from_millis(100));
        drop(held);
        waiting.join().unwrap().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
