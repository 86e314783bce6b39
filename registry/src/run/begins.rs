//! How a run is begun: anew, again after a stop in good order or a death, or instead of one that died and
//! asked for something else. That one is set aside: it comes back when the other does not come to its end.
//! And which numbers are known.

use rusqlite::OptionalExtension as _;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::run::{Run, RunState, Verb};
use crate::write::{Write, now_ms};

impl Registry {
    /// The first and the last number of a run that is kept; none where there is none.
    pub fn runs_kept(&self) -> Result<Option<(RunId, RunId)>, Error> {
        let sql = "SELECT (SELECT min(id) FROM runs), (SELECT max(id) FROM runs)";
        let found = self.one(sql, [], |row| {
            Ok((get::<Option<RunId>>(row, 0, "runs")?, get::<Option<RunId>>(row, 1, "runs")?))
        })?;
        Ok(found.and_then(|(first, last)| first.zip(last)))
    }
}

impl Write<'_> {
    /// Begins a run. The caller has looked that no other of this verb and subject is live.
    pub fn begin_run(&self, verb: Verb, subject: &str, input: &str) -> Result<RunId, Error> {
        let now = now_ms();
        self.run(
            "INSERT INTO runs(verb, subject, input, state, attempt, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, 'running', 1, ?4, ?4)",
            (verb.word(), subject, input, now),
        )?;
        let id = self.last_run_id()?;
        let detail = format!("{} {subject}", verb.word());
        self.event(&format!("run {id}"), None, Some("running"), &detail)?;
        Ok(id)
    }

    /// Begins a run in the place of one whose process died and that asked for something else, which ends
    /// so. Where the new one is not done in the end, [`Write::finish_run`] brings that one back.
    pub fn begin_run_instead(
        &self,
        dead: &Run,
        end: &RunState,
        input: &str,
    ) -> Result<RunId, Error> {
        let before = self.kept_aside(dead.id)?;
        // What this one was begun instead of does not come back for its end, but for the new one's.
        self.end_alone(dead.id, end, None)?;
        let id = self.begin_run(dead.verb, &dead.subject, input)?;
        let aside = if matches!(end, RunState::Failed { .. }) { Some(dead.id) } else { before };
        if let Some(aside) = aside {
            self.run(
                "UPDATE runs SET input = json_set(input, '$.instead_of', ?2) WHERE id = ?1",
                (id, aside),
            )?;
        }
        Ok(id)
    }

    fn kept_aside(&self, id: RunId) -> Result<Option<RunId>, Error> {
        let sql = "SELECT json_extract(input, '$.instead_of') FROM runs WHERE id = ?1";
        self.ask::<Option<RunId>>(sql, [id]).map(Option::flatten)
    }

    /// What was set aside for this run, which has ended and is not done, waits again to be taken up. Whoever
    /// has not heard of its end yet hears of the later one.
    pub(crate) fn bring_back(&self, id: RunId) -> Result<(), Error> {
        let Some(aside) = self.kept_aside(id)? else { return Ok(()) };
        // An end is never rewritten: the row goes, and comes again as it was before it.
        let found = self.tx.query_row(
            "SELECT verb, subject, input, priority, attempt, cancel, created_ms,
               (SELECT json_group_array(address) FROM webhooks WHERE run = runs.id)
             FROM runs WHERE id = ?1 AND state = 'failed'",
            [aside],
            |row| {
                let texts: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let numbers: (i32, u32, Option<String>) = (row.get(3)?, row.get(4)?, row.get(5)?);
                let (created_ms, hooks): (i64, String) = (row.get(6)?, row.get(7)?);
                Ok((texts, numbers, created_ms, hooks))
            },
        );
        let found = found.optional().map_err(Error::sqlite("read a run"))?;
        // It may be forgotten by now.
        let Some((texts, numbers, created_ms, hooks)) = found else { return Ok(()) };
        self.run("DELETE FROM webhooks WHERE run = ?1", [aside])?;
        self.run("DELETE FROM runs WHERE id = ?1", [aside])?;
        self.run(
            "INSERT INTO runs(id, verb, subject, input, state, priority, attempt, cancel, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, ?4, 'running', ?5, ?6, ?7, ?8, ?9)",
            (aside, texts.0, texts.1, texts.2, numbers.0, numbers.1, numbers.2, created_ms, now_ms()),
        )?;
        self.run(
            "INSERT INTO webhooks(run, address) SELECT ?1, value FROM json_each(?2)",
            (aside, hooks),
        )?;
        let detail = format!("run {id}, which had its place, has ended without being done");
        self.event(&format!("run {aside}"), Some("failed"), Some("running"), &detail)
    }

    /// Puts a running run back into the queue, in good order: its begins count no more.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has ended meanwhile.
    pub fn suspend_run(&self, id: RunId, why: &str) -> Result<(), Error> {
        let changed = self.run(
            "UPDATE runs SET state = 'queued', attempt = 0, step = '', updated_ms = ?2
             WHERE id = ?1 AND state = 'running'",
            (id, now_ms()),
        )?;
        let (subject, query) = (format!("run {id}"), "SELECT state FROM runs WHERE id = ?1");
        self.expect_one(changed, &subject, "running", query, id)?;
        self.event(&subject, Some("running"), Some("queued"), why)
    }

    /// Counts one more begin of a queued run, or of one whose process died; committed before any
    /// step of it.
    pub fn take_up_run(&self, run: &Run, input: &str) -> Result<(), Error> {
        let from = run.state.word();
        // A person may have joined since the caller has read whose it is: the row says it.
        let changed = self.run(
            "UPDATE runs SET state = 'running', attempt = attempt + 1, updated_ms = ?4, step = '',
               input = json_patch(?3, json_object(
                 'instead_of', json_extract(input, '$.instead_of'),
                 'by', CASE WHEN json_extract(?3, '$.by') IS NULL THEN NULL
                   ELSE json_extract(input, '$.by') END))
             WHERE id = ?1 AND state = ?5 AND attempt = ?2",
            (run.id, run.attempt, input, now_ms(), from),
        )?;
        let (subject, query) = (format!("run {}", run.id), "SELECT state FROM runs WHERE id = ?1");
        self.expect_one(changed, &subject, from, query, run.id)?;
        let detail = match run.attempt {
            0 => String::new(),
            begun => format!("resumed, start {}", begun + 1),
        };
        self.count("runs_resumed_total", "", u64::from(run.attempt > 0))?;
        self.event(&subject, Some(from), Some("running"), &detail)
    }
}
