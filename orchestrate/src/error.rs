//! What can go wrong with a run, and [`class`]: the one function that decides what may be retried.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::scan::Failure;

/// A failed run. The leaves' errors are kept whole.
#[derive(Debug)]
pub enum Error {
    /// From `fetch`.
    Fetch(fetch::Error),
    /// From `unpack`, while the named object was applied.
    Unpack {
        /// The object.
        layer: String,
        /// What unpack says.
        source: unpack::Error,
    },
    /// From `unpack`, outside the apply of a layer.
    Tree {
        /// What was being done.
        doing: &'static str,
        /// What unpack says.
        source: unpack::Error,
    },
    /// From `thin`.
    Thin(thin::Error),
    /// From `registry`.
    Registry(registry::Error),
    /// A system call of our own.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Words of the caller that mean nothing.
    Usage(String),
    /// A name that does not exist here.
    Unknown {
        /// `activation` or `image`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An image that was not to be fetched and is not on this host.
    NotHere {
        /// Its reference.
        image: String,
    },
    /// A name that is taken by something else.
    Taken {
        /// The name.
        name: String,
        /// By what.
        by: String,
    },
    /// Another process holds a lock for longer than we wait.
    Locked {
        /// What the lock is for.
        what: String,
        /// Who holds it, as far as it said.
        holder: String,
        /// How long we waited, seconds.
        waited_s: u64,
    },
    /// The store has not the room that the work needs.
    NoSpace {
        /// For what.
        what: String,
        /// Bytes needed.
        needs: u64,
        /// Bytes free.
        free: u64,
        /// Bytes that a collection would free, where that was looked at.
        garbage: Option<u64>,
    },
    /// These bytes were refused before, and are not unpacked again.
    Quarantined {
        /// The object.
        layer: String,
        /// What it is.
        digest: registry::Digest,
        /// Why it was refused.
        why: String,
    },
    /// A store whose volumes do not say what they are.
    NoNotes {
        /// The store.
        store: String,
        /// How many volumes it has.
        volumes: usize,
    },
    /// Somebody asked to stop.
    Cancelled {
        /// Who, or why.
        why: String,
    },
    /// The blob that was applied is not the one that was fetched, or not the one that was known.
    Mismatch {
        /// The object.
        layer: String,
        /// What it had to be.
        expected: registry::Digest,
        /// What it was.
        found: registry::Digest,
    },
    /// Registry and store are not of the same moment.
    Fence {
        /// The registry's transaction id.
        registry: u64,
        /// The store's transaction id.
        store: u64,
    },
    /// The registry's file is empty, and the store was written to by a registry.
    Emptied {
        /// The file.
        database: PathBuf,
        /// The store's transaction id.
        transaction: u64,
    },
    /// A sealed volume that the store no longer has.
    Lost {
        /// Its id.
        volume: u32,
    },
    /// An image, or a catalog, that is not believed.
    Catalog(crate::catalog::Distrust),
    /// A scanner that gave no report.
    Scan(crate::scan::Failure),
    /// An image that the scan policy does not let through.
    Blocked {
        /// The image.
        image: String,
        /// What was found.
        counts: crate::scan::Counts,
        /// The worst of it.
        worst: String,
    },
    /// What the daemon says of its own failure.
    Told {
        /// The class, as the daemon has it.
        class: Class,
        /// Its words.
        message: String,
    },
    /// A build or run began this often and never came to an end.
    CrashLoop {
        /// Which.
        what: String,
        /// How often.
        begun: u32,
    },
}

/// The error and its causes; a cause that the text before it names already is not said twice.
pub fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// What a failure means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May go away by itself: network, timeouts, busy devices, locks.
    Temporary,
    /// The server asked for patience.
    Throttled,
    /// May go away when room is made.
    NoSpace,
    /// What was asked for does not exist.
    NotFound,
    /// The words or settings are wrong.
    Usage,
    /// Hostile or damaged input: the same bytes will be refused again.
    Refused,
    /// No right to it.
    Denied,
    /// Somebody took it back.
    Cancelled,
    /// The host needs hands: no device-mapper, damaged pool or registry.
    HostBroken,
    /// A mistake of ours.
    Bug,
}

impl Class {
    /// Whether the same command may succeed later with nobody having changed anything.
    pub fn may_retry(self) -> bool {
        match self {
            Class::Temporary | Class::Throttled | Class::NoSpace | Class::Cancelled => true,
            Class::NotFound
            | Class::Usage
            | Class::Refused
            | Class::Denied
            | Class::HostBroken
            | Class::Bug => false,
        }
    }

    /// 111 for what may be retried, else 100.
    pub fn exit_code(self) -> u8 {
        if self.may_retry() { 111 } else { 100 }
    }

    /// The class of a word in a run's row.
    pub fn from_word(word: &str) -> Option<Class> {
        use Class::{
            Bug, Cancelled, Denied, HostBroken, NoSpace, NotFound, Refused, Temporary, Throttled,
            Usage,
        };
        [
            Temporary, Throttled, NoSpace, NotFound, Usage, Refused, Denied, Cancelled, HostBroken,
            Bug,
        ]
        .into_iter()
        .find(|class| class.word() == word)
    }

    /// The word in JSON and logs.
    pub fn word(self) -> &'static str {
        match self {
            Class::Temporary => "temporary",
            Class::Throttled => "throttled",
            Class::NoSpace => "no_space",
            Class::NotFound => "not_found",
            Class::Usage => "usage",
            Class::Refused => "refused",
            Class::Denied => "denied",
            Class::Cancelled => "cancelled",
            Class::HostBroken => "host_broken",
            Class::Bug => "bug",
        }
    }
}

/// The class of a failure. Leaves' kinds are exhaustive enums, so a new kind does not compile until
/// it is classed here.
pub fn class(error: &Error) -> Class {
    match error {
        Error::Fetch(source) => fetch_class(source),
        Error::Unpack { source, .. } => match stream_error(source) {
            Some(source) => fetch_class(source),
            None => unpack_class(source),
        },
        Error::Tree { source, .. } => unpack_class(source),
        Error::Thin(source) => thin_class(source),
        Error::Registry(source) => match source.kind() {
            registry::Kind::Busy | registry::Kind::Conflict => Class::Temporary,
            registry::Kind::NoSpace => Class::NoSpace,
            registry::Kind::Io | registry::Kind::Refused => Class::HostBroken,
            registry::Kind::Denied => Class::Denied,
            registry::Kind::Bug => Class::Bug,
        },
        Error::Io { source, .. } => io_class(source),
        Error::Usage(_) | Error::Taken { .. } => Class::Usage,
        Error::Unknown { .. } | Error::NotHere { .. } => Class::NotFound,
        Error::Locked { .. } => Class::Temporary,
        Error::NoSpace { .. } => Class::NoSpace,
        Error::Mismatch { .. } | Error::Quarantined { .. } => Class::Refused,
        Error::Cancelled { .. } => Class::Cancelled,
        Error::NoNotes { .. } => Class::NotFound,
        Error::Told { class, .. } => *class,
        Error::Scan(Failure::Time { .. }) => Class::Temporary,
        Error::Scan(_) => Class::HostBroken,
        Error::Blocked { .. } => Class::Denied,
        Error::Catalog(_) => Class::Refused,
        Error::Fence { .. }
        | Error::Emptied { .. }
        | Error::Lost { .. }
        | Error::CrashLoop { .. } => Class::HostBroken,
    }
}

fn fetch_class(error: &fetch::Error) -> Class {
    match error.kind() {
        fetch::Kind::Usage => Class::Usage,
        fetch::Kind::NotFound => Class::NotFound,
        fetch::Kind::Denied => Class::Denied,
        fetch::Kind::Refused | fetch::Kind::Digest => Class::Refused,
        fetch::Kind::Changed | fetch::Kind::Network | fetch::Kind::Timeout => Class::Temporary,
        fetch::Kind::Throttled => Class::Throttled,
        fetch::Kind::Io => Class::Temporary,
    }
}

fn unpack_class(error: &unpack::Error) -> Class {
    match error.kind() {
        unpack::Kind::Refused | unpack::Kind::Limit => Class::Refused,
        unpack::Kind::NoSpace => Class::NoSpace,
        unpack::Kind::Denied => Class::Denied,
        unpack::Kind::Stream | unpack::Kind::Io => Class::Temporary,
        unpack::Kind::Sandbox => Class::HostBroken,
    }
}

fn thin_class(error: &thin::Error) -> Class {
    match error.kind() {
        thin::Kind::Busy => Class::Temporary,
        thin::Kind::NoSpace => Class::NoSpace,
        thin::Kind::Denied => Class::Denied,
        thin::Kind::Exists | thin::Kind::Invalid => Class::Usage,
        thin::Kind::PoolMissing => Class::NotFound,
        thin::Kind::Absent
        | thin::Kind::NeedsCheck
        | thin::Kind::ReadOnly
        | thin::Kind::Failed
        | thin::Kind::NoDeviceMapper
        | thin::Kind::Refused
        | thin::Kind::Program => Class::HostBroken,
        thin::Kind::Io => Class::Temporary,
    }
}

fn io_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
        io::ErrorKind::PermissionDenied => Class::Denied,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => Class::HostBroken,
        _ => Class::Temporary,
    }
}

/// The fetch error inside an unpack error, where the stream and not the layer failed.
pub(crate) fn stream_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a fetch::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<fetch::Error>() {
            return Some(found);
        }
        // `io::Error::source` skips the error it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Fetch(source) => source.fmt(f),
            Error::Unpack { layer, source } => match stream_error(source) {
                Some(stream) => stream.fmt(f),
                None => write!(f, "layer {}: {source}", layer.escape_debug()),
            },
            Error::Tree { doing, source } => write!(f, "cannot {doing}: {source}"),
            Error::Thin(source) => source.fmt(f),
            Error::Registry(source) => source.fmt(f),
            Error::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}", path.display())
            }
            Error::Usage(text) => f.write_str(text),
            Error::Unknown { what, name } => {
                write!(f, "no {what} {name:?} here; `orchestrate ls` shows what there is")
            }
            Error::NotHere { image } => {
                write!(f, "{image} is not on this host; without --no-fetch it would be fetched")
            }
            Error::Taken { name, by } => {
                write!(
                    f,
                    "the name {name:?} is taken by {by}; choose another, or `orchestrate rm` it"
                )
            }
            Error::Locked { what, holder, waited_s } => {
                write!(f, "{what}: still held by {holder} after {waited_s} s; try again later")
            }
            Error::NoSpace { what, needs, free, garbage } => {
                write!(f, "no space for {what}: needs {needs} bytes, free {free}")?;
                match garbage {
                    Some(bytes) if *bytes > 0 => write!(
                        f,
                        "; `orchestrate gc` would free {bytes}, else `orchestrate rm` an image or \
                         grow the pool"
                    ),
                    Some(_) | None => {
                        write!(f, "; `orchestrate rm` an image, or grow the pool")
                    }
                }
            }
            Error::Quarantined { layer, digest, why } => write!(
                f,
                "layer {}: these bytes were refused before and are not unpacked again: {why}; \
                 `orchestrate quarantine --release {digest}` allows it",
                layer.escape_debug()
            ),
            Error::NoNotes { store, volumes } => write!(
                f,
                "store {store:?}: none of its {volumes} volumes is a template that says so; nothing \
                 can be rebuilt from it"
            ),
            Error::Cancelled { why } => {
                write!(f, "stopped on request: {}; nothing half done stays", why.escape_debug())
            }
            Error::Mismatch { layer, expected, found } => write!(
                f,
                "layer {}: digest is {found}, expected {expected}; nothing of it is kept",
                layer.escape_debug()
            ),
            Error::Fence { registry, store } => write!(
                f,
                "registry and store are not of the same moment: the registry is at transaction \
                 {registry}, the store at {store}; one of them was restored from a backup or \
                 written by another program. Nothing was changed. Restore the other half too, or \
                 `orchestrate rebuild` makes a registry of what the store has"
            ),
            Error::Emptied { database, transaction } => write!(
                f,
                "{} is empty, and the store is at transaction {transaction}: the registry was cut \
                 off. Nothing was changed. Move it away, and restore a backup or `orchestrate rebuild`",
                database.display()
            ),
            Error::Lost { volume } => write!(
                f,
                "sealed volume {volume} is gone from the store: somebody deleted it by hand; `orchestrate \
                 rm` the images on it, then ensure them again"
            ),
            Error::Told { message, .. } => f.write_str(message),
            Error::Catalog(why) => why.fmt(f),
            Error::Scan(failure) => failure.fmt(f),
            Error::Blocked { image, counts, worst } => write!(
                f,
                "{} is not let through: {counts}; the worst is {}; `orchestrate scan --show {0}` shows \
                 all, `orchestrate scan {0}` scans again",
                image.escape_debug(),
                worst.escape_debug()
            ),
            Error::CrashLoop { what, begun } => write!(
                f,
                "{}: begun {begun} times and never came to an end; look into the kernel log, then \
                 `orchestrate recover --retry` to allow it again",
                what.escape_debug()
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Fetch(source) => source.source(),
            Error::Thin(source) => source.source(),
            Error::Registry(source) => source.source(),
            Error::Unpack { source, .. } | Error::Tree { source, .. } => Some(source),
            Error::Io { source, .. } => Some(source),
            Error::Usage(_)
            | Error::Unknown { .. }
            | Error::NotHere { .. }
            | Error::Taken { .. }
            | Error::Locked { .. }
            | Error::NoSpace { .. }
            | Error::Mismatch { .. }
            | Error::Quarantined { .. }
            | Error::Fence { .. }
            | Error::Catalog(_)
            | Error::Scan(_)
            | Error::Blocked { .. }
            | Error::Emptied { .. }
            | Error::Lost { .. }
            | Error::NoNotes { .. }
            | Error::Cancelled { .. }
            | Error::Told { .. }
            | Error::CrashLoop { .. } => None,
        }
    }
}

impl From<fetch::Error> for Error {
    fn from(source: fetch::Error) -> Error {
        Error::Fetch(source)
    }
}

impl From<thin::Error> for Error {
    fn from(source: thin::Error) -> Error {
        Error::Thin(source)
    }
}

impl From<registry::Error> for Error {
    fn from(source: registry::Error) -> Error {
        Error::Registry(source)
    }
}
