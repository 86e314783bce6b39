//! `just demo`: three image families from S3 to activated devices, and a table of what that took.

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, PROGRAMS, Veneer};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "demo",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let mut table = String::new();
    for (family, program, _) in PROGRAMS {
        let name = format!("{family}-1");
        let done = veneer.activate(family, &name)?;
        let mounted = Mounted::new(guest.scratch(), &name)?;
        std::fs::write(mounted.path().join("etc/written-by-demo"), &name)?;
        let said = mounted.run(program)?;
        ensure!(!said.is_empty(), "{program:?} says nothing");
        table += &format!(
            "{} is {} after {:.1} s, mounted read-write; {} says: {}\n",
            done["image"].as_str().unwrap_or("?"),
            done["path"].as_str().unwrap_or("?"),
            done["ms"].as_f64().unwrap_or(0.0) / 1000.0,
            program.join(" "),
            said.escape_debug()
        );
    }
    let again = veneer.activate("python", "python-1")?;
    let listing = veneer.ok(&["ls"])?;
    table += "\n image    layer   tar MiB  volume  pool MiB  shared with\n";
    for image in listing["images"].as_array().context("images")? {
        let family = image["image"].as_str().unwrap_or("?").rsplit('/').nth(1).unwrap_or("?");
        for layer in image["layers"].as_array().context("layers")? {
            let key = layer["key"].as_str().unwrap_or("?").rsplit('/').next().unwrap_or("?");
            let shared = match layer["shared_with"].as_u64() {
                Some(0) | None => "-".to_owned(),
                Some(n) => format!("{n} more"),
            };
            table += &format!(
                " {family:<8} {key:<7} {:>7.1}  {:>6}  {:>8}  {shared}\n",
                mib(&layer["bytes"]),
                layer["volume"],
                layer["own_bytes"].as_u64().unwrap_or(0) >> 20
            );
        }
    }
    let fetched: u64 = veneer.s3.object_gets().iter().map(|get| get.bytes).sum();
    let blocks = veneer.used_blocks()?;
    table += &format!(
        "\nfetched       {:>7.1} MiB in {} objects; fifteen separate layers would be {:.1} MiB\n",
        fetched as f64 / 1_048_576.0,
        veneer.s3.object_gets().len(),
        mib(&listing["unshared_bytes"])
    );
    table += &format!(
        "pool          {blocks:>7} blocks of 1 MiB used, of {}\n",
        listing["space"]["total"].as_u64().unwrap_or(0) >> 20
    );
    table += &format!("the same again: nothing to do, {} ms\n", again["ms"]);
    veneer.close()?;
    Ok(Report::new().figure("table", table))
}

fn mib(bytes: &serde_json::Value) -> f64 {
    bytes.as_f64().unwrap_or(0.0) / 1_048_576.0
}
