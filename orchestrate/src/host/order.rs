//! The order of what is asked of one name, where it is not there yet: who would take away what an earlier run
//! is only making comes after that run, and who may not wait is told which it is.

use std::time::Instant;

use registry::{Run, RunId, RunState, Verb};
use serde_json::Value;

use crate::error::Error;
use crate::error::amiss::{Amiss, Making};
use crate::error::class::Class;
use crate::host::Host;
use crate::process::cancel::LOOK;

/// The image that a run makes or brings, if it is for one.
pub(crate) fn image_of(run: &Run) -> Option<String> {
    match run.verb {
        Verb::Ensure => Some(run.subject.clone()),
        Verb::Activate => {
            let input: Value = serde_json::from_str(&run.input).ok()?;
            input["image"].as_str().map(str::to_owned)
        }
        Verb::Deactivate | Verb::Rm | Verb::Gc => None,
    }
}

/// Whether `name` is an image's and no activation's.
pub(crate) fn is_image(name: &str) -> bool {
    name.contains(':')
}

impl Host {
    /// Why there is no run of this number.
    pub(crate) fn no_run(&self, run: RunId) -> Error {
        no_run(&self.registry, run)
    }

    /// The runs that have not ended and make this activation or image, the oldest first.
    fn makers(&self, name: &str) -> Result<Vec<Run>, Error> {
        let mut live = match is_image(name) {
            true => self.registry.runs(false)?,
            false => self.registry.live_runs_of(name)?,
        };
        live.retain(|run| match is_image(name) {
            true => image_of(run).as_deref() == Some(name),
            false => run.verb == Verb::Activate,
        });
        Ok(live)
    }

    /// Whether some run that has not ended makes this activation or image.
    pub(crate) fn is_being_made(&self, name: &str) -> Result<bool, Error> {
        Ok(!self.makers(name)?.is_empty())
    }

    /// Why there is nothing of this name for who does not wait.
    pub(crate) fn unknown(&self, what: &'static str, name: &str) -> Error {
        match self.makers(name) {
            Ok(makers) => match makers.first() {
                Some(run) => self.making(what, name, run, None),
                None => Error::Unknown { what, name: name.into() },
            },
            Err(error) => error,
        }
    }

    fn making(&self, what: &'static str, name: &str, run: &Run, waited_s: Option<u64>) -> Error {
        let interrupted = match run.state {
            RunState::Queued => !self.locks.is_served().unwrap_or(true),
            _ => !self.locks.is_run_held(run.verb.word(), &run.subject).unwrap_or(true),
        };
        let asked = format!("{} {}", run.verb.word(), run.subject);
        Error::Making(Making { what, name: name.into(), run: run.id, asked, waited_s, interrupted })
    }

    /// Comes after the runs that were asked for before this one and make `name`, which is not there: waits
    /// for those that somebody is at work on, or will be, and ends those that nobody is. Whether there was
    /// one of these.
    ///
    /// # Errors
    /// [`Error::Making`] when one has not ended in time; or was interrupted, and makes more than `name`.
    pub(crate) fn after_its_makers(
        &mut self,
        what: &'static str,
        name: &str,
    ) -> Result<bool, Error> {
        let (begun, own) = (Instant::now(), self.run);
        let mut ended = false;
        loop {
            let earlier = |run: &Run| own.is_none_or(|own| run.id < own);
            let Some(run) = self.makers(name)?.into_iter().find(earlier) else { return Ok(ended) };
            let late = |host: &Host| host.making(what, name, &run, Some(begun.elapsed().as_secs()));
            if run.state == RunState::Queued && self.locks.is_served()? {
                if begun.elapsed() >= self.locks.wait() {
                    return Err(late(self));
                }
                self.settings.cancel.sleep(LOOK)?;
                continue;
            }
            let _dead = match self.locks.run(run.verb.word(), &run.subject) {
                Err(Error::Locked { .. }) => return Err(late(self)),
                lock => lock?,
            };
            // As it is now: it has ended most likely, or another process has put it by.
            let now = self.registry.run(run.id)?.filter(|now| !now.state.is_end());
            let Some(now) = now.filter(|now| now.state == run.state) else { continue };
            if is_image(name) && now.verb == Verb::Activate {
                return Err(self.making(what, name, &now, None));
            }
            let end = match self.given_up(&now)? {
                end @ (RunState::Done | RunState::Cancelled) => end,
                RunState::Queued | RunState::Running | RunState::Failed { .. } => {
                    overtaken_by(own, name)
                }
            };
            self.end_run(now.id, |write| write.finish_run(now.id, &end, None))?;
            ended = true;
        }
    }
}

/// Why there is no run of this number in a registry.
pub(crate) fn no_run(registry: &registry::Registry, run: RunId) -> Error {
    match registry.runs_kept() {
        Ok(kept) => Error::Amiss(Amiss::NoRun { run, kept }),
        Err(error) => error.into(),
    }
}

/// How a run ends that nobody is at work on, and that what comes later would have to undo.
fn overtaken_by(own: Option<RunId>, name: &str) -> RunState {
    let by = own.map_or_else(String::new, |own| format!("run {own}, "));
    RunState::Failed {
        class: Class::Usage.word().into(),
        message: format!(
            "it was interrupted, and {by}which takes {name} away, was asked for later and is done"
        ),
    }
}
