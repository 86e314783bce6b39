//! A body that is read ahead: the same bytes and the same error as without it, bounded, and heard when stopped.

mod fault;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fault::{Pace, Reply, Server, noise};
use fetch::{
    Ahead, Client, CredentialsFrom, Error, Expect, Kind, Locator, Options, Stop, leftovers,
};

/// What only a hang reaches.
const BOUND: Duration = Duration::from_secs(60);

fn options(server: &Server) -> Options {
    Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        spool_reserve: 0,
        ..Options::default()
    }
}

fn begin(options: &Options, dir: &Path) -> Ahead {
    let client = Client::new(options).unwrap();
    Ahead::begin(
        client,
        "s3://bkt/key".parse::<Locator>().unwrap(),
        Expect::default(),
        dir.to_owned(),
        true,
    )
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < BOUND, "it never comes to that");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_bytes_are_the_same_and_the_spool_goes_when_it_is_told_to() {
    let bytes = noise(3_000_000, 7);
    let server = Server::start(bytes.clone(), Arc::new(|_, reply| reply));
    let dir = tempfile::tempdir().unwrap();
    let mut ahead = begin(&options(&server), dir.path());
    let mut read = Vec::new();
    assert!(ahead.summary().is_none() && ahead.md5().is_none());
    ahead.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
    assert_eq!(ahead.summary().unwrap().bytes, 3_000_000);
    assert_eq!(ahead.md5(), Some(md5::compute(&bytes).0));
    assert_eq!(leftovers(dir.path()).unwrap().len(), 1);
    ahead.discard_spool();
    assert_eq!(leftovers(dir.path()).unwrap().len(), 0);
}

#[test]
fn no_more_is_held_than_the_buffer() {
    let bytes = noise(32 << 20, 8);
    let server = Server::start(bytes, Arc::new(|_, reply| reply));
    let dir = tempfile::tempdir().unwrap();
    let ahead = begin(&Options { jobs: Some(1), ..options(&server) }, dir.path());
    let spooled = || leftovers(dir.path()).unwrap().iter().map(|one| one.bytes).sum::<u64>();
    until(|| spooled() >= 4 << 20);
    thread::sleep(Duration::from_millis(300));
    assert!(spooled() < 8 << 20, "{} bytes came that nobody reads", spooled());
    // Whoever lets go has the spool to himself afterwards.
    ahead.release();
    let left = leftovers(dir.path()).unwrap();
    assert!(left.iter().all(|one| one.discard().unwrap()), "{left:?}");
}

#[test]
fn the_error_is_the_bodys_own() {
    let server = Server::start(noise(10, 9), Arc::new(|_, _| Reply::error(403, "AccessDenied")));
    let dir = tempfile::tempdir().unwrap();
    let mut ahead = begin(&options(&server), dir.path());
    let error = ahead.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.downcast::<Error>().unwrap().kind(), Kind::Denied);
    // A spool that cannot be had is no error.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let bytes = noise(2_000_000, 10);
    let server = Server::start(bytes.clone(), Arc::new(|_, reply| reply));
    let mut read = Vec::new();
    begin(&options(&server), &file).read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
}

#[test]
fn who_stops_is_heard_in_the_middle() {
    let server = Server::start(
        noise(3_000_000, 11),
        Arc::new(|_, reply: Reply| reply.pace(Pace::Hang(1_000_000))),
    );
    let dir = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let stops = Stop::new(move || asked.load(Ordering::Relaxed));
    let mut ahead = begin(&Options { stop: stops, jobs: Some(1), ..options(&server) }, dir.path());
    ahead.read_exact(&mut [0; 64]).unwrap();
    stop.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let error = loop {
        match ahead.read(&mut [0; 1 << 16]) {
            Ok(n) => assert!(n > 0, "an end before the end"),
            Err(error) => break error,
        }
    };
    assert!(begun.elapsed() < BOUND, "{error}");
    assert_eq!(error.to_string(), "somebody asked to stop");
}
