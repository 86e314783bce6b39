//! The flags and verbs of `thin pool`.

use std::path::PathBuf;

use argh::FromArgs;

use crate::cli::sizes::Size;

/// Make, find, show and take down pools.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "pool")]
pub(crate) struct PoolArgs {
    #[argh(subcommand)]
    pub(crate) verb: PoolVerb,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum PoolVerb {
    Create(PoolCreate),
    Adopt(PoolAdopt),
    Status(PoolStatusArgs),
    Down(PoolDown),
    Init(PoolInit),
    Up(PoolUp),
    Grow(PoolGrow),
    Repair(PoolRepair),
    Backup(PoolBackup),
    Restore(PoolRestore),
    WhenFull(PoolWhenFull),
}

/// Make a pool live on two block devices. The kernel formats metadata whose first 4 KiB are zero.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "create")]
pub(crate) struct PoolCreate {
    /// a whole table line, in place of the other options
    #[argh(option)]
    pub(crate) table: Option<String>,
    /// data device
    #[argh(option)]
    pub(crate) data: Option<PathBuf>,
    /// metadata device
    #[argh(option)]
    pub(crate) metadata: Option<PathBuf>,
    /// data block size (default 64K)
    #[argh(option, default = "Size(64 << 10)")]
    pub(crate) block_size: Size,
    /// free blocks at which the kernel raises an event (default a tenth)
    #[argh(option)]
    pub(crate) low_water: Option<u64>,
}

/// Check that a live device is a thin pool, whoever made it, and show it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "adopt")]
pub(crate) struct PoolAdopt {
    /// its device-mapper name
    #[argh(positional)]
    pub(crate) name: String,
}

/// Show the pool's figures without writing.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub(crate) struct PoolStatusArgs {
    /// its directory, if it was made by init; else the pool that --pool names
    #[argh(positional)]
    pub(crate) dir: Option<PathBuf>,
}

/// Take a pool down; its volumes must be inactive.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "down")]
pub(crate) struct PoolDown {
    /// its directory, if it was made by init
    #[argh(positional)]
    pub(crate) dir: Option<PathBuf>,
}

/// Make a pool with its files in a directory, or on whole disks, and bring it up.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "init")]
pub(crate) struct PoolInit {
    /// the directory: header and lock, and the files
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// size of the data, such as 20G
    #[argh(option)]
    pub(crate) data: Option<Size>,
    /// size of the metadata (default: by the number of blocks, at least 8M)
    #[argh(option)]
    pub(crate) metadata: Option<Size>,
    /// data block size, 64K to 1G (default 64K)
    #[argh(option, default = "Size(64 << 10)")]
    pub(crate) block_size: Size,
    /// a whole disk for the data
    #[argh(option)]
    pub(crate) data_dev: Option<PathBuf>,
    /// a whole disk for the metadata, whose first 4 KiB are zero
    #[argh(option)]
    pub(crate) meta_dev: Option<PathBuf>,
    /// leave holes in the data file: a full host file system then means I/O errors, and a deleted
    /// thin's blocks go to the next one, not back to the host (fstrim in the volume before does that)
    #[argh(switch)]
    pub(crate) sparse: bool,
}

/// Bring a pool up, or adopt it if it is up; repair what a killed process left.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "up")]
pub(crate) struct PoolUp {
    /// its directory
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// refuse unless the pool is at this transaction id or the next
    #[argh(option)]
    pub(crate) expect_transaction: Option<u64>,
    /// bring damaged metadata up read-only
    #[argh(switch)]
    pub(crate) rescue: bool,
    /// the files were moved or restored on purpose; needed only once
    #[argh(switch)]
    pub(crate) moved: bool,
}

/// Make a pool's data or metadata larger, live.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "grow")]
pub(crate) struct PoolGrow {
    /// its directory
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// new size of the data, such as 40G
    #[argh(option)]
    pub(crate) data: Option<Size>,
    /// new size of the metadata, such as 64M
    #[argh(option)]
    pub(crate) metadata: Option<Size>,
}

/// Check a pool's metadata while it is down, and repair it with thin_repair into the spare. With --dry-run
/// the exit code shows whether a repair is needed: 0 no, 1 yes.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "repair")]
pub(crate) struct PoolRepair {
    /// its directory
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// only look
    #[argh(switch)]
    pub(crate) dry_run: bool,
    /// the files were moved or restored on purpose, and `pool up --moved` is refused
    #[argh(switch)]
    pub(crate) moved: bool,
}

/// Write a copy of a pool's metadata, also while it works: of one moment, with checksums. It has the maps and not
/// the data.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "backup")]
pub(crate) struct PoolBackup {
    /// the file; one that is there is replaced once the new copy is whole
    #[argh(positional)]
    pub(crate) file: PathBuf,
    /// the pool's directory, also of one that is down; else the live pool that --pool names
    #[argh(option)]
    pub(crate) dir: Option<PathBuf>,
}

/// Put a copy of a pool's metadata back while the pool is down. What was there is kept. Refused are copies that
/// are damaged, of another pool, or older than what is there.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "restore")]
pub(crate) struct PoolRestore {
    /// its directory
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// the copy
    #[argh(positional)]
    pub(crate) file: PathBuf,
    /// also one that is older than what the pool has: what was made since is lost, and what was removed since may
    /// have been overwritten
    #[argh(switch)]
    pub(crate) older: bool,
    /// only look whether it could be put back
    #[argh(switch)]
    pub(crate) dry_run: bool,
}

/// Choose, on a live pool, what happens to a write that finds no free block.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "when-full")]
pub(crate) struct PoolWhenFull {
    /// error (ENOSPC at once) or queue (wait in the kernel)
    #[argh(positional)]
    pub(crate) what: String,
}
