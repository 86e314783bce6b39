//! What the settings of a fleet mean: which document is this host's, and what the host is in its fleet.

use std::path::Path;
use std::time::Duration;

use crate::config::{Config, key_file};
use crate::error::Error;
use crate::fleet::member::{labels, word};
use crate::fleet::{Me, Member, public_keys};

/// Where the kernel tells the host's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

impl Config {
    /// The fleet that this host is in.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is missing, or is no name.
    pub(super) fn fleet(&self) -> Result<Option<Member>, Error> {
        let text = |key: &str| self.text(key).filter(|text| !text.is_empty());
        let keys = self.list("fleet.keys");
        let Some(url) = text("fleet.url") else {
            return match keys.is_empty() {
                true => Ok(None),
                false => Err(Error::Usage("fleet.keys is set, and no fleet.url".into())),
            };
        };
        if keys.is_empty() {
            return Err(Error::Usage("fleet.url is set, and no fleet.keys".into()));
        }
        if Some(url) == text("catalog.url") {
            let text = "fleet.url is the same as catalog.url: a catalog and a fleet's document are two objects";
            return Err(Error::Usage(text.into()));
        }
        url.parse::<fetch::ObjectRef>().map_err(Error::Fetch)?;
        let Some(name) = text("fleet.name") else {
            let text = "fleet.url is set, and no fleet.name: a document of another fleet could not be told apart";
            return Err(Error::Usage(text.into()));
        };
        key_file::are_closed("fleet.keys", keys)?;
        public_keys(keys).map_err(Error::Usage)?;
        let named = |key: &str| -> Result<Option<String>, Error> {
            text(key).map(|value| word(key, value)).transpose().map_err(Error::Usage)
        };
        let host = match named("fleet.host_id")? {
            Some(host) => host,
            None => hostname(Path::new(HOSTNAME))?,
        };
        let me = Me {
            fleet: word("fleet.name", name).map_err(Error::Usage)?,
            class: named("fleet.class")?,
            host,
            site: named("fleet.site")?,
            labels: labels(self.list("fleet.labels")).map_err(Error::Usage)?,
            hold: self.switch("fleet.hold"),
        };
        let poll = Duration::from_secs(self.number("fleet.poll").unwrap_or(30));
        Ok(Some(Member { url: url.into(), keys: keys.to_vec(), poll, me }))
    }
}

/// The host's name, which a network may have given it.
fn hostname(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::Io { doing: "read the host's name from", path: path.into(), source };
    let name = std::fs::read_to_string(path).map_err(fail)?;
    word("the name of this host,", name.trim_end()).map_err(|why| {
        Error::Usage(format!("fleet.host_id is not set, and {why}; set fleet.host_id"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn of(text: &str) -> Result<Option<Member>, String> {
        let file = Some((Path::new("/f"), text));
        let config = Config::resolve(&Flags::new(), &|_| None, file).map_err(|e| e.to_string())?;
        config.settings().map(|settings| settings.fleet).map_err(|error| error.to_string())
    }

    #[test]
    fn a_host_is_in_a_fleet_only_with_everything_that_this_takes() {
        assert_eq!(of(""), Ok(None));
        let whole = format!(
            "[fleet]\nurl = \"s3://bkt/fleet/w.json\"\nkeys = [\"{KEY}\"]\nname = \"prod\"\n\
             host_id = \"h-1\"\nclass = \"w\"\nsite = \"fra\"\nlabels = [\"disk=nvme\"]\n"
        );
        let member = of(&whole).unwrap().unwrap();
        assert_eq!((member.me.host.as_str(), member.poll), ("h-1", Duration::from_secs(30)));
        assert_eq!(member.me.labels["disk"], "nvme");
        for (without, wanted) in [
            ("url", "fleet.keys is set, and no fleet.url"),
            ("keys", "fleet.url is set, and no fleet.keys"),
            ("name", "no fleet.name"),
        ] {
            let lines: Vec<&str> = whole.lines().filter(|l| !l.starts_with(without)).collect();
            let why = of(&lines.join("\n")).unwrap_err();
            assert!(why.contains(wanted), "{without}: {why}");
        }
        for (from, to, wanted) in [
            ("\"prod\"", "\"a b\"", "fleet.name \"a b\": expected 1 to 100"),
            ("\"h-1\"", "\"../h\"", "fleet.host_id \"../h\""),
            ("disk=nvme", "disk", "fleet.labels \"disk\": expected NAME=VALUE"),
            (KEY, "RWQx", "fleet.keys: \"RWQx\""),
            ("s3://bkt/fleet/w.json", "http://h/x", "http://h/x"),
        ] {
            let why = of(&whole.replace(from, to)).unwrap_err();
            assert!(why.contains(wanted), "{to}: {why}");
        }
        let twice =
            format!("[catalog]\nurl = \"s3://bkt/fleet/w.json\"\nkeys = [\"{KEY}\"]\n{whole}");
        assert!(of(&twice).unwrap_err().contains("the same as catalog.url"));
    }

    #[test]
    fn a_name_from_a_hostile_network_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hostname");
        std::fs::write(&file, "web-1.example\n").unwrap();
        assert_eq!(hostname(&file).unwrap(), "web-1.example");
        for bad in ["", "a b", "x\n\u{1b}[2J", "$(id)", "../../etc", "(none)"] {
            std::fs::write(&file, bad).unwrap();
            let why = hostname(&file).unwrap_err().to_string();
            assert!(why.contains("set fleet.host_id") && !why.contains('\u{1b}'), "{bad:?}: {why}");
        }
    }
}
