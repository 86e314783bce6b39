//! The host's file system fills up below a pool. Preallocated files make that impossible: `init` says
//! no and leaves nothing. Sparse ones, asked for, give I/O errors of a kind, and the pool lives on.

use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use thin::loopdev::{Loop, LoopOptions, attach};
use thin::{Access, DataBlockSize, Dm, DmName, InitOptions, Kind, Store, ThinId};

use super::thin_invariants::{check, used};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "thin_host_full", needs: Needs::DEFAULT, run };

fn run(guest: &mut Guest) -> Result<Report> {
    let host = guest.ext4("host", 64)?;
    let dir = host.path().join("pool");
    let dm = Dm::open()?;
    let mut options = InitOptions {
        name: DmName::new("sparse")?,
        data_bytes: 256 << 20,
        metadata_bytes: Some(2 << 20),
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: None,
        sparse: false,
    };
    let refused = Store::init(dm.clone(), &dir, &options).map(drop);
    let kind = refused.as_ref().map_err(thin::Error::kind);
    ensure!(kind == Err(Kind::NoSpace), "256 MiB on 64: {refused:?}");
    let left: Vec<_> = std::fs::read_dir(&dir)?.flatten().map(|e| e.file_name()).collect();
    ensure!(left == ["lock"], "left behind: {left:?}");

    options.sparse = true;
    let (mut store, up) = Store::init(dm.clone(), &dir, &options)?;
    let pool = up.pool;
    let one = ThinId::new(1)?;
    pool.create_thin(one)?;
    let volume = pool.activate(one, "big", 128 << 11, Access::ReadWrite)?;
    let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
    let mut failed = None;
    for at in 0..128_u64 {
        let write = file.write_all_at(&vec![9; 1 << 20], at << 20);
        if let Err(err) = write.and_then(|()| file.sync_data()) {
            failed = Some((at, err));
            break;
        }
    }
    let Some((mib, err)) = failed else { anyhow::bail!("128 MiB fitted onto 64") };
    eprintln!("after {mib} MiB: {err}; {:?}", pool.status()?);
    drop(file);
    pool.deactivate("big")?;
    let two = ThinId::new(2)?;
    let after = pool.status()?;
    ensure!(after.is_writable(), "the metadata, which is allocated, failed too: {after:?}");
    pool.delete(one)?;
    pool.create_thin(two)?;
    // The kernel allocates a block before it writes it and does not give it back when that fails.
    let leaked = used(&pool)?;
    ensure!(leaked < 64, "{:?}", pool.status()?);
    check(&pool, &[2])?;
    store.down(&dm)?;
    // A rebuild from what is mapped finds them again.
    let metadata = dir.join("metadata");
    guest.cmd("thin_check").arg(loop_of(&metadata)?.path()).run()?;
    let report = Report::new().figure("mib_before_the_error", mib);
    Ok(report.figure("blocks_leaked_by_the_kernel", leaked))
}

fn loop_of(file: &Path) -> Result<Loop> {
    Ok(attach(file, LoopOptions::default())?)
}
