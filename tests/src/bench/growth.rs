//! How cost grows with what there is: entries of a layer, layers of an image, images and activations
//! of a host. Each series is to be straight or flat.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::out::Out;
use super::{On, Setup, layers, measure};
use crate::s3::Server;

/// One series.
#[derive(Debug, Clone, Serialize)]
pub struct Growth {
    /// What grows.
    pub of: String,
    /// What is measured.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// How many there were, and what one more or all of them cost.
    pub points: Vec<(u64, f64)>,
}

/// Wall time and memory of unpacking 1 to 1,000,000 entries of little content, and GNU tar's time for them.
///
/// # Errors
/// A layer cannot be made or applied.
pub fn entries(setup: &Setup) -> Result<Vec<Growth>> {
    let (mut wall, mut memory, mut tar) = (Vec::new(), Vec::new(), Vec::new());
    for count in [1u64, 100, 10_000, 100_000, 1_000_000] {
        let layer = setup.scratch.join("entries.tar");
        layers::made(&layer, count, 1)?;
        let line = format!(
            "{} -q --sandbox require --root \"$OUT\" < {}",
            setup.programs.join("unpack").display(),
            layer.display()
        );
        // On an ext4 of its own: to remove a million files from another's takes longer than all else.
        let measured = in_new(setup, &line, On::Ext4)?;
        wall.push((count, measured.wall));
        memory.push((count, measured.peak_kib as f64 / 1024.0));
        let line = format!(
            "tar -x -p --numeric-owner -C \"$OUT\" -f {} && sync -f \"$OUT\"",
            layer.display()
        );
        tar.push((count, in_new(setup, &line, On::Ext4)?.wall));
        std::fs::remove_file(&layer)?;
    }
    Ok(vec![
        series("entries of a layer", "unpack, wall", "s", wall),
        series("entries of a layer", "GNU tar, wall", "s", tar),
        series("entries of a layer", "unpack, memory of all its processes", "MiB", memory),
    ])
}

/// Memory with a layer of 4 GiB: `fetch | unpack`, and the host agent.
///
/// # Errors
/// The layer cannot be made or applied.
pub fn bytes(setup: &Setup, server: &Server) -> Result<Vec<Growth>> {
    let (mut piped, mut agent) = (Vec::new(), Vec::new());
    for mib in [1u64, 64, 1024, 4096] {
        let layer = setup.scratch.join("bytes.tar");
        layers::one_file(&layer, mib << 20)?;
        let mut file = std::fs::File::open(&layer)?;
        let length = file.metadata()?.len();
        crate::s3::put(server.address, "bench", "bytes/1.tar", &mut file, length)?;
        std::fs::remove_file(&layer)?;
        let line = format!(
            "{} -q --anonymous --endpoint http://{} s3://bench/bytes/1.tar | {} -q --root \"$OUT\"",
            setup.programs.join("fetch").display(),
            server.address,
            setup.programs.join("unpack").display()
        );
        piped.push((mib, in_empty(setup, &line)?.peak_kib as f64 / 1024.0));
        let line = format!("{} ensure s3://bench/bytes/", host(setup, server, "$OUT"));
        agent.push((mib, in_empty(setup, &line)?.peak_kib as f64 / 1024.0));
        crate::s3::delete(server.address, "bench", "bytes/1.tar")?;
    }
    Ok(vec![
        series("MiB of a layer", "fetch | unpack, memory of all processes", "MiB", piped),
        series("MiB of a layer", "orchestrate, memory of all processes", "MiB", agent),
    ])
}

/// Wall time for each layer of images of 1 to 128 layers.
///
/// # Errors
/// A layer cannot be made or applied.
pub fn stacks(setup: &Setup, server: &Server) -> Result<Vec<Growth>> {
    let mut each = Vec::new();
    for count in [1u64, 8, 32, 128] {
        let prefix = format!("stack{count}");
        tiny_layers(setup, server, &prefix, count)?;
        let line = format!("{} ensure s3://bench/{prefix}/", host(setup, server, "$OUT"));
        each.push((count, in_empty(setup, &line)?.wall * 1e3 / count as f64));
    }
    Ok(vec![series("layers of an image", "ensure, wall for each layer", "ms", each)])
}

/// Wall time of a no-op `activate`, of a new activation and of `ls`, with 1 to 500 images and 1 to 1,000
/// activations on the host.
///
/// # Errors
/// An image cannot be activated.
pub fn inventory(setup: &Setup, server: &Server) -> Result<Vec<Growth>> {
    let base = setup.scratch.join("inventory");
    let host = host(setup, server, &base.display().to_string());
    let mut images: [Vec<(u64, f64)>; 2] = Default::default();
    let mut done = 0;
    for count in [1u64, 100, 250, 500] {
        let mut line = String::new();
        for number in done..count {
            let prefix = format!("many/{number}");
            tiny_layers(setup, server, &prefix, 1)?;
            line += &format!("{host} ensure s3://bench/{prefix}/\n");
        }
        measure::run(&line, &setup.scratch, false)?;
        done = count;
        let first = format!("{host} activate s3://bench/many/0/ --name first");
        measure::run(&first, &setup.scratch, false)?;
        images[0].push((count, ten_times(setup, &first)?));
        images[1].push((count, ten_times(setup, &format!("{host} ls"))?));
    }
    let mut activations = Vec::new();
    let mut done = 1;
    for count in [1u64, 100, 500, 1000] {
        let mut line = String::new();
        for number in done..count {
            line += &format!("{host} activate s3://bench/many/0/ --name a{number}\n");
        }
        measure::run(&format!("true\n{line}"), &setup.scratch, false)?;
        done = count;
        let one = format!(
            "{host} activate s3://bench/many/0/ --name more; {host} deactivate more; {host} rm more"
        );
        activations.push((count, ten_times(setup, &one)?));
    }
    std::fs::remove_dir_all(&base)?;
    let [no_op, list] = images;
    Ok(vec![
        series("images on the host", "activate of what is active", "ms", no_op),
        series("images on the host", "ls", "ms", list),
        series(
            "activations on the host",
            "activate, deactivate and rm of one more",
            "ms",
            activations,
        ),
    ])
}

fn series(of: &str, what: &str, unit: &'static str, points: Vec<(u64, f64)>) -> Growth {
    Growth { of: of.into(), what: what.into(), unit, points }
}

fn host(setup: &Setup, server: &Server, base: &str) -> String {
    format!(
        "{} -q --state \"{base}/state\" --store \"dir:{base}/store\" --anonymous --endpoint http://{}",
        setup.programs.join("orchestrate").display(),
        server.address
    )
}

fn tiny_layers(setup: &Setup, server: &Server, prefix: &str, count: u64) -> Result<()> {
    let layer = setup.scratch.join("tiny.tar");
    for number in 1..=count {
        // Each has other contents, so that none is shared.
        layers::one_file(&layer, 1 + number + fold(prefix))?;
        put(server, &format!("{prefix}/{number}.tar"), &layer)?;
    }
    Ok(std::fs::remove_file(&layer)?)
}

fn put(server: &Server, key: &str, path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    crate::s3::put(server.address, "bench", key, &mut file, length)
}

/// Some number for each prefix, less than 64 Ki.
fn fold(prefix: &str) -> u64 {
    prefix.bytes().fold(7, |sum, byte| (sum * 31 + u64::from(byte)) % 65_521) * 200 % 65_536
}

/// Milliseconds for once, the median of ten.
fn ten_times(setup: &Setup, line: &str) -> Result<f64> {
    let mut walls = Vec::new();
    for _ in 0..10 {
        walls.push(measure::run(line, &setup.scratch, false)?.wall * 1e3);
    }
    Ok(super::contest::median(&walls))
}

fn in_empty(setup: &Setup, line: &str) -> Result<measure::Measured> {
    in_new(setup, line, On::Scratch)
}

fn in_new(setup: &Setup, line: &str, on: On) -> Result<measure::Measured> {
    let out = Out::new(&setup.scratch, on)?;
    let measured = measure::run(line, out.path(), true);
    out.close()?;
    measured
}
