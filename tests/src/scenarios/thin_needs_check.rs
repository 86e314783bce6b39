//! Metadata whose writes fail: the kernel answers a message with 0 although its commit failed, and
//! our check refuses to believe it. The pool then comes up only for rescue, is repaired, and
//! has what it had before. And the same with every access failing: typed errors, no hang.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::loopdev::{LoopOptions, attach};
use thin::{
    Access, DataBlockSize, Dm, DmName, InitOptions, Kind, RepairAct, Store, ThinId, UpOptions,
};

use super::thin_invariants::{Faulty, check, thin};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "thin_needs_check", needs: Needs::DEFAULT, run };

fn run(guest: &mut Guest) -> Result<Report> {
    let file = guest.scratch().join("lower");
    std::fs::File::create(&file)?.set_len(8 << 20)?;
    let lower = attach(&file, LoopOptions::default())?;
    let faulty = Faulty::new("faulty", lower.path())?;
    let dir = guest.scratch().join("pool");
    let options = InitOptions {
        name: DmName::new("pool")?,
        data_bytes: 64 << 20,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: Some(faulty.path()?),
        sparse: false,
    };
    let dm = Dm::open()?;
    let (store, up) = Store::init(dm.clone(), &dir, &options)?;
    drop(store);
    let (one, two) = (ThinId::new(1)?, ThinId::new(2)?);
    up.pool.create_thin(one)?;
    up.pool.set_transaction_id(0, 1)?;

    faulty.fail_writes()?;
    let raw = dm.message(thin::By::Name("pool"), "create_thin 2");
    let checked = up.pool.commit().map_err(|err| err.kind());
    ensure!(raw.is_ok(), "the kernel told of the failed commit itself: {raw:?}");
    ensure!(checked == Err(Kind::NeedsCheck), "our check: {checked:?}");
    thin(guest, &["create", "3"]).run()?.expect_message(100, "needs a check")?;
    thin(guest, &["transaction", "1", "2"]).run()?.expect_message(100, "needs a check")?;
    faulty.good()?;

    let mut store = Store::open(&dir)?;
    store.down(&dm)?;
    let refused = store.up(dm.clone(), UpOptions::default()).map(drop).map_err(|err| err.kind());
    ensure!(refused == Err(Kind::Refused), "brought up unchecked: {refused:?}");
    let rescue = UpOptions { rescue: true, ..UpOptions::default() };
    let rescued = store.up(dm.clone(), rescue)?.pool;
    ensure!(!rescued.status()?.is_writable(), "a rescued pool takes changes");
    let ids: Vec<u32> = rescued.ids()?.iter().map(|record| record.id.get()).collect();
    ensure!(ids == [1], "thins that a rescue sees: {ids:?}");
    rescued.activate(one, "rescued", 2048, Access::ReadOnly)?;
    rescued.deactivate("rescued")?;
    store.down(&dm)?;

    drop(store);
    let looked = thin(guest, &["pool", "repair"]).arg(&dir).arg("--dry-run").run()?.expect(1)?;
    ensure!(looked.text()?.contains("needs_repair"), "a dry run: {looked}");
    let mut store = Store::open(&dir)?;
    let repaired = store.repair(Some(&dm), false)?;
    ensure!(repaired.act == RepairAct::FlagCleared, "{repaired:?}");
    let pool = store.up(dm.clone(), UpOptions::default())?.pool;
    check(&pool, &[1])?;
    ensure!(!pool.exists(two)?, "the thin of the failed commit is there");
    ensure!(pool.status()?.transaction_id() == Some(1), "{:?}", pool.status()?);

    let slowest = all_failing(&faulty, &pool)?;
    store.down(&dm)?;
    faulty.good()?;
    restored(&mut store, &dm)?;
    faulty.remove()?;
    lower.detach()?;
    rebuilt(&dm, &guest.scratch().join("spared"))?;
    Ok(Report::new().figure("slowest_typed_error_s", slowest.as_secs_f64()))
}

/// With nothing readable or writable below, every call ends, with an error of a kind.
fn all_failing(faulty: &Faulty, pool: &thin::Pool) -> Result<Duration> {
    faulty.fail_all()?;
    let mut slowest = Duration::ZERO;
    let ids = [11, 12].map(|id| ThinId::new(id).expect("24 bits"));
    for round in 0..3 {
        let start = Instant::now();
        let created = pool.create_thin(ids[0]).map_err(|err| err.kind());
        let snapped = pool.create_snap(ids[1], ids[0]).map_err(|err| err.kind());
        let committed = pool.commit().map(drop).map_err(|err| err.kind());
        eprintln!("round {round}: {created:?} {snapped:?} {committed:?} {:?}", pool.status());
        ensure!(created.is_err() && snapped.is_err() && committed.is_err(), "one went well");
        slowest = slowest.max(start.elapsed());
    }
    ensure!(slowest < Duration::from_secs(10), "the errors took {slowest:?}");
    Ok(slowest)
}

fn restored(store: &mut Store, dm: &Dm) -> Result<()> {
    let up = store.up(dm.clone(), UpOptions::default());
    let pool = match up {
        Ok(up) => up.pool,
        Err(err) if err.kind() == Kind::Refused => {
            store.repair(Some(dm), false)?;
            store.up(dm.clone(), UpOptions::default())?.pool
        }
        Err(err) => return Err(err.into()),
    };
    check(&pool, &[1])?;
    store.down(dm)?;
    Ok(())
}

/// Real damage in a tree: rebuilt into the spare, which takes the damaged one's place.
fn rebuilt(dm: &Dm, dir: &Path) -> Result<()> {
    let options = InitOptions {
        name: DmName::new("spared")?,
        data_bytes: 64 << 20,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: None,
        sparse: false,
    };
    let (mut store, up) = Store::init(dm.clone(), dir, &options)?;
    for id in 1..=20 {
        up.pool.create_thin(ThinId::new(id)?)?;
    }
    store.down(dm)?;
    let clean = store.repair(Some(dm), false)?;
    ensure!(clean.act == RepairAct::Clean, "a sound pool: {clean:?}");
    let path = dir.join("metadata");
    let mut content = std::fs::read(&path)?;
    // Space maps and their bitmaps come first after the superblock: spoiling one block of them
    // leaves the thins to be found.
    for byte in &mut content[4096 + 512..8192] {
        *byte ^= 0xff;
    }
    std::fs::write(&path, &content)?;
    let looked = store.repair(Some(dm), true)?;
    ensure!(looked.act == RepairAct::NeedsRepair, "damage not seen: {looked:?}");
    ensure!(std::fs::read(&path)? == content, "a dry run wrote");
    let repaired = store.repair(Some(dm), false)?;
    ensure!(repaired.act == RepairAct::Rebuilt, "{repaired:?}");
    ensure!(std::fs::read(&path)? == content, "the damaged metadata was not kept");
    let pool = store.up(dm.clone(), UpOptions::default())?.pool;
    check(&pool, &(1..=20).collect::<Vec<u32>>())?;
    store.down(dm)?;
    Ok(())
}
