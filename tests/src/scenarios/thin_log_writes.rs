//! Every write below a pool is logged in order (dm-log-writes) while volumes live and die; then the
//! log is replayed up to its flushes, and what a disk that keeps nothing else would have after a
//! power cut there is brought up and looked at.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::{Dm, Pool};

use super::thin_lives::{Records, begin, settle, step};
use super::write_log::{Logged, Part, Replay};
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_log_writes",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(3000), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 40, metadata_kib: 4096, block_sectors: 128 };
const PARTS: [Part; 2] = [("meta", SIZE.metadata_kib * 2), ("data", SIZE.data_mib << 11)];

fn run(guest: &mut Guest) -> Result<Report> {
    let log = guest.scratch().join("log");
    let lives = if guest.long() { 12 } else { 2 };
    record(guest, &log, lives)?;
    let mut replay = Replay::new(guest.scratch(), &log, &PARTS)?;
    let entries = replay.entries()?;
    let begun = entries.iter().position(|entry| entry.mark.as_deref() == Some("sealed 1 0"));
    let begun = begun.context("the template was never sealed")?;
    let flushes = entries.iter().skip(begun).filter(|entry| entry.flushes).count();
    // Each that there is; or the first after each sealing, which nothing has yet helped, and the last.
    let (mut seen, mut looked, mut in_flight, mut known) = (0, 0, 0, 0);
    let mut marks: Vec<&str> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        marks.extend(entry.mark.as_deref());
        replay.write(entry)?;
        if !entry.flushes || at <= begun {
            continue;
        }
        seen += 1;
        let sealed = marks.last().is_some_and(|mark| mark.starts_with("sealed"));
        let telling = sealed && marks.len() > known;
        known = marks.len();
        if guest.long() || telling || seen == flushes {
            looked += 1;
            in_flight += look(guest, &replay, &marks).with_context(|| {
                format!("after write {at} of {}, flush {seen} of {flushes}", entries.len())
            })?;
        }
    }
    Ok(Report::new()
        .figure("writes", entries.len())
        .figure("flushes", flushes)
        .figure("brought_up", looked)
        .figure("volumes_in_flight", in_flight))
}

/// The lives, on a pool whose every write goes to the log as well.
fn record(guest: &Guest, log: &Path, lives: u32) -> Result<()> {
    let dm = Dm::open()?;
    let logged = Logged::open(&dm, guest.scratch(), log, &PARTS)?;
    let (meta, data) = (logged.dev(0), logged.dev(1));
    let table = format!("0 {} thin-pool {meta} {data} 128 0", PARTS[1].1);
    let pool = Pool::create_from_table(dm.clone(), "logged-pool", &table)?;
    let keep = move |line: &str| Logged::mark(&dm, line);
    let mut records = Records::of([], Box::new(keep))?;
    begin(&pool, &mut records)?;
    for _ in 0..lives {
        step(&pool, &mut records)?;
    }
    pool.remove_pool()?;
    logged.close()
}

/// Gives how many volumes were in flight there.
fn look(guest: &Guest, replay: &Replay, marks: &[&str]) -> Result<usize> {
    let trial = ["trial-meta", "trial-data"].map(|name| guest.scratch().join(name));
    replay.copy(&trial)?;
    let scratch = ScratchPool::open(guest.scratch(), "trial", SIZE)?;
    let mut records = Records::of(marks.iter().copied(), Box::new(|_| Ok(())))?;
    let found = scratch.pool().status()?.transaction_id();
    let wanted = [records.transaction, records.transaction + 1];
    ensure!(
        found.is_some_and(|id| wanted.contains(&id)),
        "at transaction {found:?}, not {wanted:?}"
    );
    let in_flight = settle(scratch.pool(), &mut records)?;
    scratch.close()?;
    Ok(in_flight)
}
