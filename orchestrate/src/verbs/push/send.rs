//! Blobs on their way to a bucket: several at a time, with a line for people now and then.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fetch::image::Digest;
use fetch::{ObjectRef, Upload};

use crate::error::Error;
use crate::process::log::{self, Level};
use crate::verbs::push::gather::Blob;
use crate::verbs::push::{Goal, PushedObject};

/// Blobs that are sent at a time. Each has a part of 16 MiB in memory, or of 64 MiB where it is beyond 156 GiB.
const JOBS: usize = 4;

/// How often it is told how far large blobs have come.
const TELL: Duration = Duration::from_secs(10);

/// Sends blobs, and knows how far it has come.
pub(crate) struct Sender<'a> {
    goal: &'a Goal,
    sent: AtomicU64,
    there: AtomicU64,
    told: Mutex<Instant>,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(goal: &'a Goal) -> Sender<'a> {
        let (sent, there) = (AtomicU64::new(0), AtomicU64::new(0));
        Sender { goal, sent, there, told: Mutex::new(Instant::now()) }
    }

    /// All of them, each under the name that its digest has. The first failure ends the others at their next part.
    pub(crate) fn all(
        &self,
        blobs: &[Blob],
        named: &(dyn Fn(Digest) -> Result<ObjectRef, Error> + Sync),
    ) -> Result<Vec<PushedObject>, Error> {
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let done = Mutex::new(Vec::new());
        let work = || {
            while let Some((at, blob)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                blobs.get(at).map(|blob| (at, blob))
            } {
                if self.goal.failed.load(Ordering::Acquire) {
                    return;
                }
                match named(blob.digest).and_then(|object| self.one(blob, object, true)) {
                    Ok(one) => lock(&done).push((at, one)),
                    Err(error) => {
                        // What ends because of the first failure says nothing of its own.
                        lock(&failure).get_or_insert(error);
                        self.goal.failed.store(true, Ordering::Release);
                        return;
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..JOBS.min(blobs.len()) {
                scope.spawn(work);
            }
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        let mut done = std::mem::take(&mut *lock(&done));
        done.sort_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, one)| one).collect())
    }

    /// One blob as this object; `is_named` where the object's name has the digest in it.
    pub(crate) fn one(
        &self,
        blob: &Blob,
        object: ObjectRef,
        is_named: bool,
    ) -> Result<PushedObject, Error> {
        self.goal.settings.cancel.check()?;
        let opening = blob.opening()?;
        let upload = Upload {
            object,
            size: blob.size,
            sha256: blob.digest.0,
            place: blob.shown.clone(),
            named: is_named,
        };
        let tell = |step: fetch::Uploaded| {
            self.sent.fetch_add(step.sent, Ordering::Relaxed);
            self.there.fetch_add(step.there, Ordering::Relaxed);
            self.tell(&upload.object);
        };
        let done = self.goal.client.upload(&upload, &opening, &tell);
        let done = self.goal.heed(done)?;
        if self.goal.settings.talk > 0 {
            let how = match (done.sent, done.there) {
                (0, _) => "was there".to_owned(),
                (sent, 0) => format!("{sent} bytes sent"),
                (sent, there) => format!("{sent} bytes sent, {there} were there"),
            };
            let fields = [("sent", done.sent.into()), ("there", done.there.into())];
            log::line(Level::Info, &format!("{}: {how}", upload.object), &fields);
        }
        Ok(PushedObject {
            key: upload.object.key,
            bytes: blob.size,
            bytes_sent: done.sent,
            bytes_there: done.there,
        })
    }

    fn tell(&self, object: &ObjectRef) {
        let mut told = lock(&self.told);
        if self.goal.settings.talk == 0 || told.elapsed() < TELL {
            return;
        }
        *told = Instant::now();
        let (sent, there) = (self.sent.load(Ordering::Relaxed), self.there.load(Ordering::Relaxed));
        let line = format!("{object}: under way; {sent} bytes sent so far, {there} were there");
        log::line(Level::Info, &line, &[("sent", sent.into()), ("there", there.into())]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
