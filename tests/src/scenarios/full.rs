//! The families at the reference bucket's size: all three fit one 2 GiB pool made with the reference
//! table line, and are all activated, with the very trees that the oracle makes. Reports the pool's
//! blocks after each layer.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::guest::veneer::{FAMILIES, Mounted, Veneer, expected_in, image};
use crate::guest::{Guest, PoolSize, ScratchExt4, ScratchPool};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "full",
    needs: Needs {
        images: Images::Full,
        disks: &[4096, 4096],
        memory_mib: 2048,
        own_boot: true,
        timeout_s: 7200,
        ..Needs::DEFAULT
    },
    run,
};

/// A program of each full image, and the line it writes first (a beginning).
const PROGRAMS: [(&str, &[&str], &str); 3] = [
    ("golang", &["/usr/bin/go", "version"], "go version"),
    ("node", &["/usr/bin/node", "/srv/app/hello.js"], "hello from node"),
    ("python", &["/usr/bin/python3", "/srv/app/hello.py"], "hello from python"),
];

fn run(guest: &mut Guest) -> Result<Report> {
    let disk = ScratchExt4::on_disk(&guest.disk(0)?, &guest.scratch().join("disk"))?;
    let pool = ScratchPool::open(disk.path(), "veneer", PoolSize::REFERENCE)?;
    let veneer = Veneer { state: guest.scratch().join("state"), pool, s3: guest.s3()? };
    let mut report = Report::new();
    let mut table = String::from(
        "     layer                     tar MiB   blocks   blocks so far   tar MiB so far\n",
    );
    let (mut tars, mut template) = (0, None);
    for family in FAMILIES {
        let before = veneer.used_blocks()?;
        let done = veneer.activate(family, &format!("{family}-1"))?;
        let layers = done["ensured"]["layers"].as_array().context("layers")?.clone();
        let built: Vec<_> = layers.iter().filter(|layer| layer["how"] == "built").collect();
        let own = |layer: &serde_json::Value| layer["own_bytes"].as_u64().unwrap_or(0) >> 20;
        let layered: u64 = built.iter().map(|layer| own(layer)).sum();
        let blank = *template.get_or_insert_with(|| veneer.used_blocks().unwrap_or(0) - layered);
        let mut so_far = if before == 0 { blank } else { before };
        for layer in built {
            let mib = layer["bytes"].as_u64().context("bytes")? as f64 / 1_048_576.0;
            tars += layer["bytes"].as_u64().context("bytes")?;
            so_far += own(layer);
            table += &format!(
                "     {:<24} {mib:>8.1} {:>8} {so_far:>15} {:>16.1}   {} ms\n",
                layer["key"].as_str().unwrap_or("?"),
                own(layer),
                tars as f64 / 1_048_576.0,
                layer["ms"]
            );
        }
    }
    let used = veneer.used_blocks()?;
    let ratio = used as f64 * 1_048_576.0 / tars as f64;
    veneer.check()?;
    let oracle = ScratchExt4::on_disk(&guest.disk(1)?, &guest.scratch().join("oracle"))?;
    let mut paths = 0;
    for family in FAMILIES {
        let right = oracle.path().join(family);
        std::fs::create_dir(&right)?;
        let mounted = Mounted::new(guest.scratch(), &format!("{family}-1"))?;
        let tree = mounted.tree()?;
        expected_in(&right, family)?.expect_equal(&tree).context(family)?;
        paths += tree.len();
        std::fs::remove_dir_all(&right)?;
    }
    drop(oracle);
    for (family, program, line) in PROGRAMS {
        let mounted = Mounted::new(guest.scratch(), &format!("{family}-1"))?;
        let said = mounted.run(program)?;
        ensure!(said.starts_with(line), "{family} says {said:?}");
    }
    ensure!(Path::new("/dev/mapper/python-1").exists(), "python-1 is not there");
    report = report
        .figure("blocks", used)
        .figure("blocks_template", template)
        .figure("tar_bytes", tars)
        .figure("paths_equal", paths)
        .figure("ratio", (ratio * 1000.0).round() / 1000.0)
        .figure("table", table);
    ensure!(ratio <= 1.20, "{ratio:.3} times the bytes of the tars, at most 1.20 is asked");
    veneer.ok(&["ensure", &image("golang")])?;
    veneer.close()?;
    Ok(report)
}
