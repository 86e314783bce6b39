//! One flag for a whole run: who may stop it, and how those who wait look at it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use registry::{Registry, RunId};

use crate::error::Error;

/// How often a wish to cancel is looked for, and how long a wait may overlook it.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// How long who has asked to stop waits for one step of what cleans up.
pub(crate) const CLEAN: Duration = Duration::from_millis(300);

/// So many names are cleaned up however long it takes.
const CLEAN_NAMES: u32 = 1000;

/// Asks a run to stop at its next safe point. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: AtomicBool,
    suspends: AtomicBool,
    why: Mutex<String>,
}

impl Cancel {
    /// Asks to stop; the first reason stays.
    pub fn request(&self, why: &str) {
        let mut kept = self.0.why.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.set.load(Ordering::Acquire) {
            *kept = why.into();
            self.0.set.store(true, Ordering::Release);
        }
    }

    /// Asks to stop and to be taken up again: the process ends, the wish stands.
    pub fn suspend(&self, why: &str) {
        if !self.is_set() {
            self.0.suspends.store(true, Ordering::Release);
        }
        self.request(why);
    }

    /// Whether what stops is to be taken up again.
    pub fn suspends(&self) -> bool {
        self.is_set() && self.0.suspends.load(Ordering::Acquire)
    }

    /// Whether somebody asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// # Errors
    /// [`Error::Cancelled`] when somebody asked to stop.
    pub fn check(&self) -> Result<(), Error> {
        if !self.is_set() {
            return Ok(());
        }
        let why = self.0.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Error::Cancelled { why })
    }

    /// The same flag for work on a tree.
    pub(crate) fn stop(&self) -> unpack::Stop {
        let cancel = self.clone();
        unpack::Stop::new(move || cancel.is_set())
    }

    /// As [`Cancel::stop`], for what cleans up, too: who has asked to stop already waits for that a moment,
    /// and the rest is left to recovery.
    pub(crate) fn stop_soon(&self) -> unpack::Stop {
        match self.is_set() {
            false => self.stop(),
            true => {
                let (begun, names) = (Instant::now(), AtomicU32::new(0));
                // What is small is cleaned up however slow the host is.
                unpack::Stop::new(move || {
                    let names = names.fetch_add(1, Ordering::Relaxed);
                    names >= CLEAN_NAMES && begun.elapsed() >= CLEAN
                })
            }
        }
    }

    /// Sleeps for so long, or until somebody asks to stop.
    ///
    /// # Errors
    /// As [`Cancel::check`].
    pub fn sleep(&self, whole: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            self.check()?;
            let rest = whole.saturating_sub(begun.elapsed());
            if rest.is_zero() {
                return Ok(());
            }
            thread::sleep(rest.min(LOOK));
        }
    }
}

/// What `ask` answers; it is asked in a thread of its own, since a server may be silent for minutes, and
/// who wants to stop need not wait for it. What is answered later is not heard.
///
/// # Errors
/// As [`Cancel::check`].
pub(crate) fn heedfully<T: Send + 'static>(
    cancel: &Cancel,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    cancel.check()?;
    let (to, from) = channel();
    let asking = thread::spawn(move || drop(to.send(ask())));
    loop {
        match from.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => cancel.check()?,
            Err(RecvTimeoutError::Disconnected) => match asking.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("it ends with an answer or a panic"),
            },
        }
    }
}

/// Looks for the wish to cancel of one run, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    until: Option<Sender<()>>,
    looking: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    /// Waits for its connection to close: the last one to close copies the log into the registry's file.
    fn drop(&mut self) {
        self.until = None;
        if let Some(looking) = self.looking.take() {
            // It does not panic; if it did, there is nothing left to wait for.
            drop(looking.join());
        }
    }
}

impl Watch {
    /// A wish is kept in the registry, so that it reaches a run whatever becomes of who asked.
    pub(crate) fn over(registry: &Path, run: RunId, cancel: &Cancel) -> Watch {
        let (until, dropped) = channel::<()>();
        let (path, cancel) = (registry.to_owned(), cancel.clone());
        let looking = thread::spawn(move || {
            let mut open = None;
            while dropped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                // A registry that cannot be read now is read the next time.
                open = open.or_else(|| Registry::open_existing(&path).ok());
                let wish = open.as_ref().and_then(|registry| registry.cancel_wish(run).ok());
                if let Some(why) = wish.flatten() {
                    cancel.request(&why);
                    return;
                }
            }
        });
        Watch { until: Some(until), looking: Some(looking) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_a_sleeper_wakes() {
        let cancel = Cancel::default();
        assert!(cancel.check().is_ok());
        let asker = cancel.clone();
        let asking = thread::spawn(move || {
            asker.request("first");
            asker.request("second");
        });
        let error = cancel.sleep(Duration::from_secs(3600)).unwrap_err();
        asking.join().unwrap();
        assert!(error.to_string().contains("first"), "{error}");
    }

    #[test]
    fn who_is_silent_is_not_waited_for() {
        let cancel = Cancel::default();
        assert_eq!(heedfully(&cancel, || 7).unwrap(), 7);
        let asker = cancel.clone();
        thread::spawn(move || asker.request("enough"));
        let (_never, silent) = channel::<()>();
        let answer = heedfully(&cancel, move || silent.recv());
        assert!(matches!(answer, Err(Error::Cancelled { .. })));
    }

    #[test]
    fn a_wish_in_the_registry_reaches_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let mut registry = Registry::open(&path).unwrap();
        let begin = |write: &registry::Write<'_>| {
            write.begin_run(registry::Verb::Ensure, "s3://b/p/", "{}")
        };
        let run = registry.write(begin).unwrap();
        let cancel = Cancel::default();
        let _watch = Watch::over(&path, run, &cancel);
        registry.write(|write| write.cancel_run(run, "not wanted")).unwrap();
        assert!(cancel.sleep(Duration::from_secs(60)).is_err());
    }
}
