//! What the settings mean to a run.

use std::path::PathBuf;
use std::time::Duration;

use registry::{Keep, Severity};

use crate::config::{Config, Origin, key_file};
use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::quote::quoted;
use crate::host::settings::{Growing, Settings};
use crate::process::cancel::Cancel;
use crate::trust::keys::Trust;
use crate::trust::scan;

impl Config {
    /// What a host is opened with. How much it talks is the caller's.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Fetch`] for values that only who uses them can judge.
    pub fn settings(&self) -> Result<Settings, Error> {
        let limits = self.limits()?;
        let state = PathBuf::from(self.text("state").unwrap_or_default());
        // Of a variable in a script that is not set: not the directory where somebody happens to be.
        if state.as_os_str().is_empty() {
            let text = "--state is empty: name a directory, or leave it out for /var/lib/veneer";
            return Err(Error::Usage(text.into()));
        }
        let number = |key| self.number(key).unwrap_or_default();
        Ok(Settings {
            state,
            store: self.text("store").unwrap_or_default().parse()?,
            fetch: self.fetch()?,
            platform: self.platform()?,
            local_roots: self.local_roots()?,
            limits: limits.clone(),
            volume_bytes: number("volume_bytes"),
            overcommit: self.number("overcommit"),
            wait: Duration::from_secs(number("wait")),
            spool_age: Duration::from_secs(number("spool_age")),
            receive_keep: Duration::from_secs(number("receive_keep_s")),
            trust: self.trust()?,
            fleet: self.fleet()?,
            scan: self.scan(limits.walls)?,
            history: self.history(),
            etag_dedup: self.switch("etag_dedup"),
            growing: self.growing(),
            pool: self.pool()?,
            copies: self.copies(),
            cancel: Cancel::default(),
            talk: 1,
            new: false,
        })
    }

    /// The platform of which images are wanted, where one is set.
    fn platform(&self) -> Result<Option<fetch::image::Platform>, Error> {
        let text = self.text("platform").filter(|text| !text.is_empty());
        let read = text.map(|text| text.parse()).transpose();
        read.map_err(|error| Error::Image(Unusable::Reference(error)))
    }

    /// Where a daemon opens local images for its clients.
    fn local_roots(&self) -> Result<Vec<PathBuf>, Error> {
        let root = |text: &String| match std::path::Path::new(text).is_absolute() {
            true => Ok(PathBuf::from(text)),
            false => Err(Error::Usage(format!(
                "sources.local_roots: {}: expected absolute paths of directories, as \"/srv/images\"",
                quoted(text)
            ))),
        };
        self.list("sources.local_roots").iter().map(root).collect()
    }

    /// What one layer may cost: the limits of unpack, where none is set.
    fn limits(&self) -> Result<unpack::Limits, Error> {
        let mut limits = unpack::Limits::default();
        for (key, limit) in [
            ("bytes_max", &mut limits.bytes_max),
            ("unpack.blob_bytes_max", &mut limits.blob_bytes_max),
            ("unpack.file_bytes_max", &mut limits.file_bytes_max),
            ("unpack.entries_max", &mut limits.entries_max),
            ("unpack.links_max", &mut limits.links_max),
            ("unpack.path_bytes_max", &mut limits.path_bytes_max),
            ("unpack.depth_max", &mut limits.depth_max),
            ("unpack.extension_bytes_max", &mut limits.extension_bytes_max),
            ("unpack.extensions_max", &mut limits.extensions_max),
            ("unpack.xattr_bytes_max", &mut limits.xattr_bytes_max),
            ("unpack.xattrs_max", &mut limits.xattrs_max),
            ("unpack.xattrs_bytes_max", &mut limits.xattrs_bytes_max),
            ("unpack.removals_max", &mut limits.removals_max),
            ("unpack.walk_max", &mut limits.walk_max),
            ("unpack.spill_bytes_max", &mut limits.spill_bytes_max),
            ("unpack.ratio_max", &mut limits.ratio_max),
        ] {
            if let Some(number) = self.number(key) {
                *limit = number;
            }
        }
        // The kernel takes no longer one.
        limits.path_bytes_max = limits.path_bytes_max.min(4095);
        for (key, limit) in [
            ("unpack.time_max", &mut limits.time_max),
            ("unpack.processor_max", &mut limits.processor_max),
        ] {
            if let Some(seconds) = self.number(key) {
                // Far enough for anyone, and near enough for a clock to add.
                *limit = Duration::from_secs(seconds.min(1 << 31));
            }
        }
        if let Some(log) = self.number("unpack.zstd_window_log_max") {
            limits.zstd_window_log_max = match u32::try_from(log) {
                Ok(log @ 10..=31) => log,
                Ok(_) | Err(_) => {
                    let text = format!("unpack.zstd_window_log_max {log}: expected 10 to 31");
                    return Err(Error::Usage(text));
                }
            };
        }
        limits.devices = match self.text("unpack.devices") {
            Some("keep") => unpack::Devices::Keep,
            Some("refuse") => unpack::Devices::Refuse,
            Some(_) | None => limits.devices,
        };
        let walls = self.text("sandbox").and_then(unpack::Walls::from_word);
        limits.walls = walls.unwrap_or(unpack::Walls::Require);
        limits.spill_dir = self.text("unpack.spill_dir").map(PathBuf::from);
        Ok(limits)
    }

    fn trust(&self) -> Result<Trust, Error> {
        let url = self.text("catalog.url").map(str::to_owned);
        let trust = Trust {
            url,
            keys: self.list("catalog.keys").to_vec(),
            serial_step: self.number("catalog.serial_step").unwrap_or(1),
            grace_s: self.number("catalog.grace").unwrap_or_default(),
            refresh_s: self.number("catalog.refresh").unwrap_or_default(),
            superseded: self.text("catalog.superseded") == Some("revoke"),
            take_down: self.text("catalog.running") == Some("deactivate"),
            cosign: self.cosign()?,
        };
        key_file::are_closed("catalog.keys", &trust.keys)?;
        trust.public_keys().map_err(Error::Catalog)?;
        // One without the other would look like a protection and be none.
        match (&trust.url, trust.keys.is_empty()) {
            (Some(_), true) => Err(Error::Usage("catalog.url is set, and no catalog.keys".into())),
            (None, false) => Err(Error::Usage("catalog.keys is set, and no catalog.url".into())),
            (Some(_), false) | (None, true) => Ok(trust),
        }
    }

    fn history(&self) -> Keep {
        let number = |key| self.number(key).unwrap_or(1);
        let days = |key| Duration::from_secs(number(key) * 86_400);
        Keep {
            runs: number("history.runs"),
            runs_age: days("history.runs_days"),
            events: number("history.events"),
            events_age: days("history.events_days"),
            verdicts: number("history.verdicts"),
            verdicts_age: days("history.verdicts_days"),
            sources: number("history.sources"),
            sources_age: days("history.sources_days"),
        }
    }

    fn growing(&self) -> Option<Growing> {
        let data_to = self.number("serve.grow_to").filter(|bytes| *bytes > 0)?;
        Some(Growing {
            dir: PathBuf::from(self.text("pool_dir").unwrap_or_default()),
            data_to,
            data_by: self.number("serve.grow_by").unwrap_or(1 << 30),
            metadata_to: self.number("serve.grow_metadata_to"),
        })
    }

    fn scan(&self, walls: unpack::Walls) -> Result<scan::Policy, Error> {
        let number = |key| self.number(key).unwrap_or_default();
        let block = self.list("scan.block").iter().map(|word| {
            Severity::from_word(word).ok_or_else(|| {
                Error::Usage(format!(
                    "scan.block {}: expected critical, high, medium, low, unknown",
                    quoted(word)
                ))
            })
        });
        let codes = self.list("scan.exit_codes").iter().map(|word| {
            word.parse().map_err(|_| {
                Error::Usage(format!(
                    "scan.exit_codes {}: expected whole numbers from 0 to 255",
                    quoted(word)
                ))
            })
        });
        let exit_codes: Vec<u8> = codes.collect::<Result<_, _>>()?;
        if exit_codes.is_empty() {
            return Err(Error::Usage(
                "scan.exit_codes: the list is empty, so no report would ever count: name the codes of a scan \
                 that has worked, as [\"0\"]"
                    .into(),
            ));
        }
        for key in ["scan.command", "scan.about"] {
            if let Some(program) = self.list(key).first()
                && !named(program)
            {
                return Err(Error::Usage(format!(
                    "{key}: the program {}: expected an absolute path, as \"/usr/bin/trivy\", or a name \
                     without \"/\", which is looked for in {}: a scanner runs in /, wherever this does",
                    quoted(program),
                    scan::PATH
                )));
            }
        }
        let policy = scan::Policy {
            exit_codes,
            mode: self.text("scan.policy").and_then(scan::Mode::from_word).unwrap_or_default(),
            command: self.list("scan.command").to_vec(),
            block: block.collect::<Result<_, _>>()?,
            timeout_s: number("scan.timeout"),
            output_max: number("scan.output_max"),
            memory_max: number("scan.memory_max"),
            about: self.list("scan.about").to_vec(),
            network: self.switch("scan.network"),
            cache: self.text("scan.cache").map_or_else(
                || PathBuf::from(self.text("state").unwrap_or_default()).join("scan-cache"),
                PathBuf::from,
            ),
            walls,
            take_down: self.text("scan.running") == Some("deactivate"),
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

/// Whether a program is named so that it is the same one from wherever it is started.
fn named(program: &str) -> bool {
    !program.is_empty() && (program.starts_with('/') || !program.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use crate::config::table::SETTINGS;

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
    fn a_pool_grows_only_where_a_bound_is_set() {
        let growing = |text: &str| {
            let file = Some((std::path::Path::new("/f"), text));
            Config::resolve(&Flags::new(), &|_| None, file).unwrap().settings().unwrap().growing
        };
        assert_eq!(growing(""), None);
        assert_eq!(growing("[serve]\ngrow_to = 0\ngrow_by = 7"), None);
        let dir = PathBuf::from("/var/lib/veneer/pool");
        let wanted = Growing { dir, data_to: 99, data_by: 1 << 30, metadata_to: None };
        assert_eq!(growing("[serve]\ngrow_to = 99"), Some(wanted));
        let text = "pool_dir = \"/p\"\n[serve]\ngrow_to = 9\ngrow_by = 2\ngrow_metadata_to = 3";
        let wanted = Growing { dir: "/p".into(), data_to: 9, data_by: 2, metadata_to: Some(3) };
        assert_eq!(growing(text), Some(wanted));
    }

    /// Each limit of unpack has a setting of its name, and what is set is what a layer is held to.
    #[test]
    fn every_limit_of_a_layer_can_be_set() {
        let limits = |text: &str| {
            let file = Some((std::path::Path::new("/f"), text));
            let config = Config::resolve(&Flags::new(), &|_| None, file).unwrap();
            config.settings().map(|settings| serde_json::to_value(settings.limits).unwrap())
        };
        let before = limits("").unwrap();
        let walls = unpack::Walls::Require;
        let default = unpack::Limits { walls, ..unpack::Limits::default() };
        let default = serde_json::to_value(default).unwrap();
        assert_eq!(before, default);
        for (name, _) in default.as_object().unwrap() {
            let (key, value) = match name.as_str() {
                // Those of one layer's own, or no limits.
                "compression" | "blob_digest" | "diff_id" | "digests" | "reader_verifies" => {
                    continue;
                }
                "xattrs_strict" | "place_min" | "sync" => continue,
                "walls" => ("sandbox = \"on\"".to_owned(), "On".into()),
                "bytes_max" => ("bytes_max = 12".to_owned(), 12.into()),
                "time_max" | "processor_max" => {
                    (format!("[unpack]\n{name} = 12"), serde_json::json!({"secs": 12, "nanos": 0}))
                }
                "devices" => (format!("[unpack]\n{name} = \"refuse\""), "Refuse".into()),
                "spill_dir" => (format!("[unpack]\n{name} = \"/s\""), "/s".into()),
                name => (format!("[unpack]\n{name} = 12"), 12.into()),
            };
            let mut expected = default.clone();
            expected[name] = value;
            assert_eq!(limits(&key).unwrap(), expected, "{name}");
        }
        assert!(limits("[unpack]\nzstd_window_log_max = 40").is_err());
    }

    /// Either would be found out by the first scan, or by nobody.
    #[test]
    fn a_scanner_that_cannot_be_meant_is_refused_with_the_way_out() {
        for (line, wanted) in [
            ("exit_codes = []", ["scan.exit_codes: the list is empty", "as [\"0\"]"]),
            (
                "command = [\"./trivy\", \"{}\"]",
                ["scan.command: the program \"./trivy\"", "absolute path"],
            ),
            ("command = [\"\", \"{}\"]", ["scan.command: the program \"\"", "absolute path"]),
            ("about = [\"bin/trivy\"]", ["scan.about: the program \"bin/trivy\"", "/usr/bin"]),
        ] {
            let file = format!("[scan]\n{line}");
            let file = Some((std::path::Path::new("/f"), file.as_str()));
            let config = Config::resolve(&Flags::new(), &|_| None, file).unwrap();
            let said = config.settings().unwrap_err().to_string();
            for part in wanted {
                assert!(said.contains(part), "{line}: {said}");
            }
        }
        for line in ["command = [\"trivy\", \"{}\"]", "command = []", "command = [\"/opt/t\"]"] {
            let file = format!("[scan]\n{line}");
            let file = Some((std::path::Path::new("/f"), file.as_str()));
            let config = Config::resolve(&Flags::new(), &|_| None, file).unwrap();
            assert!(config.settings().is_ok(), "{line}");
        }
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
