//! What the settings mean to a run.

use std::path::PathBuf;
use std::time::Duration;

use registry::Severity;

use super::{Config, Origin};
use crate::catalog::Trust;
use crate::{Cancel, Error, Settings, scan};

impl Config {
    /// What a host is opened with. How much it talks is the caller's.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Fetch`] for values that only who uses them can judge.
    pub fn settings(&self) -> Result<Settings, Error> {
        let mut limits = unpack::Limits::default();
        if let Some(bytes) = self.number("bytes_max") {
            limits.bytes_max = bytes;
        }
        let number = |key| self.number(key).unwrap_or_default();
        Ok(Settings {
            state: PathBuf::from(self.text("state").unwrap_or_default()),
            store: self.text("store").unwrap_or_default().parse()?,
            fetch: self.fetch()?,
            limits,
            volume_bytes: number("volume_bytes"),
            wait: Duration::from_secs(number("wait")),
            spool_age: Duration::from_secs(number("spool_age")),
            trust: self.trust()?,
            scan: self.scan()?,
            etag_dedup: self.switch("etag_dedup"),
            cancel: Cancel::default(),
            talk: 1,
        })
    }

    fn trust(&self) -> Result<Trust, Error> {
        let url = self.text("catalog.url").map(str::to_owned);
        let trust = Trust { url, keys: self.list("catalog.keys").to_vec() };
        trust.public_keys().map_err(Error::Catalog)?;
        // One without the other would look like a protection and be none.
        match (&trust.url, trust.keys.is_empty()) {
            (Some(_), true) => Err(Error::Usage("catalog.url is set, and no catalog.keys".into())),
            (None, false) => Err(Error::Usage("catalog.keys is set, and no catalog.url".into())),
            (Some(_), false) | (None, true) => Ok(trust),
        }
    }

    fn scan(&self) -> Result<scan::Policy, Error> {
        let number = |key| self.number(key).unwrap_or_default();
        let block = self.list("scan.block").iter().map(|word| {
            Severity::from_word(word).ok_or_else(|| {
                Error::Usage(format!(
                    "scan.block {word:?}: expected critical, high, medium, low, unknown"
                ))
            })
        });
        let policy = scan::Policy {
            mode: self.text("scan.policy").and_then(scan::Mode::from_word).unwrap_or_default(),
            command: self.list("scan.command").to_vec(),
            block: block.collect::<Result<_, _>>()?,
            timeout_s: number("scan.timeout"),
            output_max: number("scan.output_max"),
            memory_max: number("scan.memory_max"),
        };
        match (policy.mode, policy.command.is_empty()) {
            (scan::Mode::Report | scan::Mode::Required, true) => {
                Err(Error::Usage(scan::Failure::None.to_string()))
            }
            (scan::Mode::Off, _) | (_, false) => Ok(policy),
        }
    }

    /// Fetch reads variables; it is given ours, which the file and the flags have changed.
    fn fetch(&self) -> Result<fetch::Options, Error> {
        let look = |name: &str| {
            let (_, value, origin) = self.iter().find(|(s, ..)| s.env.contains(&name))?;
            value.plain().filter(|_| *origin != Origin::Default)
        };
        let mut options = fetch::Options::from_lookup(&look)?;
        if self.switch("anonymous") {
            options.credentials = fetch::CredentialsFrom::Anonymous;
        }
        // Two layers are on their way at a time, each with buffers of its own.
        options.jobs = options.jobs.or(Some(2));
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, SETTINGS};
    use super::*;

    #[test]
    fn the_table_knows_every_variable_of_fetch_and_its_default() {
        let asked = std::cell::RefCell::new(Vec::new());
        let defaults = fetch::Options::from_lookup(&|name| {
            asked.borrow_mut().push(name.to_owned());
            let setting = SETTINGS.iter().find(|s| s.env.contains(&name));
            setting.map(|setting| setting.default.to_owned())
        });
        for name in asked.into_inner() {
            let known = SETTINGS.iter().any(|s| s.env.contains(&name.as_str()));
            assert!(known, "fetch reads {name}, and no setting is it");
        }
        let own = fetch::Options { jobs: Some(2), ..fetch::Options::default() };
        assert_eq!(format!("{:?}", defaults.unwrap()), format!("{own:?}"));
    }

    #[test]
    fn what_is_set_reaches_the_run() {
        let env = |name: &str| (name == "VENEER_FETCH_PATIENCE").then(|| "0.5".to_owned());
        let flags: Flags = vec![("anonymous", "yes".into()), ("endpoint", "http://e".into())];
        let file = "wait = 7\netag_dedup = false\n[fetch]\nsources = [\"http://a\", \"http://b\"]";
        let file = Some((std::path::Path::new("/f"), file));
        let settings = Config::resolve(&flags, &env, file).unwrap().settings().unwrap();
        assert_eq!(settings.wait, Duration::from_secs(7));
        assert!(!settings.etag_dedup);
        assert_eq!(settings.fetch.sources, ["http://a", "http://b"]);
        assert_eq!(settings.fetch.endpoint.as_deref(), Some("http://e"));
        assert_eq!(settings.fetch.patience, Duration::from_millis(500));
        assert!(matches!(settings.fetch.credentials, fetch::CredentialsFrom::Anonymous));
    }
}
