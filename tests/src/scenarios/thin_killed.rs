//! Processes killed anywhere, two at once on one thin, a holder in another mount namespace: `pool up`
//! and `tidy` find what is half made, the second one is refused, the holder is named.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thin::{Access, Act, By, Dm, ThinId};

use super::thin_invariants::{check, thin, within};
use crate::guest::{Guest, PoolSize, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_killed",
    needs: Needs { timeout_s: 300, soak_timeout_s: Some(600), ..Needs::DEFAULT },
    run,
};

const RIVALS: usize = 8;
const SIZE: PoolSize = PoolSize { data_mib: 64, metadata_kib: 4096, block_sectors: 128 };

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = ScratchPool::open(guest.scratch(), "pool", SIZE)?;
    half_made(&scratch)?;
    let kills = if guest.long() { 150 } else { 10 };
    let mended = storm(guest, &scratch, kills)?;
    rivals(guest, &scratch)?;
    holder(guest, &scratch)?;
    check(scratch.pool(), &[])?;
    scratch.close()?;
    Ok(Report::new().figure("kills", kills).figure("half_made_and_mended", mended))
}

/// Each state that a kill between two ioctls can leave, made on purpose.
fn half_made(scratch: &ScratchPool) -> Result<()> {
    let pool = scratch.pool();
    let [one, two, three] = [1, 2, 3].map(|id| ThinId::new(id).expect("24 bits"));
    for id in [one, two, three] {
        pool.create_thin(id)?;
    }
    let dm = pool.dm();
    dm.create("tableless", &pool.thin_uuid(one))?;
    pool.activate(two, "suspended", 2048, Access::ReadWrite)?;
    dm.suspend(By::Name("suspended"), false)?;
    let volume = pool.activate(three, "inactive", 2048, Access::ReadWrite)?;
    dm.load(By::Name("inactive"), &[thin::Target::whole(4096, "error", "")], false)?;
    std::fs::remove_file(volume.mapper_path())?;
    dm.message(By::Name("pool"), "reserve_metadata_snap")?;

    // One list for all, and one question about the one that came to no table.
    let before = Dm::ioctls();
    let mut listed: Vec<_> = pool.listed()?.into_iter().map(|thin| (thin.id, thin.whole)).collect();
    listed.sort_unstable();
    ensure!(listed == [(one, false), (two, true), (three, true)], "listed as {listed:?}");
    let calls = Dm::ioctls() - before;
    ensure!(calls == 2, "a list of three devices took {calls} calls");
    let suspended = pool.active_named("suspended")?;
    ensure!(suspended.is_some_and(|thin| thin.suspended && thin.id == two), "it is suspended");
    ensure!(pool.active_named("pool")?.is_none(), "the pool is none of its own volumes");

    let done: Vec<(String, Act)> =
        pool.tidy()?.into_iter().map(|tidied| (tidied.name, tidied.act)).collect();
    for wanted in [
        ("tableless", Act::Removed),
        ("suspended", Act::Resumed),
        ("inactive", Act::Cleared),
        ("inactive", Act::NodeMade),
    ] {
        let found = done.iter().any(|(name, act)| (name.as_str(), *act) == wanted);
        ensure!(found, "{wanted:?} is not among {done:?}");
    }
    ensure!(pool.release_held_root()?, "the held metadata snapshot was not seen");
    ensure!(pool.tidy()?.is_empty(), "a second time there was still something to do");
    for name in ["suspended", "inactive"] {
        std::fs::read(format!("/dev/mapper/{name}"))?;
        pool.deactivate(name)?;
    }
    for id in [one, two, three] {
        pool.delete(id)?;
    }
    check(pool, &[])
}

/// `kill -9` at moments spread over the whole of a command's life.
fn storm(guest: &Guest, scratch: &ScratchPool, kills: u32) -> Result<u32> {
    let pool = scratch.pool();
    let (origin, snap) = (ThinId::new(1)?, ThinId::new(2)?);
    pool.create_thin(origin)?;
    let mut mended = 0;
    // How long a command takes here, from its start to its end.
    let clock = Instant::now();
    for _ in 0..5 {
        thin(guest, &["exists", "1"]).run()?.expect(0)?;
    }
    let life = clock.elapsed() / 5;
    let scripts: [&[&str]; 5] = [
        &["snap", "2", "1"],
        &["activate", "2", "victim", "--size", "8M"],
        &["deactivate", "victim"],
        &["delete", "2"],
        &["usage"],
    ];
    for kill in 0..kills {
        let words = scripts[usize::try_from(kill)? % scripts.len()];
        let mut running = thin(guest, words).spawn()?;
        // Its ioctls come late in its life, on any host: from 0.7 to 1.2 of it.
        std::thread::sleep(life * 7 / 10 + life * kill / kills / 2);
        running.kill()?;
        running.wait()?;
        pool.release_held_root()?;
        mended += u32::try_from(pool.tidy()?.len())?;
        // What recovery does next: bring the volume to the state the next command expects.
        let there = pool.exists(snap)?;
        let active = pool.active()?.iter().any(|thin| thin.id == snap);
        match words[0] {
            "snap" if !there => pool.create_snap(snap, origin)?,
            "activate" if !active => {
                pool.activate(snap, "victim", 16384, Access::ReadWrite)?;
            }
            "deactivate" if active => {
                pool.deactivate("victim")?;
            }
            "delete" if there => pool.delete(snap)?,
            _ => {}
        }
        let live: &[u32] = match words[0] {
            "delete" | "usage" => &[1],
            _ => &[1, 2],
        };
        check(pool, live)?;
    }
    pool.delete(origin)?;
    Ok(mended)
}

/// One thin, many processes, one winner.
fn rivals(guest: &Guest, scratch: &ScratchPool) -> Result<()> {
    let pool = scratch.pool();
    let id = ThinId::new(1)?;
    pool.create_thin(id)?;
    let mut running = Vec::new();
    for rival in 0..RIVALS {
        let name = format!("rival{rival}");
        running.push(thin(guest, &["activate", "1", &name, "--size", "8M"]).spawn()?);
    }
    let mut winners = 0;
    for rival in running {
        match rival.wait()? {
            ran if ran.code == Some(0) => winners += 1,
            ran => drop(ran.expect_message(111, "already active as")?),
        }
    }
    ensure!(winners == 1, "{winners} processes have activated one thin");
    let active = pool.active()?;
    ensure!(active.len() == 1, "{active:?}");
    pool.deactivate(&active[0].name)?;
    pool.delete(id)?;
    Ok(())
}

/// A mount that only another mount namespace has.
fn holder(guest: &Guest, scratch: &ScratchPool) -> Result<()> {
    let pool = scratch.pool();
    let id = ThinId::new(1)?;
    pool.create_thin(id)?;
    let volume = pool.activate(id, "held", 16384, Access::ReadWrite)?;
    guest.cmd("mkfs.ext4").arg("-q").arg(volume.path()).run()?.expect(0)?;
    let flag = guest.scratch().join("mounted");
    let script = format!(
        "mount -t ext4 {} /mnt && touch {} && exec sleep 600",
        volume.path().display(),
        flag.display()
    );
    std::fs::create_dir_all("/mnt")?;
    let mut sleeper = guest.cmd("unshare").args(["-m", "/busybox/sh", "-c", &script]).spawn()?;
    ensure!(within(Duration::from_secs(20), || Ok(flag.exists()))?, "nothing was mounted");
    let refused = thin(guest, &["--wait-ms", "300", "deactivate", "held"]).run()?;
    let refused = refused.expect_message(111, "still open after")?;
    ensure!(refused.stderr.contains("/mnt"), "the mount is not named: {refused}");
    sleeper.kill()?;
    sleeper.wait()?;
    thin(guest, &["deactivate", "held"]).run()?.expect(0)?;
    pool.delete(id)?;
    Ok(())
}
