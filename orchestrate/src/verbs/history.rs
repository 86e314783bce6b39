//! Forgets what is beyond the age and number of the settings: a little at the end of a run, so that it is
//! done where no daemon runs, and all of it by `gc`. In a full state directory the oldest goes before its time,
//! as much as makes room for what is committed next.

use std::time::Duration;

use registry::{Moment, Pruned};

use crate::error::Error;
use crate::host::Host;
use crate::process::reserve;

/// Steps at the end of one run: more than it can have added.
const STEPS: usize = 2;

impl Host {
    /// All of it, in small transactions, between which others write.
    ///
    /// # Errors
    /// Those of the registry; what was forgotten before stays so.
    pub(crate) fn prune(&mut self) -> Result<Pruned, Error> {
        let now = moment()?;
        let mut all = Pruned::default();
        loop {
            let some = self.registry.prune(&self.settings.history, &now)?;
            if some.is_empty() {
                self.registry.shrink()?;
                return Ok(all);
            }
            all += some;
        }
    }

    /// A few steps of it, where it is due. No run fails by it.
    pub(crate) fn prune_a_little(&mut self) {
        if let Err(error) = self.try_to_prune_a_little() {
            self.say(2, format_args!("the past is not pruned: {error}"));
        }
    }

    fn try_to_prune_a_little(&mut self) -> Result<(), Error> {
        if reserve::short_of(&self.settings.state).is_some() {
            // The next command finds no room but what is empty in the file.
            return Ok(self.registry.make_room()?);
        }
        let (keep, now) = (self.settings.history, moment()?);
        if !self.registry.is_prune_due(&keep, &now)? {
            return Ok(());
        }
        for _ in 0..STEPS {
            if self.registry.prune(&keep, &now)?.is_empty() {
                return Ok(self.registry.shrink()?);
            }
        }
        Ok(())
    }
}

/// Now, by a clock that nobody sets.
///
/// # Errors
/// [`Error::Io`] where /proc is not there.
pub(crate) fn moment() -> Result<Moment, Error> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        })
    };
    let up = read("/proc/uptime")?;
    let seconds: f64 = up.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let up = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let boot = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(Moment { boot, up_ms: i64::try_from(up.as_millis()).unwrap_or(i64::MAX) })
}
