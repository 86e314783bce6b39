//! The workers: threads that each take a run, open a host of their own for it, and bring it to its end.
//! Locks are flock on descriptors of each thread's own, so threads and processes are alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use registry::{Run, RunState, Verb};
use serde_json::Value;

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::host::reach::Reach;
use crate::host::settings::Settings;
use crate::local::way::Given;
use crate::process::cancel::Cancel;
use crate::process::clock::now_ms;
use crate::process::log::{self, Field, Level};
use crate::process::{full, reserve, sys};
use crate::serve::daemon::{Daemon, Released};
use crate::serve::queue::{Item, Workers};
use crate::view::metrics::life::LIFE;

/// Under which name it is kept when S3 last answered.
pub(super) const S3_OK: &str = "s3_ok_milliseconds";

/// Starts the workers that are missing to what the limits have.
pub(super) fn start(daemon: &Arc<Daemon>, workers: Workers) {
    for number in 0..daemon.limits().workers(workers) {
        if !daemon.take_place(workers, number) {
            continue;
        }
        let shared = daemon.clone();
        let name = format!("{workers:?}-{number}").to_lowercase();
        let started = thread::Builder::new().name(name).spawn(move || {
            while let Some((item, cancel)) = shared.claim(workers, number) {
                work(&shared, item, cancel);
                sys::give_back_memory();
            }
        });
        if let Err(error) = started {
            daemon.give_place_back(workers, number);
            let number = u64::try_from(number).unwrap_or(u64::MAX).into();
            let why = Field::from(error.to_string());
            log::line(Level::Error, "a worker cannot start", &[("worker", number), ("why", why)]);
        }
    }
}

fn work(daemon: &Daemon, mut item: Item, cancel: Cancel) {
    if daemon.is_stopping() {
        // Claimed in the very moment.
        cancel.suspend("the daemon stops");
    }
    daemon.begins(item.id);
    let settings = Settings { cancel, ..daemon.settings() };
    let places = settings.places();
    let makes_room = matches!(item.workers, Workers::Device | Workers::Collect);
    let room = makes_room.then(|| reserve::give_up(&settings.state)).flatten();
    // What it holds is dropped on the way out; its row says `running` and its lock is free, so the
    // next tick takes it up again, and not for ever.
    let given = daemon.given(item.id);
    let begun = catch_unwind(AssertUnwindSafe(|| perform(settings, &item, given)));
    let end = match begun {
        Ok(Ok(false)) => Released::Over,
        Ok(Ok(true)) => {
            item.workers = Workers::Image;
            Released::PutBy
        }
        // Its wish is in its row, and is carried out at once.
        Ok(Err(Error::Cancelled { .. })) => Released::PutBy,
        Ok(Err(error)) => {
            let error = full::told(error, &places);
            daemon.is_unbegun(item.id, &error);
            let why = whole(&error).into();
            let fields = [("run", item.id.into()), ("why", why)];
            log::line(Level::Warning, "a run cannot be begun yet", &fields);
            daemon.examine();
            Released::NotBegun
        }
        Err(payload) => {
            let why = Field::from(LIFE.panicked(&*payload));
            let fields = [("run", item.id.into()), ("why", why)];
            log::line(Level::Error, "panicked; this is a bug", &fields);
            Released::Over
        }
    };
    // What is kept back is there again before anybody hears of the end.
    drop(room);
    if end == Released::Over {
        daemon.let_go(item.id);
    }
    daemon.release(item, end);
}

/// Opens a host as the command would, mends what others left, and does the run. Gives whether it was put
/// by for other workers.
///
/// # Errors
/// Those that keep it from being begun. How it ended is in its row.
fn perform(settings: Settings, item: &Item, given: Option<Given>) -> Result<bool, Error> {
    let mut host = Host::open(settings)?;
    host.given = given;
    host.reach = match item.workers {
        Workers::Image => Reach::Fetching,
        Workers::Known => Reach::Listing,
        Workers::Device | Workers::Collect => Reach::Here,
    };
    if let Some(run) = host.registry().run(item.id)?.filter(|run| run.verb == Verb::Activate) {
        host.ask_catalog_for(&run.subject);
    }
    host.recover(false)?;
    match host.registry().run(item.id)? {
        Some(run) if !run.state.is_end() => {
            let lists = matches!(item.workers, Workers::Image | Workers::Known);
            if host.take_up(&run)? == RunState::Done && lists {
                let now = u64::try_from(now_ms()).unwrap_or(0);
                LIFE.s3_ok_ms.store(now, Ordering::Relaxed);
                // The next daemon tells it, too; no run fails by it.
                drop(host.registry.write(|write| write.keep_moment(S3_OK, now)));
            }
            Ok(host.put_by)
        }
        // Somebody else has brought it to its end.
        Some(_) | None => Ok(false),
    }
}

impl Daemon {
    /// A run with the workers that it needs: what is here already waits for no download.
    pub(super) fn item(&self, run: &Run) -> Item {
        let mut item = Item::of(run);
        if run.verb != Verb::Activate {
            return item;
        }
        let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
        let image = input["image"].as_str().unwrap_or_default();
        // Who does not know finds out at work.
        let here = self.with_registry(|registry| {
            let named = registry.activation(&run.subject)?.is_some();
            Ok((named || input["no_fetch"] == true, registry.image(image)?.is_some()))
        });
        item.workers = match here {
            Ok((true, _)) => Workers::Device,
            Ok((false, true)) => Workers::Known,
            Ok((false, false)) | Err(_) => Workers::Image,
        };
        item
    }
}
