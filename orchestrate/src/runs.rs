//! Runs: what was asked for is committed before anything is done for it, and how it ended after.
//!
//! A run whose process died is taken up by the same command, or by `recover`. Begun too often
//! without coming forward it is given up, so that what kills the process cannot do so for ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Instant;

use fetch::ImageRef;
use registry::{ActivationState, Run, RunState, Verb};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cancel::Watch;
use crate::ensure::millis;
use crate::error::{class, whole};
use crate::gc::Bound;
use crate::lock::Locks;
use crate::log::{self, Field, Level};
use crate::policy::{self, Step};
use crate::remove::Removed;
use crate::{ActivateOptions, Error, Host};

/// A run that was begun this often and never came forward is given up.
const BEGINS_MAX: u32 = 5;

/// A run as it is told to people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunLine {
    /// The row.
    #[serde(flatten)]
    pub run: Run,
    /// Whether it is at no end and no process is at work on it, or will be by itself.
    pub interrupted: bool,
}

/// What became of a run that `recover` took up.
#[derive(Clone, Debug, Serialize)]
pub struct TakenUp {
    /// The run.
    pub run: u64,
    /// What was asked for.
    pub verb: Verb,
    /// Of which image or name.
    pub subject: String,
    /// How it ended; `running` while only planned.
    #[serde(flatten)]
    pub end: RunState,
}

impl Host {
    /// Does `work` as one run. A second run of the same verb and subject waits for the first.
    pub(crate) fn as_run<T: Serialize>(
        &mut self,
        verb: Verb,
        subject: &str,
        mut input: Value,
        work: impl FnOnce(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        input["s3"] = self.s3_settings();
        let _mine = self.locks.run(verb.word(), subject)?;
        let id = self.begin_run(verb, subject, &input.to_string())?;
        let _watch = Watch::over(self.registry.path(), id, &self.settings.cancel);
        self.run = Some(id);
        let asked = [("verb", verb.word().into()), (subject_field(verb), subject.into())];
        self.event("run begins", &asked);
        let begun = Instant::now();
        self.tell_waits(id);
        let result = self.settings.cancel.check().and_then(|()| work(self));
        let end = ended(&result);
        let put_by = end == RunState::Cancelled && self.settings.cancel.suspends();
        let shown = if put_by { &RunState::Queued } else { &end };
        self.tell_end(id, &end_fields(&asked, shown, begun), shown);
        self.run = None;
        self.locks.on_wait(None);
        let gave = result.as_ref().ok().and_then(|done| serde_json::to_value(done).ok());
        let kept = self.registry.write(|write| match put_by {
            true => write.suspend_run(id, "its process stops in good order"),
            false => write.finish_run(id, &end, gave.as_ref()),
        });
        if let Err(error) = kept {
            // What it did stands; the next command sees a run that died and finds nothing to do.
            self.say(1, format_args!("the end of run {id} is not recorded: {error}"));
        }
        result
    }

    /// A daemon has nobody else to tell of a failure: that it ended so counts for more than its end.
    fn tell_end(&self, id: u64, fields: &[(&str, Field)], end: &RunState) {
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
    fn tell_waits(&self, id: u64) {
        let (path, talk) = (self.registry.path().to_owned(), self.settings.talk);
        self.locks.on_wait(Some(Box::new(move |line| {
            if talk > 0 {
                log::line(Level::Info, line, &[("run", id.into())]);
            }
            let noted = registry::Registry::open(&path)
                .and_then(|mut registry| registry.write(|write| write.note_run(id, line, false)));
            // For people only; the wait goes on without.
            drop(noted);
        })));
    }

    /// The number of a fresh run, or of the one that a dead process left. The caller holds the lock.
    fn begin_run(&mut self, verb: Verb, subject: &str, input: &str) -> Result<u64, Error> {
        if let Some(dead) = self.registry.live_run(verb, subject)? {
            if dead.cancel.is_none() && dead.attempt < BEGINS_MAX {
                self.registry.write(|write| write.take_up_run(&dead, input))?;
                return Ok(dead.id);
            }
            let end = self.given_up(&dead)?;
            self.registry.write(|write| write.finish_run(dead.id, &end, None))?;
            if dead.cancel.is_none() {
                return Err(Error::CrashLoop {
                    what: format!("run {} ({} {subject})", dead.id, verb.word()),
                    begun: dead.attempt,
                });
            }
        }
        Ok(self.registry.write(|write| write.begin_run(verb, subject, input))?)
    }

    /// Says what the present run is at. Nothing depends on it.
    pub(crate) fn note(&mut self, step: &str, forward: bool) {
        let Some(id) = self.run else { return };
        let noted = self.registry.write(|write| write.note_run(id, step, forward));
        if let Err(error) = noted {
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
            let Some(pause) = policy::again(step, &error, tries, since.elapsed(), random()) else {
                return Err(error);
            };
            let of = policy::policy(step).tries;
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
    /// [`Error::Unknown`]; [`Error::Locked`] when it has not ended in time, though it will.
    pub fn cancel(&mut self, id: u64, why: &str) -> Result<Run, Error> {
        let unknown = || Error::Unknown { what: "run", name: id.to_string() };
        let run = self.registry.run(id)?.ok_or_else(unknown)?;
        if run.state.is_end() {
            return Ok(run);
        }
        self.registry.write(|write| write.cancel_run(id, why))?;
        let _ended = self.locks.run(run.verb.word(), &run.subject)?;
        let run = self.registry.run(id)?.ok_or_else(unknown)?;
        if run.state.is_end() {
            return Ok(run);
        }
        // Its process had died. What it left half done goes, as recovery has it.
        self.recover(false)?;
        let end = self.given_up(&run)?;
        self.registry.write(|write| write.finish_run(id, &end, None))?;
        self.registry.run(id)?.ok_or_else(unknown)
    }

    /// Takes up the runs whose processes died; with `dry_run` only names them. One that fails
    /// does not keep the others from their end.
    pub fn take_up_runs(&mut self, dry_run: bool) -> Result<Vec<TakenUp>, Error> {
        let mut taken = Vec::new();
        for line in self.runs(false)? {
            let run = line.run;
            if !line.interrupted {
                continue;
            }
            let end = match dry_run {
                true if run.cancel.is_some() => RunState::Cancelled,
                true => RunState::Running,
                false => self.take_up(&run)?,
            };
            taken.push(TakenUp { run: run.id, verb: run.verb, subject: run.subject, end });
        }
        Ok(taken)
    }

    /// Does what a queued or interrupted run is for, and gives its end; that of a run that was put by
    /// again is `queued`.
    pub(crate) fn take_up(&mut self, run: &Run) -> Result<RunState, Error> {
        if run.cancel.is_some() || run.attempt >= BEGINS_MAX {
            let Some(_dead) = self.locks.try_run(run.verb.word(), &run.subject)? else {
                return Ok(RunState::Running);
            };
            let end = self.given_up(run)?;
            self.registry.write(|write| write.finish_run(run.id, &end, None))?;
            return Ok(end);
        }
        self.say(1, format_args!("run {}: {} {}", run.id, run.verb.word(), run.subject));
        let done = self.do_again(run);
        let state = |host: &Host| -> Result<RunState, Error> {
            Ok(host.registry.run(run.id)?.map_or(RunState::Done, |row| row.state))
        };
        let now = state(self)?;
        if now.is_end() || self.settings.cancel.suspends() {
            return Ok(now);
        }
        // Nothing was left to do, so no run was begun for it.
        let end = ended(&done);
        match self.registry.write(|write| write.finish_run(run.id, &end, done.as_ref().ok())) {
            Ok(()) => Ok(end),
            // Another process has finished it meanwhile.
            Err(error) if error.kind() == registry::Kind::Conflict => state(self),
            Err(error) => Err(error.into()),
        }
    }

    /// How a dead run ends that is not taken up. One that died past its last effect, with no more to do
    /// than to say so, is done: what it made stays, so nobody is told that it was cancelled.
    fn given_up(&self, run: &Run) -> Result<RunState, Error> {
        Ok(match &run.cancel {
            Some(_) if self.stands(run)? => RunState::Done,
            Some(_) => RunState::Cancelled,
            None => RunState::Failed {
                class: "crash_loop".into(),
                message: format!("begun {} times and never came forward", run.attempt),
            },
        })
    }

    /// Whether what a run is for is there, after recovery.
    fn stands(&self, run: &Run) -> Result<bool, Error> {
        let activation = self.registry.activation(&run.subject)?;
        let is = |state| activation.as_ref().is_some_and(|row| row.state == state);
        Ok(match run.verb {
            Verb::Activate => {
                let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
                is(ActivationState::Active)
                    && activation.is_some_and(|row| input["image"] == row.reference.as_str())
            }
            Verb::Deactivate => is(ActivationState::Inactive),
            Verb::Rm => activation.is_none() && self.registry.image(&run.subject)?.is_none(),
            // Layers and room are nobody's: the next command finds them as they are.
            Verb::Ensure | Verb::Gc => false,
        })
    }

    fn do_again(&mut self, run: &Run) -> Result<Value, Error> {
        let input: Value = serde_json::from_str(&run.input)
            .map_err(|_| Error::Usage(format!("run {}: its input is not JSON", run.id)))?;
        let image = |input: &Value| -> Result<ImageRef, Error> {
            input["image"].as_str().unwrap_or_default().parse().map_err(Error::Fetch)
        };
        self.use_s3_settings(&input["s3"]);
        match run.verb {
            Verb::Ensure => self.ensure(&image(&input)?, false).map(gave),
            Verb::Activate => {
                let (bytes, no_fetch) = (input["bytes"].as_u64(), input["no_fetch"] == true);
                let options = ActivateOptions { bytes, no_fetch, dry_run: false };
                self.activate(&image(&input)?, &run.subject, options).map(gave)
            }
            Verb::Deactivate => self.deactivate(&run.subject, false).map(gave),
            // Gone already: killed after its commit, and recovery did the rest.
            Verb::Rm
                if run.attempt > 0
                    && self.registry.activation(&run.subject)?.is_none()
                    && self.registry.image(&run.subject)?.is_none() =>
            {
                Ok(gave(Removed::default()))
            }
            Verb::Rm => self.remove(&run.subject, false).map(gave),
            Verb::Gc => {
                let purge_foreign = input["purge_foreign"] == Value::Bool(true);
                self.gc(Bound::from_json(&input["bound"]), purge_foreign, false).map(gave)
            }
        }
    }

    /// What a later process needs to ask the same server: no secret is in it.
    fn s3_settings(&self) -> Value {
        let fetch = &self.settings.fetch;
        let anonymous = matches!(fetch.credentials, fetch::CredentialsFrom::Anonymous);
        json!({"endpoint": fetch.endpoint, "region": fetch.region, "anonymous": anonymous})
    }

    /// A server that is named now is where the bucket is now; else the run's own is asked again.
    fn use_s3_settings(&mut self, kept: &Value) {
        let fetch = &mut self.settings.fetch;
        let named = self.named_endpoint.get_or_insert_with(|| fetch.endpoint.clone());
        fetch.endpoint = named.clone().or_else(|| kept["endpoint"].as_str().map(str::to_owned));
        if let Some(region) = kept["region"].as_str() {
            fetch.region = region.to_owned();
        }
        if kept["anonymous"] == Value::Bool(true) {
            fetch.credentials = fetch::CredentialsFrom::Anonymous;
        }
        self.forget_client();
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
        RunState::Queued => locks.try_serve()?.is_some(),
        RunState::Running => locks.try_run(run.verb.word(), &run.subject)?.is_some(),
        RunState::Done | RunState::Failed { .. } | RunState::Cancelled => false,
    };
    Ok(RunLine { run, interrupted })
}

/// How a run ended, by what its work gave.
fn ended<T>(result: &Result<T, Error>) -> RunState {
    match result {
        Ok(_) => RunState::Done,
        Err(Error::Cancelled { .. }) => RunState::Cancelled,
        Err(error) => RunState::Failed { class: class(error).word().into(), message: whole(error) },
    }
}

/// What the command would print as JSON.
fn gave<T: Serialize>(done: T) -> Value {
    serde_json::to_value(done).unwrap_or(Value::Null)
}

/// In 0.0..1.0; good enough to spread retries.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
