//! How many ranges may be in flight: fewer when the server asks for patience, slowly more again.
//!
//! Part n may begin once more than `n - limit` parts have come. So no more than `limit` are in
//! flight, and the oldest that has not come may always begin: the part that the consumer needs next
//! is never kept waiting by a later one, and nobody waits in a circle.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One overload reaches all workers at about the same time, and counts once.
const ONE_OVERLOAD: Duration = Duration::from_secs(1);

/// So many parts without complaint, for each that may be in flight, make room for one more.
const CALM_PARTS: usize = 4;

#[derive(Debug)]
struct State {
    /// Parts that have come.
    done: usize,
    /// Parts that may be in flight.
    limit: usize,
    /// Parts that have come since the limit last changed.
    calm: usize,
    overload: Option<Instant>,
    closed: bool,
}

/// What the workers of one object share.
#[derive(Debug)]
pub(crate) struct Pressure {
    state: Mutex<State>,
    moved: Condvar,
    jobs: usize,
}

impl Pressure {
    pub(crate) fn new(jobs: usize) -> Pressure {
        let state = State { done: 0, limit: jobs, calm: 0, overload: None, closed: false };
        Pressure { state: Mutex::new(state), moved: Condvar::new(), jobs }
    }

    /// All fields are plain numbers, whole whoever panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until part `number` may begin; false when nobody wants it any more.
    pub(crate) fn begin(&self, number: usize) -> bool {
        let wait = |state: &mut State| !state.closed && number >= state.done + state.limit;
        let state = self.moved.wait_while(self.state(), wait);
        !state.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// A part has come.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.done += 1;
        state.calm += 1;
        if state.limit < self.jobs && state.calm >= CALM_PARTS * state.limit {
            state.limit += 1;
            state.calm = 0;
        }
        self.moved.notify_all();
    }

    /// The server asks for patience: half as many. Gives the new limit where it changed.
    pub(crate) fn slow_down(&self) -> Option<usize> {
        let mut state = self.state();
        state.calm = 0;
        let known = state.overload.is_some_and(|since| since.elapsed() < ONE_OVERLOAD);
        if known || state.limit == 1 {
            return None;
        }
        state.overload = Some(Instant::now());
        state.limit = state.limit.div_ceil(2);
        Some(state.limit)
    }

    /// Nobody wants more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pressure {
        fn limit(&self) -> usize {
            self.state().limit
        }
    }

    #[test]
    fn one_overload_halves_once_and_calm_brings_one_more_at_a_time() {
        let pressure = Pressure::new(8);
        assert_eq!(pressure.slow_down(), Some(4));
        assert_eq!(pressure.slow_down(), None, "the same overload");
        pressure.state().overload = Instant::now().checked_sub(ONE_OVERLOAD);
        assert_eq!(pressure.slow_down(), Some(2));
        pressure.state().overload = None;
        assert_eq!(pressure.slow_down(), Some(1));
        pressure.state().overload = None;
        assert_eq!(pressure.slow_down(), None, "never fewer than one");
        for (parts, limit) in [(3, 1), (1, 2), (7, 2), (1, 3), (11, 3), (1, 4)] {
            (0..parts).for_each(|_| pressure.end());
            assert_eq!(pressure.limit(), limit);
        }
        (0..1000).for_each(|_| pressure.end());
        assert_eq!(pressure.limit(), 8, "never more than there are workers");
    }

    #[test]
    fn the_next_part_is_never_kept_waiting() {
        let pressure = Pressure::new(4);
        assert_eq!(pressure.slow_down(), Some(2));
        pressure.state().overload = None;
        assert_eq!(pressure.slow_down(), Some(1));
        // Parts 0 and 2 have come, whichever way: part 1 is the oldest that has not.
        pressure.end();
        pressure.end();
        assert!(pressure.begin(1) && pressure.begin(2));
        pressure.close();
        assert!(!pressure.begin(3), "it would wait for ever");
    }
}
