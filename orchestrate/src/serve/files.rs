//! Files that clients opened and the daemon holds for their runs: so many, and no longer than until the run has ended.
//! They are gone with the daemon. An archive that comes through a pipe is written down while its client waits, since
//! its digest is its name; from then on its run outlives the daemon as any other.

use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fetch::{Place, Reference};
use registry::{Enqueued, NewRun, RunId};
use serde_json::Value;

use crate::error::Error;
use crate::error::class::Class;
use crate::host::Host;
use crate::host::settings::Settings;
use crate::local::spooled;
use crate::local::way::Given;
use crate::process::cancel::Cancel;
use crate::process::reserve;
use crate::serve::daemon::{Daemon, lock};
use crate::serve::http::request::Peer;
use crate::serve::mode::Mode;
use crate::serve::options::QUESTION_WAIT;
use crate::serve::slot::Slot;

/// Descriptors that are held for runs that have not ended.
pub(crate) const HELD_MAX: usize = 256;

/// Archives that are read from pipes at the same time: each keeps a connection's thread.
pub(crate) const ARRIVING_MAX: usize = 4;

/// How often it is looked whether the client of a pipe is still there.
const LOOK: Duration = Duration::from_millis(100);

impl Daemon {
    /// As [`Daemon::enqueue`], and holds these files for the run, unless it has some already.
    ///
    /// # Errors
    /// As [`Daemon::enqueue`]; [`Error::Told`] where too many are held.
    pub(super) fn enqueue_with(
        &self,
        new: &NewRun<'_>,
        asked: &Value,
        given: Given,
    ) -> Result<Enqueued, Error> {
        if given.count() == 0 {
            return self.enqueue(new, asked);
        }
        // Until they are there no worker that needs them gets past this lock.
        let mut held = lock(&self.held.given);
        let count = held.values().map(Given::count).sum::<usize>();
        if count + given.count() > HELD_MAX {
            let message =
                format!("{count} open files of clients are held, and at most {HELD_MAX} may be");
            return Err(Error::Told { class: Class::Temporary, message });
        }
        let enqueued = self.enqueue(new, asked)?;
        if let Enqueued::Fresh(id) | Enqueued::Joined(id) = enqueued {
            held.entry(id).or_insert(given);
        }
        Ok(enqueued)
    }

    /// What is held for a run; none where nothing came with its request, or that came to another daemon.
    pub(super) fn given(&self, run: RunId) -> Option<Given> {
        lock(&self.held.given).get(&run).cloned()
    }

    /// Closes what was held for a run that has ended.
    pub(super) fn let_go(&self, run: RunId) {
        // Closed when nobody waits for the lock.
        let gone = lock(&self.held.given).remove(&run);
        drop(gone);
    }

    /// Closes what is held for runs that ended without a worker of ours: cancelled, or done elsewhere.
    ///
    /// # Errors
    /// The registry's.
    pub(super) fn let_ended_go(&self) -> Result<(), Error> {
        let ids: Vec<RunId> = lock(&self.held.given).keys().copied().collect();
        for id in ids {
            let run = self.with_registry(|registry| registry.run(id))?;
            if run.is_none_or(|run| run.state.is_end()) {
                self.let_go(id);
            }
        }
        Ok(())
    }

    /// Writes down what comes through a pipe, and gives the name of its image. Who hangs up, and a daemon that stops,
    /// ends it. [`Daemon::archive_goes`] has to follow.
    ///
    /// # Errors
    /// Those of [`Host::take_in`]; [`Error::Told`] where too many are at it.
    pub(super) fn take_in(
        &self,
        image: &Reference,
        file: &Arc<File>,
        peer: Option<&Peer>,
    ) -> Result<Reference, Error> {
        let no = |class, message: String| Err(Error::Told { class, message });
        if self.mode() != Mode::Normal || self.is_stopping() {
            return no(Class::Temporary, "the daemon takes nothing new now".into());
        }
        let Some(_place) = Slot::take(&self.held.arriving, ARRIVING_MAX) else {
            let message = format!("{ARRIVING_MAX} archives come through pipes already");
            return no(Class::Throttled, message);
        };
        let io = |source| Error::Io { doing: "look at", path: "an open file".into(), source };
        let is = file.metadata().map_err(io)?.file_type();
        if !(is.is_fifo() || is.is_file() || is.is_socket()) {
            return Err(Error::Usage(format!(
                "{image}: the descriptor is no pipe, socket or file"
            )));
        }
        reserve::spare(&self.settings().state)?;
        let from = file.try_clone().map_err(io)?;
        let (cancel, over) = (Cancel::default(), AtomicBool::new(false));
        let settings =
            Settings { wait: QUESTION_WAIT, talk: 0, cancel: cancel.clone(), ..self.settings() };
        let mut host = Host::open(settings)?;
        let taken = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    if self.is_stopping() {
                        cancel.request("the daemon stops");
                    } else if peer.is_some_and(Peer::is_gone) {
                        cancel.request("its client has gone");
                    }
                    thread::sleep(LOOK);
                }
            });
            let taken = host.take_in(image, from);
            over.store(true, Ordering::Release);
            taken
        })?;
        lock(&self.held.arrived).push(taken.to_string());
        Ok(taken)
    }

    /// The request for what came through a pipe is answered: the archive goes, unless a run needs it.
    pub(super) fn archive_goes(&self, image: &Reference) {
        let (Place::Here(digest), name) = (&image.place, image.to_string()) else { return };
        let mut arrived = lock(&self.held.arrived);
        if let Some(at) = arrived.iter().position(|other| *other == name) {
            arrived.swap_remove(at);
        }
        let wants = |input: &str| {
            serde_json::from_str::<Value>(input).is_ok_and(|input| input["image"] == name.as_str())
        };
        let live = self.with_registry(|registry| registry.runs(false));
        // Who cannot look leaves it to be swept.
        let wanted = live.map_or(true, |runs| runs.iter().any(|run| wants(&run.input)));
        if !wanted && !arrived.contains(&name) {
            spooled::discard(&self.settings().state, *digest);
        }
    }
}
