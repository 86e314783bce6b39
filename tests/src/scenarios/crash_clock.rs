//! The clock is set back a day and forward ten years, between runs and during one: no stall, nothing
//! lost. And a registry of yesterday, and a pool that was made anew under it: refused with the reason,
//! and nothing is changed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::crash_host::{CrashHost, IMAGES, put_images};
use crate::guest::{Guest, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_clock",
    needs: Needs { timeout_s: 600, own_boot: true, ..Needs::DEFAULT },
    run,
};

const DAY: i64 = 86_400;

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = guest.pool("veneer")?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let host = CrashHost { state: guest.scratch().join("state"), pool: scratch.pool(), s3: &s3 };
    let slowest = clock(&host)?;
    yesterday(guest, &host)?;
    host.check()?;
    drop(host);
    anew(guest, scratch, &s3)?;
    Ok(Report::new().figure("slowest_run_s", slowest))
}

fn shift(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + seconds, ..now })?;
    Ok(())
}

/// Gives the longest wall time of a run, by a clock that nobody sets.
fn clock(host: &CrashHost<'_>) -> Result<f64> {
    let mut slowest: f64 = 0.0;
    let mut timed = |words: &[&str]| -> Result<()> {
        let begun = Instant::now();
        host.ok(words)?;
        slowest = slowest.max(begun.elapsed().as_secs_f64());
        host.check()
    };
    let activate = ["activate", IMAGES[0], "--name", "a-1"];
    timed(&activate)?;
    for seconds in [-DAY, 3653 * DAY, -3652 * DAY] {
        shift(seconds)?;
        timed(&activate)?;
        timed(&["deactivate", "a-1"])?;
        timed(&activate)?;
        timed(&["ensure", IMAGES[1]])?;
        timed(&["rm", IMAGES[1]])?;
        // During a run: in the middle of a layer that only `b` has.
        host.s3.proxy.hold("b/3.tar", 4096);
        let running = host.cmd(&["ensure", IMAGES[1], "--no-etag-dedup"]).spawn()?;
        host.s3.proxy.wait_held(Duration::from_secs(120))?;
        shift(seconds)?;
        host.s3.proxy.release();
        running.wait()?.expect(0)?;
        shift(-seconds)?;
        timed(&["rm", IMAGES[1]])?;
        // What was killed under one clock is mended under another.
        host.s3.proxy.hold("b/3.tar", 4096);
        let mut running = host.cmd(&["ensure", IMAGES[1], "--no-etag-dedup"]).spawn()?;
        host.s3.proxy.wait_held(Duration::from_secs(120))?;
        running.kill()?;
        running.wait()?;
        host.s3.proxy.release();
        shift(-seconds)?;
        timed(&["ensure", IMAGES[1]])?;
        timed(&["rm", IMAGES[1]])?;
        shift(seconds)?;
    }
    Ok(slowest)
}

/// The registry of before some work, with the pool of after it.
fn yesterday(guest: &Guest, host: &CrashHost<'_>) -> Result<()> {
    let (today, kept) = (guest.scratch().join("today"), guest.scratch().join("kept"));
    copy(guest, &host.state, &kept)?;
    host.ok(&["activate", IMAGES[1], "--name", "b-1"])?;
    copy(guest, &host.state, &today)?;
    let before = format!("{:?} {:?}", host.pool.ids()?, host.pool.active()?);
    copy(guest, &kept, &host.state)?;
    let words: [&[&str]; 4] = [
        &["activate", IMAGES[0], "--name", "a-2"],
        &["rm", "a-1"],
        &["ensure", IMAGES[1]],
        &["recover"],
    ];
    for words in words {
        host.cmd(words).run()?.expect_message(100, "out of step")?;
    }
    let after = format!("{:?} {:?}", host.pool.ids()?, host.pool.active()?);
    ensure!(before == after, "refused, and something is changed: {before} {after}");
    copy(guest, &today, &host.state)?;
    host.ok(&["rm", "b-1"])?;
    Ok(())
}

fn copy(guest: &Guest, from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    guest.cmd("/busybox/cp").arg("-a").arg(from).arg(to).run()?.expect(0)?;
    Ok(())
}

/// A fresh pool of the same name under the registry.
fn anew(guest: &Guest, scratch: ScratchPool, s3: &crate::guest::S3) -> Result<()> {
    for active in scratch.pool().active()? {
        scratch.pool().deactivate(&active.name)?;
    }
    scratch.close()?;
    std::fs::remove_file(guest.scratch().join("veneer-meta"))?;
    let scratch = guest.pool("veneer")?;
    let host = CrashHost { state: guest.scratch().join("state"), pool: scratch.pool(), s3 };
    let before = std::fs::read(host.state.join("registry.db"))?;
    for words in [&["activate", IMAGES[0], "--name", "a-2"][..], &["rm", "a-1"], &["recover"]] {
        let refused = host.cmd(words).run()?.expect(100)?;
        let told = ["out of step", "belongs to store"];
        ensure!(told.iter().any(|text| refused.stderr.contains(text)), "{refused}");
    }
    ensure!(host.pool.ids()?.is_empty(), "a refused command made something");
    let after = std::fs::read(host.state.join("registry.db"))?;
    ensure!(before == after, "a refused command wrote the registry");
    drop(host);
    scratch.close()
}
