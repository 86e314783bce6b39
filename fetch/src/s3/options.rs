//! What a caller may set, with the defaults, and where the environment sets it.
//!
//! Nothing is opened or sent here; endpoint, region and files are checked by `Client::new`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Error;
use crate::error::cause::is_unreachable;
use crate::s3::endpoint::Addressing;
use crate::s3::fallback::Fallback;
use crate::s3::values::{parse_bytes, parse_number, parse_seconds, parse_switch};

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
        /// Patience that is left.
        left: Duration,
    },
    /// A broken stream goes on.
    Resume {
        /// Which object.
        subject: &'a str,
        /// At which byte.
        at: u64,
    },
    /// Nothing has come for so long, and it is waited for still; again after as long again.
    Waiting {
        /// Which object or listing.
        subject: &'a str,
        /// Since the last that came.
        waited: Duration,
    },
    /// No source of an object can be asked now, and it is waited for.
    Away {
        /// Which object.
        subject: &'a str,
        /// Why the last one cannot, where that is not known from before.
        error: Option<&'a Error>,
        /// Time until a source may be asked again; none where all have said no.
        again: Option<Duration>,
        /// Time until the origin is asked, where that may be.
        origin: Option<Duration>,
        /// Patience that is left.
        left: Duration,
    },
    /// No keys were found, and nothing that should have some: requests are not signed.
    Anonymous,
    /// A registry wants people to know something (`Warning: 299`); nothing is done by it. Each text is told once.
    Warning {
        /// The registry.
        server: &'a str,
        /// What it says, in quotes and escaped.
        text: &'a str,
    },
    /// A source did not give what was asked of it, and somebody else is asked.
    Left {
        /// Which source, why, and for how long it is not asked again.
        text: &'a str,
    },
    /// Something worth a line with `-v`.
    Note {
        /// The line.
        text: &'a str,
    },
}

impl Event<'_> {
    /// Whether somebody who did not ask for every detail wants to know: a server that is not there, at
    /// once, and every wait that can be felt.
    pub fn is_news(&self) -> bool {
        match self {
            Event::Waiting { .. }
            | Event::Away { .. }
            | Event::Anonymous
            | Event::Warning { .. } => true,
            Event::Retry { error, tries, wait, .. } => {
                *wait >= FELT || (*tries == 1 && is_unreachable(error))
            }
            Event::Resume { .. } | Event::Left { .. } | Event::Note { .. } => false,
        }
    }
}

/// A pause of so long makes people wonder.
const FELT: Duration = Duration::from_secs(2);

type Callback = dyn Fn(&Event<'_>) + Send + Sync;

/// Called for each [`Event`], from whichever thread it happens in.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Callback>>);

impl Watch {
    /// Calls `f` for each event.
    pub fn new(f: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Watch {
        Watch(Some(Arc::new(f)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
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

/// Whether nobody wants the answer any more: then nothing is tried again, and the sockets that wait for it
/// are closed.
#[derive(Clone, Default)]
pub struct Stop(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Stop {
    /// Asks `f` before each further try, and often while something is waited for.
    pub fn new(f: impl Fn() -> bool + Send + Sync + 'static) -> Stop {
        Stop(Some(Arc::new(f)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|f| f())
    }

    /// Whether there is anybody who could say so.
    pub(crate) fn may_come(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Stop(..)" } else { "Stop" })
    }
}

/// How to reach a server, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http[s]://host[:port]`; if none that of the AWS profile, else Amazon's endpoint of the region.
    pub endpoint: Option<String>,
    /// Region, part of the signature and of Amazon's host name; if none that of the AWS profile, else
    /// us-east-1.
    pub region: Option<String>,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
    /// Where the signing keys come from.
    pub credentials: CredentialsFrom,
    /// A command that prints keys, as `credential_process` of the AWS tools does; asked before all else that
    /// [`CredentialsFrom::Auto`] has.
    pub credential_process: Option<String>,
    /// The file with logins of registries, instead of those of podman and docker in their usual places.
    pub authfile: Option<PathBuf>,
    /// Programs `docker-credential-<name>` that may be run where a file of logins names them.
    pub credential_helpers: Vec<String>,
    /// Registries, and what they send on to, that are asked by plain http (`host` or `host:port`), besides this
    /// machine's own.
    pub registry_http: Vec<String>,
    /// Token servers (`host` or `host:port`) that registries may name, besides those of their own host and all that
    /// are reached by https by a name.
    pub registry_realms: Vec<String>,
    /// Whether to say that the one who asks pays, for a bucket that wants that.
    pub requester_pays: bool,
    /// The version that each object is asked for in; for a client of one object.
    pub version_id: Option<String>,
    /// PEM file of the authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Time for the name and the connection, TLS included.
    pub connect_timeout: Duration,
    /// Time from the request to the end of the answer's head.
    pub first_byte_timeout: Duration,
    /// Time for a whole answer that is not an object's content: a page of a listing, the head of an
    /// object, an error's document. However slowly it comes, it ends then.
    pub answer_timeout: Duration,
    /// Time for each piece of the body; also the window of the rate floor.
    pub stall_timeout: Duration,
    /// A stream slower than this many bytes per second over a stall window is broken off.
    pub rate_floor: u64,
    /// Tries without progress (64 KiB) before giving up, where there is such a bound.
    pub tries_max: Option<u32>,
    /// Time without progress before giving up: from when what failed was begun to the last try.
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
    /// When the origin is asked for what no source gives.
    pub source_fallback: Fallback,
    /// Smaller objects than this, bytes, are not spooled: to fetch one again costs less than to
    /// keep a copy of each.
    pub spool_min: u64,
    /// Bytes of its file system that a spool leaves free.
    pub spool_reserve: u64,
    /// Keys of one listing.
    pub list_keys_max: usize,
    /// Layers of one image.
    pub layers_max: usize,
    /// Is told of retries, resumes and waits.
    pub watch: Watch,
    /// Says when nobody wants the answer any more.
    pub stop: Stop,
    /// How long nothing has to come before `watch` is told that it is waited for, and again.
    pub tell_waiting: Duration,
    /// What is waited by.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            endpoint: None,
            region: None,
            addressing: Addressing::Auto,
            credentials: CredentialsFrom::Auto,
            credential_process: None,
            authfile: None,
            credential_helpers: Vec::new(),
            registry_http: Vec::new(),
            registry_realms: Vec::new(),
            requester_pays: false,
            version_id: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(20),
            rate_floor: 1024,
            tries_max: None,
            patience: Duration::from_secs(120),
            deadline: None,
            jobs: None,
            redirect_hosts: Vec::new(),
            sources: Vec::new(),
            source_fallback: Fallback::Now,
            spool_min: 1 << 20,
            spool_reserve: 256 << 20,
            list_keys_max: 100_000,
            layers_max: 1000,
            watch: Watch::default(),
            stop: Stop::default(),
            tell_waiting: Duration::from_secs(10),
            clock: Clock::default(),
        }
    }
}

impl Options {
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
        options.region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
        options.credential_process = get("VENEER_FETCH_CREDENTIAL_PROCESS");
        if let Some(text) = get("VENEER_FETCH_REQUESTER_PAYS") {
            options.requester_pays = parse_switch("VENEER_FETCH_REQUESTER_PAYS", &text)?;
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
        seconds("VENEER_FETCH_ANSWER_TIMEOUT", &mut options.answer_timeout)?;
        seconds("VENEER_FETCH_STALL_TIMEOUT", &mut options.stall_timeout)?;
        seconds("VENEER_FETCH_PATIENCE", &mut options.patience)?;
        if let Some(text) = get("VENEER_FETCH_DEADLINE") {
            options.deadline = Some(parse_seconds("VENEER_FETCH_DEADLINE", &text)?);
        }
        if let Some(text) = get("VENEER_FETCH_RATE_FLOOR") {
            options.rate_floor = parse_number("VENEER_FETCH_RATE_FLOOR", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_TRIES") {
            options.tries_max = Some(parse_number("VENEER_FETCH_TRIES", &text)?);
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
        options.authfile = get("VENEER_FETCH_AUTHFILE").map(PathBuf::from);
        options.credential_helpers = list("VENEER_FETCH_CREDENTIAL_HELPERS");
        options.registry_http = list("VENEER_FETCH_REGISTRY_HTTP");
        options.registry_realms = list("VENEER_FETCH_REGISTRY_REALMS");
        if let Some(text) = get("VENEER_FETCH_SOURCE_FALLBACK") {
            options.source_fallback = text.parse()?;
        }
        if let Some(text) = get("VENEER_FETCH_SPOOL_MIN") {
            options.spool_min = parse_bytes("VENEER_FETCH_SPOOL_MIN", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_SPOOL_RESERVE") {
            options.spool_reserve = parse_bytes("VENEER_FETCH_SPOOL_RESERVE", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_LIST_KEYS") {
            options.list_keys_max = parse_number("VENEER_FETCH_LIST_KEYS", &text)?;
        }
        if let Some(text) = get("VENEER_FETCH_LAYERS") {
            options.layers_max = parse_number("VENEER_FETCH_LAYERS", &text)?;
        }
        Ok(options)
    }
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
        assert_eq!(options.region.as_deref(), Some("eu-west-1"));
        assert_eq!(options.stall_timeout, Duration::from_millis(500));
        assert_eq!(options.tries_max, Some(3));
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
