//! Whether to try again, and when. The only file that knows.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::error::kind::Kind;
use crate::http::backoff::backoff;
use crate::s3::options::{Event, Options};

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

/// How long a pause overlooks that nobody wants the answer any more.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// This much of the object counts as progress and gives all tries back. A drip does not get there.
pub(crate) const PROGRESS_BYTES: u64 = 64 << 10;

/// std's hasher is seeded by the kernel; that is all the randomness a jitter needs.
pub(crate) fn dice() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

impl Error {
    /// For how long the server asks to be left alone, where it does (`Retry-After`, RFC 9110 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Answer { answer, .. } => answer.retry_after,
            Error::GaveUp { last, .. } => last.retry_after(),
            _ => None,
        }
    }
}

/// Whether a server answered that it has too much to do, or is broken inside: it is there.
fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Answer { .. })
}

/// Whether a connection broke off, which happens to good ones.
fn is_cut(error: &Error) -> bool {
    match error {
        Error::Short { .. } => true,
        Error::Transport { source, .. } => match source.as_ref() {
            ureq::Error::Io(source) => matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            ),
            _ => false,
        },
        _ => false,
    }
}

/// The tries of one transfer: patience that progress renews.
#[derive(Debug)]
pub(crate) struct Trial {
    options: Options,
    /// One of several servers: it is left soon where it does not answer.
    is_source: bool,
    tries: u32,
    /// Of those, how often the stream was too slow.
    slow: u32,
    bytes: u64,
    /// When that began which patience is for.
    since: Duration,
}

impl Trial {
    /// Of a transfer with these options, from the object's origin or from one of its sources.
    pub(crate) fn new(options: &Options, is_source: bool) -> Trial {
        let (options, since) = (options.clone(), options.clock.now());
        Trial { options, is_source, tries: 0, slow: 0, bytes: 0, since }
    }

    /// Somebody waits for the server from now on. How long it was before that nobody did is not its fault.
    pub(crate) fn begin(&mut self) {
        if self.tries == 0 {
            self.since = self.options.clock.now();
        }
    }

    /// `bytes` more of the object have come.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= PROGRESS_BYTES {
            (self.bytes, self.tries, self.slow) = (0, 0, 0);
            self.since = self.options.clock.now();
        }
    }

    /// Tries after which a server is not asked again, whatever patience is left.
    fn tries_max(&self, error: &Error) -> u32 {
        let own = match self.is_source {
            true if is_busy(error) => u32::MAX,
            true if is_cut(error) => 2,
            true => 1,
            false => u32::MAX,
        };
        self.options.tries_max.unwrap_or(u32::MAX).min(own)
    }

    /// Waits before the next try, or says why there is none.
    ///
    /// # Errors
    /// `error` itself if it is for ever, [`Error::GaveUp`] if patience is at its end.
    pub(crate) fn again(&mut self, subject: &str, error: Error) -> Result<(), Error> {
        if !may_retry(&error) {
            return Err(error);
        }
        let clock = self.options.clock.clone();
        self.tries += 1;
        self.slow += u32::from(matches!(error, Error::Slow { .. }));
        let elapsed = clock.now().saturating_sub(self.since);
        let left = self.options.patience.saturating_sub(elapsed);
        // A stream that is too slow has taken its whole window each time: twice is enough.
        let spent = self.tries >= self.tries_max(&error) || self.slow > 1;
        let tries = self.tries;
        if spent || left.is_zero() || self.options.stop.is_set() {
            return Err(Error::GaveUp { tries, elapsed, last: Box::new(error) });
        }
        // Not before the time that the server asks for, and not all at that moment. The last try is made when
        // patience ends, whatever was asked for.
        let wait = error.retry_after().unwrap_or_default().saturating_add(backoff(tries, dice()));
        let wait = wait.min(left);
        let event = Event::Retry { subject, error: &error, tries, wait, left };
        self.options.watch.tell(&event);
        let until = clock.now() + wait;
        while !self.options.stop.is_set() {
            let left = until.saturating_sub(clock.now());
            if left.is_zero() {
                return Ok(());
            }
            clock.sleep(left.min(LOOK));
        }
        Err(Error::GaveUp { tries, elapsed, last: Box::new(error) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock::{Clock, Time};
    use crate::error::answer::Answer;
    use crate::s3::options::CredentialsFrom;

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

    fn trial(options: &Options) -> Trial {
        Trial::new(options, false)
    }

    /// A clock that nobody has to wait for.
    struct Fast(Mutex<Duration>);

    impl Time for Fast {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    fn options() -> Options {
        let clock = Clock::new(Fast(Mutex::new(Duration::from_secs(1))));
        Options { clock, credentials: CredentialsFrom::Anonymous, ..Options::default() }
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_tried_again() {
        let options = Options { stop: crate::s3::options::Stop::new(|| true), ..options() };
        let end = trial(&options).again("x", answer(503)).unwrap_err();
        assert!(matches!(end, Error::GaveUp { tries: 1, .. }), "{end}");
    }

    #[test]
    fn tries_are_a_bound_where_they_are_set_and_progress_renews_them() {
        let options = Options { tries_max: Some(2), ..options() };
        let mut trial = trial(&options);
        trial.again("x", answer(500)).unwrap();
        trial.progress(1 << 20);
        trial.again("x", answer(500)).unwrap();
        let end = trial.again("x", answer(500)).unwrap_err();
        assert!(matches!(end, Error::GaveUp { tries: 2, .. }), "{end}");
        assert_eq!(end.kind(), Kind::Throttled);
    }

    #[test]
    fn a_transfer_gives_up_when_its_patience_has_passed() {
        for patience in [1, 60, 120, 3600].map(Duration::from_secs) {
            let options = Options { patience, ..options() };
            let begun = options.clock.now();
            let mut trial = trial(&options);
            let mut tries = 0;
            let end = loop {
                tries += 1;
                if let Err(end) = trial.again("x", answer(503)) {
                    break end;
                }
            };
            assert_eq!(options.clock.now() - begun, patience, "{end}");
            assert!(tries as u64 > 3 + patience.as_secs() / 5, "{tries} in {patience:?}");
            let Error::GaveUp { elapsed, .. } = end else { panic!("{end}") };
            assert_eq!(elapsed, patience);
        }
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_within_patience() {
        let busy = |seconds: u64| {
            let retry_after = Some(Duration::from_secs(seconds));
            let answer = Answer { status: 503, retry_after, ..Answer::default() };
            Error::Answer { subject: "s3://b/k".into(), answer: Box::new(answer) }
        };
        let waits: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let told = waits.clone();
        let watch = crate::s3::options::Watch::new(move |event| {
            if let Event::Retry { wait, .. } = event {
                told.lock().unwrap().push(*wait);
            }
        });
        let options = Options { watch, patience: Duration::from_secs(300), ..options() };
        let mut trial = trial(&options);
        trial.again("x", busy(120)).unwrap();
        trial.again("x", busy(120)).unwrap();
        // Longer than patience goes: one more try at its end.
        trial.again("x", busy(u64::MAX)).unwrap();
        trial.again("x", busy(120)).unwrap_err();
        let waits = waits.lock().unwrap();
        assert!(waits[0] >= Duration::from_secs(120) && waits[1] >= Duration::from_secs(120));
        assert_eq!(waits.iter().sum::<Duration>(), Duration::from_secs(300));
    }

    #[test]
    fn a_stream_that_is_too_slow_twice_is_given_up() {
        let slow = || Error::Slow {
            subject: String::new(),
            at: 20,
            bytes: 20,
            over: Duration::from_secs(20),
            floor: 1024,
        };
        let mut trial = trial(&options());
        trial.again("x", slow()).unwrap();
        assert!(matches!(trial.again("x", slow()), Err(Error::GaveUp { tries: 2, .. })));
    }
}
