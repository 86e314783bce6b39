//! Repaired, grown, written to the end: after thin_repair has rebuilt the metadata, every block that the
//! pool grows by can be written, and metadata that grows can be used. Space maps that were left short by
//! an older repair are told of by `room` and `grow`, and mended by `pool repair`.

use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thin::loopdev::{LoopOptions, attach};
use thin::{Access, DataBlockSize, Dm, DmName, InitOptions, RepairAct, Store, ThinId, UpOptions};

use super::thin_invariants::{check, down, thin};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "thin_repair_grow", needs: Needs { timeout_s: 400, ..Needs::DEFAULT }, run };

const MIB: u64 = 1 << 20;
/// Thins whose roots alone are more metadata blocks than the pool begins with.
const THINS: u64 = 700;

fn run(guest: &mut Guest) -> Result<Report> {
    let dir = guest.scratch().join("pool");
    let dm = Dm::open()?;
    let (mut store, up) = Store::init(dm.clone(), &dir, &options("pool")?)?;
    let one = ThinId::new(1)?;
    up.pool.create_thin(one)?;
    write(&up.pool, one, 0..8)?;
    store.down(&dm)?;
    spoil(&dir.join("metadata"))?;
    let repaired = store.repair(Some(&dm), false)?;
    ensure!(repaired.act == RepairAct::Rebuilt, "{repaired:?}");

    let pool = store.up(dm.clone(), UpOptions::default())?.pool;
    let status = store.grow(&dm, Some(64 * MIB), Some(8 * MIB))?;
    let totals = status.working().map(|w| (w.total_data.0, w.total_metadata));
    ensure!(totals == Some((1024, 2048)), "after growing: {status:?}");
    thin(guest, &["room", "50M"]).run()?.expect(0)?;
    write(&pool, one, 8..63).context("what was grown")?;
    for number in 0..THINS {
        let id = ThinId::new(1000 + number)?;
        pool.create_thin(id).with_context(|| format!("the metadata that was grown: {number}"))?;
    }
    let live: Vec<u32> = [1].into_iter().chain(1000..1000 + u32::try_from(THINS)?).collect();
    check(&pool, &live)?;
    down(&mut store, &dir)?;
    drop(store);
    older(guest)?;
    Ok(Report::new().figure("thins", THINS))
}

/// A pool whose metadata thin_repair has rebuilt and nobody has counted again.
fn older(guest: &Guest) -> Result<()> {
    let dir = guest.scratch().join("old");
    let dm = Dm::open()?;
    let (mut store, up) = Store::init(dm.clone(), &dir, &options("old")?)?;
    let one = ThinId::new(1)?;
    up.pool.create_thin(one)?;
    write(&up.pool, one, 0..8)?;
    store.down(&dm)?;
    drop(store);
    let [from, to] =
        ["metadata", "spare"].map(|name| attach(&dir.join(name), LoopOptions::default()));
    let (from, to) = (from?, to?);
    let words = ["-i".as_ref(), from.path().as_os_str(), "-o".as_ref(), to.path().as_os_str()];
    guest.cmd("thin_repair").args(words).run()?.expect(0)?;
    drop((from, to));
    // The tool writes no id, so the header gets none either.
    let path = dir.join("pool.json");
    let mut header: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    header["id"] = "0".repeat(32).into();
    header["last_down"] = Value::Null;
    let (metadata, spare) = (header["metadata"].take(), header["spare"].take());
    (header["metadata"], header["spare"]) = (spare, metadata);
    std::fs::write(&path, header.to_string())?;

    let typed = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        thin(guest, &words).env("VENEER_POOL", "old").dir(guest.scratch()).run()
    };
    typed("pool up old")?.expect(0)?;
    typed("room 20M")?.expect(0)?;
    typed("pool grow old --data 64M")?.expect_message(100, "512 data and 0 metadata blocks")?;
    typed("pool status old")?.expect(0)?;
    typed("room 20M")?.expect(0)?;
    typed("room 50M")?.expect(1)?;
    typed("doctor old")?.expect(1)?;
    typed("pool down old")?.expect(0)?;
    typed("pool repair old --dry-run")?.expect(1)?;
    let repaired = typed("pool repair old")?.expect(0)?;
    ensure!(repaired.text()?.contains("recounted"), "{repaired}");
    typed("pool repair old --dry-run")?.expect(0)?;
    typed("pool up old")?.expect(0)?;
    typed("room 50M")?.expect(0)?;
    let mut store = Store::open(&dir)?;
    let pool = store.live(&dm)?.context("the pool is up")?;
    write(&pool, one, 8..63).context("what the older repair had left out")?;
    down(&mut store, &dir)
}

fn options(name: &str) -> Result<InitOptions> {
    Ok(InitOptions {
        name: DmName::new(name)?,
        data_bytes: 32 * MIB,
        metadata_bytes: Some(2 * MIB),
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: None,
        sparse: false,
    })
}

/// Writes these MiB of the thin, each past the page cache.
fn write(pool: &thin::Pool, id: ThinId, mib: std::ops::Range<u64>) -> Result<()> {
    let volume = pool.activate(id, "written", 64 * MIB / 512, Access::ReadWrite)?;
    let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
    let chunk = vec![3; 1 << 20];
    let mut wrote = Ok(());
    for at in mib {
        wrote = file
            .write_all_at(&chunk, at * MIB)
            .and_then(|()| file.sync_data())
            .with_context(|| format!("MiB {at}; {:?}", pool.status()));
        if wrote.is_err() {
            break;
        }
    }
    drop(file);
    pool.deactivate("written")?;
    wrote
}

/// Spoils the index of the metadata's own space map: the thins are still to be found.
fn spoil(metadata: &Path) -> Result<()> {
    let mut content = std::fs::read(metadata)?;
    // Of the superblock: where that index is.
    let root = content.get(192 + 16..192 + 24).context("a superblock")?;
    let at = usize::try_from(u64::from_le_bytes(root.try_into()?))? * 4096;
    for byte in content.get_mut(at + 512..at + 4096).context("an index")? {
        *byte ^= 0xff;
    }
    Ok(std::fs::write(metadata, &content)?)
}
