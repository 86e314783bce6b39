//! `just bench vm`: an image from an empty pool to activated, activations, and the pool's blocks, by
//! `orchestrate`, by containerd's devmapper snapshotter, and by a script of dmsetup and GNU tar, in turn.
//!
//! Nothing passes or fails by a time: the figures go to the host, which makes the table.

mod containerd;
mod script;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::guest::daemon::Daemon;
use crate::guest::veneer::{Veneer, image};
use crate::guest::{Guest, PoolSize, ScratchExt4, ScratchPool};
use crate::scenario::{Images, Needs, Report, Scenario};

const NEEDS: Needs = Needs {
    disks: &[6144],
    memory_mib: 3072,
    own_boot: true,
    timeout_s: 3600,
    soak_timeout_s: Some(7200),
    ..Needs::DEFAULT
};

/// With the small images.
pub const SCENARIO: Scenario =
    Scenario { name: "bench", needs: Needs { images: Images::Small, ..NEEDS }, run };

/// With the full ones: 1.1 GB in five layers, once.
pub const FULL: Scenario =
    Scenario { name: "bench_full", needs: Needs { images: Images::Full, ..NEEDS }, run: run_full };

/// The image of five layers.
const FAMILY: &str = "python";
/// Activations of each program that are timed.
const ACTIVATIONS: usize = 20;

/// What one program took for one image.
#[derive(Debug)]
struct Took {
    image_s: f64,
    activation_s: Vec<f64>,
    blocks: u64,
}

/// How else ours are timed than by a daemon that takes the image as it is here: a whole process for each,
/// and that asking S3 first.
const OTHER_WAYS: [(&str, &[&str]); 2] =
    [("activation_alone", &["--no-daemon", "--no-fetch"]), ("activation_asking", &["--no-daemon"])];

fn run(guest: &mut Guest) -> Result<Report> {
    report(guest, 3)
}

fn run_full(guest: &mut Guest) -> Result<Report> {
    report(guest, 1)
}

fn report(guest: &Guest, rounds: usize) -> Result<Report> {
    let disk = ScratchExt4::on_disk(&guest.disk(0)?, &guest.scratch().join("disk"))?;
    let archive = disk.path().join("image.oci.tar");
    let there = containerd::installed();
    let chain = if there { Some(containerd::archive(FAMILY, &archive)?) } else { None };
    let mut took: [Vec<Took>; 3] = Default::default();
    let mut others: [Vec<Vec<f64>>; 2] = Default::default();
    for _ in 0..rounds {
        took[0].push(ours(guest, &disk, &mut others)?);
        took[1].push(script::run(guest, &disk, FAMILY, ACTIVATIONS)?);
        if let Some(chain) = &chain {
            took[2].push(containerd::run(guest, &disk, &archive, chain, ACTIVATIONS)?);
        }
    }
    let names = ["orchestrate", "dmsetup and GNU tar", "containerd devmapper"];
    let mut jobs = serde_json::Map::new();
    let mut add = |job: &str, of: &dyn Fn(&Took) -> Vec<f64>| {
        let results: Vec<_> = names
            .iter()
            .zip(&took)
            .filter(|(_, took)| !took.is_empty())
            .map(|(name, took)| json!({"name": name, "rounds": took.iter().map(of).collect::<Vec<_>>()}))
            .collect();
        jobs.insert(job.into(), json!(results));
    };
    add("image", &|took| vec![took.image_s]);
    add("activation", &|took| took.activation_s.clone());
    add("blocks", &|took| vec![took.blocks as f64]);
    for ((way, _), rounds) in OTHER_WAYS.iter().zip(others) {
        jobs.insert((*way).into(), json!([{"name": "orchestrate", "rounds": rounds}]));
    }
    let tars = tar_bytes(FAMILY)?;
    let mut report = Report::new().figure("jobs", json!(jobs)).figure("tar_bytes", tars);
    report = report.figure("containerd", there);
    if guest.long() {
        report = report.figure("thousand", thousand(guest, &disk)?);
    }
    Ok(report)
}

fn tar_bytes(family: &str) -> Result<u64> {
    let mut bytes = 0;
    for number in 1..=5 {
        bytes += std::fs::metadata(layer(family, number))?.len();
    }
    Ok(bytes)
}

fn layer(family: &str, number: u32) -> String {
    format!("{}/{}/images/{family}/{number}.tar", crate::guest::STORE, crate::s3::BUCKET)
}

fn fresh(disk: &ScratchExt4, name: &str) -> Result<ScratchPool> {
    ScratchPool::open(disk.path(), name, PoolSize { metadata_kib: 4096, ..PoolSize::REFERENCE })
}

/// Takes a pool down and its files away, so that the next one begins empty.
fn gone(disk: &ScratchExt4, name: &str, pool: ScratchPool) -> Result<()> {
    pool.close()?;
    for part in ["meta", "data"] {
        std::fs::remove_file(disk.path().join(format!("{name}-{part}")))?;
    }
    Ok(())
}

fn ours(guest: &Guest, disk: &ScratchExt4, others: &mut [Vec<Vec<f64>>; 2]) -> Result<Took> {
    let state = guest.scratch().join("state");
    let veneer = Veneer { state: state.clone(), pool: fresh(disk, "veneer")?, s3: guest.s3()? };
    let begun = Instant::now();
    veneer.activate(FAMILY, "a0")?;
    let image_s = begun.elapsed().as_secs_f64();
    let blocks = veneer.used_blocks()?;
    for ((way, flags), rounds) in OTHER_WAYS.iter().zip(others) {
        rounds.push(activations(&veneer, way, flags)?);
    }
    let daemon = Daemon::start(&veneer, &[])?;
    let activation_s = activations(&veneer, "a", &["--no-fetch"])?;
    daemon.stop()?;
    let Veneer { pool, .. } = veneer;
    down(pool.pool())?;
    gone(disk, "veneer", pool)?;
    std::fs::remove_dir_all(state)?;
    Ok(Took { image_s, activation_s, blocks })
}

/// Seconds of each of them.
fn activations(veneer: &Veneer, names: &str, flags: &[&str]) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for n in 1..=ACTIVATIONS {
        let name = format!("{names}-{n}");
        let activate = veneer.cmd(&["activate", &image(FAMILY), "--name", &name]).args(flags);
        let begun = Instant::now();
        activate.run()?.expect(0)?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Milliseconds of each of a thousand activations, in groups of a hundred.
fn thousand(guest: &Guest, disk: &ScratchExt4) -> Result<serde_json::Value> {
    let state = guest.scratch().join("state");
    let veneer = Veneer { state, pool: fresh(disk, "veneer")?, s3: guest.s3()? };
    let mut points = Vec::new();
    for hundred in 0..10u64 {
        let mut times = Vec::new();
        for n in 0..100 {
            let begun = Instant::now();
            let name = format!("a{}", hundred * 100 + n);
            // The first one fetches it.
            let flags: &[&str] = if hundred + n == 0 { &[] } else { &["--no-fetch"] };
            let words = ["activate", &image("golang"), "--name", &name];
            veneer.cmd(&words).args(flags).run()?.expect(0)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        points.push(json!([(hundred + 1) * 100, times[50]]));
    }
    let listed = veneer.ok(&["ls"])?;
    let count = listed["activations"].as_array().context("activations")?.len();
    ensure!(count == 1000, "{count} activations of a thousand");
    let Veneer { pool, .. } = veneer;
    down(pool.pool())?;
    gone(disk, "veneer", pool)?;
    Ok(json!(points))
}

/// Every device of the pool goes; what it holds stays.
fn down(pool: &thin::Pool) -> Result<()> {
    for device in pool.active()? {
        pool.deactivate(&device.name)?;
    }
    Ok(())
}
