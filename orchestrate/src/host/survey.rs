//! Looks at a store that no registry is tied to: whether some registry has sealed volumes in it, whose
//! loss has to be told and not made good by a new one. Nothing is made or changed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use registry::Registry;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::error::refusal::Refusal;
use crate::host::settings::Settings;
use crate::host::{Host, open_store};
use crate::plan::class::class;
use crate::store::seal;
use crate::store::seam::{Peek, Store, StoreName};

/// How long the answer to a question that is asked again and again is kept.
const KEPT: Duration = Duration::from_secs(30);

/// Whether a registry may be made for this store.
///
/// # Errors
/// [`Error::Owner`] where the store has the seal record of one, or that is not known.
pub(crate) fn may_begin(
    store: &dyn Store,
    database: &Path,
    settings: &Settings,
) -> Result<(), Error> {
    let binding = store.binding();
    let name = || format!("{}:{}", binding.kind, binding.id);
    // Two that look at once would each find the other's devices.
    let _alone = store.looks_alone(settings.wait)?;
    let mut ids = store.ids()?;
    ids.sort_unstable();
    let mut unknown = None;
    for volume in ids {
        let why = match store.peek(volume) {
            Ok(Peek::Absent) => continue,
            Ok(Peek::Bytes(bytes)) if !seal::is_record(&bytes) => continue,
            Ok(Peek::Bytes(_)) => {
                let (database, store) = (database.into(), name());
                return Err(Refusal::NoRegistry { database, store, volume }.into());
            }
            Ok(Peek::InUse(device)) => format!("since it is active as {device:?}"),
            Err(error) => format!("since it cannot be read: {}", whole(&error)),
        };
        unknown.get_or_insert((volume, why));
    }
    match unknown {
        Some((volume, why)) if !settings.new => {
            let (database, store) = (database.into(), name());
            Err(Refusal::Unknown { database, store, volume, why }.into())
        }
        Some(_) | None => Ok(()),
    }
}

/// That no volume has the record of another registry, before this one makes its first: a program from
/// before [`may_begin`] made registries anew in place of lost ones. The caller holds the store's lock.
///
/// # Errors
/// [`Error::Owner`].
pub(crate) fn no_other(host: &Host) -> Result<(), Error> {
    if host.registry.seal_key()?.is_some() {
        return Ok(());
    }
    let settings = Settings { new: true, ..host.settings.clone() };
    match may_begin(host.store.as_ref(), host.registry.path(), &settings) {
        Err(Error::Owner(Refusal::NoRegistry { store, .. })) => {
            let why = "it has made no layer yet, and the store has some";
            Err(Refusal::Other { store, state: settings.state, why }.into())
        }
        looked => looked,
    }
}

/// Whether the file is a registry that is tied to a store. One that cannot be read is: its own error
/// says more.
pub(crate) fn is_bound(database: &Path) -> bool {
    // SQLite would write to an empty file by looking at it.
    if !has_bytes(database) {
        return false;
    }
    match Registry::open_existing(database).and_then(|registry| registry.store()) {
        Ok(store) => store.is_some(),
        Err(registry::Error::Older { found: 0, .. }) => false,
        Err(_) => true,
    }
}

/// Whether there is a file with anything in it.
pub(crate) fn has_bytes(database: &Path) -> bool {
    std::fs::metadata(database).is_ok_and(|found| found.len() > 0)
}

/// The store cannot be opened: where no registry is there either, that is not yet known to be harm.
pub(crate) fn down(error: Error, database: &Path, name: &StoreName) -> Error {
    match &error {
        Error::Thin(thin) if thin.kind() == thin::Kind::PoolMissing && !database.exists() => {
            Refusal::Down { database: database.into(), store: name.to_string() }.into()
        }
        _ => error,
    }
}

/// What is wrong with there being no registry; none when the next command may make one. Kept for a
/// while: who asks may be a monitor, and each look maps devices.
pub(crate) fn objection(settings: &Settings) -> Option<Error> {
    type Kept = Option<(PathBuf, Instant, Class, String)>;
    static LAST: Mutex<Kept> = Mutex::new(None);
    let database = settings.state.join("registry.db");
    if is_bound(&database) {
        return None;
    }
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, at, class, text)) = &*last
        && (of == &database && at.elapsed() < KEPT)
    {
        return Some(Error::Told { class: *class, message: text.clone() });
    }
    let found = look(settings, &database);
    *last = found.as_ref().map(|error| (database, Instant::now(), class(error), whole(error)));
    found
}

fn look(settings: &Settings, database: &Path) -> Option<Error> {
    // A directory that is no store yet would be made one.
    if let StoreName::Dir(path) = &settings.store
        && !path.join("veneer-store").exists()
    {
        return None;
    }
    let looked = open_store(&mut settings.clone())
        .map_err(|error| down(error, database, &settings.store))
        .and_then(|store| may_begin(store.as_ref(), database, settings));
    // It may have been made meanwhile.
    looked.err().filter(|_| !is_bound(database))
}
