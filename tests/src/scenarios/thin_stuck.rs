//! The stuck-pool drill. A pool in queue mode is filled by hand until ten writers sit in the kernel;
//! `thin rescue` frees them, and removal goes the ordinary way. Then a thousand failures cleaned up
//! after at once, to settle whether that can harm the kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::{Access, Kind, ThinId, WhenFull};

use super::thin_invariants::{check, stuck, thin, used, within};
use crate::guest::hang::Watchdog;
use crate::guest::kmsg::KernelLog;
use crate::guest::{Guest, PoolSize, Running, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_stuck",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(3000), ..Needs::DEFAULT },
    run,
};

const WRITERS: usize = 10;
const SECTORS: u64 = 64 << 11;

fn run(guest: &mut Guest) -> Result<Report> {
    let size = PoolSize { data_mib: 2, metadata_kib: 2048, block_sectors: 128 };
    let mut scratch = ScratchPool::open(guest.scratch(), "pool", size)?;
    let freed_in = drill(guest, &scratch)?;
    let rounds = if guest.long() { 1000 } else { 10 };
    let (seconds, log) = failures(&mut scratch, rounds)?;
    ensure!(log.is_empty(), "the kernel complained: {log:?}");
    check(scratch.pool(), &[])?;
    scratch.close()?;
    Ok(Report::new()
        .figure("writers", WRITERS)
        .figure("freed_in_s", freed_in.as_secs_f64())
        .figure("failures_cleaned_up", rounds)
        .figure("failures_took_s", seconds))
}

fn drill(guest: &Guest, scratch: &ScratchPool) -> Result<Duration> {
    let pool = scratch.pool();
    let id = ThinId::new(1)?;
    pool.create_thin(id)?;
    let volume = pool.activate(id, "stuck", SECTORS, Access::ReadWrite)?;
    let mut writers: Vec<Running> = Vec::new();
    for writer in 0..WRITERS {
        let dd = guest.cmd("dd").args(["if=/dev/zero", "bs=65536", "count=96", "oflag=direct"]);
        let dd = dd.arg(format!("of={}", volume.path().display()));
        writers.push(dd.arg(format!("seek={}", writer * 96)).spawn()?);
    }
    let all = within(Duration::from_secs(30), || Ok(stuck()?.len() >= WRITERS))?;
    ensure!(all, "writers in D state: {:?} of {WRITERS}; {:?}", stuck()?, pool.status()?);
    // An ordinary removal names them instead of hanging.
    thin(guest, &["--wait-ms", "200", "deactivate", "stuck"]).run()?.expect_message(111, "dd")?;

    let start = Instant::now();
    thin(guest, &["rescue", "stuck"]).run()?.expect(0)?;
    for mut writer in writers {
        ensure!(within(Duration::from_secs(10), || Ok(!writer.running()?))?, "a writer still sits");
        writer.wait()?.expect(1)?;
    }
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    pool.deactivate("stuck")?;
    pool.delete(id)?;
    ensure!(used(pool)? == 0, "{:?}", pool.status()?);
    Ok(took)
}

/// Snapshot, activate, write until it fails, remove, delete: at once, with no pause.
fn failures(scratch: &mut ScratchPool, rounds: u32) -> Result<(f64, Vec<String>)> {
    let mut pool = scratch.pool().clone();
    pool.set_when_full(WhenFull::Error)?;
    let mut log = KernelLog::from_now()?;
    let mut complaints = Vec::new();
    let origin = ThinId::new(2)?;
    pool.create_thin(origin)?;
    let start = Instant::now();
    let chunk = vec![0xa5; 256 << 10];
    let watch = Watchdog::start(Duration::from_secs(60));
    for round in 0..rounds {
        let id = ThinId::new(u64::from(round) + 10)?;
        watch.beat(format!("round {round}: snap"));
        pool.create_snap(id, origin)?;
        let volume = pool.activate(id, "fails", SECTORS, Access::ReadWrite)?;
        let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
        watch.beat(format!("round {round}: write"));
        let mut failed = None;
        for at in 0..10_u64 {
            let write = std::os::unix::fs::FileExt::write_all_at(&file, &chunk, at << 18);
            if let Err(err) = write.and_then(|()| file.sync_data()) {
                failed = Some(err);
                break;
            }
        }
        ensure!(failed.is_some(), "round {round}: 2.5 MiB fitted into 2");
        watch.beat(format!("round {round}: close"));
        drop(file);
        watch.beat(format!("round {round}: deactivate"));
        pool.deactivate("fails")?;
        watch.beat(format!("round {round}: delete"));
        match pool.delete(id) {
            Ok(()) => {}
            Err(err) => ensure!(err.kind() == Kind::NoSpace, "round {round}: {err}"),
        }
        let back = within(Duration::from_secs(5), || Ok(pool.status()?.is_writable()))?;
        ensure!(back, "round {round}: {:?}", pool.status()?);
        if round % 50 == 0 {
            complaints.extend(log.read()?.into_iter().filter(|line| is_complaint(line)));
        }
    }
    complaints.extend(log.read()?.into_iter().filter(|line| is_complaint(line)));
    pool.delete(origin)?;
    Ok((start.elapsed().as_secs_f64(), complaints))
}

fn is_complaint(line: &str) -> bool {
    ["BUG", "WARNING", "Oops", "hung task", "blocked for more than", "Call Trace", "needs_check"]
        .iter()
        .any(|word| line.contains(word))
}
