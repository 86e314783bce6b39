//! Runs that could not be begun for want of room: there may be none to say so in their rows either, so who waits
//! for one is told from here. They wait on, and are begun when there is room.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use registry::RunId;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::host::run::RunLine;
use crate::plan::class::class;
use crate::serve::daemon::{Daemon, lock};

/// A worker does so in a moment.
const PUT_BACK: Duration = Duration::from_secs(1);

impl Daemon {
    /// A run is about to be begun, or is over.
    pub(super) fn begins(&self, id: RunId) {
        lock(&self.work).unbegun.remove(&id);
    }

    /// A run could not be begun.
    pub(super) fn is_unbegun(&self, id: RunId, error: &Error) {
        if class(error) == Class::NoSpace {
            lock(&self.work).unbegun.insert(id, whole(error));
        }
    }

    /// Whether a run has ended; then its worker has put back what is kept for others, too.
    ///
    /// # Errors
    /// [`Error::Told`] of one that cannot be begun: that may last for as long as there is no room.
    pub(super) fn is_over(&self, line: &RunLine) -> Result<bool, Error> {
        let (id, begun) = (line.run.id, Instant::now());
        let mut work = lock(&self.work);
        if !line.run.state.is_end() {
            let Some(why) = work.unbegun.get(&id) else { return Ok(false) };
            let message = format!(
                "{why}; run {id} waits at the daemon and is begun when there is room, `orchestrate cancel \
                 {id}` ends it"
            );
            return Err(Error::Told { class: Class::NoSpace, message });
        }
        while work.working.iter().any(|(item, _)| item.id == id) && begun.elapsed() < PUT_BACK {
            let woken = self.changed.wait_timeout(work, PUT_BACK);
            work = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
    }
}
