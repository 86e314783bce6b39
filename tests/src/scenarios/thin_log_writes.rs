//! Every write below a pool is logged in order (dm-log-writes) while volumes live and die; then the
//! log is replayed up to its flushes, and what a disk that keeps nothing else would have after a
//! power cut there is brought up and looked at.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use thin::loopdev::{LoopOptions, attach};
use thin::{By, Device, Dm, Pool, Target};

use super::thin_lives::{Records, begin, settle, step};
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_log_writes",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(3000), ..Needs::DEFAULT },
    run,
};

const SIZE: PoolSize = PoolSize { data_mib: 40, metadata_kib: 4096, block_sectors: 128 };
/// The metadata comes first on the one device that is logged, the data after it.
const SPLIT: u64 = SIZE.metadata_kib * 2;
const SECTORS: u64 = SPLIT + (SIZE.data_mib << 11);

fn run(guest: &mut Guest) -> Result<Report> {
    let log = guest.scratch().join("log");
    let lives = if guest.long() { 12 } else { 2 };
    record(guest, &log, lives)?;
    let entries = entries(&File::open(&log)?)?;
    let begun = entries.iter().position(|entry| entry.mark.as_deref() == Some("sealed 1 0"));
    let begun = begun.context("the template was never sealed")?;
    let flushes = entries.iter().skip(begun).filter(|entry| entry.flushes).count();
    // Each that there is; or the first after each sealing, which nothing has yet helped, and the last.
    let (mut seen, mut looked, mut in_flight, mut known) = (0, 0, 0, 0);
    let log = File::open(&log)?;
    let parts = ["replayed-meta", "replayed-data"].map(|name| guest.scratch().join(name));
    let [meta, data] = &parts;
    let (meta, data) = (File::create(meta)?, File::create(data)?);
    meta.set_len(SPLIT * 512)?;
    data.set_len((SECTORS - SPLIT) * 512)?;
    let mut marks: Vec<&str> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        marks.extend(entry.mark.as_deref());
        if entry.length > 0 {
            let mut content = vec![0; usize::try_from(entry.length)? * 512];
            log.read_exact_at(&mut content, entry.content)?;
            let (part, from) = if entry.sector < SPLIT { (&meta, 0) } else { (&data, SPLIT) };
            part.write_all_at(&content, (entry.sector - from) * 512)?;
        }
        if !entry.flushes || at <= begun {
            continue;
        }
        seen += 1;
        let sealed = marks.last().is_some_and(|mark| mark.starts_with("sealed"));
        let telling = sealed && marks.len() > known;
        known = marks.len();
        if guest.long() || telling || seen == flushes {
            looked += 1;
            in_flight += look(guest, &parts, &marks).with_context(|| {
                format!("after write {at} of {}, flush {seen} of {flushes}", entries.len())
            })?;
        }
    }
    Ok(Report::new()
        .figure("writes", entries.len())
        .figure("flushes", flushes)
        .figure("brought_up", looked)
        .figure("volumes_in_flight", in_flight))
}

/// The lives, on a pool whose every write goes to the log as well.
fn record(guest: &Guest, log: &Path, lives: u32) -> Result<()> {
    let dm = Dm::open()?;
    let mut loops = Vec::new();
    for (file, sectors) in [(guest.scratch().join("lower"), SECTORS), (log.to_owned(), 512 << 11)] {
        File::create(&file)?.set_len(sectors * 512)?;
        let options = LoopOptions { autoclear: false, ..LoopOptions::default() };
        loops.push(attach(&file, options)?);
    }
    let [lower, log] = loops.as_slice() else { unreachable!("two were attached") };
    let (lower, log) = (Device::open(lower.path())?.dev, Device::open(log.path())?.dev);
    let make = |name: &str, sectors: u64, kind: &str, params: String| -> Result<thin::Dev> {
        dm.create(name, &format!("TEST-{name}"))?;
        dm.load(By::Name(name), &[Target::whole(sectors, kind, &params)], false)?;
        Ok(dm.resume(By::Name(name))?.dev)
    };
    let logged = make("logged", SECTORS, "log-writes", format!("{lower} {log}"))?;
    let meta = make("logged-meta", SPLIT, "linear", format!("{logged} 0"))?;
    let data = make("logged-data", SECTORS - SPLIT, "linear", format!("{logged} {SPLIT}"))?;
    let table = format!("0 {} thin-pool {meta} {data} 128 0", SECTORS - SPLIT);
    let pool = Pool::create_from_table(dm.clone(), "logged-pool", &table)?;
    let marker = dm.clone();
    let keep = move |line: &str| -> Result<()> {
        Ok(marker.message(By::Name("logged"), &format!("mark {}", line.replace(' ', "_")))?)
    };
    let mut records = Records::of([], Box::new(keep))?;
    begin(&pool, &mut records)?;
    for _ in 0..lives {
        step(&pool, &mut records)?;
    }
    pool.remove_pool()?;
    for name in ["logged-data", "logged-meta", "logged"] {
        dm.remove(By::Name(name))?;
    }
    loops.into_iter().try_for_each(|device| device.detach().context("detach"))
}

/// Gives how many volumes were in flight there.
fn look(guest: &Guest, parts: &[std::path::PathBuf; 2], marks: &[&str]) -> Result<usize> {
    let trial = ["trial-meta", "trial-data"].map(|name| guest.scratch().join(name));
    for (part, copy) in parts.iter().zip(&trial) {
        guest.cmd("/busybox/cp").arg(part).arg(copy).run()?.expect(0)?;
    }
    let scratch = ScratchPool::open(guest.scratch(), "trial", SIZE)?;
    let mut records = Records::of(marks.iter().copied(), Box::new(|_| Ok(())))?;
    let found = scratch.pool().status()?.transaction_id();
    let wanted = [records.transaction, records.transaction + 1];
    ensure!(
        found.is_some_and(|id| wanted.contains(&id)),
        "at transaction {found:?}, not {wanted:?}"
    );
    let in_flight = settle(scratch.pool(), &mut records)?;
    scratch.close()?;
    Ok(in_flight)
}

/// One entry of the log.
#[derive(Debug)]
struct Entry {
    sector: u64,
    /// Sectors written, and where in the log they are.
    length: u64,
    content: u64,
    flushes: bool,
    mark: Option<String>,
}

const MAGIC: u64 = 0x006a_7366_7773_6872;

/// Log super block, then per entry its head in a sector of its own and what was written
/// (`struct log_write_super`, `struct log_write_entry` in the kernel's `drivers/md/dm-log-writes.c`).
fn entries(log: &File) -> Result<Vec<Entry>> {
    let field = |at: u64| -> Result<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    ensure!(field(0)? == MAGIC, "no log of writes: {:#x}", field(0)?);
    let (count, unit) = (field(16)?, field(24)? & 0xffff_ffff);
    ensure!(unit == 512, "sectors of {unit} bytes");
    let (mut at, mut found) = (512, Vec::new());
    for _ in 0..count {
        let (sector, mut length, flags, inline) =
            (field(at)?, field(at + 8)?, field(at + 16)?, field(at + 24)?);
        let mut mark = None;
        match flags {
            // DISCARD: nothing follows.
            flags if flags & 4 != 0 => length = 0,
            // MARK: its text is in the head.
            flags if flags & 8 != 0 => {
                let mut text = vec![0; usize::try_from(inline)?];
                log.read_exact_at(&mut text, at + 32)?;
                let text = String::from_utf8(text)?;
                mark = Some(text.trim_end_matches('\0').replace('_', " "));
                length = 0;
            }
            flags if flags >> 5 != 0 => bail!("an entry with flags {flags:#x}"),
            _ => {}
        }
        // FLUSH or FUA.
        found.push(Entry { sector, length, content: at + 512, flushes: flags & 3 != 0, mark });
        at += 512 + length * 512;
    }
    Ok(found)
}
