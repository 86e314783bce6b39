//! Never a mixture of two versions, whatever a server tells of them; and what it says wrongly of one version.

mod fault;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fault::{Pace, Reply, Request, Server, good};

/// Several ranges, and not a multiple of anything.
const SIZE: usize = 9_000_001;
const DAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";
const NEXT_DAY: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

/// Made once of each kind: it takes its time.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    static MADE: Mutex<Vec<(usize, u64, Vec<u8>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap();
    if let Some((.., bytes)) = made.iter().find(|(n, s, _)| (*n, *s) == (size, seed)) {
        return bytes.clone();
    }
    let bytes = fault::noise(size, seed);
    made.push((size, seed, bytes.clone()));
    bytes
}

fn run(server: &Server, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", &server.url(), "--tries", "3", "-v"])
        .args(["--stall-timeout", "20", "--first-byte-timeout", "20"])
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn gets(server: &Server) -> Vec<Request> {
    server.requests.lock().unwrap().iter().filter(|q| q.method == "GET").cloned().collect()
}

/// What a server tells of its versions: the headers of the first, and of the second.
type Tells = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

const TELLS: &[Tells] = &[
    ("nothing", &[], &[]),
    ("a weak ETag", &[("ETag", "W/\"a\"")], &[("ETag", "W/\"a\"")]),
    ("weak ETags", &[("ETag", "W/\"a\"")], &[("ETag", "W/\"b\"")]),
    (
        "times",
        &[("Last-Modified", DAY), ("Date", LATER)],
        &[("Last-Modified", NEXT_DAY), ("Date", NEXT_DAY)],
    ),
    (
        "the same time",
        &[("Last-Modified", DAY), ("Date", DAY)],
        &[("Last-Modified", DAY), ("Date", LATER)],
    ),
    ("a time without a clock", &[("Last-Modified", DAY)], &[("Last-Modified", DAY)]),
    ("an ETag that gets weak", &[("ETag", "\"a\"")], &[("ETag", "W/\"a\"")]),
    ("an ETag that goes away", &[("ETag", "\"a\"")], &[]),
];

/// A server whose object is another one, of the same size, after so many requests for bytes. It knows neither
/// If-Match nor If-Unmodified-Since.
fn replaced(after: usize, tells: &Tells, cut: Option<usize>) -> Server {
    let (old, new) = (noise(SIZE, 1), noise(SIZE, 2));
    let (first, second) = (tells.1, tells.2);
    let count = AtomicUsize::new(0);
    Server::start(
        old.clone(),
        Arc::new(move |request, _| {
            let mut request = request.clone();
            request.headers.remove("if-match");
            let number = match request.method.as_str() {
                "GET" => count.fetch_add(1, Ordering::SeqCst),
                _ => count.load(Ordering::SeqCst),
            };
            let (bytes, told) = if number < after { (&old, first) } else { (&new, second) };
            let mut reply = good(&request, bytes).without("ETag");
            for (name, value) in told {
                reply = reply.with(name, value);
            }
            match cut {
                Some(cut) if number < after => reply.pace(Pace::Cut(cut)),
                Some(_) | None => reply,
            }
        }),
    )
}

#[test]
fn an_object_that_is_replaced_meanwhile_is_never_mixed() {
    let (old, new) = (noise(SIZE, 1), noise(SIZE, 2));
    let mut wrong = Vec::new();
    for tells in TELLS {
        for (jobs, after, cut) in
            [("4", 1, None), ("4", 2, None), ("1", 1, Some(3_000_000)), ("4", 2, Some(1_000_000))]
        {
            let server = replaced(after, tells, cut);
            let (code, out, said) = run(&server, &["--jobs", jobs]);
            let whole = out == old || out == new;
            let what = format!("{}, jobs {jobs}, from request {after}, cut {cut:?}", tells.0);
            match code {
                Some(0) if !whole => wrong.push(format!("A MIXTURE WITH EXIT 0: {what}: {said}")),
                Some(0 | 111) => {}
                _ => wrong.push(format!("{code:?}: {what}: {said}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same by way of a partial file, which the second run goes on with.
#[test]
fn a_partial_file_is_never_mixed_with_another_version() {
    let (old, new) = (noise(SIZE, 1), noise(SIZE, 2));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    for tells in TELLS {
        let server = replaced(3, tells, Some(700_000));
        for turn in 0..4 {
            let (code, _, said) = run(&server, &["-o", file.to_str().unwrap()]);
            let got = std::fs::read(&file).ok();
            let whole = got.as_ref().is_none_or(|got| *got == old || *got == new);
            assert!(whole, "A MIXTURE UNDER THE FINAL NAME: {}, turn {turn}: {said}", tells.0);
            assert!(matches!(code, Some(0 | 111)), "{}, turn {turn}: {code:?} {said}", tells.0);
            if got.is_some() {
                break;
            }
            assert!(turn < 3, "{}: never comes to an end: {said}", tells.0);
        }
        std::fs::remove_file(&file).unwrap();
        assert_empty(dir.path());
    }
}

fn assert_empty(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_strong_tag_or_a_digest_there_is_one_stream_and_a_time_is_held() {
    let bytes = noise(SIZE, 3);
    let server = Server::start(
        bytes.clone(),
        Arc::new(|request, reply: Reply| {
            let reply =
                reply.with("ETag", "W/\"x\"").with("Last-Modified", DAY).with("Date", LATER);
            match request.range() {
                None => reply.pace(Pace::Cut(5_000_000)),
                Some(_) => reply,
            }
        }),
    );
    let (code, out, said) = run(&server, &["--jobs", "4"]);
    assert!(code == Some(0) && out == bytes, "{code:?} {said}");
    let asked = gets(&server);
    let ranges: Vec<_> = asked.iter().map(Request::range).collect();
    assert_eq!(ranges, [Some((0, (2 << 20) - 1)), None, Some((5_000_000, SIZE - 1))], "{said}");
    assert_eq!(asked[2].headers.get("if-unmodified-since").map(String::as_str), Some(DAY));
}

#[test]
fn a_checksum_of_checksums_is_not_that_of_the_object() {
    let bytes = noise(SIZE, 4);
    // Of the object, of parts with a type, of parts by the ETag alone.
    const CRC: (&str, &str) = ("x-amz-checksum-crc32", "AAAAAA==");
    type Case = (&'static [(&'static str, &'static str)], &'static str, bool);
    const CASES: &[Case] = &[
        (&[CRC], "\"0123456789abcdef0123456789abcdef\"", false),
        (&[CRC], "\"0123456789abcdef0123456789abcdef-5\"", true),
        (&[CRC], "W/\"0123456789abcdef0123456789abcdef-5\"", true),
        (&[("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")], "\"ab-12\"", true),
        (
            &[("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")],
            "\"ab-1\"",
            true,
        ),
        (&[CRC, ("x-amz-checksum-type", "COMPOSITE")], "\"ab\"", true),
        (&[CRC, ("x-amz-checksum-type", "FULL_OBJECT")], "\"ab-5\"", false),
    ];
    for &(more, etag, right) in CASES {
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, _| {
                let mut request = request.clone();
                request.headers.remove("if-match");
                let reply = good(&request, &noise(SIZE, 4)).with("ETag", etag);
                match request.range() {
                    // A range comes without.
                    Some(_) => good(&request, &noise(SIZE, 4)).with("ETag", etag),
                    None => more.iter().fold(reply, |reply, (name, value)| reply.with(name, value)),
                }
            }),
        );
        for jobs in ["1", "3"] {
            let (code, out, said) = run(&server, &["--jobs", jobs]);
            match right {
                true => assert!(code == Some(0) && out == bytes, "{etag} {more:?} {jobs}: {said}"),
                false => {
                    assert_eq!(code, Some(100), "{etag} {more:?} {jobs}: {said}");
                    assert!(said.contains("digest mismatch"), "{said}");
                }
            }
        }
    }
}

/// How a server can fail to do a range.
#[test]
fn a_first_range_that_a_server_cannot_do_is_asked_for_without() {
    let bytes = noise(SIZE, 5);
    let size = SIZE.to_string();
    type Way = (&'static str, fn(Reply) -> Reply);
    let ways: &[Way] = &[
        ("400", |_| Reply::error(400, "InvalidArgument")),
        ("501", |_| Reply::error(501, "NotImplemented")),
        ("416", |_| Reply::error(416, "InvalidRange")),
        ("no Content-Range", |r| r.without("content-range")),
        ("an unknown total", |r| r.with("Content-Range", "bytes 0-2097151/*")),
        ("a range of nothing", |r| r.with("Content-Range", "bytes 0-0/0")),
        ("nonsense", |r| r.with("Content-Range", "2097152")),
    ];
    for (name, way) in ways {
        for (cut, digest) in [(false, false), (true, true), (true, false)] {
            let server = Server::start(
                bytes.clone(),
                Arc::new(move |request, reply: Reply| match request.range() {
                    Some(_) => way(reply),
                    None if cut && request.number < 2 => reply.pace(Pace::Cut(1_000_000)),
                    None => reply,
                }),
            );
            let sha = sha256(&bytes);
            let known = ["--jobs", "4", "--digest", &sha, "--size", &size];
            let (code, out, said) = run(&server, &known[..if digest { 6 } else { 2 }]);
            assert!(code == Some(0) && out == bytes, "{name}, cut {cut}: {code:?} {said}");
        }
    }
    // Another fault stays what it is, and is not hidden behind a second question.
    let server = Server::start(Vec::new(), Arc::new(|_, _| Reply::error(400, "InvalidRequest")));
    let (code, _, said) = run(&server, &["--jobs", "4"]);
    assert!(code == Some(100) && said.contains("InvalidRequest"), "{said}");
    assert_eq!(server.count(), 2);
    let server = Server::start(Vec::new(), Arc::new(|_, _| Reply::error(400, "ExpiredToken")));
    let (code, _, said) = run(&server, &["--jobs", "4"]);
    assert!(code == Some(100) && server.count() == 1, "{said}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn an_object_that_shrank_has_changed() {
    let (long, short) = (noise(SIZE, 6), noise(2_000_000, 7));
    for jobs in ["1", "4"] {
        let short = short.clone();
        // It does not know If-Match, so that only the range tells.
        let server = Server::start(
            long.clone(),
            Arc::new(move |request, reply: Reply| {
                let mut request = request.clone();
                request.headers.remove("if-match");
                match request.number {
                    0 => reply.pace(Pace::Cut(2_097_152)),
                    _ if request.method == "HEAD" => reply,
                    _ => good(&request, &short).with("Content-Range", "bytes */2000000"),
                }
            }),
        );
        let (code, _, said) = run(&server, &["--jobs", jobs]);
        assert_eq!(code, Some(111), "jobs {jobs}: {said}");
        assert!(said.contains("the object changed"), "jobs {jobs}: {said}");
    }
}

#[test]
fn a_chunked_answer_that_is_cut_may_be_tried_again() {
    let bytes = noise(SIZE, 8);
    let size = SIZE.to_string();
    for cut in [3_000_000, 10_000, 10_010, 9_999] {
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |_, reply: Reply| {
                let reply = reply.without("etag").chunked(true);
                reply.pace(Pace::Cut(cut))
            }),
        );
        let (code, _, said) = run(&server, &["--jobs", "1", "--size", &size]);
        assert_eq!(code, Some(111), "{cut}: {said}");
        // Also where the server knows no ranges, and so sends all of it each time.
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, _| {
                let mut request = request.clone();
                request.headers.remove("range");
                good(&request, &noise(SIZE, 8)).chunked(true).pace(Pace::Cut(cut))
            }),
        );
        let (code, _, said) = run(&server, &["--jobs", "1", "--size", &size]);
        assert_eq!(code, Some(111), "{cut}: {said}");
        // With a tag it goes on by itself.
        let server = Server::start(
            bytes.clone(),
            Arc::new(move |request, reply: Reply| match request.number {
                0 => reply.chunked(true).pace(Pace::Cut(cut)),
                _ => reply,
            }),
        );
        let (code, out, said) = run(&server, &["--jobs", "1", "--size", &size]);
        assert!(code == Some(0) && out == bytes, "{cut}: {code:?} {said}");
    }
}

#[test]
fn interim_answers_before_a_body_are_skipped() {
    let bytes = noise(SIZE, 9);
    for interim in [
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n",
    ] {
        for jobs in ["1", "4"] {
            let server = Server::start(
                bytes.clone(),
                Arc::new(move |_, reply: Reply| {
                    let mut raw = interim.as_bytes().to_vec();
                    raw.extend(format!("HTTP/1.1 {} OK\r\n", reply.status).into_bytes());
                    for (name, value) in &reply.headers {
                        raw.extend(format!("{name}: {value}\r\n").into_bytes());
                    }
                    raw.extend(b"Connection: close\r\n\r\n");
                    raw.extend(&reply.body);
                    Reply::raw(&raw)
                }),
            );
            let (code, out, said) = run(&server, &["--jobs", jobs]);
            assert!(code == Some(0) && out == bytes, "{interim:?} {jobs}: {code:?} {said}");
        }
    }
}

#[test]
fn no_encoding_is_asked_for_and_bytes_are_passed_on_as_they_are() {
    let bytes = noise(SIZE, 10);
    let server =
        Server::start(bytes.clone(), Arc::new(|_, r: Reply| r.with("Content-Encoding", "gzip")));
    let (code, out, said) = run(&server, &["--jobs", "4"]);
    assert!(code == Some(0) && out == bytes, "{said}");
    run(&server, &["--list"]);
    for request in server.requests.lock().unwrap().iter() {
        let asked = request.headers.get("accept-encoding").map(String::as_str);
        assert_eq!(asked, Some("identity"), "{} {}", request.method, request.query);
    }
}

#[test]
fn a_small_object_comes_again_only_where_it_is_another() {
    let server = Server::start(
        b"index".to_vec(),
        Arc::new(|request: &Request, _: Reply| {
            let seen = request.headers.get("if-none-match").map(String::as_str);
            match (request.path.as_str(), seen) {
                ("/bkt/index.json", Some("\"a\"")) => Reply::new(304, b"").with("ETag", "\"a\""),
                ("/bkt/index.json", _) => Reply::new(200, b"index").with("ETag", "\"a\""),
                // It answers what nobody has asked.
                _ => Reply::new(304, b"").with("Location", "http://127.0.0.1:1/"),
            }
        }),
    );
    let options = fetch::Options {
        endpoint: Some(server.url()),
        credentials: fetch::CredentialsFrom::Anonymous,
        tries_max: Some(2),
        ..fetch::Options::default()
    };
    let client = fetch::Client::new(&options).unwrap();
    let object = fetch::ObjectRef::new("bkt", "index.json").unwrap();
    let small = fetch::Small { bytes: b"index".to_vec(), etag: Some("\"a\"".into()) };
    assert_eq!(client.read_changed(&object, 100, None).unwrap(), Some(small.clone()));
    assert_eq!(client.read_changed(&object, 100, Some("\"a\"")).unwrap(), None);
    for other in ["\"b\"", "W/\"a\""] {
        assert_eq!(client.read_changed(&object, 100, Some(other)).unwrap(), Some(small.clone()));
    }
    let seen =
        |at: usize| server.requests.lock().unwrap()[at].headers.get("if-none-match").cloned();
    assert_eq!(
        [seen(0), seen(2), seen(3)],
        [None, Some("\"b\"".into()), None],
        "a weak tag is not sent"
    );
    let odd = fetch::ObjectRef::new("bkt", "odd").unwrap();
    let error = client.read_changed(&odd, 100, None).unwrap_err();
    assert_eq!(error.kind(), fetch::Kind::Refused, "{error}");
    assert_eq!(server.count(), 5, "it is no redirect, and not asked for again");
}
