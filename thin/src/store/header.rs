//! The header a pool keeps beside its files: who it is, what it is made of, and where its
//! metadata stood when it was last taken down. Pure but for reading and replacing the file.
//!
//! The kernel takes any metadata device, and formats one whose first 4 KiB are zero. So
//! [`Header::judge`] compares what is on the device with what this file says, before a table is
//! loaded.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::format::block::Fault;
use crate::format::ondisk::Superblock;

/// The file's name in the pool's directory.
pub(crate) const FILE: &str = "pool.json";
/// The one before it.
const ASIDE: &str = ".pool.json.old";
/// One block of any file system.
const SIZE: usize = 4096;
const FORMAT: u32 = 1;

/// One device or file below the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// A name within the directory, or an absolute path of a block device.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Of a file: its inode, which tells it from a copy.
    pub inode: Option<u64>,
}

/// Where the metadata stood at the last orderly `down`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastDown {
    /// Checksum of the superblock: any later commit changes it.
    pub superblock: u32,
}

/// The header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Version of this form.
    pub format: u32,
    /// The pool's identity: 32 hex digits, also stamped into its metadata.
    pub id: String,
    /// Device-mapper name it comes up under.
    pub name: String,
    /// Data block size in sectors.
    pub block_sectors: u64,
    /// Free data blocks at which the kernel raises an event.
    pub low_water: u64,
    /// Whether the files are sparse, so that discards should reach them.
    pub sparse: bool,
    /// The blocks.
    pub data: Part,
    /// The maps.
    pub metadata: Part,
    /// As large as the metadata, for a repair to write into.
    pub spare: Option<Part>,
    /// The lowest transaction id the metadata can rightly have.
    pub transaction_floor: u64,
    /// `None` while the pool is up, or after a crash.
    pub last_down: Option<LastDown>,
}

/// Why a metadata device is not the one this header is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// With the values.
    pub why: String,
    /// The next act.
    pub hint: &'static str,
}

const HINT_OTHER: &str = "find the right metadata; nothing was written to this one";
const HINT_OLD: &str = "find the newer metadata, or check both with `thin pool repair --dry-run`";
const HINT_CHECK: &str = "run `thin pool repair`, or `thin pool up --rescue` to read what is there";

impl Header {
    /// The id as the sixteen bytes stamped into the metadata.
    pub(crate) fn stamp(&self) -> [u8; 16] {
        let mut out = [0; 16];
        hex::decode_to_slice(&self.id, &mut out).map_or([0; 16], |()| out)
    }

    /// Whether `found` at the start of a metadata device of `bytes` size may be loaded as this
    /// pool's. `expected` is the transaction id the caller's records have: the pool is at that
    /// one, or one on when a change was in flight.
    ///
    /// # Errors
    /// A [`Verdict`]; with `rescue` (to be loaded read-only) only what makes reading senseless.
    pub fn judge(
        &self,
        found: &Result<Superblock, Fault>,
        bytes: u64,
        expected: Option<u64>,
        rescue: bool,
    ) -> Result<(), Verdict> {
        let refuse = |why: String, hint| Err(Verdict { why, hint });
        let superblock = match found {
            Ok(superblock) => superblock,
            Err(fault @ (Fault::Checksum { .. } | Fault::Node)) => {
                return refuse(fault.to_string(), "run `thin pool repair`");
            }
            Err(fault) => return refuse(fault.to_string(), HINT_OTHER),
        };
        if superblock.uuid != self.stamp() {
            let stamp = hex::encode(superblock.uuid);
            return refuse(format!("it is stamped {stamp}, this pool is {}", self.id), HINT_OTHER);
        }
        if u64::from(superblock.data_block_sectors) != self.block_sectors {
            let (has, want) = (superblock.data_block_sectors, self.block_sectors);
            return refuse(format!("its data blocks have {has} sectors, not {want}"), HINT_OTHER);
        }
        let needed = superblock.metadata_blocks.saturating_mul(4096);
        // The kernel keeps no count in the superblock before the first resize; 0 says nothing.
        if bytes < needed || bytes < self.metadata.bytes {
            let want = needed.max(self.metadata.bytes);
            return refuse(format!("it was cut to {bytes} of {want} bytes"), HINT_OTHER);
        }
        let tid = superblock.transaction_id;
        if tid < self.transaction_floor {
            let floor = self.transaction_floor;
            return refuse(format!("it is older: transaction {tid}, not below {floor}"), HINT_OLD);
        }
        if rescue {
            return Ok(());
        }
        if let Some(last) = self.last_down
            && last.superblock != superblock.checksum
            && !superblock.needs_check
        {
            return refuse(
                format!(
                    "it is not as it was when the pool was taken down: superblock {:#010x}, not {:#010x}",
                    superblock.checksum, last.superblock
                ),
                HINT_OLD,
            );
        }
        if superblock.needs_check {
            return refuse("a commit failed and it needs a check".to_owned(), HINT_CHECK);
        }
        match expected {
            Some(n) if tid != n && Some(tid) != n.checked_add(1) => refuse(
                format!("it is at transaction {tid}, the records at {n}"),
                "one of the two is an older copy: see `orchestrate recover`",
            ),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn read(dir: &Path) -> Result<Header, Error> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => Error::NoStore { path: path.clone() },
            _ => Error::io("read", &path, err),
        })?;
        let refuse = |why: String| Error::Refused {
            path: path.clone(),
            why,
            hint: "restore it from a backup; it is small and changes only by init, grow and repair",
        };
        let header: Header = serde_json::from_str(&text)
            .map_err(|err| refuse(format!("not a pool header: {err}")))?;
        if header.format != FORMAT {
            return Err(refuse(format!("format {}, this program knows {FORMAT}", header.format)));
        }
        if header.id.len() != 32 || !header.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse("its id is not 32 hex digits".to_owned()));
        }
        Ok(header)
    }

    /// Replaces the file as a whole: a crash leaves the old one or the new one. The one replaced
    /// stays as [`ASIDE`] and is written over the next time, so that a full file system, which
    /// is when a pool must be taken down, cannot prevent it.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let (path, aside) = (dir.join(FILE), dir.join(ASIDE));
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|err| Error::io("write", &path, io::Error::other(err)))?;
        // White space to a fixed size: nothing of a longer predecessor is left at the end.
        text.extend(std::iter::repeat_n(' ', SIZE.saturating_sub(text.len() + 1)));
        text.push('\n');
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&aside)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
            file.sync_all()?;
            match renameat2(AT_FDCWD, &aside, AT_FDCWD, &path, RenameFlags::RENAME_EXCHANGE) {
                Ok(()) => {}
                // The first time there is nothing to exchange with; and not every file system can.
                Err(Errno::ENOENT | Errno::EINVAL) => fs::rename(&aside, &path)?,
                Err(errno) => return Err(errno.into()),
            }
            File::open(dir)?.sync_all()
        };
        write().map_err(|err| Error::io("write", &path, err))
    }

    pub(crate) fn new(id: String, name: String, block_sectors: u64, parts: [Part; 2]) -> Header {
        let [data, metadata] = parts;
        Header {
            format: FORMAT,
            id,
            name,
            block_sectors,
            low_water: data.bytes / 512 / block_sectors / 10,
            sparse: false,
            data,
            metadata,
            spare: None,
            transaction_floor: 0,
            last_down: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bitmaps::SpaceMap;

    fn header() -> Header {
        let part = |path: &str, bytes| Part { path: path.into(), bytes, inode: Some(1) };
        let id = "00112233445566778899aabbccddeeff".to_owned();
        let parts = [part("data", 1 << 30), part("metadata", 1 << 24)];
        let mut header = Header::new(id, "pool".to_owned(), 128, parts);
        header.transaction_floor = 5;
        header.last_down = Some(LastDown { superblock: 77 });
        header
    }

    fn superblock() -> Superblock {
        Superblock {
            checksum: 77,
            uuid: header().stamp(),
            needs_check: false,
            transaction_id: 5,
            held_root: 0,
            mapping_root: 0,
            details_root: 0,
            data_map: SpaceMap::parse(&[0; 32], 0, true).unwrap(),
            metadata_map: SpaceMap::parse(&[0; 32], 0, false).unwrap(),
            data_block_sectors: 128,
            metadata_blocks: (1 << 24) / 4096,
        }
    }

    fn verdict(found: Result<Superblock, Fault>, bytes: u64, expected: Option<u64>) -> String {
        header().judge(&found, bytes, expected, false).map_or_else(|v| v.why, |()| String::new())
    }

    #[test]
    fn its_own_metadata_is_taken() {
        assert_eq!(verdict(Ok(superblock()), 1 << 24, None), "");
        assert_eq!(verdict(Ok(superblock()), 1 << 24, Some(5)), "");
        // A change was in flight: the pool is one on.
        assert_eq!(verdict(Ok(superblock()), 1 << 24, Some(4)), "");
    }

    #[test]
    fn every_wrong_metadata_is_refused_and_named() {
        let with = |change: fn(&mut Superblock)| {
            let mut changed = superblock();
            change(&mut changed);
            Ok(changed)
        };
        let full = 1 << 24;
        for (found, bytes, word) in [
            (Err(Fault::Zeroed), full, "zero"),
            (Err(Fault::Short), 0, "shorter"),
            (Err(Fault::Magic(1)), full, "magic"),
            (Err(Fault::Checksum { stored: 1, computed: 2 }), full, "checksum"),
            (with(|s| s.uuid = [9; 16]), full, "stamped"),
            (with(|s| s.data_block_sectors = 256), full, "sectors"),
            (Ok(superblock()), full - 4096, "cut"),
            (with(|s| s.transaction_id = 4), full, "older"),
            (with(|s| s.checksum = 78), full, "not as it was"),
            (with(|s| s.needs_check = true), full, "needs a check"),
        ] {
            let why = verdict(found, bytes, None);
            assert!(why.contains(word), "{word}: {why}");
        }
        assert!(verdict(Ok(superblock()), full, Some(3)).contains("the records at 3"));
        assert!(verdict(Ok(superblock()), full, Some(6)).contains("the records at 6"));
    }

    #[test]
    fn rescue_reads_a_damaged_pool_but_never_another() {
        let mut checked = superblock();
        checked.needs_check = true;
        checked.checksum = 1;
        assert!(header().judge(&Ok(checked.clone()), 1 << 24, None, true).is_ok());
        checked.uuid = [0; 16];
        assert!(header().judge(&Ok(checked), 1 << 24, None, true).is_err());
        assert!(header().judge(&Err(Fault::Zeroed), 1 << 24, None, true).is_err());
    }

    #[test]
    fn a_header_survives_its_file_and_nonsense_does_not() {
        let dir = std::env::temp_dir().join(format!("veneer-header-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        header().write(&dir).unwrap();
        assert_eq!(Header::read(&dir).unwrap(), header());
        // Longer, then shorter again: the exchange keeps one whole file each time.
        let mut long = header();
        long.name = "n".repeat(127);
        for wanted in [long, header(), header()] {
            wanted.write(&dir).unwrap();
            assert_eq!(Header::read(&dir).unwrap(), wanted);
        }
        for (bad, word) in
            [("", "not a pool header"), ("{}", "not a pool header"), ("[1", "not a pool header")]
        {
            fs::write(dir.join(FILE), bad).unwrap();
            assert!(Header::read(&dir).unwrap_err().to_string().contains(word));
        }
        let mut newer = header();
        newer.format = 9;
        newer.write(&dir).unwrap();
        assert!(Header::read(&dir).unwrap_err().to_string().contains("format 9"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
