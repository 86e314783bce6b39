//! Whose a store is. The upper half of its transaction id is the epoch of the registry that owns it,
//! the lower half counts commits; who takes a store over moves it to the next epoch, so that the
//! registry of before finds at its next commit that it is not the owner any more.
//!
//! A state directory keeps beside its registry which store it has, in which epoch, and by which key:
//! where the registry is lost, that tells the directory of the owner from any other. What is done with
//! all this is in `host` and `rebuild`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use registry::{Digest, Registry, StoreBinding};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::refusal::{Refusal, epoch};
use crate::plan::epoch::apart;
use crate::plan::{self, Fence};
use crate::store::seal::Key;
use crate::store::seam::Store;

/// The file in the state directory.
const FILE: &str = "store.json";

/// What a state directory keeps of the store that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The store's kind.
    kind: String,
    /// The store's identity.
    id: String,
    /// The epoch of the registry.
    epoch: u64,
    /// Digest of the key of the store's seals, which is itself a secret.
    key: Digest,
}

impl Marker {
    /// That of a registry with this key.
    pub(crate) fn new(store: StoreBinding, transaction: u64, key: &Key) -> Marker {
        let StoreBinding { kind, id } = store;
        Marker { kind, id, epoch: epoch(transaction), key: Digest(Sha256::digest(key.0).into()) }
    }

    /// The store.
    pub(crate) fn store(&self) -> StoreBinding {
        StoreBinding { kind: self.kind.clone(), id: self.id.clone() }
    }

    /// The first transaction id of its epoch.
    pub(crate) fn first_transaction(&self) -> u64 {
        self.epoch << 32
    }

    /// Whether the store that is kept here has this key.
    pub(crate) fn is_of_key(&self, key: &Key) -> bool {
        self.key == Digest(Sha256::digest(key.0).into())
    }

    /// That of a registry as it stands; none before it has a key.
    fn of(registry: &Registry) -> Result<Option<Marker>, registry::Error> {
        let (Some(store), Some(key)) = (registry.store()?, registry.seal_key()?) else {
            return Ok(None);
        };
        Ok(Some(Marker::new(store, registry.transaction_id()?, &Key(key.0))))
    }

    /// That of a state directory; none where there is none that can be read.
    pub(crate) fn read(state: &Path) -> Option<Marker> {
        let path = state.join(FILE);
        // A pipe in its place would be waited for.
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Write, sync, rename: the file is the old one or the new one.
    pub(crate) fn write(&self, state: &Path) -> Result<(), Error> {
        // Threads and processes may come to this at once, each with the same to say.
        static WRITES: AtomicU32 = AtomicU32::new(0);
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let new = state.join(format!(".{FILE}.{}-{number}", std::process::id()));
        let path = state.join(FILE);
        let text = serde_json::to_string(self).unwrap_or_default() + "\n";
        let mut options = fs::OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(state)?.sync_all());
        written.map_err(|source| {
            // The error is the news.
            drop(fs::remove_file(&new));
            Error::Io { doing: "write", path, source }
        })
    }
}

/// Keeps what the registry says of its store, where the two agree and it is not kept yet. A directory
/// that takes no writes does without.
pub(crate) fn remember(registry: &Registry, store: &dyn Store, state: &Path) {
    let Ok(Some(marker)) = Marker::of(registry) else { return };
    if Marker::read(state).as_ref() == Some(&marker) {
        return;
    }
    if let (Ok(ours), Ok(theirs)) = (registry.transaction_id(), store.transaction_id())
        && plan::fence(ours, theirs) != Fence::Apart
    {
        drop(marker.write(state));
    }
}

/// What a state directory has that tells whether a store is its own.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Of the registry that is there and can be read: its key and its transaction id.
    pub(crate) registry: Option<(Option<Key>, u64)>,
    /// What was kept beside it.
    pub(crate) marker: Option<Marker>,
    /// Whether commands have worked with a store here.
    pub(crate) used: bool,
}

impl Evidence {
    /// What there is.
    pub(crate) fn gather(state: &Path, registry: Option<&Registry>) -> Evidence {
        let of = |registry: &Registry| {
            let key = registry.seal_key().ok()?.map(|key| Key(key.0));
            Some((key, registry.transaction_id().ok()?))
        };
        Evidence {
            registry: registry.and_then(of),
            marker: Marker::read(state),
            used: state.join("locks/store.lock").exists(),
        }
    }

    /// Whether the store with this key in its template's record, at this transaction, is that of the
    /// state directory.
    ///
    /// # Errors
    /// [`Error::Owner`] saying why it is not.
    pub(crate) fn judge(
        &self,
        store: &StoreBinding,
        key: &Key,
        transaction: u64,
        state: &Path,
    ) -> Result<(), Error> {
        let refuse = |why| {
            let store = format!("{}:{}", store.kind, store.id);
            Err(Refusal::Other { store, state: state.into(), why }.into())
        };
        // The store's name may have changed; its key does not.
        let fingerprint = Marker::new(store.clone(), transaction, key).key;
        let kept = self.marker.as_ref().filter(|marker| marker.key == fingerprint);
        if kept.is_some_and(|marker| marker.epoch == epoch(transaction)) {
            // A registry of an earlier epoch beside it is a backup.
            let other = |(found, _): &(Option<Key>, u64)| found.is_some_and(|found| found != *key);
            return match self.registry.as_ref().is_some_and(other) {
                true => refuse("the registry that is there has another key than the store"),
                false => Ok(()),
            };
        }
        match (&self.registry, &self.marker) {
            (Some((Some(found), _)), _) if found != key => {
                refuse("the registry that is there has another key than the store")
            }
            (Some((Some(_), at)), _) if epoch(*at) == epoch(transaction) => Ok(()),
            (Some((Some(_), at)), _) if epoch(*at) < epoch(transaction) => {
                Err(apart(*at, transaction))
            }
            (Some((Some(_), _)), _) => {
                refuse("the registry that is there had taken over a later one")
            }
            // Before its first layer a registry has no key: a program of before this check made it,
            // when the rightful one was lost, of what the store was then.
            (Some((None, at)), None) if plan::fence(*at, transaction) != Fence::Apart => Ok(()),
            (Some((None, _)), None) => refuse("the registry that is there has never had it"),
            (Some((None, _)) | None, Some(_)) => match kept {
                Some(marker) if marker.epoch < epoch(transaction) => {
                    Err(apart(marker.epoch << 32, transaction))
                }
                Some(_) | None => refuse("what is kept in store.json is of another store"),
            },
            // The state of a program from before there was a marker.
            (None, None) if self.used && epoch(transaction) == 0 => Ok(()),
            (None, None) => refuse("nothing there tells of this store"),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Owner(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::epoch::next_epoch;

    const OURS: Key = Key([1; 32]);
    const OTHERS: Key = Key([2; 32]);

    fn store() -> StoreBinding {
        StoreBinding { kind: "thin".into(), id: "p".into() }
    }

    fn judged(evidence: &Evidence, transaction: u64) -> &'static str {
        match evidence.judge(&store(), &OURS, transaction, Path::new("/s")) {
            Ok(()) => "ours",
            Err(Error::Owner(Refusal::TakenOver { .. })) => "taken over",
            Err(Error::Owner(Refusal::Other { .. })) => "other",
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_next_epoch_keeps_the_count_and_fits_the_registry() {
        assert_eq!(next_epoch(7).unwrap(), 1 << 32 | 7);
        assert_eq!(next_epoch(5 << 32 | 7).unwrap(), 6 << 32 | 7);
        assert!(next_epoch(u64::MAX).is_err() && next_epoch((1 << 31) << 32).is_err());
        assert!(i64::try_from(next_epoch(((1 << 31) - 2) << 32).unwrap()).is_ok());
    }

    #[test]
    fn a_later_epoch_is_another_owner_and_an_earlier_one_another_day() {
        let taken = |registry, store| matches!(apart(registry, store), Error::Owner(_));
        assert!(taken(9, 1 << 32) && !taken(9, 7) && !taken(1 << 32, 9));
    }

    #[test]
    fn a_store_is_that_of_who_has_its_key_in_its_epoch() {
        let registry = |key, at| Evidence { registry: Some((key, at)), ..Evidence::default() };
        let later = 1 << 32 | 3;
        for (evidence, transaction, expected) in [
            (Evidence::default(), 9, "other"),
            (registry(Some(OURS), 9), 9, "ours"),
            // A backup of yesterday.
            (registry(Some(OURS), 4), 9, "ours"),
            (registry(Some(OTHERS), 9), 9, "other"),
            (registry(Some(OURS), 9), later, "taken over"),
            (registry(Some(OURS), later), 9, "other"),
            (registry(None, 9), 9, "ours"),
            (registry(None, 0), 9, "other"),
            (Evidence { used: true, ..Evidence::default() }, 9, "ours"),
            (Evidence { used: true, ..Evidence::default() }, later, "other"),
        ] {
            assert_eq!(judged(&evidence, transaction), expected, "{evidence:?} at {transaction}");
        }
        let marker = |key, at| Some(Marker::new(store(), at, &key));
        for (marker, registry, transaction, expected) in [
            (marker(OURS, 0), None, 9, "ours"),
            (marker(OTHERS, 0), None, 9, "other"),
            (marker(OURS, 0), None, later, "taken over"),
            (marker(OURS, later), None, 9, "other"),
            // A backup from before this directory took the store over.
            (marker(OURS, later), Some((Some(OURS), 9)), later, "ours"),
            (marker(OURS, 0), Some((Some(OTHERS), 9)), 9, "other"),
            (marker(OTHERS, 0), Some((Some(OURS), 9)), 9, "ours"),
            (marker(OTHERS, 0), Some((None, 9)), 9, "other"),
        ] {
            let evidence = Evidence { registry, marker, used: true };
            assert_eq!(judged(&evidence, transaction), expected, "{evidence:?} at {transaction}");
        }
    }

    #[test]
    fn a_marker_is_read_as_it_was_written_and_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(dir.path()), None);
        let marker = Marker::new(store(), 3 << 32 | 5, &OURS);
        marker.write(dir.path()).unwrap();
        assert_eq!(Marker::read(dir.path()), Some(marker));
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(text.contains("\"epoch\":3") && !text.contains(&Digest(OURS.0).hex()), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
