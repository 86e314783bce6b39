//! Room comes back: what a machine deletes and trims is free in the pool again, `df` says what every activation holds,
//! and the setting `overcommit` bounds what is promised.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::dice::Dice;
use crate::guest::veneer::{Mounted, Veneer, image};
use crate::guest::{Cmd, Guest};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "trim",
    needs: Needs { images: Images::Small, timeout_s: 600, ..Needs::DEFAULT },
    run,
};

/// MiB that are written and deleted; the pool's blocks are 1 MiB.
const MIB: u64 = 300;
/// Blocks that may stay: two hundredths.
const STAY: u64 = MIB * 2 / 100;

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.activate("golang", "disk")?;
    let before = Taken::now(&veneer)?;
    ensure!(before.shared > 0, "it shares nothing with its image");

    let mounted = Mounted::new(guest.scratch(), "disk")?;
    write(&mounted.path().join("large"))?;
    let full = Taken::now(&veneer)?;
    ensure!(full.used >= before.used + MIB, "written: {before:?}, {full:?}");
    ensure!(full.own >= before.own + (MIB << 20), "df does not see it: {before:?}, {full:?}");
    std::fs::remove_file(mounted.path().join("large"))?;
    sync(mounted.path())?;
    let deleted = Taken::now(&veneer)?;
    ensure!(
        deleted.used + STAY >= full.used,
        "deleted and not trimmed, yet it is free: {deleted:?}"
    );
    Cmd::new("busybox").arg("fstrim").arg(mounted.path()).run()?.expect(0)?;
    let trimmed = Taken::now(&veneer)?;
    ensure!(trimmed.used <= before.used + STAY, "trimmed: {before:?}, {trimmed:?}");
    ensure!(trimmed.own <= before.own + (STAY << 20), "df: {before:?}, {trimmed:?}");
    drop(mounted);
    let at_once = with_the_option(guest, &veneer)?;
    whole(&veneer)?;
    overcommitted(&veneer)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new()
        .figure("mib", MIB)
        .figure("stayed_after_fstrim", trimmed.used.saturating_sub(before.used))
        .figure("stayed_with_the_option", at_once))
}

/// What there is, in blocks of 1 MiB, and what `df` says of the activation, in bytes.
#[derive(Debug)]
struct Taken {
    used: u64,
    own: u64,
    shared: u64,
}

impl Taken {
    fn now(veneer: &Veneer) -> Result<Taken> {
        let df = veneer.ok(&["df"])?;
        let row = activation(&df, "disk")?;
        let bytes = |field: &str| row[field].as_u64().with_context(|| format!("{field}: {row}"));
        let (own, shared) = (bytes("exclusive_bytes")?, bytes("shared_bytes")?);
        ensure!(bytes("mapped_bytes")? == own + shared, "{row}");
        ensure!(bytes("size_bytes")? == 4 << 30, "{row}");
        Ok(Taken { used: veneer.used_blocks()?, own, shared })
    }
}

fn activation(df: &Value, name: &str) -> Result<Value> {
    let rows = df["activations"].as_array().context("activations")?;
    rows.iter().find(|row| row["name"] == name).cloned().with_context(|| df.to_string())
}

fn write(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut dice = Dice::new(7);
    let piece: Vec<u8> =
        (0..1 << 20).map(|_| u8::try_from(dice.roll(256)).unwrap_or_default()).collect();
    for _ in 0..MIB {
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

fn sync(path: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Mounted with `-o discard`, what is deleted comes back without a word. Gives how many blocks stayed.
fn with_the_option(guest: &Guest, veneer: &Veneer) -> Result<u64> {
    let point = guest.scratch().join("mnt-discard");
    std::fs::create_dir_all(&point)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("/dev/mapper/disk", &point, "ext4", flags, c"discard")?;
    let stayed = (|| {
        let before = veneer.used_blocks()?;
        write(&point.join("large"))?;
        ensure!(veneer.used_blocks()? >= before + MIB, "nothing was written");
        std::fs::remove_file(point.join("large"))?;
        // The journal's commit discards; what it does then is waited for.
        let bound = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            sync(&point)?;
            let now = veneer.used_blocks()?;
            if now <= before + STAY {
                return Ok(now.saturating_sub(before));
            }
            ensure!(std::time::Instant::now() < bound, "{} blocks stay", now - before);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    })();
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty())?;
    stayed
}

/// A machine that discards its whole disk gives back all of it.
fn whole(veneer: &Veneer) -> Result<()> {
    Cmd::new("busybox").args(["blkdiscard", "/dev/mapper/disk"]).run()?.expect(0)?;
    let row = activation(&veneer.ok(&["df"])?, "disk")?;
    ensure!(row["mapped_bytes"] == 0 && row["exclusive_bytes"] == 0, "it still holds {row}");
    veneer.ok(&["rm", "disk"]).map(drop)
}

/// The pool has 2 GiB, an activation 4 GiB: three hundredfold is room for one of them, four hundredfold for two.
fn overcommitted(veneer: &Veneer) -> Result<()> {
    veneer.activate("golang", "first")?;
    let second = |percent: &str| {
        let asked = veneer.cmd(&["activate", &image("golang"), "--name", "second"]);
        asked.env("VENEER_OVERCOMMIT", percent).run()
    };
    second("300")?.expect_message(111, "overcommit = 300")?;
    ensure!(!Path::new("/dev/mapper/second").exists(), "it was refused");
    second("400")?.expect(0)?;
    let df = veneer.ok(&["df"])?;
    ensure!(df["promised_bytes"] == 8_u64 << 30, "{df}");
    for name in ["first", "second"] {
        veneer.ok(&["rm", name])?;
    }
    Ok(())
}
