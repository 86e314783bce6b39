//! The pool grows by itself: one thread looks at the state it is in, at once at the start, after each of
//! its events and every few seconds, and makes it larger where it runs low, up to what the settings
//! allow.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thin::{Dm, Grown, Growth, Low, Pool, Store, Woken};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::settings::Growing;
use crate::plan::guard::Thresholds;
use crate::process::log::{self, Level};
use crate::serve::daemon::Daemon;
use crate::store::seam::StoreName;

/// Slices of the wait between two looks: how long the daemon's end may be held up.
const SLICE: Duration = Duration::from_secs(1);
const SLICES: u32 = 5;

/// Starts the thread, where the settings want the pool to grow.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let Some(growing) = daemon.settings().growing else { return };
    let StoreName::Thin(pool) = daemon.settings().store else {
        log::line(Level::Warning, "only a thin pool grows by itself: serve.grow_to is idle", &[]);
        return;
    };
    let shared = daemon.clone();
    let started = thread::Builder::new().name("grow".into()).spawn(move || {
        let mut said = None;
        while !shared.is_stopping() {
            let marks = shared.settings().pool;
            tell(&shared, &pool, look(&growing, &marks, &pool), &mut said);
            wait(&shared, &pool);
        }
    });
    if let Err(error) = started {
        let why = error.to_string();
        log::line(Level::Error, "the pool will not grow by itself", &[("why", why.into())]);
    }
}

/// Makes the pool larger, if it runs low.
fn look(growing: &Growing, marks: &Thresholds, pool: &str) -> Result<Vec<Grown>, Error> {
    let mut store = Store::open(&growing.dir)?;
    let of = &store.header().name;
    if of != pool {
        // Another pool's files: making them larger would help nobody.
        let (dir, of) = (growing.dir.display(), of.escape_debug());
        return Err(Error::Usage(format!(
            "pool_dir {dir} has the files of pool \"{of}\", and the store is thin:{pool}: set pool_dir"
        )));
    }
    let free = |used: u64| 100_u64.saturating_sub(used);
    let growth = Growth {
        low: Low { data: free(marks.data.grow), metadata: free(marks.metadata.grow) },
        data_to: growing.data_to,
        data_by: growing.data_by,
        metadata_to: growing.metadata_to,
    };
    Ok(store.keep_room(&Dm::open()?, &growth)?)
}

/// Says what was done, and, once, why nothing could be.
fn tell(daemon: &Daemon, pool: &str, found: Result<Vec<Grown>, Error>, said: &mut Option<String>) {
    // Somebody's `thin pool` command is at work on it: another time.
    if matches!(&found, Err(Error::Thin(error)) if error.kind() == thin::Kind::Busy) {
        return;
    }
    // At its bound it is as the settings want it: health looks for itself how full it is.
    daemon.growth.set(found.as_ref().err().map(|error| whole(error)));
    let complaint = match found {
        Ok(found) => {
            for grown in found.iter().filter(|grown| !grown.is_at_bound()) {
                let which = grown.which.word();
                let fields = [
                    ("what", which.into()),
                    ("from_bytes", grown.from.into()),
                    ("to_bytes", grown.to.into()),
                ];
                log::line(Level::Info, "the pool grew", &fields);
                let detail = format!("{which} grew from {} to {} bytes", grown.from, grown.to);
                record(daemon, pool, &detail, Some(which));
            }
            let bound = found.iter().find(|grown| grown.is_at_bound());
            bound.map(|grown| {
                let which = grown.which.word();
                format!("its {which} is filling and has all {} bytes that it may have", grown.to)
            })
        }
        Err(error) => Some(whole(&error)),
    };
    if let Some(why) = complaint.as_ref().filter(|_| complaint != *said) {
        log::line(Level::Warning, "the pool cannot grow", &[("why", why.as_str().into())]);
        record(daemon, pool, &format!("cannot grow: {why}"), None);
    }
    *said = complaint;
}

/// One line of history. A registry that cannot be written keeps no pool from growing.
fn record(daemon: &Daemon, pool: &str, detail: &str, grown: Option<&str>) {
    let subject = format!("pool {pool}");
    let written = daemon.with_registry(|registry| {
        registry.write(|write| {
            write.happened(&subject, detail)?;
            match grown {
                Some(which) => write.count("pool_grown_total", &format!("what=\"{which}\""), 1),
                None => Ok(()),
            }
        })
    });
    if let Err(error) = written {
        daemon.complain(&error);
    }
    daemon.tell();
}

/// Until the pool has something to say, or a while.
pub(super) fn wait(daemon: &Daemon, pool: &str) {
    let mut watch =
        Dm::open().and_then(|dm| Pool::adopt(dm, pool)).and_then(|pool| pool.watch()).ok();
    for _ in 0..SLICES {
        if daemon.is_stopping() {
            return;
        }
        match watch.as_mut().map(|watch| watch.next(SLICE)) {
            Some(Ok(Woken::Event(_))) => return,
            Some(Ok(Woken::TimeUp)) => {}
            Some(Err(_)) | None => {
                watch = None;
                daemon.pause(SLICE);
            }
        }
    }
}
