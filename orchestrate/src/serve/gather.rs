//! Finds what waits in the registry, what somebody died over, and what other processes are at work on that
//! somebody here has to come after.

use registry::{Run, RunId, RunState, Verb};

use crate::error::Error;
use crate::host::{order, run};
use crate::serve::daemon::{Daemon, lock};
use crate::serve::queue::Item;

impl Daemon {
    /// Finds what waits in the registry, and what somebody died over.
    pub(super) fn gather(&self) -> Result<(), Error> {
        let runs = self.with_registry(|registry| registry.runs(false))?;
        self.gather_of(runs)
    }

    /// Finds what was asked for before this run and is about the same name: what takes that away comes after
    /// it, whoever was asked.
    pub(super) fn gather_before(&self, run: &Run) -> Result<(), Error> {
        if !matches!(run.verb, Verb::Deactivate | Verb::Rm) {
            return Ok(());
        }
        let item = Item::of(run);
        let runs = self.with_registry(|registry| match order::is_image(&run.subject) {
            true => registry.runs(false),
            false => registry.live_runs_of(&run.subject),
        })?;
        let before = |other: &Run| item.is_after(&Item::of(other));
        self.gather_of(runs.into_iter().filter(before).collect())
    }

    fn gather_of(&self, runs: Vec<Run>) -> Result<(), Error> {
        let locks = self.locks()?;
        for run in runs {
            if lock(&self.work).knows(run.id) {
                continue;
            }
            let queued = run.state == RunState::Queued;
            let line = run::line(&locks, run)?;
            if queued || line.interrupted {
                self.push(self.item(&line.run));
                continue;
            }
            let (item, mut work) = (Item::of(&line.run), lock(&self.work));
            if !work.elsewhere.iter().any(|known| known.id == item.id) {
                work.elsewhere.push(item);
            }
        }
        Ok(())
    }

    /// Looks again at what other processes are at work on. Whether there is some.
    pub(super) fn look_elsewhere(&self) -> Result<bool, Error> {
        let known: Vec<RunId> = lock(&self.work).elsewhere.iter().map(|item| item.id).collect();
        if known.is_empty() {
            return Ok(false);
        }
        let (locks, mut over) = (self.locks()?, Vec::new());
        for id in known {
            let run = self.with_registry(|registry| registry.run(id))?;
            match run.filter(|run| !run.state.is_end()) {
                None => over.push(id),
                Some(run) => {
                    let line = run::line(&locks, run)?;
                    if line.interrupted || line.run.state == RunState::Queued {
                        over.push(id);
                        self.push(self.item(&line.run));
                    }
                }
            }
        }
        let mut work = lock(&self.work);
        work.elsewhere.retain(|item| !over.contains(&item.id));
        let left = !work.elsewhere.is_empty();
        drop(work);
        self.changed.notify_all();
        Ok(left)
    }
}
