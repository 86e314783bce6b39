//! Data and metadata grow while a writer runs, totals are read back, a volume and the ext4 on it
//! grow while mounted; a watcher sees the low-water event; and metadata that is full grows back
//! to a writable pool.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thin::template::{FormatOptions, format};
use thin::{
    Access, DataBlockSize, Dm, DmName, InitOptions, Kind, RepairAct, Store, ThinId, UpOptions,
    Woken, mount,
};

use super::thin_invariants::{check, down, fsck};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "thin_grow", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

fn run(guest: &mut Guest) -> Result<Report> {
    let dm = Dm::open()?;
    let options = InitOptions {
        name: DmName::new("grows")?,
        data_bytes: 32 << 20,
        metadata_bytes: Some(2 << 20),
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: None,
        sparse: false,
    };
    let (mut store, up) = Store::init(dm.clone(), &guest.scratch().join("pool"), &options)?;
    let pool = up.pool;
    let one = ThinId::new(1)?;
    pool.create_thin(one)?;
    let mut watch = pool.watch()?;
    let volume = pool.activate(one, "grown", 96 << 11, Access::ReadWrite)?;
    let path = volume.path();
    let writer = std::thread::spawn(move || -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        let chunk = vec![3; 1 << 20];
        for at in 0..80_u64 {
            file.write_all_at(&chunk, at << 20)?;
            file.sync_data()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    // Below a tenth free: the kernel says so, once, and there is still room to act.
    let woken = watch.next(Duration::from_secs(60))?;
    ensure!(matches!(woken, Woken::Event(_)), "no low-water event: {woken:?}");
    let at_event = pool.status()?;
    let status = store.grow(&dm, Some(96 << 20), Some(4 << 20))?;
    let totals = status.working().map(|w| (w.total_data.0, w.total_metadata));
    ensure!(totals == Some((1536, 1024)), "after growing: {status:?}");
    let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    written.with_context(|| format!("the writer, event at {at_event:?}"))?;
    let shrunk = store.grow(&dm, Some(32 << 20), None).map_err(|err| err.kind());
    ensure!(shrunk == Err(Kind::Invalid), "shrinking: {shrunk:?}");
    pool.deactivate("grown")?;
    pool.delete(one)?;

    let two = ThinId::new(2)?;
    pool.create_thin(two)?;
    let volume = pool.activate(two, "fs", 16 << 11, Access::ReadWrite)?;
    format(&volume.path(), &FormatOptions::default())?;
    let mounted = mount::detached(&volume.path(), "ext4", &[], false)?;
    let before = rustix::fs::fstatvfs(mount::open_root(mounted.as_fd())?)?.f_blocks;
    let volume = volume.grow(&pool, 64 << 11)?;
    mount::grow_ext4(mounted.as_fd(), volume.sectors.bytes())?;
    let after = rustix::fs::fstatvfs(mount::open_root(mounted.as_fd())?)?.f_blocks;
    ensure!(after > before * 3, "the file system had {before} blocks, has {after}");
    drop(mounted);
    pool.deactivate("fs")?;
    fsck(&pool, &[2], 64 << 11)?;
    check(&pool, &[2])?;
    let (thins, end) = full_metadata(&mut store, &dm)?;
    down(&mut store, &guest.scratch().join("pool"))?;
    Ok(Report::new().figure("thins_that_fill_4_mib_of_metadata", thins).figure("ended", end))
}

/// Thins until the metadata is full: the error is of a kind, and the pool comes back.
fn full_metadata(store: &mut Store, dm: &Dm) -> Result<(u64, String)> {
    let up = store.up(dm.clone(), UpOptions::default())?;
    let mut made = 0;
    let err = loop {
        match up.pool.create_thin(ThinId::new(1000 + made)?) {
            Ok(()) => made += 1,
            Err(err) => break err,
        }
        ensure!(made < 20_000, "4 MiB of metadata never fill");
    };
    let kind = err.kind();
    eprintln!("after {made} thins: {err}; {:?}", up.pool.status()?);
    ensure!(matches!(kind, Kind::NoSpace | Kind::NeedsCheck), "full metadata is {err}");
    if kind == Kind::NeedsCheck {
        store.down(dm)?;
        let repaired = store.repair(Some(dm), false)?;
        ensure!(repaired.act == RepairAct::FlagCleared, "{repaired:?}");
        store.up(dm.clone(), UpOptions::default())?;
    }
    let status = store.grow(dm, None, Some(8 << 20))?;
    ensure!(status.is_writable(), "after growing its metadata: {status:?}");
    let pool = store.live(dm)?.context("the pool is up")?;
    pool.create_thin(ThinId::new(500)?)?;
    let there = pool.ids()?.len() as u64;
    ensure!(there >= made + 2 && there <= made + 3, "{there} thins, {made} were made");
    Ok((made, format!("{kind:?}")))
}
