//! The catalogue of faults: each ends in the right bytes or in the right exit code, in its time.
//!
//! Every fault is tried with one stream and with several ranges, through the program.

mod fault;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fault::{ETAG, Pace, Plan, Reply, Request, Server, good, noise};
use sha2::{Digest as _, Sha256};

/// More than four ranges of 2 MiB, and not a multiple of anything.
const SIZE: usize = 9_000_001;

/// Longer than any fault may take, even on a busy machine.
const HANG: Duration = Duration::from_secs(60);

/// How it must end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Good,
    Never,
    Later,
}

struct Fault {
    name: &'static str,
    plan: Plan,
    single: End,
    ranges: End,
    args: &'static [&'static str],
    /// A part of the message.
    says: &'static str,
}

fn fault(
    name: &'static str,
    single: End,
    ranges: End,
    says: &'static str,
    plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Fault {
    Fault { name, plan: Arc::new(plan), single, ranges, args: &[], says }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether this is the first request for bytes of the object.
fn first(request: &Request) -> bool {
    request.number == 0
}

#[rustfmt::skip]
fn faults() -> Vec<Fault> {
    use End::{Good, Later, Never};
    let object = noise(SIZE, 1);
    let other = noise(SIZE, 2);
    let other_tag = "\"ffffffffffffffffffffffffffffffff\"";
    let (o1, o2, o3) = (object.clone(), object.clone(), object.clone());
    let mut list = vec![
        fault("nothing wrong", Good, Good, "", |_, r| r),
        fault("cut once by FIN", Good, Good, "", |q, r| if first(q) { r.pace(Pace::Cut(100_000)) } else { r }),
        fault("cut once by RST", Good, Good, "", |q, r| if first(q) { r.pace(Pace::Reset(100_000)) } else { r }),
        fault("cut at byte 0", Good, Good, "", |q, r| if first(q) { r.pace(Pace::Cut(0)) } else { r }),
        fault("cut one byte before the end", Good, Good, "", |q, r| { let n = r.body.len() - 1; if first(q) { r.pace(Pace::Cut(n)) } else { r } }),
        fault("every body cut after 2 MiB", Good, Good, "", |_, r| r.pace(Pace::Cut(2 << 20))),
        fault("every body cut after 1000 bytes", Later, Later, "gave up after 4 tries", |_, r| r.pace(Pace::Cut(1000))),
        fault("cut, then the connection refused by silence", Later, Later, "timed out", |q, r| if first(q) { r.pace(Pace::Cut(1000)) } else { Reply { mute: true, ..r } }),
        fault("stall in the body once", Good, Good, "", |q, r| if first(q) { r.pace(Pace::Hang(300_000)) } else { r }),
        fault("stall in every body", Later, Later, "timed out", |_, r| r.pace(Pace::Hang(10))),
        fault("no answer at all", Later, Later, "timed out", |_, r| Reply { mute: true, ..r }),
        fault("one byte every 100 ms", Later, Later, "stalled at byte", |_, r| r.pace(Pace::Drip(10))),
        fault("one bit flipped", Never, Never, "digest mismatch", |_, mut r| { let n = r.body.len() / 2; r.body[n] ^= 1; r }),
        fault("another object's bytes", Never, Never, "digest mismatch", move |q, _| good(q, &other)),
        fault("two bytes swapped across a cut", Never, Never, "digest mismatch", |q, mut r| { if !first(q) { let n = r.body.len() - 1; r.body.swap(0, n); return r; } r.pace(Pace::Cut(5_000)) }),
        fault("Range ignored, nothing cut", Good, Good, "", move |q, r| if q.range().is_some() { Reply::new(200, &o1).with("ETag", ETAG) } else { r }),
        fault("Range ignored, cut once", Good, Good, "", move |q, _| { let r = Reply::new(200, &o2).with("ETag", ETAG); if first(q) { r.pace(Pace::Cut(100_000)) } else { r } }),
        fault("Range honoured first, then ignored", Good, Good, "", move |q, r| if q.number > 0 { Reply::new(200, &o3).with("ETag", ETAG) } else { r }),
        fault("replaced, If-Match honoured", Later, Later, "412", |q, r| if first(q) { r.pace(Pace::Cut(1000)) } else { Reply::error(412, "PreconditionFailed") }),
        fault("replaced, If-Match ignored", Later, Later, "the object changed", move |q, r| if first(q) { r.pace(Pace::Cut(1000)) } else { r.with("ETag", other_tag) }),
        fault("the ETag vanishes", Later, Later, "the object changed", |q, r| if first(q) { r.pace(Pace::Cut(1000)) } else { r.without("etag") }),
        fault("no ETag, digest given, cut", Good, Good, "", |q, r| { let r = r.without("etag"); if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("weak ETag, digest given, cut", Good, Good, "", |q, r| { let r = r.with("ETag", "W/\"x\""); if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("a range shifted by one", Good, Good, "asked for", |q, r| match q.range() { Some((a, _)) if q.number > 0 => { let n = r.body.len(); r.with("Content-Range", &format!("bytes {}-{}/{SIZE}", a + 1, a + n)) } _ => if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("a range of another size", Later, Later, "size is", |q, r| match q.range() { Some((a, b)) if q.number > 0 => r.with("Content-Range", &format!("bytes {a}-{b}/{}", SIZE + 1)), _ => if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("a range without Content-Range", Good, Good, "asked for", |q, r| { let r = r.without("content-range"); if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("a nonsensical Content-Range", Good, Good, "asked for", |q, r| { let r = if q.range().is_some() { r.with("Content-Range", "bytes 9-5/abc") } else { r }; if first(q) { r.pace(Pace::Cut(1000)) } else { r } }),
        fault("503 SlowDown three times", Good, Good, "", |q, r| if q.number < 3 { Reply::error(503, "SlowDown") } else { r }),
        fault("500 once", Good, Good, "", |q, r| if first(q) { Reply::error(500, "InternalError") } else { r }),
        fault("429 with Retry-After", Good, Good, "", |q, r| if first(q) { Reply::error(429, "Slow").with("Retry-After", "1") } else { r }),
        fault("400 RequestTimeout once", Good, Good, "", |q, r| if first(q) { Reply::error(400, "RequestTimeout") } else { r }),
        fault("503 for ever", Later, Later, "SlowDown", |_, _| Reply::error(503, "SlowDown")),
        fault("507", Later, Later, "507", |_, _| Reply::error(507, "InsufficientStorage")),
        fault("501", Never, Never, "501", |_, _| Reply::error(501, "NotImplemented")),
        fault("403", Never, Never, "AccessDenied", |_, _| Reply::error(403, "AccessDenied")),
        fault("403 clock", Never, Never, "clock", |_, _| Reply::error(403, "RequestTimeTooSkewed")),
        fault("404", Never, Never, "NoSuchKey", |_, _| Reply::error(404, "NoSuchKey")),
        fault("404 in the middle", Never, Never, "NoSuchKey", |q, r| if first(q) { r.pace(Pace::Cut(1000)) } else { Reply::error(404, "NoSuchKey") }),
        fault("301 with the region", Never, Never, "eu-west-9", |_, _| Reply::error(301, "PermanentRedirect").with("x-amz-bucket-region", "eu-west-9")),
        fault("307 to another host", Never, Never, "not followed", |_, _| Reply::new(307, b"").with("Location", "http://127.0.0.2:1/bkt/key")),
        fault("307 to instance metadata", Never, Never, "not followed", |_, _| Reply::new(307, b"").with("Location", "http://169.254.169.254/latest/")),
        fault("302 to a file", Never, Never, "not followed", |_, _| Reply::new(302, b"").with("Location", "file:///etc/passwd")),
        fault("an error document with status 200", Never, Never, "", |_, _| Reply::error(200, "InternalError")),
        fault("a captive portal's page", Never, Never, "", |_, _| Reply::new(200, b"<html>log in</html>")),
        fault("no Content-Length, whole", Never, Good, "Content-Length", |_, r| r.without("content-length")),
        fault("chunked, whole", Never, Good, "Content-Length", |_, r| r.chunked(true)),
        fault("Content-Encoding: gzip on plain bytes", Good, Good, "", |_, r| r.with("Content-Encoding", "gzip")),
        fault("bytes after the body", Good, Good, "", |_, mut r| { r.body.extend(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"); r }),
        fault("headers without end", Later, Later, "", |_, _| { let mut raw = b"HTTP/1.1 200 OK\r\n".to_vec(); for n in 0..20_000 { raw.extend(format!("X-{n}: {n}\r\n").into_bytes()); } Reply::raw(&raw) }),
        fault("a header of 1 MiB", Never, Never, "", |_, r| r.with("X-Big", &"x".repeat(1 << 20))),
        fault("no HTTP", Later, Later, "", |_, _| Reply::raw(b"SSH-2.0-OpenSSH_9.2\r\n")),
        fault("an empty answer", Later, Later, "", |_, _| Reply::raw(b"")),
        fault("Content-Length is the largest number", Never, Good, "exceed", |q, r| if q.range().is_none() { r.with("Content-Length", &u64::MAX.to_string()) } else { r }),
        fault("two Content-Lengths", Later, Later, "", |_, mut r| { r.headers.push(("Content-Length".into(), "5".into())); r }),
        fault("an ETag with a quote inside", Never, Never, "odd characters", |_, r| r.with("ETag", "\"a\"b\"")),
        fault("terminal escapes in the message", Never, Never, "\\u{1b}", |_, _| Reply::new(403, b"<Error><Code>\x1b[31mred</Code></Error>")),
        fault("416 for ever", Never, Never, "416", |_, _| Reply::error(416, "InvalidRange")),
        fault("too large for --size-max", Never, Never, "exceed", |q, _| { let big = vec![0; 11_000_000]; good(q, &big) }),
    ];
    for fault in &mut list {
        fault.args = &["--size-max", "10000000"];
    }
    list
}

fn run(fault: &Fault, jobs: &str, object: &[u8]) -> Option<String> {
    let end = if jobs == "1" { fault.single } else { fault.ranges };
    let server = Server::start(object.to_vec(), fault.plan.clone());
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", &server.url(), "--jobs", jobs])
        .args(["--digest", &hex(object), "--tries", "4", "--stall-timeout", "1"])
        .args(["--first-byte-timeout", "1", "--patience", "20"])
        .args(fault.args)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    });
    // A fault that is not noticed would otherwise be waited for to the end of days.
    while child.try_wait().unwrap().is_none() && start.elapsed() < HANG {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().ok();
    let out = child.wait_with_output().unwrap();
    let stdout = reader.join().unwrap();
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let what =
        format!("{} (jobs {jobs}, {took:?}, {} requests): {said}", fault.name, server.count());
    let code = out.status.code();
    if code == Some(0) && stdout != object {
        return Some(format!("WRONG BYTES WITH EXIT 0: {what}"));
    }
    let due = match end {
        End::Good => Some(0),
        End::Never => Some(100),
        End::Later => Some(111),
    };
    if code != due {
        return Some(format!("exit {code:?}, due {due:?}: {what}"));
    }
    if end != End::Good && !said.contains(fault.says) {
        return Some(format!("does not say {:?}: {what}", fault.says));
    }
    if said.chars().any(|c| c.is_control() && c != '\n') {
        return Some(format!("control characters on the terminal: {what:?}"));
    }
    (took > HANG).then(|| format!("took too long: {what}"))
}

#[test]
fn every_fault_ends_well_or_clearly() {
    let object = noise(SIZE, 1);
    let faults = faults();
    assert!(faults.len() >= 30);
    // VENEER_FAULT=cut picks those with "cut" in their names.
    let only = std::env::var("VENEER_FAULT").unwrap_or_default();
    let faults: Vec<Fault> = faults.into_iter().filter(|f| f.name.contains(&only)).collect();
    assert!(!faults.is_empty(), "no fault is called {only:?}");
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let tasks: Vec<_> = faults
            .chunks(faults.len().div_ceil(4))
            .map(|some| {
                let object = &object;
                scope.spawn(move || {
                    let both = |fault| ["1", "3"].map(|jobs| run(fault, jobs, object));
                    some.iter().flat_map(both).flatten().collect::<Vec<_>>()
                })
            })
            .collect();
        tasks.into_iter().flat_map(|task| task.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
