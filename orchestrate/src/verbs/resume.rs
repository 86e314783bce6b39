//! Runs that wait or were left by a dead process are taken up, each as it was asked for, or brought to
//! another end: cancelled, given up, or overtaken by who came later.

use std::time::Duration;

use fetch::Reference;
use registry::{ActivationState, Run, RunId, RunState, Verb, VolumeId};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::image::Unusable;
use crate::handover::copies::CopyIn;
use crate::host::run::{BEGINS_MAX, ended};
use crate::host::{Host, OwnSettings, deaths};
use crate::local::way::Way;
use crate::verbs::activate::ActivateOptions;
use crate::verbs::deactivate::Going;
use crate::verbs::gc::Bound;
use crate::verbs::named::reference;
use crate::verbs::remove::Removed;

/// What became of a run that `recover` took up.
#[derive(Clone, Debug, Serialize)]
pub struct TakenUp {
    /// The run.
    pub run: RunId,
    /// What was asked for.
    pub verb: Verb,
    /// Of which image or name.
    pub subject: String,
    /// How it ended; `running` while only planned.
    #[serde(flatten)]
    pub end: RunState,
}

impl Host {
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
                true => self.end_of_dead(&run)?.unwrap_or(RunState::Running),
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
            return self.finished(run, &end);
        }
        if let Some(end) = self.overtaken(run)? {
            let Some(_dead) = self.locks.try_run(run.verb.word(), &run.subject)? else {
                return Ok(RunState::Running);
            };
            return self.finished(run, &end);
        }
        if let Some(_dead) = self.locks.try_run(run.verb.word(), &run.subject)?
            && let Some(run) = self.registry.run(run.id)?.filter(|run| !run.state.is_end())
            && let Some(end) = self.killed_by_itself(&run)?
        {
            return self.finished(&run, &end);
        }
        self.say(1, format_args!("run {}: {} {}", run.id, run.verb.word(), run.subject));
        let done = self.do_again(run);
        (self.taking_up, self.way) = (None, Way::Own);
        let state = |host: &Host| -> Result<RunState, Error> {
            Ok(host.registry.run(run.id)?.map_or(RunState::Done, |row| row.state))
        };
        let now = state(self)?;
        if now.is_end() || self.put_by || self.settings.cancel.suspends() {
            return Ok(now);
        }
        // Nothing was left to do, so no run was begun for it.
        let end = ended(&done);
        // Another process may have finished it meanwhile.
        self.end_run(run.id, |write| write.finish_run(run.id, &end, done.as_ref().ok()))?;
        state(self)
    }

    fn finished(&mut self, run: &Run, end: &RunState) -> Result<RunState, Error> {
        self.end_run(run.id, |write| write.finish_run(run.id, end, None))?;
        Ok(end.clone())
    }

    /// How the run of an activation or image ends that somebody who came later has overtaken: it would undo
    /// what was done for them.
    fn overtaken(&self, run: &Run) -> Result<Option<RunState>, Error> {
        let verbs = match run.verb {
            Verb::Activate => [Verb::Deactivate, Verb::Rm],
            Verb::Ensure => [Verb::Rm, Verb::Rm],
            Verb::Deactivate | Verb::Rm | Verb::Gc => return Ok(None),
        };
        let later = self.registry.done_after(run.id, &run.subject, verbs)?;
        Ok(later.map(|later| RunState::Failed {
            class: Class::Usage.word().into(),
            message: format!(
                "run {} ({} {}) was asked for later and is done",
                later.id,
                later.verb.word(),
                later.subject
            ),
        }))
    }

    /// Whether somebody has asked to take `name` away and has not heard of the end.
    pub(crate) fn is_to_go(&self, name: &str) -> Result<bool, Error> {
        let live = self.registry.live_runs_of(name)?;
        Ok(live.iter().any(|run| matches!(run.verb, Verb::Deactivate | Verb::Rm)))
    }

    /// Brings to their ends what was asked to take `name` away before, so that it does not undo what is
    /// done now: such runs are short, whether they wait, are at work, or were left by a dead process.
    pub(crate) fn end_earlier(&mut self, name: &str) -> Result<(), Error> {
        let own = self.taking_up.take();
        let earlier = |run: &Run| {
            matches!(run.verb, Verb::Deactivate | Verb::Rm) && own.is_none_or(|own| run.id < own)
        };
        for run in self.registry.live_runs_of(name)?.into_iter().filter(earlier) {
            drop(self.locks.run(run.verb.word(), name)?);
            if self.registry.run(run.id)?.is_some_and(|run| !run.state.is_end()) {
                self.take_up(&run)?;
            }
        }
        self.taking_up = own;
        Ok(())
    }

    /// How a dead run ends that is not taken up. One that died past its last effect, with no more to do
    /// than to say so, is done: what it made stays, so nobody is told that it was cancelled.
    pub(crate) fn given_up(&self, run: &Run) -> Result<RunState, Error> {
        Ok(match &run.cancel {
            Some(_) if self.stands(run)? => RunState::Done,
            Some(_) => RunState::Cancelled,
            None => RunState::Failed {
                class: deaths::CLASS.into(),
                message: format!(
                    "run {} ({} {}) is given up: it was begun {} times, the most for a run that seals no \
                     layer in between; look into the kernel's log, then ask for the same again",
                    run.id,
                    run.verb.word(),
                    run.subject,
                    run.attempt,
                ),
            },
        })
    }

    /// Whether what a run is for is there, after recovery.
    pub(crate) fn stands(&self, run: &Run) -> Result<bool, Error> {
        let activation = self.registry.activation(&run.subject)?;
        let is = |state| activation.as_ref().is_some_and(|row| row.state == state);
        Ok(match run.verb {
            Verb::Activate => {
                let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
                let (image, options) = (input["image"].as_str(), ActivateOptions::of_run(&input));
                is(ActivationState::Active)
                    && activation.is_some_and(|row| image == Some(row.reference.as_str()))
                    && self.agrees(&run.subject, image.unwrap_or_default(), &options).is_ok()
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
        let image = |input: &Value| -> Result<Reference, Error> {
            reference(input["image"].as_str().unwrap_or_default())
        };
        if matches!(run.verb, Verb::Ensure | Verb::Activate) {
            self.use_s3_settings(&input["s3"]);
        }
        self.taking_up = Some(run.id);
        self.way = Way::of_run(&input["opens"], self.given.take(), &self.settings.local_roots);
        if matches!(self.way, Way::Gone { .. }) && !self.stands(run)? {
            let image = input["image"].as_str().unwrap_or(&run.subject).to_owned();
            return Err(Error::Image(Unusable::Gone { image }));
        }
        match run.verb {
            Verb::Ensure => self.ensure(&image(&input)?, false).map(gave),
            Verb::Activate => {
                let copies = copies_of(run, &input)?;
                let options = ActivateOptions { copies, ..ActivateOptions::of_run(&input) };
                self.activate(&image(&input)?, &run.subject, options).map(gave)
            }
            Verb::Deactivate => self.deactivate(&run.subject, Going::from_json(&input)).map(gave),
            // Gone already: killed after its commit, and recovery did the rest.
            Verb::Rm
                if run.attempt > 0
                    && self.registry.activation(&run.subject)?.is_none()
                    && self.registry.image(&run.subject)?.is_none() =>
            {
                Ok(gave(Removed::default()))
            }
            Verb::Rm => self.remove(&run.subject, Going::from_json(&input)).map(gave),
            Verb::Gc => {
                // A run of an older veneer asked for all of them: what is named by nobody stays.
                let ids = input["purge_foreign"].as_array().into_iter().flatten();
                let ids: Vec<VolumeId> = ids
                    .filter_map(|id| u32::try_from(id.as_u64()?).ok().map(VolumeId::new))
                    .collect();
                self.gc(Bound::from_json(&input["bound"]), &ids, false).map(gave)
            }
        }
    }

    /// A server that is named now is where the bucket is now; else the run's own is asked again. Of what
    /// is trusted or let through, the stricter of both counts.
    fn use_s3_settings(&mut self, kept: &Value) {
        let settings = &mut self.settings;
        let own = self.own_settings.get_or_insert_with(|| {
            Box::new(OwnSettings {
                fetch: settings.fetch.clone(),
                etag_dedup: settings.etag_dedup,
                bytes_max: settings.limits.bytes_max,
                platform: settings.platform.clone(),
            })
        });
        // Each run from the same start: what one was asked with is nothing to the next.
        let OwnSettings { mut fetch, etag_dedup, bytes_max, platform } = (**own).clone();
        // Another server may have something else under that name.
        if let Some(endpoint) = kept["endpoint"].as_str() {
            fetch.endpoint = Some(endpoint.to_owned());
        }
        settings.platform = match kept.get("platform") {
            Some(Value::String(asked)) => asked.parse().ok().or(platform),
            Some(_) => None,
            // An older program did not keep it.
            None => platform,
        };
        if let Some(region) = kept["region"].as_str() {
            fetch.region = Some(region.to_owned());
        }
        if kept["anonymous"] == Value::Bool(true) {
            fetch.credentials = fetch::CredentialsFrom::Anonymous;
        }
        settings.fetch = fetch;
        settings.etag_dedup = etag_dedup && kept["etag_dedup"] != Value::Bool(false);
        let run_max = kept["bytes_max"].as_u64().unwrap_or(u64::MAX);
        settings.limits.bytes_max = bytes_max.min(run_max);
        self.forget_client();
        // Who asked by way of a daemon waits as long as it would have by itself.
        let wait = kept["wait_s"].as_u64().map(Duration::from_secs);
        self.locks.set_wait(wait.unwrap_or(self.settings.wait));
    }
}

/// The files that a run copies, as they were when it was asked for.
fn copies_of(run: &Run, input: &Value) -> Result<Vec<CopyIn>, Error> {
    let copies = &input["copies"];
    if copies.is_null() {
        return Ok(Vec::new());
    }
    serde_json::from_value(copies.clone()).map_err(|source| {
        Error::Usage(format!("run {}: its list of files to copy cannot be read: {source}", run.id))
    })
}

/// What the command would print as JSON.
fn gave<T: Serialize>(done: T) -> Value {
    serde_json::to_value(done).unwrap_or(Value::Null)
}
