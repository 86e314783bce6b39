//! Waiting for all who have the registry open, and telling for whom: an `ensure` has it open as long as its
//! downloads last.

use std::time::{Duration, Instant};

use registry::{Registry, RunState};

use crate::error::Error;
use crate::host::settings::Settings;
use crate::process::lock::{Lock, Locks};
use crate::process::log::{self, Level};

/// It is told for whom is waited when so much time has passed, and then again and again.
const FIRST: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(10);

/// The registry's lock, held alone. Nobody else waits for who waits for it.
///
/// # Errors
/// [`Error::Locked`] after the setting's wait, naming the runs and processes; [`Error::Cancelled`].
pub(super) fn alone(locks: &Locks, settings: &Settings) -> Result<Lock, Error> {
    let begun = Instant::now();
    let mut next = FIRST;
    loop {
        let left = settings.wait.saturating_sub(begun.elapsed());
        let before = locks.set_wait(next.min(left));
        let got = locks.registry_alone();
        locks.set_wait(before);
        match got {
            Err(Error::Locked { what, .. }) => {
                let (holder, waited_s) = (holders(locks, settings), begun.elapsed().as_secs());
                if begun.elapsed() >= settings.wait {
                    return Err(Error::Locked { what, holder, waited_s });
                }
                if settings.talk > 0 {
                    let line = format!(
                        "waits since {waited_s} s for {what}: {holder}. They end by themselves, or by \
                         `orchestrate cancel RUN`"
                    );
                    log::line(Level::Info, &line, &[("waited", waited_s.into())]);
                }
                next = AGAIN;
            }
            got => return got,
        }
    }
}

/// Who has the registry open: runs with their processes and steps, and other processes.
fn holders(locks: &Locks, settings: &Settings) -> String {
    let mut told = Vec::new();
    let mut processes = locks.registry_holders();
    let registry = Registry::open_to_read(&settings.state.join("registry.db"));
    let runs = registry.and_then(|registry| registry.runs(false)).unwrap_or_default();
    for run in runs.iter().filter(|run| run.state == RunState::Running) {
        let (verb, subject) = (run.verb.word(), &run.subject);
        let Ok(Some(process)) = locks.run_holder(verb, subject) else { continue };
        processes.retain(|pid| process != format!("process {pid}"));
        let step = if run.step.is_empty() { String::new() } else { format!(" ({})", run.step) };
        told.push(format!("run {}, {verb} {}{step}, {process}", run.id, subject.escape_debug()));
    }
    told.extend(processes.iter().map(|pid| format!("process {pid}")));
    if told.is_empty() { "another process".into() } else { told.join("; ") }
}
