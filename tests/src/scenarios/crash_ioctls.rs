//! Each device-mapper call, mount and resize of `orchestrate` on a thin pool fails once, and then always; so does
//! each read and write of a volume, by the child that writes it and by its parent: the
//! run says so with a class and ends in its time; the same command without the fault ends well, and nothing
//! is left over. Each 35th in the short form, every one in the long; `VENEER_IOCTLS_STEP` says each how many,
//! and `VENEER_IOCTLS_OFFSET`, from 0 to one less, which of them, so that such parts make up the whole.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;

use super::crash_host::{CASES, Case, CrashHost, Ready, on_a_pool};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Call, Side, Whose};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_ioctls",
    needs: Needs {
        timeout_s: 1800,
        soak_timeout_s: Some(2 * 3600),
        numbers: &[STEP, OFFSET],
        ..Needs::DEFAULT
    },
    run,
};

const STEP: &str = "VENEER_IOCTLS_STEP";
const OFFSET: &str = "VENEER_IOCTLS_OFFSET";

/// No run takes longer under emulation, four tries with their pauses among it.
const BOUND: Duration = Duration::from_secs(90);

/// A call that fails always is made no more often.
const CALLS_MAX: usize = 64;

/// Of how many reads and writes of the child one fails, for each call of its parent.
const WRITES: usize = 4;

/// How it fails, and whether all that are like it fail from then on.
const FAULTS: [(Errno, bool); 4] =
    [(Errno::ENOMEM, false), (Errno::ENOMEM, true), (Errno::EIO, false), (Errno::EIO, true)];

fn run(guest: &mut Guest) -> Result<Report> {
    let step = guest.given(STEP).unwrap_or(if guest.long() { 1 } else { 35 });
    let offset = guest.given(OFFSET).unwrap_or(0);
    ensure!(offset < step, "{OFFSET}={offset} is not below {STEP}={step}");
    let (step, offset) = (usize::try_from(step)?, usize::try_from(offset)?);
    on_a_pool(guest, |ready| fail(ready, step, offset))
}

fn fail(Ready { host, right, .. }: &Ready<'_>, step: usize, offset: usize) -> Result<Report> {
    let mut sum = Sum::default();
    for (number, case) in CASES.iter().enumerate() {
        for (kind, fault) in FAULTS.iter().enumerate() {
            // Of reads and writes there are several times as many, and more alike.
            for (whose, step) in [(Whose::Main, step), (Whose::Children, WRITES * step)] {
                let first = (offset + number * 7 + kind * 11) % step;
                sweep(host, case, right, (whose, *fault), (first, step), &mut sum)?;
            }
        }
    }
    Ok(Report::new()
        .figure("step", step)
        .figure("offset", offset)
        .figure("failures", sum.failures)
        .figure("done_all_the_same", sum.done)
        .figure("most_calls_failed", sum.most)
        .figure("slowest_s", sum.slowest.as_secs_f64()))
}

#[derive(Default)]
struct Sum {
    failures: usize,
    /// Those after which the run did what it was asked for.
    done: usize,
    most: usize,
    slowest: Duration,
}

/// The command of a call, without the device it is made on.
fn like(call: &Call) -> (&str, &str) {
    (call.name, call.on.split(' ').next().unwrap_or_default())
}

fn on_pool(call: &Call) -> bool {
    let mounts = ["mount", "umount2", "fsopen", "fsconfig", "fsmount"];
    let volume = ["read", "pread64", "write", "pwrite64", "fsync"];
    call.name == "ioctl" && !call.on.starts_with("clone")
        || mounts.contains(&call.name)
        || volume.contains(&call.name) && call.on.starts_with("/dev/dm-")
}

fn sweep(
    host: &CrashHost<'_>,
    case: &Case,
    right: &BTreeMap<String, String>,
    (whose, (errno, always)): (Whose, (Errno, bool)),
    (first, step): (usize, usize),
    sum: &mut Sum,
) -> Result<()> {
    let mut at = first;
    loop {
        case.prepare(host)?;
        let (mut seen, mut failed, mut place) = (0, 0, None::<Call>);
        let each = |call: &Call, side: Side| {
            if side == Side::After || !on_pool(call) {
                return Act::Go;
            }
            seen += 1;
            let this = match &place {
                None => seen > at,
                Some(place) => always && like(place) == like(call),
            };
            if !this {
                return Act::Go;
            }
            place.get_or_insert_with(|| call.clone());
            failed += 1;
            Act::Fail(errno)
        };
        let begun = Instant::now();
        let command = host.cmd(case.words);
        let ended = trace::run(command.command(), &[&host.state], whose, each)?;
        let took = begun.elapsed();
        let Some(place) = place else {
            ensure!(ended.code == Some(0), "{:?}: {ended:?}", case.words);
            return Ok(());
        };
        let what =
            format!("{errno} always {always} at {at}, {whose:?} {place}, of {:?}", case.words);
        eprintln!("{what}: {failed} failed, {:?}, {:.1} s", ended.code, took.as_secs_f64());
        let last = ended.stdout.lines().last().unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
        let class = said["error"]["class"].as_str();
        let right_class = match ended.code {
            Some(0) => true,
            Some(111) => class == Some("temporary"),
            Some(100) => errno != Errno::ENOMEM && class == Some("host_broken"),
            Some(_) | None => false,
        };
        ensure!(right_class, "{what}: {ended:?}");
        ensure!(failed <= CALLS_MAX && took < BOUND, "{what}: {failed} calls failed, {took:?}");
        sum.failures += 1;
        sum.done += usize::from(ended.code == Some(0));
        sum.most = sum.most.max(failed);
        sum.slowest = sum.slowest.max(took);
        case.again(host, right).with_context(|| format!("after {what}"))?;
        at += step;
    }
}
