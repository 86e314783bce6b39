//! What the settings mean to a daemon, and to a client that looks whether a daemon would do the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, Origin};
use crate::error::Error;
use crate::error::quote::quoted;
use crate::serve::options::{Limits, Options};

/// Settings that decide nothing about what comes out of a run; tables with a dot at their end.
const OTHER: &[&str] = &[
    "state",
    "pool_dir",
    "wait",
    "spool_age",
    "receive_keep_s",
    "log",
    "pool.",
    "serve.",
    "sources.",
    "history.",
    "catalog.refresh",
    "fleet.",
];

/// Settings that a daemon takes at its start alone. All others are in force from the next run or
/// request on when they are read again.
const AT_START: &[&str] = &[
    "state",
    "store",
    "pool_dir",
    "log",
    "serve.socket",
    "serve.listen",
    "serve.token_file",
    "serve.read_token_file",
    "serve.grow_to",
    "serve.grow_by",
    "serve.grow_metadata_to",
    "serve.webhook",
    "serve.webhook_secret_file",
    "serve.webhook_loopback",
];

/// Whether only a restart puts a change of this setting in force.
pub(crate) fn needs_restart(key: &str) -> bool {
    AT_START.contains(&key)
}

/// One setting that decides what comes out of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deciding {
    /// Its key.
    pub key: &'static str,
    /// Its value, as a variable would have it; none for none.
    pub value: Option<String>,
    /// Whether somebody set it for this process, or named the file in which it is not.
    pub chosen: bool,
}

impl Config {
    /// What a daemon is started with.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address or a name that is none, [`Error::Io`] for the secret's file.
    pub fn serve(&self) -> Result<Options, Error> {
        let path = |key| self.text(key).map(PathBuf::from);
        let secret = path("serve.webhook_secret_file").map(|path| {
            std::fs::read_to_string(&path).map_err(|source| Error::Io {
                doing: "read",
                path,
                source,
            })
        });
        let secret = secret.transpose()?.map(|text| text.trim().as_bytes().to_vec());
        if secret.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::Usage("serve.webhook_secret_file: there is nothing in it".into()));
        }
        let listen = self.text("serve.listen").map(|text| {
            text.parse().map_err(|_| {
                Error::Usage(format!(
                    "serve.listen {}: expected ADDRESS:PORT, as 127.0.0.1:8440",
                    quoted(text)
                ))
            })
        });
        Ok(Options {
            socket: path("serve.socket"),
            listen: listen.transpose()?,
            token_file: path("serve.token_file"),
            read_token_file: path("serve.read_token_file"),
            allow: self.list("serve.allow").iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
            limits: self.serve_limits(),
            webhook: self.text("serve.webhook").map(str::to_owned),
            webhook_time: Duration::from_secs(self.number("serve.webhook_time").unwrap_or(1)),
            webhook_secret: secret,
            webhook_loopback: self.switch("serve.webhook_loopback"),
            values: self.all.iter().map(|(s, value, _)| (s.key, value.plain())).collect(),
        })
    }

    /// What may be changed while a daemon runs.
    pub fn serve_limits(&self) -> Limits {
        let of = |key| usize::try_from(self.number(key).unwrap_or(1)).unwrap_or(usize::MAX);
        Limits {
            image_workers: of("serve.concurrency"),
            device_workers: of("serve.device_concurrency"),
            backlog: of("serve.backlog"),
            connections: of("serve.connections"),
            waits: of("serve.waits"),
        }
    }

    /// Settings that decide what comes out of a run.
    pub fn deciding(&self) -> impl Iterator<Item = Deciding> {
        self.iter().filter(|(setting, ..)| decides(setting.key)).map(|(setting, value, origin)| {
            let chosen = match origin {
                Origin::Flag { .. } | Origin::Environment { .. } | Origin::File { .. } => true,
                Origin::Default => self.named,
            };
            Deciding { key: setting.key, value: value.plain(), chosen }
        })
    }
}

fn decides(key: &str) -> bool {
    let is = |other: &&str| key == *other || (other.ends_with('.') && key.starts_with(*other));
    !OTHER.iter().any(is)
}

/// Of all settings those that decide what comes out of a run, where they have a value.
pub(crate) fn shown(values: &BTreeMap<&'static str, Option<String>>) -> BTreeMap<String, String> {
    let deciding = values.iter().filter(|(key, _)| decides(key));
    deciding.filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?))).collect()
}

/// The first setting in which a daemon that shows these differs from what was chosen for a command.
/// Where nobody chose, the daemon's word holds.
pub fn differs(config: &Config, daemon: &BTreeMap<String, String>) -> Option<String> {
    let own = config.deciding().find(|own| own.chosen && own.value.as_ref() != daemon.get(own.key));
    let strange = || daemon.keys().find(|key| config.named && !config.knows(key)).cloned();
    own.map(|own| own.key.to_owned()).or_else(strange)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Flags;
    use crate::config::table::SETTINGS;

    fn config(flags: &Flags, text: &str, named: bool) -> Config {
        let file = Some((Path::new("/f"), text));
        Config { named, ..Config::resolve(flags, &|_| None, file).unwrap() }
    }

    fn daemon(text: &str) -> BTreeMap<String, String> {
        shown(&config(&Flags::new(), text, false).serve().unwrap().values)
    }

    #[test]
    fn a_command_compares_all_that_was_chosen_for_it_wherever_that_stands() {
        let none = Flags::new();
        let strict = "[scan]\npolicy = \"required\"\ncommand = [\"/s\", \"{}\"]\n";
        for (own, named, of, differ) in [
            ("", false, "", None),
            ("", true, "", None),
            (strict, false, strict, None),
            (strict, true, strict, None),
            (strict, false, "", Some("scan.policy")),
            (strict, true, "", Some("scan.policy")),
            // Nobody said anything: the daemon's word holds, and it may well be the stricter.
            ("", false, strict, None),
            ("", true, strict, Some("scan.policy")),
            ("bytes_max = 7", false, "", Some("bytes_max")),
            ("", true, "bytes_max = 7", Some("bytes_max")),
            ("etag_dedup = false", false, "", Some("etag_dedup")),
            ("endpoint = \"http://a\"", false, "endpoint = \"http://b\"", Some("endpoint")),
            ("[fetch]\nsources = [\"http://a\"]", false, "", Some("fetch.sources")),
            // What changes no outcome is not compared.
            ("wait = 7\n[serve]\nconcurrency = 7\n[history]\nruns = 7", true, "", None),
        ] {
            let found = differs(&config(&none, own, named), &daemon(of));
            assert_eq!(found.as_deref(), differ, "{own:?} ({named}) and {of:?}");
        }
        let flags: Flags = vec![("bytes_max", "7".into())];
        assert_eq!(differs(&config(&flags, "", false), &daemon("")).as_deref(), Some("bytes_max"));
        let mut newer = daemon("");
        newer.insert("of.tomorrow".into(), "1".into());
        assert_eq!(differs(&config(&none, "", true), &newer).as_deref(), Some("of.tomorrow"));
    }

    #[test]
    fn every_setting_that_only_a_restart_changes_is_one() {
        for key in AT_START {
            assert!(SETTINGS.iter().any(|setting| setting.key == *key), "{key}");
        }
    }
}
