//! The hands: threads that each take a run, open a host of their own for it, and bring it to its end.
//! Locks are flock on descriptors of each thread's own, so threads and processes are alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use registry::RunState;

use super::daemon::{Daemon, now_ms};
use super::queue::{Hands, Item};
use crate::error::whole;
use crate::log::{self, Field, Level};
use crate::metrics::LIFE;
use crate::{Cancel, Error, Host, Settings, sys};

/// Starts as many workers as the limits have, from number `from` of each kind on.
pub(super) fn start(daemon: &Arc<Daemon>, hands: Hands, from: usize) {
    for number in from..daemon.limits().workers(hands) {
        let shared = daemon.clone();
        let name = format!("{hands:?}-{number}").to_lowercase();
        let started = thread::Builder::new().name(name).spawn(move || {
            while let Some((item, cancel)) = shared.claim(hands, number) {
                work(&shared, item, cancel);
                sys::give_back_memory();
            }
        });
        if let Err(error) = started {
            let number = u64::try_from(number).unwrap_or(u64::MAX).into();
            let why = Field::from(error.to_string());
            log::line(Level::Error, "a worker cannot start", &[("worker", number), ("why", why)]);
        }
    }
}

fn work(daemon: &Daemon, item: Item, cancel: Cancel) {
    if daemon.is_stopping() {
        // Claimed in the very moment.
        cancel.suspend("the daemon stops");
    }
    let settings = Settings { cancel, ..daemon.settings.clone() };
    // What it holds is dropped on the way out; its row says `running` and its lock is free, so the
    // next tick takes it up again, and not for ever.
    let begun = catch_unwind(AssertUnwindSafe(|| perform(settings, &item)));
    let again = match begun {
        Ok(Ok(())) => false,
        Ok(Err(error)) => {
            let why = whole(&error).into();
            let fields = [("run", item.id.into()), ("why", why)];
            log::line(Level::Warning, "a run cannot be begun yet", &fields);
            daemon.examine();
            true
        }
        Err(_) => {
            log::line(Level::Error, "panicked; this is a bug", &[("run", item.id.into())]);
            false
        }
    };
    daemon.release(item, again);
}

/// Opens a host as the command would, mends what others left, and does the run.
///
/// # Errors
/// Those that keep it from being begun. How it ended is in its row.
fn perform(settings: Settings, item: &Item) -> Result<(), Error> {
    let mut host = Host::open(settings)?;
    host.recover(false)?;
    match host.registry().run(item.id)? {
        Some(run) if !run.state.is_end() => {
            if host.take_up(&run)? == RunState::Done && item.hands == Hands::Image {
                let now = u64::try_from(now_ms()).unwrap_or(0);
                LIFE.s3_ok_ms.store(now, Ordering::Relaxed);
            }
            Ok(())
        }
        // Somebody else has brought it to its end.
        Some(_) | None => Ok(()),
    }
}
