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
    /// the state directory: registry, locks, spools (default /var/lib/veneer)
    #[argh(option)]
    pub(crate) state: Option<String>,
    /// where volumes live: thin:POOL, or dir:PATH on a host without device-mapper (default thin:veneer)
    #[argh(option)]
    pub(crate) store: Option<String>,
    /// the S3 server; none: that of the AWS profile, else Amazon's of the region
    #[argh(option)]
    pub(crate) endpoint: Option<String>,
    /// the region; none: that of the AWS profile, else us-east-1
    #[argh(option)]
    pub(crate) region: Option<String>,
    /// send unsigned requests, and read no file with logins of registries
    #[argh(switch)]
    pub(crate) anonymous: bool,
    /// the file with logins of registries; none: podman's and docker's in their usual places
    #[argh(option)]
    pub(crate) authfile: Option<String>,
    /// download every object, even if its ETag, proven to be an MD5, is that of a known one
    #[argh(switch)]
    pub(crate) no_etag_dedup: bool,
    /// walls around code that reads layers and scans: require (all or nothing), on (those that are available;
    /// missing ones are reported), off (default require)
    #[argh(option)]
    pub(crate) sandbox: Option<String>,
    /// bytes of one layer when uncompressed, such as 20G; none: the limit of unpack
    #[argh(option)]
    pub(crate) bytes_max: Option<String>,
    /// size of a new activation, and of the template where there is none yet, such as 20G (default 4G)
    #[argh(option)]
    pub(crate) volume_bytes: Option<String>,
    /// seconds to wait for another process (default 3600)
    #[argh(option)]
    pub(crate) wait: Option<String>,
    /// seconds for which partial downloads of killed runs are kept (default 86400)
    #[argh(option)]
    pub(crate) spool_age: Option<String>,
    /// what stderr is: text for people, logfmt or json for programs; none: text, and logfmt of a daemon
    #[argh(option)]
    pub(crate) log: Option<String>,
    /// the daemon's unix socket; none: serve.sock in the state directory
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
    use orchestrate::config::{Kind, SETTINGS, Setting};

    use super::*;

    /// The options that the help of these words lists, without those that all programs have, each with its text.
    fn options(words: &[&str]) -> Vec<(String, String)> {
        let help = [words, &["--help"]].concat();
        let Err(said) = Args::from_args(&["orchestrate"], &help) else { panic!("no help") };
        let lines = said.output.lines().skip_while(|line| *line != "Options:").skip(1);
        let mut found: Vec<(String, String)> = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()).map(str::trim_start) {
            let short = line.starts_with('-') && line.get(2..4) == Some(", ");
            let line = if short { &line[4..] } else { line };
            if line.starts_with("--") {
                let (name, text) = line.split_once(' ').unwrap_or((line, ""));
                found.push((name.trim_end_matches(',').into(), text.trim_start().into()));
            } else if let Some((_, text)) = found.last_mut() {
                text.push_str(if text.is_empty() { "" } else { " " });
                text.push_str(line);
            }
        }
        found.retain(|(name, _)| !["--help", "--version"].contains(&name.as_str()));
        found
    }

    /// What the help has to say of a setting.
    fn told(setting: &Setting) -> String {
        let default = match (setting.kind, setting.default.parse::<u64>()) {
            (Kind::Bytes { .. }, Ok(bytes)) => format!("{}G", bytes >> 30),
            (Kind::Switch, _) => String::new(),
            _ => setting.default.to_owned(),
        };
        match (setting.kind, default.as_str()) {
            (Kind::List, _) => format!("{}; may be repeated", setting.doc),
            (_, "") => setting.doc.to_owned(),
            (_, default) => format!("{} (default {default})", setting.doc),
        }
    }

    /// Options that are no settings: they are about this one call.
    const OF_THE_CALL: [&str; 6] =
        ["--config", "--no-daemon", "--new", "--json", "--quiet", "--verbose"];

    /// The table of settings and the flags are the same, with the same texts and defaults.
    #[test]
    fn each_settings_flag_is_there_and_says_what_the_table_says() {
        let all = [options(&[]), options(&["serve"])].concat();
        let named = |name: &str| all.iter().find(|(flag, _)| flag == name);
        for setting in SETTINGS {
            let Some(flag) = setting.flag else { continue };
            let (_, text) = named(flag).unwrap_or_else(|| panic!("there is no {flag}"));
            // One that turns something off says that in its own words.
            let is_off = flag.starts_with("--no-");
            assert!(is_off || *text == told(setting), "{flag}: {text:?}\n{:?}", told(setting));
        }
        for (flag, _) in all.iter().filter(|(flag, _)| !OF_THE_CALL.contains(&flag.as_str())) {
            assert!(SETTINGS.iter().any(|s| s.flag == Some(flag)), "{flag} is no setting");
        }
    }

    /// What is typed arrives at the setting whose flag it is.
    #[test]
    fn each_flag_is_its_settings_own() {
        for setting in SETTINGS {
            let Some(flag) = setting.flag else { continue };
            let value = if setting.kind == Kind::Switch { None } else { Some("x") };
            let words: Vec<&str> = [flag].into_iter().chain(value).collect();
            let args = match options(&[]).iter().any(|(name, _)| name == flag) {
                true => [&words[..], &["ls"]].concat(),
                false => [&["serve"], &words[..]].concat(),
            };
            let Ok(args) = Args::from_args(&["orchestrate"], &args) else { panic!("{flag}") };
            let keys: Vec<&str> = args.flags().iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, [setting.key], "{flag}");
        }
    }

    /// Each general option may follow the command, whether it takes a value or not.
    #[test]
    fn every_general_option_is_hoisted() {
        for (flag, _) in options(&[]) {
            let typed = Args::from_args(&["orchestrate"], &[&flag, "ls"]);
            // One that takes a value takes the command for it.
            let is_switch = typed.is_ok_and(|args| args.command.is_some());
            let known = if is_switch { SWITCHES } else { WITH_VALUE };
            assert!(known.contains(&flag.as_str()), "{flag}");
        }
    }

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
