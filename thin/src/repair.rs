//! Checks and mends a pool's metadata while it is down, by the tools made for that
//! (`thin_check`, `thin_repair`: run, never linked). The damaged metadata is kept.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::dm::Dm;
use crate::error::Error;
use crate::header::Part;
use crate::init::stamp;
use crate::loopdev::{self, LoopOptions};
use crate::metadata::Reader;
use crate::ondisk::Superblock;
use crate::store::Store;
use crate::template::{find_program, run};

/// What a check found and a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Repaired {
    /// What was done.
    pub act: RepairAct,
    /// What `thin_check` said, when it found something.
    pub found: Option<String>,
    /// What may be lost, for a person.
    pub may_be_lost: Option<&'static str>,
    /// Where the damaged metadata was put.
    pub kept_as: Option<std::path::PathBuf>,
}

/// The three ends of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairAct {
    /// Nothing is wrong.
    Clean,
    /// The metadata is sound: only the mark of a failed commit was taken off.
    FlagCleared,
    /// The metadata was rebuilt into the spare, which took its place.
    Rebuilt,
    /// Something is wrong; only looked, as asked.
    NeedsRepair,
}

const LOST_COMMIT: &str = "writes of the last second before the failed commit, even synced ones: \
                           check each volume's file system";
const LOST_REBUILD: &str = "mappings the damaged metadata no longer names: whole volumes or parts \
                            of them: compare `thin ls` with your records, and check each volume's \
                            file system";

impl Store {
    /// Checks the metadata and, unless `dry_run`, mends it.
    ///
    /// # Errors
    /// [`Error::Refused`] while the pool is up, or when there is no spare to rebuild into;
    /// [`Error::NoProgram`] and [`Error::Program`] of the tools.
    pub fn repair(&mut self, dm: Option<&Dm>, dry_run: bool) -> Result<Repaired, Error> {
        let path = self.path_of(&self.header().metadata);
        if let Some(dm) = dm
            && self.live(dm)?.is_some()
        {
            return Err(Error::Refused {
                path,
                why: "its pool is up".to_owned(),
                hint: "`thin pool down` first",
            });
        }
        let check = find_program("VENEER_THIN_CHECK", "thin_check");
        let found = match run(&check, &[path.clone().into()], &path) {
            Ok(_) => None,
            Err(Error::Program { stderr, .. }) => Some(stderr.trim().to_owned()),
            Err(err) => return Err(err),
        };
        let superblock = superblock_of(&path);
        let sound = found.is_none();
        let flagged = superblock.as_ref().is_ok_and(|s| s.needs_check);
        // Another pool's metadata is sound too, but not ours to make fit.
        let foreign = superblock.as_ref().is_ok_and(|s| s.uuid != self.header().stamp());
        if foreign {
            return Err(Error::Refused {
                path,
                why: "it is stamped with another pool's id".to_owned(),
                hint: "find the right metadata; this one was not changed",
            });
        }
        let ended =
            |act, lost, kept_as| Repaired { act, found: found.clone(), may_be_lost: lost, kept_as };
        // Older versions of thin_check call the flag itself an error.
        let only_flag = flagged && self.check_without_flag(&check, &path)?;
        match (sound || only_flag, flagged, dry_run) {
            (true, false, _) => Ok(ended(RepairAct::Clean, None, None)),
            (_, _, true) => Ok(ended(RepairAct::NeedsRepair, None, None)),
            (true, true, false) => {
                run(&check, &["--clear-needs-check-flag".into(), path.clone().into()], &path)?;
                self.forget_mark()?;
                Ok(ended(RepairAct::FlagCleared, Some(LOST_COMMIT), None))
            }
            (false, _, false) => {
                let kept = self.rebuild(&check, &path)?;
                Ok(ended(RepairAct::Rebuilt, Some(LOST_REBUILD), Some(kept)))
            }
        }
    }

    /// Whether the metadata is sound apart from the flag: checked on a copy without it.
    fn check_without_flag(&self, check: &Path, path: &Path) -> Result<bool, Error> {
        let copy = self.dir().join(".metadata.check");
        fs::copy(path, &copy).map_err(|err| Error::io("copy", &copy, err))?;
        let words: [OsString; 2] = ["--clear-needs-check-flag".into(), copy.clone().into()];
        let result = run(check, &words, &copy);
        fs::remove_file(&copy).map_err(|err| Error::io("remove", &copy, err))?;
        match result {
            Ok(_) => Ok(true),
            Err(Error::Program { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    fn rebuild(&mut self, check: &Path, path: &Path) -> Result<std::path::PathBuf, Error> {
        let Some(spare) = self.header().spare.clone() else {
            return Err(Error::Refused {
                path: path.to_owned(),
                why: "it is damaged, and this pool has no spare to rebuild into".to_owned(),
                hint: "run thin_repair by hand onto a device of the same size",
            });
        };
        let target = self.path_of(&spare);
        let repair = find_program("VENEER_THIN_REPAIR", "thin_repair");
        let words: [OsString; 4] = ["-i".into(), path.into(), "-o".into(), target.clone().into()];
        run(&repair, &words, path)?;
        run(check, &[target.clone().into()], &target)?;
        // The tools write a superblock of their own, without the pool's id.
        let device = loopdev::attach(&target, LoopOptions::default())?;
        stamp(device.path(), self.header().stamp())?;
        drop(device);
        // The two parts change places in the header: the files stay where they are.
        let damaged = self.header().metadata.clone();
        let header = self.header_mut();
        header.metadata = Part { bytes: spare.bytes, ..spare };
        header.spare = Some(damaged);
        self.forget_mark()?;
        Ok(path.to_owned())
    }

    /// A tool has written: the exact mark is void, and the lowest transaction id is what it left.
    fn forget_mark(&mut self) -> Result<(), Error> {
        let path = self.path_of(&self.header().metadata);
        let superblock = superblock_of(&path)?;
        let header = self.header_mut();
        header.last_down = None;
        header.transaction_floor = superblock.transaction_id;
        self.save()
    }
}

fn superblock_of(path: &Path) -> Result<Superblock, Error> {
    Reader::open_buffered(path)?.superblock(0)
}
