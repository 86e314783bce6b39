//! The flags and verbs of `thin`.

use argh::FromArgs;

use crate::cli::pool_args::PoolArgs;
use crate::cli::sizes::{Length, Size};

/// Pools and volumes in one device-mapper thin pool.
#[derive(FromArgs, Debug)]
#[argh(
    error_code(0, "done, or yes"),
    error_code(1, "no (exists, room, doctor, pool repair --dry-run)"),
    error_code(
        100,
        "never retry: wrong usage, not found, exists already, no permission, \
         no device-mapper, no mkfs.ext4, refused or damaged metadata"
    ),
    error_code(111, "try again later: busy, no space, input/output error, mkfs failed"),
    note = "The pool is --pool, else $VENEER_POOL, else \"veneer\".\n\
  Parent, age, owner and last size, which no pool keeps, are noted below /var/lib/veneer/thin,\n\
  else $VENEER_NOTES; `ls` shows - where there is no note, and nothing depends on one.",
    example = "Make a pool, a formatted volume, a snapshot of it, and look inside:\n\
  thin pool create --table '0 4194304 thin-pool /dev/loop0 /dev/loop1 2048 32768'\n\
  thin create 1\n\
  thin activate 1 base --size 2G && unpack --device /dev/mapper/base --blank whole && thin deactivate base\n\
  thin snap 2 1\n\
  thin activate 2 work --size 2G && thin run --name work -- ls -l"
)]
pub(crate) struct Top {
    /// device-mapper name of the pool
    #[argh(option)]
    pub(crate) pool: Option<String>,
    /// print one JSON object, or one per line
    #[argh(switch)]
    pub(crate) json: bool,
    /// print only errors
    #[argh(switch, short = 'q')]
    pub(crate) quiet: bool,
    /// print how many ioctls were made
    #[argh(switch, short = 'v')]
    pub(crate) verbose: bool,
    /// milliseconds to wait for a device that is open (default 5000; $VENEER_REMOVE_WAIT_MS)
    #[argh(option)]
    pub(crate) wait_ms: Option<u64>,
    /// print the version
    #[argh(switch)]
    pub(crate) version: bool,
    #[argh(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum Verb {
    Pool(PoolArgs),
    Ls(Ls),
    Create(Create),
    Snap(Snap),
    Delete(Delete),
    Exists(Exists),
    Activate(Activate),
    Look(Look),
    Deactivate(Deactivate),
    Grow(Grow),
    Usage(UsageArgs),
    Format(Format),
    Transaction(Transaction),
    Run(Run),
    Rescue(Rescue),
    Watch(Watch),
    Room(RoomArgs),
    Doctor(Doctor),
    Loop(LoopArgs),
}

/// List the pool's thins and their devices.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "ls")]
pub(crate) struct Ls {}

/// Make an empty thin.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "create")]
pub(crate) struct Create {
    /// its id, 0 to 16777215
    #[argh(positional)]
    pub(crate) id: u64,
}

/// Make a snapshot of an inactive thin.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "snap")]
pub(crate) struct Snap {
    /// id of the snapshot
    #[argh(positional)]
    pub(crate) id: u64,
    /// id of the origin
    #[argh(positional)]
    pub(crate) origin: u64,
}

/// Delete an inactive thin.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "delete")]
pub(crate) struct Delete {
    /// its id
    #[argh(positional)]
    pub(crate) id: u64,
    /// do not fail if the thin does not exist
    #[argh(switch)]
    pub(crate) if_exists: bool,
    /// only print what would be done
    #[argh(switch)]
    pub(crate) dry_run: bool,
}

/// Check whether the pool has a thin: exit code 0 or 1.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "exists")]
pub(crate) struct Exists {
    /// its id
    #[argh(positional)]
    pub(crate) id: u64,
}

/// Make a thin the device /dev/mapper/NAME.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "activate")]
pub(crate) struct Activate {
    /// id of the thin
    #[argh(positional)]
    pub(crate) id: u64,
    /// name of the device
    #[argh(positional)]
    pub(crate) name: String,
    /// its length, such as 10G; the pool does not store it
    #[argh(option)]
    pub(crate) size: Length,
    /// refuse writes
    #[argh(switch)]
    pub(crate) ro: bool,
}

/// Make a thin a device that refuses writes, POOL-seen-ID, and print its path.
///
/// To look at a layer, or at an activation that is not active. `thin run --name POOL-seen-ID --ro --
/// ls -l` shows what is on it; `thin deactivate POOL-seen-ID` takes the device away again. Snapshots
/// of the thin can be made meanwhile. A thin that is active already is not activated a second time;
/// its device is printed.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "look")]
pub(crate) struct Look {
    /// id of the thin
    #[argh(positional)]
    pub(crate) id: u64,
    /// at least this length, such as 10G; by default the length that its provenance, its ext4 or its last
    /// block shows
    #[argh(option)]
    pub(crate) size: Option<Length>,
}

/// Remove the device; the content of the thin is kept.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "deactivate")]
pub(crate) struct Deactivate {
    /// name of the device
    #[argh(positional)]
    pub(crate) name: String,
}

/// Make an active volume longer, and the ext4 on it as well (unless --device-only).
///
/// For a volume of orchestrate nothing else has to be done: its next command records the new size.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "grow")]
pub(crate) struct Grow {
    /// name of the device
    #[argh(positional)]
    pub(crate) name: String,
    /// its new length, such as 20G
    #[argh(option)]
    pub(crate) size: Length,
    /// do not resize the file system
    #[argh(switch)]
    pub(crate) device_only: bool,
}

/// Show each thin's exclusive and shared blocks; reads all mappings.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "usage")]
pub(crate) struct UsageArgs {}

/// Make an empty ext4 on an active volume by mke2fs. It goes with the next release: `unpack --device
/// /dev/mapper/NAME --blank whole` makes one without an outside program, which layers can be written into.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "format")]
pub(crate) struct Format {
    /// name of the device
    #[argh(positional)]
    pub(crate) name: String,
    /// file system UUID
    #[argh(option)]
    pub(crate) uuid: Option<String>,
    /// seed of directory hashes, a UUID
    #[argh(option)]
    pub(crate) hash_seed: Option<String>,
    /// an additional argument for mke2fs; may be repeated
    #[argh(option)]
    pub(crate) mkfs_arg: Vec<String>,
}

/// Move the pool's transaction id.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "transaction")]
pub(crate) struct Transaction {
    /// what it must be now
    #[argh(positional)]
    pub(crate) current: u64,
    /// what it becomes
    #[argh(positional)]
    pub(crate) new: u64,
}

/// Run a program inside an active volume, mounted where nobody else sees it.
///
/// Its working directory is the volume's root; stdin, stdout and stderr are yours. When it ends
/// the volume is synced and unmounted, and its exit code is ours: 126 when it could not be
/// started, 128 and its number when a signal ended it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "run")]
pub(crate) struct Run {
    /// name of the device
    #[argh(option)]
    pub(crate) name: String,
    /// mount read-only
    #[argh(switch)]
    pub(crate) ro: bool,
    /// refuse to run programs off the volume
    #[argh(switch)]
    pub(crate) noexec: bool,
    /// file system type (default ext4)
    #[argh(option, default = "\"ext4\".to_owned()")]
    pub(crate) fstype: String,
    /// the program and its arguments, after --
    #[argh(positional, greedy)]
    pub(crate) command: Vec<String>,
}

/// Attach a file to a loop device, or detach one.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "loop")]
pub(crate) struct LoopArgs {
    /// attach, find or detach
    #[argh(positional)]
    pub(crate) verb: String,
    /// the file, or for detach the device
    #[argh(positional)]
    pub(crate) path: std::path::PathBuf,
    /// through the page cache
    #[argh(switch)]
    pub(crate) buffered: bool,
    /// refuse writes
    #[argh(switch)]
    pub(crate) ro: bool,
}

/// Make every request to a volume fail, including those stuck on a full pool, so that it can be
/// closed. Its content in the pool is kept.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "rescue")]
pub(crate) struct Rescue {
    /// name of the device; without one, every open volume of the pool
    #[argh(positional)]
    pub(crate) name: Option<String>,
}

/// Print the pool's figures now and after each of its events.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "watch")]
pub(crate) struct Watch {
    /// stop after this many events (default: never)
    #[argh(option)]
    pub(crate) events: Option<u64>,
    /// stop after this many seconds (default: never)
    #[argh(option)]
    pub(crate) seconds: Option<u64>,
    /// with --grow-to: directory of the pool, which grows whenever its data or metadata runs low,
    /// even before the first event
    #[argh(option)]
    pub(crate) grow: Option<std::path::PathBuf>,
    /// grow the data by this much at a time (default 1G)
    #[argh(option, default = "Size(1 << 30)")]
    pub(crate) grow_by: Size,
    /// never beyond this much data, such as 100G
    #[argh(option)]
    pub(crate) grow_to: Option<Size>,
    /// never beyond this much metadata, such as 1G (default: what that much data needs)
    #[argh(option)]
    pub(crate) grow_metadata_to: Option<Size>,
}

/// Check whether the pool has space for some work: exit code 0 or 1.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "room")]
pub(crate) struct RoomArgs {
    /// bytes to be written, such as 300M
    #[argh(positional)]
    pub(crate) bytes: Size,
    /// new volumes (default 1)
    #[argh(option, default = "1")]
    pub(crate) volumes: u64,
    /// percent of the data to keep free (default 1)
    #[argh(option, default = "1")]
    pub(crate) reserve: u64,
}

/// Report what on this host is good, unusual or bad for thin pools: exit code 1 if something is bad.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "doctor")]
pub(crate) struct Doctor {
    /// a directory that has, or is to have, a pool's files
    #[argh(positional)]
    pub(crate) dir: Option<std::path::PathBuf>,
}

/// General switches, which may stand before or after the verb.
const SWITCHES: [&str; 5] = ["--json", "-q", "--quiet", "-v", "--verbose"];

/// General options with a value, likewise.
const WITH_VALUE: [&str; 2] = ["--pool", "--wait-ms"];

/// The words with the general options in front, where argh wants them. What stands behind `--` or `run` is
/// another program's.
pub(crate) fn hoist<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let (mut front, mut rest) = (Vec::new(), Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        if word == "--" || word == "run" {
            rest.push(word);
            rest.extend(words);
            break;
        }
        if SWITCHES.contains(&word) {
            front.push(word);
        } else if WITH_VALUE.contains(&word) {
            front.push(word);
            front.extend(words.next());
        } else {
            rest.push(word);
        }
    }
    front.extend(rest);
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_options_may_follow_the_verb_but_not_another_program() {
        let hoisted = |text: &str| hoist(&text.split(' ').collect::<Vec<_>>()).join(" ");
        assert_eq!(hoisted("ls --json --pool p"), "--json --pool p ls");
        assert_eq!(hoisted("pool status -q d"), "-q pool status d");
        assert_eq!(hoisted("--json run --name n ls -v"), "--json run --name n ls -v");
        assert_eq!(hoisted("delete 1 -- --json"), "delete 1 -- --json");
        assert_eq!(hoisted("ls --pool"), "--pool ls");
    }
}
