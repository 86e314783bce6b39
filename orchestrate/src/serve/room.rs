//! Says how full the pool is: one thread looks after each of its events and every few seconds, and tells each time that
//! the pool has reached another of the settings' marks. What waits or is refused by that looks for itself.

use std::sync::Arc;
use std::thread;

use crate::error::Error;
use crate::host::open_store;
use crate::plan::guard::{Level, Part, Reached};
use crate::process::log::{self, Level as Loud};
use crate::serve::daemon::Daemon;
use crate::serve::grow::wait;
use crate::store::seam::StoreName;

/// Starts the thread, where there is a pool.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let StoreName::Thin(pool) = daemon.settings().store else { return };
    let shared = daemon.clone();
    let started = thread::Builder::new().name("room".into()).spawn(move || {
        let mut last = [(Part::Data, Level::Well), (Part::Metadata, Level::Well)];
        while !shared.is_stopping() {
            // A pool that is not there, or does not answer, is told by others.
            drop(look(&shared, &pool, &mut last));
            wait(&shared, &pool);
        }
    });
    if let Err(error) = started {
        let why = error.to_string();
        log::line(Loud::Error, "nobody is told when the pool fills", &[("why", why.into())]);
    }
}

fn look(daemon: &Daemon, pool: &str, last: &mut [(Part, Level); 2]) -> Result<(), Error> {
    let mut settings = daemon.settings();
    let Some(fills) = open_store(&mut settings)?.fills()? else { return Ok(()) };
    for (part, last) in last {
        let now = settings.pool.judge_after(*part, *last, &fills);
        if now.level != *last {
            tell(daemon, pool, &now, now.level > *last);
            *last = now.level;
        }
    }
    Ok(())
}

fn tell(daemon: &Daemon, pool: &str, now: &Reached, worse: bool) {
    let loud = if worse { Loud::Warning } else { Loud::Info };
    let line = now.to_string();
    let fields = [
        ("what", now.part.word().into()),
        ("level", now.level.word().into()),
        ("used_bytes", now.fill.used.into()),
        ("total_bytes", now.fill.total.into()),
    ];
    log::line(loud, &line, &fields);
    let subject = format!("pool {pool}");
    let written =
        daemon.with_registry(|registry| registry.write(|write| write.happened(&subject, &line)));
    if let Err(error) = written {
        daemon.complain(&error);
    }
    daemon.tell();
}
