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
//! A queued run may also be cancelled, or fail when it turns out to make no sense.
//!
//! Whether a process is at work on a running one is told by a lock, never by a row.

use rusqlite::Row;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rows::get;
use crate::write::now_ms;
use crate::{Error, Registry, Write};

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
    pub notify: Option<&'a str>,
}

/// What became of a wish to enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The run that does it.
    pub id: u64,
    /// Whether there was none of this verb and subject that has not ended.
    pub fresh: bool,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Grows with each run.
    pub id: u64,
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

const RUN: &str = "id, verb, subject, input, state, step, attempt, cancel, class, message, \
                   created_ms, updated_ms, finished_ms, priority";

fn run(row: &Row<'_>) -> Result<Run, Error> {
    let id: u64 = get(row, 0, "run")?;
    let subject = format!("run {id}");
    let corrupt = |what: &str, word: &str| Error::Corrupt {
        subject: subject.clone(),
        what: format!("{what} {word:?}"),
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
    pub fn run(&self, id: u64) -> Result<Option<Run>, Error> {
        if i64::try_from(id).is_err() {
            // No number was ever that large.
            return Ok(None);
        }
        self.one(&format!("SELECT {RUN}, result FROM runs WHERE id = ?1"), [id], run_with_result)
    }

    /// Runs after this number, the oldest first, at most `limit`; of one state, by its word, or all.
    pub fn runs_after(&self, state: Option<&str>, id: u64, limit: u32) -> Result<Vec<Run>, Error> {
        self.all(
            &format!(
                "SELECT {RUN} FROM runs WHERE id > ?1 AND (?2 IS NULL OR state = ?2)
                 ORDER BY id LIMIT ?3"
            ),
            (id, state, limit),
            run,
        )
    }

    /// Runs that have ended and whose end somebody is to hear of, with the address.
    pub fn to_tell(&self, limit: u32) -> Result<Vec<(u64, String)>, Error> {
        self.all(
            "SELECT id, notify FROM runs WHERE notify IS NOT NULL AND finished_ms IS NOT NULL
             ORDER BY id LIMIT ?1",
            [limit],
            |row| Ok((get(row, 0, "run")?, get(row, 1, "run")?)),
        )
    }

    /// The last run of these verbs that has ended.
    pub fn last_ended(&self, verbs: [Verb; 2]) -> Result<Option<Run>, Error> {
        self.one(
            &format!(
                "SELECT {RUN} FROM runs WHERE verb IN (?1, ?2) AND state IN ('done', 'failed')
                 ORDER BY finished_ms DESC, id DESC LIMIT 1"
            ),
            verbs.map(Verb::word),
            run,
        )
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

    /// Runs, the oldest first: those that have not ended, or with `all` every one that is kept.
    pub fn runs(&self, all: bool) -> Result<Vec<Run>, Error> {
        self.all(
            &format!("SELECT {RUN} FROM runs WHERE ?1 OR finished_ms IS NULL ORDER BY id"),
            [all],
            run,
        )
    }

    /// Why a run is to stop; none when nobody asked, or when there is no such run.
    pub fn cancel_wish(&self, id: u64) -> Result<Option<String>, Error> {
        self.one("SELECT cancel FROM runs WHERE id = ?1", [id], |row| get(row, 0, "run"))
            .map(Option::flatten)
    }
}

impl Write<'_> {
    /// Begins a run. The caller has looked that no other of this verb and subject is live.
    pub fn begin_run(&self, verb: Verb, subject: &str, input: &str) -> Result<u64, Error> {
        let now = now_ms();
        self.run(
            "INSERT INTO runs(verb, subject, input, state, attempt, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, 'running', 1, ?4, ?4)",
            (verb.word(), subject, input, now),
        )?;
        let id = self.last_id()?;
        let detail = format!("{} {subject}", verb.word());
        self.event(&format!("run {id}"), None, Some("running"), &detail)?;
        Ok(id)
    }

    /// Puts a run into the queue, unless one of this verb and subject has not ended: then that one
    /// stands for it, with the higher of both priorities.
    pub fn enqueue_run(&self, new: &NewRun<'_>) -> Result<Enqueued, Error> {
        let now = now_ms();
        let live: Option<u64> = self.ask(
            "UPDATE runs SET priority = max(priority, ?3), notify = ifnull(?4, notify)
             WHERE verb = ?1 AND subject = ?2 AND finished_ms IS NULL RETURNING id",
            (new.verb.word(), new.subject, new.priority, new.notify),
        )?;
        if let Some(id) = live {
            return Ok(Enqueued { id, fresh: false });
        }
        self.run(
            "INSERT INTO runs(verb, subject, input, state, priority, attempt, notify, created_ms,
               updated_ms) VALUES (?1, ?2, ?3, 'queued', ?4, 0, ?5, ?6, ?6)",
            (new.verb.word(), new.subject, new.input, new.priority, new.notify, now),
        )?;
        let id = self.last_id()?;
        let detail = format!("{} {}", new.verb.word(), new.subject);
        self.event(&format!("run {id}"), None, Some("queued"), &detail)?;
        Ok(Enqueued { id, fresh: true })
    }

    /// Puts a running run back into the queue, in good order: its begins count no more.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has ended meanwhile.
    pub fn suspend_run(&self, id: u64, why: &str) -> Result<(), Error> {
        let changed = self.run(
            "UPDATE runs SET state = 'queued', attempt = 0, step = '', updated_ms = ?2
             WHERE id = ?1 AND state = 'running'",
            (id, now_ms()),
        )?;
        let (subject, query) = (format!("run {id}"), "SELECT state FROM runs WHERE id = ?1");
        self.expect_one(changed, &subject, "running", query, id)?;
        self.event(&subject, Some("running"), Some("queued"), why)
    }

    /// Somebody was told of the end of this run, or nobody can be.
    pub fn told_run(&self, id: u64, detail: &str) -> Result<(), Error> {
        self.run("UPDATE runs SET notify = NULL WHERE id = ?1", [id])?;
        self.event(&format!("run {id}"), None, None, detail)
    }

    /// Counts one more begin of a queued run, or of one whose process died; committed before any
    /// step of it.
    pub fn take_up_run(&self, run: &Run, input: &str) -> Result<(), Error> {
        let from = run.state.word();
        let changed = self.run(
            "UPDATE runs SET state = 'running', attempt = attempt + 1, input = ?3, updated_ms = ?4,
               step = '' WHERE id = ?1 AND state = ?5 AND attempt = ?2",
            (run.id, run.attempt, input, now_ms(), from),
        )?;
        let (subject, query) = (format!("run {}", run.id), "SELECT state FROM runs WHERE id = ?1");
        self.expect_one(changed, &subject, from, query, run.id)?;
        let detail = match run.attempt {
            0 => String::new(),
            begun => format!("taken up, begin {}", begun + 1),
        };
        self.count("runs_resumed_total", "", u64::from(run.attempt > 0))?;
        self.event(&subject, Some(from), Some("running"), &detail)
    }

    /// Says what a run is at. With `forward` it came forward: earlier begins count no more.
    pub fn note_run(&self, id: u64, step: &str, forward: bool) -> Result<(), Error> {
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
    pub fn cancel_run(&self, id: u64, why: &str) -> Result<bool, Error> {
        let state: Option<String> = self.ask(
            "UPDATE runs SET cancel = ?2, updated_ms = ?3,
               state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
               finished_ms = CASE state WHEN 'queued' THEN ?3 END
             WHERE id = ?1 AND finished_ms IS NULL AND cancel IS NULL RETURNING state",
            (id, why, now_ms()),
        )?;
        let Some(state) = state else { return Ok(false) };
        let from = if state == "cancelled" { "queued" } else { "running" };
        let detail = format!("to be cancelled: {why}");
        self.event(&format!("run {id}"), Some(from), Some(&state), &detail)?;
        Ok(true)
    }

    /// Ends a run, with what it gave.
    ///
    /// # Errors
    /// [`Error::NoEdge`], or [`Error::Conflict`] when it has ended meanwhile.
    pub fn finish_run(
        &self,
        id: u64,
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

    /// Forgets ended runs but the last `keep` of each subject, and all but the last `events` lines
    /// of history. Returns how many runs and lines went.
    pub fn retire(&self, keep: u32, events: u32) -> Result<(usize, usize), Error> {
        let runs = self.run(
            "DELETE FROM runs WHERE finished_ms IS NOT NULL AND id NOT IN (
               SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY subject ORDER BY id DESC)
                 AS place FROM runs) WHERE place <= ?1)",
            [keep],
        )?;
        let events = self
            .run("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1", [events])?;
        Ok((runs, events))
    }
}
