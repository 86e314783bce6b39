//! Runs: what was asked for is committed before anything is done for it, and how it ended after.
//!
//! A run whose process died is taken up by the same command, or by `recover`. Begun too often
//! without coming forward it is given up, so that what kills the process cannot do so for ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use registry::{Run, RunId, RunState, Verb};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::host::{Host, asked, deaths};
use crate::plan::class::{class, failed_by};
use crate::plan::retry::{self, Step};
use crate::process::cancel::Watch;
use crate::process::lock::Locks;
use crate::process::log::{self, Field, Level};
use crate::process::{full, reserve};

/// A run that was begun this often and never came forward is given up.
pub(crate) const BEGINS_MAX: u32 = 5;

/// How often it is looked whether a run's process lives, before somebody is refused for it.
const LOOKS: u32 = 3;

/// A run as it is told to people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunLine {
    /// The row.
    #[serde(flatten)]
    pub run: Run,
    /// Whether it is at no end and no process is at work on it, or will be by itself.
    pub interrupted: bool,
}

impl Host {
    /// Does `work` as one run. A second run of the same verb and subject waits for the first where it
    /// asks for the same.
    ///
    /// # Errors
    /// [`Error::Taken`] while one that asks for something else of that name has not ended.
    pub(crate) fn as_run<T: Serialize>(
        &mut self,
        verb: Verb,
        subject: &str,
        input: Value,
        work: impl Fn(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let again = self.taking_up.take();
        let done = self.on_one_file(|host| {
            host.taking_up = again;
            host.as_one_run(verb, subject, input.clone(), &work)
        });
        done.map_err(|error| full::told(error, &self.settings.places()))
    }

    fn as_one_run<T: Serialize>(
        &mut self,
        verb: Verb,
        subject: &str,
        mut input: Value,
        work: impl Fn(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        input["s3"] = asked::s3(&self.settings);
        if let Some(opens) = self.way.opens() {
            input["opens"] = opens.clone();
        }
        let again = self.taking_up.take();
        self.put_by = false;
        if again.is_none() && verb == Verb::Activate {
            self.stands_in_no_way(verb, subject, &input)?;
        }
        self.keep_asker(again, &mut input)?;
        let _mine = self.locks.run(verb.word(), subject)?;
        // Who wants it no more ends nobody's run.
        self.settings.cancel.check()?;
        if !reserve::is_for(verb) {
            reserve::spare(&self.settings.state)?;
        }
        let id = self.begin_run(verb, subject, &input, again)?;
        let _watch = Watch::over(self.registry.path(), id, &self.settings.cancel);
        self.run = Some(id);
        // `recover` does run after run: what one sealed is no progress of the next.
        self.sealed = 0;
        let asked = [("verb", verb.word().into()), (subject_field(verb), subject.into())];
        self.event("run begins", &asked);
        let begun = Instant::now();
        self.tell_waits(id);
        let result = self.settings.cancel.check().and_then(|()| work(self));
        // Whatever failed by it: somebody asked to stop.
        let result = result.or_else(|error| self.settings.cancel.check().and(Err(error)));
        self.using = None;
        let result = result.map_err(|error| full::told(error, &self.settings.places()));
        let end = ended(&result);
        let put_by = self.put_by || end == RunState::Cancelled && self.settings.cancel.suspends();
        let shown = if put_by { &RunState::Queued } else { &end };
        self.tell_end(id, &end_fields(&asked, shown, begun), shown);
        self.run = None;
        self.locks.on_wait(None);
        let gave = result.as_ref().ok().and_then(|done| serde_json::to_value(done).ok());
        let why = match self.put_by {
            true => "layers of it have to be fetched",
            false => "its process stops in good order",
        };
        let kept = match put_by {
            true => {
                let suspend = |write: &registry::Write<'_>| {
                    write.end_life(id)?;
                    write.suspend_run(id, why)
                };
                self.registry.write(suspend).map_err(Error::Registry)
            }
            false => self.end_run(id, |write| {
                if let Err(error) = &result {
                    write.blame_run(id, failed_by(error))?;
                }
                write.finish_run(id, &end, gave.as_ref())
            }),
        };
        if let Err(error) = kept {
            // What it did stands; the next command sees a run that died and finds nothing to do.
            self.say(1, format_args!("the end of run {id} is not recorded: {error}"));
        }
        self.prune_a_little();
        result
    }

    /// Records an end, which somebody is told of. Where the store's number does not move, as in a store that
    /// is another's by now, it is recorded without. One that had ended meanwhile stays as it ended.
    pub(crate) fn end_run(
        &mut self,
        id: RunId,
        end: impl Fn(&registry::Write<'_>) -> Result<(), registry::Error>,
    ) -> Result<(), Error> {
        let Err(error) = self.commit_told(&end) else { return Ok(()) };
        match self.registry.run(id)? {
            Some(run) if !run.state.is_end() => Ok(self.registry.write(end)?),
            // Its row was committed, and the store is one behind: the next command brings it up.
            Some(_) => Ok(()),
            None => Err(error),
        }
    }

    /// A daemon has nobody else to tell of a failure: that it ended so counts for more than its end.
    fn tell_end(&self, id: RunId, fields: &[(&str, Field)], end: &RunState) {
        match end {
            RunState::Failed { .. } if log::for_machines() => {
                let mut all = vec![("run", id.into())];
                all.extend_from_slice(fields);
                log::line(Level::Warning, "run ended", &all);
            }
            RunState::Failed { .. }
            | RunState::Queued
            | RunState::Running
            | RunState::Done
            | RunState::Cancelled => self.event("run ended", fields),
        }
    }

    /// Who waits for another process says so in its run's row, by a connection of its own: the
    /// host's is not at hand where locks are taken.
    fn tell_waits(&self, id: RunId) {
        let (path, talk) = (self.registry.path().to_owned(), self.settings.talk);
        self.locks.on_wait(Some(Box::new(move |line| {
            if talk > 0 {
                log::line(Level::Info, line, &[("run", id.into())]);
            }
            let noted = registry::Registry::open_there(&path)
                .and_then(|mut registry| registry.write(|write| write.note_run(id, line, false)));
            // For people only; the wait goes on without.
            drop(noted);
        })));
    }

    /// Nobody waits for a run after which the name will be taken.
    fn stands_in_no_way(&self, verb: Verb, subject: &str, input: &Value) -> Result<(), Error> {
        let Some(live) = self.registry.live_run(verb, subject)? else { return Ok(()) };
        let Some(by) = asked::objection(&live, input) else { return Ok(()) };
        // Who only looks whether anybody is at work has the lock for a moment, too.
        for _ in 0..LOOKS {
            let dead = live.state == RunState::Running
                && self.locks.try_run(verb.word(), subject)?.is_some();
            if dead {
                // What becomes of it is decided by `begin_run`.
                return Ok(());
            }
            self.settings.cancel.sleep(Duration::from_millis(20))?;
        }
        Err(Error::Taken { name: subject.into(), by })
    }

    /// The number of a fresh run, or of the one that waits or that a dead process left, where that asks
    /// for the same. A dead one that does not is set aside by this, and comes back where the new one is not
    /// done. With `again` it is that run or none. The caller holds the lock.
    fn begin_run(
        &mut self,
        verb: Verb,
        subject: &str,
        input: &Value,
        again: Option<RunId>,
    ) -> Result<RunId, Error> {
        let text = input.to_string();
        // Others queue and cancel meanwhile: what is written was decided by what is there.
        loop {
            let seen = self.registry.live_run(verb, subject)?;
            let taken = |by| Error::Taken { name: subject.into(), by };
            if let Some(id) = again
                && seen.as_ref().is_none_or(|live| live.id != id)
            {
                return Err(taken(format!(
                    "another process, which has brought run {id} to its end"
                )));
            }
            let other = seen.as_ref().and_then(|live| asked::objection(live, input));
            let other = other.filter(|_| again.is_none());
            let gives_way = other.is_some();
            let (end, error) = match (&seen, other) {
                (None, _) => (None, None),
                (Some(live), Some(by)) if live.state == RunState::Queued => {
                    return Err(match verb {
                        Verb::Activate => taken(by),
                        Verb::Ensure | Verb::Deactivate | Verb::Rm | Verb::Gc => {
                            let what = format!("{} {subject}", verb.word());
                            Error::Locked { what, holder: by, waited_s: 0 }
                        }
                    });
                }
                (Some(live), Some(_)) => (Some(self.given_way(live)?), None),
                (Some(live), None) if live.cancel.is_some() => {
                    let why = live.cancel.clone().unwrap_or_default();
                    let error = again.map(|_| Error::Cancelled { why });
                    (Some(self.given_up(live)?), error)
                }
                (Some(live), None) if live.attempt >= BEGINS_MAX => {
                    let what = format!("run {} ({} {subject})", live.id, verb.word());
                    let error = Error::CrashLoop { what, begun: live.attempt };
                    (Some(self.given_up(live)?), Some(error))
                }
                (Some(live), None) => match (self.killed_by_itself(live)?, again) {
                    (Some(RunState::Failed { message, .. }), Some(_)) => {
                        let error =
                            Error::Told { class: Class::HostBroken, message: message.clone() };
                        (Some(deaths::failed(message)), Some(error))
                    }
                    // Who asks for the same begins anew.
                    (end, _) => (end, None),
                },
            };
            let boot = deaths::boot();
            let died = match &seen {
                Some(live) if end.is_none() => self.dead(live)?.last,
                Some(_) | None => None,
            };
            let change = |write: &registry::Write<'_>| {
                if write.live_run(verb, subject)? != seen {
                    return Ok(None);
                }
                match (&seen, &end) {
                    (Some(live), None) => {
                        write.take_up_run(live, &text)?;
                        write.begin_life(live.id, &boot, died.as_ref())?;
                        return Ok(Some(live.id));
                    }
                    (Some(live), Some(end)) if gives_way => {
                        let id = write.begin_run_instead(live, end, &text)?;
                        write.begin_life(id, &boot, None)?;
                        return Ok(Some(id));
                    }
                    (Some(live), Some(end)) => {
                        write.finish_run(live.id, end, None)?;
                        // What was set aside for it is looked at in the next round.
                        if error.is_none() && write.live_run(verb, subject)?.is_some() {
                            return Ok(None);
                        }
                    }
                    (None, _) => {}
                }
                if error.is_some() {
                    return Ok(Some(RunId::default()));
                }
                let id = write.begin_run(verb, subject, &text)?;
                write.begin_life(id, &boot, None)?;
                if let (Some(live), Some(RunState::Failed { class, .. })) = (&seen, &end)
                    && class == deaths::CLASS
                {
                    write.inherit_begins(id, live.attempt + 1)?;
                }
                Ok(Some(id))
            };
            // Somebody is told of an end.
            let begun = match end {
                Some(_) => self.commit_told(change)?,
                None => self.registry.write(change)?,
            };
            match (begun, error) {
                (None, _) => {}
                (Some(_), Some(error)) => return Err(error),
                (Some(id), None) => return Ok(id),
            }
        }
    }

    /// How a dead run ends whose place a request for something else takes.
    fn given_way(&self, run: &Run) -> Result<RunState, Error> {
        Ok(match self.given_up(run)? {
            end @ (RunState::Done | RunState::Cancelled) => end,
            RunState::Queued | RunState::Running | RunState::Failed { .. } => RunState::Failed {
                class: Class::Usage.word().into(),
                message:
                    "its process died, and something else was asked for under that name before \
                          anybody took it up"
                        .into(),
            },
        })
    }

    /// Says what the present run is at. Nothing depends on it.
    pub(crate) fn note(&mut self, step: &str, forward: bool) {
        let Some(id) = self.run else { return };
        self.noted(id, |write| write.note_run(id, step, forward));
    }

    /// The present run comes to a step; files that begin with `spool` tell how much of it is done.
    pub(crate) fn reach(&mut self, step: &str, spool: &str, forward: bool) {
        let Some(id) = self.run else { return };
        self.noted(id, |write| {
            write.note_run(id, step, forward)?;
            write.reach(id, step, spool, forward)
        });
    }

    fn noted(
        &mut self,
        id: RunId,
        note: impl FnOnce(&registry::Write<'_>) -> Result<(), registry::Error>,
    ) {
        if let Err(error) = self.registry.write(note) {
            self.say(2, format_args!("the step of run {id} is not recorded: {error}"));
        }
    }

    fn count_retry(&mut self, class: &str) {
        let label = format!("class=\"{class}\"");
        let counted = self.registry.write(|write| write.count("retries_total", &label, 1));
        if let Err(error) = counted {
            self.say(2, format_args!("a retry is not counted: {error}"));
        }
    }

    /// Tries `work` again as the policy of `step` has it.
    pub(crate) fn patiently<T>(
        &mut self,
        step: Step,
        mut work: impl FnMut(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (mut tries, mut since, mut sealed) = (0, Instant::now(), self.sealed);
        loop {
            self.settings.cancel.check()?;
            let error = match work(self) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if self.settings.cancel.is_set() {
                self.settings.cancel.check()?;
            }
            if self.sealed > sealed {
                (tries, since, sealed) = (0, Instant::now(), self.sealed);
            }
            tries += 1;
            let Some(pause) = retry::again(step, &error, tries, since.elapsed(), random()) else {
                return Err(error);
            };
            let of = retry::policy(step).tries;
            let line = format!("again in {:.1} s ({tries} of {of}): {error}", pause.as_secs_f64());
            let fields =
                [("attempt", u64::from(tries).into()), ("class", class(&error).word().into())];
            self.tell(1, &line, &fields);
            self.note(&line, false);
            self.count_retry(class(&error).word());
            self.settings.cancel.sleep(pause)?;
        }
    }

    /// Runs, the oldest first: those that have not ended, or with `all` every one that is kept.
    pub fn runs(&self, all: bool) -> Result<Vec<RunLine>, Error> {
        let runs = self.registry.runs(all)?;
        runs.into_iter().map(|run| line(&self.locks, run)).collect()
    }

    /// Asks a run to stop, and waits for its end. Returns it as it ended: a run that was past the
    /// point of return may have ended otherwise.
    ///
    /// # Errors
    /// [`Error::Amiss`] for one that is not known; [`Error::Locked`] when it has not ended in time, though it will.
    pub fn cancel(&mut self, id: RunId, why: &str) -> Result<Run, Error> {
        let unknown = |host: &Host| host.no_run(id);
        let run = self.registry.run(id)?.ok_or_else(|| unknown(self))?;
        if run.state.is_end() {
            // Who cancelled it may have died between its end and the store's number.
            self.catch_up()?;
            return Ok(run);
        }
        self.commit_told_soon(|write| write.cancel_run(id, why))?;
        let _ended = self.locks.run(run.verb.word(), &run.subject)?;
        let run = self.registry.run(id)?.ok_or_else(|| unknown(self))?;
        if run.state.is_end() {
            return Ok(run);
        }
        // Its process had died. What it left half done goes, as recovery has it.
        let recovered = self.recover(false)?;
        let own = format!("activation {}", run.subject);
        if let Some(left) = recovered.unsettled.iter().find(|left| left.subject == own)
            && let Some(class) = left.class.as_deref().and_then(Class::from_word)
        {
            return Err(Error::Told { class, message: left.why.clone() });
        }
        let end = self.given_up(&run)?;
        self.end_run(id, |write| write.finish_run(id, &end, None))?;
        self.registry.run(id)?.ok_or_else(|| unknown(self))
    }
}

/// What a line of the log calls the subject of such a run.
fn subject_field(verb: Verb) -> &'static str {
    match verb {
        Verb::Ensure => "image",
        Verb::Activate | Verb::Deactivate | Verb::Rm | Verb::Gc => "subject",
    }
}

fn end_fields<'a>(
    asked: &[(&'a str, Field)],
    end: &RunState,
    begun: Instant,
) -> Vec<(&'a str, Field)> {
    let mut fields = asked.to_vec();
    fields.extend([("state", end.word().into()), ("ms", millis(begun).into())]);
    if let RunState::Failed { class, message } = end {
        fields.extend([("class", class.as_str().into()), ("why", message.as_str().into())]);
    }
    fields
}

/// The run with whether anybody is at work on it.
pub(crate) fn line(locks: &Locks, run: Run) -> Result<RunLine, Error> {
    let interrupted = match run.state {
        RunState::Queued => !locks.is_served()?,
        RunState::Running => !locks.is_run_held(run.verb.word(), &run.subject)?,
        RunState::Done | RunState::Failed { .. } | RunState::Cancelled => false,
    };
    Ok(RunLine { run, interrupted })
}

/// How a run ended, by what its work gave.
pub(crate) fn ended<T>(result: &Result<T, Error>) -> RunState {
    match result {
        Ok(_) => RunState::Done,
        Err(Error::Cancelled { .. }) => RunState::Cancelled,
        Err(error) => RunState::Failed { class: class(error).word().into(), message: whole(error) },
    }
}

/// In 0.0..1.0; good enough to spread retries.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

pub(crate) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
