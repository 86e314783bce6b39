//! What a scenario has in its hands inside the VM.
//!
//! Each scenario is a process of its own, started by [`init`], which also checks afterwards that
//! nothing was left behind ([`leftovers`]). Of veneer's crates only `thin` is used, to make pools ([`disk`]).

pub mod cmd;
pub mod daemon;
pub mod disk;
pub mod hang;
pub mod init;
pub mod kmsg;
pub mod leftovers;
pub mod proxy;
pub mod store;
pub mod veneer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dice::Dice;

pub use cmd::{Cmd, Ran, Running};
pub use disk::{PoolSize, ScratchExt4, ScratchPool};
pub use store::{S3, STORE};

/// The guest, as one scenario sees it.
#[derive(Debug)]
pub struct Guest {
    phase: u32,
    power_cuts: u32,
    long: bool,
    seed: u32,
    given: BTreeMap<String, u64>,
    scratch: PathBuf,
}

impl Guest {
    /// 0 in the scenario's first boot, one more after each reboot it asked for.
    #[must_use]
    pub fn phase(&self) -> u32 {
        self.phase
    }

    /// Of `VENEER_SEED`, default 1.
    #[must_use]
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The host's number of this name, if it is set there; to be one of [`Needs::numbers`](crate::scenario::Needs::numbers).
    #[must_use]
    pub fn given(&self, name: &str) -> Option<u64> {
        self.given.get(name).copied()
    }

    /// Chance of that seed, other in each phase.
    #[must_use]
    pub fn dice(&self) -> Dice {
        Dice::new(u64::from(self.seed) << 32 | u64::from(self.phase))
    }

    /// How many power cuts there are to be; see [`PowerCuts`](crate::scenario::PowerCuts).
    #[must_use]
    pub fn power_cuts(&self) -> u32 {
        self.power_cuts
    }

    /// Whether this is the long form, for `just soak-thin`; every run has the short one.
    #[must_use]
    pub fn long(&self) -> bool {
        self.long
    }

    /// From here on the host cuts the power at a moment of its choosing: work until it does.
    ///
    /// # Errors
    /// Process 1 cannot be told.
    pub fn arm_power_cut(&self) -> Result<()> {
        Ok(std::fs::write(init::ARMED, "")?)
    }

    /// An empty directory in memory, gone when the scenario ends.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A program found in `PATH`: ours, or one of the real tools packed beside them.
    #[must_use]
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(program)
    }

    /// A fresh reference pool of this name, on sparse files in memory.
    ///
    /// # Errors
    /// What `thin` says.
    pub fn pool(&self, name: &str) -> Result<ScratchPool> {
        ScratchPool::open(&self.scratch, name, PoolSize::REFERENCE)
    }

    /// A fresh ext4 of this name and size, on a sparse file in memory.
    ///
    /// # Errors
    /// mkfs or mount fails.
    pub fn ext4(&self, name: &str, mib: u64) -> Result<ScratchExt4> {
        ScratchExt4::on_file(&self.scratch.join(name), mib)
    }

    /// An S3 server over the store, for anonymous requests only.
    ///
    /// # Errors
    /// It does not start.
    pub fn s3(&self) -> Result<S3> {
        S3::start(None)
    }

    /// An S3 server over the same store, for signed requests only.
    ///
    /// # Errors
    /// It does not start.
    pub fn s3_signed(&self) -> Result<S3> {
        S3::start(Some(crate::s3::KEYS))
    }

    /// The block device of the `n`th disk of [`Needs::disks`](crate::scenario::Needs::disks).
    ///
    /// # Errors
    /// The VM was not given that disk.
    pub fn disk(&self, n: usize) -> Result<PathBuf> {
        virtio_disk(&format!("disk{n}"))
    }
}

/// The virtio disk of this serial number. There is no udev, so no /dev/disk/by-id.
pub(crate) fn virtio_disk(serial: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let found = std::fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no virtio disk with serial \"{serial}\"")
}

/// Runs one scenario in this process and writes its report for [`init`].
pub(crate) fn run_scenario(stage: &crate::protocol::Stage, report: &Path) -> Result<()> {
    let name = &stage.name;
    let scenario =
        crate::scenarios::find(name).with_context(|| format!("no scenario \"{name}\""))?;
    let scratch = PathBuf::from(init::SCRATCH);
    let &crate::protocol::Stage { phase, power_cuts, long, seed, .. } = stage;
    let given = stage.given.clone();
    let mut guest = Guest { phase, power_cuts, long, seed, given, scratch };
    let outcome = (scenario.run)(&mut guest);
    let line = init::ChildReport::from(outcome);
    std::fs::write(report, serde_json::to_vec(&line)?)?;
    Ok(())
}
