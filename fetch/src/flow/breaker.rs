//! Remembers which sources are away, for all transfers of the process and for its whole life.
//!
//! One that fails is not asked until its pause is over; then one transfer probes it, while the others still do
//! without. So a dead cache costs its time-out once a pause, and not once an object. For how long it is waited for is
//! counted from when it was found to be away, once for all objects; and nobody leaves it without a last look.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// The first pause; each failed probe doubles it.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// The same where nobody may go to the origin meanwhile.
const PAUSE_EAGER: Duration = Duration::from_secs(3);
const PAUSE_EAGER_MAX: Duration = Duration::from_secs(30);
/// For so long a probe has the source to itself; one that ends without a word gives it back by then.
const PROBE: Duration = Duration::from_secs(60);
/// More sources than anybody configures are not shared.
const SOURCES_MAX: usize = 1024;

/// By clock and address.
type Known = Vec<(usize, String, Arc<Breaker>)>;

static KNOWN: Mutex<Known> = Mutex::new(Vec::new());

/// What is known of one source.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Failures in a row, each after its pause; none: it is well.
    failures: u32,
    /// It is not asked before.
    until: Duration,
    probing: bool,
    /// When the origin may be asked in its place, once somebody has wanted to.
    leave_at: Option<Duration>,
    /// Whether it was looked at once more since then.
    looked: bool,
}

/// What becomes of a source whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// The caller looks whether it is back.
    Look,
    /// Somebody does.
    Wait,
    /// It is not back.
    Leave,
}

impl Breaker {
    /// The one of this source in this process.
    pub(crate) fn of(clock: &Clock, url: &str) -> Arc<Breaker> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let id = clock.id();
        if let Some((.., breaker)) = known.iter().find(|(i, u, _)| *i == id && u == url) {
            return breaker.clone();
        }
        let breaker = Arc::new(Breaker::default());
        if known.len() < SOURCES_MAX {
            known.push((id, url.to_owned(), breaker.clone()));
        }
        breaker
    }

    /// All fields are plain numbers, whole whoever panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller may ask it now. After a pause that is true for one of all who ask.
    pub(crate) fn admits(&self, now: Duration) -> bool {
        let mut state = self.state();
        if state.failures == 0 {
            return true;
        }
        if now < state.until {
            return false;
        }
        state.until = now + PROBE;
        state.probing = true;
        true
    }

    /// Time until it may be asked again.
    pub(crate) fn pause(&self, now: Duration) -> Duration {
        self.state().until.saturating_sub(now)
    }

    /// When the origin may be asked in the place of this source, which is away: `wait` after that was first wanted.
    pub(crate) fn leave_at(&self, now: Duration, wait: impl FnOnce() -> Duration) -> Duration {
        *self.state().leave_at.get_or_insert_with(|| now + wait())
    }

    /// Before the origin is asked in its place: it may have come back in its pause.
    pub(crate) fn last(&self, now: Duration) -> Last {
        let mut state = self.state();
        if state.probing && now < state.until {
            return Last::Wait;
        }
        if state.looked {
            return Last::Leave;
        }
        (state.looked, state.probing, state.until) = (true, true, now + PROBE);
        Last::Look
    }

    /// It has answered.
    pub(crate) fn went_well(&self) {
        *self.state() = State::default();
    }

    /// It has failed; gives the pause, where it is a new one. Those who asked at the same time count once.
    pub(crate) fn failed(&self, now: Duration, eager: bool, dice: u64) -> Option<Duration> {
        let mut state = self.state();
        if state.failures > 0 && !state.probing && now < state.until {
            return None;
        }
        let (first, longest) =
            if eager { (PAUSE_EAGER, PAUSE_EAGER_MAX) } else { (PAUSE, PAUSE_MAX) };
        let pause = first.saturating_mul(1 << state.failures.min(16)).min(longest);
        // Up to half as long again, so that not all hosts come back at once.
        let pause = pause + pause.mul_f64((dice % 512) as f64 / 1024.0);
        state.failures += 1;
        (state.until, state.probing) = (now + pause, false);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_away_is_probed_by_one_at_a_time() {
        let at = Duration::from_secs;
        let breaker = Breaker::default();
        assert!(breaker.admits(at(0)) && breaker.admits(at(0)));
        assert_eq!(breaker.failed(at(1), false, 0), Some(at(60)));
        assert_eq!(breaker.failed(at(2), false, 0), None, "they asked at the same time");
        assert!(!breaker.admits(at(60)));
        assert!(breaker.admits(at(61)), "the probe");
        assert!(!breaker.admits(at(62)) && !breaker.admits(at(120)));
        assert_eq!(breaker.failed(at(80), false, 511), Some(Duration::from_secs_f64(179.8828125)));
        assert!(!breaker.admits(at(259)) && breaker.admits(at(260)));
        // A probe that ends without a word.
        assert!(!breaker.admits(at(319)) && breaker.admits(at(320)));
        breaker.went_well();
        assert!(breaker.admits(at(321)) && breaker.admits(at(321)));
        for _ in 0..40 {
            let pause = breaker.failed(at(1_000_000), true, u64::MAX);
            assert!(pause.is_none_or(|pause| pause <= PAUSE_EAGER_MAX * 3 / 2));
            breaker.state().until = Duration::ZERO;
        }
    }

    #[test]
    fn it_is_left_once_for_all_objects_and_not_without_a_last_look() {
        let at = Duration::from_secs;
        let breaker = Breaker::default();
        breaker.failed(at(10), true, 0);
        assert_eq!(breaker.leave_at(at(10), || at(60)), at(70));
        assert_eq!(breaker.leave_at(at(40), || at(99)), at(70), "the next object waits no longer");
        assert_eq!(breaker.last(at(70)), Last::Look);
        assert_eq!(breaker.last(at(71)), Last::Wait);
        breaker.failed(at(72), true, 0);
        assert_eq!(breaker.last(at(72)), Last::Leave);
        assert_eq!(
            breaker.last(at(900)),
            Last::Leave,
            "a dead one costs no time-out for each object"
        );
        breaker.went_well();
        breaker.failed(at(1000), true, 0);
        assert_eq!(breaker.leave_at(at(1000), || at(60)), at(1060), "it is waited for anew");
        assert_eq!(breaker.last(at(1060)), Last::Look);
    }

    #[test]
    fn it_is_the_same_for_all_who_ask_by_the_same_clock() {
        let one = Breaker::of(&Clock::default(), "http://breaker-test");
        one.failed(Duration::ZERO, false, 0);
        let other = Breaker::of(&Clock::default(), "http://breaker-test");
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &Breaker::of(&Clock::default(), "http://breaker-test-2")));
    }
}
