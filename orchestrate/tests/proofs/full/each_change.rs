//! The state directory, or the store, becomes full, of bytes, of inodes or of both at once, at each change of each
//! command that changes anything. The command ends well or says that it is full; while it is full, what makes room
//! works; and when there is room again the same command comes to the end that it would have come to, so that
//! nothing is lost.
//!
//! A short form runs with every test, the whole one is `just soak-full`.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tests::trace::{self, Act, Call, Effect, Side};

use super::cases::{Before, CASES, Case};
use super::{Disk, FULL, Of, Small, images, prepared, small_of, store};
use crate::bench::{Bench, Host, names};
use crate::sweep::{setting, state};

/// In a test run, each of these many changes, other ones for each command and each kind of full. Parts of the
/// long form add up where it is no more than the changes of any command, some fifty.
const STEP: usize = 149;

/// A case with its host, and the end that it comes to where there is room.
struct Ready<'b> {
    case: &'static Case,
    start: Host<'b>,
    words: Vec<String>,
    end: String,
    /// The caller's own files.
    files: Vec<String>,
    /// Changes of an undisturbed run.
    changes: usize,
    /// States in which the rest was tried already.
    seen: Mutex<BTreeSet<(String, [u8; 32])>>,
}

/// The words of a case on this host.
fn said(words: &[String], host: &Small<'_>) -> Vec<String> {
    let out = host.out().to_string_lossy().into_owned();
    words.iter().map(|word| word.replace("{out}", &out)).collect()
}

fn texts(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Paths of the caller's own files, and which of them have something in them.
fn files(host: &Small<'_>) -> Vec<String> {
    let top = host.out();
    let (mut found, mut open) = (Vec::new(), vec![top.clone()]);
    while let Some(dir) = open.pop() {
        for name in names(&dir) {
            let path = dir.join(name);
            let shown = path.strip_prefix(&top).unwrap().display().to_string();
            let is_empty = path.is_file() && path.metadata().unwrap().len() == 0;
            // What an image's documents are named depends on when they were made.
            if !dir.ends_with("blobs/sha256") {
                found.push(if is_empty { shown + " (empty)" } else { shown });
            }
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What has to work at any time; a fresh host has nothing that could go.
fn making_room(case: &Case) -> &'static [&'static [&'static str]] {
    match case.before {
        Before::Nothing => &[&["gc"]],
        Before::Whole | Before::Lost => &[&["rm", "a-2"], &["gc"]],
    }
}

fn ready<'b>(bench: &'b Bench, one: &Host<'b>, case: &'static Case) -> Ready<'b> {
    let start = match case.before {
        Before::Nothing => bench.host("nothing"),
        Before::Whole | Before::Lost => one.copy_to("start"),
    };
    start.settings("");
    let settings = (case.settings)(bench);
    start.settings(&settings);
    let words = (case.ready)(&start);
    let small = small_of(&start, "whole", case.disk);
    let (whole, words_here) = (&small.host, said(&words, &small));
    let mut changes = 0;
    let each = |call: &Call, side: Side| {
        changes += usize::from(call.effect == Effect::Changes && side == Side::Before);
        Act::Go
    };
    let command = whole.command(&texts(&words_here));
    let ended = trace::run(&command, &[&whole.dir], case.whose, each).unwrap();
    assert_eq!(ended.code, Some(case.code), "{}: {}", case.name, ended.stderr);
    let files = files(&small);
    for words in making_room(case) {
        whole.ok(words);
    }
    whole.check();
    let end = whole.end_text();
    Ready { case, start, words, end, files, changes, seen: Mutex::default() }
}

/// The command, with the directory full from its `at`th change on; then all that has to work. Gives whether
/// the rest was tried, or what is wrong.
fn full_at(ready: &Ready<'_>, of: Of, at: usize, name: &str) -> Result<bool, String> {
    let small = small_of(&ready.start, name, ready.case.disk);
    let host = &small.host;
    let words = said(&ready.words, &small);
    let (mut seen, mut place) = (0, None);
    let each = |call: &Call, side: Side| {
        if call.effect == Effect::Changes && side == Side::Before {
            if seen == at {
                place = Some(call.to_string());
                small.fill(of);
            }
            seen += 1;
        }
        Act::Go
    };
    let ended = trace::run(&host.command(&texts(&words)), &[&host.dir], ready.case.whose, each);
    let ended = ended.map_err(|error| format!("{error:#}"))?;
    let place = place.unwrap_or_else(|| "its end".into());
    let good = ended.code == Some(ready.case.code);
    let said = ended.stderr + &ended.stdout;
    if !good && !says_full(ready.case.disk, ended.code, &said) {
        return Err(format!("at {place}: {:?}: {said}", ended.code));
    }
    let key = (format!("{of:?} {good}"), state(host));
    if !ready.seen.lock().unwrap().insert(key) {
        return Ok(false);
    }
    afterwards(ready, &small, of, good)
        .map_err(|why| format!("at {place}: {why}; it had said: {said}"))
        .map(|()| true)
}

/// What makes room works in the full directory; then there is room, and the command comes to its end.
fn afterwards(ready: &Ready<'_>, small: &Small<'_>, of: Of, good: bool) -> Result<(), String> {
    let (host, case) = (&small.host, ready.case);
    let words = said(&ready.words, small);
    let mut good = good && !case.again;
    if case.makes_room && !good {
        small.fill(of);
        again(host, &texts(&words), case.code)?;
        good = true;
    }
    looking(ready, small, of)?;
    for words in making_room(case) {
        small.fill(of);
        let (code, said) = host.said(words);
        let early = match case.before {
            Before::Whole => false,
            // The command did not come so far that anything was kept back.
            Before::Nothing => says_full(case.disk, Some(code), &said),
            Before::Lost => !good && said.contains("there is no registry"),
        };
        if code != 0 && !early {
            return Err(format!("{words:?} in the full directory: {code}: {said}"));
        }
    }
    small.make_room();
    if !good {
        again(host, &texts(&words), case.code)?;
    }
    for words in making_room(case) {
        again(host, words, 0)?;
    }
    if let Err(why) = catch_unwind(AssertUnwindSafe(|| host.check())) {
        return Err(format!("not clean: {:?}", why.downcast_ref::<String>()));
    }
    let found = files(small);
    if found != ready.files {
        return Err(format!("the caller's files: {found:?} and not {:?}", ready.files));
    }
    let (found, end) = (host.end_text(), &ready.end);
    let other = |one: &str, another: &str| {
        let lines: Vec<&str> = one.lines().filter(|line| !another.contains(line)).collect();
        lines.join("; ")
    };
    match found == *end {
        true => Ok(()),
        false => Err(format!("more: {}; less: {}", other(&found, end), other(end, &found))),
    }
}

/// Whoever looks sees what there is; once for each case, as that is the same wherever the command stopped.
fn looking(ready: &Ready<'_>, small: &Small<'_>, of: Of) -> Result<(), String> {
    if ready.case.before != Before::Whole || ready.seen.lock().unwrap().len() > 1 {
        return Ok(());
    }
    small.fill(of);
    for words in [&["ls"][..], &["df"], &["show", "a-2"], &["runs", "-a"]] {
        let (code, said) = small.host.said(words);
        if code != 0 {
            return Err(format!("{words:?} in the full directory: {code}: {said}"));
        }
    }
    let (code, said) = small.host.said(&["health"]);
    match code == 1 && said.contains(full(ready.case.disk)) {
        true => Ok(()),
        false => Err(format!("health in the full directory: {code}: {said}")),
    }
}

/// The command once more: it ends well, or what it is to remove is gone.
fn again(host: &Host<'_>, words: &[&str], wanted: i32) -> Result<(), String> {
    let (code, said) = host.said(words);
    let gone = code == 100 && said.contains("no activation or image");
    match code == wanted || gone {
        true => Ok(()),
        false => Err(format!("{words:?} again: {code}: {said}")),
    }
}

fn full(disk: Disk) -> &'static str {
    match disk {
        Disk::State => FULL,
        Disk::Store => store::FULL,
    }
}

fn says_full(disk: Disk, code: Option<i32>, said: &str) -> bool {
    let full = match disk {
        Disk::State => said.contains(FULL),
        // What is written for the caller is on the same disk.
        Disk::Store => said.contains(store::FULL) || said.contains("/disk/out"),
    };
    code == Some(111) && full && said.contains("no_space")
}

/// What came of a case.
#[derive(Debug, Default)]
struct Figures {
    changes: usize,
    runs: usize,
    states: usize,
    wrong: Vec<String>,
}

fn sweep(ready: &Ready<'_>, step: usize, offset: usize) -> Figures {
    // In a test run the store is full once for each command, of one kind or another.
    let once = ready.case.disk == Disk::Store && step == STEP;
    let (name, step) = (ready.case.name.len(), if once { step.max(ready.changes) } else { step });
    let kinds = [Of::Both, Of::Bytes, Of::Inodes];
    let places: Vec<(Of, usize)> = kinds
        .into_iter()
        .zip(0..)
        .filter(|(_, kind)| !once || *kind == name % kinds.len())
        .flat_map(|(of, kind)| {
            let first = (offset + kind * step / 3 + name) % step;
            // A command of few changes has one of each kind in a test run, too.
            (first % ready.changes..ready.changes).step_by(step).map(move |at| (of, at))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let figures = Mutex::new(Figures { changes: ready.changes, ..Figures::default() });
    let work = |number: usize| {
        while let Some((of, at)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = full_at(ready, *of, *at, &format!("host-{number}"));
            let mut figures = figures.lock().unwrap();
            figures.runs += 1;
            match found {
                Ok(new) => figures.states += usize::from(new),
                Err(why) => figures.wrong.push(format!(
                    "{}: full of {of:?} from change {at} on, {why}",
                    ready.case.name
                )),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        work(0);
    });
    figures.into_inner().unwrap()
}

#[test]
fn a_state_directory_that_becomes_full_at_any_change_loses_nothing() {
    let (step, offset) = (setting("VENEER_FULL_STEP", STEP), setting("VENEER_FULL_OFFSET", 0));
    let wanted = std::env::var("VENEER_CASE").unwrap_or_default();
    let begun = Instant::now();
    let bench = images();
    let one = prepared(&bench);
    let mut sum = Figures::default();
    let is_wanted = |case: &&Case| wanted.split('|').any(|wanted| case.name.contains(wanted));
    for case in CASES.iter().filter(is_wanted) {
        let figures = sweep(&ready(&bench, &one, case), step, offset);
        let (seconds, bad) = (begun.elapsed().as_secs_f64(), figures.wrong.len());
        let Figures { changes, runs, states, wrong } = figures;
        eprintln!(
            "{}: {changes} changes, {runs} runs, {states} states, {bad} wrong, {seconds:.0} s",
            case.name
        );
        for line in &wrong {
            eprintln!("  {line}");
        }
        sum.changes += changes;
        sum.runs += runs;
        sum.states += states;
        sum.wrong.extend(wrong);
    }
    let wrong = std::mem::take(&mut sum.wrong);
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), sum.runs, wrong.join("\n"));
    eprintln!("all: {sum:?}, every one as it should be");
}
