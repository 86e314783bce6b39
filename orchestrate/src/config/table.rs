//! Every setting there is, as one table: flag, variable, key, default and meaning. What reads, shows
//! or checks settings goes by it; what a value does is told where it is used.

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from 0, or from 1.
    Number {
        /// The smallest.
        min: u64,
    },
    /// Seconds, with a fraction if need be, more than 0.
    Seconds,
    /// Yes or no.
    Switch,
    /// Texts; in a variable with commas or blanks between them.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the file, with the table's name: `fetch.tries`.
    pub key: &'static str,
    /// The option on the command line.
    pub flag: Option<&'static str>,
    /// The variables; the first that is set and not empty counts.
    pub env: &'static [&'static str],
    /// What it may be.
    pub kind: Kind,
    /// As a variable would have it; empty: none, or what the text says.
    pub default: &'static str,
    /// What it is, with its unit.
    pub doc: &'static str,
}

const fn set(
    key: &'static str,
    flag: &'static str,
    env: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    let flag = if flag.is_empty() { None } else { Some(flag) };
    Setting { key, flag, env, kind, default, doc }
}

const SOME: Kind = Kind::Number { min: 1 };
const ANY: Kind = Kind::Number { min: 0 };

/// The settings, those of one table of the file together.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    set("state", "--state", &["VENEER_STATE"], Kind::Text, "/var/lib/veneer",
        "the state directory: registry, locks, spools"),
    // VENEER_POOL, which `thin` has too, names the pool alone.
    set("store", "--store", &["VENEER_STORE", "VENEER_POOL"], Kind::Text, "thin:veneer",
        "where volumes live: thin:POOL, or dir:PATH"),
    // One ext4 flex group of 2 KiB blocks; little of it is ever written: see docs/space.md.
    set("volume_bytes", "--volume-bytes", &["VENEER_VOLUME_BYTES"], SOME, "4294967296",
        "size of a new volume, bytes; layers grow beyond it where they must"),
    set("bytes_max", "--bytes-max", &["VENEER_BYTES_MAX"], SOME, "",
        "plain bytes of one layer; none: the limit of unpack"),
    set("wait", "--wait", &["VENEER_WAIT"], ANY, "3600",
        "seconds to wait for another process"),
    set("spool_age", "--spool-age", &["VENEER_SPOOL_AGE"], ANY, "86400",
        "seconds for which what a killed run had fetched is kept"),
    set("etag_dedup", "", &["VENEER_ETAG_DEDUP"], Kind::Switch, "yes",
        "whether an ETag seen before stands for the bytes seen before; --no-etag-dedup says no"),
    set("log", "--log", &["VENEER_LOG"], Kind::Word(&["text", "logfmt", "json"]), "",
        "what stderr is: text for people, logfmt or json for programs; none: text, and logfmt of a daemon"),
    set("endpoint", "--endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], Kind::Text, "",
        "the S3 server; none: Amazon's of the region"),
    set("region", "--region", &["AWS_REGION", "AWS_DEFAULT_REGION"], Kind::Text, "us-east-1",
        "the region"),
    set("anonymous", "--anonymous", &["VENEER_ANONYMOUS"], Kind::Switch, "no",
        "send no credentials"),
    set("fetch.addressing", "", &["VENEER_FETCH_ADDRESSING"], Kind::Word(&["auto", "path", "virtual-host"]), "auto",
        "where the bucket's name goes"),
    set("fetch.ca_file", "", &["AWS_CA_BUNDLE"], Kind::Text, "",
        "PEM file of the authorities to trust; none: the system's"),
    set("fetch.connect_timeout", "", &["VENEER_FETCH_CONNECT_TIMEOUT"], Kind::Seconds, "10",
        "seconds for name and connection, TLS included"),
    set("fetch.first_byte_timeout", "", &["VENEER_FETCH_FIRST_BYTE_TIMEOUT"], Kind::Seconds, "30",
        "seconds from the request to the end of the answer's head"),
    set("fetch.stall_timeout", "", &["VENEER_FETCH_STALL_TIMEOUT"], Kind::Seconds, "20",
        "seconds for each piece of a body"),
    set("fetch.rate_floor", "", &["VENEER_FETCH_RATE_FLOOR"], SOME, "1024",
        "bytes a second below which a stream is broken off"),
    set("fetch.tries", "", &["VENEER_FETCH_TRIES"], SOME, "8",
        "tries without progress before giving up"),
    set("fetch.patience", "", &["VENEER_FETCH_PATIENCE"], Kind::Seconds, "120",
        "seconds without progress before giving up"),
    set("fetch.deadline", "", &["VENEER_FETCH_DEADLINE"], Kind::Seconds, "",
        "seconds for one object as a whole; none: no bound"),
    set("fetch.jobs", "", &["VENEER_FETCH_JOBS"], SOME, "2",
        "ranges in flight of one object, at most 16"),
    set("fetch.redirect_to", "", &["VENEER_FETCH_REDIRECT_TO"], Kind::List, "",
        "hosts that a redirect may lead to, besides the same one"),
    set("fetch.sources", "", &["VENEER_FETCH_SOURCES"], Kind::List, "",
        "caches and peers asked before the endpoint, for what is known by digest"),
    set("fetch.spool_min", "", &["VENEER_FETCH_SPOOL_MIN"], ANY, "1048576",
        "bytes below which an object is not spooled"),
    set("fetch.spool_reserve", "", &["VENEER_FETCH_SPOOL_RESERVE"], ANY, "268435456",
        "bytes of its file system that a spool leaves free"),
    set("fetch.list_keys", "", &["VENEER_FETCH_LIST_KEYS"], SOME, "100000",
        "keys of one listing"),
    set("serve.socket", "--socket", &["VENEER_SOCKET"], Kind::Text, "",
        "the daemon's unix socket; none: serve.sock in the state directory"),
    set("serve.allow", "", &["VENEER_SERVE_ALLOW"], Kind::List, "",
        "who may use the socket besides root: user:NAME, group:NAME"),
    set("serve.listen", "", &["VENEER_SERVE_LISTEN"], Kind::Text, "",
        "address and port for TCP, too"),
    set("serve.token_file", "", &["VENEER_SERVE_TOKEN_FILE"], Kind::Text, "",
        "file with the token that clients over TCP have to know"),
    set("serve.concurrency", "", &["VENEER_SERVE_CONCURRENCY"], SOME, "2",
        "runs at once that fetch and unpack"),
    set("serve.device_concurrency", "", &["VENEER_SERVE_DEVICE_CONCURRENCY"], SOME, "1",
        "runs at once that deactivate, remove or collect"),
    set("serve.backlog", "", &["VENEER_SERVE_BACKLOG"], SOME, "4096",
        "runs that may wait for their turn"),
    set("serve.connections", "", &["VENEER_SERVE_CONNECTIONS"], SOME, "64",
        "connections at once, of each socket"),
    set("serve.waits", "", &["VENEER_SERVE_WAITS"], ANY, "32",
        "questions at once that wait for an answer"),
    set("serve.webhook", "", &["VENEER_SERVE_WEBHOOK"], Kind::Text, "",
        "who hears of the end of every run that names nobody"),
    set("serve.webhook_secret_file", "", &["VENEER_SERVE_WEBHOOK_SECRET_FILE"], Kind::Text, "",
        "file with the key of the seal on what a webhook is told"),
    set("serve.webhook_loopback", "", &["VENEER_SERVE_WEBHOOK_LOOPBACK"], Kind::Switch, "no",
        "whether a webhook may lead to this very host"),
    set("catalog.url", "", &["VENEER_CATALOG_URL"], Kind::Text, "",
        "the signed catalog, s3://bucket/key; its signature is beside it as key.minisig"),
    set("catalog.keys", "", &["VENEER_CATALOG_KEYS"], Kind::List, "",
        "minisign's public keys, as lines or absolute paths; with them nothing unlisted is made or activated"),
    set("scan.policy", "", &["VENEER_SCAN_POLICY"], Kind::Word(&["off", "report", "required"]), "off",
        "what becomes of an image that was not scanned or not well: off, report, required (is not activated)"),
    set("scan.command", "", &["VENEER_SCAN_COMMAND"], Kind::List, "",
        "the scanner and its words; {} is the tree; prints Trivy's JSON or SARIF 2.1.0"),
    set("scan.block", "", &["VENEER_SCAN_BLOCK"], Kind::List, "critical",
        "severities that are not let through: critical, high, medium, low, unknown"),
    set("scan.timeout", "", &["VENEER_SCAN_TIMEOUT"], SOME, "600", "seconds that a scan may take"),
    set("scan.output_max", "", &["VENEER_SCAN_OUTPUT_MAX"], SOME, "67108864", "bytes that a scanner may print"),
    set("scan.memory_max", "", &["VENEER_SCAN_MEMORY_MAX"], SOME, "8589934592", "bytes that a scanner may map"),
];

/// The setting of this key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The key that was most likely meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    SETTINGS
        .iter()
        .map(|setting| {
            (
                distance(setting.key, key).min(distance(&last(setting.key), &last(key)) + 1),
                setting.key,
            )
        })
        .filter(|(far, _)| *far <= 3 && *far < last(key).len())
        .min_by_key(|(far, _)| *far)
        .map(|(_, key)| key)
}

/// How many letters have to be put in, left out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_flags_and_variables_are_each_one_settings_own() {
        let mut seen = std::collections::HashSet::new();
        for setting in SETTINGS {
            for name in [setting.key].iter().chain(&setting.flag).chain(setting.env) {
                assert!(seen.insert(*name), "{name} twice");
            }
            assert!(!setting.env.is_empty(), "{} has no variable", setting.key);
            assert!(!setting.doc.is_empty(), "{} says nothing", setting.key);
        }
    }

    #[test]
    fn the_key_that_was_meant_is_found() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("sotre"), Some("store"));
        assert_eq!(nearest("fetch.trys"), Some("fetch.tries"));
        assert_eq!(nearest("patience"), Some("fetch.patience"));
        assert_eq!(nearest("volume-bytes"), Some("volume_bytes"));
        assert_eq!(nearest("something.else.entirely"), None);
    }
}
