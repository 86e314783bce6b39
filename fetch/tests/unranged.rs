//! Servers that do not answer a range as they should, at first or later: what is here is used, and the same
//! command never fails for ever. And what an object without a strong ETag is worth when its digest is wrong.

mod fault;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fault::{ETAG, Pace, Plan, Reply, Request, Server, noise};
use fetch::{Client, CredentialsFrom, Expect, ObjectRef, Options, write_digest};
use sha2::{Digest as _, Sha256};

/// Enough for several ranges.
const SIZE: usize = 9_000_001;

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn client(server: &Server, jobs: usize) -> Client {
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        jobs: Some(jobs),
        spool_min: 0,
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

fn run(url: &str, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", url])
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    (ran.status.code(), ran.stdout, String::from_utf8_lossy(&ran.stderr).into_owned())
}

/// A server that is asked for a range and gives the whole.
fn whole(bytes: &[u8]) -> Reply {
    Reply::new(200, bytes).with("ETag", ETAG)
}

type Way = fn(&[u8]) -> Reply;

/// All that is known of how servers do without ranges.
const WAYS: [(&str, Way); 6] = [
    ("200", whole),
    ("400", |_| Reply::error(400, "InvalidArgument")),
    ("416", |_| Reply::error(416, "InvalidRange")),
    ("416 with the size", |bytes| {
        let size = format!("bytes */{}", bytes.len());
        Reply::error(416, "InvalidRange").with("Content-Range", &size)
    }),
    ("501", |_| Reply::error(501, "NotImplemented")),
    ("206 of all", |bytes| {
        let all = format!("bytes 0-{}/{}", bytes.len() - 1, bytes.len());
        Reply { status: 206, ..whole(bytes) }.with("Content-Range", &all)
    }),
];

/// Answers every range in this way once `spoilt` is set.
fn spoil(bytes: &[u8], spoilt: &Arc<AtomicBool>, way: Way) -> Plan {
    let (bytes, spoilt) = (bytes.to_vec(), spoilt.clone());
    Arc::new(move |request: &Request, reply| {
        match spoilt.load(Ordering::SeqCst) && request.range().is_some() {
            true => way(&bytes),
            false => reply,
        }
    })
}

#[test]
fn what_is_kept_is_used_where_the_server_knows_no_ranges() {
    let bytes = noise(SIZE, 31);
    for (name, way) in WAYS {
        for (jobs, spooled) in [(1, false), (4, false), (1, true), (4, true)] {
            let told = format!("{name}, {jobs} jobs, spool {spooled}");
            let spoilt = Arc::new(AtomicBool::new(false));
            let server = Server::start(bytes.clone(), spoil(&bytes, &spoilt, way));
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            let client = client(&server, jobs);
            let open = |expect: &Expect| match spooled {
                true => client.open_spooled(object(), expect, dir.path()),
                false => client.open_for_file(object(), expect, &path),
            };
            let mut body = open(&Expect::default()).unwrap();
            body.read_exact(&mut vec![0; 1_500_000]).unwrap();
            drop(body);
            spoilt.store(true, Ordering::SeqCst);
            let mut body = open(&Expect::default()).unwrap();
            let mut got = Vec::new();
            body.read_to_end(&mut got).unwrap_or_else(|e| panic!("{told}: {e}"));
            assert!(got == bytes, "{told}");
            assert!(body.summary().unwrap().reused >= 1_500_000, "{told}");
        }
    }
}

#[test]
fn the_same_command_ends_well_where_the_server_knows_no_ranges() {
    let bytes = noise(SIZE, 32);
    for (name, way) in WAYS {
        let spoilt = Arc::new(AtomicBool::new(true));
        let cut = Arc::new(AtomicBool::new(true));
        let (plan, first) = (spoil(&bytes, &spoilt, way), cut.clone());
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, reply| {
                let reply = plan(request, reply);
                match first.load(Ordering::SeqCst) && reply.status < 300 {
                    true => reply.pace(Pace::Cut(3_000_000)),
                    false => reply,
                }
            }),
        );
        for way in ["-o", "--spool"] {
            let dir = tempfile::tempdir().unwrap();
            let path = match way {
                "-o" => dir.path().join("f"),
                _ => dir.path().to_owned(),
            };
            let args = [way, path.to_str().unwrap()];
            cut.store(true, Ordering::SeqCst);
            let (code, _, said) = run(&server.url(), &[&args[..], &["--patience", "0.5"]].concat());
            assert_eq!(code, Some(111), "{name} {way}: {said}");
            cut.store(false, Ordering::SeqCst);
            let (code, out, said) = run(&server.url(), &args);
            assert_eq!(code, Some(0), "{name} {way}: {said}");
            assert!(!said.contains(" 0 bytes reused"), "{name} {way}: {said}");
            let got = if way == "-o" { fs::read(&path).unwrap() } else { out };
            assert!(got == bytes, "{name} {way}");
        }
    }
}

/// 206 at first and something else later, and after a broken connection as well.
#[test]
fn a_server_may_forget_ranges_in_the_midst() {
    let bytes = noise(SIZE, 33);
    for (name, way) in WAYS {
        for (jobs, good) in [("1", 1), ("4", 1), ("4", 3)] {
            for digest in [None, Some(write_digest(&Sha256::digest(&bytes).into()))] {
                let all = bytes.clone();
                let server = Server::start(
                    bytes.clone(),
                    Arc::new(move |request, reply| match request.range() {
                        _ if request.method == "HEAD" => reply,
                        _ if request.number == 0 => reply.pace(Pace::Cut(1_000_000)),
                        Some(_) if request.number >= good => way(&all),
                        _ => reply,
                    }),
                );
                let digest = digest.iter().flat_map(|digest| ["--digest", digest]);
                let args: Vec<&str> = ["--jobs", jobs].into_iter().chain(digest).collect();
                let (code, out, said) = run(&server.url(), &args);
                assert!(code == Some(0) && out == bytes, "{name}, {args:?}, {good}: {said}");
            }
        }
    }
}

/// A cache that knows no ranges any more, in front of an origin that need not be asked.
#[test]
fn a_source_may_forget_ranges_in_the_midst() {
    let bytes = noise(SIZE, 34);
    let digest = write_digest(&Sha256::digest(&bytes).into());
    for (name, way) in WAYS {
        let all = bytes.clone();
        let source = Server::start(
            bytes.clone(),
            Arc::new(move |request, reply| match request.range() {
                Some(_) if request.number >= 2 => way(&all),
                _ => reply,
            }),
        );
        let origin = Server::start(bytes.clone(), Arc::new(|_, _| Reply::error(503, "SlowDown")));
        let args = ["--jobs", "4", "--digest", &digest, "--source", &source.url()];
        let never = ["--source-fallback", "never", "--patience", "5"];
        let (code, out, said) = run(&origin.url(), &[&args[..], &never].concat());
        assert!(code == Some(0) && out == bytes, "{name}: {said}");
        assert_eq!(origin.count(), 0, "{name}");
    }
}

/// A server without any validator: two versions are mixed without anybody's fault, or one answer is wrong.
#[test]
fn a_wrong_digest_of_many_answers_without_an_etag_is_a_change() {
    let (old, new) = (noise(SIZE, 35), noise(SIZE, 36));
    let digest = write_digest(&Sha256::digest(&new).into());
    let serve = |cut: bool, etag: bool| {
        let newer = new.clone();
        Server::start(
            old.clone(),
            Arc::new(move |request, reply| {
                let reply = match (etag, request.number) {
                    (false, 1..) => fault::good(request, &newer).without("etag"),
                    (false, 0) => reply.without("etag"),
                    (true, _) => reply,
                };
                match cut && request.number == 0 {
                    true => reply.pace(Pace::Cut(500_000)),
                    false => reply,
                }
            }),
        )
    };
    for (jobs, cut, etag, due) in [
        ("1", true, false, 111),
        ("4", false, false, 111),
        ("1", false, false, 100),
        // What is pinned by a strong tag is wrong for good.
        ("1", true, true, 100),
        ("4", false, true, 100),
    ] {
        let server = serve(cut, etag);
        let (code, _, said) = run(&server.url(), &["--jobs", jobs, "--digest", &digest]);
        assert_eq!(code, Some(due), "{jobs} {cut} {etag}: {said}");
        assert!(said.contains("digest mismatch"), "{said}");
        assert_eq!(said.contains("try again"), due == 111, "{said}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let server = serve(cut, etag);
        let args = ["--jobs", jobs, "--digest", &digest, "-o", file.to_str().unwrap()];
        assert_eq!(run(&server.url(), &args).0, Some(due), "{args:?}");
        assert_eq!(left(dir.path()), 0);
    }
}

fn left(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// What is said of a part that stays is what the next command does.
#[test]
fn whether_the_same_command_goes_on_is_told_truly() {
    let bytes = noise(SIZE, 37);
    let digest = write_digest(&Sha256::digest(&bytes).into());
    for (tag, digest, goes_on) in [
        (Some(ETAG), None, true),
        (Some("W/\"a\""), None, false),
        (None, None, false),
        (None, Some(&digest), true),
    ] {
        let cut = Arc::new(AtomicBool::new(true));
        let first = cut.clone();
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |_, reply: Reply| {
                let reply = match tag {
                    Some(tag) => reply.with("ETag", tag),
                    None => reply.without("etag"),
                };
                match first.load(Ordering::SeqCst) {
                    true => reply.pace(Pace::Cut(1_000_000)),
                    false => reply,
                }
            }),
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut args = vec!["--jobs", "1", "-o", file.to_str().unwrap(), "--tries", "1"];
        args.extend(digest.iter().flat_map(|digest| ["--digest", digest.as_str()]));
        let (code, _, said) = run(&server.url(), &args);
        assert_eq!(code, Some(111), "{said}");
        assert_eq!(said.contains("the same command resumes there"), goes_on, "{said}");
        assert_eq!(said.contains("the same command starts again"), !goes_on, "{said}");
        cut.store(false, Ordering::SeqCst);
        let (code, _, said) = run(&server.url(), &args);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(!said.contains(" 0 bytes reused"), goes_on, "{said}");
        assert!(fs::read(&file).unwrap() == bytes);
    }
}
