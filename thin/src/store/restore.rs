//! Copies of the metadata of a pool with its files: taken before a risky act and on demand, and put back while the pool
//! is down. What a copy is, and why it is of one moment, is in `pool/copies.rs`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::error::Error;
use crate::format::copy_head::{CopyHead, Taken, rooted};
use crate::format::made_maps::{self, Counts, Made};
use crate::format::ondisk::Superblock;
use crate::kernel::dm::Dm;
use crate::kernel::sys::Page;
use crate::pool::Pool;
use crate::pool::copies::{self, Copied, Counted};
use crate::pool::metadata::Reader;
use crate::store::template::{find_program, run};
use crate::store::{METADATA_MAX, Store};

/// Metadata blocks in use beyond which no copy is taken before the pool grows: what needs room needs it now.
const QUICK_BLOCKS: u64 = 1 << 16;
/// Free metadata blocks below which none is taken then: while it is read, each change takes new ones.
const SPARE_BLOCKS: u64 = 64;
/// A copy before growing that is younger is not taken again.
const FRESH: Duration = Duration::from_secs(600);

/// How a copy is put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestoreOptions {
    /// Also one that is older than what the pool has: what was made or written since is lost, and what was removed since
    /// may have been overwritten.
    pub older: bool,
    /// Only look whether it could be.
    pub dry_run: bool,
}

/// A copy that was put back, or could be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Restored {
    /// What the copy says of itself.
    #[serde(flatten)]
    pub copy: CopyHead,
    /// The transaction id of what was there; none where that cannot be read.
    pub was_at: Option<u64>,
    /// A copy of what was there; none where that cannot be read.
    pub before: Option<PathBuf>,
    /// The metadata as it was, byte for byte.
    pub kept_as: Option<PathBuf>,
    /// Whether `thin_check` has looked at the result; it is not on every host.
    pub checked: bool,
    /// Whether anything was written.
    pub dry_run: bool,
}

impl Store {
    /// Writes a copy of the pool's metadata, whether the pool is up or not.
    ///
    /// # Errors
    /// As [`Pool::backup`].
    pub fn backup(&self, dm: Option<&Dm>, to: &Path) -> Result<CopyHead, Error> {
        match dm.map(|dm| self.live(dm)).transpose()?.flatten() {
            Some(pool) => pool.backup(to),
            None => self.backup_down(to),
        }
    }

    /// Of a pool that is down.
    fn backup_down(&self, to: &Path) -> Result<CopyHead, Error> {
        let device = self.attach(&self.header.metadata)?;
        let reader = Reader::open(device.path())?;
        let superblock = reader.superblock(0)?;
        let of = Taken {
            id: self.header.id.clone(),
            name: self.header.name.clone(),
            taken_s: copies::now_s(),
            transaction_id: superblock.transaction_id,
            block_sectors: self.header.block_sectors,
            data_blocks: superblock.data_map.blocks,
            metadata_blocks: superblock.metadata_map.blocks,
        };
        copies::write(&reader, &*reader.block(0)?, of, to)
    }

    /// Where the copy is that was taken last before such an act.
    pub(crate) fn copy_before(&self, act: &str) -> PathBuf {
        self.dir.join(format!("metadata.before-{act}"))
    }

    /// Takes a copy before the live pool grows, where that is quick. One that cannot be taken is no reason not to grow:
    /// a pool without room is what it is to be kept from.
    pub(crate) fn copy_before_growing(&self, pool: &Pool) {
        let to = self.copy_before("grow");
        let age = fs::metadata(&to).and_then(|meta| meta.modified());
        let age = age.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let quick = pool.status().is_ok_and(|status| {
            status.working().is_some_and(|now| {
                let free = now.free_metadata();
                now.used_metadata <= QUICK_BLOCKS
                    && free >= SPARE_BLOCKS.max(now.total_metadata / 20)
            })
        });
        if quick && age.is_none_or(|age| age >= FRESH) {
            drop(pool.backup(&to));
        }
    }

    /// Takes a copy of the metadata of a pool that is down, if it can be read: before it is changed, and where it cannot
    /// be read there is nothing to copy.
    pub(crate) fn copy_before_mending(&self, act: &str) -> Option<PathBuf> {
        let to = self.copy_before(act);
        self.backup_down(&to).ok().map(|_| to)
    }

    /// Puts a copy of the metadata back. It is written beside what is there, into the spare, and takes its place at the
    /// end, in one step; a pool on disks, which has no spare, keeps what was there in a file.
    ///
    /// # Errors
    /// [`Error::Refused`], with nothing changed, for a pool that is up, for a copy that is damaged, of another pool,
    /// older than what is there, or larger than the pool; [`Error::Io`].
    pub fn restore(
        &mut self,
        dm: Option<&Dm>,
        from: &Path,
        options: RestoreOptions,
    ) -> Result<Restored, Error> {
        if let Some(dm) = dm
            && self.live(dm)?.is_some()
        {
            return Err(Error::Refused {
                path: from.to_owned(),
                why: "its pool is up".to_owned(),
                hint: "`thin pool down` first",
            });
        }
        let copy = Copied::open(from)?;
        let superblock = copy.roots()?;
        let was_at = self.now_at();
        self.may_take(from, &copy.head, &superblock, was_at, options.older)?;
        let target = self.header.spare.as_ref().unwrap_or(&self.header.metadata).clone();
        let device = self.attach(&target)?;
        let bytes = Reader::open(device.path())?.bytes()?.min(METADATA_MAX);
        let (counted, made) = self.made(&copy, &superblock, bytes)?;
        let done = |before, kept_as, checked| Restored {
            copy: copy.head.clone(),
            was_at,
            before,
            kept_as,
            checked,
            dry_run: options.dry_run,
        };
        if options.dry_run {
            return Ok(done(None, None, false));
        }
        let before = self.copy_before_mending("restore");
        let kept_as = match self.header.spare {
            Some(_) => self.path_of(&self.header.metadata),
            None => self.keep_whole(device.path())?,
        };
        put(&copy, &made, bytes / 4096, device.path())?;
        let checked = self.is_put(&counted, device.path())?;
        if let Some(spare) = self.header.spare.take() {
            // The two change places in the header; the files stay where they are.
            self.header.spare = Some(std::mem::replace(&mut self.header.metadata, spare));
        }
        self.forget_mark(device.path())?;
        Ok(done(before, Some(kept_as), checked))
    }

    /// Whether a copy is this pool's, and as new as what is there, as far as that can be read.
    fn may_take(
        &self,
        from: &Path,
        head: &CopyHead,
        superblock: &Superblock,
        was_at: Option<u64>,
        older: bool,
    ) -> Result<(), Error> {
        let refuse = |why: String, hint| Err(Error::Refused { path: from.to_owned(), why, hint });
        let header = &self.header;
        if head.id != header.id || superblock.uuid != header.stamp() {
            let (of, id, this) = (head.name.escape_debug(), head.id.escape_debug(), &header.id);
            return refuse(
                format!("it is of pool \"{of}\" with the id {id}, and this one is {this}"),
                "find the copy of this pool, or the directory of that one",
            );
        }
        let newest = was_at.unwrap_or(0).max(header.transaction_floor);
        if superblock.transaction_id < newest && !older {
            let (at, taken) = (superblock.transaction_id, head.taken_s);
            return refuse(
                format!(
                    "it is of transaction {at}, taken at {taken} (seconds since 1970), and the pool is at {newest}"
                ),
                "find a newer copy; `--older` takes this one, and what was made since is lost",
            );
        }
        Ok(())
    }

    /// The transaction id of what is there, as far as that can be read.
    fn now_at(&self) -> Option<u64> {
        let device = self.attach(&self.header.metadata).ok()?;
        let superblock = Reader::open(device.path()).ok()?.superblock(0).ok()?;
        (superblock.uuid == self.header.stamp()).then_some(superblock.transaction_id)
    }

    /// Counts what the copy refers to, and makes the space maps of it for metadata of so many bytes.
    fn made(
        &self,
        copy: &Copied,
        superblock: &Superblock,
        bytes: u64,
    ) -> Result<(Counted, Made), Error> {
        let refuse = |why: String, hint| Error::Refused { path: self.dir.clone(), why, hint };
        let (blocks, here) =
            (copy.head.data_blocks, self.header.data.bytes / 512 / self.header.block_sectors);
        if blocks > here || u64::from(superblock.data_block_sectors) != self.header.block_sectors {
            let (has, size) = (copy.head.block_sectors, self.header.block_sectors);
            return Err(refuse(
                format!(
                    "the copy is of {blocks} data blocks of {has} sectors, the pool has {here} of {size}"
                ),
                "restore the pool's data as well, or make it as large as it was",
            ));
        }
        let size = |blocks: u64| usize::try_from(blocks).unwrap_or(0);
        let counted = copies::count(copy, superblock, size(blocks), size(bytes / 4096))?;
        if counted.nodes != copy.head.pages - 1 || counted.thins != copy.head.thins {
            return Err(refuse(
                "the copy has pages that nothing in it refers to: it is damaged".to_owned(),
                "find another copy",
            ));
        }
        let metadata: Counts = counted.metadata.clone();
        let made = made_maps::make(&counted.data, metadata).ok_or_else(|| {
            refuse(
                format!("the copy does not fit into {bytes} bytes of metadata"),
                "enlarge the metadata and its spare as they were when it was taken",
            )
        })?;
        Ok((counted, made))
    }

    /// Copies all bytes of the metadata into a file, for a pool without a spare.
    fn keep_whole(&self, device: &Path) -> Result<PathBuf, Error> {
        let to = self.dir.join("metadata.replaced");
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let kept = File::open(device).and_then(|mut from| {
            let mut file = options.open(&to)?;
            io::copy(&mut from, &mut file)?;
            file.sync_all()
        });
        kept.map(|()| to.clone()).map_err(|err| Error::io("write", &to, err))
    }

    /// Reads back what was written; whether `thin_check` has looked at it too.
    fn is_put(&self, counted: &Counted, device: &Path) -> Result<bool, Error> {
        let reader = Reader::open(device)?;
        let superblock = reader.superblock(0)?;
        let blocks = usize::try_from(superblock.data_map.blocks).unwrap_or(0);
        let metadata = usize::try_from(superblock.metadata_map.blocks).unwrap_or(0);
        let again = copies::count(&reader, &superblock, blocks, metadata)?;
        if again.data != counted.data || again.metadata != counted.metadata {
            return Err(Error::Refused {
                path: device.to_owned(),
                why: "what was written is not what is read back".to_owned(),
                hint: "nothing was changed in the pool; look at the disk below it",
            });
        }
        let check = find_program("VENEER_THIN_CHECK", "thin_check");
        match run(&check, &[device.into()], device) {
            Ok(_) => Ok(true),
            Err(Error::NoProgram { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }
}

/// Writes a copy onto metadata that no pool has open. The superblock comes last: until then there is none.
fn put(copy: &Copied, made: &Made, blocks: u64, path: &Path) -> Result<(), Error> {
    let fail = |err| Error::io("write", path, err);
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_EXCL);
    let file = options.open(path).map_err(|err| Error::io("open", path, err))?;
    put_into(
        copy,
        made,
        blocks,
        |at, page| file.write_all_at(&page.0, at * 4096),
        || file.sync_all(),
    )
    .map_err(|err| match err {
        Put::Io(err) => fail(err),
        Put::Error(err) => err,
    })
}

/// Which of the two sides failed.
enum Put {
    Io(io::Error),
    Error(Error),
}

fn put_into(
    copy: &Copied,
    made: &Made,
    blocks: u64,
    write: impl Fn(u64, &Page) -> io::Result<()>,
    sync: impl Fn() -> io::Result<()>,
) -> Result<(), Put> {
    let mut page = Page([0; 4096]);
    // No superblock at all would be taken for a new pool; this is none that anybody takes.
    page.0.fill(0xff);
    write(0, &page).and_then(|()| sync()).map_err(Put::Io)?;
    let mut failed = None;
    let nodes = copy.nodes(|place, page| {
        if failed.is_none() {
            failed = write(place, page).err();
        }
        Ok(())
    });
    nodes.map_err(Put::Error)?;
    if let Some(err) = failed {
        return Err(Put::Io(err));
    }
    for (place, bytes) in &made.pages {
        page.0 = *bytes;
        write(*place, &page).map_err(Put::Io)?;
    }
    sync().map_err(Put::Io)?;
    page.0 = rooted(&copy.superblock.0, made.data.bytes(), made.metadata.bytes(), blocks);
    write(0, &page).and_then(|()| sync()).map_err(Put::Io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::copies::tests::{BLOCKS, DATA, copied, made};

    /// The file is left where VENEER_KEEP_METADATA says, for `thin_check`.
    #[test]
    fn what_is_put_back_is_what_was_copied_with_space_maps_that_agree() {
        let (dir, path) = copied("put");
        let copy = Copied::open(&path).unwrap();
        let (counted, made) = made(&copy);
        let out = dir.join("restored");
        let file = File::options().create_new(true).write(true).open(&out).unwrap();
        file.set_len(4096 * BLOCKS as u64).unwrap();
        let write = |at: u64, page: &Page| file.write_all_at(&page.0, at * 4096);
        assert!(put_into(&copy, &made, BLOCKS as u64, write, || Ok(())).is_ok());
        let reader = Reader::of_file(&out);
        let superblock = reader.superblock(0).unwrap();
        assert_eq!((superblock.transaction_id, superblock.uuid), (7, [0xab; 16]));
        assert_eq!((superblock.held_root, superblock.needs_check), (0, false));
        assert_eq!(superblock.metadata_blocks, BLOCKS as u64);
        let again = copies::count(&reader, &superblock, DATA, BLOCKS).unwrap();
        assert_eq!((again.data, again.metadata), (counted.data, counted.metadata));
        assert_eq!(superblock.data_map.allocated, 500);
        let lost = crate::pool::spacemap::missed_of(&reader).unwrap();
        assert!(lost.is_none(), "{lost:?}");
        if let Some(keep) = std::env::var_os("VENEER_KEEP_METADATA") {
            fs::copy(&out, keep).unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_no_superblock_to_be_taken() {
        let (dir, path) = copied("fails");
        let copy = Copied::open(&path).unwrap();
        let (_, made) = made(&copy);
        let all = 1 + usize::try_from(copy.head.pages).unwrap() + made.pages.len();
        for end in 0..all {
            let written = std::cell::RefCell::new(Vec::new());
            let write = |at: u64, _: &Page| {
                if written.borrow().len() == end {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                written.borrow_mut().push(at);
                Ok(())
            };
            let failed = put_into(&copy, &made, BLOCKS as u64, write, || Ok(())).is_err();
            let written = written.into_inner();
            assert!(failed, "write {end} of {all} failed unseen");
            assert!(written.iter().skip(1).all(|at| *at != 0), "{end}: the superblock came early");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
