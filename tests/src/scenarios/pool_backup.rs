//! Copies of a pool's metadata, taken while machines write: each is of one moment. What is damaged, of another pool or
//! older is refused; the metadata is lost, the last copy is put back, and everything is as it was.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::dice::Dice;
use crate::guest::veneer::Mounted;
use crate::guest::{Cmd, Guest, Ran, S3};
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "pool_backup", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

const BUCKET: &str = "pool-backup";
const COPIES: u32 = 10;

struct Host<'a> {
    guest: &'a Guest,
    state: PathBuf,
    s3: S3,
}

fn run(guest: &mut Guest) -> Result<Report> {
    let host = Host { guest, state: guest.scratch().join("state"), s3: guest.s3()? };
    host.s3.make_bucket(BUCKET)?;
    host.s3.put(BUCKET, "web/1.tar", &layer::stacked(1, 40, 8192))?;
    host.thin("pool init p --data 128M --metadata 4M")?.expect(0)?;
    let image = format!("s3://{BUCKET}/web/");
    host.orchestrate(&["activate", &image, "--name", "web-1"])?.expect(0)?;
    let writes = under_load(&host)?;
    host.orchestrate(&["deactivate", "web-1"])?.expect(0)?;
    host.thin("pool backup last")?.expect(0)?;
    host.thin("pool restore p last")?.expect_message(100, "its pool is up")?;
    let usage = host.thin("--json usage")?.expect(0)?.text()?.to_owned();
    host.thin("pool down p")?.expect(0)?;

    // Each copy that was taken under the load is whole, and older than what there is now.
    for number in 0..COPIES {
        let typed = format!("pool restore p copy-{number} --dry-run");
        host.thin(&typed)?.expect_message(100, "it is of transaction")?;
        host.thin(&format!("{typed} --older"))?.expect(0)?;
    }
    refused(&host)?;
    lost(&host)?;
    host.thin("pool restore p last --dry-run")?.expect(0)?;
    let restored = host.thin("--json pool restore p last")?.expect(0)?.json()?;
    ensure!(restored["checked"] == true, "thin_check has not looked at it: {restored}");
    ensure!(restored["was_at"].is_null() && restored["before"].is_null(), "{restored}");
    host.thin("pool up p")?.expect(0)?;
    let now = host.thin("--json usage")?.expect(0)?.text()?.to_owned();
    ensure!(now == usage, "each thin has what it had: {usage}\n{now}");
    host.orchestrate(&["recover"])?.expect(0)?;
    host.orchestrate(&["verify"])?.expect(0)?;
    host.orchestrate(&["activate", &image, "--name", "web-1"])?.expect(0)?;
    let mounted = Mounted::new(guest.scratch(), "web-1")?;
    for number in [0, writes - 1] {
        let found = std::fs::read(mounted.path().join(format!("write-{}", number % 50)))?;
        ensure!(found.len() == 100_000, "write {number} is not there: {} bytes", found.len());
    }
    drop(mounted);
    Cmd::new("e2fsck").args(["-fn", "/dev/mapper/web-1"]).run()?.expect(0)?;

    // Room is counted right: it can be written to the end, and given back.
    host.orchestrate(&["rm", "web-1"])?.expect(0)?;
    host.orchestrate(&["rm", &image])?.expect(0)?;
    host.thin("pool grow p --data 160M")?.expect(0)?;
    ensure!(guest.scratch().join("p/metadata.before-grow").exists(), "no copy before it grew");
    host.thin("pool down p")?.expect(0)?;
    // One of the others comes up as well, for who wants it.
    let older = host.thin("--json pool restore p copy-5 --older")?.expect(0)?.json()?;
    ensure!(older["before"].is_string(), "no copy of what was there: {older}");
    host.thin("pool up p")?.expect(0)?;
    host.thin("usage")?.expect(0)?;
    host.thin("pool down p")?.expect(0)?;
    Ok(Report::new().figure("copies", COPIES).figure("writes", writes))
}

/// Writes files in the activation without end while copies are taken; gives how many it wrote.
fn under_load(host: &Host<'_>) -> Result<u64> {
    let mounted = Mounted::new(host.guest.scratch(), "web-1")?;
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let root = mounted.path();
        let writer = scope.spawn(|| write(root, &stop, &writes));
        let taken = (|| -> Result<()> {
            for number in 0..COPIES {
                let before = writes.load(Ordering::Relaxed);
                host.thin(&format!("pool backup copy-{number}"))?.expect(0)?;
                // The load went on: it is no copy of a pool that stands still.
                let bound = std::time::Instant::now() + std::time::Duration::from_secs(30);
                while writes.load(Ordering::Relaxed) < before + 3 && !writer.is_finished() {
                    ensure!(std::time::Instant::now() < bound, "nothing is written any more");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("writing does not panic").and(taken)
    })?;
    drop(mounted);
    Ok(writes.into_inner())
}

fn write(root: &Path, stop: &AtomicBool, writes: &AtomicU64) -> Result<()> {
    let mut dice = Dice::new(11);
    let piece: Vec<u8> =
        (0..100_000).map(|_| u8::try_from(dice.roll(256)).unwrap_or_default()).collect();
    while !stop.load(Ordering::Relaxed) || writes.load(Ordering::Relaxed) < 60 {
        let number = writes.load(Ordering::Relaxed);
        let path = root.join(format!("write-{}", number % 50));
        drop(std::fs::remove_file(&path));
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&piece)?;
        file.sync_all()?;
        writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What must not be put back.
fn refused(host: &Host<'_>) -> Result<()> {
    let at = |name: &str| host.guest.scratch().join(name);
    let good = std::fs::read(at("last"))?;
    for (place, of) in [(100, 0), (5000, 1), (good.len() - 77, 2)] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(at(&format!("damaged-{of}")), &bad)?;
        host.thin(&format!("pool restore p damaged-{of}"))?.expect_message(100, "damaged")?;
    }
    std::fs::write(at("short"), &good[..good.len() - 4096])?;
    host.thin("pool restore p short")?.expect_message(100, "were to follow")?;
    std::fs::write(at("none"), [7; 9000])?;
    host.thin("pool restore p none")?.expect_message(100, "no copy of a pool's metadata")?;
    let foreign = |typed: &str| {
        let program = host.guest.cmd("thin").env("VENEER_POOL", "foreign");
        program.args(typed.split(' ')).dir(host.guest.scratch()).run()
    };
    foreign("pool init q --data 32M --metadata 2M")?.expect(0)?;
    foreign("pool backup foreign")?.expect(0)?;
    foreign("pool down q")?.expect(0)?;
    // Also of a pool that is down, where it says the same.
    foreign("pool backup foreign-down --dir q")?.expect(0)?;
    for copy in ["foreign", "foreign-down"] {
        let ran = host.thin(&format!("pool restore p {copy} --older"))?;
        ran.expect_message(100, "it is of pool \"foreign\"")?;
    }
    Ok(())
}

/// The metadata is gone: nobody takes what is left of it for a pool.
fn lost(host: &Host<'_>) -> Result<()> {
    let metadata = host.guest.scratch().join("p/metadata");
    let file = std::fs::OpenOptions::new().write(true).open(&metadata)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0x5a; 2 << 20], 0)?;
    file.sync_all().context("spoil the metadata")?;
    drop(file);
    host.thin("pool up p")?.expect(100)?;
    Ok(())
}

impl Host<'_> {
    fn thin(&self, typed: &str) -> Result<Ran> {
        let program = self.guest.cmd("thin").env("VENEER_POOL", "copied");
        program.args(typed.split(' ')).dir(self.guest.scratch()).run()
    }

    fn orchestrate(&self, words: &[&str]) -> Result<Ran> {
        let program = self.guest.cmd("orchestrate").args(words).env("VENEER_STATE", &self.state);
        self.s3.environment(program.env("VENEER_STORE", "thin:copied")).run()
    }
}
