//! What can go wrong with a run, and [`class`]: the one function that decides what may be retried.

pub(crate) mod amiss;
pub(crate) mod class;
pub(crate) mod export;
pub(crate) mod filling;
pub(crate) mod full;
pub(crate) mod image;
pub(crate) mod leaves;
pub(crate) mod push;
pub(crate) mod quote;
pub(crate) mod refusal;
pub(crate) mod state;
pub(crate) mod travel;
pub(crate) mod unseen;
mod wording;

use std::io;
use std::path::PathBuf;

use registry::VolumeId;

use crate::error::amiss::{Amiss, Making};
use crate::error::class::Class;
use crate::error::export::NotExported;
use crate::error::filling::Filling;
use crate::error::full::Full;
use crate::error::image::Unusable;
use crate::error::push::NotPushed;
use crate::error::refusal::Refusal;
use crate::error::travel::NotMoved;
use crate::error::unseen::Unseen;
use crate::handover::unfit::Unfit;

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
    /// A volume that cannot be an image in which a layer goes on.
    Volume {
        /// The volume.
        volume: VolumeId,
        /// What unpack says.
        source: Box<unpack::Unfit>,
    },
    /// An image that cannot be used.
    Image(Unusable),
    /// An image that is not named in the index of a bucket.
    Push(NotPushed),
    /// An activation that is not exported.
    Export(NotExported),
    /// A disk that does not travel.
    Travel(Box<NotMoved>),
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
        volume: VolumeId,
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
        volume: VolumeId,
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
    /// Work on an image that a pool which fills up does not let begin, or go on.
    Filling(Box<Filling>),
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
        forged: Option<(VolumeId, VolumeId)>,
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
    /// Registry and store are out of step.
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
    /// Another place that has no room, or that nobody may change.
    Full(Box<Full>),
    /// Sealed volumes that could not be looked at, though nothing is known to be wrong with them.
    Unseen(Unseen),
    /// A server that could not be asked, about an image that is on this host as it was.
    Away {
        /// The image.
        image: String,
        /// What came of asking.
        source: Box<Error>,
    },
    /// A signed catalog that neither a source nor the bucket gives.
    Unheard {
        /// Where it is.
        url: String,
        /// The sources that were asked, and what came of it.
        others: Vec<(String, String)>,
        /// What came of asking the bucket.
        source: Box<Error>,
    },
    /// A volume that would be built on or handed out, and is condemned.
    Condemned {
        /// For what.
        what: String,
        /// The volume.
        volume: VolumeId,
        /// Why it is condemned.
        why: String,
    },
    /// An id that the store has from somebody else, whatever row of ours names it.
    NotOurs {
        /// The id.
        id: VolumeId,
    },
    /// A store without any volume, of which the registry knows some.
    NoVolumes {
        /// The store.
        store: String,
    },
    /// A sealed volume that the store no longer has.
    Lost {
        /// Its id.
        volume: VolumeId,
    },
    /// An image, or a catalog, that is not believed.
    Catalog(crate::trust::keys::Distrust),
    /// A scanner that gave no report.
    Scan(crate::trust::scan::Failure),
    /// An image that the scan policy does not let through.
    Blocked {
        /// The image.
        image: String,
        /// What was found.
        counts: crate::trust::scan::Counts,
        /// The worst of it.
        worst: String,
    },
    /// What cannot be handed over to what runs it.
    Unfit(Box<Unfit>),
    /// What the daemon says of its own failure.
    Told {
        /// The class, as the daemon has it.
        class: Class,
        /// Its words.
        message: String,
    },
    /// A build or run began this often and never finished.
    CrashLoop {
        /// Which.
        what: String,
        /// How often.
        begun: u32,
    },
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Fetch(source) => source.source(),
            Error::Thin(source) => source.source(),
            Error::Registry(source) => source.source(),
            Error::Unpack { source, .. } | Error::Tree { source, .. } => Some(source),
            Error::Volume { source, .. } => source.source(),
            Error::Away { source, .. } | Error::Unheard { source, .. } => source.source(),
            Error::Image(Unusable::Archive { source, .. }) => Some(source.as_ref()),
            Error::State(state) => state.source(),
            Error::Full(full) => Some(full.source.as_ref()),
            Error::Travel(_) => None,
            Error::Io { source, .. } => Some(source),
            Error::Usage(_)
            | Error::Image(_)
            | Error::Push(_)
            | Error::Export(_)
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
            | Error::Filling(_)
            | Error::Mismatch { .. }
            | Error::Quarantined { .. }
            | Error::Fence { .. }
            | Error::Catalog(_)
            | Error::Unfit(_)
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

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        Error::Unfit(Box::new(unfit))
    }
}

impl From<NotPushed> for Error {
    fn from(source: NotPushed) -> Error {
        Error::Push(source)
    }
}

impl From<NotExported> for Error {
    fn from(source: NotExported) -> Error {
        Error::Export(source)
    }
}

impl From<NotMoved> for Error {
    fn from(source: NotMoved) -> Error {
        Error::Travel(Box::new(source))
    }
}

impl From<OfState> for Error {
    fn from(state: OfState) -> Error {
        Error::State(state)
    }
}

/// What is wrong with the state directory.
#[derive(Debug)]
pub enum OfState {
    /// The registry's file is not the one that was opened.
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// A daemon has the registry open that is older than this program.
    OlderDaemon {
        /// The file.
        path: PathBuf,
        /// The schema that it knows.
        found: i64,
        /// Who it is, as far as it said.
        holder: String,
    },
    /// Its file system has no room.
    Full {
        /// The directory.
        path: PathBuf,
        /// What there is none of.
        what: &'static str,
        /// Whether there are bytes that are kept back for what makes room.
        kept: bool,
        /// What failed by it.
        source: Box<Error>,
    },
}
