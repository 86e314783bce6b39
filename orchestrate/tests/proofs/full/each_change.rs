//! The state directory becomes full, of bytes, of inodes or of both at once, at each change of each command
//! that changes anything. The command ends well or says that it is full; while it is full, what makes room
//! works; and when there is room again the same command comes to the end that it would have come to, so that
//! nothing is lost.
//!
//! A short form runs with every test, the whole one is `just soak-full`.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tests::trace::{self, Act, Call, Effect, Side, Whose};

use super::{A, B, FULL, Of, fill, images, make_room, prepared, small};
use crate::bench::{Bench, Host, is_good};
use crate::matrix::killed_once;
use crate::sweep::{setting, state};

/// In a test run, each of these many changes, other ones for each command and each kind of full. Parts of the
/// long form add up where it is no more than the changes of any command, some fifty.
const STEP: usize = 149;

/// A command, and what comes before it on a host with something of everything.
struct Case {
    name: &'static str,
    /// Makes the host ready, and gives the words.
    ready: fn(&Host<'_>) -> Vec<String>,
    /// Whether the command makes room: then it works in a full directory when it is asked for again.
    makes_room: bool,
    /// What there is of the host's registry before the command.
    before: Before,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// All of it.
    Whole,
    /// Nothing, nor anything else of the host.
    Nothing,
    /// It was lost.
    Lost,
}

const fn case(name: &'static str, ready: fn(&Host<'_>) -> Vec<String>) -> Case {
    Case { name, ready, makes_room: false, before: Before::Whole }
}

const fn room(name: &'static str, ready: fn(&Host<'_>) -> Vec<String>) -> Case {
    Case { name, ready, makes_room: true, before: Before::Whole }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const ACTIVATE_B: &[&str] = &["activate", B, "--name", "b-1"];

const CASES: &[Case] = &[
    Case { before: Before::Nothing, ..case("activate, fresh host", |_| words(ACTIVATE_B)) },
    case("activate", |_| words(ACTIVATE_B)),
    case("activate without a fetch", |_| words(&["activate", A, "--name", "a-4", "--no-fetch"])),
    case("activate with files of the caller's", |_| {
        words(&["activate", A, "--name", "a-4", "--copy", "/etc/passwd:/sbin/init:0755"])
    }),
    case("activate what is down", |_| words(&["activate", A, "--name", "a-3"])),
    case("ensure", |_| words(&["ensure", B])),
    case("pin", |_| words(&["pin", A])),
    room("unpin", |host| {
        host.ok(&["pin", A]);
        words(&["unpin", A])
    }),
    case("checked", |_| words(&["checked", "a-1"])),
    case("verify", |_| words(&["verify"])),
    case("rebuild", |_| words(&["rebuild"])),
    Case {
        before: Before::Lost,
        ..case("rebuild of a lost registry", |host| {
            host.lose_registry();
            words(&["rebuild"])
        })
    },
    room("cancel of what was killed", |host| {
        killed_once(host, ACTIVATE_B, "active/b-1");
        words(&["cancel", &host.rows("SELECT max(id) FROM runs")[0]])
    }),
    room("recover of what was killed", |host| {
        killed_once(host, &["rm", "a-1"], "active/a-1");
        words(&["recover"])
    }),
    room("deactivate", |_| words(&["deactivate", "a-1"])),
    room("rm of an activation", |_| words(&["rm", "a-1"])),
    room("rm of an image", |_| words(&["rm", "s3://bucket/garbage/"])),
    room("gc", |_| words(&["gc"])),
    room("gc of every image", |host| {
        host.ok(&["ensure", B]);
        words(&["gc", "--keep-bytes", "0"])
    }),
];

/// A case with its host, and the end that it comes to where there is room.
struct Ready<'b> {
    case: &'static Case,
    start: Host<'b>,
    words: Vec<String>,
    end: String,
    /// Changes of an undisturbed run.
    changes: usize,
    /// States in which the rest was tried already.
    seen: Mutex<BTreeSet<(String, [u8; 32])>>,
}

impl Ready<'_> {
    fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
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
    let words = (case.ready)(&start);
    let (whole, _mount) = small(&start, "whole");
    let mut changes = 0;
    let each = |call: &Call, side: Side| {
        changes += usize::from(call.effect == Effect::Changes && side == Side::Before);
        Act::Go
    };
    let said: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = trace::run(&whole.command(&said), &[&whole.dir], Whose::Main, each).unwrap();
    assert!(is_good(&said, ended.code), "{}: {:?} {}", case.name, ended.code, ended.stderr);
    for words in making_room(case) {
        whole.ok(words);
    }
    whole.check();
    let end = whole.end_text();
    Ready { case, start, words, end, changes, seen: Mutex::default() }
}

/// The command, with the directory full from its `at`th change on; then all that has to work. Gives whether
/// the rest was tried, or what is wrong.
fn full_at(ready: &Ready<'_>, of: Of, at: usize, name: &str) -> Result<bool, String> {
    let (host, _mount) = small(&ready.start, name);
    let words = ready.words();
    let (mut seen, mut place) = (0, None);
    let each = |call: &Call, side: Side| {
        if call.effect == Effect::Changes && side == Side::Before {
            if seen == at {
                place = Some(call.to_string());
                fill(&host, of);
            }
            seen += 1;
        }
        Act::Go
    };
    let ended = trace::run(&host.command(&words), &[&host.dir], Whose::Main, each);
    let ended = ended.map_err(|error| format!("{error:#}"))?;
    let place = place.unwrap_or_else(|| "its end".into());
    let good = is_good(&words, ended.code);
    let said = ended.stderr + &ended.stdout;
    if !good && !says_full(ended.code, &said) {
        return Err(format!("at {place}: {:?}: {said}", ended.code));
    }
    let key = (format!("{of:?} {good}"), state(&host));
    if !ready.seen.lock().unwrap().insert(key) {
        return Ok(false);
    }
    afterwards(ready, &host, of, good).map_err(|why| format!("at {place}: {why}")).map(|()| true)
}

/// What makes room works in the full directory; then there is room, and the command comes to its end.
fn afterwards(ready: &Ready<'_>, host: &Host<'_>, of: Of, good: bool) -> Result<(), String> {
    let words = ready.words();
    let mut good = good;
    if ready.case.makes_room && !good {
        fill(host, of);
        again(host, &words)?;
        good = true;
    }
    for words in making_room(ready.case) {
        fill(host, of);
        let (code, said) = host.said(words);
        let early = match ready.case.before {
            Before::Whole => false,
            // The command did not come so far that anything was kept back.
            Before::Nothing => says_full(Some(code), &said),
            Before::Lost => !good && said.contains("there is no registry"),
        };
        if code != 0 && !early {
            return Err(format!("{words:?} in the full directory: {code}: {said}"));
        }
    }
    make_room(host);
    if !good {
        again(host, &words)?;
    }
    for words in making_room(ready.case) {
        again(host, words)?;
    }
    if let Err(why) = catch_unwind(AssertUnwindSafe(|| host.check())) {
        return Err(format!("not clean: {:?}", why.downcast_ref::<String>()));
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

/// The command once more: it ends well, or what it is to remove is gone.
fn again(host: &Host<'_>, words: &[&str]) -> Result<(), String> {
    let (code, said) = host.said(words);
    let gone = code == 100 && said.contains("no activation or image");
    match is_good(words, Some(code)) || gone {
        true => Ok(()),
        false => Err(format!("{words:?} again: {code}: {said}")),
    }
}

fn says_full(code: Option<i32>, said: &str) -> bool {
    code == Some(111) && said.contains(FULL) && said.contains("no_space")
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
    let kinds = [Of::Both, Of::Bytes, Of::Inodes];
    let places: Vec<(Of, usize)> = kinds
        .into_iter()
        .zip(0..)
        .flat_map(|(of, kind)| {
            let first = (offset + kind * step / 3 + ready.case.name.len()) % step;
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
    for case in CASES.iter().filter(|case| case.name.contains(&wanted)) {
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
