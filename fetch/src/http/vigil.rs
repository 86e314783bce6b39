//! Tells who waits for a silent server, and for how long; and ends a wait whose end nobody wants any more, by
//! closing its sockets. One thread of the process looks at all waits; it ends when there are none, so that an
//! idle process has none of it. A wait that nobody watches and nobody may end costs nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::Agent;

use crate::s3::options::{Event, Options, Stop, Watch};

/// How often the thread looks: the finest that anybody asks for is some tenths of a second.
const LOOK: Duration = Duration::from_millis(100);

/// What a wait waits by, and what ends with it.
pub(crate) trait Sockets {
    /// Closes them all.
    fn close(&self);
}

impl Sockets for Agent {
    fn close(&self) {
        self.clone().shutdown();
    }
}

/// Every wait of this process.
static WAITS: Mutex<Waits> = Mutex::new(Waits { begun: false, next: 0, all: Vec::new() });

struct Waits {
    /// Whether the thread is there.
    begun: bool,
    next: u64,
    all: Vec<Wait>,
}

struct Wait {
    number: u64,
    subject: String,
    watch: Watch,
    every: Duration,
    since: Instant,
    /// How often it was told.
    told: u32,
    stop: Stop,
    /// What is closed when nobody wants the answer any more; none once it is.
    sockets: Option<Box<dyn Sockets + Send>>,
}

impl Wait {
    /// When it is to be told next.
    fn due(&self) -> Instant {
        self.since + self.every.saturating_mul(self.told + 1)
    }
}

/// A wait that is under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Option<u64>);

impl Waiting {
    /// From now on `subject` is waited for, by these sockets.
    pub(crate) fn begin<S: Sockets + Clone + Send + 'static>(
        options: &Options,
        sockets: &S,
        subject: &str,
    ) -> Waiting {
        if !options.watch.is_set() && !options.stop.may_come() {
            return Waiting(None);
        }
        let mut waits = lock();
        if !waits.begun {
            // Without the thread it is only silent, as before.
            waits.begun = thread::Builder::new().name("vigil".into()).spawn(watch).is_ok();
        }
        let number = waits.next;
        waits.next += 1;
        waits.all.push(Wait {
            number,
            subject: subject.to_owned(),
            watch: options.watch.clone(),
            every: options.tell_waiting.max(Duration::from_millis(1)),
            since: Instant::now(),
            told: 0,
            stop: options.stop.clone(),
            sockets: Some(Box::new(sockets.clone())),
        });
        Waiting(Some(number))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            lock().all.retain(|wait| wait.number != number);
        }
    }
}

fn lock() -> MutexGuard<'static, Waits> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        thread::sleep(LOOK);
        let mut waits = lock();
        if waits.all.is_empty() {
            waits.begun = false;
            return;
        }
        let unwanted: Vec<Box<dyn Sockets + Send>> = waits
            .all
            .iter_mut()
            .filter(|wait| wait.sockets.is_some() && wait.stop.is_set())
            .filter_map(|wait| wait.sockets.take())
            .collect();
        let now = Instant::now();
        let due: Vec<(String, Watch, Duration)> = waits
            .all
            .iter_mut()
            .filter(|wait| wait.watch.is_set() && wait.due() <= now)
            .map(|wait| {
                wait.told += 1;
                (wait.subject.clone(), wait.watch.clone(), now - wait.since)
            })
            .collect();
        // Whoever is told may take its time, and may fetch.
        drop(waits);
        for sockets in unwanted {
            sockets.close();
        }
        for (subject, watch, waited) in &due {
            watch.tell(&Event::Waiting { subject, waited: *waited });
        }
    }
}
