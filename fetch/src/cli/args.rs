//! The flags of `fetch`, and what they mean to the library.

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;
use fetch::{CredentialsFrom, Expect, Options, Watch};

use crate::cli::{output, tell};

/// Exit codes of failures: the same command fails again, or may end well later.
pub(crate) const NEVER: u8 = 100;
pub(crate) const LATER: u8 = 111;

/// Bytes, with K, M, G or T for powers of 1024 if need be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let rule = || {
            format!(
                "{:?}: expected bytes: a whole number, with K, M, G or T if need be, below 16 EiB",
                text.chars().take(WORD_MAX).collect::<String>()
            )
        };
        fetch::parse_bytes(text).map(Bytes).ok_or_else(rule)
    }
}

/// Fetch an S3 object or a blob of a registry, verified, to stdout or a file; or list the layers of an image.
#[derive(FromArgs)]
#[argh(
    name = "fetch",
    note = "Bytes go to stdout as they come: they are worth nothing unless the exit code is 0.
Flags beat environment, and that ~/.aws; both are read as boto3 reads them: AWS_ENDPOINT_URL[_S3], AWS_REGION,
AWS_DEFAULT_REGION, AWS_CA_BUNDLE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE,
AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT,
AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN,
VENEER_FETCH_{{CREDENTIAL_PROCESS,REQUESTER_PAYS,ADDRESSING,CONNECT_TIMEOUT,FIRST_BYTE_TIMEOUT,ANSWER_TIMEOUT,STALL_TIMEOUT,PATIENCE,DEADLINE,
RATE_FLOOR,TRIES,JOBS,SPOOL_MIN,SPOOL_RESERVE,LIST_KEYS,LAYERS,REDIRECT_TO,SOURCES,SOURCE_FALLBACK,AUTHFILE,
CREDENTIAL_HELPERS,REGISTRY_HTTP,REGISTRY_REALMS}}; HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY.
Logins of registries: REGISTRY_AUTH_FILE, or XDG_RUNTIME_DIR/containers/auth.json, XDG_CONFIG_HOME/containers/auth.json,
DOCKER_CONFIG/config.json.",
    example = "{command_name} --list s3://bucket/images/golang/",
    example = "{command_name} s3://bucket/images/golang/1.tar -o 1.tar",
    example = "{command_name} --list docker://docker.io/library/debian:13",
    error_code(0, "done"),
    error_code(
        100,
        "do not retry: wrong usage, not found, denied, refused answer, digest mismatch"
    ),
    error_code(111, "try again later: network, timeout, busy server, changed object, local I/O")
)]
pub(crate) struct Args {
    /// the object, s3://bucket/key, or the blob, docker://host/name@sha256:hex; with --list the image,
    /// s3://bucket/prefix/ or docker://host/name:tag
    #[argh(positional)]
    pub(crate) reference: Option<String>,
    /// write to this file, completely or not at all, instead of stdout (-); an existing device or pipe
    /// gets the bytes as they arrive
    #[argh(option, short = 'o', arg_name = "file")]
    pub(crate) output: Option<PathBuf>,
    /// keep what has arrived in this directory until the object is complete; a second try resumes there
    #[argh(option, arg_name = "dir")]
    pub(crate) spool: Option<PathBuf>,
    /// do not spool smaller objects (1M; every size is bytes, and takes K, M, G or T)
    #[argh(option, arg_name = "bytes")]
    pub(crate) spool_min: Option<Bytes>,
    /// bytes of the disk to leave free when spooling (256M)
    #[argh(option, arg_name = "bytes")]
    pub(crate) spool_reserve: Option<Bytes>,
    /// ranges in flight, 1 to 16 (1 below 16 MiB, else 4)
    #[argh(option)]
    pub(crate) jobs: Option<usize>,
    /// list the layers of an image, base first
    #[argh(switch)]
    pub(crate) list: bool,
    /// with --list: every key under the prefix, in the server's order
    #[argh(switch)]
    pub(crate) all: bool,
    /// listing or summary as JSON, one object per line
    #[argh(switch)]
    pub(crate) json: bool,
    /// required digest, sha256:<hex>
    #[argh(option, arg_name = "sha256:hex")]
    pub(crate) digest: Option<String>,
    /// required entity tag
    #[argh(option)]
    pub(crate) etag: Option<String>,
    /// required size, such as 20M
    #[argh(option, arg_name = "bytes")]
    pub(crate) size: Option<Bytes>,
    /// reject larger objects than this, such as 20G
    #[argh(option, arg_name = "bytes")]
    pub(crate) size_max: Option<Bytes>,
    /// server, http[s]://host[:port]
    #[argh(option, arg_name = "url")]
    pub(crate) endpoint: Option<String>,
    /// region (us-east-1)
    #[argh(option)]
    pub(crate) region: Option<String>,
    /// how the bucket is addressed: auto, path or virtual-host
    #[argh(option)]
    pub(crate) addressing: Option<String>,
    /// a cache or mirror of the same objects, asked first; several are asked in order; needs --digest;
    /// the object is verified in a file, in --spool or TMPDIR, before it goes to stdout
    #[argh(option, arg_name = "url")]
    pub(crate) source: Vec<String>,
    /// when to ask the server itself for an object that no source has: now, never, or after this many seconds
    /// and at most twice that (now)
    #[argh(option, arg_name = "when")]
    pub(crate) source_fallback: Option<String>,
    /// host[:port] that a redirect may lead to
    #[argh(option, arg_name = "host")]
    pub(crate) redirect_to: Vec<String>,
    /// the version of the object, as the server names it
    #[argh(option, arg_name = "id")]
    pub(crate) version_id: Option<String>,
    /// accept the cost of reading from a requester-pays bucket
    #[argh(switch)]
    pub(crate) requester_pays: bool,
    /// do not sign requests; read no file with logins of registries
    #[argh(switch)]
    pub(crate) anonymous: bool,
    /// profile of the shared credentials files
    #[argh(option)]
    pub(crate) profile: Option<String>,
    /// file with logins of registries, instead of podman's and docker's in their usual places
    #[argh(option, arg_name = "file")]
    pub(crate) authfile: Option<PathBuf>,
    /// run docker-credential-<name> where a file with logins names it; repeatable
    #[argh(option, arg_name = "name")]
    pub(crate) credential_helper: Vec<String>,
    /// host[:port] of a registry, its token server or its store that is asked by plain http; repeatable;
    /// localhost always is
    #[argh(option, arg_name = "host")]
    pub(crate) registry_http: Vec<String>,
    /// host[:port] of a token server that a registry may name though it is on this machine, in a private network
    /// or not reached by https; repeatable
    #[argh(option, arg_name = "host")]
    pub(crate) registry_realm: Vec<String>,
    /// PEM file of certificate authorities to trust instead of the system's
    #[argh(option, arg_name = "file")]
    pub(crate) ca_file: Option<PathBuf>,
    /// time for name resolution and connection, seconds (10)
    #[argh(option, arg_name = "s")]
    pub(crate) connect_timeout: Option<f64>,
    /// time to the head of a response, seconds (30)
    #[argh(option, arg_name = "s")]
    pub(crate) first_byte_timeout: Option<f64>,
    /// time for a whole response other than an object's content, seconds (60)
    #[argh(option, arg_name = "s")]
    pub(crate) answer_timeout: Option<f64>,
    /// time for each piece of the body, and window of the rate floor, seconds (20)
    #[argh(option, arg_name = "s")]
    pub(crate) stall_timeout: Option<f64>,
    /// slowest acceptable stream, bytes per second (1K)
    #[argh(option, arg_name = "bytes")]
    pub(crate) rate_floor: Option<Bytes>,
    /// most tries without progress (limited only by patience)
    #[argh(option)]
    pub(crate) tries: Option<u32>,
    /// time without progress (64 KiB) until it gives up, seconds (120)
    #[argh(option, arg_name = "s")]
    pub(crate) patience: Option<f64>,
    /// time for the whole object, seconds (none)
    #[argh(option, arg_name = "s")]
    pub(crate) deadline: Option<f64>,
    /// most keys in a listing (100000)
    #[argh(option)]
    pub(crate) list_keys: Option<usize>,
    /// most layers of an image (1000)
    #[argh(option)]
    pub(crate) layers: Option<usize>,
    /// print no progress and no summary
    #[argh(switch, short = 'q')]
    pub(crate) quiet: bool,
    /// report every retry
    #[argh(switch, short = 'v')]
    pub(crate) verbose: bool,
    /// print the version
    #[argh(switch)]
    pub(crate) version: bool,
}

/// Characters of a word from outside that are shown.
const WORD_MAX: usize = 200;

/// argh's own way out exits 1 on bad usage, which here would mean "no".
pub(crate) fn parse() -> Result<Args, ExitCode> {
    let mut words = Vec::new();
    for word in env::args_os().skip(1) {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                output::complain(&format!("fetch: fatal: argument {word:?} is not UTF-8"));
                return Err(ExitCode::from(NEVER));
            }
        }
    }
    let words = words.iter().map(|word| if word == "-h" { "--help" } else { word.as_str() });
    let words: Vec<&str> = words.collect();
    Args::from_args(&["fetch"], &words).map_err(|early| match early.status {
        Ok(()) => match io::stdout().write_all(early.output.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(LATER),
        },
        Err(()) => {
            // argh quotes whole what it was given.
            let cut = |word: &str| word.chars().take(WORD_MAX).collect::<String>();
            let wrong = early.output.trim_end().split(' ').map(cut).collect::<Vec<_>>().join(" ");
            output::complain(&format!("fetch: fatal: {wrong}; see fetch --help"));
            ExitCode::from(NEVER)
        }
    })
}

/// An option that would do nothing is a mistake that somebody should hear of.
pub(crate) fn refuse_idle(args: &Args) -> anyhow::Result<()> {
    let given = [
        ("--output", args.output.is_some()),
        ("--spool", args.spool.is_some()),
        ("--digest", args.digest.is_some()),
        ("--etag", args.etag.is_some()),
        ("--version-id", args.version_id.is_some()),
        ("--size", args.size.is_some()),
    ];
    match (args.list, given.into_iter().find(|(_, given)| *given)) {
        (true, Some((name, _))) => Err(usage(name, "", "is for an object, not for --list")),
        (false, _) if args.all => Err(usage("--all", "", "goes with --list")),
        (true | false, _) => Ok(()),
    }
}

/// What says something of buckets says nothing of registries.
pub(crate) fn refuse_of_buckets(args: &Args) -> anyhow::Result<()> {
    let given = [
        ("--all", args.all),
        ("--endpoint", args.endpoint.is_some()),
        ("--region", args.region.is_some()),
        ("--addressing", args.addressing.is_some()),
        ("--etag", args.etag.is_some()),
        ("--version-id", args.version_id.is_some()),
        ("--requester-pays", args.requester_pays),
        ("--profile", args.profile.is_some()),
        ("--redirect-to", !args.redirect_to.is_empty()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(usage(name, "", "is for S3, not for a registry")),
        None => Ok(()),
    }
}

pub(crate) fn usage(name: &'static str, value: &str, why: &'static str) -> anyhow::Error {
    fetch::Error::Setting { name, value: value.to_owned(), why }.into()
}

pub(crate) fn expect(args: &Args) -> anyhow::Result<Expect> {
    let sha256 = match &args.digest {
        None => None,
        Some(text) => match fetch::parse_digest(text) {
            Some(digest) => Some(digest),
            None => {
                return Err(usage("--digest", text, "expected sha256:<64 hex digits, lower case>"));
            }
        },
    };
    let etag = match args.etag.as_deref() {
        Some(text) if text.chars().any(|c| c == ' ' || c.is_control()) || text.is_empty() => {
            return Err(usage("--etag", text, "an entity tag has no blanks"));
        }
        // Many tools show them bare.
        Some(text) if !text.starts_with('"') && !text.starts_with("W/") => {
            Some(format!("\"{text}\""))
        }
        etag => etag.map(str::to_owned),
    };
    Ok(Expect {
        sha256,
        size: args.size.map(|bytes| bytes.0),
        etag,
        size_max: args.size_max.map(|bytes| bytes.0),
    })
}

pub(crate) fn options(args: &Args) -> anyhow::Result<Options> {
    if let (true, Some(name)) = (args.anonymous, &args.profile) {
        return Err(usage("--profile", name, "cannot go with --anonymous"));
    }
    let mut options = Options::from_env(args.profile.as_deref())?;
    if args.endpoint.is_some() {
        options.endpoint.clone_from(&args.endpoint);
    }
    if args.region.is_some() {
        options.region.clone_from(&args.region);
    }
    if let Some(text) = &args.addressing {
        options.addressing = text.parse()?;
    }
    if args.ca_file.is_some() {
        options.ca_file.clone_from(&args.ca_file);
    }
    options.credentials = match (args.anonymous, &args.profile) {
        (true, _) => CredentialsFrom::Anonymous,
        (false, Some(name)) => CredentialsFrom::Profile(name.clone()),
        (false, None) => CredentialsFrom::Auto,
    };
    for (name, given, place) in [
        ("--connect-timeout", args.connect_timeout, &mut options.connect_timeout),
        ("--first-byte-timeout", args.first_byte_timeout, &mut options.first_byte_timeout),
        ("--answer-timeout", args.answer_timeout, &mut options.answer_timeout),
        ("--stall-timeout", args.stall_timeout, &mut options.stall_timeout),
        ("--patience", args.patience, &mut options.patience),
    ] {
        if let Some(given) = given {
            *place = seconds(name, given)?;
        }
    }
    if let Some(given) = args.deadline {
        options.deadline = Some(seconds("--deadline", given)?);
    }
    for (name, given) in [
        ("--rate-floor", args.rate_floor.map(|bytes| bytes.0)),
        ("--tries", args.tries.map(u64::from)),
        ("--list-keys", args.list_keys.map(|keys| keys as u64)),
        ("--layers", args.layers.map(|layers| layers as u64)),
    ] {
        if given == Some(0) {
            return Err(usage(name, "0", "expected a whole number, more than 0"));
        }
    }
    options.rate_floor = args.rate_floor.map_or(options.rate_floor, |bytes| bytes.0);
    options.tries_max = args.tries.or(options.tries_max);
    if !args.source.is_empty() {
        options.sources.clone_from(&args.source);
    }
    if let Some(text) = &args.source_fallback {
        options.source_fallback = text.parse()?;
    }
    if args.authfile.is_some() {
        options.authfile.clone_from(&args.authfile);
    }
    options.credential_helpers.extend(args.credential_helper.iter().cloned());
    options.registry_http.extend(args.registry_http.iter().cloned());
    options.registry_realms.extend(args.registry_realm.iter().cloned());
    options.redirect_hosts.extend(args.redirect_to.iter().cloned());
    if args.jobs.is_some() {
        options.jobs = args.jobs;
    }
    if let Some(jobs) = options.jobs
        && !(1..=16).contains(&jobs)
    {
        return Err(usage("--jobs", &jobs.to_string(), "expected 1 to 16"));
    }
    options.requester_pays |= args.requester_pays;
    if let Some(id) = &args.version_id {
        if id.is_empty() || id.chars().any(|c| c.is_control() || c == ' ') {
            return Err(usage("--version-id", id, "a version's name has no blanks"));
        }
        options.version_id = Some(id.clone());
    }
    options.spool_min = args.spool_min.map_or(options.spool_min, |bytes| bytes.0);
    options.spool_reserve = args.spool_reserve.map_or(options.spool_reserve, |bytes| bytes.0);
    options.list_keys_max = args.list_keys.unwrap_or(options.list_keys_max);
    options.layers_max = args.layers.unwrap_or(options.layers_max);
    if args.verbose {
        options.watch = Watch::new(tell::all);
    } else if !args.quiet {
        options.watch = Watch::new(tell::waits);
    }
    Ok(options)
}

fn seconds(name: &'static str, given: f64) -> anyhow::Result<Duration> {
    match Duration::try_from_secs_f64(given) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(usage(name, &given.to_string(), "expected seconds, more than 0")),
    }
}
