//! What the settings mean to a daemon, and to a client that looks whether a daemon would do the same.

use std::path::PathBuf;

use super::{Config, Origin};
use crate::Error;
use crate::serve::{Limits, Options};

/// Tables of settings that decide nothing about what comes out of a run.
const OTHER: &[&str] = &["state", "wait", "spool_age", "log"];

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
                    "serve.listen {text:?}: expected ADDRESS:PORT, as 127.0.0.1:8440"
                ))
            })
        });
        Ok(Options {
            socket: path("serve.socket"),
            listen: listen.transpose()?,
            token_file: path("serve.token_file"),
            allow: self.list("serve.allow").iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
            limits: self.serve_limits(),
            webhook: self.text("serve.webhook").map(str::to_owned),
            webhook_secret: secret,
            webhook_loopback: self.switch("serve.webhook_loopback"),
            shown: self.deciding().map(|(key, value, _)| (key.into(), value)).collect(),
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

    /// Settings that decide what comes out of a run: key, value, and whether somebody set them for this
    /// process alone.
    pub fn deciding(&self) -> impl Iterator<Item = (&'static str, String, bool)> {
        let decides = |key: &str| !OTHER.contains(&key) && !key.starts_with("serve.");
        self.iter().filter(move |(setting, ..)| decides(setting.key)).filter_map(
            |(setting, value, origin)| {
                let own = match origin {
                    Origin::Flag { .. } | Origin::Environment { .. } => true,
                    Origin::Default | Origin::File { .. } => false,
                };
                Some((setting.key, value.plain()?, own))
            },
        )
    }
}
