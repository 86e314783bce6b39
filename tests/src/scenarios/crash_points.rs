//! `kill -9` of `orchestrate` on a thin pool, before and after calls that change something: registry,
//! device-mapper, mounts, device nodes. The places are those that ptrace shows. The same command again
//! ends well. Some of the places in the short form; in the long one every place on the pool, and of those on
//! the registry's files, of which `just soak-matrix` takes every one, some.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::crash_host::{CASES, Case, CrashHost, Ready, on_a_pool};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Call, Effect, Side, Whose};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_points",
    needs: Needs { timeout_s: 900, soak_timeout_s: Some(6 * 3600), ..Needs::DEFAULT },
    run,
};

/// Where commands are killed, and at each of how many of these places.
#[derive(Debug, Clone, Copy)]
struct Pass {
    whose: Whose,
    places: Places,
    side: Side,
    step: usize,
}

#[derive(Debug, Clone, Copy)]
enum Places {
    All,
    /// Device-mapper, mounts, nodes, notes.
    Pool,
    /// The first of those after one of the registry's: before it the registry is ahead.
    Turn,
    /// The registry's files.
    Registry,
    /// Volumes, as the child that makes a layer writes them.
    Volumes,
}

const SHORT: &[Pass] = &[
    Pass { whose: Whose::Main, places: Places::All, side: Side::Before, step: 211 },
    Pass { whose: Whose::Main, places: Places::All, side: Side::After, step: 211 },
    Pass { whose: Whose::Children, places: Places::Volumes, side: Side::Before, step: 7 },
];

/// Before a call that follows another of the same kind all is as it was after that one.
const LONG: &[Pass] = &[
    Pass { whose: Whose::Main, places: Places::Turn, side: Side::Before, step: 1 },
    Pass { whose: Whose::Main, places: Places::Pool, side: Side::After, step: 1 },
    Pass { whose: Whose::Main, places: Places::Registry, side: Side::After, step: 20 },
    Pass { whose: Whose::Children, places: Places::Volumes, side: Side::Before, step: 1 },
    Pass { whose: Whose::Children, places: Places::Volumes, side: Side::After, step: 1 },
];

impl Places {
    /// Whether it is one; `turned` when the call before was on the registry.
    fn has(self, call: &Call, turned: bool) -> bool {
        let registry = on_registry(call);
        match self {
            Places::All => true,
            Places::Pool => !registry,
            Places::Turn => !registry && turned,
            Places::Registry => registry,
            Places::Volumes => call.on.starts_with("/dev/dm-"),
        }
    }
}

fn on_registry(call: &Call) -> bool {
    call.on.contains("registry.db")
}

fn run(guest: &mut Guest) -> Result<Report> {
    let passes = if guest.long() { LONG } else { SHORT };
    on_a_pool(guest, |ready| kill(ready, passes))
}

fn kill(Ready { host, right, .. }: &Ready<'_>, passes: &[Pass]) -> Result<Report> {
    let (mut points, mut kills) = (0, 0);
    for pass in passes {
        for (number, case) in CASES.iter().enumerate() {
            let (all, killed) = matrix(host, case, right, *pass, number * 31 % pass.step)?;
            eprintln!("{:?}, {pass:?}: {all} places, {killed} kills", case.words);
            points += all;
            kills += killed;
        }
    }
    Ok(Report::new().figure("places", points).figure("kills", kills))
}

fn matrix(
    host: &CrashHost<'_>,
    case: &Case,
    right: &BTreeMap<String, String>,
    pass: Pass,
    first: usize,
) -> Result<(usize, usize)> {
    let (mut at, mut kills) = (first, 0);
    loop {
        case.prepare(host)?;
        let (seen, place) = killed_at(host, case.words, pass, at)?;
        let Some(place) = place else { return Ok((seen, kills)) };
        eprintln!("killed {:?} {at}: {place}", pass.side);
        kills += 1;
        let gets = host.s3.object_gets().len();
        case.again(host, right)?;
        // A blob that is known and sealed does not come again; a fresh host knows three.
        let came = host.s3.object_gets().len() - gets;
        ensure!(came <= 3, "{came} objects came for the rest of {place}");
        at += pass.step;
    }
}

/// Runs it and kills it at the `at`th of these places; how many came, and that one if there is one.
fn killed_at(
    host: &CrashHost<'_>,
    words: &[&str],
    pass: Pass,
    at: usize,
) -> Result<(usize, Option<Call>)> {
    let (mut seen, mut turned, mut here) = (0, false, false);
    let mut place = None;
    let each = |call: &Call, now: Side| {
        if call.effect != Effect::Changes || place.is_some() {
            return Act::Go;
        }
        if now == Side::Before {
            here = pass.places.has(call, turned);
            turned = on_registry(call);
            seen += usize::from(here);
        }
        if !here || now != pass.side || seen <= at {
            return Act::Go;
        }
        place = Some(call.clone());
        Act::Kill
    };
    let ended = trace::run(host.cmd(words).command(), &[&host.state], pass.whose, each)?;
    match &place {
        Some(place) => ensure!(ended.signal == Some(Signal::SIGKILL), "{place}: {ended:?}"),
        None => ensure!(ended.code == Some(0), "{words:?}: {ended:?}"),
    }
    Ok((seen, place))
}
