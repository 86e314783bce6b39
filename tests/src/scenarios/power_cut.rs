//! The power goes while `orchestrate` works, on disks that lose what was not flushed. After each boot the
//! pool comes up, `recover` ends clean, and a layer whose row says sealed has its tree.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use thin::{Dm, Store, UpOptions};

use super::crash_host::{CrashHost, IMAGES, on_disks, put_images};
use super::crash_random::words;
use super::thin_invariants::fsck;
use crate::guest::{Guest, ScratchExt4};
use crate::scenario::{Needs, PowerCuts, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "power_cut",
    needs: Needs {
        // Data, metadata, and the file system of header and state.
        disks: &[256, 16, 64],
        power_cuts: Some(PowerCuts { count: 2, soak: 100, within_ms: 12_000 }),
        timeout_s: 300,
        soak_timeout_s: Some(300),
        ..Needs::DEFAULT
    },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let mount = guest.scratch().join("host");
    let disk = ScratchExt4::on_disk(&guest.disk(2)?, &mount)?;
    let (dir, figures) = (mount.join("pool"), mount.join("figures"));
    let dm = Dm::open()?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let (mut store, up) = match guest.phase() {
        0 => Store::init(dm.clone(), &dir, &on_disks(guest)?)?,
        _ => {
            guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0).context("before `up`")?;
            let mut store = Store::open(&dir)?;
            let up = store.up(dm.clone(), UpOptions::default())?;
            (store, up)
        }
    };
    let host = CrashHost { state: mount.join("state"), pool: &up.pool, s3: &s3 };
    if guest.phase() == 0 {
        for image in IMAGES {
            host.ok(&["ensure", image])?;
        }
        let right: BTreeMap<String, String> = host.trees()?;
        ensure!(right.len() == 4, "four layers are distinct: {right:?}");
        std::fs::write(mount.join("right.json"), serde_json::to_vec(&right)?)?;
        host.remove_all()?;
        rustix::fs::sync();
    }
    let right = serde_json::from_slice(&std::fs::read(mount.join("right.json"))?)?;
    let mended = host.recover()?;
    host.check()?;
    let sealed = host.check_trees(&right)?;
    // What is up again is the user's; the sealed ones are ours.
    let active: Vec<_> = up.pool.active()?.iter().map(|active| active.id).collect();
    for volume in up.pool.ids()?.iter().filter(|volume| !active.contains(&volume.id)) {
        fsck(&up.pool, &[volume.id.get()], 8 << 21)?;
    }
    let mended = mended["repairs"].as_array().map_or(0, Vec::len);
    let mut sums: Vec<usize> = std::fs::read_to_string(&figures)
        .unwrap_or_default()
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    sums.resize(2, 0);
    sums[0] += usize::from(mended > 0);
    sums[1] += sealed;
    std::fs::write(&figures, format!("{} {}", sums[0], sums[1]))?;
    rustix::fs::sync();
    eprintln!("phase {}: {mended} repairs, {sealed} sealed layers", guest.phase());
    if guest.phase() >= guest.power_cuts() {
        host.remove_all()?;
        host.check()?;
        drop(host);
        store.down(&dm)?;
        guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0)?;
        let report = Report::new()
            .figure("power_cuts", guest.phase())
            .figure("boots_with_repairs", sums[0])
            .figure("sealed_layers_compared", sums[1]);
        drop((store, disk));
        return Ok(report);
    }
    guest.arm_power_cut()?;
    // Other operations in each boot.
    let mut dice = guest.dice();
    loop {
        let ran = host.cmd(&words(&mut dice)).run()?;
        let refused = ["fatal: no ", "is taken by", "is in use by its activations", "is making it"];
        let refused = refused.iter().any(|words| ran.stderr.contains(words));
        ensure!(ran.code == Some(0) || refused, "{ran}");
    }
}
