//! The commands about the disks of activations, with their flags and their text.

use std::process::ExitCode;

use argh::FromArgs;
use orchestrate::{DeviceNow, FileSystemNow, Forked, Resized, Verbs};

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

pub(crate) fn state_in_words(state: registry::DiskState) -> &'static str {
    match state {
        registry::DiskState::Clean => "clean",
        registry::DiskState::AfterReplay => "in order after its journal is replayed",
        registry::DiskState::CrashConsistent => {
            "as after a power cut of the machine that has the disk"
        }
    }
}
