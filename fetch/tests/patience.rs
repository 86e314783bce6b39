//! How long is waited for a server, and who hears of it; and what is never waited for.

mod fault;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fault::{Pace, Reply, Server, noise};

const SIZE: usize = 5_000_001;

fn run(url: &str, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", url])
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    (ran.status.code(), ran.stdout, String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn a_refused_connection_is_told_at_once_with_the_patience_that_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, _, said) = run(&url, &["--patience", "3"]);
    assert_eq!(code, Some(111), "{said}");
    let first = said.lines().next().unwrap();
    assert!(first.contains("patience for 3 s") && first.contains("refused"), "{said}");
    assert!(said.contains(" tries in 3."), "not when patience has passed: {said}");
    let (code, _, said) = run(&url, &["--patience", "1", "-q"]);
    assert_eq!((code, said.lines().count()), (Some(111), 1), "{said}");
    // A bound of tries is another way out.
    let (code, _, said) = run(&url, &["--tries", "2"]);
    assert!(code == Some(111) && said.contains("gave up after 2 tries"), "{said}");
}

#[test]
fn what_a_server_asks_for_is_waited_for_and_told() {
    let bytes = noise(1000, 1);
    let server = Server::start(
        bytes.clone(),
        Arc::new(|request, reply: Reply| match request.number {
            0 => Reply::error(503, "SlowDown").with("Retry-After", "3"),
            _ => reply,
        }),
    );
    let (code, out, said) = run(&server.url(), &[]);
    assert!(code == Some(0) && out == bytes, "{said}");
    assert!(said.contains("next in 3.") && said.contains("SlowDown"), "{said}");
    // Longer than patience: one more try when that ends, whatever was asked for.
    let server = Server::start(
        Vec::new(),
        Arc::new(|_, _| Reply::error(503, "SlowDown").with("Retry-After", "100000")),
    );
    let (code, _, said) = run(&server.url(), &["--patience", "2"]);
    assert!(code == Some(111) && said.contains("gave up after 2 tries in 2."), "{said}");
    assert_eq!(server.count(), 2);
}

/// An extra, for which the data never waits: one short try.
#[test]
fn the_question_for_a_checksum_is_asked_once_beside_the_data() {
    let bytes = noise(SIZE, 2);
    let heads = |server: &Server| {
        server.requests.lock().unwrap().iter().filter(|q| q.method == "HEAD").count()
    };
    type Way = fn(Reply) -> Reply;
    let ways: [(&str, Way, Option<i32>); 6] = [
        ("busy", |_| Reply::error(503, "SlowDown").with("Retry-After", "60"), Some(0)),
        ("denied", |_| Reply::error(403, "AccessDenied"), Some(0)),
        ("silent", |r| Reply { mute: true, ..r }, Some(0)),
        ("cut", |_| Reply::raw(b""), Some(0)),
        (
            "of another version",
            |r| r.with("ETag", "\"x\"").with("x-amz-checksum-crc32", "AAAAAA=="),
            Some(0),
        ),
        (
            "late and wrong",
            |r| Reply {
                delay: Duration::from_millis(300),
                ..r.with("x-amz-checksum-crc32", "AAAAAA==")
            },
            Some(100),
        ),
    ];
    for (name, way, due) in ways {
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, reply| match request.method.as_str() {
                "HEAD" => way(reply),
                _ => reply,
            }),
        );
        let (code, out, said) = run(&server.url(), &["--jobs", "4"]);
        assert_eq!(code, due, "{name}: {said}");
        assert!(code != Some(0) || out == bytes, "{name}");
        assert_eq!(heads(&server), 1, "{name}");
    }
    // One that comes late and is right was computed meanwhile.
    let bytes = b"123456789".repeat(500_000);
    for (value, due) in [(crc32(&bytes), Some(0)), (crc32(b"x"), Some(100))] {
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, reply| match request.method.as_str() {
                "HEAD" => {
                    let reply = reply.with("x-amz-checksum-crc32", &value);
                    Reply { delay: Duration::from_millis(300), ..reply }
                }
                _ => reply.pace(Pace::Steady(20_000)),
            }),
        );
        let (code, out, said) = run(&server.url(), &["--jobs", "4"]);
        assert!(code == due && (code != Some(0) || out == bytes), "{code:?}: {said}");
    }
}

/// CRC-32 in base64, bit by bit.
fn crc32(bytes: &[u8]) -> String {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let bits = u64::from(!crc) << 4;
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: String = (0..6)
        .rev()
        .map(|n| char::from(digits[usize::try_from(bits >> (6 * n) & 63).unwrap()]))
        .collect();
    text + "=="
}

#[test]
fn a_stream_that_is_too_slow_ends_after_one_retry() {
    let server =
        Server::start(noise(1_000_000, 3), Arc::new(|_, reply: Reply| reply.pace(Pace::Drip(0))));
    let (code, _, said) = run(&server.url(), &["--jobs", "1", "--stall-timeout", "1"]);
    assert!(code == Some(111) && said.contains("stalled at byte"), "{said}");
    assert_eq!(server.count(), 2);
}

/// Nobody wonders what is waited for where only sources may be asked, and for how long.
#[test]
fn a_source_that_is_away_is_told_at_once_with_the_patience_that_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let bytes = noise(1000, 1);
    let origin = Server::start(bytes.clone(), Arc::new(|_, reply| reply));
    let digest = fetch::write_digest(&<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
    let args = ["--digest", &digest, "--source", &source, "--patience", "2"];
    let (code, _, said) =
        run(&origin.url(), &[&args[..], &["--source-fallback", "never"]].concat());
    assert_eq!(code, Some(111), "{said}");
    let first = said.lines().next().unwrap();
    assert!(first.contains("no source can be asked now"), "{said}");
    assert!(first.contains("patience for 2 s") && first.contains("refused"), "{said}");
    assert!(first.contains("gave up after 1 try: "), "one, and nothing was waited for: {said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("no source could be reached for 2.") && !said.contains("0.0 s"),
        "{said}"
    );
    let (code, out, said) = run(&origin.url(), &[&args[..], &["--source-fallback", "1"]].concat());
    assert!(code == Some(0) && out == bytes, "{said}");
    assert!(said.lines().next().unwrap().contains("the origin is asked in "), "{said}");
    // Who wants to hear nothing does not.
    let (code, _, said) =
        run(&origin.url(), &[&args[..], &["-q", "--source-fallback", "never"]].concat());
    assert_eq!((code, said.lines().count()), (Some(111), 1), "{said}");
}
