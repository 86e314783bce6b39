//! The commands of the `orchestrate` program and their flags.

use std::path::PathBuf;

use argh::FromArgs;
use orchestrate::config::Flags;

use crate::cli::numbers::{Bytes, Counted};

#[derive(FromArgs)]
#[argh(subcommand)]
pub(crate) enum Command {
    Ensure(Ensure),
    Activate(Activate),
    Deactivate(Deactivate),
    Ls(Ls),
    Show(Show),
    Rm(Rm),
    Recover(Recover),
    Gc(Gc),
    Df(Df),
    Pin(Pin),
    Unpin(Unpin),
    Verify(Verify),
    Runs(Runs),
    Events(Events),
    Cancel(Cancel),
    Quarantine(Quarantine),
    Rebuild(Rebuild),
    Serve(Serve),
    Health(Health),
    Doctor(Doctor),
    Config(Config),
    Metrics(Metrics),
    Scan(Scan),
    Catalog(Catalog),
    Top(Top),
    Checked(Checked),
}

/// Make sure that every layer of an image is fetched, applied and sealed on this host.
#[derive(FromArgs)]
#[argh(subcommand, name = "ensure")]
pub(crate) struct Ensure {
    /// s3://bucket/prefix/ (children 1.tar, 2.tar, ..) or s3://bucket/key.tar
    #[argh(positional)]
    pub(crate) image: String,
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Make an image writable under a name, as a block device /dev/mapper/NAME.
#[derive(FromArgs)]
#[argh(subcommand, name = "activate")]
pub(crate) struct Activate {
    /// s3://bucket/prefix/ or s3://bucket/key.tar
    #[argh(positional)]
    pub(crate) image: String,
    /// the device's name; one that is active already is left alone
    #[argh(option)]
    pub(crate) name: String,
    /// size of the device, such as 20G, when it is to be larger than the image's volume
    #[argh(option)]
    pub(crate) size: Option<Bytes<1>>,
    /// take the image as it is on this host, and do not ask the server what it is now
    #[argh(switch)]
    pub(crate) no_fetch: bool,
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Take away the device of a name; what was written to it is kept.
#[derive(FromArgs)]
#[argh(subcommand, name = "deactivate")]
pub(crate) struct Deactivate {
    /// the name
    #[argh(positional)]
    pub(crate) name: String,
    /// where somebody has it open, take it down as soon as nobody has
    #[argh(switch)]
    pub(crate) when_closed: bool,
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Say that the file system of an activation that was up when the host went down is in order: `ls` and `health` name it until then.
#[derive(FromArgs)]
#[argh(subcommand, name = "checked")]
pub(crate) struct Checked {
    /// the name
    #[argh(positional)]
    pub(crate) name: String,
}

/// List images and activations.
#[derive(FromArgs)]
#[argh(subcommand, name = "ls")]
pub(crate) struct Ls {}

/// Show one image with its layers, one activation, or one run; and what is under way for it, and why it waits.
#[derive(FromArgs)]
#[argh(subcommand, name = "show")]
pub(crate) struct Show {
    /// an image reference, a name, or the number of a run
    #[argh(positional)]
    pub(crate) subject: String,
}

/// Remove an activation with what was written to it, or an image with the layers only it has.
#[derive(FromArgs)]
#[argh(subcommand, name = "rm")]
pub(crate) struct Rm {
    /// a name or an image reference
    #[argh(positional)]
    pub(crate) subject: String,
    /// where somebody has it open, remove it as soon as nobody has
    #[argh(switch)]
    pub(crate) when_closed: bool,
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Mend what killed runs left behind, as every other command does first, and then take the killed runs up again.
#[derive(FromArgs)]
#[argh(subcommand, name = "recover")]
pub(crate) struct Recover {
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
    /// allow builds again that were begun too often without an end
    #[argh(switch)]
    pub(crate) retry: bool,
    /// mend only: leave killed runs as they are
    #[argh(switch)]
    pub(crate) no_resume: bool,
}

/// Remove layers that nothing needs; with a bound, also the images not asked for longest. Pinned and activated images stay.
#[derive(FromArgs)]
#[argh(subcommand, name = "gc")]
pub(crate) struct Gc {
    /// remove images until the store has taken at most so many bytes, such as 40G
    #[argh(option)]
    pub(crate) keep_bytes: Option<Bytes<0>>,
    /// remove images until at most this part of the store is taken: 80%
    #[argh(option)]
    pub(crate) max_used: Option<String>,
    /// also remove these ids, which the store has and no row knows: 254,255; without ids, list all
    /// such and do nothing
    #[argh(option)]
    pub(crate) purge_foreign: Option<String>,
    /// say what would be done, and do nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Show what takes the room: for each image what it shares, what only it has, and what removing it would free.
#[derive(FromArgs)]
#[argh(subcommand, name = "df")]
pub(crate) struct Df {}

/// Keep an image whatever room is needed.
#[derive(FromArgs)]
#[argh(subcommand, name = "pin")]
pub(crate) struct Pin {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
}

/// Let `gc` remove an image again.
#[derive(FromArgs)]
#[argh(subcommand, name = "unpin")]
pub(crate) struct Unpin {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
}

/// Read every sealed layer, or those of one image, and compare it with the digest at its seal. Exit 1 when one differs.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
pub(crate) struct Verify {
    /// the image's reference; all layers without one
    #[argh(positional)]
    pub(crate) image: Option<String>,
}

/// List the runs that have not ended, and whether a process is at work on them.
#[derive(FromArgs)]
#[argh(subcommand, name = "runs")]
pub(crate) struct Runs {
    /// also those that have ended
    #[argh(switch, short = 'a')]
    pub(crate) all: bool,
}

/// Print the history, one line an event.
#[derive(FromArgs)]
#[argh(subcommand, name = "events")]
pub(crate) struct Events {
    /// only events after this number
    #[argh(option)]
    pub(crate) since: Option<Counted<0>>,
    /// only of this subject, as the lines name it: "volume 7", "run 3", "activation web-1"
    #[argh(option)]
    pub(crate) subject: Option<String>,
    /// go on as events happen, until a signal
    #[argh(switch, short = 'f')]
    pub(crate) follow: bool,
}

/// Ask a run to stop and wait for its end, also when its process has died. Exit 1 when it had ended otherwise.
#[derive(FromArgs)]
#[argh(subcommand, name = "cancel")]
pub(crate) struct Cancel {
    /// its number, as `runs` shows it
    #[argh(positional)]
    pub(crate) run: Counted<1>,
}

/// List blobs that were refused and are not unpacked again, with what that depended on; or allow one, on whatever.
#[derive(FromArgs)]
#[argh(subcommand, name = "quarantine")]
pub(crate) struct Quarantine {
    /// allow these bytes again: sha256:..
    #[argh(option)]
    pub(crate) release: Option<String>,
}

/// Make the registry anew from what the store's sealed volumes say of themselves; the old one is kept beside it.
#[derive(FromArgs)]
#[argh(subcommand, name = "rebuild")]
pub(crate) struct Rebuild {
    /// say what would be found, and write nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
    /// also where the store is another registry's: that one is refused from then on
    #[argh(switch)]
    pub(crate) take_over: bool,
    /// print what `registry rebuild` takes, with the store's secret key, and write nothing
    #[argh(switch)]
    pub(crate) facts: bool,
}

/// Show each setting, its value, and where it came from.
#[derive(FromArgs)]
#[argh(subcommand, name = "config")]
pub(crate) struct Config {
    /// print a file of every setting with its meaning, all commented out
    #[argh(switch)]
    pub(crate) sample: bool,
}

/// Print metrics as Prometheus text, also of a host that cannot be opened: a sick part is veneer_up 0.
#[derive(FromArgs)]
#[argh(subcommand, name = "metrics")]
pub(crate) struct Metrics {}

/// Do the same verbs for others, over HTTP on a unix socket, from a queue that outlives the process. The other commands
/// ask it when it runs. SIGTERM puts everything by, a second one stops at once, SIGHUP reads settings and token again.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
pub(crate) struct Serve {
    /// also listen on this address and port; needs --token-file
    #[argh(option)]
    pub(crate) listen: Option<String>,
    /// the file with the token that clients over TCP have to know
    #[argh(option)]
    pub(crate) token_file: Option<String>,
    /// who may use the socket besides root: user:NAME or group:NAME; may be repeated
    #[argh(option)]
    pub(crate) allow: Vec<String>,
    /// runs at once that fetch and unpack, 1 to 256 (default 2)
    #[argh(option)]
    pub(crate) concurrency: Option<String>,
}

impl Serve {
    /// What was typed of the settings, by their keys.
    pub(crate) fn flags(&self) -> Flags {
        let allow = (!self.allow.is_empty()).then(|| self.allow.join(","));
        let typed = [
            ("serve.listen", self.listen.clone()),
            ("serve.token_file", self.token_file.clone()),
            ("serve.allow", allow),
            ("serve.concurrency", self.concurrency.clone()),
        ];
        typed.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// Tell whether this host can do its work, check by check, as the daemon's /readyz does. Exit 1 when it cannot.
#[derive(FromArgs)]
#[argh(subcommand, name = "health")]
pub(crate) struct Health {}

/// Tell what is wrong with this host, and each wall that a layer would be unpacked behind here, with the right or the kernel that one lacks. Exit 1 when something is wrong.
#[derive(FromArgs)]
#[argh(subcommand, name = "doctor")]
pub(crate) struct Doctor {}

/// Run the scanner of the settings over the sealed top layer of an image, and keep what it finds. Exit 1 when the policy's severities are among it.
#[derive(FromArgs)]
#[argh(subcommand, name = "scan")]
pub(crate) struct Scan {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
    /// print what the last scan found, and scan nothing
    #[argh(switch)]
    pub(crate) show: bool,
}

/// Fetch the signed catalog, check it, and print it; or print one of the images here, to be signed with minisign -S; or
/// `catalog reset --to FILE`: believe that signed one, whatever serial was believed before.
#[derive(FromArgs)]
#[argh(subcommand, name = "catalog")]
pub(crate) struct Catalog {
    /// print a catalog of the images here, with this serial; it has to be above that of the last
    #[argh(option)]
    pub(crate) make: Option<Counted<0>>,
    /// with --make: of version 2, and too old for anything new after this time: 2027-01-01T00:00:00Z
    #[argh(option)]
    pub(crate) expires: Option<String>,
    /// reset: believe another catalog than was believed
    #[argh(positional)]
    pub(crate) act: Option<String>,
    /// with reset: the signed catalog, with its signature beside it as FILE.minisig
    #[argh(option)]
    pub(crate) to: Option<PathBuf>,
}

/// Show in a terminal what the daemon's page shows, afresh each second: room, live runs, images and what they share, activations, last events. q ends it.
#[derive(FromArgs)]
#[argh(subcommand, name = "top")]
pub(crate) struct Top {}
