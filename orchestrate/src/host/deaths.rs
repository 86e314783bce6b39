//! A run whose process died twice in one step, in one boot, without coming forward in between is not taken
//! up again: what kills its process would kill the next one too. Other deaths, as by a power cut or by
//! somebody who killed it here and there, only count towards the begins that a run may have.

use std::fs;

use registry::{Death, Life, Run, RunState, Verb};

use crate::error::Error;
use crate::host::Host;
use crate::process::clock::now_ms;
use crate::trust::moment::moment;

/// The class of a run that is given up.
pub(crate) const CLASS: &str = "crash_loop";

/// How a run ends that is given up.
pub(crate) fn failed(message: String) -> RunState {
    RunState::Failed { class: CLASS.into(), message }
}

/// How a dead run stands.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    /// How its last process died, where that was in this boot.
    pub(crate) last: Option<Death>,
    /// The death before, where the last was just like it.
    pub(crate) before: Option<Death>,
}

impl Dead {
    /// How a run ends that was killed by what it does.
    pub(crate) fn end(&self, run: &Run) -> Option<RunState> {
        let (last, before) = (self.last.as_ref()?, self.before.as_ref()?);
        let place = match last.place.as_str() {
            "" => "before its first step".to_owned(),
            place => format!("in the same step ({place})"),
        };
        let at = |death: &Death| moment(death.at_ms.div_euclid(1000));
        Some(failed(format!(
            "run {} ({} {}) is given up: its process died twice in one boot {place}, without coming forward \
             in between; it was found dead at {} and at {}; look into the kernel's log, then ask for the \
             same again",
            run.id,
            run.verb.word(),
            run.subject,
            at(before),
            at(last),
        )))
    }
}

/// Whether `mark` is further than `before`. What came of a layer may have become less, as where a spool was
/// removed, and what is to be removed more, as where others build: neither is progress.
fn forward(verb: Verb, before: u64, mark: u64) -> bool {
    match verb {
        Verb::Gc | Verb::Rm => mark < before,
        Verb::Ensure | Verb::Activate | Verb::Deactivate => mark > before,
    }
}

/// Changes with every boot; empty where that cannot be told.
pub(crate) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Host {
    /// How the processes of a run died of which nobody has the lock.
    pub(crate) fn dead(&self, run: &Run) -> Result<Dead, Error> {
        let now = boot();
        if run.state != RunState::Running {
            return Ok(Dead::default());
        }
        let life = self.registry.life(run.id)?;
        let Some(life) = life.filter(|life| !now.is_empty() && life.boot == now) else {
            return Ok(Dead::default());
        };
        let mark = self.mark(run, &life)?;
        let same = |died: &Death| {
            died.boot == now && died.place == life.place && !forward(run.verb, died.mark, mark)
        };
        let before = life.died.filter(same);
        Ok(Dead {
            last: Some(Death { boot: now, place: life.place, mark, at_ms: now_ms() }),
            before,
        })
    }

    /// How a run ends that was killed by what it does. Where what it is for is there all the same, it died with no
    /// more to do than to say so, and is done.
    pub(crate) fn end_of_dead(&self, run: &Run) -> Result<Option<RunState>, Error> {
        let end = self.dead(run)?.end(run);
        match end.is_some() && self.stands(run)? {
            true => Ok(Some(RunState::Done)),
            false => Ok(end),
        }
    }

    /// How a run ends that is not to be taken up; none where it may be.
    pub(crate) fn killed_by_itself(&self, run: &Run) -> Result<Option<RunState>, Error> {
        let end = self.end_of_dead(run)?;
        if let Some(RunState::Failed { message, .. }) = &end {
            self.warn(message, &[("run", run.id.into())]);
        }
        Ok(end)
    }

    /// How far a dead run was in its step: what it had fetched, or what is left to be removed.
    fn mark(&self, run: &Run, life: &Life) -> Result<u64, Error> {
        match run.verb {
            Verb::Gc | Verb::Rm => {
                Ok(u64::try_from(self.registry.volumes()?.len()).unwrap_or(u64::MAX))
            }
            Verb::Ensure | Verb::Activate | Verb::Deactivate if life.spool.is_empty() => Ok(0),
            Verb::Ensure | Verb::Activate | Verb::Deactivate => {
                let dir = self.settings.state.join("spool");
                let Ok(entries) = fs::read_dir(dir) else { return Ok(0) };
                let ours = |entry: &fs::DirEntry| {
                    entry.file_name().to_str().is_some_and(|name| name.starts_with(&life.spool))
                };
                let bytes = |entry: fs::DirEntry| entry.metadata().map_or(0, |found| found.len());
                Ok(entries.flatten().filter(ours).map(bytes).sum())
            }
        }
    }
}
