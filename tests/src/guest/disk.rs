//! Scratch disks for scenarios: a thin pool on loop devices, an ext4 for the oracle.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags};
use thin::loopdev::{self, Loop, LoopOptions};
use thin::{Dm, Pool};

use super::cmd::Cmd;

/// How large a scratch pool is.
#[derive(Debug, Clone, Copy)]
pub struct PoolSize {
    /// Data in MiB, sparse until written.
    pub data_mib: u64,
    /// Metadata in KiB.
    pub metadata_kib: u64,
    /// Data block in sectors of 512 bytes.
    pub block_sectors: u64,
}

impl PoolSize {
    /// The reference pool: 2 GiB of data, 1 MiB of metadata, blocks of 1 MiB.
    pub const REFERENCE: PoolSize =
        PoolSize { data_mib: 2048, metadata_kib: 1024, block_sectors: 2048 };
}

/// A live pool on two loop devices over sparse files. Dropping it takes it down as far as that goes;
/// [`ScratchPool::close`] does so and tells.
#[derive(Debug)]
pub struct ScratchPool {
    pool: Option<Pool>,
    loops: Vec<Loop>,
    /// The table line that it was made from.
    pub table: String,
}

impl ScratchPool {
    /// Makes files `<name>-meta` and `<name>-data` in `dir` and a pool `name` of them. Files that
    /// are there already are taken as they are: after a reboot this brings the pool back.
    ///
    /// # Errors
    /// What `thin` says.
    pub fn open(dir: &Path, name: &str, size: PoolSize) -> Result<ScratchPool> {
        let options = LoopOptions { autoclear: false, ..LoopOptions::default() };
        let mut loops = Vec::new();
        for (part, bytes) in [("meta", size.metadata_kib << 10), ("data", size.data_mib << 20)] {
            let file = dir.join(format!("{name}-{part}"));
            if !file.exists() {
                File::create(&file)?.set_len(bytes)?;
            }
            loops.push(loopdev::attach(&file, options)?);
        }
        let [meta, data] = loops.as_slice() else { unreachable!("two were attached") };
        let table = format!(
            "0 {} thin-pool {} {} {} 32768",
            size.data_mib << 11,
            meta.path().display(),
            data.path().display(),
            size.block_sectors
        );
        let mut made = ScratchPool { pool: None, loops, table };
        made.pool = Some(Pool::create_from_table(Dm::open()?, name, &made.table)?);
        Ok(made)
    }

    /// The pool.
    ///
    /// # Panics
    /// Never: it is there until [`ScratchPool::close`].
    #[must_use]
    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("it is there until it is closed")
    }

    /// Takes the pool down, has thin_check look at its metadata, and detaches the loop devices.
    ///
    /// # Errors
    /// Something in the pool is still active, the metadata is damaged, or the kernel's answer.
    pub fn close(mut self) -> Result<()> {
        if let Some(pool) = self.pool.take() {
            pool.remove_pool()?;
        }
        if let Some(meta) = self.loops.first() {
            let check = Cmd::new("thin_check").arg(meta.path()).run()?;
            check.expect(0).context("the pool's metadata")?;
        }
        for one in self.loops.drain(..) {
            one.detach()?;
        }
        Ok(())
    }
}

impl Drop for ScratchPool {
    fn drop(&mut self) {
        // After a failure: what stays is listed as left behind.
        if let Some(pool) = self.pool.take() {
            pool.remove_pool().ok();
        }
        for one in self.loops.drain(..) {
            one.detach().ok();
        }
    }
}

/// An ext4 for the oracle and other comparisons: tmpfs keeps no user xattrs. Unmounted when dropped.
#[derive(Debug)]
pub struct ScratchExt4(PathBuf);

impl ScratchExt4 {
    /// On a new sparse file `<mount>.img`, mounted at `mount`.
    ///
    /// # Errors
    /// mkfs or mount fails.
    pub fn on_file(mount: &Path, mib: u64) -> Result<ScratchExt4> {
        let file = mount.with_extension("img");
        File::create(&file)?.set_len(mib << 20)?;
        Cmd::new("mkfs.ext4").args(["-q", "-m0", "-O^has_journal"]).arg(&file).run()?.expect(0)?;
        std::fs::create_dir_all(mount)?;
        let options = LoopOptions { direct_io: false, ..LoopOptions::default() };
        let device = loopdev::attach(&file, options)?;
        // The mount holds the loop device, which then goes by itself.
        ScratchExt4::mount(device.path(), mount)
    }

    /// On a file that holds one already, such as what a disk had when the power went.
    ///
    /// # Errors
    /// mount fails.
    pub fn of_file(file: &Path, mount: &Path) -> Result<ScratchExt4> {
        std::fs::create_dir_all(mount)?;
        let options = LoopOptions { direct_io: false, ..LoopOptions::default() };
        let device = loopdev::attach(file, options)?;
        ScratchExt4::mount(device.path(), mount)
    }

    /// On a whole disk, such as [`Guest::disk`](super::Guest::disk). It is made anew unless it holds
    /// an ext4 already, so that what is on it survives a reboot.
    ///
    /// # Errors
    /// mkfs or mount fails.
    pub fn on_disk(disk: &Path, mount: &Path) -> Result<ScratchExt4> {
        std::fs::create_dir_all(mount)?;
        if let Ok(mounted) = ScratchExt4::mount(disk, mount) {
            return Ok(mounted);
        }
        Cmd::new("mkfs.ext4").args(["-q", "-m0", "-F"]).arg(disk).run()?.expect(0)?;
        ScratchExt4::mount(disk, mount)
    }

    fn mount(device: &Path, mount: &Path) -> Result<ScratchExt4> {
        rustix::mount::mount(device, mount, "ext4", MountFlags::NOATIME, c"")
            .with_context(|| format!("mount {} on {}", device.display(), mount.display()))?;
        Ok(ScratchExt4(mount.to_owned()))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchExt4 {
    fn drop(&mut self) {
        // What stays is listed as left behind.
        rustix::mount::unmount(&self.0, UnmountFlags::empty()).ok();
    }
}
