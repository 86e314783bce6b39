//! Damages on a pool that stop all until they are mended: every command refuses and says what to do,
//! nothing moves, and after the repair that the guide has everything is there again. Not a scenario.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::wedge::probe;
use super::wedge_harm::{Kind, free_name};
use super::wedge_host::{Kept, REFERENCES, Wedge};
use crate::guest::{Cmd, Ran};

pub(crate) const STOPS: &[Stop] = &[
    Stop::Reboot,
    Stop::FilesMoved,
    Stop::RegistryGone,
    Stop::RegistryGonePoolDown,
    Stop::RegistryEmpty,
    Stop::RegistryOlder,
    Stop::StateTwice,
    Stop::StateCopied,
    Stop::DataFull,
    Stop::PoolsName,
    Stop::Grown,
    Stop::DaemonStarted,
    Stop::Killed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Every device goes, as in a reboot; then the pool comes up, and what was up.
    Reboot,
    /// The same, and the pool's files have moved meanwhile.
    FilesMoved,
    RegistryGone,
    RegistryGonePoolDown,
    RegistryEmpty,
    /// A backup of another day is put in its place.
    RegistryOlder,
    /// A second, empty state directory is pointed at the pool.
    StateTwice,
    /// A copy of the state directory is used beside it.
    StateCopied,
    /// A thin of somebody else's takes the last block.
    DataFull,
    /// The name of the pool itself is asked for.
    PoolsName,
    /// An activation grows, by `thin`, while it is up.
    Grown,
    DaemonStarted,
    /// A command is killed in the middle.
    Killed,
}

const ACTIVATE: &[&str] = &["activate", REFERENCES[2], "--name", "tried"];

/// What is tried on a host that can do nothing. None of it may change anything.
const TRIED: &[&[&str]] = &[
    ACTIVATE,
    &["ls"],
    &["recover"],
    &["gc"],
    &["ensure", REFERENCES[0]],
    &["rm", "n-2"],
    &["runs"],
    &["df"],
    &["verify"],
];

impl Stop {
    pub(crate) fn happens(self, wedge: &mut Wedge<'_>) -> Result<()> {
        match self {
            Stop::DaemonStarted => return wedge.start_daemon(),
            Stop::PoolsName => return pools_name(wedge),
            Stop::Grown => return grown(wedge),
            _ => wedge.kill_daemon()?,
        }
        match self {
            Stop::Reboot => reboot(wedge, None),
            Stop::FilesMoved => files_moved(wedge),
            Stop::RegistryGone | Stop::RegistryEmpty => lost(wedge, self == Stop::RegistryEmpty),
            Stop::RegistryGonePoolDown => gone_and_down(wedge),
            Stop::RegistryOlder => older(wedge),
            Stop::StateTwice => twice(wedge),
            Stop::StateCopied => copied(wedge),
            Stop::DataFull => full(wedge),
            Stop::Killed => killed(wedge),
            Stop::DaemonStarted | Stop::PoolsName | Stop::Grown => Ok(()),
        }
    }
}

fn refused_so(ran: Ran, codes: &[i32], word: &str) -> Result<()> {
    let code = ran.code.is_some_and(|code| codes.contains(&code));
    ensure!(code && ran.stderr.contains(word), "to be refused with {codes:?} and {word:?}: {ran}");
    Ok(())
}

/// Some of what an operator tries is refused so.
fn refused(wedge: &mut Wedge<'_>, tries: usize, codes: &[i32], word: &str) -> Result<()> {
    let before = wedge.pool_shape()?;
    for at in 0..tries {
        let words = if at == 0 { Some(ACTIVATE) } else { wedge.one_of(TRIED) };
        let ran = wedge.run(words.unwrap_or(ACTIVATE))?;
        refused_so(ran, codes, word)?;
    }
    let after = wedge.pool_shape()?;
    ensure!(before == after, "refused, and the pool moved:\n{before}\n{after}");
    wedge.foreign_is_as_it_was()
}

fn database(wedge: &Wedge<'_>) -> PathBuf {
    wedge.state.join("registry.db")
}

fn remove_registry(wedge: &Wedge<'_>) {
    for part in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        drop(std::fs::remove_file(wedge.state.join(part)));
    }
}

/// What nobody may do in a reboot, or would have to look at once more after it: mended first.
fn mend_all(wedge: &mut Wedge<'_>, kinds: &[Kind]) -> Result<()> {
    while let Some(at) = wedge.standing.iter().position(|harm| kinds.contains(&harm.kind)) {
        let harm = wedge.standing.remove(at);
        harm.mend(wedge)?;
    }
    wedge.settle()
}

/// Nothing is mapped any more, as after a power cut; nobody of ours was asked.
fn all_down(wedge: &mut Wedge<'_>) -> Result<()> {
    mend_all(
        wedge,
        &[Kind::Held, Kind::LayerLookedAt, Kind::ForeignActive, Kind::NameTaken, Kind::Renamed],
    )?;
    let listed = wedge.dmsetup(&["ls", "--target", "thin"])?.expect(0)?;
    for line in listed.text()?.lines().filter(|line| line.contains('(')) {
        let name = line.split_whitespace().next().unwrap_or_default();
        wedge.dmsetup(&["remove", name])?.expect(0)?;
    }
    let dir = wedge.dir_text();
    wedge.thin(&["pool", "down", &dir])?.expect(0)?;
    Ok(())
}

/// With the pool down every command says so; then it comes up, and all that was up.
fn reboot(wedge: &mut Wedge<'_>, moved_to: Option<&Path>) -> Result<()> {
    all_down(wedge)?;
    for words in [ACTIVATE, TRIED[1]] {
        let ran = wedge.run(words)?;
        refused_so(ran, &[100, 111], "thin pool up")?;
    }
    if let Some(to) = moved_to {
        Cmd::new("cp").arg("-a").arg(&wedge.dir).arg(to).run()?.expect(0)?;
        std::fs::remove_dir_all(&wedge.dir)?;
        wedge.dir = to.to_owned();
        let dir = wedge.dir_text();
        let ran = wedge.thin(&["pool", "up", &dir])?;
        refused_so(ran, &[100], "--moved")?;
        wedge.thin(&["pool", "up", &dir, "--moved"])?.expect(0)?;
    } else {
        let dir = wedge.dir_text();
        wedge.thin(&["pool", "up", &dir])?.expect(0)?;
    }
    let ran = wedge.run(&["recover"])?;
    ensure!(ran.code == Some(0) || !wedge.standing.is_empty(), "after a reboot: {ran}");
    wedge.untouched()
}

/// And the next boot knows where they are now.
fn files_moved(wedge: &mut Wedge<'_>) -> Result<()> {
    let to = wedge.fresh("pool");
    let to = wedge.scratch().join(to);
    reboot(wedge, Some(&to))?;
    reboot(wedge, None)
}

fn lost(wedge: &mut Wedge<'_>, empty: bool) -> Result<()> {
    mend_all(wedge, &[Kind::LayerGone, Kind::LayerLookedAt, Kind::Renamed])?;
    remove_registry(wedge);
    if empty {
        std::fs::write(database(wedge), b"")?;
    }
    let there = |wedge: &Wedge<'_>| std::fs::metadata(database(wedge)).map(|f| f.len()).ok();
    let before = there(wedge);
    refused(wedge, 3, &[100, 111], "rebuild")?;
    let health = wedge.run(&["health"])?;
    let said = health.code == Some(1) && health.text()?.contains("rebuild");
    ensure!(said, "health does not say that the registry is lost: {health}");
    wedge.must(&["rebuild", "-n"])?;
    let after = there(wedge);
    ensure!(before == after, "a registry was made: {before:?}, {after:?}");
    wedge.must(&["rebuild"])?;
    wedge.backup = None;
    wedge.adopt()
}

/// Nobody can know whose the pool is: nothing is made, and later is the time.
fn gone_and_down(wedge: &mut Wedge<'_>) -> Result<()> {
    mend_all(wedge, &[Kind::LayerGone])?;
    all_down(wedge)?;
    remove_registry(wedge);
    for words in [ACTIVATE, TRIED[1], TRIED[2]] {
        let ran = wedge.run(words)?;
        refused_so(ran, &[100, 111], "thin pool up")?;
    }
    ensure!(!database(wedge).exists(), "a registry was made while the pool was down");
    let dir = wedge.dir_text();
    wedge.thin(&["pool", "up", &dir])?.expect(0)?;
    wedge.must(&["rebuild"])?;
    wedge.backup = None;
    wedge.adopt()
}

/// Of another day, it is refused; of the same moment, it is the right one.
fn older(wedge: &mut Wedge<'_>) -> Result<()> {
    let Some(backup) = wedge.backup.clone() else {
        let backup = wedge.fresh("backup");
        let backup = wedge.scratch().join(backup);
        let registry = Cmd::new("registry").arg("--state").arg(&wedge.state).arg("backup");
        registry.arg(&backup).run()?.expect(0)?;
        wedge.backup = Some(backup);
        return Ok(());
    };
    mend_all(wedge, &[Kind::LayerGone, Kind::LayerLookedAt, Kind::Renamed])?;
    wedge.backup = None;
    remove_registry(wedge);
    std::fs::copy(&backup, database(wedge))?;
    let ran = wedge.run(&["recover", "--no-resume"])?;
    if ran.code == Some(100) && ran.stderr.contains("out of step") {
        let told = wedge.told(&["rebuild".into()])?;
        ensure!(told, "health does not say that it is of another day");
        wedge.must(&["rebuild"])?;
    } else {
        ensure!(ran.code == Some(0) || !wedge.standing.is_empty(), "{ran}");
    }
    wedge.adopt()
}

fn second(wedge: &Wedge<'_>) -> PathBuf {
    wedge.scratch().join("state-2")
}

/// Somebody points another state directory at the pool: it is refused, and the first one goes on.
fn twice(wedge: &mut Wedge<'_>) -> Result<()> {
    let before = wedge.pool_text()?;
    for words in [ACTIVATE, TRIED[1], TRIED[3]] {
        let ran = wedge.cmd_on(&second(wedge), words).run()?;
        refused_so(ran, &[100, 111], "rebuild")?;
    }
    ensure!(before == wedge.pool_text()?, "refused, and the pool moved: {before}");
    ensure!(!second(wedge).join("registry.db").exists(), "a second registry was made");
    drop(std::fs::remove_dir_all(second(wedge)));
    Ok(())
}

/// Of two copies the one that was not used last is of another day.
fn copied(wedge: &mut Wedge<'_>) -> Result<()> {
    Cmd::new("cp").arg("-a").arg(&wedge.state).arg(second(wedge)).run()?.expect(0)?;
    probe(wedge)?;
    let before = wedge.pool_text()?;
    for words in [ACTIVATE, TRIED[2]] {
        let ran = wedge.cmd_on(&second(wedge), words).run()?;
        refused_so(ran, &[100], "out of step")?;
    }
    ensure!(before == wedge.pool_text()?, "refused, and the pool moved: {before}");
    std::fs::remove_dir_all(second(wedge))?;
    Ok(())
}

/// Whatever needs room says so; with room again, all of it goes on.
fn full(wedge: &mut Wedge<'_>) -> Result<()> {
    let id = wedge.next_id()? + 50;
    wedge.dmsetup(&["message", "veneer", "0", &format!("create_thin {id}")])?.expect(0)?;
    let table = format!("0 1048576 thin /dev/mapper/veneer {id}");
    wedge.dmsetup(&["create", "ballast", "--table", &table])?.expect(0)?;
    let fill = "dd if=/dev/zero of=/dev/mapper/ballast bs=1M oflag=direct";
    Cmd::new("/busybox/sh").args(["-c", fill]).run()?;
    let words = ["activate", REFERENCES[2], "--name", "tried"];
    let ran = wedge.run(&words)?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(ran.code == Some(111) && text.contains("\"no_space\""), "the pool is full: {ran}");
    let told = wedge.told(&["out_of_data_space".into(), "used".into()])?;
    ensure!(told, "health does not tell of the full pool");
    wedge.untouched()?;
    wedge.dmsetup(&["remove", "ballast"])?.expect(0)?;
    wedge.dmsetup(&["message", "veneer", "0", &format!("delete {id}")])?.expect(0)?;
    Ok(())
}

/// Names of devices that are there are refused before anything is reserved.
fn pools_name(wedge: &mut Wedge<'_>) -> Result<()> {
    let before = wedge.pool_shape()?;
    let ran = wedge.run(&["activate", REFERENCES[2], "--name", "veneer"])?;
    refused_so(ran, &[100], "veneer")?;
    let after = wedge.pool_shape()?;
    ensure!(before == after, "refused, and the pool moved:\n{before}\n{after}");
    let rows = wedge.rows("activations")?;
    ensure!(rows.iter().all(|row| row["name"] != "veneer"), "refused, and reserved: {rows:?}");
    Ok(())
}

/// What was grown stays so large, and its file system is sound.
fn grown(wedge: &mut Wedge<'_>) -> Result<()> {
    let name = free_name(wedge);
    let Some(kept) = wedge.acts.get(name).cloned().filter(|kept| kept.up) else { return Ok(()) };
    let bytes = |wedge: &mut Wedge<'_>| -> Result<u64> {
        let shown = wedge.must(&["show", name])?;
        Ok(shown["activation"]["bytes"].as_u64().unwrap_or_default())
    };
    let larger = bytes(wedge)? + (128 << 20);
    wedge.thin(&["grow", name, "--size", &larger.to_string()])?.expect(0)?;
    wedge.must(&["deactivate", name])?;
    let device = wedge.must(&["activate", REFERENCES[kept.image], "--name", name])?;
    ensure!(device["bytes"].as_u64() >= Some(larger), "{name} had {larger} bytes: {device}");
    wedge.reads_right(name)
}

/// At a random moment; then `recover` brings it to an end, and the rest has not moved.
fn killed(wedge: &mut Wedge<'_>) -> Result<()> {
    let name = free_name(wedge);
    let images = wedge.well_images();
    let Some(image) = wedge.one_of(&images) else { return Ok(()) };
    let kept = wedge.acts.get(name).cloned();
    let words: Vec<&str> = match (&kept, wedge.dice.roll(4)) {
        (None, _) => vec!["activate", REFERENCES[image], "--name", name],
        (Some(kept), 0) => vec!["activate", REFERENCES[kept.image], "--name", name],
        (Some(_), 1 | 2) => vec!["deactivate", name],
        (Some(_), _) => vec!["rm", name],
    };
    let mut running = wedge.cmd_on(&wedge.state.clone(), &words).spawn()?;
    std::thread::sleep(Duration::from_millis(wedge.dice.roll(250)));
    running.kill()?;
    running.wait()?;
    let ran = wedge.run(&["recover"])?;
    let refused = ran.text()?.contains("\"not_found\"");
    ensure!(ran.code == Some(0) || refused || !wedge.standing.is_empty(), "after a kill: {ran}");
    wedge.acts.remove(name);
    let listing = wedge.must(&["ls"])?;
    let lines = listing["activations"].as_array().cloned().unwrap_or_default();
    let line = lines.iter().find(|line| line["name"] == name);
    match (line, kept) {
        (Some(line), Some(kept)) => {
            let up = line["state"] == "active";
            wedge.acts.insert(name.to_owned(), Kept { up, ..kept });
        }
        (Some(line), None) if line["state"] == "active" => wedge.adopt_new(name, image)?,
        (Some(line), None) => anyhow::bail!("{name} is there and not up: {line}"),
        (None, Some(_)) => ensure!(words[0] == "rm", "{name} is gone after {words:?}"),
        (None, None) => {}
    }
    Ok(())
}
