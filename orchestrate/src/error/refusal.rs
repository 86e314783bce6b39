//! Why a store is not ours, as data.

use std::fmt;
use std::path::PathBuf;

use registry::VolumeId;

/// Why a store, or a state directory, is left alone. Nothing was changed.
#[derive(Debug)]
pub enum Refusal {
    /// There is no registry, and the store has what one has sealed.
    NoRegistry {
        /// The file that is not there.
        database: PathBuf,
        /// The store.
        store: String,
        /// The lowest volume with a seal record.
        volume: VolumeId,
    },
    /// There is no registry, and whether the store had one cannot be found out.
    Unknown {
        /// The file that is not there.
        database: PathBuf,
        /// The store.
        store: String,
        /// A volume that was not looked at.
        volume: VolumeId,
        /// Why not.
        why: String,
    },
    /// There is no registry, and the store cannot be looked at.
    Down {
        /// The file that is not there.
        database: PathBuf,
        /// The store.
        store: String,
    },
    /// The registry's file is empty, and the store was written to by a registry.
    Emptied {
        /// The file.
        database: PathBuf,
        /// The store's transaction id.
        transaction: u64,
    },
    /// Another registry has taken the store over.
    TakenOver {
        /// The registry's transaction id.
        registry: u64,
        /// The store's transaction id.
        store: u64,
    },
    /// The store is that of another registry.
    Other {
        /// The store.
        store: String,
        /// The state directory.
        state: PathBuf,
        /// What tells them apart.
        why: &'static str,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OTHERS: &str = "if the registry is in another state directory, name that one with --state, or \
                              `orchestrate rebuild --take-over` moves the store to this one";
        match self {
            Refusal::NoRegistry { database, store, volume } => write!(
                f,
                "there is no registry {}, and volume {volume} of store {store:?} has the seal record of \
                 one. Nothing was changed. If the registry was lost, restore a backup or `orchestrate \
                 rebuild` makes one of what the store has; {OTHERS}",
                database.display()
            ),
            Refusal::Unknown { database, store, volume, why } => write!(
                f,
                "there is no registry {}, and whether store {store:?} had one is unknown: volume {volume} \
                 was not looked at, {why}. Nothing was changed. Take that device down and try again; if \
                 the store is new to veneer, say so with --new; {OTHERS}",
                database.display()
            ),
            Refusal::Down { database, store } => write!(
                f,
                "there is no registry {}, and store {store:?}, which may have had one, is down. Nothing \
                 was made. Bring it up with `thin pool up DIR`, then try again",
                database.display()
            ),
            Refusal::Emptied { database, transaction } => write!(
                f,
                "{} is empty, and the store is at transaction {transaction}: the registry was cut \
                 off. Nothing was changed. Move it away, and restore a backup or `orchestrate rebuild`",
                database.display()
            ),
            Refusal::TakenOver { registry, store } => write!(
                f,
                "the store was taken over by another registry: this one is of epoch {}, the store of epoch \
                 {}. Nothing was changed. Name the other's --state directory; if this one is the rightful \
                 one, `orchestrate rebuild --take-over` takes the store back",
                epoch(*registry),
                epoch(*store)
            ),
            Refusal::Other { store, state, why } => write!(
                f,
                "store {store:?} belongs to another registry than that of {}: {why}. Nothing was changed. \
                 Name the other's --state directory; `orchestrate rebuild --take-over` moves the store to \
                 this one, and the other is refused from then on",
                state.display()
            ),
        }
    }
}

/// Which registry a transaction id is of: 0 for the first that a store had.
pub(crate) fn epoch(transaction: u64) -> u64 {
    transaction >> 32
}
