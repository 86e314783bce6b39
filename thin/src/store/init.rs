//! A pool's beginning: its files, the kernel's one formatting of blank metadata, and the pool's
//! id stamped into it. Everything after that is in `store/mod.rs`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::format::ondisk::{self, Superblock};
use crate::format::table::Features;
use crate::format::units::{DataBlockSize, DmName};
use crate::kernel::dm::Dm;
use crate::kernel::loopdev::{self, LoopOptions};
use crate::kernel::sys;
use crate::pool::metadata::Reader;
use crate::pool::{Device, Pool, PoolSpec};
use crate::store::header::{FILE, Header, Part};
use crate::store::{Held, METADATA_MAX, Store, Up, UpOptions, lock, size_file};

/// The kernel docs' least ("the smallest metadata device is 2 MiB"); less holds a toy.
const METADATA_MIN: u64 = 2 << 20;
/// A file of ext4 can have no more.
const DATA_MAX: u64 = 16 << 40;

/// What a new pool is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitOptions {
    /// Device-mapper name.
    pub name: DmName,
    /// Size of the data file in bytes; unused with `data_device`.
    pub data_bytes: u64,
    /// Size of the metadata file in bytes; `None` for [`metadata_bytes_for`].
    pub metadata_bytes: Option<u64>,
    /// Data block size.
    pub block: DataBlockSize,
    /// A whole disk for the data.
    pub data_device: Option<PathBuf>,
    /// A whole disk for the metadata; its first 4 KiB must be zero.
    pub metadata_device: Option<PathBuf>,
    /// Leave the data file with holes. A host file system that fills up then means I/O errors.
    pub sparse: bool,
}

impl InitOptions {
    /// Before a file is made, so that what is told is the size asked for.
    fn check_sizes(&self) -> Result<(), Error> {
        let within = |what, bytes: u64, least: u64, most: u64, rule| match bytes {
            bytes if bytes < least || bytes > most => {
                Err(Error::unit(what, bytes.to_string(), rule))
            }
            _ => Ok(()),
        };
        if self.data_device.is_none() {
            let rule = "at least one data block, at most 16 TiB";
            within("data size in bytes", self.data_bytes, self.block.bytes(), DATA_MAX, rule)?;
        }
        match (self.metadata_bytes, &self.metadata_device) {
            (Some(bytes), None) => {
                let rule = "2 MiB to 17045913600: the kernel uses no more";
                within("metadata size in bytes", bytes, METADATA_MIN, METADATA_MAX, rule)
            }
            (Some(_), Some(_)) | (None, _) => Ok(()),
        }
    }
}

/// Metadata for `blocks` data blocks: four times the kernel docs' 48 bytes a block, since every
/// diverging snapshot rewrites leaves; at least 2 MiB.
pub fn metadata_bytes_for(blocks: u64) -> u64 {
    let bytes = blocks.saturating_mul(48 * 4).next_multiple_of(1 << 20);
    bytes.clamp(METADATA_MIN * 4, METADATA_MAX)
}

/// Makes the pool's directory, into which nobody else looks, whatever the umask. One that is there stays as
/// it is.
fn make_dir(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|err| Error::io("create", dir, err))
}

impl Store {
    /// Makes the files and the pool, and leaves it up. The header is written last: until then
    /// there is no pool, and nothing of it is left after a failure.
    ///
    /// # Errors
    /// [`Error::Refused`] when the directory has a pool or the metadata disk is not blank;
    /// ENOSPC when the files do not fit; those of the commands.
    pub fn init(dm: Dm, dir: &Path, options: &InitOptions) -> Result<(Store, Up), Error> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        let mut made = Vec::new();
        let result = make_parts(dir, options, &mut made)
            .and_then(|header| format_and_stamp(&dm, dir, &header).map(|()| header))
            .and_then(|header| header.write(dir).map(|()| header));
        match result {
            Ok(header) => {
                let mut store = Store { dir: dir.to_owned(), header, _lock: lock };
                let up = store.up(dm, UpOptions::default())?;
                Ok((store, up))
            }
            Err(err) => {
                for path in made {
                    fs::remove_file(&path).map_err(|err| Error::io("remove", &path, err))?;
                }
                Err(err)
            }
        }
    }
}

fn make_parts(dir: &Path, options: &InitOptions, made: &mut Vec<PathBuf>) -> Result<Header, Error> {
    if dir.join(FILE).exists() {
        return Err(Error::Refused {
            path: dir.join(FILE),
            why: "there is a pool already".to_owned(),
            hint: "bring it up with `thin pool up`",
        });
    }
    options.check_sizes()?;
    let mut file = |name: &str, bytes: u64, sparse: bool| -> Result<Part, Error> {
        let path = dir.join(name);
        let bytes = bytes.next_multiple_of(4096);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|err| match err.kind() {
                io::ErrorKind::AlreadyExists => Error::Refused {
                    path: path.clone(),
                    why: "it is there already, and no pool.json beside it".to_owned(),
                    hint: "if an init was cut off here: `thin pool down` by name, remove the file",
                },
                _ => Error::io("create", &path, err),
            })?;
        made.push(path.clone());
        size_file(&file, &path, bytes, sparse)?;
        let inode = file.metadata().map_err(|err| Error::io("look at", &path, err))?.ino();
        Ok(Part { path: name.into(), bytes, inode: Some(inode) })
    };
    let disk = |path: &Path| -> Result<Part, Error> {
        let device = Device::open(path)?;
        Ok(Part { path: path.to_owned(), bytes: device.sectors.bytes(), inode: None })
    };
    let data = match &options.data_device {
        Some(path) => disk(path)?,
        None => file("data", options.data_bytes, options.sparse)?,
    };
    let blocks = data.bytes / options.block.bytes();
    if blocks == 0 {
        let (what, rule) = ("data size in bytes", "at least one data block");
        return Err(Error::unit(what, data.bytes.to_string(), rule));
    }
    let metadata_bytes = options.metadata_bytes.unwrap_or_else(|| metadata_bytes_for(blocks));
    let (metadata, spare) = match &options.metadata_device {
        Some(path) => (disk(path)?, None),
        None => {
            (file("metadata", metadata_bytes, false)?, Some(file("spare", metadata_bytes, false)?))
        }
    };
    let name = options.name.as_str().to_owned();
    let mut header = Header::new(random_id()?, name, options.block.sectors(), [data, metadata]);
    header.spare = spare;
    header.sparse = options.sparse;
    Ok(header)
}

fn random_id() -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|file| file.read_exact_at(&mut bytes, 0))
        .map_err(|err| Error::io("read", path, err))?;
    Ok(hex::encode(bytes))
}

/// Lets the kernel format blank metadata once, then writes the pool's id into it.
fn format_and_stamp(dm: &Dm, dir: &Path, header: &Header) -> Result<(), Error> {
    let open = |part: &Part| -> Result<Held, Error> {
        let path = dir.join(&part.path);
        match part.inode {
            None => Device::open(&path).map(Held::Disk),
            Some(_) => loopdev::attach(&path, LoopOptions::default()).map(Held::File),
        }
    };
    let (metadata, data) = (open(&header.metadata)?, open(&header.data)?);
    if Reader::open(metadata.path())?.block_or_zero(0)?.0.iter().any(|&byte| byte != 0) {
        return Err(Error::Refused {
            path: dir.join(&header.metadata.path),
            why: "its first 4096 bytes are not zero: it may be another pool's".to_owned(),
            hint: "if it holds nothing of value, overwrite them with zeros first",
        });
    }
    let spec = PoolSpec {
        name: DmName::new(&header.name)?,
        id: Some(header.id.clone()),
        data: Device::open(data.path())?,
        metadata: Device::open(metadata.path())?,
        block: DataBlockSize::new(header.block_sectors)?,
        low_water: header.low_water,
        features: Features::safe(),
    };
    let pool = Pool::create(dm.clone(), &spec)?;
    // The kernel writes the superblock at the first commit.
    pool.commit()?;
    pool.remove_pool()?;
    stamp(metadata.path(), header.stamp())
}

/// Writes `uuid` into the superblock of metadata that no pool has open.
pub(crate) fn stamp(path: &Path, uuid: [u8; 16]) -> Result<(), Error> {
    let mut page = Reader::open(path)?.block(0)?;
    Superblock::parse(&page.0, 0).map_err(|fault| Error::Refused {
        path: path.to_owned(),
        why: fault.to_string(),
        hint: "it was to be stamped with the pool's id",
    })?;
    page.0 = ondisk::stamped(&page.0, uuid);
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_EXCL)
        .open(path)
        .map_err(|err| Error::io("open", path, err))?;
    file.write_all_at(&page.0, 0)
        .and_then(|()| file.sync_all())
        .map_err(|err| Error::io("stamp", path, err))?;
    // O_EXCL on a plain file would only matter with O_CREAT: there the size tells.
    sys::block_bytes(file.as_fd()).map(drop).map_err(|errno| Error::errno("size of", path, errno))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_looks_into_a_new_pool_and_what_is_there_keeps_its_mode() {
        let base = std::env::temp_dir().join(format!("veneer-init-{}", std::process::id()));
        let dir = base.join("pool");
        make_dir(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&base), mode(&dir)), (0o700, 0o700));
        drop(lock(&dir).unwrap());
        assert_eq!(mode(&dir.join("lock")), 0o600);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        make_dir(&dir).unwrap();
        assert_eq!(mode(&dir), 0o750);
        fs::remove_dir_all(&base).unwrap();
    }
}
