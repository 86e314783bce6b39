//! A registry of an older schema, and who may still be at work on it with the program of that schema.

use std::time::{Duration, Instant};

use registry::Registry;

use crate::error::{Error, OfState};
use crate::process::lock::Locks;

/// How long a daemon that begins may take to bring it up itself.
const BEGINS: Duration = Duration::from_secs(2);

/// Migrates a registry of an older schema as soon as nobody is at work on it.
///
/// # Errors
/// [`OfState::OlderDaemon`]; [`Error::Locked`] by a command of an older program.
pub(crate) fn bring_up(registry: &mut Registry, locks: &Locks) -> Result<(), Error> {
    if registry.older()?.is_none() {
        return Ok(());
    }
    let begun = Instant::now();
    while let Some(holder) = locks.other_daemon()? {
        let Some(found) = registry.older()? else { return Ok(()) };
        if begun.elapsed() >= BEGINS {
            let path = registry.path().to_owned();
            return Err(OfState::OlderDaemon { path, found, holder }.into());
        }
        locks.sleep(Duration::from_millis(50))?;
    }
    // A command of the older program has these for all that it does to images and to the store.
    let _images = locks.images_alone()?;
    let _store = locks.store()?;
    Ok(registry.bring_up()?)
}
