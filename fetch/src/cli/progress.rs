//! The line on a terminal that says how far a transfer is: drawn anew a few times a second by a thread of its
//! own, so that a transfer that stands still is seen to.
//!
//! Part of the program, not of the library.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two drawings.
const EVERY: Duration = Duration::from_millis(250);
/// The rate is that of so long before now.
const WINDOW: Duration = Duration::from_secs(5);
/// So long nothing has to come before it is said to be stalled.
const STALLED: Duration = Duration::from_secs(2);

/// Whether a line stands on the terminal, which whoever writes there has to wipe first.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// Wipes the line, if one stands there.
pub(crate) fn wipe() {
    if DRAWN.swap(false, Ordering::SeqCst) {
        drop(io::stderr().write_all(b"\r\x1b[K"));
    }
}

/// The line; gone when this is dropped.
pub(crate) struct Progress(Option<(Arc<State>, JoinHandle<()>)>);

struct State {
    size: u64,
    done: AtomicU64,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Progress {
    /// For so many bytes; nothing is drawn where stderr is no terminal.
    pub(crate) fn new(size: u64, wanted: bool) -> Progress {
        if !wanted || !io::stderr().is_terminal() {
            return Progress(None);
        }
        let (done, ended, end) = (AtomicU64::new(0), Mutex::new(false), Condvar::new());
        let state = Arc::new(State { size, done, ended, end });
        let theirs = state.clone();
        // Without the thread it is only silent.
        let thread = thread::Builder::new().name("progress".into()).spawn(move || draw(&theirs));
        Progress(thread.ok().map(|thread| (state, thread)))
    }

    /// So many bytes have come.
    pub(crate) fn at(&self, done: u64) {
        if let Some((state, _)) = &self.0 {
            state.done.store(done, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((state, thread)) = self.0.take() {
            *state.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
            state.end.notify_all();
            drop(thread.join());
            wipe();
        }
    }
}

fn draw(state: &State) {
    let mut meter = Meter::new(Instant::now());
    let mut ended = state.ended.lock().unwrap_or_else(PoisonError::into_inner);
    while !*ended {
        let line = meter.line(Instant::now(), state.done.load(Ordering::Relaxed), state.size);
        DRAWN.store(true, Ordering::SeqCst);
        drop(io::stderr().write_all(format!("\r\x1b[K{line}").as_bytes()));
        let waited = state.end.wait_timeout(ended, EVERY);
        ended = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// What has come, lately and when last. Pure.
struct Meter {
    samples: VecDeque<(Instant, u64)>,
    moved: Instant,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter { samples: VecDeque::from([(now, 0)]), moved: now }
    }

    fn line(&mut self, now: Instant, done: u64, size: u64) -> String {
        if self.samples.back().is_some_and(|(_, before)| *before != done) {
            self.moved = now;
        }
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied().unwrap_or((now, done));
        let seconds = now.duration_since(since).as_secs_f64().max(1e-3);
        let rate = (done - before.min(done)) as f64 / seconds;
        let still = now.duration_since(self.moved);
        let (mega, of) = (done as f64 / 1e6, size as f64 / 1e6);
        if still >= STALLED {
            return format!("{mega:.0} of {of:.0} MB, stalled for {} s", still.as_secs());
        }
        let left = match rate > 0.0 {
            true => format!("{:.0} s left", size.saturating_sub(done) as f64 / rate),
            false => "waiting".to_owned(),
        };
        format!("{mega:.0} of {of:.0} MB, {:.1} MB/s, {left}", rate / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_shows_as_one() {
        let begun = Instant::now();
        let after = |tenths: u64| begun + Duration::from_millis(100 * tenths);
        let mut meter = Meter::new(begun);
        let size = 100_000_000;
        assert_eq!(meter.line(after(10), 10_000_000, size), "10 of 100 MB, 10.0 MB/s, 9 s left");
        assert_eq!(meter.line(after(20), 20_000_000, size), "20 of 100 MB, 10.0 MB/s, 8 s left");
        // The rate falls, and then it is said.
        assert_eq!(meter.line(after(35), 20_000_000, size), "20 of 100 MB, 5.7 MB/s, 14 s left");
        assert_eq!(meter.line(after(40), 20_000_000, size), "20 of 100 MB, stalled for 2 s");
        for tenths in (50..300).step_by(10) {
            meter.line(after(tenths), 20_000_000, size);
        }
        assert_eq!(meter.line(after(300), 20_000_000, size), "20 of 100 MB, stalled for 28 s");
        // It goes on at the rate of now and not of ever.
        assert_eq!(meter.line(after(310), 21_000_000, size), "21 of 100 MB, 0.2 MB/s, 395 s left");
    }
}
