//! What must hold of a pool after anything that was done to it, and the faulty devices it is put on.
//! Not a scenario.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use thin::loopdev::{LoopOptions, attach};
use thin::{Access, By, Device, Dm, Pool, Store, Target};

use crate::guest::{Cmd, Guest};

/// Ids in the pool are the live ones, no device is half made, and the pool takes changes.
///
/// # Errors
/// The first thing that does not hold.
pub(crate) fn check(pool: &Pool, live: &[u32]) -> Result<()> {
    let found: BTreeSet<u32> = pool.ids()?.iter().map(|record| record.id.get()).collect();
    let wanted: BTreeSet<u32> = live.iter().copied().collect();
    ensure!(found == wanted, "ids in the pool are {found:?}, live are {wanted:?}");
    for thin in pool.active()? {
        let whole = thin.has_table && !thin.has_inactive && !thin.suspended;
        ensure!(whole && !thin.deferred_remove, "half made: {thin:?}");
    }
    let status = pool.status()?;
    ensure!(status.is_writable(), "the pool takes no changes: {status:?}");
    let held = status.working().and_then(|working| working.held_root);
    ensure!(held.is_none(), "a metadata snapshot is held at block {held:?}");
    Ok(())
}

/// `e2fsck -fn` of inactive thins that have a file system.
///
/// # Errors
/// One is not clean.
pub(crate) fn fsck(pool: &Pool, thins: &[u32], sectors: u64) -> Result<()> {
    for id in thins {
        let name = format!("fsck-{id}");
        let volume = pool.activate(u64::from(*id).try_into()?, &name, sectors, Access::ReadOnly)?;
        let ran = Cmd::new("e2fsck").arg("-fn").arg(volume.path()).run()?;
        pool.deactivate(&name)?;
        ran.expect(0)?;
    }
    Ok(())
}

/// Takes the pool of this directory down, and has thin_check look at its metadata.
///
/// # Errors
/// Something is still active, or the metadata is damaged.
pub(crate) fn down(store: &mut Store, dir: &Path) -> Result<()> {
    store.down(&Dm::open()?)?;
    // By a loop device: thin_check opens past the page cache, and tmpfs has no such open.
    let metadata = attach(&dir.join(&store.header().metadata.path), LoopOptions::default())?;
    Cmd::new("thin_check").arg(metadata.path()).run()?.expect(0)?;
    Ok(())
}

/// Data blocks in use.
pub(crate) fn used(pool: &Pool) -> Result<u64> {
    Ok(pool.status()?.working().map_or(0, |working| working.used_data.0))
}

/// User-space processes in uninterruptible sleep, by name.
pub(crate) fn stuck() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        let kernel = std::fs::read(path.join("cmdline")).unwrap_or_default().is_empty();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if state.starts_with('D') && !kernel {
            found.push(stat.split(')').next().unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// Waits until something holds, at most this long.
pub(crate) fn within(limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = std::time::Instant::now();
    while start.elapsed() < limit {
        if holds()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    holds()
}

/// `thin` with these words, on the pool named "pool" unless they say another.
pub(crate) fn thin(guest: &Guest, words: &[&str]) -> Cmd {
    guest.cmd("thin").env("VENEER_POOL", "pool").args(words)
}

/// A device that passes everything to another one until it is told not to.
#[derive(Debug)]
pub(crate) struct Faulty {
    dm: Dm,
    name: String,
    lower: Device,
}

/// Sectors of the superblock, which stays good so that the kernel can mark it.
const SUPERBLOCK: u64 = 8;

impl Faulty {
    pub(crate) fn new(name: &str, lower: &Path) -> Result<Faulty> {
        let dm = Dm::open()?;
        dm.create(name, &format!("TEST-{name}"))?;
        let faulty = Faulty { dm, name: name.to_owned(), lower: Device::open(lower)? };
        faulty.good()?;
        Ok(faulty)
    }

    fn set(&self, table: &[Target]) -> Result<()> {
        let by = By::Name(&self.name);
        self.dm.load(by, table, false)?;
        // What is on its way now meets the new table.
        self.dm.suspend(by, true)?;
        self.dm.resume(by)?;
        Ok(())
    }

    /// Passes everything.
    pub(crate) fn good(&self) -> Result<()> {
        let params = format!("{} 0", self.lower.dev);
        self.set(&[Target::whole(self.lower.sectors.0, "linear", &params)])
    }

    /// Fails writes beyond the superblock.
    pub(crate) fn fail_writes(&self) -> Result<()> {
        let dev = self.lower.dev;
        let rest = Target {
            start: SUPERBLOCK,
            sectors: self.lower.sectors.0 - SUPERBLOCK,
            kind: "flakey".to_owned(),
            params: format!("{dev} {SUPERBLOCK} 0 3600 1 error_writes"),
        };
        self.set(&[Target::whole(SUPERBLOCK, "linear", &format!("{dev} 0")), rest])
    }

    /// Passes everything, but late.
    pub(crate) fn delay(&self, milliseconds: u32) -> Result<()> {
        let params = format!("{} 0 {milliseconds}", self.lower.dev);
        self.set(&[Target::whole(self.lower.sectors.0, "delay", &params)])
    }

    /// Fails everything.
    pub(crate) fn fail_all(&self) -> Result<()> {
        self.set(&[Target::whole(self.lower.sectors.0, "error", "")])
    }

    pub(crate) fn path(&self) -> Result<PathBuf> {
        let state = self.dm.state(By::Name(&self.name))?;
        let minor = state.map_or(0, |state| state.dev.minor);
        Ok(PathBuf::from(format!("/dev/dm-{minor}")))
    }

    pub(crate) fn remove(self) -> Result<()> {
        self.dm.remove(By::Name(&self.name))?;
        Ok(())
    }
}
