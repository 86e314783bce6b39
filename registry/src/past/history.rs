//! How much of the past is kept: runs, lines of history and verdicts have an age and a number. What is
//! beyond them goes in small transactions, and the file gives its room back.
//!
//! Ages are by the wall clock, which somebody may set: after that nothing goes by its age until that
//! age has passed anew, and what is beyond the number goes all the same. What somebody is still to be
//! told of never goes.

use std::time::Duration;

use rusqlite::OptionalExtension as _;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::get;
use crate::write::{Write, now_ms};

/// Rows of one transaction.
const ROWS: i64 = 500;

/// Nobody is still to be told of the end of a row of `runs`.
const TOLD: &str = "NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.run = runs.id)";

/// A difference between wall clock and uptime that no slewing makes.
const SLACK_MS: i64 = 600_000;

/// Longer than this no host is down without somebody looking at its clock.
const DOWN_MS: i64 = 31 * 86_400_000;

/// Without a daemon, ages are looked at so often.
const LOOK_MS: i64 = 3_600_000;

/// Pages that are given back in one transaction, and those that are kept for what comes next.
const PAGES: i64 = 256;
const PAGES_KEPT: i64 = 64;

/// Where there is no room for the file to grow: pages that are to be empty, runs and lines of history that stay
/// all the same, rows that go at a time (a log of them has to find room), and how often.
const ROOM_PAGES: i64 = 16;
const ROOM_RUNS: u64 = 16;
const ROOM_EVENTS: u64 = 64;
const ROOM_ROWS: i64 = 50;
const ROOM_STEPS: usize = 40;

/// Of a file that cannot give back pages yet: the largest that is written anew, bytes.
const ANEW_MAX: i64 = 256 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Ended runs.
    pub runs: u64,
    /// For how long.
    pub runs_age: Duration,
    /// Lines of history.
    pub events: u64,
    /// For how long.
    pub events_age: Duration,
    /// Of scans of stacks that are not here, refused blobs, and doubts about ETags: each.
    pub verdicts: u64,
    /// For how long.
    pub verdicts_age: Duration,
    /// Of objects that were read, and of the blobs that they were, beyond those that something here is of: each.
    pub sources: u64,
    /// For how long.
    pub sources_age: Duration,
}

/// A moment, by a clock that nobody sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The boot of the kernel.
    pub boot: String,
    /// Milliseconds since then, also while the host slept.
    pub up_ms: i64,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ended runs.
    pub runs: usize,
    /// Lines of history.
    pub events: usize,
    /// Scans, refusals, and doubts.
    pub verdicts: usize,
    /// Objects that were read, and blobs.
    pub sources: usize,
}

impl Pruned {
    /// Whether nothing went: there is no more.
    pub fn is_empty(&self) -> bool {
        *self == Pruned::default()
    }
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Pruned) {
        self.runs += other.runs;
        self.events += other.events;
        self.verdicts += other.verdicts;
        self.sources += other.sources;
    }
}

/// What is known of the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    pub(crate) wall_ms: i64,
    boot: String,
    up_ms: i64,
    pub(crate) set_ms: Option<i64>,
}

impl Clock {
    /// What is known at `wall_ms`, after what was known before.
    pub(crate) fn next(before: Option<&Clock>, wall_ms: i64, now: &Moment) -> Clock {
        let was_set = before.is_some_and(|before| {
            let by_wall = wall_ms.saturating_sub(before.wall_ms);
            match before.boot == now.boot {
                true => (by_wall - (now.up_ms - before.up_ms)).abs() > SLACK_MS,
                false => !(-SLACK_MS..=DOWN_MS).contains(&by_wall),
            }
        });
        let set_ms = if was_set { Some(wall_ms) } else { before.and_then(|clock| clock.set_ms) };
        Clock { wall_ms, boot: now.boot.clone(), up_ms: now.up_ms, set_ms }
    }

    /// What was before this is older than `age`; none where that cannot be told.
    fn before(&self, age: Duration) -> Option<i64> {
        let age = i64::try_from(age.as_millis()).ok()?;
        let since = self.set_ms.map_or(i64::MAX, |set| self.wall_ms.saturating_sub(set));
        (since >= age).then(|| self.wall_ms.saturating_sub(age))
    }
}

impl Registry {
    /// Forgets some of what is beyond `keep`, of each kind at most so many rows in a transaction of its
    /// own. Until it says that nothing went, there may be more.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; what went before stays gone.
    pub fn prune(&mut self, keep: &Keep, now: &Moment) -> Result<Pruned, Error> {
        let clock = self.write(|write| write.look_at_clock(now_ms(), now))?;
        let runs = self.write(|write| write.prune_runs(keep, &clock))?;
        let events = self.write(|write| write.prune_events(keep, &clock))?;
        let scans = self.write(|write| write.prune_scans(keep, &clock))?;
        let refused = self.write(|write| write.prune_refused(keep, &clock))?;
        let doubts = self.write(|write| write.prune_doubts(keep, &clock))?;
        let sources = self.write(|write| write.prune_sources(keep, &clock))?;
        let blobs = self.write(|write| write.prune_blobs(keep, &clock))?;
        let verdicts = scans + refused + doubts;
        Ok(Pruned { runs, events, verdicts, sources: sources + blobs })
    }

    /// Forgets the oldest runs and lines of history, until so much of the file is empty that what comes next
    /// makes it no larger: for a file system that is full. Some of both stays.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; what went before stays gone.
    pub fn make_room(&mut self) -> Result<(), Error> {
        for _ in 0..ROOM_STEPS {
            if self.number("freelist_count")? >= ROOM_PAGES {
                return Ok(());
            }
            let gone = self.write(|write| {
                let runs = write.oldest_runs(ROOM_RUNS, ROOM_ROWS / 5)?;
                Ok(runs + write.oldest_events(ROOM_EVENTS, ROOM_ROWS)?)
            })?;
            if gone == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a process that is no daemon should prune: something is beyond its number, or ages were
    /// not looked at for a while.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn is_prune_due(&self, keep: &Keep, now: &Moment) -> Result<bool, Error> {
        // A little more than the number, so that not each run is followed by a transaction of its own.
        let most = |keep: u64| count(keep).saturating_add(ROWS.min(count(keep) / 10));
        let run: Option<i64> = self.one(
            &format!(
                "SELECT id FROM runs WHERE state IN ('done', 'failed', 'cancelled')
                 AND id <= (SELECT max(id) FROM runs) - ?1 AND {TOLD} LIMIT 1"
            ),
            [most(keep.runs)],
            |row| get(row, 0, "history"),
        )?;
        let line: Option<i64> = self.one(
            "SELECT seq FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1 LIMIT 1",
            [most(keep.events)],
            |row| get(row, 0, "history"),
        )?;
        if run.is_some() || line.is_some() {
            return Ok(true);
        }
        Ok(self.clock()?.is_none_or(|clock| {
            clock.boot != now.boot || (now.up_ms - clock.up_ms).abs() >= LOOK_MS
        }))
    }

    pub(crate) fn clock(&self) -> Result<Option<Clock>, Error> {
        self.one("SELECT wall_ms, boot, up_ms, set_ms FROM clock WHERE only = 1", [], |row| {
            Ok(Clock {
                wall_ms: get(row, 0, "clock")?,
                boot: get(row, 1, "clock")?,
                up_ms: get(row, 2, "clock")?,
                set_ms: get(row, 3, "clock")?,
            })
        })
    }

    /// Gives room of the file back that nothing takes any more, a few pages at a time. A file of an
    /// older veneer, which cannot do that, is written anew once, when a good part of it is empty.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; the file is sound as before.
    pub fn shrink(&mut self) -> Result<(), Error> {
        let free = self.number("freelist_count")?;
        if self.number("auto_vacuum")? != 2 {
            let pages = self.number("page_count")?;
            let full = (pages - free) * self.number("page_size")?;
            if free < PAGES || free < pages / 4 || full > ANEW_MAX {
                return Ok(());
            }
            let anew = "PRAGMA auto_vacuum = INCREMENTAL; VACUUM";
            self.conn.execute_batch(anew).map_err(Error::sqlite("rewrite the file"))?;
        }
        let mut left = self.number("freelist_count")?;
        let gives_back = left > PAGES_KEPT || free > PAGES_KEPT;
        while left > PAGES_KEPT {
            // Each step of it gives one page back.
            let sql = format!("PRAGMA incremental_vacuum({PAGES})");
            self.all(&sql, [], |_| Ok(()))?;
            let now = self.number("freelist_count")?;
            if now >= left {
                break;
            }
            left = now;
        }
        if gives_back {
            // The file ends where its log says as soon as that is copied; readers may be in the way.
            self.all("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    fn number(&self, pragma: &str) -> Result<i64, Error> {
        self.conn
            .pragma_query_value(None, pragma, |row| row.get(0))
            .map_err(Error::sqlite("read the file's header"))
    }
}

fn verdicts(keep: &Keep) -> (u64, Duration) {
    (keep.verdicts, keep.verdicts_age)
}

/// A setting as SQLite counts.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Write<'_> {
    /// Writes that something happened which is no change of state.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn happened(&self, subject: &str, detail: &str) -> Result<(), Error> {
        self.event(subject, None, None, detail)
    }

    pub(crate) fn event(
        &self,
        subject: &str,
        from: Option<&str>,
        to: Option<&str>,
        detail: &str,
    ) -> Result<(), Error> {
        self.run(
            "INSERT INTO events(at_ms, subject, from_state, to_state, detail)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            (now_ms(), subject, from, to, detail),
        )
        .map(drop)
    }

    pub(crate) fn look_at_clock(&self, wall_ms: i64, now: &Moment) -> Result<Clock, Error> {
        let before = self
            .tx
            .query_row("SELECT wall_ms, boot, up_ms, set_ms FROM clock WHERE only = 1", [], |row| {
                let (wall_ms, boot) = (row.get(0)?, row.get(1)?);
                Ok(Clock { wall_ms, boot, up_ms: row.get(2)?, set_ms: row.get(3)? })
            })
            .optional()
            .map_err(Error::sqlite("read the clock"))?;
        let clock = Clock::next(before.as_ref(), wall_ms, now);
        self.run(
            "INSERT INTO clock(only, wall_ms, boot, up_ms, set_ms) VALUES (1, ?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET wall_ms = excluded.wall_ms, boot = excluded.boot,
               up_ms = excluded.up_ms, set_ms = excluded.set_ms",
            (clock.wall_ms, &clock.boot, clock.up_ms, clock.set_ms),
        )?;
        Ok(clock)
    }

    /// The oldest ended runs beyond so many; those whose end somebody is to hear of stay.
    fn oldest_runs(&self, keep: u64, rows: i64) -> Result<usize, Error> {
        let last: i64 = self.ask("SELECT ifnull(max(id), 0) FROM runs", [])?.unwrap_or(0);
        self.run(
            &format!(
                "DELETE FROM runs WHERE id IN (
                   SELECT id FROM runs WHERE state IN ('done', 'failed', 'cancelled') AND id <= ?1
                     AND {TOLD} LIMIT ?2)"
            ),
            (last.saturating_sub(count(keep)), rows),
        )
    }

    /// The oldest lines of history beyond so many.
    fn oldest_events(&self, keep: u64, rows: i64) -> Result<usize, Error> {
        let first: i64 = self.ask("SELECT ifnull(min(seq), 0) FROM events", [])?.unwrap_or(0);
        let last: i64 = self.ask("SELECT ifnull(max(seq), 0) FROM events", [])?.unwrap_or(0);
        let some = first.saturating_add(rows).min(last);
        let beyond = last.saturating_sub(count(keep)).saturating_add(1);
        self.run("DELETE FROM events WHERE seq < ?1", [some.min(beyond)])
    }

    /// Ended runs; those whose end somebody is to hear of stay.
    fn prune_runs(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let gone = self.oldest_runs(keep.runs, ROWS)?;
        let (Some(before), 0) = (clock.before(keep.runs_age), gone) else { return Ok(gone) };
        self.run(
            &format!(
                "DELETE FROM runs WHERE id IN (
                   SELECT id FROM runs WHERE finished_ms < ?1 AND {TOLD} LIMIT ?2)"
            ),
            (before, ROWS),
        )
    }

    /// Lines of history; the last one stays, since the order of use goes by its number.
    fn prune_events(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let gone = self.oldest_events(keep.events, ROWS)?;
        let (Some(before), 0) = (clock.before(keep.events_age), gone) else { return Ok(gone) };
        let first: i64 = self.ask("SELECT ifnull(min(seq), 0) FROM events", [])?.unwrap_or(0);
        let last: i64 = self.ask("SELECT ifnull(max(seq), 0) FROM events", [])?.unwrap_or(0);
        let some = first.saturating_add(ROWS).min(last);
        self.run("DELETE FROM events WHERE seq < ?1 AND at_ms < ?2", (some, before))
    }

    /// Scans of stacks that are not here; what is here keeps its verdict.
    fn prune_scans(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let (older, most) = self.beyond("scans", ("at_ms", "at_ms > ?1"), verdicts(keep), clock)?;
        let sql = "SELECT s.chain FROM scans s WHERE s.at_ms < ?1 AND NOT EXISTS (
              SELECT 1 FROM volumes v WHERE v.chain = s.chain AND v.state = 'sealed')
            ORDER BY s.at_ms LIMIT ?2";
        let mut statement = self.tx.prepare(sql).map_err(Error::sqlite("read scans"))?;
        let chains = statement.query_map((older, most), |row| row.get::<_, String>(0));
        let chains = chains.and_then(|chains| chains.collect::<Result<Vec<_>, _>>());
        let (mut gone, mut scans) = (0, 0);
        for chain in chains.map_err(Error::sqlite("read scans"))? {
            let left = ROWS - i64::try_from(gone).unwrap_or(ROWS);
            if left <= 0 {
                break;
            }
            // A scan may have more findings than go in one transaction: then it goes with the next.
            gone += self.run(
                "DELETE FROM findings WHERE chain = ?1 AND pos IN (
                   SELECT pos FROM findings WHERE chain = ?1 LIMIT ?2)",
                (&chain, left),
            )?;
            let more: Option<i64> =
                self.ask("SELECT 1 FROM findings WHERE chain = ?1 LIMIT 1", [&chain])?;
            if more.is_none() {
                scans += self.run("DELETE FROM scans WHERE chain = ?1", [&chain])?;
            }
        }
        Ok(gone.max(scans))
    }

    /// Refusals, and which objects they were: what comes again is looked at anew.
    fn prune_refused(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let (older, most) =
            self.beyond("refused_sources", ("at_ms", "at_ms > ?1"), verdicts(keep), clock)?;
        let sources = self.run(
            "DELETE FROM refused_sources WHERE (endpoint, bucket, key, etag, size) IN (
               SELECT endpoint, bucket, key, etag, size FROM refused_sources
               WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
            (older, most),
        )?;
        let (older, most) =
            self.beyond("quarantine", ("at_ms", "at_ms > ?1"), verdicts(keep), clock)?;
        let refused = self.run(
            "DELETE FROM quarantine WHERE (digest, below) IN (
               SELECT digest, below FROM quarantine WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
            (older, most),
        )?;
        Ok(sources + refused)
    }

    /// Doubts about one ETag of several parts, which is never taken for content. That a bucket's ETags
    /// are no MD5 is never forgotten: there is one such row for a bucket.
    fn prune_doubts(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let (older, most) = self.beyond(
            "etag_doubts",
            ("at_ms", "at_ms > ?1 AND etag <> ''"),
            verdicts(keep),
            clock,
        )?;
        self.run(
            "DELETE FROM etag_doubts WHERE (endpoint, bucket, etag) IN (
               SELECT endpoint, bucket, etag FROM etag_doubts
               WHERE at_ms < ?1 AND etag <> '' ORDER BY at_ms LIMIT ?2)",
            (older, most),
        )
    }

    /// What is to go of such a table: rows from before the first, the oldest first, as many as the
    /// second.
    pub(crate) fn beyond(
        &self,
        table: &str,
        (at, rows): (&str, &str),
        (keep, age): (u64, Duration),
        clock: &Clock,
    ) -> Result<(i64, i64), Error> {
        let sql = format!(
            "SELECT count(*) FROM (
               SELECT 1 FROM {table} WHERE {rows} ORDER BY {at} LIMIT ?2 OFFSET ?3)"
        );
        let beyond: Option<i64> = self.ask(&sql, (i64::MIN, ROWS, count(keep)))?;
        Ok(match (beyond.unwrap_or(0), clock.before(age)) {
            (0, None) => (i64::MIN, 0),
            (0, Some(before)) => (before, ROWS),
            (beyond, _) => (i64::MAX, beyond),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(boot: &str, up_ms: i64) -> Moment {
        Moment { boot: boot.into(), up_ms }
    }

    #[test]
    fn after_the_clock_was_set_nothing_goes_by_its_age_until_that_has_passed() {
        let ninety = Duration::from_secs(90 * 86_400);
        let year = 365 * DAY;
        let start = Clock::next(None, 1000 * DAY, &at("a", 0));
        assert_eq!(start.before(ninety), Some(910 * DAY));
        // As the clock goes, slewed a little, and over a reboot.
        let later = Clock::next(Some(&start), 1001 * DAY + 500_000, &at("a", DAY));
        assert_eq!(later.set_ms, None);
        let later = Clock::next(Some(&later), 1010 * DAY, &at("b", 7));
        assert_eq!((later.set_ms, later.before(ninety)), (None, Some(920 * DAY)));
        for set in [1010 * DAY + year, 1010 * DAY - year] {
            let mut clock = Clock::next(Some(&later), set, &at("b", 8));
            assert_eq!((clock.set_ms, clock.before(ninety)), (Some(set), None), "in one boot");
            clock = Clock::next(Some(&clock), set + 89 * DAY, &at("b", 89 * DAY));
            assert_eq!(clock.before(ninety), None);
            clock = Clock::next(Some(&clock), set + 91 * DAY, &at("b", 91 * DAY));
            assert_eq!(clock.before(ninety), Some(set + DAY));
            let over = Clock::next(Some(&later), set, &at("c", 8));
            assert_eq!(over.before(ninety), None, "over a reboot");
        }
    }
}
