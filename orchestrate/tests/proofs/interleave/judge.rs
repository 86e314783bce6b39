//! What must hold after every step, and at the end.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::acts::{Act, Answer, P, Theme, Via};
use super::line::{Op, is_linear};
use super::seat::{At, Fault, Round, Seat};
use super::view::{Name, View};
use crate::bench::Host;

fn fault(round: &mut Round, kind: &'static str, what: String) {
    round.faults.push(Fault { kind, what });
}

/// Registry and store are at most one transaction apart, and what a run was asked with is part of it.
pub(crate) fn after_a_step(round: &mut Round, view: &View) {
    // A registry that is made anew counts its runs from one.
    let before = round.views.last().filter(|_| round.theme != Theme::Rebuild);
    let became = before.into_iter().flat_map(|(_, before)| &before.runs).find_map(|(id, was)| {
        let is = view.runs.get(id).filter(|is| is.asked != was.asked)?;
        Some(format!("run {id} was for {:?} and is for {:?}", was.asked, is.asked))
    });
    if let Some(became) = became {
        fault(round, "a run became one for something else", became);
    }
    let (registry, store) = view.numbers;
    if registry != store && registry != store + 1 {
        fault(round, "registry and store are apart", format!("{registry} and {store}"));
    }
}

/// No lock that others need for short acts is held while a server is waited for.
pub(crate) fn over_the_network(round: &mut Round, at: usize, held: &[String]) {
    let shared = |lock: &&String| ["store.lock", "images.lock"].contains(&lock.as_str());
    let kind = "a lock is held over the network";
    let known = round.faults.iter().any(|fault| fault.kind == kind);
    if let Some(lock) = held.iter().find(shared).filter(|_| !known) {
        let what = format!("{} has {lock}", round.seats[at].who);
        fault(round, kind, what);
    }
}

/// A server is silent to `held`, and nobody else can move: who waits has to need just that.
pub(crate) fn while_silent(round: &mut Round, held: usize) {
    let acts = |at: usize| -> Vec<&Act> {
        let seat = &round.seats[at];
        match (&seat.act, &seat.at) {
            (Some(act), _) => vec![act],
            // A worker: it is at work for any of those that wait for a run.
            (None, _) => asked(&round.seats).filter_map(|seat| seat.act.as_ref()).collect(),
        }
    };
    let slow = acts(held);
    let stands = |seat: &&Seat| {
        let waits = matches!(seat.at, At::Waits(_) | At::Asked(_));
        let needs = |act: &Act| slow.iter().any(|other| *other == act || act.needs(other));
        waits && seat.act.as_ref().is_some_and(|act| !needs(act))
    };
    let in_vain: Vec<String> = round
        .seats
        .iter()
        .filter(stands)
        .map(|seat| format!("{} at {:?}", seat.who, seat.at))
        .collect();
    if !in_vain.is_empty() {
        let what = format!("{} waits for a server, and so do {in_vain:?}", round.seats[held].who);
        fault(round, "somebody waits for what it does not need", what);
    }
}

/// Those that a run of the daemon's stands for and that may wait for a server.
fn asked(seats: &[Seat]) -> impl Iterator<Item = &Seat> {
    let long = |act: &Act| matches!(act, Act::Ensure(_) | Act::Activate { .. });
    seats
        .iter()
        .filter(move |seat| matches!(seat.at, At::Asked(_)) && seat.act.as_ref().is_some_and(long))
}

/// All have been answered, and nobody is at work.
pub(crate) fn at_the_end(host: &Host<'_>, round: &mut Round) {
    if round.faults.iter().any(|fault| fault.kind == "all stand") {
        return;
    }
    for at in 0..round.seats.len() {
        answered(round, at);
    }
    let left = round.views.iter().flat_map(|(_, view)| &view.runs);
    let left: BTreeSet<(u64, String, String)> = left
        .filter(|(_, row)| row.state == "queued")
        .map(|(id, row)| (*id, row.verb.clone(), row.subject.clone()))
        .collect();
    let (code, said) = host.said(&["recover"]);
    // What was taken up may be refused as it would have been.
    if code != 0 && !said.contains("\"resumed\"") {
        fault(round, "the host cannot be recovered", said.clone());
        return;
    }
    let Some(last) = View::of(host) else {
        fault(round, "there is no registry", said);
        return;
    };
    after_a_step(round, &last);
    for (id, row) in &last.runs {
        if !row.is_over() {
            fault(round, "a run is lost", format!("run {id} is {row:?}: {said}"));
        }
    }
    for (id, verb, subject) in left {
        let kept = |row: &super::view::Row| row.verb == verb && row.subject == subject;
        if !last.runs.values().any(kept) {
            fault(round, "a run is lost", format!("run {id}, {verb} {subject}, was queued"));
        }
    }
    for name in ["w", "x", "y", "z"] {
        linear(round, name, &last);
    }
    pushed(round, &last);
    let checked = catch_unwind(AssertUnwindSafe(|| host.check()));
    if let Err(told) = checked {
        let text = told.downcast_ref::<String>().cloned().unwrap_or_default();
        fault(round, "rows and directories do not agree", text);
    }
}

/// An answer is true at one moment between request and answer.
fn answered(round: &mut Round, at: usize) {
    let seat = &round.seats[at];
    let (Some(act), Some(answer)) = (&seat.act, &seat.answer) else { return };
    let Some(ended) = seat.ended else { return };
    let begun = round.views.iter().rposition(|(step, _)| *step < seat.began).unwrap_or(0);
    let mut views = round.views[begun..].iter().filter(|(step, _)| *step <= ended);
    let has = |view: &View, image: &str| view.images.contains_key(image);
    let used = |view: &View, image: &str| {
        let of = |name: &Name| matches!(name, Name::There { image: of, .. } if of == image);
        view.names.values().any(of)
    };
    let was = |test: &dyn Fn(&View) -> bool| views.any(|(_, view)| test(view));
    let mut was = was;
    let good = match (act, answer) {
        (_, Answer::Failed(_)) => false,
        (Act::Ensure(image), Answer::Done(_)) => was(&|view| has(view, image)),
        (Act::Rm(image), Answer::Done(_)) if act.name().is_none() => was(&|view| !has(view, image)),
        (Act::Rm(image), Answer::Conflict) if act.name().is_none() => {
            // An activation that is being made or taken away is shown to nobody.
            was(&|view| used(view, image)) || others_use(round, at, image)
        }
        (Act::Rm(image) | Act::Pin(image), Answer::Unknown) if act.name().is_none() => {
            was(&|view| !has(view, image))
        }
        (Act::Pin(image), Answer::Done(_)) => {
            was(&|view| view.images.get(*image).is_some_and(|(_, pinned)| *pinned))
        }
        (Act::Ls, Answer::Done(said)) => was(&|view| lists(said, view)),
        (Act::Rebuild, answer) => matches!(answer, Answer::Done(_)),
        _ => true,
    };
    let text = format!("{}: {answer:?}", seat.who);
    if let Answer::Failed(_) = answer {
        fault(round, "somebody is failed by what others do", text);
    } else if !good {
        fault(round, "an answer was true at no moment", text);
    }
}

fn others_use(round: &Round, at: usize, image: &str) -> bool {
    let uses =
        |seat: &Seat| matches!(seat.act, Some(Act::Activate { image: of, .. }) if of == image);
    round.seats.iter().enumerate().any(|(other, seat)| other != at && uses(seat))
}

/// Whether a listing says of names and images what was there.
fn lists(said: &Value, view: &View) -> bool {
    let lines = said["activations"].as_array().into_iter().flatten();
    let told = lines.filter_map(|line| {
        let up = match line["state"].as_str()? {
            "active" => true,
            "inactive" => false,
            _ => return None,
        };
        Some((line["name"].as_str()?.to_owned(), line["image"].as_str()?.to_owned(), up))
    });
    let there = view.names.iter().filter_map(|(name, of)| match of {
        Name::There { image, up, .. } => Some((name.clone(), image.clone(), *up)),
        Name::Absent => None,
    });
    told.collect::<BTreeSet<_>>() == there.collect()
}

/// What was answered about a name can have happened in one order, and ends in what is there.
fn linear(round: &mut Round, name: &str, last: &View) {
    let of_name = |seat: &&Seat| seat.act.as_ref().is_some_and(|act| act.name() == Some(name));
    let ops = round.seats.iter().filter(of_name).filter_map(|seat| {
        let accepted = seat.accepted.filter(|_| seat.via == Via::Daemon);
        let (act, answer) = (seat.act?, seat.answer.clone()?);
        Some(Op { act, answer, began: seat.began, accepted, ended: seat.ended })
    });
    let mut ops: Vec<Op> = ops.collect();
    let first = round.views.first().map_or(Name::Absent, |(_, view)| view.name(name));
    // What was queued before is done sometime.
    let queued = round.views.first().into_iter().flat_map(|(_, view)| view.runs.values());
    for row in queued.filter(|row| row.subject == name && row.state == "queued") {
        if let Some(act) = super::yard::queued(&row.verb) {
            ops.push(Op { act, answer: Answer::None, began: 0, accepted: Some(0), ended: None });
        }
    }
    if !is_linear(&first, &ops, &last.name(name)) {
        let what = format!("{name} was {first:?}, is {:?}: {ops:#?}", last.name(name));
        fault(round, "acts on a name are in no order", what);
    }
}

/// Whoever asked for an image after it had become another one, and was told that it is there, has that.
fn pushed(round: &mut Round, last: &View) {
    let is_push = |seat: &&Seat| seat.act == Some(Act::Push);
    let Some(pushed) = round.seats.iter().filter(is_push).filter_map(|seat| seat.ended).max()
    else {
        return;
    };
    let later = round.seats.iter().filter(|seat| {
        matches!(seat.act, Some(Act::Ensure(P) | Act::Activate { image: P, .. }))
            && seat.began > pushed
    });
    let told = later.filter_map(|seat| match &seat.answer {
        // An activation that was there is of what it was, and has looked at nothing.
        Some(Answer::Done(said)) => {
            let ensured = if said["name"].is_null() { said } else { &said["ensured"] };
            ensured["chain"].as_str()?.strip_prefix("sha256:").map(str::to_owned)
        }
        _ => None,
    });
    let is = last.images.get(P).map(|(chain, _)| chain.clone());
    if let Some(told) = told.into_iter().find(|told| Some(told) != is.as_ref()) {
        let what = format!("who asked after step {pushed} was told {told}, and {P} is {is:?}");
        fault(round, "an older listing won over a later request", what);
    }
}
