//! The power goes while volumes are made, written, sealed and deleted, on disks that lose what was not
//! flushed. Each time the pool comes up again by itself, every sealed volume has its bytes and a
//! clean file system, and what was in flight is there or not, and can be deleted.
//!
//! The records beside the pool are a log of lines, each synced before the next step.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::{Dm, DmName, InitOptions, Store, UpOptions};

use super::crash_host::on_disks;
use super::thin_lives::{Records, TEMPLATE, begin, settle, step};
use crate::guest::{Guest, ScratchExt4};
use crate::scenario::{Needs, PowerCuts, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_power_cut",
    needs: Needs {
        // Data, metadata, and the file system of header and records.
        disks: &[256, 16, 32],
        power_cuts: Some(PowerCuts { count: 2, soak: 100, within_ms: 3000 }),
        timeout_s: 300,
        soak_timeout_s: Some(120),
        ..Needs::DEFAULT
    },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let mount = guest.scratch().join("host");
    let host = ScratchExt4::on_disk(&guest.disk(2)?, &mount)?;
    let dir = mount.join("pool");
    let log = mount.join("records");
    let dm = Dm::open()?;
    if guest.phase() == 0 {
        init(guest, &dm, &dir, &log)?;
    }
    let mut records = read(&log)?;
    let seen = records.lines;
    guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0).context("before `up`")?;
    let mut store = Store::open(&dir)?;
    let expected_transaction = Some(records.transaction);
    let up = store.up(dm.clone(), UpOptions { expected_transaction, ..UpOptions::default() })?;
    let pool = up.pool;
    let mended = settle(&pool, &mut records)?;
    eprintln!(
        "phase {}: {seen} records, {mended} in flight, {} sealed",
        guest.phase(),
        records.sealed.len()
    );

    if guest.phase() >= guest.power_cuts() {
        store.down(&dm)?;
        guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0)?;
        let made = records.next - TEMPLATE - 1;
        ensure!(made > guest.power_cuts(), "{made} volumes in all: nothing was tested");
        let report = Report::new()
            .figure("power_cuts", guest.phase())
            .figure("volumes_made", made)
            .figure("in_flight_at_a_cut", records.settled);
        drop((store, records, host));
        return Ok(report);
    }
    guest.arm_power_cut()?;
    loop {
        step(&pool, &mut records)?;
    }
}

fn init(guest: &Guest, dm: &Dm, dir: &Path, log: &Path) -> Result<()> {
    let options = InitOptions { name: DmName::new("cut")?, ..on_disks(guest)? };
    let (mut store, up) = Store::init(dm.clone(), dir, &options)?;
    begin(&up.pool, &mut read(log)?)?;
    store.down(dm)?;
    Ok(())
}

fn read(path: &Path) -> Result<Records> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let text = std::fs::read_to_string(path)?;
    // A line without its end was not acknowledged.
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    file.set_len(u64::try_from(whole)?)?;
    let keep = move |line: &str| -> Result<()> {
        file.write_all(format!("{line}\n").as_bytes())?;
        Ok(file.sync_all()?)
    };
    Records::of(text[..whole].lines(), Box::new(keep))
}
