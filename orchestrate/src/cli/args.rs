//! What was typed: the flags of the `orchestrate` program. The commands are in `commands`;
//! what all of it means is in `main`.

use std::path::PathBuf;

use argh::FromArgs;
use orchestrate::config::Flags;

use crate::cli::commands::Command;

/// Container images from S3 become mountable snapshots: every layer is fetched once, unpacked once and sealed;
/// an activation is one snapshot.
#[derive(FromArgs)]
#[argh(
    example = "orchestrate activate s3://images-bucket/images/golang/ --name golang-1",
    example = "orchestrate --store dir:/srv/veneer ensure s3://images-bucket/images/node/ --anonymous",
    note = "A flag counts before the environment, that before /etc/veneer/veneer.toml. `orchestrate config` shows each setting, its value and where it came from; `config --sample`\n\
            all of them with their variables (VENEER_*, AWS_ENDPOINT_URL, AWS_REGION). Keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the rest as fetch has them.",
    note = "The options above may stand before or after the command.",
    error_code(0, "done"),
    error_code(1, "no: verify, gc, scan, health or cancel says why"),
    error_code(
        100,
        "never retry: wrong usage, not found, no permission, refused or corrupt input, broken host"
    ),
    error_code(111, "try again later: network, busy, no space")
)]
pub(crate) struct Args {
    /// the settings file (default /etc/veneer/veneer.toml, or VENEER_CONFIG)
    #[argh(option)]
    pub(crate) config: Option<PathBuf>,
    /// the state directory: registry and locks (default /var/lib/veneer)
    #[argh(option)]
    pub(crate) state: Option<String>,
    /// where volumes live: thin:POOL (default thin:veneer), or dir:PATH on a host without
    /// device-mapper
    #[argh(option)]
    pub(crate) store: Option<String>,
    /// the S3 server, if it is not Amazon's
    #[argh(option)]
    pub(crate) endpoint: Option<String>,
    /// the region (default: the AWS profile's, else us-east-1)
    #[argh(option)]
    pub(crate) region: Option<String>,
    /// send unsigned requests, and read no file with logins of registries
    #[argh(switch)]
    pub(crate) anonymous: bool,
    /// the file with logins of registries (default: podman's and docker's in their usual places)
    #[argh(option)]
    pub(crate) authfile: Option<String>,
    /// download every object, even if its ETag, proven to be an MD5, is that of a known one
    #[argh(switch)]
    pub(crate) no_etag_dedup: bool,
    /// walls around code that reads layers: require (all of them or nothing, the default), on (those that
    /// are available; missing ones are reported), off
    #[argh(option)]
    pub(crate) sandbox: Option<String>,
    /// reject layers larger than this when uncompressed
    #[argh(option)]
    pub(crate) bytes_max: Option<String>,
    /// size of a new activation, and of the template if there is none yet, such as 20G (default 4G)
    #[argh(option)]
    pub(crate) volume_bytes: Option<String>,
    /// seconds to wait for another process (default 3600)
    #[argh(option)]
    pub(crate) wait: Option<String>,
    /// seconds for which partial downloads of killed runs are kept (default 86400)
    #[argh(option)]
    pub(crate) spool_age: Option<String>,
    /// format of messages on stderr: text, logfmt or json (default text)
    #[argh(option)]
    pub(crate) log: Option<String>,
    /// the daemon's unix socket (default serve.sock in the state directory)
    #[argh(option)]
    pub(crate) socket: Option<String>,
    /// do the work in this process, even if a daemon runs
    #[argh(switch)]
    pub(crate) no_daemon: bool,
    /// create a registry for a store whose devices are in use, so that it cannot be checked whether the store
    /// belongs to another registry
    #[argh(switch)]
    pub(crate) new: bool,
    /// print one JSON object on stdout
    #[argh(switch)]
    pub(crate) json: bool,
    /// print only errors on stderr
    #[argh(switch, short = 'q')]
    pub(crate) quiet: bool,
    /// print more on stderr
    #[argh(switch, short = 'v')]
    pub(crate) verbose: bool,
    /// print the version and exit
    #[argh(switch)]
    pub(crate) version: bool,
    #[argh(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Args {
    /// What was typed of the settings, by their keys.
    pub(crate) fn flags(&self) -> Flags {
        let switch = |on: bool, value: &str| on.then(|| value.to_owned());
        let mut flags = match &self.command {
            Some(Command::Serve(serve)) => serve.flags(),
            _ => Flags::new(),
        };
        let typed = [
            ("serve.socket", self.socket.clone()),
            ("state", self.state.clone()),
            ("store", self.store.clone()),
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("anonymous", switch(self.anonymous, "yes")),
            ("etag_dedup", switch(self.no_etag_dedup, "no")),
            ("fetch.authfile", self.authfile.clone()),
            ("sandbox", self.sandbox.clone()),
            ("bytes_max", self.bytes_max.clone()),
            ("volume_bytes", self.volume_bytes.clone()),
            ("wait", self.wait.clone()),
            ("log", self.log.clone()),
            ("spool_age", self.spool_age.clone()),
        ];
        flags.extend(typed.into_iter().filter_map(|(key, value)| Some((key, value?))));
        flags
    }
}

/// The options of [`Args`] that take a value, and those that take none.
const WITH_VALUE: &[&str] = &[
    "--config",
    "--state",
    "--store",
    "--endpoint",
    "--region",
    "--authfile",
    "--sandbox",
    "--bytes-max",
    "--volume-bytes",
    "--wait",
    "--log",
    "--spool-age",
    "--socket",
];
const SWITCHES: &[&str] = &[
    "--anonymous",
    "--no-etag-dedup",
    "--json",
    "--quiet",
    "-q",
    "--verbose",
    "-v",
    "--no-daemon",
    "--new",
];

/// Of `gc`: without a value it stands for a list.
const PURGE: &str = "--purge-foreign";

/// Moves the common options before the command, since argh takes them only there.
pub(crate) fn hoist(words: &[String]) -> Vec<&str> {
    let (mut front, mut rest) = (Vec::new(), Vec::new());
    let mut words = words.iter().map(|word| if word == "-h" { "--help" } else { word.as_str() });
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word);
            rest.extend(words);
            break;
        }
        if SWITCHES.contains(&word) {
            front.push(word);
        } else if word == PURGE {
            // The one option whose value may be left out.
            rest.push(word);
            let value = words.clone().next().filter(|next| !next.starts_with('-'));
            rest.push(value.and_then(|_| words.next()).unwrap_or_default());
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

    fn hoisted(text: &str) -> String {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        hoist(&words).join(" ")
    }

    #[test]
    fn common_options_may_follow_the_command() {
        assert_eq!(
            hoisted("activate s3://b/p/ --name n --json --store dir:/x -v"),
            "--json --store dir:/x -v activate s3://b/p/ --name n"
        );
        assert_eq!(hoisted("rm -- --json"), "rm -- --json");
        assert_eq!(hoisted("ls --state"), "--state ls");
        assert_eq!(hoisted("gc --purge-foreign 1,2 -n"), "gc --purge-foreign 1,2 -n");
        assert_eq!(hoisted("gc --purge-foreign --json"), "--json gc --purge-foreign ");
        assert_eq!(hoisted("gc --purge-foreign -n"), "gc --purge-foreign  -n");
    }
}
