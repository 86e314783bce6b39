//! Whether to try again, and when. The only file that knows.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::options::{Event, Options};

/// Whether the same request may succeed later. A refused, changed, absent or corrupt object stays
/// so, however often one asks; networks, timeouts and overloaded servers heal.
pub fn may_retry(error: &Error) -> bool {
    match error {
        // Both already are the end of a series of tries.
        Error::GaveUp { .. } | Error::Unresumable { .. } => false,
        _ => match error.kind() {
            Kind::Network | Kind::Throttled | Kind::Timeout => true,
            Kind::Usage
            | Kind::NotFound
            | Kind::Denied
            | Kind::Refused
            | Kind::Changed
            | Kind::Digest
            | Kind::Io => false,
        },
    }
}

const WAIT_BASE: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A server may ask for more patience than our own backoff has, but not for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// This much of the object counts as progress and gives all tries back. A drip does not get there.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Full jitter: anything up to a doubling limit, so that many clients spread
/// ("Exponential Backoff And Jitter", AWS Architecture Blog). `dice` is a random number.
fn backoff(tries: u32, dice: u64) -> Duration {
    let limit = WAIT_BASE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(WAIT_MAX);
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(dice % (millis + 1))
}

/// std's hasher is seeded by the kernel; that is all the randomness a jitter needs.
fn dice() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// What the server asked for: in `Retry-After`.
fn asked(error: &Error) -> Option<Duration> {
    match error {
        Error::Answer { answer, .. } => answer.retry_after,
        _ => None,
    }
}

/// The tries of one transfer: a budget that progress refills.
#[derive(Debug)]
pub(crate) struct Trial {
    options: Options,
    tries: u32,
    bytes: u64,
    since: Instant,
}

impl Trial {
    pub(crate) fn new(options: &Options) -> Trial {
        Trial { options: options.clone(), tries: 0, bytes: 0, since: Instant::now() }
    }

    /// `bytes` more of the object have come.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= PROGRESS_BYTES {
            self.bytes = 0;
            self.tries = 0;
            self.since = Instant::now();
        }
    }

    /// Waits before the next try, or says why there is none.
    ///
    /// # Errors
    /// `error` itself if it is for ever, [`Error::GaveUp`] if the budget is spent.
    pub(crate) fn again(&mut self, subject: &str, error: Error) -> Result<(), Error> {
        if !may_retry(&error) {
            return Err(error);
        }
        self.tries += 1;
        let elapsed = self.since.elapsed();
        let wait = match asked(&error) {
            Some(time) => time.min(RETRY_AFTER_MAX).max(backoff(self.tries, dice())),
            None => backoff(self.tries, dice()),
        };
        if self.tries >= self.options.tries_max || elapsed + wait > self.options.patience {
            return Err(Error::GaveUp { tries: self.tries, elapsed, last: Box::new(error) });
        }
        let tries = self.tries;
        self.options.watch.tell(&Event::Retry { subject, error: &error, tries, wait });
        thread::sleep(wait);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;

    #[test]
    fn waits_double_up_to_a_limit() {
        for dice in [0, 1, 12_345, u64::MAX] {
            assert!(backoff(1, dice) <= Duration::from_millis(100));
            assert!(backoff(4, dice) <= Duration::from_millis(800));
            assert!(backoff(40, dice) <= WAIT_MAX);
        }
        assert_eq!(backoff(3, 400), Duration::from_millis(400));
    }

    fn answer(status: u16) -> Error {
        let answer = Answer { status, ..Answer::default() };
        Error::Answer { subject: "s3://b/k".into(), answer: Box::new(answer) }
    }

    #[test]
    fn only_what_heals_is_tried_again() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(may_retry(&answer(status)), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 412, 416, 501, 505] {
            assert!(!may_retry(&answer(status)), "{status}");
        }
        assert!(may_retry(&Error::Short { subject: String::new(), at: 1, size: 2 }));
        assert!(!may_retry(&Error::EmptyPrefix { subject: String::new() }));
    }

    #[test]
    fn the_budget_ends_and_progress_refills_it() {
        let options = Options { tries_max: 2, ..Options::default() };
        let mut trial = Trial::new(&options);
        trial.again("x", answer(500)).unwrap();
        trial.progress(1 << 20);
        trial.again("x", answer(500)).unwrap();
        let end = trial.again("x", answer(500)).unwrap_err();
        assert!(matches!(end, Error::GaveUp { tries: 2, .. }), "{end}");
        assert_eq!(end.kind(), Kind::Throttled);
    }
}
