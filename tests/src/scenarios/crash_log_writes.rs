//! Every write of one layer's build is logged in order (dm-log-writes): those of the pool's metadata, of
//! its data, and of the file system that has the registry. Then the log is replayed up to its flushes.
//! On what a disk has there that keeps nothing else, `recover` ends clean and takes the run up, and a
//! layer whose row says sealed has its tree.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::{Dm, Pool};

use super::crash_host::{CrashHost, ONE, put_images};
use super::write_log::{Logged, Part, Replay};
use crate::guest::{Guest, PoolSize, S3, ScratchExt4, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_log_writes",
    needs: Needs { timeout_s: 900, soak_timeout_s: Some(2 * 3600), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 32, metadata_kib: 2048, block_sectors: 128 };
const PARTS: [Part; 3] =
    [("meta", SIZE.metadata_kib * 2), ("data", SIZE.data_mib << 11), ("state", 16 << 11)];

/// How many of the flushes the short form looks at.
const LOOKS: usize = 5;

fn run(guest: &mut Guest) -> Result<Report> {
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let log = guest.scratch().join("log");
    let right = record(guest, &s3, &log)?;
    let mut replay = Replay::new(guest.scratch(), &log, &PARTS)?;
    let entries = replay.entries()?;
    let marked = |line: &str| entries.iter().position(|entry| entry.mark.as_deref() == Some(line));
    let begun = marked("begun").context("no beginning is marked")?;
    let ended = marked("ended").context("no end is marked")?;
    let flushes = entries[begun..ended].iter().filter(|entry| entry.flushes).count();
    let step = if guest.long() { 1 } else { flushes / LOOKS };
    let (mut seen, mut looked, mut same, mut mended, mut sealed) = (0, 0, 0, 0, 0);
    let mut written = false;
    for (at, entry) in entries[..ended].iter().enumerate() {
        replay.write(entry)?;
        written |= entry.length > 0;
        if !entry.flushes || at < begun {
            continue;
        }
        seen += 1;
        if seen % step != 0 {
            continue;
        }
        if !written {
            same += 1;
            continue;
        }
        written = false;
        let place = format!("after write {at} of {ended}, flush {seen} of {flushes}");
        let found = look(guest, &s3, &replay, &right).with_context(|| place.clone())?;
        eprintln!("{place}: {} repairs, {} sealed before", found.repairs, found.sealed);
        looked += 1;
        mended += usize::from(found.repairs > 0);
        sealed += usize::from(found.sealed > 1);
    }
    ensure!(looked > 2, "{flushes} flushes, {looked} looked at");
    Ok(Report::new()
        .figure("writes", ended - begun)
        .figure("flushes", flushes)
        .figure("brought_up", looked)
        .figure("same_as_before", same)
        .figure("with_repairs", mended)
        .figure("with_the_layer_sealed", sealed))
}

/// One layer is built on a pool and a registry whose every write goes to the log as well. Gives its
/// right tree by chain id.
fn record(guest: &Guest, s3: &S3, log: &Path) -> Result<BTreeMap<String, String>> {
    let dm = Dm::open()?;
    let logged = Logged::open(&dm, guest.scratch(), log, &PARTS)?;
    let node = format!("/dev/dm-{}", logged.dev(2).minor);
    let mount = guest.scratch().join("recorded");
    let disk = ScratchExt4::on_disk(Path::new(&node), &mount)?;
    let (meta, data) = (logged.dev(0), logged.dev(1));
    let table = format!("0 {} thin-pool {meta} {data} {} 0", PARTS[1].1, SIZE.block_sectors);
    let pool = Pool::create_from_table(dm.clone(), "veneer", &table)?;
    rustix::fs::sync();
    Logged::mark(&dm, "begun")?;
    let right = {
        let host = CrashHost { state: mount.join("state"), pool: &pool, s3 };
        host.ok(&["ensure", ONE])?;
        Logged::mark(&dm, "ended")?;
        host.check()?;
        host.trees()?
    };
    ensure!(right.len() == 1, "one layer: {right:?}");
    drop(disk);
    pool.remove_pool()?;
    logged.close()?;
    Ok(right)
}

struct Found {
    repairs: usize,
    /// Volumes that were sealed before anything was mended, the template among them.
    sealed: usize,
}

fn look(
    guest: &Guest,
    s3: &S3,
    replay: &Replay,
    right: &BTreeMap<String, String>,
) -> Result<Found> {
    let trial = ["veneer-meta", "veneer-data", "trial-state"];
    let trial = trial.map(|name| guest.scratch().join(name));
    replay.copy(&trial)?;
    let mount = guest.scratch().join("trial");
    let disk = ScratchExt4::of_file(&trial[2], &mount)?;
    let scratch = ScratchPool::open(guest.scratch(), "veneer", SIZE)?;
    let host = CrashHost { state: mount.join("state"), pool: scratch.pool(), s3 };
    let before = host.cmd(&["recover", "--dry-run"]).run()?.json()?;
    let repairs = before["repairs"].as_array().context("repairs")?.len();
    let sealed = host.sealed()?;
    let mended = host.ok(&["recover"])?;
    for run in mended["resumed"].as_array().into_iter().flatten() {
        ensure!(run["state"] == "done", "taken up: {mended}");
    }
    host.check()?;
    // And with or without a run that was known, the same command ends well.
    let gets = s3.object_gets().len();
    host.ok(&["ensure", ONE])?;
    ensure!(host.check_trees(right)? == 1, "the layer is not there");
    let came = s3.object_gets().len() - gets;
    ensure!(sealed < 2 || came == 0, "{came} objects came, and the layer was sealed");
    drop(disk);
    scratch.close()?;
    Ok(Found { repairs, sealed })
}
