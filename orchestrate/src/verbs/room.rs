//! Work on images gives way to activations while the pool fills up: it is not begun, or waits where it is. What decides
//! is `plan::guard`.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use registry::{Registry, RunId};

use crate::error::Error;
use crate::error::filling::Filling;
use crate::host::{Host, open_store};
use crate::plan::guard::{Level, Reached, Thresholds};
use crate::process::cancel::Cancel;
use crate::process::log::{self, Level as Loud};
use crate::store::content::Content;
use crate::store::seam::Store;

/// Bytes of a layer between two looks at the pool.
const LOOK_BYTES: u64 = 256 << 10;

/// Bytes of a layer between two times that what was written is written out, in a pool that fills: blocks are taken by
/// that, and those that nobody has taken yet are not seen.
const SYNC_BYTES: u64 = 4 << 20;

/// How often who waits looks; and the longest time between two looks while bytes come, of which each may stand for many.
const LOOK: Duration = Duration::from_millis(250);

/// The longest time between two times that what was written is written out.
const SYNC: Duration = Duration::from_secs(1);

impl Host {
    /// Whether `what` may be begun, which writes into the pool and is no use of an activation.
    ///
    /// # Errors
    /// [`Error::Filling`] where the pool has reached the mark.
    pub(crate) fn may_begin(&mut self, what: &str) -> Result<(), Error> {
        let Some(fills) = self.store.fills()? else { return Ok(()) };
        let [worst, _] = self.settings.pool.judge(&fills);
        if worst.level < Level::Refuse {
            return Ok(());
        }
        // A count alone: that it was refused matters more than that it is counted.
        drop(self.registry.write(|write| write.count("pool_refused_total", "", 1)));
        Err(filling(what, &worst, None))
    }

    /// What has `what` wait while the pool is too full; its waits together have the bound of the setting.
    pub(crate) fn guard(&self, what: &str) -> Guard {
        Guard {
            what: what.into(),
            subject: format!(
                "pool {}",
                self.settings.store.to_string().trim_start_matches("thin:")
            ),
            marks: self.settings.pool,
            left: self.settings.pool.pause_time,
            cancel: self.settings.cancel.clone(),
            registry: self.registry.path().to_owned(),
            run: self.run,
            talk: self.settings.talk,
        }
    }
}

fn filling(what: &str, reached: &Reached, waited: Option<Duration>) -> Error {
    let waited_s = waited.map(|waited| waited.as_secs());
    let why = reached.to_string();
    Error::Filling(Box::new(Filling { what: what.into(), why, waited_s, garbage: None }))
}

/// Has one piece of work wait for room.
#[derive(Debug)]
pub(crate) struct Guard {
    what: String,
    subject: String,
    marks: Thresholds,
    left: Duration,
    cancel: Cancel,
    registry: PathBuf,
    run: Option<RunId>,
    talk: u8,
}

impl Guard {
    /// Waits until the pool is below its mark, and gives its level.
    ///
    /// # Errors
    /// [`Error::Filling`] where that takes too long; as [`Cancel::check`].
    pub(crate) fn pass(&mut self, store: &dyn Store) -> Result<Level, Error> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let Some(fills) = store.fills()? else { return Ok(Level::Well) };
            let [worst, _] = self.marks.judge(&fills);
            if worst.level < Level::Pause {
                if told {
                    self.left = self.left.saturating_sub(begun.elapsed());
                    self.tell(&format!("{} goes on: the pool has room again", self.what), None);
                }
                return Ok(worst.level);
            }
            if !told {
                let line = format!("{} waits for room: {worst}", self.what);
                self.tell(&line, Some("pool_paused_total"));
                told = true;
            }
            if begun.elapsed() >= self.left {
                return Err(filling(&self.what, &worst, Some(self.marks.pause_time)));
            }
            self.cancel.sleep(LOOK.min(self.left))?;
        }
    }

    /// What a write that failed means.
    fn failed(&self, store: &dyn Store, source: io::Error) -> Error {
        let fills = store.fills().ok().flatten();
        let worst = fills.map(|fills| self.marks.judge(&fills)).map(|[worst, _]| worst);
        match worst.filter(|worst| worst.level >= Level::Pause) {
            Some(worst) => filling(&self.what, &worst, Some(Duration::ZERO)),
            None => Error::Io { doing: "write out", path: self.what.clone().into(), source },
        }
    }

    /// For who watches; the work does not depend on it. By a connection of its own: the host's is in use.
    fn tell(&self, line: &str, counted: Option<&str>) {
        if self.talk > 0 {
            let run: Vec<_> = self.run.iter().map(|id| ("run", (*id).into())).collect();
            log::line(Loud::Warning, line, &run);
        }
        let noted = Registry::open_there(&self.registry).and_then(|mut registry| {
            registry.write(|write| {
                write.happened(&self.subject, line)?;
                if let Some(name) = counted {
                    write.count(name, "", 1)?;
                }
                self.run.map_or(Ok(()), |id| write.note_run(id, line, false))
            })
        });
        drop(noted);
    }
}

/// The bytes of a layer, which come no faster than the pool has room for them.
pub(crate) struct Paced<'a> {
    layer: &'a mut (dyn Read + Send),
    /// None where there is no pool.
    pool: Option<(Box<dyn Store>, Guard)>,
    /// What is written to, where that can be written out.
    device: Option<&'a File>,
    unlooked: (u64, Instant),
    unwritten: (u64, Instant),
    ended: Option<Error>,
}

impl<'a> Paced<'a> {
    /// Has the layer `what`, which is written into `content`, give way.
    ///
    /// # Errors
    /// Those of opening the store once more: it is looked at from another thread.
    pub(crate) fn new(
        host: &Host,
        what: &str,
        layer: &'a mut (dyn Read + Send),
        content: Content<'a>,
    ) -> Result<Paced<'a>, Error> {
        let pool = match host.store.alone() {
            true => Some((open_store(&mut host.settings.clone())?, host.guard(what))),
            false => None,
        };
        let device = match content {
            Content::Image(device) => Some(device),
            Content::Tree(_) => None,
        };
        // The first look is before the first byte.
        let now = Instant::now();
        let (unlooked, unwritten) = ((LOOK_BYTES, now), (0, now));
        Ok(Paced { layer, pool, device, unlooked, unwritten, ended: None })
    }

    /// Why no more bytes came, where that was for want of room.
    pub(crate) fn ended(self) -> Option<Error> {
        self.ended
    }

    fn pass(&mut self) -> Result<(), Error> {
        let Some((store, guard)) = &mut self.pool else { return Ok(()) };
        let level = guard.pass(store.as_ref())?;
        if let Some(device) = self.device.filter(|_| level >= Level::Warn)
            && (self.unwritten.0 >= SYNC_BYTES || self.unwritten.1.elapsed() >= SYNC)
        {
            if let Err(source) = device.sync_data() {
                // The kernel tells it once, so the layer has failed; of a pool that has run full it means that.
                return Err(guard.failed(store.as_ref(), source));
            }
            guard.pass(store.as_ref())?;
            self.unwritten = (0, Instant::now());
        }
        Ok(())
    }
}

impl Read for Paced<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.unlooked.0 >= LOOK_BYTES || self.unlooked.1.elapsed() >= LOOK {
            if let Err(error) = self.pass() {
                let said = io::Error::other(error.to_string());
                self.ended = Some(error);
                return Err(said);
            }
            self.unlooked = (0, Instant::now());
        }
        let came = self.layer.read(to)?;
        let bytes = u64::try_from(came).unwrap_or(u64::MAX);
        self.unlooked.0 = self.unlooked.0.saturating_add(bytes);
        self.unwritten.0 = self.unwritten.0.saturating_add(bytes);
        Ok(came)
    }
}
