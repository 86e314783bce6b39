//! What the caller of the library chooses. What the program's settings mean to it is in `config::settings`.

use std::path::PathBuf;
use std::time::Duration;

use registry::Keep;

use crate::fleet::Member;
use crate::plan::guard::Thresholds;
use crate::process::cancel::Cancel;
use crate::process::full::Places;
use crate::store::seam::StoreName;
use crate::trust::keys::Trust;
use crate::trust::scan::Policy;

/// How a pool grows by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growing {
    /// The directory of its files.
    pub dir: PathBuf,
    /// Bytes of data that it may come to have.
    pub data_to: u64,
    /// Bytes of data that it grows by at a time.
    pub data_by: u64,
    /// Bytes of metadata that it may come to have; none: what that much data needs.
    pub metadata_to: Option<u64>,
}

/// At which pace a daemon copies the pool's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The time between two; zero: none are taken.
    pub every: Duration,
    /// How many are kept.
    pub keep: u64,
}

/// What the caller chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state directory: registry.db, locks, spools.
    pub state: PathBuf,
    /// The store.
    pub store: StoreName,
    /// Where S3 is and who asks.
    pub fetch: fetch::Options,
    /// The platform of which images are wanted; none: this host's.
    pub platform: Option<fetch::image::Platform>,
    /// Directories beneath which a daemon opens local images for its clients.
    pub local_roots: Vec<PathBuf>,
    /// What a layer may be.
    pub limits: unpack::Limits,
    /// Size of a new activation, bytes; of the template where there is none yet, which every layer's volume has
    /// from then on, until a layer needs more.
    pub volume_bytes: u64,
    /// Percent of the pool's size that the sizes of all activations may come to; none: no bound.
    pub overcommit: Option<u64>,
    /// How long to wait for another process.
    pub wait: Duration,
    /// Spools of killed runs go when nobody wrote to them for so long.
    pub spool_age: Duration,
    /// What has arrived of a disk in part goes when nobody has gone on with it for so long.
    pub receive_keep: Duration,
    /// Whose word counts for what an image is.
    pub trust: Trust,
    /// The fleet that this host is in; none: it is in none.
    pub fleet: Option<Member>,
    /// Who scans images, and what is not let through.
    pub scan: Policy,
    /// How much of the past is kept.
    pub history: Keep,
    /// Whether an ETag that was the MD5 of another key's bytes stands for them.
    pub etag_dedup: bool,
    /// How the pool grows by itself; none: it does not. A daemon does it, and `health` knows of it.
    pub growing: Option<Growing>,
    /// How full the pool may be, and for what.
    pub pool: Thresholds,
    /// Copies of the pool's metadata that a daemon takes.
    pub copies: Copies,
    /// Stops whatever runs, at its next safe point.
    pub cancel: Cancel,
    /// Lines for people on stderr: 0 none, 1 steps, 2 more.
    pub talk: u8,
    /// Whether the caller knows that no registry was ever tied to a store of which it cannot be seen.
    pub new: bool,
}

impl Settings {
    /// Where a command of these settings writes.
    pub fn places(&self) -> Places {
        let store = match &self.store {
            StoreName::Dir(path) => Some(path.clone()),
            StoreName::Thin(_) => None,
        };
        Places { state: self.state.clone(), store, records: self.limits.spill_dir.clone() }
    }
}
