//! A layer that is larger than the pool, again and again: an error within five seconds, nothing stuck, the
//! volume gone, the pool back, the other volumes readable, and every block found again.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use thin::template::{FormatOptions, format};
use thin::{
    Access, DataBlockSize, Dm, DmName, InitOptions, Kind, Need, Pool, Reserve, Store, ThinId, mount,
};

use super::thin_invariants::{check, down, fsck, stuck, used, within};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_full_data",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(1500), ..Needs::DEFAULT },
    run,
};

const SECTORS: u64 = 512 << 11;
const LIMIT: Duration = Duration::from_secs(5);

fn run(guest: &mut Guest) -> Result<Report> {
    let options = InitOptions {
        name: DmName::new("full")?,
        data_bytes: 64 << 20,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: None,
        metadata_device: None,
        sparse: false,
    };
    let (mut store, up) = Store::init(Dm::open()?, &guest.scratch().join("pool"), &options)?;
    let pool = up.pool;
    let [template, reader, layer] = [1, 2, 3].map(ThinId::new).map(|id| id.expect("24 bits"));
    pool.create_thin(template)?;
    let volume = pool.activate(template, "template", SECTORS, Access::ReadWrite)?;
    format(&volume.path(), &FormatOptions::default())?;
    let mounted = mount::detached(&volume.path(), "ext4", &[], false)?;
    let failed = write(&mounted, "known", 1 << 20)?;
    ensure!(failed.is_none(), "1 MiB: {failed:?}");
    drop(mounted);
    pool.deactivate("template")?;
    pool.create_snap(reader, template)?;
    pool.activate(reader, "reader", SECTORS, Access::ReadOnly)?;

    // Asked before, the pool says no.
    let need = Need { bytes: 200 << 20, pieces: 0, volumes: 1 };
    let refusal = pool.admit(need, Reserve::default()).map_err(|err| err.kind());
    ensure!(refusal == Err(Kind::NoSpace), "admission of 200 MiB: {refusal:?}");

    let start = used(&pool)?;
    let mut slowest = Duration::ZERO;
    let rounds = if guest.long() { 50 } else { 3 };
    for round in 0..rounds {
        let took = fill(&pool, layer, template).with_context(|| format!("round {round}"))?;
        slowest = slowest.max(took);
        ensure!(took < LIMIT, "round {round}: the error took {took:?}");
        let back = within(Duration::from_secs(2), || Ok(pool.status()?.is_writable()))?;
        ensure!(back, "round {round}: {:?}", pool.status()?);
        ensure!(used(&pool)? == start, "round {round}: {} blocks, not {start}", used(&pool)?);
        let blocked = stuck()?;
        ensure!(blocked.is_empty(), "round {round}: in D state: {blocked:?}");
        read_back(&pool).with_context(|| format!("round {round}"))?;
    }
    check(&pool, &[1, 2])?;
    pool.deactivate("reader")?;
    fsck(&pool, &[1, 2], SECTORS)?;
    down(&mut store, &guest.scratch().join("pool"))?;
    Ok(Report::new()
        .figure("rounds", rounds)
        .figure("slowest_error_s", slowest.as_secs_f64())
        .figure("blocks_used_before_and_after", start))
}

/// Writes 200 MiB into a pool of 64; gives the time until the error was seen.
fn fill(pool: &Pool, layer: ThinId, template: ThinId) -> Result<Duration> {
    pool.create_snap(layer, template)?;
    let volume = pool.activate(layer, "layer", SECTORS, Access::ReadWrite)?;
    let mounted = mount::detached(&volume.path(), "ext4", &[("noexec", None)], false)?;
    let ended = write(&mounted, "layer", 200 << 20)?;
    let Some((took, err)) = ended else { anyhow::bail!("200 MiB fitted into 64") };
    // Whatever of it is still on its way fails now, and none of that may hang either.
    let start = Instant::now();
    let synced = mount::sync(mounted.as_fd()).map_err(|err| err.raw_errno());
    let took = took.max(start.elapsed());
    eprintln!("error after {took:?}: {err}; then the sync: {synced:?}");
    drop(mounted);
    pool.deactivate("layer")?;
    pool.delete(layer)?;
    Ok(took)
}

/// Writes and syncs piece by piece; gives the first error, and how long its piece took.
fn write(
    mounted: &impl AsFd,
    name: &str,
    bytes: usize,
) -> Result<Option<(Duration, std::io::Error)>> {
    let root = mount::open_root(mounted.as_fd())?;
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let mut file = File::from(rustix::fs::openat(&root, name, flags, Mode::from(0o600))?);
    let chunk = vec![0x5a; 1 << 20];
    for _ in 0..bytes >> 20 {
        let start = Instant::now();
        if let Err(err) = file.write_all(&chunk).and_then(|()| file.sync_data()) {
            return Ok(Some((start.elapsed(), err)));
        }
    }
    Ok(None)
}

fn read_back(pool: &Pool) -> Result<()> {
    let volume = pool.volume("reader")?;
    let mounted = mount::detached(&volume.path(), "ext4", &[], true)?;
    let root = mount::open_root(mounted.as_fd())?;
    let file = File::from(rustix::fs::openat(&root, "known", OFlags::RDONLY, Mode::empty())?);
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut &file, &mut content)?;
    ensure!(content.len() == 1 << 20, "the other volume's file has {} bytes", content.len());
    ensure!(content.iter().all(|&byte| byte == 0x5a), "the other volume's file changed");
    Ok(())
}
