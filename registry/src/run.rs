//! Runs: what was asked for, whether it came to an end, and to which.
//!
//! ```text
//!            begin            finish
//!   run  ·──────────▶ Running ──────▶ Done | Failed | Cancelled      (and never moves again)
//!                      ▲  │ take up: the process died
//!                      └──┘
//! ```
//!
//! Whether a process is at work on a running one is told by a lock, never by a row.

use rusqlite::Row;
use serde::Serialize;

use crate::rows::get;
use crate::write::now_ms;
use crate::{Error, Registry, Write};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    const ALL: [Verb; 5] = [Verb::Ensure, Verb::Activate, Verb::Deactivate, Verb::Rm, Verb::Gc];

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum RunState {
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
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Failed { .. } => "failed",
            RunState::Cancelled => "cancelled",
        }
    }

    /// Whether the edge from this state to `next` exists.
    pub fn may_become(&self, next: &RunState) -> bool {
        match (self, next) {
            (RunState::Running, RunState::Done | RunState::Failed { .. } | RunState::Cancelled) => {
                true
            }
            (RunState::Running, RunState::Running) => false,
            // How a run ended is history.
            (RunState::Done | RunState::Failed { .. } | RunState::Cancelled, _) => false,
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
}

const RUN: &str = "id, verb, subject, input, state, step, attempt, cancel, class, message, \
                   created_ms, updated_ms, finished_ms";

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
    })
}

impl Registry {
    /// The run of this number.
    pub fn run(&self, id: u64) -> Result<Option<Run>, Error> {
        self.one(&format!("SELECT {RUN} FROM runs WHERE id = ?1"), [id], run)
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
            "INSERT INTO runs(verb, subject, input, state, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, 'running', ?4, ?4)",
            (verb.word(), subject, input, now),
        )?;
        let id = self.last_id()?;
        let detail = format!("{} {subject}", verb.word());
        self.event(&format!("run {id}"), None, Some("running"), &detail)?;
        Ok(id)
    }

    /// Counts one more begin of a run whose process died; committed before any step of it.
    pub fn take_up_run(&self, run: &Run, input: &str) -> Result<(), Error> {
        let changed = self.run(
            "UPDATE runs SET attempt = attempt + 1, input = ?3, updated_ms = ?4, step = ''
             WHERE id = ?1 AND state = 'running' AND attempt = ?2",
            (run.id, run.attempt, input, now_ms()),
        )?;
        let (subject, query) = (format!("run {}", run.id), "SELECT state FROM runs WHERE id = ?1");
        self.expect_one(changed, &subject, "running", query, run.id)?;
        let detail = format!("taken up, begin {}", run.attempt + 1);
        self.event(&subject, Some("running"), Some("running"), &detail)
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

    /// Asks a run to stop. Returns false when it is at its end already, or was asked before.
    pub fn cancel_run(&self, id: u64, why: &str) -> Result<bool, Error> {
        let changed = self.run(
            "UPDATE runs SET cancel = ?2, updated_ms = ?3
             WHERE id = ?1 AND state = 'running' AND cancel IS NULL",
            (id, why, now_ms()),
        )?;
        if changed == 1 {
            let detail = format!("to be cancelled: {why}");
            self.event(&format!("run {id}"), Some("running"), Some("running"), &detail)?;
        }
        Ok(changed == 1)
    }

    /// Ends a run.
    ///
    /// # Errors
    /// [`Error::NoEdge`], or [`Error::Conflict`] when it has ended meanwhile.
    pub fn finish_run(&self, id: u64, next: &RunState) -> Result<(), Error> {
        let subject = format!("run {id}");
        if !RunState::Running.may_become(next) {
            return Err(Error::NoEdge { subject, from: "running", to: next.word() });
        }
        let (class, message) = match next {
            RunState::Failed { class, message } => (Some(class.as_str()), Some(message.as_str())),
            RunState::Running | RunState::Done | RunState::Cancelled => (None, None),
        };
        let changed = self.run(
            "UPDATE runs SET state = ?2, class = ?3, message = ?4, updated_ms = ?5,
               finished_ms = ?5, step = '' WHERE id = ?1 AND state = 'running'",
            (id, next.word(), class, message, now_ms()),
        )?;
        let query = "SELECT state FROM runs WHERE id = ?1";
        self.expect_one(changed, &subject, "running", query, id)?;
        self.event(&subject, Some("running"), Some(next.word()), message.unwrap_or(""))
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
