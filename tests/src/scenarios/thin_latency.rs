//! What a snapshot costs: create_snap, activate, deactivate and delete by our ioctls, against the same
//! by dmsetup, turn by turn in one run. The ioctls are counted; the times are figures, since no other
//! work on the host may fail a run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::{Access, Dm, Pool, ThinId};

use super::thin_invariants::check;
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_latency",
    needs: Needs { soak_timeout_s: Some(600), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 64, metadata_kib: 4096, block_sectors: 128 };

/// Of one round.
const IOCTLS_MAX: u64 = 10;

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = ScratchPool::open(guest.scratch(), "pool", SIZE)?;
    let pool = scratch.pool();
    let origin = ThinId::new(1)?;
    pool.create_thin(origin)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let rounds = if guest.long() { 60 } else { 5 };
    let before = Dm::ioctls();
    for _ in 0..rounds {
        ours.push(by_ioctl(pool, origin)?);
    }
    let ioctls = (Dm::ioctls() - before) / u64::try_from(rounds)?;
    for _ in 0..rounds {
        theirs.push(by_dmsetup(guest, pool)?);
    }
    ensure!(ioctls <= IOCTLS_MAX, "a round takes {ioctls} ioctls, not {IOCTLS_MAX}");
    pool.delete(origin)?;
    check(pool, &[])?;
    scratch.close()?;
    let mut report = Report::new().figure("ioctls_per_round", ioctls);
    for (who, times) in [("ioctl", &mut ours), ("dmsetup", &mut theirs)] {
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
        report = report.figure(&format!("{who}_p50_ms"), at(50));
        report = report.figure(&format!("{who}_p99_ms"), at(99));
    }
    let ratio = ours[rounds / 2].as_secs_f64() / theirs[rounds / 2].as_secs_f64();
    Ok(report.figure("ratio", ratio))
}

fn by_ioctl(pool: &Pool, origin: ThinId) -> Result<Duration> {
    let snap = ThinId::new(2)?;
    let start = Instant::now();
    pool.create_snap(snap, origin)?;
    pool.activate(snap, "snap", 2048, Access::ReadWrite)?;
    pool.deactivate("snap")?;
    pool.delete(snap)?;
    Ok(start.elapsed())
}

fn by_dmsetup(guest: &Guest, pool: &Pool) -> Result<Duration> {
    let table = format!("0 2048 thin {} 3", pool.dev());
    let steps: [&[&str]; 4] = [
        &["message", "pool", "0", "create_snap 3 1"],
        &["create", "--noudevsync", "--verifyudev", "snap", "--table", &table],
        &["remove", "--noudevsync", "snap"],
        &["message", "pool", "0", "delete 3"],
    ];
    let start = Instant::now();
    for words in steps {
        guest.cmd("dmsetup").args(words).run()?.expect(0)?;
    }
    Ok(start.elapsed())
}
