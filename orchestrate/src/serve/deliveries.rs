//! Tells of ends: each address by a thread of its own while there is something to tell it, so that one
//! that is slow or away keeps nobody else waiting. What is to be told is in the registry; what is here
//! may be forgotten: then somebody hears twice.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use registry::Webhook;

use crate::process::log::{self, Level};
use crate::serve::daemon::{Daemon, lock};
use crate::serve::webhook::{self, Untold};
use crate::view::metrics::life::LIFE;

/// Addresses that are told at once.
const TELLERS: usize = 48;

/// Of these, of one server: it may be away, and have many addresses.
const OF_ONE_HOST: usize = 6;

/// After each failed try of an address; the last again and again.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];

/// A command that brings a run to its end does not wake this daemon, so it looks this often.
const LOOK: Duration = Duration::from_secs(5);

/// It was told, and will be once more.
const UNRECORDED: &str = "that it was told cannot be recorded";

/// Addresses that are read in one go.
const PAGE: u32 = 256;

/// What is known of addresses while the daemon lives.
#[derive(Debug, Default)]
struct Book {
    /// Those that are being told, with their servers.
    busy: HashMap<String, String>,
    /// Those that could not be.
    away: HashMap<String, Away>,
}

/// An address that could not be told.
#[derive(Clone, Copy, Debug)]
struct Away {
    tries: usize,
    since: Instant,
    /// What it was to hear of then: that is given up first.
    up_to: u64,
    not_before: Instant,
}

/// Tells of ends from now on, those that an earlier daemon left included.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let shared = daemon.clone();
    let started = thread::Builder::new().name("webhooks".into()).spawn(move || {
        let book = Arc::new(Mutex::new(Book::default()));
        while !shared.is_stopping() {
            let seen = shared.changes();
            let next = round(&shared, &book).unwrap_or(LOOK);
            shared.wait_for_changes(seen, Some(next.min(LOOK)));
        }
    });
    if let Err(error) = started {
        log::line(Level::Error, &format!("webhooks: cannot start: {error}"), &[]);
    }
}

/// Sends deliveries to whom it is time to tell. Gives the time after which there is more to do.
fn round(daemon: &Arc<Daemon>, book: &Arc<Mutex<Book>>) -> Option<Duration> {
    let mut due: Vec<String> = Vec::new();
    loop {
        let after = due.last().cloned().unwrap_or_default();
        // A registry that does not answer now is asked again at the next changes.
        let page =
            daemon.with_registry(|registry| registry.addresses_to_tell(&after, PAGE)).ok()?;
        if page.is_empty() {
            break;
        }
        due.extend(page);
    }
    let mut open = lock(book);
    let now = Instant::now();
    open.away.retain(|address, _| due.binary_search(address).is_ok());
    // Who was there the last time first.
    due.sort_by_key(|address| open.away.get(address).map_or(0, |away| away.tries));
    let mut next: Option<Duration> = None;
    for address in due {
        if open.busy.len() >= TELLERS {
            break;
        }
        let wait = open.away.get(&address).map(|away| away.not_before);
        let wait = wait.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if !wait.is_zero() {
            next = Some(next.map_or(wait, |next| next.min(wait)));
            continue;
        }
        let host = webhook::host(&address);
        let of_host = open.busy.values().filter(|other| **other == host).count();
        // Who did not listen the last time leaves room for those of whom that is not known.
        let no_place = open.away.contains_key(&address) && open.busy.len() >= TELLERS / 2;
        if no_place || of_host >= OF_ONE_HOST || open.busy.contains_key(&address) {
            continue;
        }
        let (shared, kept, to) = (daemon.clone(), book.clone(), address.clone());
        let teller = thread::Builder::new().name("webhook".into()).spawn(move || {
            tell_all(&shared, &kept, &to);
            lock(&kept).busy.remove(&to);
            shared.tell();
        });
        match teller {
            Ok(_) => drop(open.busy.insert(address, host)),
            Err(_) => return Some(PAUSES[0]),
        }
    }
    next.map(|time| time.max(Duration::from_millis(10)))
}

/// Tells one address of all that it has not heard of, until it does not listen.
fn tell_all(daemon: &Daemon, book: &Mutex<Book>, address: &str) {
    while !daemon.is_stopping() {
        let first = daemon.with_registry(|registry| registry.to_tell(address, 0));
        let first = match first {
            Ok(Some(first)) => first,
            Ok(None) => return,
            Err(error) => return put_off(daemon, book, address, &error.to_string()),
        };
        match webhook::post(daemon, first.run, address) {
            Ok(()) => {
                LIFE.webhooks_sent.fetch_add(1, Ordering::Relaxed);
                lock(book).away.remove(address);
                if !close(daemon, &first, &format!("its end was told to {address}")) {
                    return put_off(daemon, book, address, UNRECORDED);
                }
            }
            Err(Untold { why, for_good: true }) => {
                if !give_up(daemon, &first, &why) {
                    return put_off(daemon, book, address, UNRECORDED);
                }
            }
            Err(Untold { why, for_good: false }) => return put_off(daemon, book, address, &why),
        }
    }
}

/// An address that does not listen is told later; what it has not heard of for the time that is set is
/// given up.
fn put_off(daemon: &Daemon, book: &Mutex<Book>, address: &str, why: &str) {
    let time = daemon.options.webhook_time;
    let now = Instant::now();
    let last = || daemon.with_registry(|registry| registry.last_to_tell(address)).ok().flatten();
    let before = lock(book).away.get(address).copied();
    let mut away = match before {
        Some(away) => away,
        None => Away { tries: 0, since: now, up_to: last().unwrap_or(0), not_before: now },
    };
    if now.duration_since(away.since) >= time {
        while let Ok(Some(first)) = daemon.with_registry(|registry| registry.to_tell(address, 0))
            && first.id <= away.up_to
            && give_up(daemon, &first, why)
        {}
        (away.since, away.up_to) = (now, last().unwrap_or(0));
    }
    let pause = PAUSES[away.tries.min(PAUSES.len() - 1)].min(time / 4).max(PAUSES[0] / 10);
    away.tries += 1;
    away.not_before = now + pause;
    lock(book).away.insert(address.to_owned(), away);
}

fn give_up(daemon: &Daemon, webhook: &Webhook, why: &str) -> bool {
    LIFE.webhooks_failed.fetch_add(1, Ordering::Relaxed);
    let detail = format!("its end could not be told to {}: {why}", webhook.address);
    close(daemon, webhook, &detail)
}

/// Whether it is recorded; where it is not it is told once more: who listens has the run's number.
fn close(daemon: &Daemon, webhook: &Webhook, detail: &str) -> bool {
    let closed = daemon.with_registry(|registry| registry.write(|w| w.told_end(webhook, detail)));
    closed.is_ok()
}
