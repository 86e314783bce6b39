//! An image's config: what it is for, what its layers unpack to, and how it wants to be run (image-spec,
//! config.md).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::json::{self, Few};
use crate::image::manifest::LAYERS_MAX;
use crate::image::platform::{Platform, Written};

/// What is read of a config; its bytes are kept as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The machine that it is for.
    pub platform: Platform,
    /// The digest of each layer's plain tar, from the lowest up.
    pub diff_ids: Vec<Digest>,
    /// `User`: a name or number, perhaps with `:group`; empty is root.
    pub user: String,
    /// `NAME=value`, in the order of the config.
    pub env: Vec<String>,
    /// The beginning of the command line.
    pub entrypoint: Vec<String>,
    /// The rest of the command line.
    pub cmd: Vec<String>,
    /// The directory to start in; empty is `/`.
    pub working_dir: String,
    /// Such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Directories that the image wants to be volumes.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal to stop with; empty where none is named.
    pub stop_signal: String,
    /// When it was made, as written; empty where that is not said.
    pub created: String,
}

#[derive(Deserialize)]
struct Text {
    #[serde(flatten)]
    platform: Written,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Process>,
    #[serde(default)]
    rootfs: Option<Rootfs>,
}

#[derive(Default, Deserialize)]
struct Rootfs {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    diff_ids: Option<Few<String, LAYERS_MAX>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, Option<String>>>,
    stop_signal: Option<String>,
}

impl Config {
    /// Reads a config of an image for Linux.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`], [`Error::Digest`], [`Error::TooMany`].
    pub fn read(bytes: &[u8]) -> Result<Config, Error> {
        let document = Document::Config;
        let text: Text = json::read(document, bytes)?;
        let field =
            |field, got: &str, why| Error::Field { document, field, got: got.to_owned(), why };
        let platform = Platform::written(&text.platform);
        if platform.os != "linux" {
            return Err(field("os", &platform.os, "images for linux are the only ones to be used"));
        }
        let rootfs = text.rootfs.unwrap_or_default();
        let kind = rootfs.kind.unwrap_or_default();
        if kind != "layers" {
            return Err(field("rootfs.type", &kind, "it has to be \"layers\""));
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default().all(document, "diff ids")?;
        let diff_ids = diff_ids.iter().map(|text| Digest::parse(text)).collect::<Result<_, _>>()?;
        let own = text.config.unwrap_or_default();
        for (name, texts) in [
            ("config.Env", own.env.as_deref()),
            ("config.Entrypoint", own.entrypoint.as_deref()),
            ("config.Cmd", own.cmd.as_deref()),
        ] {
            // What a system call takes as a string ends at the first of them.
            if let Some(bad) = texts.unwrap_or_default().iter().find(|text| text.contains('\0')) {
                return Err(field(name, bad, "a NUL byte cannot be handed to a program"));
            }
        }
        let names = |of: Option<BTreeMap<String, IgnoredAny>>| {
            of.unwrap_or_default().into_keys().collect::<Vec<_>>()
        };
        let labels = own.labels.unwrap_or_default();
        Ok(Config {
            platform,
            diff_ids,
            user: own.user.unwrap_or_default(),
            env: own.env.unwrap_or_default(),
            entrypoint: own.entrypoint.unwrap_or_default(),
            cmd: own.cmd.unwrap_or_default(),
            working_dir: own.working_dir.unwrap_or_default(),
            exposed_ports: names(own.exposed_ports),
            volumes: names(own.volumes),
            labels: labels.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
            stop_signal: own.stop_signal.unwrap_or_default(),
            created: text.created.unwrap_or_default(),
        })
    }

    /// Whether there is one diff id for each of so many layers; asked before any of them is used. History is
    /// prose and is not asked.
    ///
    /// # Errors
    /// [`Error::DiffIds`].
    pub fn is_for(&self, layers: usize) -> Result<(), Error> {
        match self.diff_ids.len() == layers {
            true => Ok(()),
            false => Err(Error::DiffIds { layers, diff_ids: self.diff_ids.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn config(own: &str) -> Result<Config, Error> {
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{DIFF}"]}},"config":{own}}}"#
        );
        Config::read(text.as_bytes())
    }

    #[test]
    fn null_is_absent_and_what_is_unknown_is_no_error() {
        let nothing = config("null").unwrap();
        let nulls = r#"{"User":null,"Env":null,"Cmd":null,"Labels":{"a":null},"Healthcheck":{"Test":[]},"OnBuild":null}"#;
        let got = config(nulls).unwrap();
        assert_eq!(got.labels.get("a").map(String::as_str), Some(""));
        assert_eq!(Config { labels: BTreeMap::new(), ..got }, nothing);
        assert_eq!(nothing.platform.to_string(), "linux/amd64");
    }

    #[test]
    fn what_an_image_says_of_itself_is_read() {
        let got = config(
            r#"{"User":"app:1234","Env":["A=b","PATH=/bin"],"Entrypoint":["/init"],"Cmd":["-v"],
                "WorkingDir":"/srv","ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},
                "Labels":{"k":"v"},"StopSignal":"SIGQUIT"}"#,
        )
        .unwrap();
        assert_eq!((got.user.as_str(), got.working_dir.as_str()), ("app:1234", "/srv"));
        assert_eq!((got.entrypoint, got.cmd), (vec!["/init".to_owned()], vec!["-v".to_owned()]));
        assert_eq!(
            (got.exposed_ports, got.volumes),
            (vec!["80/tcp".to_owned()], vec!["/data".to_owned()])
        );
        assert_eq!((got.env.len(), got.stop_signal.as_str()), (2, "SIGQUIT"));
    }

    #[test]
    fn a_config_that_breaks_a_rule_is_refused() {
        let text = |os: &str, kind: &str, diffs: &str| {
            format!(
                r#"{{"os":"{os}","architecture":"amd64","rootfs":{{"type":"{kind}","diff_ids":{diffs}}}}}"#
            )
        };
        let whole = format!("[\"{DIFF}\"]");
        assert!(Config::read(text("linux", "layers", &whole).as_bytes()).is_ok());
        for (os, kind, diffs) in [
            ("windows", "layers", whole.as_str()),
            ("", "layers", &whole),
            ("linux", "base", &whole),
            ("linux", "layers", "[\"md5:00\"]"),
            ("linux", "layers", "[null]"),
            ("linux", "layers", "{}"),
        ] {
            assert!(Config::read(text(os, kind, diffs).as_bytes()).is_err(), "{os} {kind} {diffs}");
        }
        assert!(config(r#"{"Cmd":["a\u0000b"]}"#).is_err());
        assert!(Config::read(b"{\"os\":\"linux\"}").is_err());
    }

    #[test]
    fn counts_are_compared_before_anything_is_indexed() {
        let one = config("null").unwrap();
        assert!(one.is_for(1).is_ok());
        assert_eq!(one.is_for(2), Err(Error::DiffIds { layers: 2, diff_ids: 1 }));
        assert_eq!(one.is_for(0), Err(Error::DiffIds { layers: 0, diff_ids: 1 }));
    }
}
