//! The bytes of a deleted volume never appear on a new one's raw device. The same on a pool that does
//! not zero its blocks finds them, so this test can fail.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use thin::{Access, Dm, Pool, ThinId};

use super::thin_invariants::check;
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "thin_recycled", needs: Needs::DEFAULT, run };

const SIZE: PoolSize = PoolSize { data_mib: 16, metadata_kib: 2048, block_sectors: 128 };
const MARK: [u8; 16] = *b"SECRET-OF-IMAGE-";
const BLOCKS: u64 = 240;
const BLOCK: u64 = 64 << 10;

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = ScratchPool::open(guest.scratch(), "zeroing", SIZE)?;
    let seen = marks_seen(scratch.pool())?;
    ensure!(seen == 0, "{seen} marks of the deleted volume on the new one");
    check(scratch.pool(), &[])?;
    let table = scratch.table.clone();
    scratch.close()?;

    // The control: the same, without the zeroing.
    let loops = ScratchPool::open(guest.scratch(), "unzeroed", SIZE)?;
    let control_table = loops.table.clone();
    let dm = Dm::open()?;
    loops.pool().clone().remove_pool()?;
    let line = format!("{control_table} 1 skip_block_zeroing");
    let control = Pool::create_from_table(dm, "unzeroed", &line)
        .with_context(|| format!("{table} and {line}"))?;
    let leaked = marks_seen(&control)?;
    control.remove_pool()?;
    loops.close()?;
    ensure!(leaked > 0, "without zeroing nothing leaks: this test cannot fail");
    Ok(Report::new().figure("marks_with_zeroing", seen).figure("marks_without", leaked))
}

fn marks_seen(pool: &Pool) -> Result<usize> {
    let (old, new) = (ThinId::new(1)?, ThinId::new(2)?);
    let sectors = BLOCKS * BLOCK / 512;
    pool.create_thin(old)?;
    let volume = pool.activate(old, "old", sectors, Access::ReadWrite)?;
    let block = usize::try_from(BLOCK)?;
    let content = MARK.repeat(block / MARK.len());
    let file = OpenOptions::new().write(true).open(volume.path())?;
    for at in 0..BLOCKS {
        file.write_all_at(&content, at * BLOCK)?;
    }
    file.sync_all()?;
    drop(file);
    pool.deactivate("old")?;
    pool.delete(old)?;

    pool.create_thin(new)?;
    let volume = pool.activate(new, "new", sectors, Access::ReadWrite)?;
    let file = OpenOptions::new().read(true).write(true).open(volume.path())?;
    // A little of each block, so that every one is mapped again.
    for at in 0..BLOCKS {
        file.write_all_at(&[0; 512], at * BLOCK)?;
    }
    file.sync_all()?;
    let mut seen = 0;
    let mut content = vec![0; block];
    for at in 0..BLOCKS {
        file.read_exact_at(&mut content, at * BLOCK)?;
        seen += content.chunks(MARK.len()).filter(|chunk| *chunk == MARK).count();
    }
    drop(file);
    pool.deactivate("new")?;
    pool.delete(new)?;
    Ok(seen)
}
