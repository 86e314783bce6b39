//! Runs: what was asked for, whether it came to an end, and to which.
//!
//! ```text
//!          enqueue            begin              finish
//!   run  ·─────────▶ Queued ─────────▶ Running ──────▶ Done | Failed | Cancelled   (never moves again)
//!        ·                 ◀─────────  ▲  │  ▲
//!        │                   suspend   └──┘  │ take up: the process died
//!        └───────────────────────────────────┘ begin
//! ```
//!
//! A queued run may also be cancelled, or fail when it turns out to make no sense. How one is begun, and how
//! one that died comes back to which another was preferred, is in `begins`.
//!
//! Whether a process is at work on a running one is told by a lock, never by a row.

pub(crate) mod askers;
pub(crate) mod begins;
pub(crate) mod lives;
pub(crate) mod webhooks;

use rusqlite::{OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::error::quote::beginning;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::write::{Write, now_ms};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Every layer of an image sealed.
    Ensure,
    /// A snapshot of an image under a name.
    Activate,
    /// A name's device taken away.
    Deactivate,
    /// An image or activation removed.
    Rm,
    /// Garbage removed.
    Gc,
}

impl Verb {
    /// Each.
    pub const ALL: [Verb; 5] = [Verb::Ensure, Verb::Activate, Verb::Deactivate, Verb::Rm, Verb::Gc];

    /// The word in the table and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Ensure => "ensure",
            Verb::Activate => "activate",
            Verb::Deactivate => "deactivate",
            Verb::Rm => "rm",
            Verb::Gc => "gc",
        }
    }
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum RunState {
    /// It waits for its turn; nothing was done for it, or all of it was put by in good order.
    Queued,
    /// Not at its end: a process is at work on it, or died over it.
    Running,
    /// What was asked for is so.
    Done,
    /// It will not be.
    Failed {
        /// Which class of failure.
        class: String,
        /// What went wrong, for people.
        message: String,
    },
    /// Somebody took it back.
    Cancelled,
}

impl RunState {
    /// The word in the table.
    pub fn word(&self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Failed { .. } => "failed",
            RunState::Cancelled => "cancelled",
        }
    }

    /// Whether it is at an end.
    pub fn is_end(&self) -> bool {
        match self {
            RunState::Queued | RunState::Running => false,
            RunState::Done | RunState::Failed { .. } | RunState::Cancelled => true,
        }
    }
}

/// What is put into the queue.
#[derive(Clone, Debug)]
pub struct NewRun<'a> {
    /// What is asked for.
    pub verb: Verb,
    /// Of which image or name.
    pub subject: &'a str,
    /// What doing it needs, as JSON.
    pub input: &'a str,
    /// -100 to 100; higher goes first.
    pub priority: i32,
    /// An address that is to hear of its end.
    pub webhook: Option<&'a str>,
}

/// What became of a wish to enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// A run of its own has been put into the queue.
    Fresh(RunId),
    /// A run that asked for the same stands for it.
    Joined(RunId),
    /// A run of this verb and subject stands in the way; nothing was changed.
    Refused {
        /// That run.
        id: RunId,
        /// Why it does not stand for this wish.
        why: String,
    },
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Grows with each run.
    pub id: RunId,
    /// What was asked for.
    pub verb: Verb,
    /// Of which image or name.
    pub subject: String,
    /// What taking it up again needs, as JSON.
    pub input: String,
    /// Its state.
    #[serde(flatten)]
    pub state: RunState,
    /// -100 to 100; higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// What it is at, or waits for; for people.
    pub step: String,
    /// How often it was begun since it last came forward.
    pub attempt: u32,
    /// Why it is to stop; none when nobody asked.
    pub cancel: Option<String>,
    /// Wall clock, milliseconds since 1970 UTC; for people.
    pub created_ms: i64,
    /// When it last moved.
    pub updated_ms: i64,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// What it gave, as the command prints it; only where one run is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

impl Run {
    /// What it failed by, where that was kept; see [`Write::blame_run`].
    pub fn failed_by(&self) -> Option<String> {
        let input: Value = serde_json::from_str(&self.input).ok()?;
        Some(input["failed_by"].as_str()?.to_owned())
    }
}

const RUN: &str = "id, verb, subject, input, state, step, attempt, cancel, class, message, \
                   created_ms, updated_ms, finished_ms, priority";

fn run(row: &Row<'_>) -> Result<Run, Error> {
    let id: RunId = get(row, 0, "run")?;
    let subject = format!("run {id}");
    let corrupt = |what: &str, word: &str| Error::Corrupt {
        subject: subject.clone(),
        what: format!("{what} {:?}", beginning(word)),
    };
    let word: String = get(row, 1, &subject)?;
    let verb = Verb::ALL.into_iter().find(|verb| verb.word() == word);
    let verb = verb.ok_or_else(|| corrupt("verb", &word))?;
    let word: String = get(row, 4, &subject)?;
    let state = match word.as_str() {
        "queued" => RunState::Queued,
        "running" => RunState::Running,
        "done" => RunState::Done,
        "cancelled" => RunState::Cancelled,
        "failed" => RunState::Failed {
            class: get(row, 8, &subject)?,
            message: get::<Option<String>>(row, 9, &subject)?.unwrap_or_default(),
        },
        other => return Err(corrupt("state", other)),
    };
    Ok(Run {
        id,
        verb,
        subject: get(row, 2, &subject)?,
        input: get(row, 3, &subject)?,
        state,
        step: get(row, 5, &subject)?,
        attempt: get(row, 6, &subject)?,
        cancel: get(row, 7, &subject)?,
        created_ms: get(row, 10, &subject)?,
        updated_ms: get(row, 11, &subject)?,
        finished_ms: get(row, 12, &subject)?,
        priority: get(row, 13, &subject)?,
        result: None,
    })
}

fn run_with_result(row: &Row<'_>) -> Result<Run, Error> {
    let mut run = run(row)?;
    let text: Option<String> = get(row, 14, "run")?;
    let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
    run.result = parsed.map_err(|_| Error::Corrupt {
        subject: format!("run {}", run.id),
        what: "its result is not JSON".into(),
    })?;
    Ok(run)
}

impl Registry {
    /// The run of this number, with what it gave.
    pub fn run(&self, id: RunId) -> Result<Option<Run>, Error> {
        if i64::try_from(id.get()).is_err() {
            // No number was ever that large.
            return Ok(None);
        }
        self.one(&format!("SELECT {RUN}, result FROM runs WHERE id = ?1"), [id], run_with_result)
    }

    /// Runs after this number, the oldest first, at most `most`; of one state, by its word, or all.
    pub fn runs_after(&self, state: Option<&str>, id: RunId, most: u32) -> Result<Vec<Run>, Error> {
        let Ok(id) = i64::try_from(id.get()) else { return Ok(Vec::new()) };
        match state {
            None => self.all(
                &format!("SELECT {RUN} FROM runs WHERE id > ?1 ORDER BY id LIMIT ?2"),
                (id, most),
                run,
            ),
            Some(state) => self.all(
                &format!(
                    "SELECT {RUN} FROM runs WHERE state = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
                ),
                (state, id, most),
                run,
            ),
        }
    }

    /// The last run of these verbs that has ended.
    pub fn last_ended(&self, verbs: [Verb; 2]) -> Result<Option<Run>, Error> {
        let mut last: Option<Run> = None;
        for verb in verbs {
            let found = self.one(
                &format!(
                    "SELECT {RUN} FROM runs WHERE verb = ?1 AND state IN ('done', 'failed')
                     ORDER BY finished_ms DESC, id DESC LIMIT 1"
                ),
                [verb.word()],
                run,
            )?;
            let key = |run: &Option<Run>| run.as_ref().map(|run| (run.finished_ms, run.id));
            if key(&found) > key(&last) {
                last = found;
            }
        }
        Ok(last)
    }

    /// The run that has not ended, of this verb and subject.
    pub fn live_run(&self, verb: Verb, subject: &str) -> Result<Option<Run>, Error> {
        self.one(
            &format!(
                "SELECT {RUN} FROM runs WHERE verb = ?1 AND subject = ?2 AND finished_ms IS NULL"
            ),
            (verb.word(), subject),
            run,
        )
    }

    /// The runs that have not ended, of this subject and whatever verb, the oldest first.
    pub fn live_runs_of(&self, subject: &str) -> Result<Vec<Run>, Error> {
        self.all(
            &format!(
                "SELECT {RUN} FROM runs WHERE subject = ?1 AND finished_ms IS NULL ORDER BY id"
            ),
            [subject],
            run,
        )
    }

    /// The last of these verbs that was done on this subject after a run of this number.
    pub fn done_after(
        &self,
        id: RunId,
        subject: &str,
        verbs: [Verb; 2],
    ) -> Result<Option<Run>, Error> {
        self.one(
            &format!(
                "SELECT {RUN} FROM runs WHERE subject = ?1 AND id > ?2 AND verb IN (?3, ?4)
                   AND state = 'done' ORDER BY id DESC LIMIT 1"
            ),
            (subject, id, verbs[0].word(), verbs[1].word()),
            run,
        )
    }

    /// Runs, the oldest first: those that have not ended, or with `all` every one that is kept.
    pub fn runs(&self, all: bool) -> Result<Vec<Run>, Error> {
        if all {
            return self.runs_after(None, RunId::default(), u32::MAX);
        }
        // In one statement, so that one which is begun or put by meanwhile is not overlooked.
        let sql = format!(
            "SELECT {RUN} FROM runs WHERE state = 'queued'
             UNION ALL SELECT {RUN} FROM runs WHERE state = 'running'"
        );
        let mut live = self.all(&sql, [], run)?;
        live.sort_by_key(|run| run.id);
        Ok(live)
    }

    /// Why a run is to stop; none when nobody asked, or when there is no such run.
    pub fn cancel_wish(&self, id: RunId) -> Result<Option<String>, Error> {
        self.one("SELECT cancel FROM runs WHERE id = ?1", [id], |row| get(row, 0, "run"))
            .map(Option::flatten)
    }
}

impl Write<'_> {
    /// The run that has not ended, of this verb and subject, as this transaction sees it.
    pub fn live_run(&self, verb: Verb, subject: &str) -> Result<Option<Run>, Error> {
        let sql = format!(
            "SELECT {RUN} FROM runs WHERE verb = ?1 AND subject = ?2 AND finished_ms IS NULL"
        );
        self.tx
            .query_row(&sql, (verb.word(), subject), |row| Ok(run(row)))
            .optional()
            .map_err(Error::sqlite("read a run"))?
            .transpose()
    }

    /// The run about this subject, of another verb, that has not ended and was asked for after this one.
    pub fn later_run(&self, run: &Run) -> Result<Option<Run>, Error> {
        let sql = format!(
            "SELECT {RUN} FROM runs WHERE subject = ?1 AND finished_ms IS NULL AND id > ?2
               AND verb <> ?3 ORDER BY id DESC LIMIT 1"
        );
        self.tx
            .query_row(&sql, (&run.subject, run.id, run.verb.word()), |row| Ok(self::run(row)))
            .optional()
            .map_err(Error::sqlite("read a run"))?
            .transpose()
    }

    /// Puts a run into the queue, unless one of this verb and subject has not ended: then that one
    /// stands for it, with the higher of both priorities, where `objection` has none against that.
    pub fn enqueue_run(
        &self,
        new: &NewRun<'_>,
        objection: impl FnOnce(&Run) -> Option<String>,
    ) -> Result<Enqueued, Error> {
        let now = now_ms();
        if let Some(live) = self.live_run(new.verb, new.subject)? {
            let id = live.id;
            if let Some(why) = objection(&live) {
                return Ok(Enqueued::Refused { id, why });
            }
            if let Some(later) = self.later_run(&live)? {
                let (verb, other, id) = (live.verb.word(), later.verb.word(), later.id);
                let why = format!(
                    "run {id} ({other} {}) was asked for after run {} ({verb}), which would stand for this \
                     request: wait for its end, or `orchestrate cancel {id}`",
                    later.subject, live.id
                );
                return Ok(Enqueued::Refused { id, why });
            }
            self.joins(&live, new.input)?;
            if !self.put_webhook(id, new.webhook)? {
                let why = format!("run {id} has as many webhooks as a run may have");
                return Ok(Enqueued::Refused { id, why });
            }
            if new.priority > live.priority {
                self.run("UPDATE runs SET priority = ?2 WHERE id = ?1", (id, new.priority))?;
            }
            return Ok(Enqueued::Joined(id));
        }
        self.run(
            "INSERT INTO runs(verb, subject, input, state, priority, attempt, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, 'queued', ?4, 0, ?5, ?5)",
            (new.verb.word(), new.subject, new.input, new.priority, now),
        )?;
        let id = self.last_run_id()?;
        self.put_webhook(id, new.webhook)?;
        let detail = format!("{} {}", new.verb.word(), new.subject);
        self.event(&format!("run {id}"), None, Some("queued"), &detail)?;
        Ok(Enqueued::Fresh(id))
    }

    /// Says what a run is at. With `forward` it came forward: earlier begins count no more.
    pub fn note_run(&self, id: RunId, step: &str, forward: bool) -> Result<(), Error> {
        self.run(
            "UPDATE runs SET step = ?2, updated_ms = ?3,
               attempt = CASE WHEN ?4 THEN 1 ELSE attempt END
             WHERE id = ?1 AND state = 'running'",
            (id, step, now_ms(), forward),
        )
        .map(drop)
    }

    /// Asks a run to stop; one that is queued ends at once. Returns false when it is at its end
    /// already, or was asked before.
    pub fn cancel_run(&self, id: RunId, why: &str) -> Result<bool, Error> {
        let state: Option<String> = self.ask(
            "UPDATE runs SET cancel = ?2, updated_ms = ?3,
               state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
               finished_ms = CASE state WHEN 'queued' THEN ?3 END
             WHERE id = ?1 AND finished_ms IS NULL AND cancel IS NULL RETURNING state",
            (id, why, now_ms()),
        )?;
        let Some(state) = state else { return Ok(false) };
        let ended = state == "cancelled";
        let from = if ended { "queued" } else { "running" };
        let detail = format!("to be cancelled: {why}");
        self.event(&format!("run {id}"), Some(from), Some(&state), &detail)?;
        if ended {
            self.bring_back(id)?;
        }
        Ok(true)
    }

    /// Ends a run, with what it gave. Where it is not done, what was set aside for it comes back.
    ///
    /// # Errors
    /// [`Error::NoEdge`], or [`Error::Conflict`] when it has ended meanwhile.
    pub fn finish_run(
        &self,
        id: RunId,
        next: &RunState,
        result: Option<&Value>,
    ) -> Result<(), Error> {
        self.end_alone(id, next, result)?;
        match next {
            RunState::Done => Ok(()),
            _ => self.bring_back(id),
        }
    }

    /// As [`Write::finish_run`], and nothing comes back for it.
    pub(crate) fn end_alone(
        &self,
        id: RunId,
        next: &RunState,
        result: Option<&Value>,
    ) -> Result<(), Error> {
        let subject = format!("run {id}");
        if !next.is_end() {
            return Err(Error::NoEdge { subject, from: "running", to: next.word() });
        }
        let (class, message) = match next {
            RunState::Failed { class, message } => (Some(class.as_str()), Some(message.as_str())),
            RunState::Queued | RunState::Running | RunState::Done | RunState::Cancelled => {
                (None, None)
            }
        };
        let query = "SELECT state FROM runs WHERE id = ?1";
        let from: Option<String> = self.ask(query, [id])?;
        let result = result.filter(|_| *next == RunState::Done).map(Value::to_string);
        let changed = self.run(
            "UPDATE runs SET state = ?2, class = ?3, message = ?4, updated_ms = ?5,
               finished_ms = ?5, step = '', result = ?6 WHERE id = ?1 AND finished_ms IS NULL",
            (id, next.word(), class, message, now_ms(), result),
        )?;
        self.expect_one(changed, &subject, "running", query, id)?;
        self.count_end(id, next)?;
        self.event(&subject, from.as_deref(), Some(next.word()), message.unwrap_or(""))
    }

    /// Keeps with a run that is about to end what it failed by: `s3`, `pool`, or another part of the caller's.
    pub fn blame_run(&self, id: RunId, by: &str) -> Result<(), Error> {
        self.run(
            "UPDATE runs SET input = json_set(input, '$.failed_by', ?2)
             WHERE id = ?1 AND finished_ms IS NULL",
            (id, by),
        )
        .map(drop)
    }
}
