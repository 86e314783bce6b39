//! A directory store that has lost its identity or its transaction id gets them back, from what the state
//! directory knows of it: the registry that is there, or what is kept beside it.

use std::path::PathBuf;

use registry::{Registry, StoreBinding};

use crate::error::Error;
use crate::error::refusal::Refusal;
use crate::host::owner::Marker;
use crate::host::settings::Settings;
use crate::process::lock::Locks;
use crate::store::dir_restore::Lacking;
use crate::store::seal::Key;
use crate::store::seam::StoreName;
use crate::verbs::rebuild::{RebuildOptions, without_daemon};

/// Puts back what the store lacks; gives the files.
///
/// # Errors
/// [`Error::Owner`] where nothing in the state directory tells that it is its store, and it is not to be taken
/// over. Then nothing is changed.
pub(super) fn restore(settings: &Settings, options: RebuildOptions) -> Result<Vec<PathBuf>, Error> {
    let StoreName::Dir(path) = &settings.store else { return Ok(Vec::new()) };
    let Some(lacking) = Lacking::look(path)? else { return Ok(Vec::new()) };
    let registry = Registry::open_to_read(&settings.state.join("registry.db")).ok();
    let binding = registry.as_ref().and_then(|registry| registry.store().ok()?);
    let marker = Marker::read(&settings.state);
    let bound = |id: &str| {
        let here = |store: &StoreBinding| store.kind == "dir" && store.id == id;
        let kept = marker.as_ref().map(Marker::store);
        binding.as_ref().is_some_and(here) || kept.as_ref().is_some_and(here)
    };
    let key = registry.as_ref().and_then(|registry| registry.seal_key().ok()?);
    let known = match (&lacking.key, &lacking.id) {
        (Some(found), _) => {
            key.is_some_and(|key| Key(key.0) == *found)
                || marker.as_ref().is_some_and(|marker| marker.is_of_key(found))
        }
        (None, Some(id)) => bound(id),
        (None, None) => false,
    };
    if !known && !options.take_over {
        let store = settings.store.to_string();
        let why =
            "it has lost its identity or its transaction id, and nothing there tells of this store";
        return Err(Refusal::Other { store, state: settings.state.clone(), why }.into());
    }
    if options.dry_run {
        let text = format!(
            "{} has lost its identity or its transaction id; `orchestrate rebuild` without -n puts them back, and \
             only then can be looked at what is in it",
            settings.store
        );
        return Err(Error::Usage(text));
    }
    let _alone = if settings.state.is_dir() {
        let locks = Locks::new(&settings.state, settings.wait, settings.cancel.clone())?;
        let lock = without_daemon(&locks)?;
        Some((crate::verbs::rebuild::waits::alone(&locks, settings)?, lock))
    } else {
        None
    };
    let ids = [&binding, &marker.as_ref().map(Marker::store)];
    let of_dir = ids.into_iter().flatten().find(|store| known && store.kind == "dir");
    let id = match of_dir {
        Some(store) => store.id.clone(),
        None => Key::random()?.0[..16].iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let ours = registry.as_ref().filter(|_| known);
    let number = ours.and_then(|registry| registry.transaction_id().ok()).unwrap_or(0);
    let kept = marker.as_ref().filter(|_| known).map_or(0, Marker::first_transaction);
    let number = number.max(kept).max(lacking.made);
    lacking.put_back(&id, number, settings.wait, &settings.cancel)
}
