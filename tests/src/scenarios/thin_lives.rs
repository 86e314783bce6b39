//! The lives of volumes: made as snapshots, written, sealed and deleted, with a record of each step; and
//! what of them must be in a pool that lost its power on the way. Not a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use thin::template::{FormatOptions, format};
use thin::{Access, Pool, ThinId, mount};

use super::thin_invariants::{check, fsck};

/// Length of every volume.
pub(crate) const SECTORS: u64 = 64 << 11;
/// The first volume, which stays.
pub(crate) const TEMPLATE: u32 = 1;
/// Sealed volumes that are kept; beyond it one is deleted for each that is made.
const KEPT: usize = 6;

/// Makes the template.
///
/// # Errors
/// Those of its steps.
pub(crate) fn begin(pool: &Pool, records: &mut Records) -> Result<()> {
    let template = ThinId::new(u64::from(TEMPLATE))?;
    pool.create_thin(template)?;
    let volume = pool.activate(template, "template", SECTORS, Access::ReadWrite)?;
    format(&volume.path(), &FormatOptions::default())?;
    pool.deactivate("template")?;
    pool.commit()?;
    records.note("transaction 0")?;
    records.note(&format!("sealed {TEMPLATE} 0"))
}

/// One life of a volume, and often the end of another.
///
/// # Errors
/// Those of its steps.
pub(crate) fn step(pool: &Pool, records: &mut Records) -> Result<()> {
    let number = records.next;
    let origins: Vec<u32> = records.sealed.keys().copied().collect();
    let origin = origins[usize::try_from(number)? * 7 % origins.len()];
    let id = ThinId::new(u64::from(number))?;
    records.note(&format!("try {number}"))?;
    pool.create_snap(id, ThinId::new(u64::from(origin))?)?;
    let volume = pool.activate(id, "work", SECTORS, Access::ReadWrite)?;
    // Without barriers nothing but the commit below makes it last, as when layers are built.
    let options = [("noinit_itable", None), ("barrier", Some("0"))];
    let mounted = mount::detached(&volume.path(), "ext4", &options, false)?;
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
    // A power cut now finds a volume that is sealed and nothing after it.
    std::thread::sleep(Duration::from_millis(100));
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
///
/// # Errors
/// What does not hold.
pub(crate) fn settle(pool: &Pool, records: &mut Records) -> Result<usize> {
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
pub(crate) struct Records {
    keep: Keep,
    /// Sealed volumes, each with the numbers of its files.
    pub(crate) sealed: BTreeMap<u32, BTreeSet<u32>>,
    in_flight: BTreeSet<u32>,
    pub(crate) transaction: u64,
    pub(crate) next: u32,
    pub(crate) lines: usize,
    pub(crate) settled: usize,
}

/// Makes a line outlive a power cut.
pub(crate) type Keep = Box<dyn FnMut(&str) -> Result<()>>;

impl Records {
    /// As these lines say, and `keep` keeps further ones.
    ///
    /// # Errors
    /// A line makes no sense.
    pub(crate) fn of<'a>(lines: impl IntoIterator<Item = &'a str>, keep: Keep) -> Result<Records> {
        let mut records = Records {
            keep,
            sealed: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            transaction: 0,
            next: TEMPLATE + 1,
            lines: 0,
            settled: 0,
        };
        for line in lines {
            records.take(line).with_context(|| format!("record \"{line}\""))?;
        }
        Ok(records)
    }

    fn note(&mut self, line: &str) -> Result<()> {
        (self.keep)(line)?;
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
