//! `kill -9` of `orchestrate` on a thin pool, before and after calls that change something: registry,
//! device-mapper, mounts, device nodes. The places are those that ptrace shows. The same command again
//! ends well. Some of the places in the short form; in the long one every place on the pool, and of those on
//! the registry's files, of which `just soak-matrix` takes every one, some.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::crash_host::{CrashHost, IMAGES, put_images};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Call, Effect, Side, Whose};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_points",
    needs: Needs { timeout_s: 900, soak_timeout_s: Some(6 * 3600), ..Needs::DEFAULT },
    run,
};

/// In the short form each of these many places is killed at, from another one on for each command.
const STEP: usize = 211;

/// In the long form, of those on the registry's files.
const REGISTRY_STEP: usize = 20;

/// Where a command may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    All,
    /// Device-mapper, mounts, nodes, notes.
    Pool,
    /// The registry's files.
    Registry,
}

impl Places {
    fn has(self, call: &Call) -> bool {
        let registry = call.on.contains("registry.db");
        match self {
            Places::All => true,
            Places::Pool => !registry,
            Places::Registry => registry,
        }
    }
}

const ACTIVATE: [&str; 4] = ["activate", IMAGES[0], "--name", "a-1"];

/// A command; what is done before, and whether it finds nothing to do when it was done already.
struct Case {
    before: &'static [&'static [&'static str]],
    words: &'static [&'static str],
    gone_after: bool,
}

const CASES: [Case; 5] = [
    Case { before: &[], words: &ACTIVATE, gone_after: false },
    Case { before: &[&["ensure", IMAGES[1]]], words: &ACTIVATE, gone_after: false },
    Case { before: &[&ACTIVATE], words: &["deactivate", "a-1"], gone_after: false },
    Case { before: &[&ACTIVATE, &["deactivate", "a-1"]], words: &ACTIVATE, gone_after: false },
    Case { before: &[&ACTIVATE], words: &["rm", "a-1"], gone_after: true },
];

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = guest.pool("veneer")?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let pool = scratch.pool();
    let host = CrashHost { state: guest.scratch().join("state"), pool, s3: &s3 };
    for image in IMAGES {
        host.ok(&["ensure", image])?;
    }
    let right = host.trees()?;
    ensure!(right.len() == 4, "four layers are distinct: {right:?}");
    let passes: &[(Places, usize)] = match guest.long() {
        true => &[(Places::Pool, 1), (Places::Registry, REGISTRY_STEP)],
        false => &[(Places::All, STEP)],
    };
    let (mut points, mut kills) = (0, 0);
    for (places, step) in passes {
        for (number, case) in CASES.iter().enumerate() {
            let (all, killed) = matrix(&host, case, &right, (*places, *step), number * 31 % step)?;
            eprintln!("{:?}, {places:?}: {all} places, {killed} kills", case.words);
            points += all;
            kills += killed;
        }
    }
    host.remove_all()?;
    host.check()?;
    for record in pool.ids()? {
        pool.delete(record.id)?;
    }
    scratch.close()?;
    Ok(Report::new().figure("places", points).figure("kills", kills))
}

fn matrix(
    host: &CrashHost<'_>,
    case: &Case,
    right: &BTreeMap<String, String>,
    (places, step): (Places, usize),
    first: usize,
) -> Result<(usize, usize)> {
    let (mut at, mut kills) = (first, 0);
    loop {
        for side in [Side::Before, Side::After] {
            prepare(host, case)?;
            let (seen, place) = killed_at(host, case.words, places, at, side)?;
            let Some(place) = place else { return Ok((seen, kills)) };
            eprintln!("killed {side:?} {at}: {place}");
            kills += 1;
            let gets = host.s3.object_gets().len();
            let again = host.cmd(case.words).run()?;
            let gone = case.gone_after && again.stderr.contains("no activation or image");
            if !(gone && again.code == Some(100)) {
                again.expect(0)?;
            }
            host.check()?;
            host.check_trees(right)?;
            // A blob that is known and sealed does not come again; a fresh host knows three.
            let came = host.s3.object_gets().len() - gets;
            ensure!(came <= 3, "{came} objects came for the rest of {place}");
        }
        at += step;
    }
}

fn prepare(host: &CrashHost<'_>, case: &Case) -> Result<()> {
    host.remove_all()?;
    for words in case.before {
        host.ok(words)?;
    }
    Ok(())
}

/// Runs it and kills it at the `at`th of these places; how many came, and that one if there is one.
fn killed_at(
    host: &CrashHost<'_>,
    words: &[&str],
    places: Places,
    at: usize,
    side: Side,
) -> Result<(usize, Option<Call>)> {
    let (mut seen, mut place) = (0, None);
    let each = |call: &Call, now: Side| {
        if call.effect != Effect::Changes || now != side || !places.has(call) {
            return Act::Go;
        }
        seen += 1;
        if seen <= at || place.is_some() {
            return Act::Go;
        }
        place = Some(call.clone());
        Act::Kill
    };
    let ended = trace::run(host.cmd(words).command(), &[&host.state], Whose::Main, each)?;
    match &place {
        Some(place) => ensure!(ended.signal == Some(Signal::SIGKILL), "{place}: {ended:?}"),
        None => ensure!(ended.code == Some(0), "{words:?}: {ended:?}"),
    }
    Ok((seen, place))
}
