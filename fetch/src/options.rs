//! What a caller may set, with the defaults, and where the environment sets it.
//!
//! Nothing is opened or sent here; endpoint, region and files are checked by `Client::new`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;

/// Where the bucket's name goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Into the host at Amazon (but for dotted buckets), else into the path.
    #[default]
    Auto,
    /// `host/bucket/key`.
    Path,
    /// `bucket.host/key`.
    VirtualHost,
}

/// Where the keys that sign requests come from.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// Environment, web identity, shared files, then the container's or the instance's metadata;
    /// anonymous if there are none, an error where what is set cannot be used.
    #[default]
    Auto,
    /// Requests are not signed.
    Anonymous,
    /// These keys.
    Static {
        /// Access key id.
        access_key: String,
        /// Secret access key.
        secret_key: String,
        /// Session token of temporary keys.
        session_token: Option<String>,
    },
    /// This profile of the shared files.
    Profile(String),
}

/// Secrets stay out of every message and log.
impl fmt::Debug for CredentialsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsFrom::Auto => f.write_str("Auto"),
            CredentialsFrom::Anonymous => f.write_str("Anonymous"),
            CredentialsFrom::Static { .. } => f.write_str("Static { .. }"),
            CredentialsFrom::Profile(name) => f.debug_tuple("Profile").field(name).finish(),
        }
    }
}

/// What happens on the way, for whoever wants to show it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A try failed and another follows.
    Retry {
        /// Which object or listing.
        subject: &'a str,
        /// Why.
        error: &'a Error,
        /// Failed tries since the last progress.
        tries: u32,
        /// Time until the next.
        wait: Duration,
    },
    /// A broken stream goes on.
    Resume {
        /// Which object.
        subject: &'a str,
        /// At which byte.
        at: u64,
    },
    /// Something worth a line with `-v`.
    Note {
        /// The line.
        text: &'a str,
    },
}

type Callback = dyn Fn(&Event<'_>) + Send + Sync;

/// Called for each [`Event`], from whichever thread it happens in.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Callback>>);

impl Watch {
    /// Calls `f` for each event.
    pub fn new(f: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Watch {
        Watch(Some(Arc::new(f)))
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        if let Some(f) = &self.0 {
            f(event);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watch(..)" } else { "Watch" })
    }
}

/// How to reach a server, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http[s]://host[:port]`; Amazon's endpoint of the region if none.
    pub endpoint: Option<String>,
    /// Region, part of the signature and of Amazon's host name.
    pub region: String,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
    /// Where the signing keys come from.
    pub credentials: CredentialsFrom,
    /// PEM file of the authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Time for the name and the connection, TLS included.
    pub connect_timeout: Duration,
    /// Time from the request to the end of the answer's head.
    pub first_byte_timeout: Duration,
    /// Time for each piece of the body; also the window of the rate floor.
    pub stall_timeout: Duration,
    /// A stream slower than this many bytes per second over a stall window is broken off.
    pub rate_floor: u64,
    /// Tries without progress (64 KiB) before giving up.
    pub tries_max: u32,
    /// Time without progress before giving up; checked after each failed try.
    pub patience: Duration,
    /// Time for one object as a whole; none by default, since objects have any size.
    pub deadline: Option<Duration>,
    /// Ranges in flight, at most 16: 1 is a single stream, none lets the object's size choose.
    pub jobs: Option<usize>,
    /// Hosts (`host` or `host:port`) that a redirect may lead to, besides the same one.
    pub redirect_hosts: Vec<String>,
    /// Other servers of the same objects, tried in order before the endpoint: a site's cache, a
    /// peer. They are asked without signature, and only for objects whose digest is known.
    pub sources: Vec<String>,
    /// Smaller objects than this, bytes, are not spooled: to fetch one again costs less than to
    /// keep a copy of each.
    pub spool_min: u64,
    /// Bytes of its file system that a spool leaves free.
    pub spool_reserve: u64,
    /// Keys of one listing.
    pub list_keys_max: usize,
    /// Is told of retries and resumes.
    pub watch: Watch,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            endpoint: None,
            region: "us-east-1".to_owned(),
            addressing: Addressing::Auto,
            credentials: CredentialsFrom::Auto,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            rate_floor: 1024,
            tries_max: 8,
            patience: Duration::from_secs(120),
            deadline: None,
            jobs: None,
            redirect_hosts: Vec::new(),
            sources: Vec::new(),
            spool_min: 1 << 20,
            spool_reserve: 256 << 20,
            list_keys_max: 100_000,
            watch: Watch::default(),
        }
    }
}

impl Options {
    /// The defaults, overridden by the environment: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_CA_BUNDLE`, and `VENEER_FETCH_*` for the limits.
    ///
    /// # Errors
    /// [`Error::Setting`] names a variable that cannot be read.
    pub fn from_env() -> Result<Options, Error> {
        Options::from_lookup(&|name| std::env::var(name).ok())
    }

    /// As [`Options::from_env`], with another environment. An empty variable counts as unset.
    ///
    /// # Errors
    /// As there.
    pub fn from_lookup(look: &dyn Fn(&str) -> Option<String>) -> Result<Options, Error> {
        let get = |name: &str| look(name).filter(|value| !value.is_empty());
        let mut options = Options {
            endpoint: get("AWS_ENDPOINT_URL_S3").or_else(|| get("AWS_ENDPOINT_URL")),
            ca_file: get("AWS_CA_BUNDLE").map(PathBuf::from),
            ..Options::default()
        };
        if let Some(region) = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")) {
            options.region = region;
        }
        if let Some(text) = get("VENEER_FETCH_ADDRESSING") {
            options.addressing = text.parse()?;
        }
        let seconds = |name, place: &mut Duration| -> Result<(), Error> {
            if let Some(text) = get(name) {
                *place = parse_seconds(name, &text)?;
            }
            Ok(())
        };
        seconds("VENEER_FETCH_CONNECT_TIMEOUT", &mut options.connect_timeout)?;
        seconds("VENEER_FETCH_FIRST_BYTE_TIMEOUT", &mut options.first_byte_timeout)?;
        seconds("VENEER_FETCH_STALL_TIMEOUT", &mut options.stall_timeout)?;
        seconds("VENEER_FETCH_PATIENCE", &mut options.patience)?;
        if let Some(text) = get("VENEER_FETCH_DEADLINE") {
            options.deadline = Some(parse_seconds("VENEER_FETCH_DEADLINE", &text)?);
        }
        if let Some(text) = get("VENEER_FETCH_RATE_FLOOR") {
            options.rate_floor = parse_number("VENEER_FETCH_RATE_FLOOR", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_TRIES") {
            options.tries_max = parse_number("VENEER_FETCH_TRIES", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_JOBS") {
            options.jobs = Some(parse_number("VENEER_FETCH_JOBS", &text)?);
        }
        let list = |name| -> Vec<String> {
            let text = get(name).unwrap_or_default();
            text.split([',', ' ']).filter(|t| !t.is_empty()).map(str::to_owned).collect()
        };
        options.redirect_hosts = list("VENEER_FETCH_REDIRECT_TO");
        options.sources = list("VENEER_FETCH_SOURCES");
        if let Some(text) = get("VENEER_FETCH_SPOOL_MIN") {
            options.spool_min = parse_bytes("VENEER_FETCH_SPOOL_MIN", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_SPOOL_RESERVE") {
            options.spool_reserve = parse_bytes("VENEER_FETCH_SPOOL_RESERVE", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_LIST_KEYS") {
            options.list_keys_max = parse_number("VENEER_FETCH_LIST_KEYS", &text)?;
        }
        Ok(options)
    }
}

impl FromStr for Addressing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Addressing, Error> {
        match text {
            "auto" => Ok(Addressing::Auto),
            "path" => Ok(Addressing::Path),
            "virtual-host" => Ok(Addressing::VirtualHost),
            _ => Err(Error::Setting {
                name: "addressing",
                value: text.to_owned(),
                why: "expected auto, path or virtual-host",
            }),
        }
    }
}

/// Seconds, with a fraction if need be; zero would mean "never wait" and is refused.
pub(crate) fn parse_seconds(name: &'static str, text: &str) -> Result<Duration, Error> {
    let bad = |why| Error::Setting { name, value: text.to_owned(), why };
    let seconds: f64 = text.parse().map_err(|_| bad("expected seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(bad("expected seconds, more than 0")),
    }
}

fn parse_bytes(name: &'static str, text: &str) -> Result<u64, Error> {
    let why = "expected a number of bytes";
    text.parse().map_err(|_| Error::Setting { name, value: text.to_owned(), why })
}

fn parse_number<T: FromStr + Default + PartialEq>(
    name: &'static str,
    text: &str,
) -> Result<T, Error> {
    let why = "expected a whole number, more than 0";
    let bad = || Error::Setting { name, value: text.to_owned(), why };
    text.parse().ok().filter(|n| *n != T::default()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> Result<Options, Error> {
        Options::from_lookup(&|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_environment_overrides_the_defaults() {
        let options = env(&[
            ("AWS_ENDPOINT_URL", "http://a"),
            ("AWS_ENDPOINT_URL_S3", "http://b"),
            ("AWS_REGION", ""),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("VENEER_FETCH_STALL_TIMEOUT", "0.5"),
            ("VENEER_FETCH_TRIES", "3"),
        ])
        .unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("http://b"));
        assert_eq!(options.region, "eu-west-1");
        assert_eq!(options.stall_timeout, Duration::from_millis(500));
        assert_eq!(options.tries_max, 3);
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["0", "-1", "x", "nan", "1e400"] {
            assert!(parse_seconds("X", text).is_err(), "{text}");
        }
        let error = env(&[("VENEER_FETCH_TRIES", "0")]).unwrap_err();
        assert!(error.to_string().contains("VENEER_FETCH_TRIES"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = CredentialsFrom::Static {
            access_key: "AKID".into(),
            secret_key: "hunter2".into(),
            session_token: Some("tok".into()),
        };
        let shown = format!("{:?}", Options { credentials: secret, ..Options::default() });
        assert!(!shown.contains("hunter2") && !shown.contains("tok") && !shown.contains("AKID"));
    }
}
