//! A thousand snapshots of one origin, and a thousand lives of one volume: used blocks come back to
//! where they were, and exclusive blocks are counted right among so many sharers.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Result, ensure};
use thin::{Access, ThinId};

use super::thin_invariants::{check, used};
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_thousand",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(600), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 64, metadata_kib: 16 << 10, block_sectors: 128 };
const WRITTEN: usize = 3 << 20;

fn run(guest: &mut Guest) -> Result<Report> {
    let many = if guest.long() { 1000 } else { 60 };
    let scratch = ScratchPool::open(guest.scratch(), "pool", SIZE)?;
    let pool = scratch.pool();
    let origin = ThinId::new(0)?;
    pool.create_thin(origin)?;
    let volume = pool.activate(origin, "origin", 16384, Access::ReadWrite)?;
    let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
    file.write_all_at(&vec![7; WRITTEN], 0)?;
    file.sync_all()?;
    drop(file);
    pool.deactivate("origin")?;
    pool.commit()?;
    let start = used(pool)?;
    ensure!(start == u64::try_from(WRITTEN)? >> 16, "3 MiB took {start} blocks of 64 KiB");

    let clock = Instant::now();
    for id in 1..=many {
        pool.create_snap(ThinId::new(id)?, origin)?;
    }
    let snapped = clock.elapsed();
    ensure!(used(pool)? == start, "snapshots took {} data blocks", used(pool)? - start);

    // One of them changes one block: that one is its own, the rest everybody's.
    let changed = ThinId::new(many / 2)?;
    let volume = pool.activate(changed, "changed", 16384, Access::ReadWrite)?;
    let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
    file.write_all_at(&[8; 4096], 0)?;
    file.sync_all()?;
    drop(file);
    pool.deactivate("changed")?;
    let clock = Instant::now();
    let usage = pool.usage()?;
    let counted = clock.elapsed();
    ensure!(u64::try_from(usage.len())? == many + 1, "{} thins", usage.len());
    for row in &usage {
        let own = u64::from(row.record.id == changed);
        let right = row.exclusive_blocks == own && row.record.mapped_blocks == start;
        ensure!(right && row.shared_blocks == start - own, "{row:?}");
    }
    for id in 1..=many {
        pool.delete(ThinId::new(id)?)?;
    }
    ensure!(used(pool)? == start, "after deleting all: {} blocks, not {start}", used(pool)?);
    check(pool, &[0])?;

    let clock = Instant::now();
    let life = ThinId::new(5000)?;
    for _ in 0..many {
        pool.create_snap(life, origin)?;
        pool.delete(life)?;
    }
    let lives = clock.elapsed();
    ensure!(used(pool)? == start, "after a thousand lives: {} blocks, not {start}", used(pool)?);
    pool.delete(origin)?;
    check(pool, &[])?;
    scratch.close()?;
    Ok(Report::new()
        .figure("snapshots_and_lives", many)
        .figure("snapshots_s", snapped.as_secs_f64())
        .figure("usage_of_all_s", counted.as_secs_f64())
        .figure("lives_s", lives.as_secs_f64()))
}
