//! Crash matrix: `kill -9` before and after every call of a run that changes anything outside of the
//! process, then the same command again; and again at every such call of that recovery.
//!
//! The list of places is the program's own: the system calls of its main thread, and those of the
//! child that applies a layer, as ptrace shows them. A short form runs with every test: where it turns
//! from the registry to the store or back, so between each commit and its effect, and some of the
//! others. The whole one is `just soak-matrix`.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use tests::trace::{self, Act, Call, Effect, Ended, Side, Whose};

use crate::bench::{Bench, Host, is_good};

/// A command, on a host that is ready for it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What was done before.
    pub(crate) before: &'static [&'static [&'static str]],
    /// What was begun after that, and killed once it had made this file or directory.
    pub(crate) killed: Option<(&'static [&'static str], &'static str)>,
    pub(crate) words: &'static [&'static str],
    /// Whether the same command, once it has been carried out, says that there is no such thing.
    pub(crate) gone_after: bool,
}

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// Every verb that changes something, on hosts where it takes each of its ways.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "activate, fresh host",
        before: &[],
        killed: None,
        words: &["activate", A, "--name", "a-1"],
        gone_after: false,
    },
    Case {
        name: "activate, layers shared",
        before: &[&["activate", B, "--name", "b-1"]],
        killed: None,
        words: &["activate", A, "--name", "a-1"],
        gone_after: false,
    },
    Case {
        name: "activate without a fetch",
        before: &[&["ensure", A]],
        killed: None,
        words: &["activate", A, "--name", "a-1", "--no-fetch"],
        gone_after: false,
    },
    Case {
        name: "activate with files of the caller's",
        before: &[&["ensure", A]],
        killed: None,
        words: &[
            "activate",
            A,
            "--name",
            "a-1",
            "--no-fetch",
            "--copy",
            "/etc/passwd:/sbin/init:0755",
        ],
        gone_after: false,
    },
    Case {
        name: "deactivate",
        before: &[&["activate", A, "--name", "a-1"]],
        killed: None,
        words: &["deactivate", "a-1"],
        gone_after: false,
    },
    Case {
        name: "activate what is down",
        before: &[&["activate", A, "--name", "a-1"], &["deactivate", "a-1"]],
        killed: None,
        words: &["activate", A, "--name", "a-1"],
        gone_after: false,
    },
    Case {
        name: "rm an activation",
        before: &[&["activate", A, "--name", "a-1"]],
        killed: None,
        words: &["rm", "a-1"],
        gone_after: true,
    },
    Case {
        name: "rm an image",
        before: &[&["ensure", A], &["ensure", B]],
        killed: None,
        words: &["rm", A],
        gone_after: true,
    },
    Case {
        name: "gc of every image",
        before: &[&["ensure", A], &["activate", B, "--name", "b-1"]],
        killed: None,
        words: &["gc", "--keep-bytes", "0"],
        gone_after: false,
    },
    Case {
        name: "verify",
        before: &[&["ensure", A]],
        killed: None,
        words: &["verify"],
        gone_after: false,
    },
    Case {
        name: "pin",
        before: &[&["ensure", A]],
        killed: None,
        words: &["pin", A],
        gone_after: false,
    },
    Case {
        name: "cancel what was killed",
        before: &[],
        killed: Some((&["activate", A, "--name", "a-1"], "volumes/3")),
        words: &["cancel", "1"],
        gone_after: false,
    },
];

/// Those of which `VENEER_CASE` is in the name, or all.
pub(crate) fn cases() -> Vec<&'static Case> {
    let wanted = std::env::var("VENEER_CASE").unwrap_or_default();
    CASES.iter().filter(|case| case.name.contains(&wanted)).collect()
}

/// The host on which a case begins.
pub(crate) fn prepared<'b>(bench: &'b Bench, case: &Case) -> Host<'b> {
    let start = bench.host("start");
    for words in case.before {
        start.ok(words);
    }
    if let Some((words, at)) = case.killed {
        killed_once(&start, words, at);
    }
    start
}

/// Runs it, and kills it when it has made the file or directory whose path ends so.
pub(crate) fn killed_once(host: &Host<'_>, words: &[&str], at: &str) {
    let each = |call: &Call, side: Side| {
        let here = call.effect == Effect::Changes && call.on.ends_with(at);
        if here && side == Side::After { Act::Kill } else { Act::Go }
    };
    let ended = trace::run(&host.command(words), &[&host.dir], Whose::Main, each).unwrap();
    assert_eq!(ended.code, None, "{words:?}: nothing makes {at}: {}", ended.stderr);
}

/// What a case came to.
#[derive(Default, Debug)]
struct Figures {
    points: usize,
    child_points: usize,
    kills: usize,
    states: usize,
    recovery_points: usize,
    recovery_states: usize,
}

/// Kills at every `step`th place; and at every place of the recovery from the first `deep` of the
/// states that this leaves.
fn matrix(case: &Case, step: usize, deep: usize) -> Figures {
    let bench = Bench::small();
    let start = prepared(&bench, case);
    let whole = start.copy_to("whole");
    let points = record(&whole, case.words, Whose::Main);
    whole.check();
    let end = whole.end_text();
    let child_points = record(&start.copy_to("whole"), case.words, Whose::Children);
    let mut figures = Figures { points, child_points, ..Figures::default() };
    let mut found = BTreeSet::new();
    // What some recovery has gone through already.
    let mut seen = BTreeSet::new();
    // What was killed before is taken up by `recover`: then there is another end.
    let taken_up = case.killed.map(|(words, _)| {
        let host = start.copy_to("taken-up");
        host.ok(words);
        host.end_text()
    });
    if step > 1 {
        figures.kills += turns(&bench, case, &start, &end);
    }
    for whose in [Whose::Main, Whose::Children] {
        let mut at = 0;
        loop {
            let mut ended_by_itself = false;
            for side in [Side::Before, Side::After] {
                let host = start.copy_to("host");
                let (ended, call) = killed_at(&host, case.words, whose, at, side);
                if is_good(case.words, ended.code) && call.is_none() {
                    ended_by_itself = true;
                    break;
                }
                let place = format!("{}: killed {side:?} {whose:?} {at}: {call:?}", case.name);
                assert_eq!(ended.signal, Some(Signal::SIGKILL), "{place}: {}", ended.stderr);
                figures.kills += 1;
                if found.insert(host.state_text()) && found.len() <= deep {
                    let ends = Ends { told: &end, taken_up: taken_up.as_deref() };
                    recovery(case, &host, ends, &mut seen, &mut figures, &place);
                }
                again(&bench, case, &host, &end, &place);
            }
            if ended_by_itself {
                break;
            }
            at += step;
        }
        let least = if whose == Whose::Main { 8 } else { 0 };
        assert!(at >= least, "{}: only {at} places to kill at", case.name);
    }
    figures.states = found.len();
    figures
}

/// Kills wherever it turns from the registry to the store or back; gives how often.
fn turns(bench: &Bench, case: &Case, start: &Host<'_>, end: &str) -> usize {
    let part = |call: &Call| {
        let parts = ["state/registry.db", "store/"];
        parts.iter().position(|part| call.on.starts_with(part))
    };
    let mut at = 0;
    loop {
        let host = start.copy_to("host");
        let (mut last, mut turned, mut place) = (None, 0, None);
        let each = |call: &Call, side: Side| {
            if call.effect != Effect::Changes || side == Side::After || place.is_some() {
                return Act::Go;
            }
            let Some(now) = part(call) else { return Act::Go };
            turned += usize::from(last.is_some_and(|last| last != now));
            last = Some(now);
            if turned <= at {
                return Act::Go;
            }
            place = Some(call.clone());
            Act::Kill
        };
        let ended = trace::run(&host.command(case.words), &[&host.dir], Whose::Main, each).unwrap();
        let Some(place) = place else { return at };
        let place = format!("{}: killed at turn {at}, {place}", case.name);
        assert_eq!(ended.signal, Some(Signal::SIGKILL), "{place}: {}", ended.stderr);
        again(bench, case, &host, end, &place);
        at += 1;
    }
}

/// Counts the calls of an undisturbed run; `VENEER_MATRIX_LIST` prints them.
fn record(host: &Host<'_>, words: &[&str], whose: Whose) -> usize {
    let list = std::env::var_os("VENEER_MATRIX_LIST").is_some();
    let mut points = 0;
    let each = |call: &Call, side: Side| {
        if call.effect == Effect::Changes && side == Side::Before {
            points += 1;
            if list {
                eprintln!("{whose:?} {points} {call}");
            }
        }
        Act::Go
    };
    let ended = trace::run(&host.command(words), &[&host.dir], whose, each).unwrap();
    assert!(is_good(words, ended.code), "{words:?}: {:?} {}", ended.code, ended.stderr);
    points
}

/// Runs it and kills it at the `at`th place; gives that place, if it came so far.
fn killed_at(
    host: &Host<'_>,
    words: &[&str],
    whose: Whose,
    at: usize,
    side: Side,
) -> (Ended, Option<Call>) {
    let mut seen = 0;
    let mut place = None;
    let each = |call: &Call, now: Side| {
        if call.effect != Effect::Changes || now != side {
            return Act::Go;
        }
        seen += 1;
        if seen <= at || place.is_some() {
            return Act::Go;
        }
        place = Some(call.clone());
        Act::Kill
    };
    let ended = trace::run(&host.command(words), &[&host.dir], whose, each).unwrap();
    (ended, place)
}

/// The same command again: it mends by itself, and what was finished is not fetched again.
fn again(bench: &Bench, case: &Case, host: &Host<'_>, end: &str, place: &str) {
    let finished = host.finished();
    let before = bench.gets().len();
    let output = host.command(case.words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        code if is_good(case.words, code) => {}
        Some(100) if case.gone_after && said.contains("no activation or image") => {}
        _ => panic!("{place}: the second run ends with {}: {said}", output.status),
    }
    let repairs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.check()));
    assert!(repairs.is_ok(), "{place}: not clean after the second run");
    assert_eq!(host.end_text(), end, "{place}");
    let again = bench.fetched_again(before, &finished);
    assert!(again.is_empty(), "{place}: sealed and fetched again: {again:?}");
}

/// Where a case may end when `recover` has been at work.
#[derive(Clone, Copy)]
struct Ends<'e> {
    told: &'e str,
    /// Where that ends which was killed before.
    taken_up: Option<&'e str>,
}

/// The command again after `recover` had begun to take up what was killed before: that has ended, and
/// the command says no; or it is cancelled, and the next one begins where it stood.
fn told_or_taken_up(bench: &Bench, case: &Case, host: &Host<'_>, taken_up: &str, place: &str) {
    let output = host.command(case.words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let state = host.rows("SELECT state FROM runs WHERE id = 1");
    host.check();
    match output.status.code() {
        Some(0) => {
            assert_eq!(state, ["cancelled"], "{place}");
            assert_eq!(host.rows("SELECT name FROM activations"), [""; 0], "{place}");
            let (finished, before) = (host.finished(), bench.gets().len());
            host.ok(case.killed.expect("a run that was killed").0);
            let again = bench.fetched_again(before, &finished);
            assert!(again.is_empty(), "{place}: sealed and fetched again: {again:?}");
        }
        Some(1) => assert_eq!(state, ["done"], "{place}"),
        code => panic!("{place}: the second run ends with {code:?}: {said}"),
    }
    host.check();
    assert_eq!(host.end_text(), taken_up, "{place}");
}

/// `recover`, stopped at each of its places: the host as it is there is what a kill leaves. Each
/// that was not seen before is mended by the command itself.
fn recovery(
    case: &Case,
    host: &Host<'_>,
    ends: Ends<'_>,
    seen: &mut BTreeSet<String>,
    figures: &mut Figures,
    place: &str,
) {
    let bench = host.bench();
    let mending = host.copy_to("mending");
    seen.insert(host.state_text());
    let mut left = 0;
    let each = |call: &Call, side: Side| {
        // After one call is before the next; between them the main thread changes nothing.
        if call.effect == Effect::Changes && side == Side::After {
            figures.recovery_points += 1;
            if seen.insert(mending.state_text()) {
                mending.copy_to(&format!("left-{left}"));
                left += 1;
            }
        }
        Act::Go
    };
    let words = ["recover"];
    let ended = trace::run(&mending.command(&words), &[&mending.dir], Whose::Main, each).unwrap();
    assert_eq!(ended.code, Some(0), "{place}: recover: {} {}", ended.stderr, ended.stdout);
    mending.check();
    // The short form tries some of them.
    let sparse = if step() == 1 { 1 } else { 13 };
    for number in (0..left).step_by(sparse) {
        figures.recovery_states += 1;
        let host = bench.host(&format!("left-{number}"));
        let place = format!("{place}, and in recovery state {number}");
        match ends.taken_up {
            None => again(bench, case, &host, ends.told, &place),
            Some(taken_up) => told_or_taken_up(bench, case, &host, taken_up, &place),
        }
        host.wipe();
    }
}

/// Every case, two at a time; the figures go to stderr.
fn all(step: usize, deep: usize) {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Figures::default());
    let work = || {
        while let Some(case) = cases().get(next.fetch_add(1, Ordering::Relaxed)) {
            let figures = matrix(case, step, deep);
            eprintln!("{}: {figures:?}, {:.0} s", case.name, begun.elapsed().as_secs_f64());
            let mut sum = sum.lock().unwrap();
            sum.points += figures.points;
            sum.child_points += figures.child_points;
            sum.kills += figures.kills;
            sum.states += figures.states;
            sum.recovery_points += figures.recovery_points;
            sum.recovery_states += figures.recovery_states;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    eprintln!("all: {:?}, every one passed", sum.lock().unwrap());
}

#[test]
fn killed_at_every_kth_call_the_same_command_ends_well() {
    let step = step();
    all(step, if step < STEP { usize::MAX } else { 1 });
}

/// In a test run, each of these many calls.
const STEP: usize = 101;

/// 1 is every one, and each recovery: `just soak-matrix`.
fn step() -> usize {
    std::env::var("VENEER_MATRIX_STEP").map_or(STEP, |text| text.parse().unwrap())
}
