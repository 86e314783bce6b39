//! Results as text for people. Keys and names come from outside, so they are escaped.

use std::fmt::Write as _;

use orchestrate::config::{Origin, Setting, Value};
use orchestrate::garbage::Sweep;
use orchestrate::health::Readiness;
use orchestrate::recover::Repair;
use orchestrate::scan::Scanned;
use orchestrate::{
    Activated, ActivationLine, Collected, Deactivated, Ensured, How, ImageLine, Listing, Now,
    Rebuilt, Removed, RunLine, TakenUp, Usage, VolumeFinding,
};
use registry::{Digest, Event, Quarantined, Run, RunState};

const MIB: f64 = 1024.0 * 1024.0;

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

fn safe(text: &str) -> String {
    text.escape_debug().to_string()
}

pub(crate) fn ensured(done: &Ensured) -> String {
    let mut text = String::new();
    for line in &done.layers {
        let how = match line.how {
            How::Reused => "reused",
            How::Built => "built",
            How::Adopted => "adopted",
            How::Planned => "to build",
        };
        let chain = line.chain.map_or("?".into(), |chain| chain.short());
        let volume = line.volume.map_or("-".into(), |volume| volume.to_string());
        put(
            &mut text,
            format_args!(
                "{:>3}  {how:<8}  {:>12}  volume {volume:<5} chain {chain}  {}\n",
                line.number,
                mib(line.bytes),
                safe(&line.key)
            ),
        );
    }
    let verb = if done.dry_run { "would fetch" } else { "fetched" };
    put(
        &mut text,
        format_args!(
            "{}: {} layers, {verb} {} objects, {}\n",
            safe(&done.image),
            done.layers.len(),
            done.fetched_objects,
            mib(done.fetched_bytes)
        ),
    );
    text
}

pub(crate) fn activated(done: &Activated) -> String {
    let mut text = done.ensured.as_ref().map_or(String::new(), ensured);
    let path = done.path.display();
    let verb = match (done.dry_run, done.already) {
        (true, _) => "would be",
        (false, true) => "is already",
        (false, false) => "is now",
    };
    put(&mut text, format_args!("{} {verb} {path}\n", safe(&done.name)));
    text
}

pub(crate) fn deactivated(done: &Deactivated) -> String {
    let name = safe(&done.name);
    match (done.changed, done.dry_run) {
        (true, false) => format!(
            "{name} is down; what was written to it is kept (`orchestrate rm {name}` deletes it)\n"
        ),
        (true, true) => format!("{name} would be taken down\n"),
        (false, _) => format!("{name} was down already\n"),
    }
}

pub(crate) fn listing(listing: &Listing) -> String {
    let mut text = String::new();
    put(
        &mut text,
        format_args!(
            "store {} {}: {} of {} used\n",
            listing.store.kind,
            listing.store.id,
            mib(listing.space.used),
            mib(listing.space.total)
        ),
    );
    for line in &listing.images {
        text.push_str(&image(line));
    }
    for line in &listing.activations {
        text.push_str(&activation(line, &[]));
    }
    text
}

pub(crate) fn image(line: &ImageLine) -> String {
    let mut text = format!("image {}  chain {}\n", safe(&line.image), line.chain.short());
    for layer in &line.layers {
        let shared = match layer.shared_with {
            0 => String::new(),
            n => format!("  shared with {n} more"),
        };
        put(
            &mut text,
            format_args!(
                "  {:>12}  volume {:<5} {}{shared}\n",
                mib(layer.bytes),
                layer.volume,
                safe(&layer.key)
            ),
        );
    }
    text
}

pub(crate) fn activation(line: &ActivationLine, history: &[Event]) -> String {
    let mapped = if line.mapped { "" } else { " (not mapped)" };
    let mut text = format!(
        "activation {}  {}{mapped}  {}  of {}\n",
        safe(&line.name),
        line.state,
        line.path.display(),
        safe(&line.image)
    );
    for event in history {
        let from = event.from.as_deref().unwrap_or("-");
        let to = event.to.as_deref().unwrap_or("-");
        put(&mut text, format_args!("  {} {from} -> {to} {}\n", event.seq, safe(&event.detail)));
    }
    text
}

pub(crate) fn removed(done: &Removed) -> String {
    let mut text = String::new();
    let verb = if done.dry_run { "would remove" } else { "removed" };
    if let Some(name) = &done.activation {
        put(&mut text, format_args!("{verb} activation {}\n", safe(name)));
    }
    if let Some(image) = &done.image {
        put(
            &mut text,
            format_args!(
                "{verb} image {}: {} layers of its own, {} stay\n",
                safe(image),
                done.volumes.len(),
                done.kept.len()
            ),
        );
    }
    if !done.dry_run {
        put(&mut text, format_args!("freed {}\n", mib(done.freed_bytes)));
    }
    text
}

pub(crate) fn recovered(repairs: &[Repair], resumed: &[TakenUp], dry_run: bool) -> String {
    let verb = if dry_run { "would" } else { "did" };
    let mut text = String::new();
    for repair in repairs {
        put(&mut text, format_args!("{verb}: {}\n", safe(&format!("{repair:?}"))));
    }
    for run in resumed {
        let end = match (&run.end, dry_run) {
            (RunState::Failed { class, message }, _) => format!("failed ({class}): {message}"),
            (_, true) => "would be taken up".into(),
            (end, false) => format!("taken up: {}", end.word()),
        };
        put(
            &mut text,
            format_args!(
                "run {} ({} {}): {}\n",
                run.run,
                run.verb.word(),
                safe(&run.subject),
                safe(&end)
            ),
        );
    }
    if repairs.is_empty() && resumed.is_empty() {
        text.push_str("nothing to mend\n");
    }
    text
}

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
    if done.sweeps.is_empty() {
        text.push_str("nothing to remove\n");
    }
    let purged = |id: &u32| {
        done.sweeps.iter().any(|s| matches!(s, Sweep::Foreign { volume } if volume == id))
    };
    let foreign: Vec<String> =
        done.foreign.iter().filter(|id| !purged(id)).map(u32::to_string).collect();
    if !foreign.is_empty() {
        put(
            &mut text,
            format_args!(
                "not ours and left alone: volumes {} (--purge-foreign removes them)\n",
                foreign.join(", ")
            ),
        );
    }
    match done.dry_run {
        true => put(&mut text, format_args!("would free about {}\n", mib(done.layer_bytes))),
        false => put(&mut text, format_args!("freed {}\n", mib(done.freed_bytes))),
    }
    if let Some(bound) = done.bound_bytes.filter(|bound| !done.dry_run && done.used_bytes > *bound)
    {
        put(
            &mut text,
            format_args!(
                "{} are still taken, asked at most {}: the rest is pinned or in use\n",
                mib(done.used_bytes),
                mib(bound)
            ),
        );
    }
    text
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
    for (name, bytes) in &usage.activations {
        let own = bytes.map_or("?".into(), mib);
        put(&mut text, format_args!("{:>12} {own:>12} {own:>12}  activation {}\n", "", safe(name)));
    }
    if !usage.foreign.is_empty() {
        let ids: Vec<String> = usage.foreign.iter().map(u32::to_string).collect();
        put(&mut text, format_args!("not ours: volumes {}\n", ids.join(", ")));
    }
    text
}

pub(crate) fn pinned(image: &str, pinned: bool) -> String {
    let verb = if pinned { "pinned" } else { "no longer pinned" };
    format!("{} is {verb}\n", safe(image))
}

pub(crate) fn findings(findings: &[VolumeFinding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let now = match &finding.now {
            Now::Intact => "intact".to_owned(),
            Now::Changed { found } => {
                let sealed = finding.sealed.map_or("?".into(), |digest| digest.short());
                format!("CHANGED: tree is {}, sealed was {sealed}", found.short())
            }
            Now::Unreadable { why } => format!("UNREADABLE: {}", safe(why)),
            Now::Unknown => "UNKNOWN: sealed without a tree digest".to_owned(),
        };
        put(&mut text, format_args!("volume {:<5} {now}\n", finding.volume));
    }
    let bad = findings.iter().filter(|finding| finding.now != Now::Intact).count();
    if bad > 0 {
        put(
            &mut text,
            format_args!(
                "{bad} of {} volumes are not as they were sealed: `orchestrate rm` the images on \
                 them, then ensure them again\n",
                findings.len()
            ),
        );
    }
    text
}

pub(crate) fn readiness(found: &Readiness) -> String {
    let mut text = String::new();
    for check in &found.checks {
        let word = if check.ok { "ok" } else { "NOT OK" };
        put(&mut text, format_args!("{word:<7} {:<16} {}\n", check.name, safe(&check.reason)));
    }
    if let Some(why) = &found.why {
        let mode = found.mode.as_deref().unwrap_or_default();
        put(&mut text, format_args!("mode {mode}: {}\n", safe(why)));
    }
    text
}

pub(crate) fn run_line(line: &RunLine) -> String {
    run(&line.run, line.interrupted)
}

pub(crate) fn run(run: &Run, interrupted: bool) -> String {
    let state = match &run.state {
        RunState::Running if run.cancel.is_some() => "being cancelled".to_owned(),
        RunState::Running if interrupted => {
            "interrupted (`orchestrate recover` takes it up)".to_owned()
        }
        RunState::Queued if interrupted => {
            "queued, and no daemon runs (`orchestrate recover` takes it up)".to_owned()
        }
        RunState::Failed { class, message } => format!("failed ({class}): {message}"),
        RunState::Queued | RunState::Running | RunState::Done | RunState::Cancelled => {
            run.state.word().to_owned()
        }
    };
    let step = if run.step.is_empty() { String::new() } else { format!("  {}", run.step) };
    let begun =
        if run.attempt > 1 { format!("  begun {} times", run.attempt) } else { String::new() };
    let (verb, subject) = (run.verb.word(), safe(&run.subject));
    format!("run {:<5} {verb:<10} {subject}  {}{begun}{}\n", run.id, safe(&state), safe(&step))
}

pub(crate) fn history(events: &[Event]) -> String {
    events.iter().map(event).collect()
}

pub(crate) fn event(event: &Event) -> String {
    let from = event.from.as_deref().unwrap_or("-");
    let to = event.to.as_deref().unwrap_or("-");
    format!("{:>6}  {}  {from} -> {to}  {}\n", event.seq, safe(&event.subject), safe(&event.detail))
}

pub(crate) fn quarantined(blob: &Quarantined) -> String {
    format!("{}  {} bytes  {}  {}\n", blob.digest, blob.size, safe(&blob.key), safe(&blob.message))
}

pub(crate) fn released(digest: &Digest, released: bool) -> String {
    match released {
        true => format!("{digest} may be unpacked again\n"),
        false => format!("{digest} is not in quarantine\n"),
    }
}

pub(crate) fn rebuilt(done: &Rebuilt) -> String {
    let verb = if done.dry_run { "would rebuild" } else { "rebuilt" };
    let mut text = format!(
        "{verb} a registry of {} layers, {} images, {} activations\n",
        done.layers,
        done.images.len(),
        done.activations.len()
    );
    for image in &done.images {
        put(&mut text, format_args!("  image {}\n", safe(image)));
    }
    for name in &done.activations {
        put(&mut text, format_args!("  activation {}\n", safe(name)));
    }
    if !done.foreign.is_empty() {
        let ids: Vec<String> = done.foreign.iter().map(u32::to_string).collect();
        put(&mut text, format_args!("not ours: volumes {}\n", ids.join(", ")));
    }
    if let Some(kept) = &done.kept {
        put(&mut text, format_args!("the registry that was there is {}\n", kept.display()));
    }
    text
}

pub(crate) fn scanned(done: &Scanned) -> String {
    let verdict = if done.blocks { "; the policy does not let it through" } else { "" };
    let (image, scanner) = (safe(&done.image), safe(&done.scanner));
    let mut text = format!("{image}: {} ({scanner}){verdict}\n", done.counts);
    for finding in &done.findings {
        let fixed = match finding.fixed.as_str() {
            "" => String::new(),
            fixed => format!(" (fixed in {})", safe(fixed)),
        };
        put(
            &mut text,
            format_args!(
                "  {:<8}  {}  {} {}{fixed}  {}\n",
                finding.severity.word(),
                safe(&finding.id),
                safe(&finding.package),
                safe(&finding.installed),
                safe(&finding.title)
            ),
        );
    }
    text
}

/// A line of the settings' file.
pub(crate) fn setting(setting: &Setting, value: &Value, origin: &Origin) -> String {
    let line = match value.toml() {
        Some(value) => format!("{} = {value}", setting.key),
        None => format!("# {} =", setting.key),
    };
    format!("{line:<48}  # {origin}\n")
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes everything");
}
