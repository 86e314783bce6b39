//! Every write of an activation under load, and of its pool below it, is logged in order (dm-log-writes). Then the log is
//! replayed up to points spread over it: at each, the activation's journal is replayed by a mount, all that was synced is
//! there, and e2fsck finds nothing. A file system without a journal under the same load is damaged at one of them at
//! least, so that the look is known to see.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::{Access, Dm, Pool, ThinId};

use super::activation_load::{Load, held};
use super::crash_host::{CrashHost, ONE, put_images};
use super::write_log::{Entry, Logged, Part, Replay};
use crate::dice::Dice;
use crate::guest::kmsg::KernelLog;
use crate::guest::veneer::Mounted;
use crate::guest::{Cmd, Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "activation_log_writes",
    needs: Needs { timeout_s: 900, soak_timeout_s: Some(2 * 3600), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 160, metadata_kib: 2048, block_sectors: 128 };
const PARTS: [Part; 2] = [("meta", SIZE.metadata_kib * 2), ("data", SIZE.data_mib << 11)];

/// Bytes of the activation, and of the file system beside it.
const BYTES: u64 = 256 << 20;
/// The thin id of the file system without a journal; far from those of the store.
const PLAIN: u64 = 9_000_000;

/// How many points are looked at, and how many rounds of load are logged.
struct Length {
    rounds: u32,
    looks: usize,
    plain: usize,
}

const SHORT: Length = Length { rounds: 10, looks: 6, plain: 4 };
const LONG: Length = Length { rounds: 60, looks: 200, plain: 20 };

fn run(guest: &mut Guest) -> Result<Report> {
    let length = if guest.long() { LONG } else { SHORT };
    let log = guest.scratch().join("log");
    let id = record(guest, &log, &length)?;
    let entries = Replay::new(guest.scratch(), &log, &PARTS)?.entries()?;
    let [begun, between, ended] = ["begun", "plain begun", "ended"].map(|line| {
        let at = entries.iter().position(|entry| entry.mark.as_deref() == Some(line));
        at.with_context(|| format!("{line:?} is not marked"))
    });
    let (begun, between, ended) = (begun?, between?, ended?);
    let mut replay = Replay::new(guest.scratch(), &log, &PARTS)?;
    let mut found = Found::default();
    let mut trial = Trial { guest, replay: &mut replay, entries: &entries, at: 0 };
    for point in spread(begun, between, length.looks) {
        let lines = trial.go_to(point, begun)?;
        let told = lines.len();
        let look = trial.journaled(id, &lines);
        let (was_held, replayed) = look.with_context(|| format!("at write {point}"))?;
        eprintln!("write {point} of {between}: {told} lines, {was_held} things held");
        found.looked += 1;
        found.held += was_held;
        found.replayed += u64::from(replayed);
    }
    for point in spread(between, ended, length.plain) {
        let lines = trial.go_to(point, between)?;
        let fault = trial.plain(&lines)?;
        eprintln!("without a journal, write {point} of {ended}: {fault:?}");
        found.damaged += u64::from(fault.is_some());
    }
    ensure!(found.replayed > 0, "no journal had anything to replay");
    ensure!(found.damaged > 0, "a file system without a journal was whole at every point");
    Ok(Report::new()
        .figure("writes", between - begun)
        .figure("points", found.looked)
        .figure("journals_replayed", found.replayed)
        .figure("things_held", found.held)
        .figure("damaged_without_journal", found.damaged)
        .figure("points_without_journal", length.plain))
}

#[derive(Default)]
struct Found {
    looked: u64,
    held: u64,
    replayed: u64,
    damaged: u64,
}

/// So many points after `from` up to `to`, the last one among them.
fn spread(from: usize, to: usize, count: usize) -> impl Iterator<Item = usize> {
    (1..=count).map(move |n| from + (to - from) * n / count)
}

/// An activation and a file system without a journal are written to, one after the other. Gives the activation's id.
fn record(guest: &Guest, log: &Path, length: &Length) -> Result<u64> {
    let dm = Dm::open()?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let logged = Logged::open(&dm, guest.scratch(), log, &PARTS)?;
    let (meta, data) = (logged.dev(0), logged.dev(1));
    let table = format!("0 {} thin-pool {meta} {data} {} 0", PARTS[1].1, SIZE.block_sectors);
    let pool = Pool::create_from_table(dm.clone(), "veneer", &table)?;
    let host = CrashHost { state: guest.scratch().join("state"), pool: &pool, s3: &s3 };
    let size = BYTES.to_string();
    let made = host.cmd(&["activate", ONE, "--name", "disk"]).env("VENEER_VOLUME_BYTES", &size);
    let made = made.run()?.expect(0)?.json()?;
    let id = made["volume"].as_u64().context("a volume")?;
    load(guest, &dm, Path::new("/dev/mapper/disk"), "begun", length.rounds, guest.dice())?;

    pool.create_thin(ThinId::new(PLAIN)?)?;
    let plain = pool.activate(ThinId::new(PLAIN)?, "plain", BYTES / 512, Access::ReadWrite)?;
    let mkfs = ["-q", "-b4096", "-O^has_journal", "-Elazy_itable_init=0,nodiscard"];
    guest.cmd("mkfs.ext4").args(mkfs).arg(plain.path()).run()?.expect(0)?;
    load(guest, &dm, &plain.path(), "plain begun", length.rounds, guest.dice())?;
    Logged::mark(&dm, "ended")?;

    pool.deactivate("plain")?;
    pool.delete(ThinId::new(PLAIN)?)?;
    host.remove_all()?;
    host.check()?;
    pool.remove_pool()?;
    logged.close()?;
    Ok(id)
}

/// Mounted as a machine mounts its disk, marked, and written to; each line goes into the log of writes.
fn load(guest: &Guest, dm: &Dm, device: &Path, begun: &str, rounds: u32, dice: Dice) -> Result<()> {
    let point = guest.scratch().join("mnt-load");
    std::fs::create_dir_all(&point)?;
    let mounted = Mounted::of(device, &point)?;
    let mut told = |line: &str| Logged::mark(dm, line);
    rustix::fs::syncfs(std::fs::File::open(mounted.path())?)?;
    Logged::mark(dm, begun)?;
    let mut load = Load::begin(mounted.path(), dice, 0, &mut told)?;
    (0..rounds).try_for_each(|_| load.round())
}

/// The disks at one point of the log.
struct Trial<'a> {
    guest: &'a Guest,
    replay: &'a mut Replay,
    entries: &'a [Entry],
    /// Entries that were done.
    at: usize,
}

impl Trial<'_> {
    /// Goes on to a point; gives the lines that were told between `from` and it.
    fn go_to(&mut self, point: usize, from: usize) -> Result<Vec<String>> {
        for entry in &self.entries[self.at..point] {
            self.replay.write(entry)?;
        }
        self.at = point;
        let lines = self.entries[from + 1..point].iter().filter_map(|entry| entry.mark.clone());
        Ok(lines.collect())
    }

    /// Brings up a pool from what the disks have, and gives a thin of it to `look`.
    fn on<T>(&self, id: u64, look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let files = ["trial-meta", "trial-data"].map(|name| self.guest.scratch().join(name));
        self.replay.copy(&files)?;
        let scratch = ScratchPool::open(self.guest.scratch(), "trial", SIZE)?;
        let pool = scratch.pool();
        let volume = pool.activate(ThinId::new(id)?, "look", BYTES / 512, Access::ReadWrite)?;
        let looked = look(&volume.path());
        pool.deactivate("look")?;
        let looked = looked?;
        scratch.close()?;
        Ok(looked)
    }

    /// A mount replays the journal; then all that was told is there, and nothing is out of order. Gives how many
    /// things were held, and whether the kernel had something to replay.
    fn journaled(&self, id: u64, lines: &[String]) -> Result<(u64, bool)> {
        self.on(id, |device| {
            let mut log = KernelLog::from_now()?;
            let mounted = self.mounted(device)?;
            let said = log.read()?;
            let unfit = said.iter().find(|line| {
                line.contains("unchecked") || line.contains("warning") || line.contains("error")
            });
            ensure!(unfit.is_none(), "the kernel says {unfit:?}");
            let replayed = said.iter().any(|line| line.contains("recovery complete"));
            let things = held(mounted.path(), lines.iter().map(String::as_str))?;
            drop(mounted);
            Cmd::new("e2fsck").arg("-fn").arg(device).run()?.expect(0)?;
            Ok((things, replayed))
        })
    }

    /// The same without a journal: what is wrong, if anything is. Nothing of it fails the scenario.
    fn plain(&self, lines: &[String]) -> Result<Option<String>> {
        self.on(PLAIN, |device| {
            let Ok(mounted) = self.mounted(device) else {
                return Ok(Some("it cannot be mounted".into()));
            };
            let lost = held(mounted.path(), lines.iter().map(String::as_str)).err();
            drop(mounted);
            let checked = Cmd::new("e2fsck").arg("-fn").arg(device).run()?;
            Ok(match (lost, checked.code) {
                (Some(error), _) => Some(format!("{error:#}")),
                (None, Some(0)) => None,
                (None, code) => Some(format!("e2fsck ends with {code:?}")),
            })
        })
    }

    fn mounted(&self, device: &Path) -> Result<Mounted> {
        let point = self.guest.scratch().join("mnt-look");
        std::fs::create_dir_all(&point)?;
        Mounted::of(device, &point)
    }
}
