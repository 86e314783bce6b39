//! Results as text for people. Keys and names come from outside, so they are escaped.

use std::fmt::Write as _;

use orchestrate::recover::Repair;
use orchestrate::{Activated, ActivationLine, Ensured, How, ImageLine, Listing, Removed};
use registry::Event;

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

pub(crate) fn deactivated(name: &str, changed: bool, dry_run: bool) -> String {
    match (changed, dry_run) {
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

pub(crate) fn repairs(repairs: &[Repair], dry_run: bool) -> String {
    let verb = if dry_run { "would" } else { "did" };
    let mut text = String::new();
    for repair in repairs {
        put(&mut text, format_args!("{verb}: {}\n", safe(&format!("{repair:?}"))));
    }
    if repairs.is_empty() {
        text.push_str("nothing to mend\n");
    }
    text
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes everything");
}
