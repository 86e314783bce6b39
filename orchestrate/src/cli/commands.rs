//! The commands of the `orchestrate` program and their flags.

use std::path::PathBuf;

use argh::FromArgs;
use orchestrate::config::Flags;
use orchestrate::{CopyIn, LabelChange, LabelFilter, Time};

use crate::cli::disks::{Fork, ListPoints, Resize, Restore, Snapshot};
use crate::cli::fleet::Fleet;
use crate::cli::naming::{Label, Rename, Ttl, Who};
use crate::cli::numbers::{Bytes, Counted};

#[derive(FromArgs)]
#[argh(subcommand)]
pub(crate) enum Command {
    Ensure(Ensure),
    Activate(Activate),
    Push(Push),
    Export(crate::cli::export::Export),
    Deactivate(Deactivate),
    Bundle(Bundle),
    Mount(Mount),
    Umount(Umount),
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
    Fleet(Fleet),
    Top(Top),
    Checked(Checked),
    Label(Label),
    Ttl(Ttl),
    Rename(Rename),
    Who(Who),
    Resize(Resize),
    Fork(Fork),
    Snapshot(Snapshot),
    Restore(Restore),
    Points(ListPoints),
    Send(crate::cli::travel::Send),
    Receive(crate::cli::travel::Receive),
}

/// Make sure that every layer of an image is fetched, applied and sealed on this host.
#[derive(FromArgs)]
#[argh(subcommand, name = "ensure")]
pub(crate) struct Ensure {
    /// the image: s3://bucket/prefix/ (children 1.tar, 2.tar, ..), oci:DIR:TAG, oci:s3://bucket/prefix/:TAG, oci-archive:FILE, docker-archive:FILE (- is standard input), docker://host/name:tag
    #[argh(positional)]
    pub(crate) image: String,
    /// the platform to choose where an image is there for several, such as linux/arm64/v8
    #[argh(option)]
    pub(crate) platform: Option<String>,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Make an image writable under a name, as a block device /dev/mapper/NAME; with --read-only, readable.
#[derive(FromArgs)]
#[argh(subcommand, name = "activate")]
pub(crate) struct Activate {
    /// the image, in any form that ensure takes, or the sha256:.. of one that is here
    #[argh(positional)]
    pub(crate) image: String,
    /// the platform to choose where an image is there for several, such as linux/arm64/v8
    #[argh(option)]
    pub(crate) platform: Option<String>,
    /// the device's name; if it is active already, nothing is done
    #[argh(option)]
    pub(crate) name: String,
    /// size of the device, such as 20G, if it is to be larger than the image's volume
    #[argh(option)]
    pub(crate) size: Option<Bytes<1>>,
    /// use the image as it is on this host, without asking the server
    #[argh(switch)]
    pub(crate) no_fetch: bool,
    /// copy a file of this host into the new activation, as root's: FILE:PATH or FILE:PATH:MODE, such as ./init:/sbin/init:0755; may be repeated
    #[argh(option)]
    pub(crate) copy: Vec<CopyIn>,
    /// on a pool, the user and group of the device /dev/mapper/NAME and of its node: UID:GID
    #[argh(option)]
    pub(crate) device_owner: Option<String>,
    /// on a pool, the mode of the device and of its node, such as 0660
    #[argh(option)]
    pub(crate) device_mode: Option<String>,
    /// on a pool, also make a node of the device here, such as in a jail: DIR/NAME
    #[argh(option)]
    pub(crate) node: Option<PathBuf>,
    /// say something of it, KEY=VALUE; may be repeated
    #[argh(option)]
    pub(crate) label: Vec<LabelChange>,
    /// remove it when so much time has passed since it came up and nobody uses it: 1s to 3650d, such as 2h
    #[argh(option)]
    pub(crate) ttl: Option<Time>,
    /// let nobody write to it: the device refuses writes, and any number may mount it
    #[argh(switch)]
    pub(crate) read_only: bool,
    /// on a pool, make its file system without a journal: after a power cut its owner has to check it
    #[argh(switch)]
    pub(crate) no_journal: bool,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Put an image of this host's files into a bucket. What is there is not sent again, and a push that was killed is gone on with by the same push. Requests are signed; nothing of this host is changed.
#[derive(FromArgs)]
#[argh(subcommand, name = "push")]
pub(crate) struct Push {
    /// the image: oci:DIR:TAG, oci-archive:FILE, docker-archive:FILE (- is standard input); of several images one has to be named
    #[argh(positional)]
    pub(crate) from: String,
    /// where it goes: oci:s3://bucket/prefix/:TAG, where a tag of that name is replaced; with --numbered s3://bucket/prefix/
    #[argh(positional)]
    pub(crate) to: String,
    /// push the image for one platform, such as linux/arm64/v8; without it all platforms of the image
    #[argh(option)]
    pub(crate) platform: Option<String>,
    /// write 1.tar, 2.tar.zst, .. (as the layers are stored) below an empty prefix, without tag and index
    #[argh(switch)]
    pub(crate) numbered: bool,
    /// write index.json also where the server ignores If-Match: of two pushes at once one may lose its tag
    #[argh(switch)]
    pub(crate) unsafe_index: bool,
}

/// Remove the device of an activation; what was written to it is kept.
#[derive(FromArgs)]
#[argh(subcommand, name = "deactivate")]
pub(crate) struct Deactivate {
    /// the name
    #[argh(positional)]
    pub(crate) name: String,
    /// if it is open, remove the device as soon as it is closed
    #[argh(switch)]
    pub(crate) when_closed: bool,
    /// first unmount it wherever it is mounted in this mount namespace
    #[argh(switch)]
    pub(crate) unmount: bool,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Make a directory a bundle that a container runtime can run: config.json from the image's config, and the activation as the root directory.
#[derive(FromArgs)]
#[argh(subcommand, name = "bundle")]
pub(crate) struct Bundle {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the bundle's directory; if it does not exist, it is created, for its owner alone
    #[argh(positional)]
    pub(crate) dir: PathBuf,
    /// the command, after --, instead of the image's Cmd
    #[argh(positional)]
    pub(crate) command: Vec<String>,
    /// the program, instead of the image's Entrypoint and without its Cmd; an empty one for none
    #[argh(option)]
    pub(crate) entrypoint: Option<String>,
    /// the name of the host, also as /etc/hostname (default: the activation's name)
    #[argh(option)]
    pub(crate) hostname: Option<String>,
    /// a file that the container sees as /etc/hosts, read-only
    #[argh(option)]
    pub(crate) hosts: Option<PathBuf>,
    /// a file that the container sees as /etc/resolv.conf, read-only
    #[argh(option)]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// let the container see an empty /etc/machine-id, so that clones do not share one
    #[argh(switch)]
    pub(crate) empty_machine_id: bool,
}

/// Mount an activation at a directory, in this mount namespace, read-write.
#[derive(FromArgs)]
#[argh(subcommand, name = "mount")]
pub(crate) struct Mount {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the directory, which has to exist
    #[argh(positional)]
    pub(crate) dir: PathBuf,
}

/// Unmount an activation wherever it is mounted in this mount namespace.
#[derive(FromArgs)]
#[argh(subcommand, name = "umount")]
pub(crate) struct Umount {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
}

/// Confirm that the file system of an activation that was active when the host went down has been checked. Until then, `ls` and `health` name it.
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
pub(crate) struct Ls {
    /// only activations with this label, KEY or KEY=VALUE; may be repeated, and then all have to fit
    #[argh(option)]
    pub(crate) label: Vec<LabelFilter>,
}

/// Show one image with its layers, one activation, or one run, with the work in progress for it and what it waits for.
#[derive(FromArgs)]
#[argh(subcommand, name = "show")]
pub(crate) struct Show {
    /// an image reference, a name, or the number of a run
    #[argh(positional)]
    pub(crate) subject: String,
    /// print the config of the image, or of the activation's image, as it was received
    #[argh(switch)]
    pub(crate) image_config: bool,
    /// print what a virtual machine on the activation is started with, as JSON
    #[argh(switch)]
    pub(crate) vm: bool,
}

/// Remove an activation and what was written to it, or an image and the layers that only it uses.
#[derive(FromArgs)]
#[argh(subcommand, name = "rm")]
pub(crate) struct Rm {
    /// a name or an image reference
    #[argh(positional)]
    pub(crate) subject: String,
    /// if it is open, remove it as soon as it is closed
    #[argh(switch)]
    pub(crate) when_closed: bool,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Repair what killed runs left half-finished, as every other command does first, and then resume those runs.
#[derive(FromArgs)]
#[argh(subcommand, name = "recover")]
pub(crate) struct Recover {
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
    /// allow builds again that were started too often without finishing
    #[argh(switch)]
    pub(crate) retry: bool,
    /// only repair: do not resume killed runs
    #[argh(switch)]
    pub(crate) no_resume: bool,
}

/// Remove layers that nothing uses; with a bound, also the least recently used images. Pinned and activated images are kept.
#[derive(FromArgs)]
#[argh(subcommand, name = "gc")]
pub(crate) struct Gc {
    /// remove images until the store uses at most so many bytes, such as 40G
    #[argh(option)]
    pub(crate) keep_bytes: Option<Bytes<0>>,
    /// remove images until at most this part of the store is used: 80%
    #[argh(option)]
    pub(crate) max_used: Option<String>,
    /// also remove these ids, which exist in the store but not in the registry: 254,255; without ids,
    /// list all such ids and change nothing
    #[argh(option)]
    pub(crate) purge_foreign: Option<String>,
    /// print what would be done, and change nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Show what uses the space: for each image what it shares, what only it uses, and what its removal would free.
#[derive(FromArgs)]
#[argh(subcommand, name = "df")]
pub(crate) struct Df {}

/// Keep an image, however much space is needed.
#[derive(FromArgs)]
#[argh(subcommand, name = "pin")]
pub(crate) struct Pin {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
}

/// Allow `gc` to remove an image again.
#[derive(FromArgs)]
#[argh(subcommand, name = "unpin")]
pub(crate) struct Unpin {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
}

/// Read every sealed layer, or those of one image, and compare it with the digest from its seal. Exit 1 if one differs.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
pub(crate) struct Verify {
    /// the image's reference; all layers without one
    #[argh(positional)]
    pub(crate) image: Option<String>,
}

/// List unfinished runs, and whether a process is working on them.
#[derive(FromArgs)]
#[argh(subcommand, name = "runs")]
pub(crate) struct Runs {
    /// also finished runs
    #[argh(switch, short = 'a')]
    pub(crate) all: bool,
}

/// Print the history, one event per line.
#[derive(FromArgs)]
#[argh(subcommand, name = "events")]
pub(crate) struct Events {
    /// only events after this number
    #[argh(option)]
    pub(crate) since: Option<Counted<0>>,
    /// only of this subject, as the lines name it: "volume 7", "run 3", "activation web-1"
    #[argh(option)]
    pub(crate) subject: Option<String>,
    /// keep printing new events until interrupted
    #[argh(switch, short = 'f')]
    pub(crate) follow: bool,
}

/// Cancel a run and wait until it has stopped, even if its process has died. Exit 1 if it had ended in another way.
#[derive(FromArgs)]
#[argh(subcommand, name = "cancel")]
pub(crate) struct Cancel {
    /// its number, as `runs` shows it
    #[argh(positional)]
    pub(crate) run: Counted<1>,
}

/// List blobs that were refused and are not unpacked again, with what the refusals depended on; or allow one again.
#[derive(FromArgs)]
#[argh(subcommand, name = "quarantine")]
pub(crate) struct Quarantine {
    /// allow these bytes again: sha256:..
    #[argh(option)]
    pub(crate) release: Option<String>,
}

/// Rebuild the registry from the seal records in the store; the old registry is kept beside it.
#[derive(FromArgs)]
#[argh(subcommand, name = "rebuild")]
pub(crate) struct Rebuild {
    /// print what would be found, and write nothing
    #[argh(switch, short = 'n')]
    pub(crate) dry_run: bool,
    /// even if the store belongs to another registry, which is refused from then on
    #[argh(switch)]
    pub(crate) take_over: bool,
    /// print the input for `registry rebuild`, including the store's secret key, and write nothing
    #[argh(switch)]
    pub(crate) facts: bool,
}

/// Show each setting, its value, and where it came from.
#[derive(FromArgs)]
#[argh(subcommand, name = "config")]
pub(crate) struct Config {
    /// print a settings file with every setting and its meaning, all commented out
    #[argh(switch)]
    pub(crate) sample: bool,
}

/// Print metrics as Prometheus text, even if part of the host is broken: that part has veneer_up 0.
#[derive(FromArgs)]
#[argh(subcommand, name = "metrics")]
pub(crate) struct Metrics {}

/// Run the daemon: the same commands over HTTP on a unix socket, from a durable queue. While it runs, the other commands
/// forward to it. SIGTERM suspends all runs and exits, a second one exits at once, SIGHUP reloads settings and token.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
pub(crate) struct Serve {
    /// address and port to listen on by TCP in addition
    #[argh(option)]
    pub(crate) listen: Option<String>,
    /// file with the token that TCP clients must send
    #[argh(option)]
    pub(crate) token_file: Option<String>,
    /// users and groups besides root that may use the socket: user:NAME, group:NAME; may be repeated
    #[argh(option)]
    pub(crate) allow: Vec<String>,
    /// runs that fetch and unpack at the same time (default 2)
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

/// Check whether this host can do its work, as the daemon's /readyz does. Exit 1 if it cannot.
#[derive(FromArgs)]
#[argh(subcommand, name = "health")]
pub(crate) struct Health {}

/// Report what is wrong with this host, and each wall around unpacking: whether it is available here, or which right or kernel feature is missing. Exit 1 if something is wrong.
#[derive(FromArgs)]
#[argh(subcommand, name = "doctor")]
pub(crate) struct Doctor {}

/// Run the configured scanner over the sealed top layer of an image, and keep its findings. Exit 1 if the policy blocks them.
#[derive(FromArgs)]
#[argh(subcommand, name = "scan")]
pub(crate) struct Scan {
    /// the image's reference
    #[argh(positional)]
    pub(crate) image: String,
    /// print the findings of the last scan, without scanning
    #[argh(switch)]
    pub(crate) show: bool,
}

/// Fetch the signed catalog, check it and print it; or print a catalog of the images here, to be signed with minisign -S; or
/// `catalog reset --to FILE`: accept that signed catalog, whatever serial was accepted before.
#[derive(FromArgs)]
#[argh(subcommand, name = "catalog")]
pub(crate) struct Catalog {
    /// print a catalog of the images here, with this serial, which must be above the last one's
    #[argh(option)]
    pub(crate) make: Option<Counted<0>>,
    /// with --make: a catalog of version 2 that expires at this time: 2027-01-01T00:00:00Z
    #[argh(option)]
    pub(crate) expires: Option<String>,
    /// reset: accept another catalog than before
    #[argh(positional)]
    pub(crate) act: Option<String>,
    /// with reset: the signed catalog, with its signature beside it as FILE.minisig
    #[argh(option)]
    pub(crate) to: Option<PathBuf>,
}

/// Show space, unfinished runs, images and what they share, activations and the last events in the terminal, updated every second. q quits.
#[derive(FromArgs)]
#[argh(subcommand, name = "top")]
pub(crate) struct Top {}
