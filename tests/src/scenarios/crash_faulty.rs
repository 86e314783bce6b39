//! Devices below the pool that fail or are slow while `orchestrate` is in the middle of a layer (dm-error,
//! dm-flakey, dm-delay): the run ends in its time and says why; when they are well again, the same
//! command ends well, and nothing is left over.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::loopdev::{Loop, LoopOptions, attach};
use thin::{DataBlockSize, Dm, DmName, InitOptions, RepairAct, Store, UpOptions};

use super::crash_host::{CrashHost, IMAGES, put_images};
use super::thin_invariants::{Faulty, within};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "crash_faulty", needs: Needs { timeout_s: 900, ..Needs::DEFAULT }, run };

const ACTIVATE: &[&str] = &["activate", IMAGES[0], "--name", "a-1"];

/// What is done to a device.
type Spoil<'a> = &'a dyn Fn(&Faulty) -> Result<()>;

/// A request that is slow takes so long, milliseconds.
const DELAY: u32 = 100;

/// No run takes longer, whatever is below it; four tries with their pauses among it.
const BOUND: Duration = Duration::from_secs(200);

fn run(guest: &mut Guest) -> Result<Report> {
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let (data_loop, data) = faulty(guest, "faulty-data", 512 << 20)?;
    let (metadata_loop, metadata) = faulty(guest, "faulty-meta", 8 << 20)?;
    let dir = guest.scratch().join("pool");
    let options = InitOptions {
        name: DmName::new("veneer")?,
        data_bytes: 512 << 20,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: Some(data.path()?),
        metadata_device: Some(metadata.path()?),
        sparse: false,
    };
    let dm = Dm::open()?;
    let (mut store, up) = Store::init(dm.clone(), &dir, &options)?;
    let mut pool = up.pool;
    let state = guest.scratch().join("state");
    let (mut slowest, mut right): (f64, _) = (0.0, BTreeMap::new());
    // A pool whose data cannot be flushed, or whose own metadata cannot be written, is stopped by the
    // kernel until it was checked (dm-thin.c, pre-commit flush and commit).
    let ways: [(&str, &Faulty, i32, Spoil); 4] = [
        ("error", &data, 111, &Faulty::fail_all),
        ("delay", &data, 0, &|data| data.delay(DELAY)),
        ("flakey", &data, 100, &Faulty::fail_writes),
        ("metadata", &metadata, 100, &Faulty::fail_writes),
    ];
    for (what, device, code, spoil) in ways {
        let host = CrashHost { state: state.clone(), pool: &pool, s3: &s3 };
        if right.is_empty() {
            host.ok(ACTIVATE)?;
            right = host.trees()?;
            host.remove_all()?;
        }
        slowest = slowest.max(spoilt(&host, device, what, code, spoil)?);
        device.good()?;
        if code == 100 {
            store.down(&dm)?;
            let repaired = store.repair(Some(&dm), false)?;
            ensure!(repaired.act == RepairAct::FlagCleared, "{what}: {repaired:?}");
            pool = store.up(dm.clone(), UpOptions::default())?.pool;
        }
        settled(&CrashHost { state: state.clone(), pool: &pool, s3: &s3 }, &right)?;
    }
    drop(pool);
    store.down(&dm)?;
    for (faulty, lower) in [(data, data_loop), (metadata, metadata_loop)] {
        faulty.remove()?;
        lower.detach()?;
    }
    Ok(Report::new().figure("slowest_run_s", slowest))
}

fn faulty(guest: &Guest, name: &str, bytes: u64) -> Result<(Loop, Faulty)> {
    let file = guest.scratch().join(name);
    std::fs::File::create(&file)?.set_len(bytes)?;
    let lower = attach(&file, LoopOptions::default())?;
    let faulty = Faulty::new(name, Path::new(lower.path()))?;
    Ok((lower, faulty))
}

/// `activate`, with what is below the pool spoilt when its first layer's volume is up and has begun to come. Gives
/// its time.
fn spoilt(
    host: &CrashHost<'_>,
    device: &Faulty,
    what: &str,
    code: i32,
    spoil: Spoil<'_>,
) -> Result<f64> {
    host.s3.proxy.hold("a/1.tar", 4096);
    let begun = Instant::now();
    let running = host.cmd(ACTIVATE).spawn()?;
    host.s3.proxy.wait_held(BOUND)?;
    let at_work = || -> Result<bool> {
        Ok(host.pool.active()?.iter().any(|active| active.name.starts_with("veneer-work-")))
    };
    ensure!(within(BOUND, at_work)?, "{what}: no volume is being written");
    spoil(device)?;
    host.s3.proxy.release();
    let ended = running.wait()?;
    let took = begun.elapsed();
    eprintln!("{what}: {ended}");
    ended.expect(code)?;
    ensure!(took < BOUND, "{what}: {took:?}");
    Ok(took.as_secs_f64())
}

/// The same command, with nothing in its way; and then all of it goes.
fn settled(host: &CrashHost<'_>, right: &std::collections::BTreeMap<String, String>) -> Result<()> {
    host.ok(ACTIVATE)?;
    host.check()?;
    ensure!(host.check_trees(right)? == right.len(), "a layer is missing");
    host.remove_all()
}
