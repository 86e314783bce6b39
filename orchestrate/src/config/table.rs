//! Every setting there is, as one table: flag, variable, key, default and meaning. What reads, shows
//! or checks settings goes by it; what a value does is told where it is used.

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number between these, both included.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// Bytes, at least so many and at most [`BYTES_MAX`]; with K, M, G or T for powers of 1024 if need be.
    Bytes {
        /// The smallest.
        min: u64,
    },
    /// Seconds, with a fraction if need be, more than 0 and at most [`SECONDS_MAX`].
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

/// Bytes of anything: beyond an exbibyte no file system goes.
pub const BYTES_MAX: u64 = 1 << 60;

/// Seconds of a wait: a year.
pub const SECONDS_MAX: u64 = 31_536_000;

/// Rows of history of one kind.
const ROWS_MAX: u64 = 100_000_000;

/// Days of history: a hundred years.
const DAYS_MAX: u64 = 36_500;

/// Percent of the pool that may be promised: ten thousand times its size.
const PERCENT_MAX: u64 = 1_000_000;

/// Percent of the pool that is in use.
const PERCENT: Kind = from(1, 100);

/// Threads of one kind, each with a host or a connection of its own.
const HANDS_MAX: u64 = 256;
const CONNECTIONS_MAX: u64 = 4096;

/// Runs that wait; each is kept in memory, too.
const BACKLOG_MAX: u64 = 1_000_000;

const fn bytes(min: u64) -> Kind {
    Kind::Bytes { min }
}

const fn from(min: u64, max: u64) -> Kind {
    Kind::Number { min, max }
}

/// The settings, those of one table of the file together.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    set("state", "--state", &["VENEER_STATE"], Kind::Text, "/var/lib/veneer",
        "the state directory: registry, locks, spools"),
    // VENEER_POOL, which `thin` has too, names the pool alone.
    set("store", "--store", &["VENEER_STORE", "VENEER_POOL"], Kind::Text, "thin:veneer",
        "where volumes live: thin:POOL, or dir:PATH on a host without device-mapper"),
    set("pool_dir", "", &["VENEER_POOL_DIR"], Kind::Text, "/var/lib/veneer/pool",
        "the directory of the pool's files, as given to `thin pool init`; for serve.grow_to"),
    set("volume_bytes", "--volume-bytes", &["VENEER_VOLUME_BYTES"], bytes(1), "4294967296",
        "size of a new activation, and of the template where there is none yet, such as 20G"),
    set("overcommit", "", &["VENEER_OVERCOMMIT"], from(1, PERCENT_MAX), "",
        "percent of the pool's size that the sizes of all activations may come to together; none: no bound"),
    set("bytes_max", "--bytes-max", &["VENEER_BYTES_MAX"], bytes(1), "",
        "bytes of one layer when uncompressed, such as 20G; none: the limit of unpack"),
    set("wait", "--wait", &["VENEER_WAIT"], from(0, SECONDS_MAX), "3600",
        "seconds to wait for another process"),
    set("spool_age", "--spool-age", &["VENEER_SPOOL_AGE"], from(0, SECONDS_MAX), "86400",
        "seconds for which partial downloads of killed runs are kept"),
    set("receive_keep_s", "", &["VENEER_RECEIVE_KEEP_S"], from(0, SECONDS_MAX), "86400",
        "seconds for which a disk that was received in part is kept"),
    set("platform", "", &["VENEER_PLATFORM"], Kind::Text, "",
        "the platform of images that are there for several, such as linux/arm64/v8; none: this host's"),
    set("etag_dedup", "--no-etag-dedup", &["VENEER_ETAG_DEDUP"], Kind::Switch, "yes",
        "whether an object with the ETag of a known object, proven to be an MD5, is taken for the same; the flag says no"),
    set("sandbox", "--sandbox", &["VENEER_SANDBOX"], Kind::Word(&["require", "on", "off"]), "require",
        "walls around code that reads layers and scans: require (all or nothing), on (those that are available; missing ones are reported), off"),
    set("log", "--log", &["VENEER_LOG"], Kind::Word(&["text", "logfmt", "json"]), "",
        "what stderr is: text for people, logfmt or json for programs; none: text, and logfmt of a daemon"),
    set("endpoint", "--endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], Kind::Text, "",
        "the S3 server; none: that of the AWS profile, else Amazon's of the region"),
    set("region", "--region", &["AWS_REGION", "AWS_DEFAULT_REGION"], Kind::Text, "",
        "the region; none: that of the AWS profile, else us-east-1"),
    set("anonymous", "--anonymous", &["VENEER_ANONYMOUS"], Kind::Switch, "no",
        "send unsigned requests, and read no file with logins of registries"),
    set("fetch.addressing", "", &["VENEER_FETCH_ADDRESSING"], Kind::Word(&["auto", "path", "virtual-host"]), "auto",
        "where the bucket's name goes"),
    set("fetch.credential_process", "", &["VENEER_FETCH_CREDENTIAL_PROCESS"], Kind::Text, "",
        "command that prints keys, as credential_process of the AWS tools does; none: that of the AWS profile"),
    set("fetch.requester_pays", "", &["VENEER_FETCH_REQUESTER_PAYS"], Kind::Switch, "no",
        "say that this host's account pays, for a bucket that wants that"),
    set("fetch.ca_file", "", &["AWS_CA_BUNDLE"], Kind::Text, "",
        "PEM file of the authorities to trust; none: that of the AWS profile, else the system's"),
    set("fetch.connect_timeout", "", &["VENEER_FETCH_CONNECT_TIMEOUT"], Kind::Seconds, "10",
        "seconds for name and connection, TLS included"),
    set("fetch.first_byte_timeout", "", &["VENEER_FETCH_FIRST_BYTE_TIMEOUT"], Kind::Seconds, "30",
        "seconds from the request to the end of the answer's head"),
    set("fetch.answer_timeout", "", &["VENEER_FETCH_ANSWER_TIMEOUT"], Kind::Seconds, "60",
        "seconds for a whole answer that is no object's content: a listing's page, an error"),
    set("fetch.stall_timeout", "", &["VENEER_FETCH_STALL_TIMEOUT"], Kind::Seconds, "20",
        "seconds for each piece of a body"),
    set("fetch.rate_floor", "", &["VENEER_FETCH_RATE_FLOOR"], bytes(1), "1024",
        "bytes per second below which a stream is dropped"),
    set("fetch.tries", "", &["VENEER_FETCH_TRIES"], from(1, 10_000), "",
        "most tries without progress; none: only patience ends them"),
    set("fetch.patience", "", &["VENEER_FETCH_PATIENCE"], Kind::Seconds, "120",
        "seconds without progress (64 KiB) before giving up"),
    set("fetch.deadline", "", &["VENEER_FETCH_DEADLINE"], Kind::Seconds, "",
        "seconds for one object as a whole; none: no bound"),
    set("fetch.jobs", "", &["VENEER_FETCH_JOBS"], from(1, 16), "2",
        "ranges in flight of one object, at most 16"),
    set("fetch.redirect_to", "", &["VENEER_FETCH_REDIRECT_TO"], Kind::List, "",
        "hosts that a redirect may lead to, besides the same one"),
    set("fetch.authfile", "--authfile", &["VENEER_FETCH_AUTHFILE"], Kind::Text, "",
        "the file with logins of registries; none: podman's and docker's in their usual places"),
    set("fetch.credential_helpers", "", &["VENEER_FETCH_CREDENTIAL_HELPERS"], Kind::List, "",
        "programs docker-credential-NAME that may be run where a file of logins names them"),
    set("fetch.registry_http", "", &["VENEER_FETCH_REGISTRY_HTTP"], Kind::List, "",
        "registries (host or host:port) that are asked by plain http, besides this machine's own"),
    set("fetch.registry_realms", "", &["VENEER_FETCH_REGISTRY_REALMS"], Kind::List, "",
        "token servers (host or host:port) that a registry may name, besides its own host and those reached by https"),
    set("fetch.sources", "", &["VENEER_FETCH_SOURCES"], Kind::List, "",
        "caches and peers that are asked before the endpoint, for objects whose digest is known"),
    set("fetch.source_fallback", "", &["VENEER_FETCH_SOURCE_FALLBACK"], Kind::Text, "now",
        "when the endpoint is asked for what no source gives: now, never, or after a number of seconds and at most twice that"),
    set("fetch.spool_min", "", &["VENEER_FETCH_SPOOL_MIN"], bytes(0), "1048576",
        "bytes below which an object is not spooled"),
    set("fetch.spool_reserve", "", &["VENEER_FETCH_SPOOL_RESERVE"], bytes(0), "268435456",
        "bytes of its file system that a spool leaves free"),
    set("fetch.list_keys", "", &["VENEER_FETCH_LIST_KEYS"], from(1, 10_000_000), "100000",
        "keys of one listing"),
    set("fetch.layers", "", &["VENEER_FETCH_LAYERS"], from(1, 100_000), "1000",
        "layers of one image"),
    set("sources.local_roots", "", &["VENEER_SOURCES_LOCAL_ROOTS"], Kind::List, "",
        "directories beneath which a daemon opens local images and files to be copied for its clients; none: nowhere"),
    set("unpack.blob_bytes_max", "", &["VENEER_UNPACK_BLOB_BYTES_MAX"], bytes(1), "",
        "bytes of one layer as it is read; none: that of unpack"),
    set("unpack.file_bytes_max", "", &["VENEER_UNPACK_FILE_BYTES_MAX"], bytes(1), "",
        "bytes of one file; none: that of unpack"),
    set("unpack.entries_max", "", &["VENEER_UNPACK_ENTRIES_MAX"], from(1, BYTES_MAX), "",
        "entries of one layer, and directories made for missing parents; none: that of unpack"),
    set("unpack.links_max", "", &["VENEER_UNPACK_LINKS_MAX"], from(0, BYTES_MAX), "",
        "hard links of one layer; none: that of unpack"),
    set("unpack.path_bytes_max", "", &["VENEER_UNPACK_PATH_BYTES_MAX"], bytes(1), "",
        "bytes of a path or link target, at most 4095; none: that of unpack"),
    set("unpack.depth_max", "", &["VENEER_UNPACK_DEPTH_MAX"], from(1, BYTES_MAX), "",
        "components of a path; none: that of unpack"),
    set("unpack.extension_bytes_max", "", &["VENEER_UNPACK_EXTENSION_BYTES_MAX"], bytes(1), "",
        "bytes of all extension headers of one entry; none: that of unpack"),
    set("unpack.extensions_max", "", &["VENEER_UNPACK_EXTENSIONS_MAX"], from(0, BYTES_MAX), "",
        "extension headers of one entry; none: that of unpack"),
    set("unpack.xattr_bytes_max", "", &["VENEER_UNPACK_XATTR_BYTES_MAX"], bytes(0), "",
        "bytes of one extended attribute; none: that of unpack"),
    set("unpack.xattrs_max", "", &["VENEER_UNPACK_XATTRS_MAX"], from(0, BYTES_MAX), "",
        "extended attributes of one entry; none: that of unpack"),
    set("unpack.xattrs_bytes_max", "", &["VENEER_UNPACK_XATTRS_BYTES_MAX"], bytes(0), "",
        "bytes of all extended attributes of one layer; none: that of unpack"),
    set("unpack.removals_max", "", &["VENEER_UNPACK_REMOVALS_MAX"], from(0, BYTES_MAX), "",
        "nodes that whiteouts may remove, each counted as often as it is deep; none: that of unpack"),
    set("unpack.walk_max", "", &["VENEER_UNPACK_WALK_MAX"], from(0, BYTES_MAX), "",
        "steps walked for an entry, on average; none: that of unpack"),
    set("unpack.spill_bytes_max", "", &["VENEER_UNPACK_SPILL_BYTES_MAX"], bytes(1), "",
        "bytes of temporary records; none: that of unpack"),
    set("unpack.ratio_max", "", &["VENEER_UNPACK_RATIO_MAX"], from(1, BYTES_MAX), "",
        "uncompressed bytes per compressed byte, from 256 MiB on; none: that of unpack"),
    set("unpack.zstd_window_log_max", "", &["VENEER_UNPACK_ZSTD_WINDOW_LOG_MAX"], from(1, BYTES_MAX), "",
        "base-2 logarithm of the largest zstd window, 10 to 31; none: that of unpack"),
    set("unpack.time_max", "", &["VENEER_UNPACK_TIME_MAX"], from(1, BYTES_MAX), "",
        "seconds for one layer; over it is tried again; none: that of unpack"),
    set("unpack.processor_max", "", &["VENEER_UNPACK_PROCESSOR_MAX"], from(1, BYTES_MAX), "",
        "seconds of the processor for one layer; none: that of unpack"),
    set("unpack.devices", "", &["VENEER_UNPACK_DEVICES"], Kind::Word(&["standard", "keep", "refuse"]), "",
        "device nodes of a layer; none: that of unpack"),
    set("unpack.spill_dir", "", &["VENEER_UNPACK_SPILL_DIR"], Kind::Text, "",
        "directory for temporary records; none: TMPDIR, /var/tmp or /tmp"),
    set("pool.warn_data", "", &["VENEER_POOL_WARN_DATA"], PERCENT, "80",
        "percent of the pool's data in use at which a daemon warns"),
    set("pool.grow_data", "", &["VENEER_POOL_GROW_DATA"], PERCENT, "85",
        "percent of the pool's data in use at which it grows, with serve.grow_to"),
    set("pool.refuse_data", "", &["VENEER_POOL_REFUSE_DATA"], PERCENT, "95",
        "percent of the pool's data in use at which no layer is begun any more"),
    set("pool.pause_data", "", &["VENEER_POOL_PAUSE_DATA"], PERCENT, "97",
        "percent of the pool's data in use at which layers that are being unpacked wait"),
    set("pool.warn_metadata", "", &["VENEER_POOL_WARN_METADATA"], PERCENT, "70",
        "percent of the pool's metadata in use at which a daemon warns"),
    set("pool.grow_metadata", "", &["VENEER_POOL_GROW_METADATA"], PERCENT, "75",
        "percent of the pool's metadata in use at which it grows, with serve.grow_to"),
    set("pool.refuse_metadata", "", &["VENEER_POOL_REFUSE_METADATA"], PERCENT, "90",
        "percent of the pool's metadata in use at which no layer is begun any more"),
    set("pool.pause_metadata", "", &["VENEER_POOL_PAUSE_METADATA"], PERCENT, "93",
        "percent of the pool's metadata in use at which layers that are being unpacked wait"),
    set("pool.pause_s", "", &["VENEER_POOL_PAUSE_S"], from(0, SECONDS_MAX), "600",
        "seconds that a layer waits so for room before it is given up for now"),
    set("pool.backup_every", "", &["VENEER_POOL_BACKUP_EVERY"], from(0, SECONDS_MAX), "3600",
        "seconds after which a daemon copies the pool's metadata again; 0: never"),
    set("pool.backup_keep", "", &["VENEER_POOL_BACKUP_KEEP"], from(1, 10_000), "6",
        "such copies that are kept"),
    set("serve.socket", "--socket", &["VENEER_SOCKET"], Kind::Text, "",
        "the daemon's unix socket; none: serve.sock in the state directory"),
    set("serve.allow", "--allow", &["VENEER_SERVE_ALLOW"], Kind::List, "",
        "users and groups besides root that may use the socket: user:NAME, group:NAME"),
    set("serve.listen", "--listen", &["VENEER_SERVE_LISTEN"], Kind::Text, "",
        "address and port to listen on by TCP in addition"),
    set("serve.token_file", "--token-file", &["VENEER_SERVE_TOKEN_FILE"], Kind::Text, "",
        "file with the token that TCP clients must send"),
    set("serve.read_token_file", "", &["VENEER_SERVE_READ_TOKEN_FILE"], Kind::Text, "",
        "file with a token for TCP clients that may only read"),
    set("serve.concurrency", "--concurrency", &["VENEER_SERVE_CONCURRENCY"], from(1, HANDS_MAX), "2",
        "runs that fetch and unpack at the same time"),
    set("serve.device_concurrency", "", &["VENEER_SERVE_DEVICE_CONCURRENCY"], from(1, HANDS_MAX), "1",
        "runs that deactivate, remove or collect garbage at the same time"),
    set("serve.backlog", "", &["VENEER_SERVE_BACKLOG"], from(1, BACKLOG_MAX), "4096",
        "queued runs"),
    set("serve.connections", "", &["VENEER_SERVE_CONNECTIONS"], from(1, CONNECTIONS_MAX), "64",
        "connections at once, of each socket"),
    set("serve.waits", "", &["VENEER_SERVE_WAITS"], from(0, CONNECTIONS_MAX), "32",
        "requests that may wait for a run at the same time"),
    set("serve.grow_to", "", &["VENEER_SERVE_GROW_TO"], bytes(0), "",
        "bytes up to which the pool's data grows by itself when it runs low; none, or 0: it does not"),
    set("serve.grow_by", "", &["VENEER_SERVE_GROW_BY"], bytes(1), "1073741824",
        "bytes that it grows by at a time"),
    set("serve.grow_metadata_to", "", &["VENEER_SERVE_GROW_METADATA_TO"], bytes(1), "",
        "bytes up to which its metadata grows then; none: what that much data needs"),
    set("serve.webhook", "", &["VENEER_SERVE_WEBHOOK"], Kind::Text, "",
        "default webhook, for runs that name none"),
    set("serve.webhook_time", "", &["VENEER_SERVE_WEBHOOK_TIME"], from(1, SECONDS_MAX), "86400",
        "seconds for which a failed webhook is retried"),
    set("serve.webhook_secret_file", "", &["VENEER_SERVE_WEBHOOK_SECRET_FILE"], Kind::Text, "",
        "file with the HMAC key for webhook requests"),
    set("serve.webhook_loopback", "", &["VENEER_SERVE_WEBHOOK_LOOPBACK"], Kind::Switch, "no",
        "whether a webhook may point to this host itself"),
    set("catalog.url", "", &["VENEER_CATALOG_URL"], Kind::Text, "",
        "the signed catalog, s3://bucket/key; its signature is beside it as key.minisig"),
    set("catalog.keys", "", &["VENEER_CATALOG_KEYS"], Kind::List, "",
        "minisign public keys, as lines or absolute paths; with them only listed images are built or activated"),
    set("catalog.serial_step", "", &["VENEER_CATALOG_SERIAL_STEP"], from(1, 1 << 62), "4294967296",
        "how far a catalog's serial may be above the last accepted one"),
    set("catalog.grace", "", &["VENEER_CATALOG_GRACE"], from(0, 1 << 40), "86400",
        "seconds after its expiry for which a catalog is still accepted for new images"),
    set("catalog.refresh", "", &["VENEER_CATALOG_REFRESH"], from(0, SECONDS_MAX), "600",
        "seconds after which a daemon asks for the catalog again; 0: only on request"),
    set("catalog.superseded", "", &["VENEER_CATALOG_SUPERSEDED"], Kind::Word(&["keep", "revoke"]), "keep",
        "what happens to activations whose image is now listed with other layers: keep, or revoke as if unlisted"),
    set("catalog.running", "", &["VENEER_CATALOG_RUNNING"], Kind::Word(&["keep", "deactivate"]), "keep",
        "what happens to active activations when their image is revoked: keep (reported), deactivate"),
    set("trust.cosign_keys", "", &["VENEER_TRUST_COSIGN_KEYS"], Kind::List, "",
        "files of public keys of cosign's (PEM, ECDSA P-256), as absolute paths; any one of them is enough"),
    set("trust.cosign_required", "", &["VENEER_TRUST_COSIGN_REQUIRED"], Kind::List, "",
        "images that such a key must have signed: beginnings of references, as docker://registry.example/team; * for all"),
    set("fleet.url", "", &["VENEER_FLEET_URL"], Kind::Text, "",
        "the signed document of this host's class, s3://bucket/key; its signature is beside it as key.minisig"),
    set("fleet.keys", "", &["VENEER_FLEET_KEYS"], Kind::List, "",
        "minisign public keys that sign the document, as lines or absolute paths"),
    set("fleet.name", "", &["VENEER_FLEET_NAME"], Kind::Text, "",
        "the name of the fleet; a document with another one is refused"),
    set("fleet.class", "", &["VENEER_FLEET_CLASS"], Kind::Text, "",
        "the class of this host; a document for another one is refused"),
    set("fleet.host_id", "", &["VENEER_FLEET_HOST_ID"], Kind::Text, "",
        "what a roll-out knows this host by, different on each; none: the host's name"),
    set("fleet.site", "", &["VENEER_FLEET_SITE"], Kind::Text, "",
        "the site of this host, for documents and roll-outs that go by sites"),
    set("fleet.labels", "", &["VENEER_FLEET_LABELS"], Kind::List, "",
        "what else a document may choose this host by: NAME=VALUE, such as disk=nvme"),
    set("fleet.poll", "", &["VENEER_FLEET_POLL"], from(1, 86_400), "30",
        "seconds after which a daemon asks for the document again"),
    set("fleet.hold", "", &["VENEER_FLEET_HOLD"], Kind::Switch, "no",
        "whether the document is only looked at and shown, and nothing is done by it"),
    set("history.runs", "", &["VENEER_HISTORY_RUNS"], from(1, ROWS_MAX), "10000",
        "finished runs that are kept; runs whose webhook is still pending are kept in addition"),
    set("history.runs_days", "", &["VENEER_HISTORY_RUNS_DAYS"], from(1, DAYS_MAX), "90",
        "days for which an ended run is kept"),
    set("history.events", "", &["VENEER_HISTORY_EVENTS"], from(1, ROWS_MAX), "100000",
        "lines of history that are kept"),
    set("history.events_days", "", &["VENEER_HISTORY_EVENTS_DAYS"], from(1, DAYS_MAX), "180",
        "days for which a line of history is kept"),
    set("history.verdicts", "", &["VENEER_HISTORY_VERDICTS"], from(1, ROWS_MAX), "10000",
        "scans of stacks that are no longer here, refused blobs, and doubts about ETags that are kept, of each"),
    set("history.verdicts_days", "", &["VENEER_HISTORY_VERDICTS_DAYS"], from(1, DAYS_MAX), "365",
        "days for which each of those is kept"),
    set("history.sources", "", &["VENEER_HISTORY_SOURCES"], from(1, ROWS_MAX), "10000",
        "objects that were read, and their blobs, that are kept in addition to what is here"),
    set("history.sources_days", "", &["VENEER_HISTORY_SOURCES_DAYS"], from(1, DAYS_MAX), "365",
        "days for which those are kept"),
    set("scan.policy", "", &["VENEER_SCAN_POLICY"], Kind::Word(&["off", "report", "required"]), "off",
        "what happens to an image without a passed scan: off, report, required (it is not activated)"),
    set("scan.command", "", &["VENEER_SCAN_COMMAND"], Kind::List, "",
        "the scanner and its words; {} is the tree; prints Trivy's JSON or SARIF 2.1.0"),
    set("scan.block", "", &["VENEER_SCAN_BLOCK"], Kind::List, "critical",
        "severities that are blocked: critical, high, medium, low, unknown"),
    set("scan.exit_codes", "", &["VENEER_SCAN_EXIT_CODES"], Kind::List, "0",
        "exit codes of a completed scan; with any other code the report does not count"),
    set("scan.about", "", &["VENEER_SCAN_ABOUT"], Kind::List, "",
        "a program and its words that print the scanner's version and database, kept with each verdict"),
    set("scan.network", "", &["VENEER_SCAN_NETWORK"], Kind::Switch, "yes",
        "whether a scanner has the host's network; no: it has none"),
    set("scan.cache", "", &["VENEER_SCAN_CACHE"], Kind::Text, "",
        "the one directory that a scanner may write to, its XDG_CACHE_HOME; none: scan-cache in the state directory"),
    set("scan.running", "", &["VENEER_SCAN_RUNNING"], Kind::Word(&["keep", "deactivate"]), "keep",
        "what happens to active activations when their stack is found to be blocked: keep (reported), deactivate"),
    set("scan.timeout", "", &["VENEER_SCAN_TIMEOUT"], from(1, SECONDS_MAX), "600", "seconds that a scan may take"),
    set("scan.output_max", "", &["VENEER_SCAN_OUTPUT_MAX"], bytes(1), "67108864", "bytes that a scanner may print"),
    set("scan.memory_max", "", &["VENEER_SCAN_MEMORY_MAX"], bytes(1), "8589934592", "bytes that a scanner may map"),
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
