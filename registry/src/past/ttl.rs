//! For how long an activation is kept.
//!
//! It counts by the wall clock, as the ages of history do: after somebody has set the clock it counts anew from
//! then, so that nothing new goes by it, whichever way the clock was set.

use crate::error::Error;
use crate::file::schema::Registry;
use crate::past::history::{Clock, Moment};
use crate::rows::Ttl;
use crate::write::{Write, now_ms};

impl Registry {
    /// What is known of the clock at this moment; nothing is written.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn clock_at(&self, now: &Moment) -> Result<Clock, Error> {
        Ok(Clock::next(self.clock()?.as_ref(), now_ms(), now))
    }

    /// As [`Registry::clock_at`], and remembers it: a clock that is set afterwards is known to have been set.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn watch_clock(&mut self, now: &Moment) -> Result<Clock, Error> {
        self.write(|write| write.look_at_clock(now_ms(), now))
    }

    /// Whether any activation is kept for a time only.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn has_ttls(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM activations WHERE ttl_s IS NOT NULL LIMIT 1";
        Ok(self.one(sql, [], |row| crate::rows::get::<i64>(row, 0, "activation"))?.is_some())
    }
}

impl Clock {
    /// When the time of an activation ends, wall clock, milliseconds since 1970 UTC. A clock that was set since it
    /// began, or that shows a time before, has it count from when that was seen.
    pub fn end_of(&self, ttl: &Ttl) -> i64 {
        let from = match self.set_ms {
            Some(set) if ttl.from_ms < set || ttl.from_ms > self.wall_ms => set,
            Some(_) | None => ttl.from_ms,
        };
        let time = i64::try_from(ttl.seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        from.saturating_add(time)
    }

    /// Whether the time of an activation has ended.
    pub fn is_over(&self, ttl: &Ttl) -> bool {
        self.wall_ms >= self.end_of(ttl)
    }
}

impl Write<'_> {
    /// For how long an activation is kept, from now on; none: until somebody removes it. Returns whether there is
    /// such an activation.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn put_ttl(&self, name: &str, seconds: Option<u64>, now: &Moment) -> Result<bool, Error> {
        let clock = self.look_at_clock(now_ms(), now)?;
        let sql = "UPDATE activations SET ttl_s = ?2, ttl_from_ms = ?3 WHERE name = ?1";
        if self.run(sql, (name, seconds, clock.wall_ms))? == 0 {
            return Ok(false);
        }
        match seconds {
            Some(seconds) => self.told(name, &format!("is kept for {seconds} s from now on"))?,
            None => self.told(name, "is kept until somebody removes it")?,
        }
        Ok(true)
    }

    /// The time of an activation that has just come up for the first time begins.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn begin_ttl(&self, name: &str, now: &Moment) -> Result<(), Error> {
        let clock = self.look_at_clock(now_ms(), now)?;
        let sql = "UPDATE activations SET ttl_from_ms = ?2 WHERE name = ?1 AND ttl_s IS NOT NULL";
        self.run(sql, (name, clock.wall_ms)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;

    fn at(boot: &str, up_ms: i64) -> Moment {
        Moment { boot: boot.into(), up_ms }
    }

    #[test]
    fn a_time_ends_when_it_has_passed() {
        let start = Clock::next(None, 100 * YEAR, &at("a", 0));
        let ttl = Ttl { seconds: 7200, from_ms: 100 * YEAR };
        assert_eq!(start.end_of(&ttl), 100 * YEAR + 2 * HOUR);
        let later = |ms| Clock::next(Some(&start), 100 * YEAR + ms, &at("a", ms));
        assert!(!later(2 * HOUR - 1).is_over(&ttl));
        assert!(later(2 * HOUR).is_over(&ttl));
        // A host that was down for a while: the time went on.
        let booted = Clock::next(Some(&start), 100 * YEAR + 3 * HOUR, &at("b", 7));
        assert!(booted.is_over(&ttl));
    }

    #[test]
    fn a_clock_that_was_set_by_a_year_ends_nothing_that_is_new() {
        let wall = 100 * YEAR;
        let start = Clock::next(None, wall, &at("a", 0));
        let ttl = Ttl { seconds: 7200, from_ms: wall };
        for set in [wall + YEAR, wall - YEAR] {
            for (boot, up) in [("a", 1), ("b", 1)] {
                let clock = Clock::next(Some(&start), set, &at(boot, up));
                assert!(!clock.is_over(&ttl), "{set} {boot}");
                // It counts from then, and ends: also where the clock was set back for good.
                assert_eq!(clock.end_of(&ttl), set + 2 * HOUR, "{set} {boot}");
                let pass = |ms| Clock::next(Some(&clock), set + ms, &at(boot, up + ms));
                assert!(!pass(2 * HOUR - 1).is_over(&ttl), "{set} {boot}");
                assert!(pass(2 * HOUR).is_over(&ttl), "{set} {boot}");
                // What is made after that goes by its own time.
                let new = Ttl { seconds: 3600, from_ms: set + 10 };
                assert_eq!(pass(20).end_of(&new), set + 10 + HOUR);
                // And set right again.
                let right = Clock::next(Some(&clock), wall + 5, &at(boot, up + 5));
                assert!(!right.is_over(&ttl) && !right.is_over(&new), "{set} {boot}");
                assert_eq!(right.end_of(&new), wall + 5 + HOUR);
            }
        }
    }
}
