//! Checks and mends a pool's metadata while it is down, by the tools made for that
//! (`thin_check`, `thin_repair`: run, never linked). The damaged metadata is kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;
use crate::format::room::Unreachable;
use crate::kernel::dm::Dm;
use crate::kernel::loopdev::{self, LoopOptions};
use crate::pool::metadata::Reader;
use crate::pool::spacemap;
use crate::store::Store;
use crate::store::init::stamp;
use crate::store::template::{find_program, run};

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
    pub kept_as: Option<PathBuf>,
}

/// The ends of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairAct {
    /// Nothing is wrong.
    Clean,
    /// The metadata is sound: only the mark of a failed commit was taken off.
    FlagCleared,
    /// The metadata was rebuilt into the spare, which took its place.
    Rebuilt,
    /// The metadata is sound, but an older thin_repair had counted too few free blocks.
    Recounted,
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
        let device = self.attach(&self.header.metadata)?;
        let path = device.path().to_owned();
        let mut found = match run(&check, &[path.clone().into()], &path) {
            Ok(_) => None,
            Err(Error::Program { stderr, .. }) => Some(stderr.trim().to_owned()),
            Err(err) => return Err(err),
        };
        let superblock = Reader::open(&path)?.superblock(0);
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
        // Older versions of thin_check call the flag itself an error.
        let only_flag = flagged && self.check_without_flag(&check, &path)?;
        let sound = sound || only_flag;
        // Only what is sound can be counted.
        let missed = if sound { spacemap::missed(&path)? } else { Unreachable::default() };
        if !missed.is_none() {
            let Unreachable { data, metadata } = missed;
            found = Some(format!(
                "{data} data and {metadata} metadata blocks would never be given out after growing: \
                 an older thin_repair counted too few"
            ));
        }
        let ended =
            |act, lost, kept_as| Repaired { act, found: found.clone(), may_be_lost: lost, kept_as };
        match (sound, flagged, dry_run) {
            (true, false, _) if missed.is_none() => {
                if !dry_run {
                    // Files that were taken for the pool's own stay so.
                    self.save()?;
                }
                Ok(ended(RepairAct::Clean, None, None))
            }
            (_, _, true) => Ok(ended(RepairAct::NeedsRepair, None, None)),
            (true, true, false) => {
                self.copy_before_mending("repair");
                run(&check, &["--clear-needs-check-flag".into(), path.clone().into()], &path)?;
                spacemap::recount(&path)?;
                self.forget_mark(&path)?;
                Ok(ended(RepairAct::FlagCleared, Some(LOST_COMMIT), None))
            }
            (true, false, false) => {
                self.copy_before_mending("repair");
                spacemap::recount(&path)?;
                run(&check, &[path.clone().into()], &path)?;
                self.forget_mark(&path)?;
                Ok(ended(RepairAct::Recounted, None, None))
            }
            (false, _, false) => {
                self.copy_before_mending("repair");
                let kept = self.rebuild(&check, &path)?;
                Ok(ended(RepairAct::Rebuilt, Some(LOST_REBUILD), Some(kept)))
            }
        }
    }

    /// Whether the metadata is sound apart from the flag: checked on a copy without it.
    fn check_without_flag(&self, check: &Path, path: &Path) -> Result<bool, Error> {
        let copy = self.dir().join(".metadata.check");
        // Not `fs::copy`, which wants regular files.
        let copied =
            File::open(path).and_then(|mut from| io::copy(&mut from, &mut File::create(&copy)?));
        copied.map_err(|err| Error::io("copy", &copy, err))?;
        let device = loopdev::attach(&copy, LoopOptions::default());
        // Attached, it lives on without its name, and goes with the last descriptor.
        fs::remove_file(&copy).map_err(|err| Error::io("remove", &copy, err))?;
        let device = device?;
        let words: [OsString; 2] = ["--clear-needs-check-flag".into(), device.path().into()];
        match run(check, &words, device.path()) {
            Ok(_) => Ok(true),
            Err(Error::Program { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The tools get loop devices, not files: they read past the page cache, which not every
    /// file system can do.
    fn rebuild(&mut self, check: &Path, damaged: &Path) -> Result<PathBuf, Error> {
        let kept = self.path_of(&self.header().metadata);
        let Some(spare) = self.header().spare.clone() else {
            return Err(Error::Refused {
                path: kept,
                why: "it is damaged, and this pool has no spare to rebuild into".to_owned(),
                hint: "run thin_repair by hand onto a device of the same size",
            });
        };
        let device = self.attach(&spare)?;
        let target = device.path();
        let repair = find_program("VENEER_THIN_REPAIR", "thin_repair");
        let words: [OsString; 4] = ["-i".into(), damaged.into(), "-o".into(), target.into()];
        run(&repair, &words, damaged)?;
        // What it counts as free is right only for as long as the pool does not grow.
        spacemap::recount(target)?;
        run(check, &[target.into()], target)?;
        // The tool writes a superblock of its own, without the pool's id.
        stamp(target, self.header().stamp())?;
        let header = self.header_mut();
        // The two change places in the header; the files stay where they are.
        header.spare = Some(std::mem::replace(&mut header.metadata, spare));
        self.forget_mark(target)?;
        Ok(kept)
    }

    /// A tool has written: the exact mark is void, and the lowest transaction id is what it left.
    pub(crate) fn forget_mark(&mut self, device: &Path) -> Result<(), Error> {
        let superblock = Reader::open(device)?.superblock(0)?;
        let header = self.header_mut();
        header.last_down = None;
        header.transaction_floor = superblock.transaction_id;
        self.save()
    }
}
