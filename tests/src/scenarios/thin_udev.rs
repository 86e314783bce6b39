//! With Debian's udev: nodes and links are there when a command returns, nothing waits for it, nothing
//! of it stays, and it neither opens nor probes a volume. The control is the same thin made active
//! by dmsetup, which udev does probe.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::{Access, Pool, ThinId};

use super::thin_invariants::{check, thin, within};
use crate::guest::{Guest, PoolSize, Running, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_udev",
    // It changes /dev for all that come after it.
    needs: Needs { own_boot: true, timeout_s: 300, soak_timeout_s: Some(300), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 64, metadata_kib: 4096, block_sectors: 128 };
const SECTORS: u64 = 32 << 11;
const UUID: &str = "00000000-0000-4000-8000-0000000000ab";
const BY_UUID: &str = "/dev/disk/by-uuid/00000000-0000-4000-8000-0000000000ab";

fn run(guest: &mut Guest) -> Result<Report> {
    let mut udevd = guest.cmd("/usr/lib/systemd/systemd-udevd").spawn()?;
    let up = within(Duration::from_secs(30), || Ok(Path::new("/run/udev/control").exists()))?;
    ensure!(up && udevd.running()?, "udev did not start");
    guest.cmd("udevadm").args(["trigger", "--settle"]).run()?.expect(0)?;
    let result = with_udev(guest);
    udevd.kill()?;
    udevd.wait()?;
    result
}

fn with_udev(guest: &Guest) -> Result<Report> {
    let scratch = ScratchPool::open(guest.scratch(), "pool", SIZE)?;
    let pool = scratch.pool();
    let id = ThinId::new(1)?;
    pool.create_thin(id)?;
    let said = thin(guest, &["activate", "1", "first", "--size", "32M"]).run()?.expect(0)?;
    ensure!(said.text()?.trim() == "/dev/mapper/first", "{said}");
    leads(pool, "first")?;
    guest.cmd("mkfs.ext4").args(["-q", "-U", UUID, "/dev/mapper/first"]).run()?.expect(0)?;
    settled(guest)?;
    let found = properties(guest, "/dev/mapper/first")?;
    ensure!(!found.contains("ID_FS_"), "a volume was probed: {found}");
    ensure!(!Path::new(BY_UUID).exists(), "udev made a link of what is in a volume");
    leads(pool, "first")?;

    // A storm of events for devices that are there, while they come and go: udev has its link rules
    // run again then, out of its own memory of the device.
    let mut storm = storm(guest)?;
    let rounds = if guest.long() { 200 } else { 10 };
    let (mut slowest, mut taken) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let start = Instant::now();
        pool.deactivate("first")?;
        let link = std::fs::symlink_metadata("/dev/mapper/first");
        ensure!(link.is_err(), "round {round}: the link stayed");
        pool.activate(id, "first", SECTORS, Access::ReadWrite)?;
        slowest = slowest.max(start.elapsed());
        if leads(pool, "first").is_err() {
            taken += 1;
        }
    }
    ensure!(storm.running()?, "the storm was over before the rounds were");
    storm.kill()?;
    storm.wait()?;
    settled(guest)?;
    // An event that udev was sent for a device while that was being made comes without our flags: then
    // udev may link it itself, and take the link away by the next one. Activated anew it is there.
    if leads(pool, "first").is_err() {
        taken += 1;
        pool.deactivate("first")?;
        pool.activate(id, "first", SECTORS, Access::ReadWrite)?;
        settled(guest)?;
    }
    leads(pool, "first")?;
    let found = properties(guest, "/dev/mapper/first")?;
    ensure!(!found.contains("ID_FS_"), "a volume was probed in the storm: {found}");
    pool.deactivate("first")?;

    // The control: what udev does to a device that nobody told it to leave.
    let table = format!("0 {SECTORS} thin {} 1", pool.dev());
    let create = ["create", "--noudevsync", "probed", "--table", &table];
    guest.cmd("dmsetup").args(create).run()?.expect(0)?;
    let probed = within(Duration::from_secs(30), || Ok(Path::new(BY_UUID).exists()))?;
    settled(guest)?;
    let seen = properties(guest, "/dev/mapper/probed")?;
    guest.cmd("dmsetup").args(["remove", "--retry", "probed"]).run()?.expect(0)?;
    ensure!(probed && seen.contains("ID_FS_UUID"), "udev probes nothing here: {seen}");

    pool.delete(id)?;
    check(pool, &[])?;
    settled(guest)?;
    scratch.close()?;
    settled(guest)?;
    let semaphores = std::fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    ensure!(semaphores.lines().count() <= 1, "semaphores stayed: {semaphores}");
    let report = Report::new().figure("rounds", rounds).figure("links_udev_took", taken);
    Ok(report.figure("slowest_round_s", slowest.as_secs_f64()))
}

/// Both names are there and lead to the device.
fn leads(pool: &Pool, name: &str) -> Result<()> {
    let volume = pool.volume(name)?;
    let link = std::fs::canonicalize(volume.mapper_path())?;
    ensure!(
        link == volume.path(),
        "{} leads to {}",
        volume.mapper_path().display(),
        link.display()
    );
    Ok(())
}

fn properties(guest: &Guest, device: &str) -> Result<String> {
    let info = guest.cmd("udevadm").args(["info", "--query=property", device]).run()?.expect(0)?;
    Ok(info.text()?.to_owned())
}

fn settled(guest: &Guest) -> Result<()> {
    guest.cmd("udevadm").args(["settle", "--timeout=60"]).run()?.expect(0)?;
    Ok(())
}

fn storm(guest: &Guest) -> Result<Running> {
    let script = "while :; do udevadm trigger --subsystem-match=block; sleep 0.05; done";
    guest.cmd("/busybox/sh").args(["-c", script]).spawn()
}
