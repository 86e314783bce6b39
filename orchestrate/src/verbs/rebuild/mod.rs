//! `rebuild`: a registry made anew from what the store's volumes say of themselves.
//!
//! What the registry that was there says of a volume goes first (`known`), since whoever has an activation
//! may write anything on it. Of volumes that it does not know: one whose record names it and has a good seal
//! is a sealed layer (`layers`). One with another's good record was a snapshot of that: an activation, or a
//! build that never ended; nothing tells these two apart when no device is there, so it is kept as an inactive
//! activation (`activations`). What has no record stays foreign.

pub(crate) mod activations;
pub(crate) mod foundation;
pub(crate) mod gather;
pub(crate) mod known;
pub(crate) mod layers;
pub(crate) mod place;
pub(crate) mod points;
pub(crate) mod restore;
pub(crate) mod unread;
pub(crate) mod waits;

use std::fs;
use std::path::{Path, PathBuf};

use registry::{CatalogFact, Facts, Registry, VolumeId};
use serde::Serialize;

use crate::error::Error;
use crate::error::leaves::whole;
use crate::error::refusal::epoch as epoch_of;
use crate::host::open_store;
use crate::host::owner::{Evidence, Marker};
use crate::host::settings::Settings;
use crate::plan::epoch;
use crate::process::lock::{Lock, Locks};
use crate::process::place::{STATE, free, make};
use crate::store::seal::Key;
use crate::store::seam::Store;
use crate::verbs::rebuild::foundation::{Foundation, Look};
use crate::verbs::rebuild::gather::{Found, gather};
use crate::verbs::rebuild::place::{io_error, put_in_place, remove, with_suffix};
use crate::verbs::rebuild::unread::Unread;

/// How a registry is made anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct RebuildOptions {
    /// Only tell what would be found.
    pub dry_run: bool,
    /// Also where the store is another registry's, which is refused from then on.
    pub take_over: bool,
}

/// What a rebuild found.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// Sealed layers.
    pub layers: usize,
    /// Images by name.
    pub images: Vec<String>,
    /// Activations by name.
    pub activations: Vec<String>,
    /// Ids in the store that say nothing of themselves; they stay.
    pub foreign: Vec<VolumeId>,
    /// What could not be looked at, or put away; it stays.
    pub unread: Vec<Unread>,
    /// The newest signed catalogs that were believed.
    pub catalogs: Vec<CatalogFact>,
    /// Where the registry that was there is now; none when there was none or nothing was written.
    pub kept: Option<PathBuf>,
    /// What that one knew beside what the store says, and could not be taken over.
    pub lost: Vec<String>,
    /// Files of a directory store that it had lost and has again.
    pub restored: Vec<PathBuf>,
    /// Whether the store was, or would be, taken over.
    pub taken_over: bool,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
    /// What the registry is made of: with the store's secret.
    #[serde(skip)]
    pub facts: Facts,
}

/// Makes the registry of `settings.state` anew. Names and pins are taken from the one that is there,
/// where it can be read and agrees.
///
/// # Errors
/// [`Error::NoNotes`] when the store has no template that says so; [`Error::Owner`] when it is that of
/// another state directory and is not to be taken over. Then nothing is changed.
pub fn rebuild(mut settings: Settings, options: RebuildOptions) -> Result<Rebuilt, Error> {
    let RebuildOptions { dry_run, take_over } = options;
    free(&settings.state, STATE)?;
    let restored = restore::restore(&settings, options)?;
    let store = open_store(&mut settings)?;
    let store = store.as_ref();
    let path = settings.state.join("registry.db");
    // Of those that are about to put another in its place the last one is looked at.
    let before = Registry::open_to_read(&path).ok();
    if !dry_run && settings.state.join("locks/serve.lock").exists() {
        let locks = Locks::new(&settings.state, settings.wait, settings.cancel.clone())?;
        without_daemon(&locks)?;
    }
    // Refused before anything is made.
    let own = judge(store, before.as_ref(), &settings.state);
    if !take_over {
        own?;
    }
    if dry_run {
        let (mut facts, found) = gather(store, before.as_ref(), &settings.state)?;
        if take_over {
            facts.transaction_id = next_epoch(&facts, before.as_ref())?;
        }
        return Ok(rebuilt(facts, found, None, options));
    }
    drop(before);
    make(&settings.state, STATE)?;
    let locks = Locks::new(&settings.state, settings.wait, settings.cancel.clone())?;
    let _no_daemon = without_daemon(&locks)?;
    // All who have it open, and those of an older program, which does not know that lock.
    let _registry = waits::alone(&locks, &settings)?;
    let _images = locks.images_alone()?;
    let _store = locks.store()?;
    let old = Registry::open_to_read(&path).ok();
    // Nobody of this state directory is at work now: these are what killed builds and looks left.
    let mut held = Vec::new();
    for left in store.mapped()?.iter().filter(|mapped| store.is_work(mapped)) {
        match store.unmap(left.id, &left.name) {
            Ok(()) => {}
            // It may be the former owner's, at work.
            Err(error) if take_over => return Err(error),
            Err(error) => held.push(Unread::of(left.id, whole(&error))),
        }
    }
    let (mut facts, mut found) = gather(store, old.as_ref(), &settings.state)?;
    found.unread.extend(held);
    let before = facts.transaction_id;
    if take_over {
        facts.transaction_id = next_epoch(&facts, old.as_ref())?;
    }
    let new = settings.state.join("registry.db.rebuilt");
    // What a killed rebuild left.
    let clear = || ["", "-wal", "-shm"].iter().try_for_each(|end| remove(&with_suffix(&new, end)));
    clear()?;
    // Closing it brings its log into the file.
    let (made, lost) = Registry::rebuild_after(&new, &facts, old.as_ref())?;
    drop((made, old));
    if take_over {
        // From here on the former owner is refused; had it changed anything since the look, this is.
        store.set_transaction_id(before, facts.transaction_id).inspect_err(|_| drop(clear()))?;
    }
    if let Some(key) = &facts.seal_key {
        // Before the registry is in its place: killed in between, the next rebuild is allowed.
        let marker = Marker::new(facts.store.clone(), facts.transaction_id, &Key(key.0));
        marker.write(&settings.state)?;
    }
    let kept = put_in_place(&path, &new)?;
    clear()?;
    fs::File::open(&settings.state)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", &settings.state))?;
    Ok(Rebuilt { lost, restored, ..rebuilt(facts, found, kept, options) })
}

/// No daemon, and none begins: it would go on with the registry that is moved away.
fn without_daemon(locks: &Locks) -> Result<Lock, Error> {
    locks.try_serve()?.ok_or_else(|| {
        let (what, holder) = ("the registry".into(), "`orchestrate serve`: stop it first".into());
        Error::Locked { what, holder, waited_s: 0 }
    })
}

/// Whether the store is that of the state directory.
fn judge(store: &dyn Store, old: Option<&Registry>, state: &Path) -> Result<(), Error> {
    let look = Look::at(store)?;
    let Foundation { key, .. } = Foundation::of(&look, old, Marker::read(state).as_ref())?;
    let transaction = store.transaction_id()?;
    match (key, old) {
        (Some(key), _) => {
            Evidence::gather(state, old).judge(&store.binding(), &key, transaction, state)
        }
        // It is tied to this store, and from before there were keys.
        (None, Some(old)) if epoch_of(old.transaction_id()?) == epoch_of(transaction) => Ok(()),
        (None, old) => {
            let at = old.map_or(Ok(0), Registry::transaction_id)?;
            Err(epoch::apart(at, transaction))
        }
    }
}

/// Above what the store and the registry that is there have counted to.
fn next_epoch(facts: &Facts, old: Option<&Registry>) -> Result<u64, Error> {
    let old = old.and_then(|old| old.transaction_id().ok()).unwrap_or(0);
    let later = epoch_of(old) > epoch_of(facts.transaction_id);
    epoch::next_epoch(if later { old } else { facts.transaction_id })
}

fn rebuilt(
    facts: Facts,
    found: Found,
    kept: Option<PathBuf>,
    RebuildOptions { dry_run, take_over }: RebuildOptions,
) -> Rebuilt {
    Rebuilt {
        layers: facts.layers.len(),
        images: facts.images.iter().map(|image| image.reference.clone()).collect(),
        activations: facts.activations.iter().map(|row| row.name.clone()).collect(),
        catalogs: facts.catalogs.clone(),
        foreign: found.foreign,
        unread: found.unread,
        kept,
        lost: Vec::new(),
        restored: Vec::new(),
        taken_over: take_over,
        dry_run,
        facts,
    }
}
