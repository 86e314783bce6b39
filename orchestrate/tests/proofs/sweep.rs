//! N-th call failure sweep: each call of a run fails once, and then from there on always. The program
//! says so with the right class and ends; the same command without the fault then ends well, and
//! nothing is left over.
//!
//! The calls are those of the main thread on the state directory and the store: reads, writes, syncs,
//! opens, renames, and so every step of SQLite; and those of the child that applies a layer. The
//! threads that fetch are not among them: `fetch/tests` has their faults. A short form runs with every
//! test, the whole one as `just soak-failures`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;
use tests::trace::{self, Act, Call, Effect, Ended, Side, Whose};

use crate::bench::{Bench, Host};
use crate::matrix::{Case, cases, prepared};

/// A run that is told no ends within this, whatever fails.
const BOUND: Duration = Duration::from_secs(60);

/// How calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    errno: Errno,
    always: bool,
}

const FAULTS: &[Fault] = &[
    Fault { errno: Errno::EIO, always: false },
    Fault { errno: Errno::EIO, always: true },
    Fault { errno: Errno::ENOSPC, always: false },
    Fault { errno: Errno::ENOSPC, always: true },
    Fault { errno: Errno::EINTR, always: false },
];

/// Whether the kernel may answer so to this call.
fn may_fail(call: &Call, errno: Errno) -> bool {
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
    match errno {
        Errno::ENOSPC => {
            call.effect == Effect::Changes
                && (fills.contains(&call.name) || makes.contains(&call.name))
        }
        Errno::EINTR => waits.contains(&call.name),
        _ if call.effect == Effect::Waits => false,
        // Of a process's start only the kernel's own limits are known: that is another proof.
        _ => !["execve", "clone3", "vfork", "clone"].contains(&call.name),
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

fn faulty(host: &Host<'_>, words: &[&str], whose: Whose, at: usize, fault: Fault) -> Faulty {
    let (mut seen, mut failed, mut first) = (0, 0, None::<Call>);
    let each = |call: &Call, side: Side| {
        if side == Side::After || !may_fail(call, fault.errno) {
            return Act::Go;
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
        Act::Fail(fault.errno)
    };
    let begun = Instant::now();
    let ended = trace::run(&host.command(words), &[&host.dir], whose, each).unwrap();
    Faulty { ended, call: first, failed, took: begun.elapsed() }
}

/// What is wrong with how it ended; none if it is as it should be.
fn judge(run: &Faulty, fault: Fault, host: &Host<'_>, end: &str) -> Option<String> {
    if run.took > BOUND {
        return Some(format!("took {:?} and {} failing calls", run.took, run.failed));
    }
    let last = run.ended.stdout.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).unwrap_or_default();
    let class = said["error"]["class"].as_str().unwrap_or_default();
    let kept = ["unable to open database file", "attempt to write a readonly database"];
    let right = match (run.ended.code, fault.errno) {
        // What it could do without, it did without; then all is there.
        (Some(0), _) => {
            let found = host.end_text();
            let odd = found.lines().filter(|line| !end.contains(line));
            let missing = end.lines().filter(|line| !found.contains(line));
            let lines = || odd.chain(missing).collect::<Vec<_>>().join("; ");
            return (found != end).then(|| format!("0, and not done: {}", lines()));
        }
        (Some(111), Errno::ENOSPC) => class == "no_space",
        // `verify` tells of a layer that it cannot read, and goes on.
        (Some(1), _) if run.ended.stdout.contains("\"intact\":false") => return None,
        // SQLite keeps to itself why it cannot open a file.
        (Some(100), _) if kept.iter().any(|text| run.ended.stderr.contains(text)) => true,
        (Some(111), Errno::EIO) => {
            // SQLite has one code for an index that cannot grow; it is a full disk's.
            let index = run.call.as_ref().is_some_and(|call| call.on.ends_with("-shm"));
            class == "temporary" || index && class == "no_space"
        }
        (Some(100), Errno::EIO) => class == "host_broken",
        (Some(_) | None, _) => false,
    };
    let named = run.ended.stderr.contains("orchestrate: fatal: ");
    (!right || !named).then(|| {
        let (code, signal) = (run.ended.code, run.ended.signal);
        format!("code {code:?}, signal {signal:?}, class {class:?}: {}", run.ended.stderr)
    })
}

/// Fails every `step`th call of a case in each way; gives the number of runs, and what was wrong.
fn sweep(case: &Case, whose: Whose, step: usize) -> (usize, Vec<String>) {
    let bench = Bench::small();
    let start = prepared(&bench, case);
    let whole = start.copy_to("whole");
    whole.ok(case.words);
    let end = whole.end_text();
    let (mut runs, mut wrong) = (0, Vec::new());
    for (offset, fault) in FAULTS.iter().enumerate() {
        // Each kind of fault at other places, so that the short form sees more of them.
        let mut at = offset * 3 % step;
        loop {
            let host = start.copy_to("host");
            let run = faulty(&host, case.words, whose, at, *fault);
            let Some(call) = &run.call else { break };
            runs += 1;
            let place = format!("{}: {fault:?} at {whose:?} {at}, {call}", case.name);
            if let Some(why) = judge(&run, *fault, &host, &end) {
                wrong.push(format!("{place}: {why}"));
            }
            if let Err(why) = afterwards(case, &host, &end) {
                wrong.push(format!("{place}: afterwards: {why}"));
            }
            at += step;
        }
    }
    (runs, wrong)
}

/// The same command, with nothing in its way.
fn afterwards(case: &Case, host: &Host<'_>, end: &str) -> Result<(), String> {
    let output = host.command(case.words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(100) if case.gone_after && said.contains("no activation or image") => {}
        _ => return Err(format!("{}: {said}", output.status)),
    }
    if host.end_text() != end {
        return Err(format!("not the same end: {}", host.end_text()));
    }
    match catch_unwind(AssertUnwindSafe(|| host.check())) {
        Ok(()) => Ok(()),
        Err(why) => {
            let text = why.downcast_ref::<String>().cloned().unwrap_or_default();
            Err(format!("not clean: {text}"))
        }
    }
}

#[test]
fn each_call_fails_once_and_then_always() {
    let step: usize = std::env::var("VENEER_SWEEP_STEP").map_or(211, |text| text.parse().unwrap());
    let begun = Instant::now();
    let (next, sum) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    let work = || {
        while let Some(case) = cases().get(next.fetch_add(1, Ordering::Relaxed)) {
            for (whose, step) in [(Whose::Main, step), (Whose::Children, step.div_ceil(5))] {
                let (runs, wrong) = sweep(case, whose, step);
                let (seconds, bad) = (begun.elapsed().as_secs_f64(), wrong.len());
                eprintln!("{}, {whose:?}: {runs} failures, {bad} wrong, {seconds:.0} s", case.name);
                let mut sum = sum.lock().unwrap();
                sum.0 += runs;
                sum.1.extend(wrong);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let (runs, wrong) = sum.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {runs} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("all: {runs} failures, every one as it should be");
}
