//! Counts that outlive processes, for metrics. What rows tell of themselves is counted by triggers in
//! the schema, in the same transaction; here is what only the caller knows.

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::run::RunState;
use crate::write::Write;

/// Upper bounds of the duration buckets, milliseconds: from a no-op to the 20 minutes of a large image.
pub const DURATION_MS: [i64; 9] =
    [50, 200, 1_000, 5_000, 15_000, 60_000, 300_000, 600_000, 1_200_000];

/// More than this is no count any more, and SQLite's integers end soon after.
const VALUE_MAX: u64 = 1 << 60;

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name, without a prefix: `fetch_bytes_total`.
    pub name: String,
    /// Its labels as `a="b",c="d"`; empty: none.
    pub label: String,
    /// How much.
    pub value: u64,
}

impl Registry {
    /// Every count, by name and label.
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        self.all("SELECT name, label, value FROM counters ORDER BY name, label", [], |row| {
            Ok(Counter {
                name: get(row, 0, "counter")?,
                label: get(row, 1, "counter")?,
                value: get(row, 2, "counter")?,
            })
        })
    }

    /// Lines of history that were ever written.
    pub fn events_written(&self) -> Result<u64, Error> {
        let seq = self.one("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| {
            get(row, 0, "events")
        })?;
        Ok(seq.unwrap_or(0))
    }
}

impl Write<'_> {
    /// Counts `by` more.
    pub fn count(&self, name: &str, label: &str, by: u64) -> Result<(), Error> {
        if by == 0 {
            return Ok(());
        }
        self.run(
            "INSERT INTO counters(name, label, value) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET value = min(value + excluded.value, ?4)",
            (name, label, by.min(VALUE_MAX), VALUE_MAX),
        )
        .map(drop)
    }

    /// Keeps a moment among the counts, in place of the one before.
    pub fn keep_moment(&self, name: &str, ms: u64) -> Result<(), Error> {
        self.run(
            "INSERT INTO counters(name, label, value) VALUES (?1, '', ?2)
             ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, ms.min(VALUE_MAX)),
        )
        .map(drop)
    }

    /// Counts the end of a run: its outcome, its class of failure, and the time since it was asked for.
    pub(crate) fn count_end(&self, id: RunId, end: &RunState) -> Result<(), Error> {
        let (verb, taken): (String, i64) = self
            .tx
            .query_row(
                "SELECT verb, finished_ms - created_ms FROM runs WHERE id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(Error::sqlite("read a run's time"))?;
        let outcome = end.word();
        self.count("runs_total", &format!("verb=\"{verb}\",outcome=\"{outcome}\""), 1)?;
        if let RunState::Failed { class, .. } = end {
            self.count("run_failures_total", &format!("class=\"{class}\""), 1)?;
        }
        // A clock that was set back makes no time run backwards.
        let taken = taken.max(0);
        let bound = DURATION_MS.into_iter().find(|bound| taken <= *bound);
        let le = bound.map_or("+Inf".to_owned(), seconds);
        self.count("run_duration_seconds_bucket", &format!("verb=\"{verb}\",le=\"{le}\""), 1)?;
        let taken = u64::try_from(taken).unwrap_or(0);
        self.count("run_duration_milliseconds", &format!("verb=\"{verb}\""), taken)
    }
}

/// Milliseconds as seconds, the shortest way to write them.
pub fn seconds(ms: i64) -> String {
    format!("{}", ms as f64 / 1000.0)
}
