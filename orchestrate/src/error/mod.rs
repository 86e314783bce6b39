//! What can go wrong with a run, and [`class`]: the one function that decides what may be retried.

pub(crate) mod class;
pub(crate) mod leaves;
pub(crate) mod state;
pub(crate) mod unseen;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::error::class::Class;
use crate::host::order::{Amiss, Making};
use crate::host::owner::Refusal;
use crate::verbs::scan::run::Failure;

pub(crate) use crate::error::leaves::stream_error;
use crate::error::leaves::{fetch_class, io_class, thin_class, unpack_class};
use crate::error::state::OfState;
use crate::error::unseen::Unseen;

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
    /// A name that only a run which has not ended is making.
    Making(Making),
    /// A run that is not known, or an image that is in use.
    Amiss(Amiss),
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
    /// A device that somebody has open.
    Held {
        /// The activation, or the volume.
        what: String,
        /// By whom.
        by: String,
    },
    /// A volume that somebody has mapped read-only, to look at it.
    LookedAt {
        /// The volume.
        volume: u32,
        /// The device.
        name: String,
    },
    /// A name that something has which is not ours.
    Stranger {
        /// The name.
        name: String,
        /// What has it.
        by: String,
    },
    /// A volume that the store has no longer, with what was written to it.
    Gone {
        /// Its id.
        volume: u32,
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
        /// One that says so and is not believed, and one that is older.
        forged: Option<(u32, u32)>,
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
    /// The store is another registry's, or may be.
    Owner(Refusal),
    /// Something about the state directory itself.
    State(OfState),
    /// Sealed volumes that could not be looked at, though nothing is known to be wrong with them.
    Unseen(Unseen),
    /// A server that could not be asked, about an image that is on this host as it was.
    Away {
        /// The image.
        image: String,
        /// What came of asking.
        source: Box<Error>,
    },
    /// A volume that would be built on or handed out, and is condemned.
    Condemned {
        /// For what.
        what: String,
        /// The volume.
        volume: u32,
        /// Why it is condemned.
        why: String,
    },
    /// An id that the store has from somebody else, whatever row of ours names it.
    NotOurs {
        /// The id.
        id: u32,
    },
    /// A store without any volume, of which the registry knows some.
    NoVolumes {
        /// The store.
        store: String,
    },
    /// A sealed volume that the store no longer has.
    Lost {
        /// Its id.
        volume: u32,
    },
    /// An image, or a catalog, that is not believed.
    Catalog(crate::verbs::catalog::Distrust),
    /// A scanner that gave no report.
    Scan(crate::verbs::scan::run::Failure),
    /// An image that the scan policy does not let through.
    Blocked {
        /// The image.
        image: String,
        /// What was found.
        counts: crate::verbs::scan::Counts,
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

/// The class of a failure. Leaves' kinds are exhaustive enums, so a new kind does not compile until
/// it is classed here.
pub fn class(error: &Error) -> Class {
    match error {
        Error::Fetch(source) => fetch_class(source),
        Error::Away { source, .. } => class(source),
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
        Error::Unknown { .. } | Error::NotHere { .. } | Error::Condemned { .. } => Class::NotFound,
        Error::Stranger { .. } => Class::Usage,
        // It may be mounted in a moment.
        Error::NoVolumes { .. } => Class::Temporary,
        Error::Locked { .. } | Error::Held { .. } | Error::LookedAt { .. } => Class::Temporary,
        Error::Making(_) => Class::Temporary,
        Error::Amiss(amiss) => amiss.class(),
        Error::NotOurs { .. } => Class::Temporary,
        Error::NoSpace { .. } => Class::NoSpace,
        Error::Mismatch { .. } | Error::Quarantined { .. } => Class::Refused,
        Error::Cancelled { .. } => Class::Cancelled,
        Error::NoNotes { .. } => Class::NotFound,
        Error::Told { class, .. } | Error::Unseen(Unseen { class, .. }) => *class,
        Error::Scan(Failure::Time { .. }) => Class::Temporary,
        Error::Scan(_) => Class::HostBroken,
        Error::Blocked { .. } => Class::Denied,
        Error::Catalog(_) => Class::Refused,
        // The pool may come up by itself.
        Error::Owner(Refusal::Down { .. }) => Class::Temporary,
        Error::State(state) => state.class(),
        Error::Fence { .. }
        | Error::Owner(_)
        | Error::Lost { .. }
        | Error::Gone { .. }
        | Error::CrashLoop { .. } => Class::HostBroken,
    }
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
            Error::Making(making) => making.fmt(f),
            Error::Amiss(amiss) => amiss.fmt(f),
            Error::NotHere { image } => {
                write!(f, "{image} is not on this host; without --no-fetch it would be fetched")
            }
            Error::Taken { name, by } => {
                write!(
                    f,
                    "the name {name:?} is taken by {by}; choose another, or `orchestrate rm` it"
                )
            }
            Error::Held { what, by } => write!(
                f,
                "{what} is in use: {by}. Nothing was changed. Close that and try again, or \
                 `orchestrate rm --when-closed` or `deactivate --when-closed` does it as soon as nobody \
                 has it open"
            ),
            Error::LookedAt { volume, name } => write!(
                f,
                "volume {volume} is mapped read-only as {name:?}: somebody looks at it; `thin \
                 deactivate {name}` ends that"
            ),
            Error::Stranger { name, by } => write!(
                f,
                "the name {name:?} belongs to {by}, which is not ours and is left alone; choose \
                 another name, or free it by hand"
            ),
            Error::Gone { volume } => write!(
                f,
                "volume {volume} is gone from the store: somebody deleted it by hand, with what was \
                 written to it; `orchestrate rm` removes what is left of it"
            ),
            Error::Locked { what, holder, waited_s: 0 } => {
                write!(f, "{what}: still held by {holder}; try again later")
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
            Error::NoNotes { store, volumes, forged } => {
                write!(
                    f,
                    "store {store:?}: none of its {volumes} volumes is a template that says so"
                )?;
                if let Some((says, older)) = forged {
                    write!(
                        f,
                        "; volume {says} does, and is not the first of this store, since volume {older} is older: \
                         whoever had it may have written that"
                    )?;
                }
                f.write_str(
                    "; nothing can be rebuilt from it. A backup of the registry knows its key: put that in \
                     place and `orchestrate rebuild`",
                )
            }
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
            Error::Owner(refusal) => refusal.fmt(f),
            Error::State(state) => state.fmt(f),
            Error::Away { image, source } => write!(
                f,
                "{source}; {} is on this host as it was when it was last asked for: `--no-fetch` takes it \
                 so",
                image.escape_debug()
            ),
            Error::Unseen(unseen) => unseen.fmt(f),
            Error::Condemned { what, volume, why } => write!(
                f,
                "{}: volume {volume} is condemned and not handed out: {}; `orchestrate ensure` of the \
                 image builds it anew",
                what.escape_debug(),
                why.escape_debug()
            ),
            Error::NotOurs { id } => write!(
                f,
                "id {id} in the store is not ours: another program has made what is there, and it is left \
                 alone; try again, or `orchestrate rm` the activation that has this id: its row alone goes"
            ),
            Error::NoVolumes { store } => write!(
                f,
                "store {store:?} has not one volume, and the registry knows of some: is it mounted, and is \
                 it the right one? Nothing was changed"
            ),
            Error::Lost { volume } => write!(
                f,
                "sealed volume {volume} is gone from the store: somebody deleted it by hand; `orchestrate \
                 ensure` of the image builds it anew"
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
            Error::Away { source, .. } => source.source(),
            Error::State(state) => state.source(),
            Error::Io { source, .. } => Some(source),
            Error::Usage(_)
            | Error::Unknown { .. }
            | Error::Making(_)
            | Error::Amiss(_)
            | Error::NotHere { .. }
            | Error::Taken { .. }
            | Error::Held { .. }
            | Error::LookedAt { .. }
            | Error::Stranger { .. }
            | Error::Gone { .. }
            | Error::Locked { .. }
            | Error::NoSpace { .. }
            | Error::Mismatch { .. }
            | Error::Quarantined { .. }
            | Error::Fence { .. }
            | Error::Catalog(_)
            | Error::Scan(_)
            | Error::Blocked { .. }
            | Error::Owner(_)
            | Error::Unseen(_)
            | Error::Condemned { .. }
            | Error::NotOurs { .. }
            | Error::NoVolumes { .. }
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
