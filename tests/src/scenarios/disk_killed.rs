//! `kill -9` of `orchestrate` before and after each call that changes something on the pool, or the registry's number,
//! while the disk of an activation grows, is forked, kept as a point and brought back: nothing stays suspended, what was
//! on the disk is on it, and the same command again ends well. In the short form some commands are killed once, three of them
//! while they hold the disk suspended; in the long one each of them before and after every such call.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use thin::{By, Dm};

use super::disk::{IMAGE, host};
use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer};
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Call, Effect, Side, Whose};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "disk_killed",
    needs: Needs { timeout_s: 900, soak_timeout_s: Some(2 * 3600), ..Needs::DEFAULT },
    run,
};

/// A command, and how the disk of `a` is used meanwhile.
struct Case {
    words: &'static [&'static str],
    used: Used,
    /// Where it is killed in the short form.
    short: Option<At>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Used {
    Idle,
    Mounted,
    Open,
    Down,
}

const CASES: &[Case] = &[
    Case { words: &["resize", "a", "5G"], used: Used::Idle, short: None },
    Case {
        words: &["resize", "a", "5G"],
        used: Used::Mounted,
        short: Some(At::Place(Side::After, 1)),
    },
    Case { words: &["fork", "a", "b"], used: Used::Mounted, short: Some(At::Suspended) },
    Case {
        words: &["fork", "a", "b", "--size", "5G"],
        used: Used::Open,
        short: Some(At::Suspended),
    },
    Case { words: &["fork", "a", "b"], used: Used::Down, short: None },
    Case { words: &["snapshot", "a", "p"], used: Used::Mounted, short: Some(At::Suspended) },
    Case {
        words: &["restore", "a", "early"],
        used: Used::Idle,
        short: Some(At::Place(Side::Before, 5)),
    },
    Case { words: &["rm", "a"], used: Used::Idle, short: None },
];

/// Where a command is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before or after the place of this number.
    Place(Side, usize),
    /// After the first call that has left the disk suspended.
    Suspended,
}

/// The bound within which a device that a killed process has suspended runs again, without any command: a second,
/// and what an emulated processor makes of that.
const SOON: Duration = Duration::from_secs(5);

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = host(guest)?;
    veneer.ok(&["ensure", IMAGE])?;
    let (mut kills, mut suspended) = (0, 0);
    let mut kill = |case: &Case, at: At| -> Result<bool> {
        let was = killed(guest, &veneer, case, at)?;
        kills += usize::from(was.is_some());
        suspended += usize::from(was == Some(true));
        Ok(was.is_some())
    };
    for case in CASES {
        match (guest.long(), case.short) {
            (false, None) => {}
            (false, Some(at)) => ensure!(kill(case, at)?, "{:?}: not at {at:?}", case.words),
            (true, _) => {
                for side in [Side::Before, Side::After] {
                    let mut nth = 0;
                    while kill(case, At::Place(side, nth))? {
                        nth += 1;
                    }
                }
            }
        }
    }
    ensure!(suspended > 0, "no kill fell between suspend and resume");
    veneer.close()?;
    Ok(Report::new().figure("kills", kills).figure("left_suspended", suspended))
}

/// Where a kill is of interest: the pool's calls, and of the registry's file those that make a commit durable.
fn is_place(call: &Call) -> bool {
    let on_pool = call.name == "ioctl" && !call.on.starts_with("clone");
    let commits = call.on.contains("registry.db-wal") && call.name.contains("sync");
    call.effect == Effect::Changes && (on_pool || commits)
}

fn is_suspended(name: &str) -> Result<bool> {
    Ok(Dm::open()?.state(By::Name(name))?.is_some_and(|state| state.suspended))
}

/// Kills it there; none when it does not come there. Whether that left a device suspended.
fn killed(guest: &Guest, veneer: &Veneer, case: &Case, at: At) -> Result<Option<bool>> {
    veneer.ok(&["activate", IMAGE, "--name", "a"])?;
    let mut mounted = Some(Mounted::new(guest.scratch(), "a")?);
    let kept = |mounted: &Mounted| mounted.path().join("kept");
    if let Some(mounted) = &mounted {
        fs::write(kept(mounted), vec![5; 1 << 20])?;
        rustix::fs::syncfs(File::open(mounted.path())?)?;
    }
    let open = match case.used {
        Used::Mounted => None,
        Used::Idle | Used::Down => {
            mounted = None;
            None
        }
        Used::Open => {
            mounted = None;
            Some(fs::OpenOptions::new().read(true).write(true).open("/dev/mapper/a")?)
        }
    };
    if ["restore", "rm"].contains(&case.words[0]) {
        veneer.ok(&["snapshot", "a", "early"])?;
        let later = Mounted::new(guest.scratch(), "a")?;
        fs::write(kept(&later), "later")?;
    }
    if case.used == Used::Down {
        veneer.ok(&["deactivate", "a"])?;
    }
    let (mut seen, mut place, mut was) = (0, None, Ok(false));
    let each = |call: &Call, now: Side| {
        if place.is_some() || !is_place(call) {
            return Act::Go;
        }
        let here = match at {
            At::Place(side, nth) => {
                seen += usize::from(now == side);
                now == side && seen > nth
            }
            At::Suspended => now == Side::After && is_suspended("a").unwrap_or(true),
        };
        if !here {
            return Act::Go;
        }
        place = Some(call.clone());
        was = is_suspended("a");
        Act::Kill
    };
    let command = veneer.cmd(case.words).arg("--json");
    let ended = trace::run(command.command(), &[&veneer.state], Whose::Main, each)?;
    let what = match &place {
        None => {
            ensure!(ended.code == Some(0), "{:?}: {ended:?}", case.words);
            drop((mounted, open));
            tidy(veneer)?;
            return Ok(None);
        }
        Some(place) => format!("{:?} killed {at:?}: {place}", case.words),
    };
    ensure!(ended.signal == Some(Signal::SIGKILL), "{what}: {ended:?}");
    let was = was?;
    eprintln!("{what}{}", if was { ": suspended" } else { "" });
    // By the guardian: no command has begun.
    let died = Instant::now();
    while is_suspended("a")? {
        ensure!(died.elapsed() < SOON, "{what}: it is suspended still");
        std::thread::sleep(Duration::from_millis(20));
    }
    settled(veneer, case).context(what)?;
    if let Some(mounted) = &mounted {
        fs::write(mounted.path().join("more"), "after the kill")?;
        ensure!(fs::read(kept(mounted))? == vec![5; 1 << 20], "other bytes");
    }
    drop((mounted, open));
    tidy(veneer)?;
    Ok(Some(was))
}

/// Nothing stays half done; the same command again ends well.
fn settled(veneer: &Veneer, case: &Case) -> Result<()> {
    veneer.ok(&["recover"])?;
    veneer.check()?;
    // What was done is not done again: a point is there, an activation is not.
    let again = veneer.cmd(case.words).run()?;
    let done = match case.words[0] {
        "snapshot" => again.stderr.contains("already"),
        "rm" => again.stderr.contains("no activation or image"),
        _ => false,
    };
    again.expect(if done { 100 } else { 0 })?;
    veneer.check()?;
    if case.words[0] == "restore" {
        let restored = Mounted::new(Path::new("/tmp"), "a")?;
        let found = fs::read(restored.path().join("kept"))?;
        ensure!(found == vec![5; 1 << 20], "{} bytes after a restore", found.len());
    }
    if case.words[0] == "resize" {
        let has = veneer.pool.pool().volume("a")?.sectors.bytes();
        ensure!(has == 5 << 30, "{has} bytes");
    }
    if case.words[0] == "fork" {
        let at = Path::new("/tmp/disk-killed");
        fs::create_dir_all(at)?;
        let fork = Mounted::of(Path::new("/dev/mapper/b"), at)?;
        ensure!(fs::read(fork.path().join("kept"))? == vec![5; 1 << 20], "other bytes in the fork");
        drop(fork);
        fs::remove_dir(at)?;
    }
    Ok(())
}

fn tidy(veneer: &Veneer) -> Result<()> {
    for name in ["a", "b"] {
        let listed = veneer.ok(&["ls"])?;
        let lines = listed["activations"].as_array().context("activations")?;
        if lines.iter().any(|line| line["name"] == name) {
            veneer.ok(&["rm", name])?;
        }
    }
    veneer.check()
}
