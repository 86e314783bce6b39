//! N-th call failure sweep: each call of a run fails once, and then from there on always. The program
//! says so with the right class and ends; the same command without the fault then ends well, and
//! nothing is left over.
//!
//! The calls are those of the main thread on the state directory and the store: reads, writes, syncs,
//! opens, renames, and so every step of SQLite; those of the child that applies a layer; and those of the
//! other threads, with every call on a socket. A short form runs with every test, the whole one as
//! `just soak-failures`: every one, or every STEPth from an OFFSET, so that parts add up.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tests::trace::{self, Act, Call, Effect, Ended, Side, Whose};

use crate::bench::{Bench, Host, is_good, names};
use crate::matrix::{Case, cases, prepared};

/// A run that is told no ends within this, whatever fails.
const BOUND: Duration = Duration::from_secs(60);

/// How often a download is tried, so that a broken network ends soon.
const TRIES: &str = "3";

/// In a test run, each of these many calls.
const STEP: usize = 211;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Errno(Errno),
    /// The other side has closed the connection.
    Closed,
}

/// How calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    how: How,
    always: bool,
}

const fn once(errno: Errno) -> Fault {
    Fault { how: How::Errno(errno), always: false }
}

const fn always(errno: Errno) -> Fault {
    Fault { how: How::Errno(errno), always: true }
}

const FAULTS: &[Fault] = &[
    once(Errno::EIO),
    always(Errno::EIO),
    once(Errno::ENOSPC),
    always(Errno::ENOSPC),
    once(Errno::EINTR),
];

/// And those of a network. EAGAIN is how a time that is over comes (SO_RCVTIMEO, socket(7)).
const NETWORK: &[Fault] = &[
    once(Errno::ECONNRESET),
    always(Errno::ECONNRESET),
    once(Errno::EAGAIN),
    always(Errno::EAGAIN),
    once(Errno::ECONNREFUSED),
    always(Errno::ECONNREFUSED),
    Fault { how: How::Closed, always: false },
    Fault { how: How::Closed, always: true },
    once(Errno::ENOBUFS),
    always(Errno::ENOBUFS),
];

/// Whether the kernel may answer so to this call.
pub(crate) fn may_fail(call: &Call, how: How) -> bool {
    let fills = ["write", "pwrite64", "writev", "fallocate", "mkdir", "mkdirat"];
    let makes = [
        "openat",
        "openat2",
        "rename",
        "symlink",
        "symlinkat",
        "linkat",
        "mknodat",
        "copy_file_range",
    ];
    let waits = ["read", "pread64", "write", "pwrite64", "copy_file_range"];
    let network = ["connect", "sendto", "recvfrom"];
    // The child at the other end of a local one is there, or is known to be gone.
    let local = call.on == "a local socket";
    match how {
        How::Errno(Errno::ENOBUFS) => call.name == "sendto",
        _ if local => false,
        How::Closed => call.name == "recvfrom",
        How::Errno(Errno::ECONNREFUSED) => call.name == "connect",
        How::Errno(Errno::ECONNRESET | Errno::EAGAIN) => {
            network.contains(&call.name) && call.name != "connect"
        }
        How::Errno(Errno::ENOSPC) => {
            call.effect == Effect::Changes
                && (fills.contains(&call.name) || makes.contains(&call.name))
        }
        // The loader reads libraries, on which no signal interrupts anything (signal(7)).
        How::Errno(Errno::EINTR) => waits.contains(&call.name) && !call.on.starts_with("/usr/lib"),
        How::Errno(_) if call.effect == Effect::Waits || network.contains(&call.name) => false,
        // Of a process's start only the kernel's own limits are known: that is another proof.
        How::Errno(_) => !["execve", "clone3", "vfork", "clone"].contains(&call.name),
    }
}

/// What a run with a fault came to.
struct Faulty {
    ended: Ended,
    /// The call that failed first.
    call: Option<Call>,
    /// How many failed.
    failed: usize,
    took: Duration,
}

fn command(host: &Host<'_>, words: &[&str], whose: Whose) -> std::process::Command {
    let mut command = host.command(words);
    if whose == Whose::Others {
        // Small layers are spooled, too.
        command.env("VENEER_FETCH_TRIES", TRIES).env("VENEER_FETCH_SPOOL_MIN", "0");
    }
    command
}

/// One run with this fault at the `at`th call that may have it; an error if it hangs.
fn faulty(
    host: &Host<'_>,
    words: &[&str],
    whose: Whose,
    at: usize,
    fault: Fault,
) -> Result<Faulty, String> {
    let (mut seen, mut failed, mut first) = (0, 0, None::<Call>);
    let each = |call: &Call, side: Side| {
        if side == Side::After || !may_fail(call, fault.how) {
            // Once is over: the rest goes its way.
            let over = first.is_some() && !fault.always && side == Side::After;
            return if over { Act::LetGo } else { Act::Go };
        }
        seen += 1;
        let this = match &first {
            None => seen > at,
            Some(first) => fault.always && call.name == first.name,
        };
        if !this {
            return Act::Go;
        }
        first.get_or_insert_with(|| call.clone());
        failed += 1;
        match fault.how {
            How::Errno(errno) => Act::Fail(errno),
            How::Closed => Act::Answer(0),
        }
    };
    let begun = Instant::now();
    let command = command(host, words, whose);
    let ended = trace::run(&command, &[&host.dir], whose, each);
    let ended =
        ended.map_err(|error| format!("{fault:?} at {whose:?} {at}, {first:?}: {error:#}"))?;
    Ok(Faulty { ended, call: first, failed, took: begun.elapsed() })
}

/// What is wrong with how it ended; none if it is as it should be.
fn judge(case: &Case, run: &Faulty, fault: Fault, host: &Host<'_>, end: &str) -> Option<String> {
    if run.took > BOUND {
        return Some(format!("took {:?} and {} failing calls", run.took, run.failed));
    }
    let last = run.ended.stdout.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).unwrap_or_default();
    let class = said["error"]["class"].as_str().unwrap_or_default();
    let kept = ["unable to open database file", "attempt to write a readonly database"];
    let network = matches!(
        fault.how,
        How::Closed
            | How::Errno(Errno::ECONNRESET | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::ENOBUFS)
    );
    let right = match (run.ended.code, fault.how) {
        // What it could do without, it did without; then all is there.
        (code, _) if is_good(case.words, code) => {
            let found = host.end_text();
            let odd = found.lines().filter(|line| !end.contains(line));
            let missing = end.lines().filter(|line| !found.contains(line));
            let lines = || odd.chain(missing).collect::<Vec<_>>().join("; ");
            return (found != end).then(|| format!("0, and not done: {}", lines()));
        }
        // What is asked once more is there: one failure of the network is none of the run.
        (Some(_), _) if network => {
            run.ended.code == Some(111) && fault.always && class == "temporary"
        }
        (Some(111), How::Errno(Errno::ENOSPC)) => class == "no_space",
        // `verify` tells of a layer that it cannot read, and goes on.
        (Some(1), _) if run.ended.stdout.contains("\"intact\":false") => return None,
        // SQLite keeps to itself why it cannot open a file.
        (Some(100), _) if kept.iter().any(|text| run.ended.stderr.contains(text)) => true,
        (Some(111), How::Errno(Errno::EIO)) => {
            // SQLite has one code for an index that cannot grow; it is a full disk's.
            let index = run.call.as_ref().is_some_and(|call| call.on.ends_with("-shm"));
            class == "temporary" || index && class == "no_space"
        }
        (Some(100), How::Errno(Errno::EIO)) => class == "host_broken",
        (Some(_) | None, _) => false,
    };
    let named = run.ended.stderr.contains("orchestrate: fatal: ");
    (!right || !named).then(|| {
        let (code, signal) = (run.ended.code, run.ended.signal);
        format!("code {code:?}, signal {signal:?}, class {class:?}: {}", run.ended.stderr)
    })
}

/// What a part of the sweep came to.
#[derive(Default, Debug)]
struct Figures {
    /// Calls that may fail, each as often as there are ways.
    places: usize,
    runs: usize,
    /// Places that a run did not come to.
    missed: usize,
    /// Distinct states after them: from each the same command was seen to end well.
    states: usize,
    /// The most calls that failed in one run.
    most_failed: usize,
    wrong: Vec<String>,
}

/// Calls of an undisturbed run that may fail so, of each kind of fault: each as where in the program it
/// comes from and what it is made on.
fn record(host: &Host<'_>, words: &[&str], whose: Whose, faults: &[Fault]) -> Vec<Vec<Site>> {
    let mut calls = vec![Vec::new(); faults.len()];
    let each = |call: &Call, side: Side| {
        for (calls, fault) in calls.iter_mut().zip(faults) {
            if side == Side::Before && may_fail(call, fault.how) {
                calls.push((call.site, call.name, kind_of(&call.on)));
            }
        }
        Act::Go
    };
    let command = command(host, words, whose);
    let ended = trace::run_with_sites(&command, &[&host.dir], whose, each).unwrap();
    assert!(is_good(words, ended.code), "{words:?}: {:?} {}", ended.code, ended.stderr);
    calls
}

/// A call in the program's text, by name, on a kind of path.
type Site = (u64, &'static str, String);

/// A path without its numbers and digests, which are other ones each time.
fn kind_of(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_hexdigit() { '#' } else { c }).collect()
}

/// Which of these calls fail: every `step`th from `first` on; or, of the calls of each site, only the
/// first, the last and one between them, another one for each `first`.
fn chosen(calls: &[Site], first: usize, step: usize, by_site: bool) -> Vec<usize> {
    if !by_site {
        return (first..calls.len()).step_by(step).collect();
    }
    let mut sites: BTreeMap<&Site, Vec<usize>> = BTreeMap::new();
    for (at, site) in calls.iter().enumerate() {
        sites.entry(site).or_default().push(at);
    }
    let few = sites.values().flat_map(|all| {
        let middle = all[(first * 7 + all.len() / 2) % all.len()];
        BTreeSet::from([all[0], middle, all[all.len() - 1]])
    });
    let mut few: Vec<usize> = few.collect();
    few.sort_unstable();
    few.into_iter().skip(first % step).step_by(step).collect()
}

/// A case, its host before, and what the command makes of it.
struct Prepared<'b> {
    case: &'b Case,
    start: Host<'b>,
    end: String,
    /// States after a failure that were seen already.
    seen: Mutex<BTreeSet<[u8; 32]>>,
}

/// Fails every `step`th call of a case in each way, several at a time.
fn sweep(prepared: &Prepared<'_>, whose: Whose, step: usize, offset: usize) -> Figures {
    let Prepared { case, start, .. } = prepared;
    let mut faults = FAULTS.to_vec();
    if whose == Whose::Others {
        faults.extend(NETWORK);
    }
    let calls = record(&start.copy_to("recorded"), case.words, whose, &faults);
    // One place alone, to look at it again.
    let only: Option<usize> =
        std::env::var("VENEER_SWEEP_AT").ok().map(|text| text.parse().expect("a number"));
    // Of what goes to the child, a test run has every call: there are few.
    let step = |fault: &Fault| if fault.how == How::Errno(Errno::ENOBUFS) { 1 } else { step };
    // Each kind of fault at other places, so that the short form sees more of them.
    let first = |kind: usize, fault| (offset + kind * 3) % step(fault);
    let by_site = std::env::var_os("VENEER_SWEEP_SITES").is_some();
    let mut places: Vec<(Fault, usize)> = Vec::new();
    for (kind, (fault, calls)) in faults.iter().zip(&calls).enumerate() {
        let chosen = chosen(calls, first(kind, fault), step(fault), by_site);
        places.extend(chosen.into_iter().map(|at| (*fault, at)));
    }
    places.retain(|(_, at)| only.is_none_or(|only| only == *at));
    let next = AtomicUsize::new(0);
    let sum =
        Mutex::new(Figures { places: calls.iter().map(Vec::len).sum(), ..Figures::default() });
    let work = |number: usize| {
        while let Some((fault, at)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            let host = start.copy_to(&format!("host-{number}"));
            let run = match faulty(&host, case.words, whose, *at, *fault) {
                Ok(run) => run,
                Err(why) => {
                    sum.lock().unwrap().wrong.push(format!("{}: {why}", case.name));
                    continue;
                }
            };
            let Some(call) = &run.call else {
                sum.lock().unwrap().missed += 1;
                continue;
            };
            let place = format!("{}: {fault:?} at {whose:?} {at}, {call}", case.name);
            let mut wrong = Vec::new();
            if let Some(why) = judge(case, &run, *fault, &host, &prepared.end) {
                wrong.push(format!("{place}: {why}"));
            }
            let new = prepared.seen.lock().unwrap().insert(state(&host));
            if new && let Err(why) = afterwards(case, &host, whose, &prepared.end) {
                wrong.push(format!("{place}: afterwards: {why}"));
            }
            let mut sum = sum.lock().unwrap();
            sum.runs += 1;
            sum.states += usize::from(new);
            sum.most_failed = sum.most_failed.max(run.failed);
            sum.wrong.extend(wrong);
        }
    };
    std::thread::scope(|scope| {
        for number in 1..threads() {
            scope.spawn(move || work(number));
        }
        work(0);
    });
    sum.into_inner().unwrap()
}

/// All that the next command finds: rows, volumes, and every file of the state directory by its size.
pub(crate) fn state(host: &Host<'_>) -> [u8; 32] {
    let mut text = host.state_text();
    for name in names(&host.state()) {
        let path = host.state().join(&name);
        let size = std::fs::metadata(&path).map_or(0, |found| found.len());
        let inside = if path.is_dir() { names(&path) } else { Vec::new() };
        text = format!("{text}\n{name} {size} {inside:?}");
    }
    Sha256::digest(text).into()
}

/// The same command, with nothing in its way.
fn afterwards(case: &Case, host: &Host<'_>, whose: Whose, end: &str) -> Result<(), String> {
    let output = command(host, case.words, whose).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        code if is_good(case.words, code) => {}
        // Twice it could not be read: that is what a bad disk looks like, and it is not used again.
        Some(1) if String::from_utf8_lossy(&output.stdout).contains("\"now\":\"condemned\"") => {
            return Ok(());
        }
        Some(100) if case.gone_after && said.contains("no activation or image") => {}
        _ => return Err(format!("{}: {said}", output.status)),
    }
    if host.end_text() != end {
        return Err(format!("not the same end: {}", host.end_text()));
    }
    // What a thread could not open again it went without; that goes when it is old.
    let spool = || names(&host.state().join("spool"));
    if !spool().is_empty() {
        let mut sweeping = host.command(&["recover"]);
        let swept = sweeping.env("VENEER_SPOOL_AGE", "0").output().unwrap();
        if !swept.status.success() || !spool().is_empty() {
            return Err(format!("spools are left: {:?} {swept:?}", spool()));
        }
    }
    match catch_unwind(AssertUnwindSafe(|| host.check())) {
        Ok(()) => Ok(()),
        Err(why) => {
            let text = why.downcast_ref::<String>().cloned().unwrap_or_default();
            Err(format!("not clean: {text}"))
        }
    }
}

/// How many are at work at a time: who fails often mostly waits between its tries.
fn threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn each_call_fails_once_and_then_always() {
    let (step, offset) = (setting("VENEER_SWEEP_STEP", STEP), setting("VENEER_SWEEP_OFFSET", 0));
    let begun = Instant::now();
    let mut sum = Figures::default();
    for case in cases() {
        let bench = Bench::small();
        let start = prepared(&bench, case);
        let whole = start.copy_to("whole");
        whole.ok(case.words);
        let end = whole.end_text();
        let prepared = Prepared { case, start, end, seen: Mutex::default() };
        for (whose, step) in [
            (Whose::Main, step),
            (Whose::Children, step.div_ceil(5)),
            (Whose::Others, step.div_ceil(9)),
        ] {
            let figures = sweep(&prepared, whose, step, offset);
            let (seconds, bad) = (begun.elapsed().as_secs_f64(), figures.wrong.len());
            let Figures { places, runs, missed, states, most_failed, wrong } = figures;
            eprintln!(
                "{}, {whose:?}: {runs} of {places}, {missed} missed, {states} states, at most \
                 {most_failed} fail, {bad} wrong, {seconds:.0} s",
                case.name
            );
            for line in &wrong {
                eprintln!("  {line}");
            }
            sum.places += places;
            sum.runs += runs;
            sum.missed += missed;
            sum.states += states;
            sum.most_failed = sum.most_failed.max(most_failed);
            sum.wrong.extend(wrong);
        }
    }
    let wrong = std::mem::take(&mut sum.wrong);
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), sum.runs, wrong.join("\n"));
    eprintln!("all: {sum:?}, every one as it should be");
}
