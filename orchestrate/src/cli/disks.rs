//! The commands about the disks of activations, with their flags and their text.

use std::process::ExitCode;

use argh::FromArgs;
use orchestrate::{
    DeviceNow, FileSystemNow, Forked, Points, Resized, Restored, Snapshotted, Verbs,
};

use crate::cli::numbers::Bytes;
use crate::cli::print::text::{mib, safe};
use crate::cli::say::output;

/// Make the disk of an activation larger, while it is in use. The file system grows as well where this host has it mounted; else the answer says what is still to be run, and where.
#[derive(FromArgs)]
#[argh(subcommand, name = "resize")]
pub(crate) struct Resize {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the new size, such as 40G; never less than the disk has
    #[argh(positional)]
    pub(crate) size: Bytes<1>,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Make a new activation whose disk is a snapshot of another activation's, which may be in use.
#[derive(FromArgs)]
#[argh(subcommand, name = "fork")]
pub(crate) struct Fork {
    /// the activation to take a snapshot of
    #[argh(positional)]
    pub(crate) name: String,
    /// the new activation's name; if it is a fork of the same already, nothing is done
    #[argh(positional)]
    pub(crate) new: String,
    /// size of the new disk, such as 40G, if it is to be larger
    #[argh(option)]
    pub(crate) size: Option<Bytes<1>>,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Keep the disk of an activation as it is now under a name, to bring it back later; it may be in use.
#[derive(FromArgs)]
#[argh(subcommand, name = "snapshot")]
pub(crate) struct Snapshot {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the point's name
    #[argh(positional)]
    pub(crate) point: String,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Bring the disk of an activation back to a point. What was written since is gone; nobody may have it open.
#[derive(FromArgs)]
#[argh(subcommand, name = "restore")]
pub(crate) struct Restore {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the point's name
    #[argh(positional)]
    pub(crate) point: String,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// List the points of an activation's disk, or remove one.
#[derive(FromArgs)]
#[argh(subcommand, name = "points")]
pub(crate) struct ListPoints {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// remove this point
    #[argh(option)]
    pub(crate) remove: Option<String>,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

pub(crate) fn snapshot(
    host: &mut dyn Verbs,
    args: &Snapshot,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let done = host.snapshot(&args.name, &args.point, args.dry_run)?;
    output(json, &done, snapshotted)
}

pub(crate) fn restore(
    host: &mut dyn Verbs,
    args: &Restore,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let done = host.restore(&args.name, &args.point, args.dry_run)?;
    output(json, &done, restored)
}

pub(crate) fn points(
    host: &mut dyn Verbs,
    args: &ListPoints,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let found = match &args.remove {
        Some(point) => host.remove_point(&args.name, point, args.dry_run)?,
        None => host.points(&args.name)?,
    };
    output(json, &found, listed)
}

pub(crate) fn resize(host: &mut dyn Verbs, args: &Resize, json: bool) -> anyhow::Result<ExitCode> {
    let done = host.resize(&args.name, args.size.0, args.dry_run)?;
    output(json, &done, resized)
}

pub(crate) fn fork(host: &mut dyn Verbs, args: &Fork, json: bool) -> anyhow::Result<ExitCode> {
    let bytes = args.size.map(|size| size.0);
    let done = host.fork(&args.name, &args.new, bytes, args.dry_run)?;
    output(json, &done, forked)
}

fn resized(done: &Resized) -> String {
    let verb = if done.dry_run { "would have" } else { "has" };
    let device = match done.device {
        DeviceNow::Grown => "its device is as long now",
        DeviceNow::AsItWas => "as before",
        DeviceNow::Down => "its device is as long when it comes up",
    };
    let mut text = format!(
        "the disk of {} {verb} {} bytes ({}), {}: {device}\n",
        safe(&done.name),
        done.bytes,
        mib(done.bytes),
        format_args!("{} before", done.bytes_before),
    );
    if let Some(by) = &done.used_by {
        text.push_str(&format!("  in use: {}\n", safe(by)));
    }
    if done.file_system == FileSystemNow::Grown {
        let verb = if done.dry_run { "would fill" } else { "fills" };
        text.push_str(&format!("  the file system {verb} it\n"));
    }
    if let Some(next) = &done.next {
        text.push_str(&format!("  {}\n", safe(next)));
    }
    text
}

fn forked(done: &Forked) -> String {
    let verb = match (done.dry_run, done.already) {
        (true, _) => "would be",
        (false, true) => "is already",
        (false, false) => "is",
    };
    let mut text = format!(
        "{} {verb} a fork of {}: {}  {}  of {}\n",
        safe(&done.name),
        safe(&done.from),
        done.path.display(),
        mib(done.bytes),
        safe(&done.image)
    );
    if let Some(by) = &done.used_by {
        text.push_str(&format!("  the disk was in use: {}\n", safe(by)));
    }
    if let Some(state) = done.consistency {
        text.push_str(&format!("  its file system is {}\n", state_in_words(state)));
    }
    text
}

fn snapshotted(done: &Snapshotted) -> String {
    let verb = if done.dry_run { "would be" } else { "is" };
    let (point, name) = (safe(&done.point), safe(&done.activation));
    let mut text = format!("point {point} of {name} {verb} kept: {}\n", mib(done.bytes));
    if let Some(by) = &done.used_by {
        text.push_str(&format!("  the disk was in use: {}\n", safe(by)));
    }
    if let Some(state) = done.consistency {
        text.push_str(&format!("  its file system is {}\n", state_in_words(state)));
    }
    text
}

fn restored(done: &Restored) -> String {
    let verb = if done.dry_run { "would be" } else { "is" };
    let (name, point) = (safe(&done.activation), safe(&done.point));
    let mapped = if done.mapped { "mapped" } else { "not mapped" };
    format!("{name} {verb} as it was at point {point}: {}, {mapped}\n", mib(done.bytes))
}

fn listed(found: &Points) -> String {
    let mut text = String::new();
    if let Some(point) = &found.removed {
        let verb = if found.dry_run { "would remove" } else { "removed" };
        text.push_str(&format!("{verb} point {} of {}\n", safe(point), safe(&found.activation)));
    }
    for line in &found.points {
        let state = line.consistency.map_or("", state_in_words);
        let (point, size) = (safe(&line.point), mib(line.bytes));
        text.push_str(&format!("{size:>12}  volume {:<5} {point}  {state}\n", line.volume));
    }
    if found.points.is_empty() && found.removed.is_none() {
        text.push_str(&format!("{} has no points\n", safe(&found.activation)));
    }
    text
}

fn state_in_words(state: registry::DiskState) -> &'static str {
    match state {
        registry::DiskState::Clean => "clean",
        registry::DiskState::AfterReplay => "in order after its journal is replayed",
        registry::DiskState::CrashConsistent => {
            "as after a power cut of the machine that has the disk"
        }
    }
}
