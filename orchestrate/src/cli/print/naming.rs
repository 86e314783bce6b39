//! Labels, times, names and who uses what, as text for people.

use orchestrate::{ActivationLine, Ended, Labelled, Renamed, Timed, Who};

use crate::cli::print::text::{put, safe};

pub(crate) fn labelled(done: &Labelled) -> String {
    let labels = labels(&done.labels);
    let verb = if done.changed { "now" } else { "already" };
    match labels.as_str() {
        "" => format!("{} {verb} has no labels\n", safe(&done.name)),
        labels => format!("{} {verb} has the labels{labels}\n", safe(&done.name)),
    }
}

fn labels(labels: &orchestrate::Labels) -> String {
    labels.iter().map(|(key, value)| format!(" {}={}", safe(key), safe(value))).collect()
}

pub(crate) fn timed(done: &Timed) -> String {
    let name = safe(&done.name);
    match (done.ttl_s, done.ends_ms) {
        (Some(seconds), Some(ends)) => {
            format!("{name} is kept for {seconds} s from now on, until {}\n", time(ends))
        }
        _ => format!("{name} is kept until somebody removes it\n"),
    }
}

pub(crate) fn renamed(done: &Renamed) -> String {
    format!("{} is {} now, at {}\n", safe(&done.former), safe(&done.name), done.path.display())
}

/// What an activation's line says of its terms.
pub(crate) fn terms(line: &ActivationLine) -> String {
    let mut text = String::new();
    if line.read_only {
        text.push_str("  read-only\n");
    }
    if line.no_journal {
        text.push_str("  has no journal\n");
    }
    if !line.labels.is_empty() {
        put(&mut text, format_args!("  labels{}\n", labels(&line.labels)));
    }
    if let Some(ends) = line.ends_ms {
        put(&mut text, format_args!("  is kept until {}\n", time(ends)));
    }
    text
}

/// Activations whose time has ended.
pub(crate) fn ended(all: &[Ended], dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let line = |one: &Ended| match &one.stays {
        None => format!("{verb} activation {}, whose time has ended\n", safe(&one.name)),
        Some(why) => format!(
            "activation {} stays, although its time has ended: {}\n",
            safe(&one.name),
            safe(why)
        ),
    };
    all.iter().map(line).collect()
}

pub(crate) fn who(found: &Who) -> String {
    let mut text = String::new();
    for mount in &found.holders.mounts {
        let (at, command) = (safe(&mount.at), safe(&mount.command));
        let of = match mount.own {
            true => "this mount namespace".to_owned(),
            false => format!("mount namespace {}", mount.namespace),
        };
        put(
            &mut text,
            format_args!("mount    {at}  in {of}, that of process {} ({command})\n", mount.pid),
        );
    }
    for process in &found.holders.processes {
        let (pid, command, has) = (process.pid, safe(&process.command), process.has.join(", "));
        put(&mut text, format_args!("process  {pid} ({command})  has it as {has}\n"));
    }
    for one in &found.holders.loops {
        put(&mut text, format_args!("loop     {}  over {}\n", safe(&one.device), safe(&one.file)));
    }
    for one in &found.holders.tables {
        let name = one.name.as_deref().map(safe).unwrap_or_default();
        put(&mut text, format_args!("table    {}  {name}\n", safe(&one.device)));
    }
    if text.is_empty() {
        let word =
            if found.held { "it is in use, by nobody that is seen" } else { "nobody that is seen" };
        put(&mut text, format_args!("{}: {word}\n", safe(&found.name)));
    }
    for why in &found.holders.unseen {
        put(&mut text, format_args!("unseen   {}\n", safe(why)));
    }
    text
}

/// A time of the wall clock, UTC.
fn time(ms: i64) -> String {
    orchestrate::catalog::moment(ms.div_euclid(1000))
}
