//! What the loop does for the host: mends what is not as its row says, and forgets what is old.

use registry::Registry;

use crate::error::Error;
use crate::process::log::{self, Level};
use crate::serve::daemon::Daemon;
use crate::serve::mode::Mode;
use crate::verbs::history;
use crate::verbs::unsettled::{self, Unsettled};

/// Steps of forgetting in one go: some ten thousand rows.
const PRUNE_STEPS: usize = 20;

impl Daemon {
    /// Mends what is not as its row says, and does what was wished for the time when a device is closed.
    pub(super) fn settle(&self) -> Result<(), Error> {
        if self.mode() == Mode::Rescue {
            return Ok(());
        }
        self.with_host(|host| {
            let to_do = |found: &Unsettled| {
                !matches!(found.kind, unsettled::Kind::LookedAt | unsettled::Kind::Barred)
            };
            match host.unsettled()?.iter().any(to_do) {
                true => host.recover(false).map(drop),
                false => Ok(()),
            }
        })
    }

    /// Removes activations whose time has ended and that nobody uses, and disks that arrived in part: what a collection does first, and nothing else
    /// of it.
    pub(super) fn end_ttls(&self) -> Result<(), Error> {
        if self.mode() != Mode::Normal {
            return Ok(());
        }
        let ended = self.with_host(|host| {
            host.end_arrivals(false)?;
            host.end_ttls(false)
        })?;
        let gone = ended.iter().filter(|one| one.stays.is_none());
        for one in gone.clone() {
            let line = format!("activation {} is removed: its time has ended", one.name);
            log::line(Level::Info, &line, &[]);
        }
        if gone.count() > 0 {
            self.tell();
        }
        Ok(())
    }

    /// Forgets some of what is beyond the settings' age and number; where that was all, gives room of the
    /// registry's file back. Returns whether there may be more: the loop goes on meanwhile.
    pub(super) fn prune(&self) -> Result<bool, Error> {
        let (keep, now) = (self.settings().history, history::moment()?);
        for _ in 0..PRUNE_STEPS {
            // Others write in between.
            if self.with_registry(|registry| registry.prune(&keep, &now))?.is_empty() {
                return self.with_registry(Registry::shrink).map(|()| false);
            }
            if self.is_stopping() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
