//! Removal of a device within a bound. An open device is tried again for a while, then its
//! holders are named; it is never forced and never deferred.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::Error;
use crate::format::units::Dev;
use crate::kernel::dm::{By, Dm};
use crate::kernel::{holders, node};

/// What became of a device that was to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// There was none.
    WasAbsent,
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// Removes the device of this uuid, so that a name that has passed on is left alone.
pub(crate) fn remove(dm: &Dm, uuid: &str, name: &str, wait: Duration) -> Result<Removal, Error> {
    within(dm, By::Uuid(uuid), name, wait)
}

/// Removes a device that has no uuid.
pub(crate) fn remove_by_name(dm: &Dm, name: &str, wait: Duration) -> Result<Removal, Error> {
    within(dm, By::Name(name), name, wait)
}

fn within(dm: &Dm, by: By<'_>, name: &str, wait: Duration) -> Result<Removal, Error> {
    let Some(state) = dm.state(by)? else { return Ok(Removal::WasAbsent) };
    known(dm, by, state.dev, name, wait)
}

/// As [`remove`], of a device whose number the caller has just read.
pub(crate) fn known(
    dm: &Dm,
    by: By<'_>,
    dev: Dev,
    name: &str,
    wait: Duration,
) -> Result<Removal, Error> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match dm.remove(by) {
            Ok(removed) => {
                node::forget(dev, name)?;
                return Ok(if removed { Removal::Removed } else { Removal::WasAbsent });
            }
            Err(err) if err.raw_errno() == Some(Errno::EBUSY) => {
                let waited = start.elapsed();
                if waited >= wait {
                    return Err(Error::Held {
                        name: name.to_owned(),
                        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                        holders: holders::of(dev),
                    });
                }
                sleep(pause.min(wait.saturating_sub(waited)));
                pause = (pause * 2).min(LAST_PAUSE);
            }
            Err(err) => return Err(err),
        }
    }
}
