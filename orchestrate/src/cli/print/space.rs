//! What takes room, and what became of it.

use orchestrate::plan::garbage::Sweep;
use orchestrate::{Collected, Usage};
use registry::VolumeId;

use crate::cli::print::naming;
use crate::cli::print::text::{mib, put, safe};

pub(crate) fn collected(done: &Collected) -> String {
    let mut text = String::new();
    let verb = if done.dry_run { "would remove" } else { "removed" };
    for sweep in &done.sweeps {
        let line = match sweep {
            Sweep::Image { image } => format!("image {}", safe(image)),
            Sweep::Volume { volume, bytes } => format!("volume {volume}, {}", mib(*bytes)),
            Sweep::Foreign { volume } => format!("foreign volume {volume}"),
        };
        put(&mut text, format_args!("{verb} {line}\n"));
    }
    text.push_str(&naming::ended(&done.ended, done.dry_run));
    for name in &done.arrivals {
        put(&mut text, format_args!("{verb} what had arrived of {}\n", safe(name)));
    }
    if done.sweeps.is_empty() && done.ended.is_empty() && done.arrivals.is_empty() {
        text.push_str("nothing to remove\n");
    }
    let purged = |id: &VolumeId| {
        done.sweeps.iter().any(|s| matches!(s, Sweep::Foreign { volume } if volume == id))
    };
    let foreign: Vec<String> =
        done.foreign.iter().filter(|id| !purged(id)).map(VolumeId::to_string).collect();
    if !foreign.is_empty() {
        put(
            &mut text,
            format_args!(
                "not ours and left alone: volumes {} (`orchestrate gc --purge-foreign ID,ID` removes those \
                 that you name)\n",
                foreign.join(", ")
            ),
        );
    }
    match done.dry_run {
        true => {
            let more = match done.ended.iter().any(|ended| ended.stays.is_none()) {
                true => ", and what is written to the activations whose time has ended",
                false => "",
            };
            put(&mut text, format_args!("would free about {}{more}\n", mib(done.layer_bytes)));
        }
        false => put(&mut text, format_args!("freed {}\n", mib(done.freed_bytes))),
    }
    for stays in &done.refused {
        put(&mut text, format_args!("volume {} stays: {}\n", stays.volume, safe(&stays.why)));
    }
    if let (Some(bound), missed @ 1..) = (done.bound_bytes, done.missed_bytes()) {
        let would = if done.dry_run { "would still be" } else { "are still" };
        put(
            &mut text,
            format_args!(
                "{} {would} taken, {} more than the {} that were asked for; what holds the room:\n",
                mib(bound + missed),
                mib(missed),
                mib(bound)
            ),
        );
        for hold in &done.holds {
            let bytes = hold.bytes.map_or("?".into(), mib);
            let (what, why) = (safe(&hold.what), safe(&hold.why));
            put(&mut text, format_args!("{bytes:>12}  {what} ({why})\n"));
        }
        if done.holds.is_empty() {
            text.push_str("  nothing of ours: others take it, or the template does\n");
        }
    }
    text
}

/// What is not ours, and how it may go.
pub(crate) fn foreign(done: &Collected) -> String {
    let ids: Vec<String> = done.foreign.iter().map(VolumeId::to_string).collect();
    match ids.is_empty() {
        true => "everything in the store is ours\n".into(),
        false => format!(
            "not ours: volumes {}; nothing was removed, `orchestrate gc --purge-foreign {}` does that\n",
            ids.join(", "),
            ids.join(",")
        ),
    }
}

pub(crate) fn usage(usage: &Usage) -> String {
    let mut text = format!(
        "store: {} of {} used; gc would free {}\n{:>12} {:>12} {:>12}  image\n",
        mib(usage.space.used),
        mib(usage.space.total),
        mib(usage.garbage_bytes),
        "shared",
        "own",
        "rm frees",
    );
    if usage.promised_bytes > 0 {
        let most = usage.promised_bytes_max.map(|bytes| format!(", at most {} may be", mib(bytes)));
        let line = format!("activations may grow to {}", mib(usage.promised_bytes));
        text.insert_str(0, &format!("{line}{}\n", most.unwrap_or_default()));
    }
    for image in &usage.images {
        let pinned = if image.pinned { "  pinned" } else { "" };
        put(
            &mut text,
            format_args!(
                "{:>12} {:>12} {:>12}  {}{pinned}\n",
                mib(image.shared_bytes),
                mib(image.exclusive_bytes),
                mib(image.would_free_bytes),
                safe(&image.image)
            ),
        );
    }
    for of in &usage.activations {
        let known = |bytes: Option<u64>| bytes.map_or("?".into(), mib);
        put(
            &mut text,
            format_args!(
                "{:>12} {:>12} {:>12}  activation {}, of {}\n",
                known(of.shared_bytes),
                known(of.exclusive_bytes),
                known(of.exclusive_bytes),
                safe(&of.name),
                mib(of.size_bytes)
            ),
        );
    }
    for (name, bytes) in &usage.points {
        let own = bytes.map_or("?".into(), mib);
        put(&mut text, format_args!("{:>12} {own:>12} {own:>12}  point {}\n", "", safe(name)));
    }
    if !usage.foreign.is_empty() {
        let ids: Vec<String> = usage.foreign.iter().map(VolumeId::to_string).collect();
        put(&mut text, format_args!("not ours: volumes {}\n", ids.join(", ")));
    }
    if !usage.condemned.is_empty() {
        let ids: Vec<String> = usage.condemned.iter().map(VolumeId::to_string).collect();
        put(
            &mut text,
            format_args!("condemned, until nothing stands on them: volumes {}\n", ids.join(", ")),
        );
    }
    text
}
