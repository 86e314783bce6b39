//! The clock that is waited by: the machine's, or one that the caller passes in.
//!
//! Waits between tries, patience and the pauses of a source go by it. What a socket is given goes by the
//! kernel's.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fmt, thread};

/// Tells the time and waits.
pub trait Time: Send + Sync {
    /// Time since some moment that stays the same; it never goes back.
    fn now(&self) -> Duration;
    /// Waits so long.
    fn sleep(&self, time: Duration);
}

/// Where time comes from.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Time>>);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// Another clock than the machine's.
    pub fn new(time: impl Time + 'static) -> Clock {
        Clock(Some(Arc::new(time)))
    }

    pub(crate) fn now(&self) -> Duration {
        match &self.0 {
            Some(time) => time.now(),
            None => START.elapsed(),
        }
    }

    pub(crate) fn sleep(&self, time: Duration) {
        match &self.0 {
            Some(own) => own.sleep(time),
            None => thread::sleep(time),
        }
    }

    /// Tells clocks apart: moments of one mean nothing to another.
    pub(crate) fn id(&self) -> usize {
        self.0.as_ref().map_or(0, |time| Arc::as_ptr(time).cast::<()>().addr())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(..)" } else { "Clock" })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
