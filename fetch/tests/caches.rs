//! A site's cache that is busy, hung, gone, of another version or rotten: the origin is asked for what nobody
//! else can give, and for nothing more. Waits are in virtual time.

mod fault;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fault::{ETAG, Pace, Plan, Reply, Request, Server, good, noise};
use fetch::{
    Client, Clock, CredentialsFrom, Error, Expect, Fallback, Kind, ObjectRef, Options, Time,
};
use sha2::{Digest as _, Sha256};

/// Several parts, and not a multiple of anything.
const SIZE: usize = 5_000_001;
const PART: usize = 2 << 20;

/// A clock that nobody has to wait for: who sleeps moves it.
#[derive(Clone, Default)]
struct Virtual(Arc<Mutex<Duration>>);

impl Virtual {
    fn at(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

impl Time for Virtual {
    fn now(&self) -> Duration {
        self.at()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

fn options(clock: &Virtual, origin: &Server, sources: &[String]) -> Options {
    Options {
        endpoint: Some(origin.url()),
        credentials: CredentialsFrom::Anonymous,
        sources: sources.to_vec(),
        clock: Clock::new(clock.clone()),
        spool_min: 0,
        ..Options::default()
    }
}

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn expect(bytes: &[u8]) -> Expect {
    Expect { sha256: Some(Sha256::digest(bytes).into()), ..Expect::default() }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn fetched(options: &Options, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut body = Client::new(options)?.open(object(), &expect(bytes))?;
    let mut got = Vec::new();
    match body.read_to_end(&mut got) {
        Ok(_) => Ok(got),
        Err(error) => Err(error.downcast::<Error>().unwrap()),
    }
}

fn plain() -> Plan {
    Arc::new(|_, reply| reply)
}

fn refused() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_source_that_is_busy_for_a_while_gives_every_byte() {
    let bytes = noise(SIZE, 1);
    for (status, after) in
        [(503, None), (503, Some("2")), (429, Some("7")), (408, None), (500, None), (520, None)]
    {
        for (jobs, from) in [(1, 0), (3, 0), (3, 1)] {
            let clock = Virtual::default();
            let begun: Arc<Mutex<Option<Duration>>> = Arc::default();
            let time = clock.clone();
            let source = Server::start(
                bytes.clone(),
                Arc::new(move |request, reply: Reply| {
                    if request.number < from {
                        return reply;
                    }
                    let begun = *begun.lock().unwrap().get_or_insert(time.at());
                    match time.at() < begun + Duration::from_secs(5) {
                        true => {
                            let busy = Reply::error(status, "SlowDown");
                            after.map_or(busy.clone(), |after| busy.with("Retry-After", after))
                        }
                        false => reply,
                    }
                }),
            );
            let origin = Server::start(bytes.clone(), plain());
            let options = Options { jobs: Some(jobs), ..options(&clock, &origin, &[source.url()]) };
            assert!(fetched(&options, &bytes).unwrap() == bytes);
            assert_eq!(origin.count(), 0, "{status} {after:?}, jobs {jobs}, from {from}");
        }
    }
}

#[test]
fn a_source_that_hangs_costs_its_time_out_once() {
    let bytes = noise(SIZE, 2);
    let hangs = Arc::new(Mutex::new(true));
    let still = hangs.clone();
    let source = Server::start(
        bytes.clone(),
        Arc::new(move |_, reply: Reply| Reply { mute: *still.lock().unwrap(), ..reply }),
    );
    let origin = Server::start(bytes.clone(), plain());
    let clock = Virtual::default();
    let mut options = options(&clock, &origin, &[source.url()]);
    options.first_byte_timeout = Duration::from_millis(500);
    // Each with a client of its own, as a daemon has them.
    let five = |due: usize| {
        for number in 0..5 {
            assert!(fetched(&options, &bytes).unwrap() == bytes);
            assert_eq!(source.count(), due, "object {number}");
        }
    };
    five(1);
    // After its pause it is probed, once for all.
    clock.sleep(Duration::from_secs(100));
    five(2);
    clock.sleep(Duration::from_secs(60));
    five(2);
    clock.sleep(Duration::from_secs(200));
    *hangs.lock().unwrap() = false;
    let before = origin.count();
    options.first_byte_timeout = Duration::from_secs(30);
    for _ in 0..5 {
        assert!(fetched(&options, &bytes).unwrap() == bytes);
    }
    assert_eq!(origin.count(), before, "it is well again, and gives every byte");
}

#[test]
fn a_refused_source_costs_one_try_and_one_that_says_no_is_asked_for_the_next() {
    let bytes = noise(SIZE, 3);
    let origin = Server::start(bytes.clone(), plain());
    let clock = Virtual::default();
    let absent = Server::start(Vec::new(), Arc::new(|_, _| Reply::error(404, "NoSuchKey")));
    let options = options(&clock, &origin, &[refused(), absent.url()]);
    for number in 1..=3 {
        assert!(fetched(&options, &bytes).unwrap() == bytes);
        assert_eq!(absent.count(), number, "it is there, and had no such object");
    }
    assert_eq!(clock.at(), Duration::ZERO, "nobody was waited for");
}

#[test]
fn the_origin_is_asked_when_the_fallback_says_so() {
    let bytes = noise(SIZE, 4);
    let origin = Server::start(bytes.clone(), plain());
    let absent = Server::start(Vec::new(), Arc::new(|_, _| Reply::error(404, "NoSuchKey")));
    for (source, kind) in [(refused(), Kind::Network), (absent.url(), Kind::NotFound)] {
        let clock = Virtual::default();
        let patience = Duration::from_secs(50);
        let never = Options {
            source_fallback: Fallback::Never,
            patience,
            ..options(&clock, &origin, std::slice::from_ref(&source))
        };
        assert_eq!(fetched(&never, &bytes).unwrap_err().kind(), kind);
        assert_eq!(origin.count(), 0);
        let waited = if kind == Kind::Network { patience } else { Duration::ZERO };
        assert!(
            (waited..waited + Duration::from_secs(1)).contains(&clock.at()),
            "{:?}",
            clock.at()
        );
        // A part of the time, and another one each time.
        let mut waits = Vec::new();
        for _ in 0..8 {
            let clock = Virtual::default();
            let source_fallback = Fallback::Within(Duration::from_secs(300));
            let within = Options {
                source_fallback,
                ..options(&clock, &origin, std::slice::from_ref(&source))
            };
            assert!(fetched(&within, &bytes).unwrap() == bytes);
            // One that may come back is given all of the time for that.
            let (least, most) = if kind == Kind::Network { (300, 601) } else { (0, 301) };
            let due = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(due.contains(&clock.at()), "{:?}", clock.at());
            waits.push(clock.at());
        }
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 4, "{waits:?}");
        let before = origin.count();
        let now = options(&Virtual::default(), &origin, &[source]);
        assert!(fetched(&now, &bytes).unwrap() == bytes && origin.count() > before);
        origin.requests.lock().unwrap().clear();
    }
}

#[test]
fn a_source_that_comes_back_is_taken_before_the_origin() {
    let bytes = noise(SIZE, 5);
    let clock = Virtual::default();
    let time = clock.clone();
    // For 20 s every connection breaks off.
    let source = Server::start(
        bytes.clone(),
        Arc::new(move |_, reply: Reply| match time.at() < Duration::from_secs(20) {
            true => Reply::raw(b""),
            false => reply,
        }),
    );
    let origin = Server::start(bytes.clone(), plain());
    let never =
        Options { source_fallback: Fallback::Never, ..options(&clock, &origin, &[source.url()]) };
    assert!(fetched(&never, &bytes).unwrap() == bytes);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_source_is_left_once_for_all_objects_and_not_without_a_last_look() {
    let bytes = noise(SIZE, 6);
    let away = |until: u64| {
        let clock = Virtual::default();
        let (time, until) = (clock.clone(), Duration::from_secs(until));
        let source = Server::start(
            bytes.clone(),
            Arc::new(move |_, reply: Reply| match time.at() < until {
                true => Reply::raw(b""),
                false => reply,
            }),
        );
        (clock, source)
    };
    let origin = Server::start(bytes.clone(), plain());
    let within = |clock: &Virtual, source: &Server| Options {
        source_fallback: Fallback::Within(Duration::from_secs(60)),
        ..options(clock, &origin, &[source.url()])
    };
    // It is back in the last pause before the origin is due, whenever that is.
    for until in [59, 57, 50, 41] {
        let (clock, source) = away(until);
        assert!(fetched(&within(&clock, &source), &bytes).unwrap() == bytes);
        assert_eq!(origin.count(), 0, "{until}");
        assert!(clock.at() < Duration::from_secs(121));
    }
    // One that stays away is waited for once, and the next object comes of the origin at once.
    let (clock, source) = away(u64::MAX);
    let options = within(&clock, &source);
    assert!(fetched(&options, &bytes).unwrap() == bytes);
    let first = clock.at();
    assert!((60..121).contains(&first.as_secs()), "{first:?}");
    assert!(fetched(&options, &bytes).unwrap() == bytes);
    let rest = clock.at() - first;
    assert!(rest < Duration::from_secs(5), "{rest:?}");
}

fn program(
    origin: &Server,
    source: &str,
    bytes: &[u8],
    args: &[&str],
) -> (Option<i32>, Vec<u8>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", &origin.url(), "--source", source])
        .args(["-v", "--digest", &hex(bytes)])
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    (ran.status.code(), ran.stdout, String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn another_version_at_a_source_begins_at_byte_0_elsewhere() {
    let (bytes, old) = (noise(SIZE, 6), noise(SIZE, 7));
    type Way = fn(Reply) -> Reply;
    let ways: [(&str, Way); 3] = [
        ("412", |_| Reply::error(412, "PreconditionFailed")),
        ("another ETag", |r| r.with("ETag", "\"other\"")),
        ("another size", |r| r.with("Content-Range", "bytes 2097152-4194303/4999999")),
    ];
    for (name, way) in ways {
        for jobs in ["1", "3"] {
            let kept = old.clone();
            let source = Server::start(
                old.clone(),
                Arc::new(move |request, _| match request.number {
                    // Half of it is of before, and then it finds out.
                    0 => good(request, &kept).pace(Pace::Cut(1_500_000)),
                    _ => {
                        let mut request = request.clone();
                        request.headers.remove("if-match");
                        way(good(&request, &kept))
                    }
                }),
            );
            let origin = Server::start(bytes.clone(), plain());
            let (code, out, said) = program(&origin, &source.url(), &bytes, &["--jobs", jobs]);
            assert!(code == Some(0) && out == bytes, "{name} {jobs}: {code:?} {said}");
            let first = origin.requests.lock().unwrap()[0].clone();
            assert!(first.range().is_none_or(|(from, _)| from == 0), "{name}: {:?}", first.range());
            let sent = origin.sent.load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(sent, SIZE as u64, "{name} {jobs}: once and no more: {said}");
        }
    }
    // A source that dies over an old version: the origin finds that out by its size.
    let long = noise(SIZE + 1, 8);
    let source = Server::start(
        long,
        Arc::new(|request, reply: Reply| match request.number {
            0 => reply.pace(Pace::Cut(1_500_000)),
            _ => Reply::raw(b""),
        }),
    );
    let origin = Server::start(bytes.clone(), plain());
    let (code, out, said) = program(&origin, &source.url(), &bytes, &["--jobs", "1"]);
    assert!(code == Some(0) && out == bytes, "{code:?} {said}");
}

/// A cache that keeps slices by what it is asked for: place, digest, and whether what it kept was wrong.
fn cache(rotten: Vec<u8>, origin: Vec<u8>, misses: Arc<Mutex<usize>>) -> Server {
    type Key = (String, String, String);
    let kept: Mutex<BTreeMap<Key, Vec<u8>>> = Mutex::default();
    Server::start(
        Vec::new(),
        Arc::new(move |request, _| {
            let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
            let (digest, anew) = (header("veneer-sha256"), header("veneer-refetch"));
            assert_eq!(digest.len(), 64, "{:?}", request.headers);
            let key = (header("range"), digest, anew.clone());
            let mut kept = kept.lock().unwrap();
            let object = kept.entry(key).or_insert_with(|| match anew.as_str() {
                "" => rotten.clone(),
                _ => {
                    *misses.lock().unwrap() += good(request, &origin).body.len();
                    origin.clone()
                }
            });
            good(request, object)
        }),
    )
}

#[test]
fn a_rotten_entry_costs_the_origin_the_object_once_and_not_once_a_host() {
    let bytes = noise(SIZE, 9);
    let mut rotten = bytes.clone();
    rotten[SIZE / 2] ^= 1;
    let misses: Arc<Mutex<usize>> = Arc::default();
    let cache = cache(rotten, bytes.clone(), misses.clone());
    let origin = Server::start(bytes.clone(), plain());
    for _ in 0..5 {
        let (code, out, said) = program(&origin, &cache.url(), &bytes, &[]);
        assert!(code == Some(0) && out == bytes, "{code:?} {said}");
        assert!(said.contains("asking it to fetch again"), "{said}");
    }
    assert_eq!((*misses.lock().unwrap(), origin.count()), (SIZE, 0));
}

#[test]
fn only_sources_are_told_what_is_wanted() {
    let bytes = noise(SIZE, 10);
    let broken: Plan = Arc::new(|_, reply: Reply| reply.pace(Pace::Cut(100_000)));
    let (source, origin) =
        (Server::start(bytes.clone(), broken), Server::start(bytes.clone(), plain()));
    let told = |server: &Server| -> Vec<Option<String>> {
        let requests = server.requests.lock().unwrap();
        requests.iter().map(|q: &Request| q.headers.get("veneer-sha256").cloned()).collect()
    };
    let options = options(&Virtual::default(), &origin, &[source.url()]);
    Client::new(&options).unwrap().open(object(), &Expect::default()).unwrap();
    assert!(source.count() == 0 && told(&origin).iter().all(Option::is_none));
    fetched(&options, &bytes).unwrap();
    assert!(!told(&source).is_empty());
    assert!(told(&source).iter().all(|told| told.as_deref() == Some(&hex(&bytes))));
    assert!(told(&origin).iter().all(Option::is_none));
}

/// docs/fetch.md promises it: a cache that keeps slices of 2 MiB is asked for whole ones.
#[test]
fn parts_are_2_mib_and_begin_at_multiples_of_it() {
    let bytes = noise(4 * PART + 17, 11);
    let server = Server::start(bytes.clone(), plain());
    let mut options = options(&Virtual::default(), &server, &[]);
    options.jobs = Some(4);
    let client = Client::new(&options).unwrap();
    let ranges = || -> Vec<(usize, usize)> {
        let asked = server.requests.lock().unwrap();
        let mut ranges: Vec<_> = asked.iter().filter_map(Request::range).collect();
        ranges.sort_unstable();
        ranges
    };
    let last = bytes.len() - 1;
    let all: Vec<_> = (0..5).map(|n| (n * PART, last.min(n * PART + PART - 1))).collect();
    let mut got = Vec::new();
    client.open(object(), &expect(&bytes)).unwrap().read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    assert_eq!(ranges(), all);
    // What a spool ends with need be no such place; all but the first are whole again.
    let dir = tempfile::tempdir().unwrap();
    let pinned =
        Expect { size: Some(bytes.len() as u64), etag: Some(ETAG.into()), ..expect(&bytes) };
    let path = dir.path().join("f");
    // By one stream, so that nothing of it is still on its way.
    let one = Client::new(&Options { jobs: Some(1), ..options.clone() }).unwrap();
    let mut body = one.open_for_file(object(), &pinned, &path).unwrap();
    body.read_exact(&mut vec![0; 100_000]).unwrap();
    drop(body);
    server.requests.lock().unwrap().clear();
    let mut body = client.open_for_file(object(), &pinned, &path).unwrap();
    got.clear();
    body.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    let kept = usize::try_from(body.summary().unwrap().reused).unwrap();
    assert!(kept > 0 && kept < PART, "{kept}");
    let mut rest = all.clone();
    rest[0].0 = kept;
    assert_eq!(ranges(), rest);
}
