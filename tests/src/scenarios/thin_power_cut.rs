//! The power goes while volumes are made, written, sealed and deleted, on disks that lose what was not
//! flushed. Each time the pool comes up again by itself, every sealed volume has its bytes and a
//! clean file system, and what was in flight is there or not, and can be deleted.
//!
//! The records beside the pool are a log of lines, each synced before the next step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use thin::template::{FormatOptions, format};
use thin::{Access, DataBlockSize, Dm, DmName, InitOptions, Pool, Store, ThinId, UpOptions, mount};

use super::thin_invariants::{check, fsck};
use crate::guest::{Guest, ScratchExt4};
use crate::scenario::{Needs, PowerCuts, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_power_cut",
    needs: Needs {
        // Data, metadata, and the file system of header and records.
        disks: &[256, 16, 32],
        power_cuts: Some(PowerCuts { count: 2, soak: 100, within_ms: 3000 }),
        soak_timeout_s: Some(120),
        ..Needs::DEFAULT
    },
    run,
};

const SECTORS: u64 = 64 << 11;
const TEMPLATE: u32 = 1;
/// Sealed volumes that are kept; beyond it one is deleted for each that is made.
const KEPT: usize = 6;

fn run(guest: &mut Guest) -> Result<Report> {
    let mount = guest.scratch().join("host");
    let host = ScratchExt4::on_disk(&guest.disk(2)?, &mount)?;
    let dir = mount.join("pool");
    let log = mount.join("records");
    let dm = Dm::open()?;
    if guest.phase() == 0 {
        begin(guest, &dm, &dir, &log)?;
    }
    let mut records = Records::read(&log)?;
    let seen = records.lines;
    guest.cmd("thin_check").arg(guest.disk(1)?).run()?.expect(0).context("before `up`")?;
    let mut store = Store::open(&dir)?;
    let expected_transaction = Some(records.transaction);
    let up = store.up(dm.clone(), UpOptions { expected_transaction, ..UpOptions::default() })?;
    let pool = up.pool;
    let mended = settle(&pool, &mut records)?;
    eprintln!("phase {}: {seen} records, {mended} in flight, {records:?}", guest.phase());

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

fn begin(guest: &Guest, dm: &Dm, dir: &Path, log: &Path) -> Result<()> {
    let options = InitOptions {
        name: DmName::new("cut")?,
        data_bytes: 0,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: Some(guest.disk(0)?),
        metadata_device: Some(guest.disk(1)?),
        sparse: false,
    };
    let (mut store, up) = Store::init(dm.clone(), dir, &options)?;
    let template = ThinId::new(u64::from(TEMPLATE))?;
    up.pool.create_thin(template)?;
    let volume = up.pool.activate(template, "template", SECTORS, Access::ReadWrite)?;
    format(&volume.path(), &FormatOptions::default())?;
    up.pool.deactivate("template")?;
    up.pool.commit()?;
    let mut records = Records::read(log)?;
    records.note("transaction 0")?;
    records.note(&format!("sealed {TEMPLATE} 0"))?;
    store.down(dm)?;
    Ok(())
}

/// One life of a volume, and often the end of another.
fn step(pool: &Pool, records: &mut Records) -> Result<()> {
    let number = records.next;
    let origins: Vec<u32> = records.sealed.keys().copied().collect();
    let origin = origins[usize::try_from(number)? * 7 % origins.len()];
    let id = ThinId::new(u64::from(number))?;
    records.note(&format!("try {number}"))?;
    pool.create_snap(id, ThinId::new(u64::from(origin))?)?;
    let volume = pool.activate(id, "work", SECTORS, Access::ReadWrite)?;
    let mounted = mount::detached(&volume.path(), "ext4", &[("noinit_itable", None)], false)?;
    let root = mount::open_root(mounted.as_fd())?;
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let mut file = File::from(rustix::fs::openat(&root, name(number), flags, Mode::from(0o600))?);
    file.write_all(&content(number))?;
    drop((file, root));
    mount::sync(mounted.as_fd())?;
    drop(mounted);
    pool.deactivate("work")?;
    pool.commit()?;
    records.note(&format!("sealed {number} {origin}"))?;
    let transaction = records.transaction;
    pool.set_transaction_id(transaction, transaction + 1)?;
    records.note(&format!("transaction {}", transaction + 1))?;
    // The template stays.
    if records.sealed.len() > KEPT {
        let gone = origins[1 + usize::try_from(number)? * 5 % (origins.len() - 1)];
        records.note(&format!("deleting {gone}"))?;
        pool.delete(ThinId::new(u64::from(gone))?)?;
        records.note(&format!("deleted {gone}"))?;
    }
    Ok(())
}

/// What must hold after a cut; then what was in flight is deleted.
fn settle(pool: &Pool, records: &mut Records) -> Result<usize> {
    let there: BTreeSet<u32> = pool.ids()?.iter().map(|record| record.id.get()).collect();
    for (id, family) in &records.sealed {
        ensure!(there.contains(id), "sealed {id} is not in the pool: {there:?}");
        fsck(pool, &[*id], SECTORS)?;
        let volume =
            pool.activate(u64::from(*id).try_into()?, "look", SECTORS, Access::ReadOnly)?;
        let looked = mount::detached(&volume.path(), "ext4", &[], true)
            .map_err(anyhow::Error::from)
            .and_then(|mounted| same(&mounted, family));
        pool.deactivate("look")?;
        looked.with_context(|| format!("sealed {id}"))?;
    }
    let mut mended = 0;
    for id in records.in_flight.clone() {
        if there.contains(&id) {
            pool.delete(ThinId::new(u64::from(id))?)?;
            mended += 1;
        }
        records.note(&format!("settled {id}"))?;
    }
    check(pool, &records.sealed.keys().copied().collect::<Vec<u32>>())?;
    Ok(mended)
}

/// Exactly the files of these numbers, and `lost+found`.
fn same(mounted: &impl AsFd, family: &BTreeSet<u32>) -> Result<()> {
    let root = mount::open_root(mounted.as_fd())?;
    let mut left = family.clone();
    for entry in rustix::fs::Dir::read_from(&root)? {
        let entry = entry?.file_name().to_string_lossy().into_owned();
        if [".", "..", "lost+found"].contains(&entry.as_str()) {
            continue;
        }
        let number = family.iter().find(|number| name(**number) == entry);
        let Some(number) = number else { bail!("a file \"{entry}\" too many") };
        let mut found = Vec::new();
        let opened = rustix::fs::openat(&root, &entry, OFlags::RDONLY, Mode::empty())?;
        File::from(opened).read_to_end(&mut found)?;
        ensure!(found == content(*number), "\"{entry}\" has other bytes");
        left.remove(number);
    }
    ensure!(left.is_empty(), "without the files of {left:?}");
    Ok(())
}

fn name(number: u32) -> String {
    format!("file-{number}")
}

/// 0 to 1 MiB that no other number has.
fn content(number: u32) -> Vec<u8> {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = usize::try_from(state >> 47).unwrap_or_default();
    let mut out = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out
}

/// The records: which volumes are sealed, with the files of which, and what was in flight.
#[derive(Debug)]
struct Records {
    file: File,
    sealed: BTreeMap<u32, BTreeSet<u32>>,
    in_flight: BTreeSet<u32>,
    transaction: u64,
    next: u32,
    lines: usize,
    settled: usize,
}

impl Records {
    fn read(path: &Path) -> Result<Records> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut records = Records {
            file,
            sealed: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            transaction: 0,
            next: TEMPLATE + 1,
            lines: 0,
            settled: 0,
        };
        // A line without its end was not acknowledged; the next one ends it, and is then odd too.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            records.take(line.trim_end()).with_context(|| format!("record \"{line}\""))?;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            records.file.set_len(u64::try_from(whole)?)?;
        }
        Ok(records)
    }

    fn note(&mut self, line: &str) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_all()?;
        self.take(line)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        self.lines += 1;
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["transaction", number] => self.transaction = number.parse()?,
            ["try", id] => {
                let id: u32 = id.parse()?;
                self.next = id + 1;
                self.in_flight.insert(id);
            }
            ["sealed", id, origin] => {
                let (id, origin): (u32, u32) = (id.parse()?, origin.parse()?);
                let mut family = self.sealed.get(&origin).cloned().unwrap_or_default();
                if id != TEMPLATE {
                    family.insert(id);
                }
                self.in_flight.remove(&id);
                self.sealed.insert(id, family);
            }
            ["deleting", id] => {
                let id: u32 = id.parse()?;
                self.sealed.remove(&id);
                self.in_flight.insert(id);
            }
            ["deleted", id] => {
                self.in_flight.remove(&id.parse::<u32>()?);
            }
            ["settled", id] => {
                self.in_flight.remove(&id.parse::<u32>()?);
                self.settled += 1;
            }
            _ => bail!("it makes no sense"),
        }
        Ok(())
    }
}
