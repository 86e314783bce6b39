//! An overloaded server: it gets fewer requests at a time, and no request before it asked for one.

mod fault;

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fault::{Reply, Server, noise};
use fetch::{Client, CredentialsFrom, Expect, ObjectRef, Options};

fn read(server: &Server, jobs: usize) -> Vec<u8> {
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        jobs: Some(jobs),
        ..Options::default()
    };
    let object: ObjectRef = "s3://bkt/key".parse().unwrap();
    let mut body = Client::new(&options).unwrap().open(&object, &Expect::default()).unwrap();
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_overloaded_server_gets_half_the_ranges() {
    const ANSWER: Duration = Duration::from_millis(300);
    let bytes = noise(80 << 20, 31);
    // When the ranges were asked for, and when the first was turned away.
    let seen: Arc<Mutex<(Vec<Instant>, Option<Instant>)>> = Arc::default();
    let shared = seen.clone();
    let server = Server::start(
        bytes.clone(),
        Arc::new(move |request, reply| {
            if request.method == "HEAD" {
                return reply;
            }
            let mut seen = shared.lock().unwrap();
            if (4..8).contains(&request.number) {
                seen.1.get_or_insert_with(Instant::now);
                return Reply::error(503, "SlowDown");
            }
            seen.0.push(Instant::now());
            Reply { delay: ANSWER, ..reply }
        }),
    );
    assert!(read(&server, 8) == bytes);
    let seen = seen.lock().unwrap();
    let overload = seen.1.unwrap();
    // A range is in flight for at least ANSWER, so those that begin within it overlap.
    let most = |times: &[Instant]| {
        let within = |begin: &Instant| {
            times.iter().filter(|time| **time >= *begin && **time < *begin + ANSWER).count()
        };
        times.iter().map(within).max().unwrap_or(0)
    };
    let after: Vec<Instant> =
        seen.0.iter().copied().filter(|time| *time > overload + Duration::from_secs(1)).collect();
    assert!(after.len() >= 8, "the test shows nothing: {} ranges after it", after.len());
    // Calm brings one more in the end.
    assert!(most(&after) <= 5, "{} ranges at once after the overload", most(&after));
}

#[test]
fn a_date_to_come_back_at_is_kept() {
    let date = |ahead: u32| {
        // A clock that is far from ours: what counts is the time between the two headers.
        format!("Sun, 06 Nov 1994 08:49:{:02} GMT", 10 + ahead)
    };
    let server = Server::start(
        b"hello".to_vec(),
        Arc::new(move |request, reply| match request.number {
            0 => Reply::error(503, "SlowDown").with("Date", &date(0)).with("Retry-After", &date(2)),
            _ => reply,
        }),
    );
    let begun = Instant::now();
    assert_eq!(read(&server, 1), b"hello");
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(server.count(), 2);
}
