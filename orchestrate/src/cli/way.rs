//! How each command goes, as one table: who does it, and what the host needs before.

use crate::cli::commands::Command;
use crate::cli::handover;

/// Who does a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A daemon that runs with the same settings; where there is none, this process.
    Daemon,
    /// This process, on a host that is opened for it.
    Here,
    /// This process, which opens itself what it needs.
    Alone,
}

/// How a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Who does it.
    pub(crate) by: By,
    /// Whether it changes or trusts what is in the store, which therefore is repaired before; the others only look.
    pub(crate) mends_first: bool,
    /// Whether it makes room or lets some be made, and so may have what is kept back for that.
    pub(crate) makes_room: bool,
}

impl Command {
    /// How it goes with the flags that it has.
    pub(crate) fn way(&self) -> Way {
        use By::{Alone, Daemon, Here};
        let (by, mends_first, makes_room) = match self {
            Command::Ensure(args) => (Daemon, !args.dry_run, false),
            Command::Activate(args) => (Daemon, !args.dry_run, false),
            Command::Deactivate(args) => (Daemon, !args.dry_run, !args.dry_run),
            Command::Rm(args) => (Daemon, !args.dry_run, !args.dry_run),
            Command::Gc(args) => (Daemon, !args.dry_run, !args.dry_run),
            Command::Resize(args) => (Daemon, !args.dry_run, false),
            Command::Fork(args) => (Daemon, !args.dry_run, false),
            Command::Snapshot(args) => (Daemon, !args.dry_run, false),
            Command::Restore(args) => (Daemon, !args.dry_run, false),
            Command::Points(args) => {
                let removes = args.remove.is_some() && !args.dry_run;
                (Daemon, removes, removes)
            }
            Command::Label(_) | Command::Ttl(_) | Command::Rename(_) => (Daemon, true, false),
            Command::Pin(_) => (Daemon, true, false),
            Command::Unpin(_) => (Daemon, true, true),
            Command::Cancel(_) => (Daemon, false, true),
            Command::Ls(_) | Command::Df(_) => (Daemon, false, false),
            Command::Runs(_) | Command::Events(_) => (Daemon, false, false),
            Command::Show(args) if handover::is_of_the_image(args) => (Here, args.vm, false),
            Command::Show(_) => (Daemon, false, false),
            Command::Verify(_) | Command::Checked(_) => (Here, true, false),
            Command::Bundle(_) | Command::Mount(_) => (Here, true, false),
            Command::Export(_) | Command::Send(_) => (Here, true, false),
            Command::Receive(args) => (Here, !args.progress, false),
            Command::Scan(args) => (Here, !args.show, false),
            Command::Recover(args) => (Here, false, !args.dry_run),
            Command::Who(_) | Command::Umount(_) => (Here, false, false),
            Command::Catalog(_) | Command::Quarantine(_) => (Here, false, false),
            Command::Rebuild(_) | Command::Serve(_) | Command::Push(_) => (Alone, false, false),
            Command::Health(_) | Command::Doctor(_) | Command::Metrics(_) => (Alone, false, false),
            Command::Config(_) | Command::Fleet(_) | Command::Top(_) => (Alone, false, false),
        };
        Way { by, mends_first, makes_room }
    }
}

#[cfg(test)]
mod tests {
    use argh::{FromArgs as _, SubCommands as _};

    use super::*;
    use crate::cli::args::Args;

    /// A command as it is typed, with what it has to have.
    fn typed(name: &str, more: &[&str]) -> Option<Command> {
        let has_to_have = match name {
            "activate" => &["s3://b/p/", "--name", "n"][..],
            "push" => &["oci:d:t", "oci:s3://b/p/:t"],
            "ensure" | "pin" | "unpin" | "scan" => &["s3://b/p/"],
            "resize" => &["n", "20G"],
            "fork" | "snapshot" | "restore" | "bundle" | "mount" | "rename" => &["n", "m"],
            "label" => &["n", "m=1"],
            "ttl" => &["n", "2h"],
            "cancel" => &["7"],
            "export" => &["n", "-o", "f"],
            "points" => &["n", "--remove", "m"],
            "deactivate" | "umount" | "checked" | "show" | "rm" | "who" | "send" | "receive" => {
                &["n"]
            }
            _ => &[],
        };
        let words = [&[name][..], has_to_have, more].concat();
        Args::from_args(&["orchestrate"], &words).ok()?.command
    }

    /// What only looks asks for no repair and takes nothing of what is kept back: each command with `--dry-run`.
    #[test]
    fn a_dry_run_changes_nothing_beforehand() {
        let mut with = Vec::new();
        for info in Command::COMMANDS {
            let Some(dry) = typed(info.name, &["--dry-run"]) else { continue };
            let way = dry.way();
            assert!(!way.mends_first && !way.makes_room, "{}: {way:?}", info.name);
            with.push(info.name);
        }
        assert!(with.contains(&"ensure") && with.contains(&"points") && with.len() > 9, "{with:?}");
    }

    /// Nobody repairs a host that is not opened, or has room given up for it.
    #[test]
    fn what_opens_no_host_needs_none_in_order() {
        for info in Command::COMMANDS {
            let command = typed(info.name, &[]);
            let way = command.unwrap_or_else(|| panic!("{} is not typed so", info.name)).way();
            assert!(way.by != By::Alone || !(way.mends_first || way.makes_room), "{}", info.name);
        }
    }
}
