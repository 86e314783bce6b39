//! Readers of the registry that stay, beside a daemon under steady load: how long its log becomes. An export
//! that nobody reads on, histories that are followed and not read, clients that wait, an open shell, and
//! readers of which the next begins before the last has ended keep it as short as nobody does. A transaction
//! that a stranger leaves open keeps it growing, since SQLite cannot do otherwise: that is reported, the
//! daemon goes on, and the log is short again when the transaction has ended.
//!
//! The long form is `just soak-reader`.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry::Registry;
use rusqlite::Connection;
use serde_json::Value;

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, until};

const IMAGE: &str = "s3://bucket/a/";

const MIB: u64 = 1 << 20;

/// What stays of the log when it is begun anew (docs/registry.md, File size).
const KEPT: u64 = 4 * MIB;

/// The log beside our own readers: the 8 MiB from which on readers are waited for every two seconds, and what
/// two seconds of this load add, with room for a machine that does other work.
const OURS_MAX: u64 = 24 * MIB;

/// From here on `health` reports it.
const REPORTED: u64 = 64 * MIB;

/// How long, how often an activation is made and removed, and of a stranger's host how often.
struct Pace {
    whole: Duration,
    each: Duration,
    strangers: Duration,
}

fn pace() -> Pace {
    let seconds = std::env::var("VENEER_READER_SECONDS").ok();
    let seconds = seconds.map_or(6, |text| text.parse().expect("a number"));
    let each = Duration::from_millis(if seconds > 60 { 100 } else { 20 });
    // The stranger's log is as long as its load has been: in an hour some hundred MiB.
    Pace { whole: Duration::from_secs(seconds), each, strangers: each * 10 }
}

/// What was seen of a log.
#[derive(Debug, Default)]
struct Seen {
    acts: u64,
    longest: u64,
    /// At each tenth of the time.
    tenths: Vec<u64>,
    /// The slowest activation.
    slowest: Duration,
}

fn log_bytes(host: &Host<'_>) -> u64 {
    fs::metadata(host.state().join("registry.db-wal")).map_or(0, |found| found.len())
}

/// Makes an activation and removes it.
fn act(daemon: &Daemon, number: u64) {
    let name = format!("vm-{number}");
    let end = daemon.end_of(daemon.activate(&name, IMAGE));
    assert_eq!(end["state"], "done", "{end}");
    let gone = daemon.ask("DELETE", &format!("/v1/activations/{name}?wait=30s"), "").json();
    let end = daemon.end_of(gone["id"].as_u64().unwrap_or_else(|| panic!("{gone}")));
    assert_eq!(end["state"], "done", "{end}");
}

/// So much load for so long.
fn load(host: &Host<'_>, daemon: &Daemon, whole: Duration, each: Duration) -> Seen {
    let (begun, mut seen) = (Instant::now(), Seen::default());
    while begun.elapsed() < whole {
        let at = Instant::now();
        act(daemon, seen.acts);
        seen.acts += 1;
        seen.slowest = seen.slowest.max(at.elapsed());
        let bytes = log_bytes(host);
        seen.longest = seen.longest.max(bytes);
        if begun.elapsed() * 10 >= whole * u32::try_from(seen.tenths.len() + 1).unwrap() {
            seen.tenths.push(bytes);
        }
        std::thread::sleep(each.saturating_sub(at.elapsed()));
    }
    seen
}

/// A history that somebody follows and does not read: its pipe is full after 64 KiB.
struct Unread(Child);

impl Unread {
    fn follow(host: &Host<'_>, words: &[&str]) -> Unread {
        let mut command = host.command(words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Its first bytes are there: it follows.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        Unread(child)
    }

    /// Still there.
    fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// As of an export into a pager that nobody scrolls: its first row, and then nothing until the end.
fn export(host: &Host<'_>, over: &AtomicBool) {
    let registry = Registry::open_to_read(&host.state().join("registry.db")).unwrap();
    let mut first = true;
    let told = registry.export(|_| {
        while std::mem::take(&mut first) && !over.load(Ordering::Relaxed) {
            first = true;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    told.unwrap();
}

/// Readers of which the next begins before the last has ended.
fn upon_each_other(host: &Host<'_>, over: &AtomicBool) {
    let open = || {
        let reader = reader(host);
        std::thread::sleep(Duration::from_millis(50));
        reader
    };
    let mut last = open();
    while !over.load(Ordering::Relaxed) {
        drop(std::mem::replace(&mut last, open()));
    }
}

/// Somebody in the middle of a transaction that only reads.
fn reader(host: &Host<'_>) -> Connection {
    let reader = Connection::open(host.state().join("registry.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    reader
}

/// Clients of the daemon that ask for what comes next, again and again.
fn wait_for_events(daemon: &Daemon, over: &AtomicBool) {
    let mut after = 0;
    while !over.load(Ordering::Relaxed) {
        let lines = daemon.ask("GET", &format!("/v1/events?after={after}&wait=1s"), "").body;
        let last = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        let last: Option<Value> = last.map(|line| serde_json::from_slice(line).unwrap());
        after = last.map_or(after, |event| event["seq"].as_u64().unwrap());
    }
}

/// The log when nobody reads any more and one more change was made.
fn settled(host: &Host<'_>, daemon: &Daemon) -> u64 {
    let mut number = u64::from(u32::MAX);
    until("the log to become short", || {
        number += 1;
        act(daemon, number);
        Some(log_bytes(host)).filter(|bytes| *bytes <= KEPT)
    })
}

/// All kinds of our own readers beside the load.
fn ours(host: &Host<'_>, pace: &Pace) -> Seen {
    let daemon = Daemon::start(host, &[]);
    act(&daemon, u64::from(u32::MAX));
    let path = host.state().join("registry.db");
    let shell = Connection::open(&path).unwrap();
    let _: i64 = shell.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    let mut unread =
        [&["events", "-f"][..], &["--no-daemon", "events", "-f"]].map(|w| Unread::follow(host, w));
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| export(host, &over));
        scope.spawn(|| upon_each_other(host, &over));
        scope.spawn(|| wait_for_events(&daemon, &over));
        let seen = load(host, &daemon, pace.whole, pace.each);
        over.store(true, Ordering::Relaxed);
        seen
    });
    assert!(unread.iter_mut().all(Unread::goes_on), "who follows the history has ended");
    drop((unread, shell));
    assert!(seen.longest <= OURS_MAX, "{seen:?}");
    let bytes = settled(host, &daemon);
    println!("our readers: {seen:?}, then {bytes} bytes");
    daemon.stop();
    seen
}

fn registry_log(host: &Host<'_>) -> Value {
    let found = host.command(&["health"]).output().unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let checks = found["checks"].as_array().unwrap().iter();
    checks.clone().find(|check| check["name"] == "registry_log").unwrap().clone()
}

/// A stranger who has one transaction open all the time.
fn strangers(host: &Host<'_>, pace: &Pace) -> Seen {
    let daemon = Daemon::start(host, &[]);
    act(&daemon, u64::from(u32::MAX));
    let stranger = reader(host);
    let seen = load(host, &daemon, pace.whole, pace.strangers);
    let (told, long) = (registry_log(host), log_bytes(host) > REPORTED);
    assert_eq!(told["ok"], !long, "{told}");
    let why = told["reason"].as_str().unwrap_or_default();
    let named = why.contains(&format!("process {} ", std::process::id()));
    assert!(!long || named, "it is not said who: {told}");
    drop(stranger);
    let bytes = settled(host, &daemon);
    println!("a stranger's transaction: {seen:?}, reported: {long}, then {bytes} bytes");
    assert_eq!(registry_log(host)["ok"], true);
    daemon.stop();
    seen
}

#[test]
fn whoever_reads_on_keeps_no_log_long_but_a_stranger_who_is_named() {
    let bench = Bench::new(&[("a", &[1])], 2, 100);
    let pace = pace();
    let hosts = [bench.host("ours"), bench.host("strangers")];
    for host in &hosts {
        host.ok(&["ensure", IMAGE]);
    }
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| strangers(&hosts[1], &pace));
        (ours(&hosts[0], &pace), theirs.join().unwrap())
    });
    assert!(ours.acts > 0 && theirs.acts > 0, "{ours:?}, {theirs:?}");
    for host in &hosts {
        host.check();
    }
}
