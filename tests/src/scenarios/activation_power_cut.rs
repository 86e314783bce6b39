//! The power goes while a machine writes to its activation, on disks that lose what was not flushed. After each boot the
//! activation comes up again by itself, is not called unchecked, its journal is replayed by a mount, all that was synced
//! is there, and e2fsck finds nothing.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::{Dm, Store, UpOptions};

use super::activation_load::{Load, held};
use super::crash_host::{CrashHost, ONE, on_disks, put_images};
use crate::guest::veneer::Mounted;
use crate::guest::{Cmd, Guest, ScratchExt4};
use crate::scenario::{Needs, PowerCuts, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "activation_power_cut",
    needs: Needs {
        // Data, metadata, and the file system of header, state and what was told.
        disks: &[512, 16, 64],
        power_cuts: Some(PowerCuts { count: 1, soak: 30, within_ms: 12_000 }),
        timeout_s: 300,
        soak_timeout_s: Some(300),
        ..Needs::DEFAULT
    },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let mount = guest.scratch().join("host");
    let disk = ScratchExt4::on_disk(&guest.disk(2)?, &mount)?;
    let dir = mount.join("pool");
    let dm = Dm::open()?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let (mut store, up) = match guest.phase() {
        0 => Store::init(dm.clone(), &dir, &on_disks(guest)?)?,
        _ => {
            let mut store = Store::open(&dir)?;
            let up = store.up(dm.clone(), UpOptions::default())?;
            (store, up)
        }
    };
    let host = CrashHost { state: mount.join("state"), pool: &up.pool, s3: &s3 };
    if guest.phase() == 0 {
        let made = host.cmd(&["activate", ONE, "--name", "disk"]);
        made.env("VENEER_VOLUME_BYTES", (256 << 20).to_string()).run()?.expect(0)?;
    }
    host.recover()?;
    let listing = host.ok(&["ls"])?;
    let row = &listing["activations"][0];
    ensure!(row["mapped"] == true && row["unchecked"] == false, "it has a journal: {row}");
    let told = mount.join("told");
    let mut figures = Figures::read(&mount);
    let round = looked_at(guest, &told, &mut figures)?;
    figures.write(&mount)?;
    eprintln!("phase {}: round {round}, {} things held so far", guest.phase(), figures.held);
    if guest.phase() >= guest.power_cuts() {
        host.remove_all()?;
        host.check()?;
        drop(host);
        store.down(&dm)?;
        guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0)?;
        drop((store, disk));
        return Ok(Report::new()
            .figure("power_cuts", guest.phase())
            .figure("rounds", round)
            .figure("things_held", figures.held));
    }
    let point = mounted_at(guest)?;
    let mounted = Mounted::of(Path::new("/dev/mapper/disk"), &point)?;
    let mut file = File::options().create(true).append(true).open(&told)?;
    let mut tell = |line: &str| -> Result<()> {
        file.write_all(format!("{line}\n").as_bytes())?;
        Ok(file.sync_data()?)
    };
    let mut load = Load::begin(mounted.path(), guest.dice(), round, &mut tell)?;
    guest.arm_power_cut()?;
    loop {
        load.round()?;
    }
}

/// Everything that was told is on the activation. Gives the last round that was begun.
fn looked_at(guest: &Guest, told: &Path, figures: &mut Figures) -> Result<u64> {
    let Ok(text) = std::fs::read_to_string(told) else { return Ok(0) };
    // The last line may be cut off: it was told to nobody.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let device = Path::new("/dev/mapper/disk");
    let mounted = Mounted::of(device, &mounted_at(guest)?)?;
    figures.held += held(mounted.path(), whole.lines())?;
    drop(mounted);
    Cmd::new("e2fsck").arg("-fn").arg(device).run()?.expect(0)?;
    let rounds = whole.lines().filter_map(|line| line.split_once(' ')?.1.parse().ok());
    // One may have been at work on the next, of which nothing was told.
    Ok(rounds.max().unwrap_or(0) + 1)
}

fn mounted_at(guest: &Guest) -> Result<std::path::PathBuf> {
    let point = guest.scratch().join("mnt-disk");
    std::fs::create_dir_all(&point)?;
    Ok(point)
}

/// What is kept from boot to boot.
struct Figures {
    held: u64,
}

impl Figures {
    fn read(dir: &Path) -> Figures {
        let text = std::fs::read_to_string(dir.join("figures")).unwrap_or_default();
        Figures { held: text.trim().parse().unwrap_or(0) }
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let mut file = File::create(dir.join("figures"))?;
        file.write_all(self.held.to_string().as_bytes())?;
        file.sync_all().context("figures")
    }
}
