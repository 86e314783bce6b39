//! The flags and commands of `registry`.

use std::path::PathBuf;

use argh::FromArgs;

/// Look into a veneer registry: what is sealed, published and active on this host, and since when.
#[derive(FromArgs)]
#[argh(
    note = "The registry is DIR/registry.db; DIR is --state, else $VENEER_STATE, else /var/lib/veneer. --state and --json may stand before or after the command.",
    error_code(0, "done, or the registry is sound"),
    error_code(1, "no: not found, or `check` found something"),
    error_code(100, "never retry: wrong usage, no registry there, or not one of ours"),
    error_code(111, "try again later: busy, or an input/output error")
)]
pub(crate) struct Args {
    /// the state directory
    #[argh(option)]
    pub(crate) state: Option<PathBuf>,
    /// print the version and exit
    #[argh(switch)]
    pub(crate) version: bool,
    #[argh(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub(crate) enum Command {
    Ls(Ls),
    Show(Show),
    Check(Check),
    Backup(Backup),
    Export(Export),
    Rebuild(Rebuild),
}

/// List volumes, images, activations, runs, refused blobs, or events.
#[derive(FromArgs)]
#[argh(subcommand, name = "ls")]
pub(crate) struct Ls {
    /// volumes (default), images, activations, runs, quarantine, or events
    #[argh(positional)]
    pub(crate) what: Option<String>,
    /// print one JSON object per line
    #[argh(switch)]
    pub(crate) json: bool,
}

/// Show one thing with its history: an image reference, an activation's name, or a volume id.
#[derive(FromArgs)]
#[argh(subcommand, name = "show")]
pub(crate) struct Show {
    /// s3://bucket/prefix/, a name, or a number
    #[argh(positional)]
    pub(crate) subject: String,
    /// print one JSON object
    #[argh(switch)]
    pub(crate) json: bool,
}

/// Check the file, its rows and every chain id. Exit 1 if something is wrong.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub(crate) struct Check {
    /// print one JSON object
    #[argh(switch)]
    pub(crate) json: bool,
}

/// Copy the registry to a file, consistently, even while others write. An existing backup of the same store becomes FILE.1, the one before it FILE.2, and so on.
#[derive(FromArgs)]
#[argh(subcommand, name = "backup")]
pub(crate) struct Backup {
    /// the file to make; an existing file that is not a backup of this store is left alone
    #[argh(positional)]
    pub(crate) file: PathBuf,
    /// how many older backups to keep beside it (default 7)
    #[argh(option, default = "7")]
    pub(crate) keep: u32,
}

/// Print every row of every table, one JSON object per line.
#[derive(FromArgs)]
#[argh(subcommand, name = "export")]
pub(crate) struct Export {}

/// Make a registry from facts on stdin, as `orchestrate rebuild --facts` prints them. No registry may exist yet.
#[derive(FromArgs)]
#[argh(subcommand, name = "rebuild")]
pub(crate) struct Rebuild {}

/// More older backups than anybody reads.
pub(crate) const KEEP_MAX: u32 = 1000;

/// The words with `--state` and its value in front, and `--json` behind the command, where argh wants them: each may
/// stand before or after the command.
pub(crate) fn hoist<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let (mut front, mut early, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word);
            rest.extend(words);
            break;
        }
        if word == "--state" {
            front.push(word);
            front.extend(words.next());
        } else if word == "--json" && rest.is_empty() {
            early.push(word);
        } else {
            let is_command = rest.is_empty() && !word.starts_with('-');
            rest.push(word);
            if is_command {
                rest.append(&mut early);
            }
        }
    }
    front.extend(early);
    front.extend(rest);
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_may_follow_the_command() {
        let hoisted = |text: &str| hoist(&text.split(' ').collect::<Vec<_>>()).join(" ");
        assert_eq!(hoisted("ls runs --state /s --json"), "--state /s ls runs --json");
        assert_eq!(hoisted("show -- --state"), "show -- --state");
        assert_eq!(hoisted("ls --state"), "--state ls");
    }

    #[test]
    fn json_may_stand_before_the_command() {
        let hoisted = |text: &str| hoist(&text.split(' ').collect::<Vec<_>>()).join(" ");
        assert_eq!(hoisted("--json ls runs"), "ls --json runs");
        assert_eq!(hoisted("--json --state /s show -- x"), "--state /s show --json -- x");
        assert_eq!(hoisted("show --json x"), "show --json x");
        // Where no command takes it, it is refused as before.
        assert_eq!(hoisted("--json --version"), "--json --version");
    }
}
