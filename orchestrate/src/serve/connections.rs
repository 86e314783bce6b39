//! The threads of one socket's connections: made when needed, kept a while, never more than there may be
//! connections. One for each connection, made and ended with it, would have no such bound: those that are ending
//! count too.
//!
//! Over TCP anybody may connect, and only a request shows who has the token. So those that have not shown it have
//! three quarters of the places, and when these are taken the one of them that has been silent longest goes.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::process::log::{self, Level};
use crate::serve::http::conn::{Conn, Stream};
use crate::view::metrics::life::{LIFE, Refusal};

/// Stack of a connection's thread: answers are built on the heap.
const STACK: usize = 512 << 10;

/// How long a connection's thread is kept for the next one.
const KEPT: Duration = Duration::from_secs(10);

/// What is done with a connection once it has a thread.
pub(super) trait Converse: Send + Sync + 'static {
    /// Answers it until it ends; `open` if whoever is there needs no token.
    fn converse(&self, conn: Conn, open: bool, slot: &Slot<'_>);
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Connections {
    state: Mutex<Inside>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: VecDeque<(u64, Stream)>,
    idle: usize,
    threads: usize,
    /// The last number of a connection.
    last: u64,
    /// The connections that have not shown a token yet, where one is asked for.
    strangers: HashMap<u64, Stranger>,
}

/// A connection that has not shown a token.
#[derive(Debug)]
struct Stranger {
    /// Since when nothing whole has come from it; none while it is answered.
    silent: Option<Instant>,
    /// To end it by.
    stream: OwnedFd,
}

impl Inside {
    /// Ends the stranger that has been silent longest; false where there is none.
    fn show_out(&mut self) -> bool {
        let silent = self.strangers.iter().filter_map(|(id, one)| Some((one.silent?, *id)));
        let Some((_, id)) = silent.min() else { return false };
        let Some(stranger) = self.strangers.remove(&id) else { return false };
        // Whoever waits for its next byte wakes, and its thread takes another connection.
        shutdown(stranger.stream.as_raw_fd(), Shutdown::Both).ok();
        LIFE.refused(Refusal::Slow);
        true
    }
}

/// How many of so many connections may be strangers'.
fn for_strangers(most: usize) -> usize {
    (most - most / 4).max(1)
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Slot<'h> {
    connections: &'h Connections,
    id: u64,
}

impl Slot<'_> {
    fn note(&self, silent: Option<Instant>) {
        if let Some(stranger) = self.connections.lock().strangers.get_mut(&self.id) {
            stranger.silent = silent;
        }
    }

    /// It has been answered, or has just come, and nothing was asked yet.
    pub(super) fn waits(&self) {
        self.note(Some(Instant::now()));
    }

    /// A whole request has come from it.
    pub(super) fn is_busy(&self) {
        self.note(None);
    }

    /// It has shown a token.
    pub(super) fn is_known(&self) {
        self.connections.lock().strangers.remove(&self.id);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.is_known();
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the connection to a thread, or back when there is none.
    pub(super) fn enter<C: Converse>(
        self: &Arc<Connections>,
        gate: &Arc<C>,
        stream: Stream,
        most: usize,
    ) -> Result<(), Stream> {
        let mut inside = self.lock();
        inside.last += 1;
        let id = inside.last;
        let has_place = inside.idle > inside.waiting.len() || inside.threads < most;
        if let Some(handle) = stream.of_a_stranger() {
            let full = inside.strangers.len() >= for_strangers(most) || !has_place;
            if full && !inside.show_out() {
                return Err(stream);
            }
            let stranger = Stranger { silent: Some(Instant::now()), stream: handle };
            inside.strangers.insert(id, stranger);
        } else if !has_place {
            return Err(stream);
        }
        inside.waiting.push_back((id, stream));
        if inside.idle >= inside.waiting.len() || inside.threads >= most {
            // One that is free takes it, or that of the connection that goes.
            self.came.notify_one();
            return Ok(());
        }
        inside.threads += 1;
        let (connections, gate) = (self.clone(), gate.clone());
        let work = move || connections.work(&*gate);
        match thread::Builder::new().name("conn".into()).stack_size(STACK).spawn(work) {
            Ok(_) => Ok(()),
            Err(_) => {
                inside.threads -= 1;
                inside.strangers.remove(&id);
                inside.waiting.pop_back().map_or(Ok(()), |(_, stream)| Err(stream))
            }
        }
    }

    fn work(&self, gate: &impl Converse) {
        while let Some((id, stream)) = self.next() {
            LIFE.connections.fetch_add(1, Ordering::Relaxed);
            let open = matches!(stream, Stream::Unix(_));
            // A request that panics ends its connection and no other.
            let slot = Slot { connections: self, id };
            let talk = AssertUnwindSafe(|| gate.converse(Conn::new(stream), open, &slot));
            let talked = catch_unwind(talk);
            LIFE.connections.fetch_sub(1, Ordering::Relaxed);
            if let Err(payload) = talked {
                let why = log::Field::from(LIFE.panicked(&*payload));
                log::line(Level::Error, "a request panicked; this is a bug", &[("why", why)]);
            }
        }
    }

    /// The next connection; none when none came for a while, and the thread ends.
    fn next(&self) -> Option<(u64, Stream)> {
        let mut inside = self.lock();
        inside.idle += 1;
        let deadline = Instant::now() + KEPT;
        loop {
            if let Some(stream) = inside.waiting.pop_front() {
                inside.idle -= 1;
                return Some(stream);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inside.idle -= 1;
                inside.threads -= 1;
                return None;
            }
            inside = self.came.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_goes_and_who_is_answered_stays() {
        let pair = || std::os::unix::net::UnixStream::pair().unwrap();
        let (mut inside, mut ends) = (Inside::default(), Vec::new());
        let now = Instant::now();
        for (id, age) in [(1, Some(2)), (2, Some(5)), (3, None), (4, Some(1))] {
            let (own, other) = pair();
            ends.push((id, other));
            let silent = age.map(|age| now - Duration::from_millis(age));
            inside.strangers.insert(id, Stranger { silent, stream: own.into() });
        }
        for gone in [2, 1, 4] {
            assert!(inside.show_out());
            assert!(!inside.strangers.contains_key(&gone), "{gone}: {inside:?}");
        }
        assert!(!inside.show_out(), "the one that is answered stays");
        assert_eq!((for_strangers(64), for_strangers(1), for_strangers(4)), (48, 1, 3));
    }
}
