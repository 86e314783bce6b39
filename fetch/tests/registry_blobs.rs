//! Blobs of a registry: sent on to stores, in ranges, from mirrors, into spools. Each fault through a socket.

mod fault;
mod registry;

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fault::{Pace, Reply, Server, noise};
use fetch::image::Digest;
use fetch::{Ahead, BlobRef, Client, Error, Expect, Kind, Locator, Options};
use registry::{
    asked, at, blob_of, challenge, client, header, open, options, sent, start, store, token,
    unknown, with_logins,
};

const ALICE: &str = r#"{"auth":"YWxpY2U6c2VzYW1l"}"#;

fn read(client: &Client, place: impl Into<Locator>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut body = client.open(place, &Expect::default())?;
    match body.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.downcast::<Error>().unwrap()),
    }
}

fn get(server: &Server, options: &Options, blob: &[u8]) -> Result<Vec<u8>, Error> {
    read(&client(server, options), blob_of(server, blob))
}

/// A store at another port that answers 400 to whoever says who it is, as Amazon's does.
fn strict_store(blob: &[u8]) -> Server {
    let bytes = blob.to_vec();
    start(blob, move |request, _| match header(request, "authorization") {
        None => store(request, &bytes),
        Some(_) => Reply::error(400, "InvalidArgument"),
    })
}

#[test]
fn a_blob_is_sent_on_to_a_store_that_is_not_told_who_asks() {
    let blob = noise(9_000_001, 1);
    let elsewhere = strict_store(&blob);
    let tokens = start(b"", |_, _| token("t1", 60));
    let (realm, to) = (format!("{}/token", tokens.url()), elsewhere.url());
    let server = start(&blob, move |request, _| match header(request, "authorization") {
        Some("Bearer t1") => {
            let to = format!("{to}/store/of?number={}&sig=a%2Fb", request.number);
            Reply::new(307, b"").with("Location", &to)
        }
        _ => challenge(&realm),
    });
    let (logged_in, _file) = with_logins(&[
        (format!("127.0.0.1:{}", server.port), ALICE),
        (format!("127.0.0.1:{}", elsewhere.port), ALICE),
    ]);
    for jobs in [1, 4] {
        let options = Options { jobs: Some(jobs), ..logged_in.clone() };
        assert_eq!(get(&server, &options, &blob).unwrap(), blob);
    }
    assert!(sent(&elsewhere, "authorization").iter().all(Option::is_none));
    assert!(sent(&elsewhere, "if-match").iter().all(Option::is_none));
    // One of each: every range begins at the registry, so that no signed URL is used twice.
    let queries: Vec<String> =
        elsewhere.requests.lock().unwrap().iter().map(|request| request.query.clone()).collect();
    let mut unique = queries.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((unique.len(), queries.len()), (6, 6), "{queries:?}");
    assert!(queries.iter().all(|query| query.ends_with("sig=a%2Fb")), "{queries:?}");
}

#[test]
fn a_redirect_to_the_same_server_keeps_who_asks_and_one_away_and_back_does_not() {
    let blob = noise(5000, 2);
    let same = start(&blob, |request, reply| match header(request, "authorization") {
        Some(_) if request.path == "/moved" => reply,
        Some(_) => Reply::new(302, b"").with("Location", "/moved"),
        None => unknown(401, "UNAUTHORIZED", "").with("WWW-Authenticate", "Basic"),
    });
    let (options, _file) = with_logins(&[(format!("127.0.0.1:{}", same.port), ALICE)]);
    assert_eq!(get(&same, &options, &blob).unwrap(), blob);
    let away = Arc::new(std::sync::Mutex::new(String::new()));
    let to = away.clone();
    let home = start(&blob, move |request, reply| {
        match (request.path.as_str(), header(request, "authorization")) {
            ("/back", None) => reply,
            ("/back", Some(_)) => Reply::new(400, b""),
            (_, Some(_)) => Reply::new(307, b"").with("Location", &to.lock().unwrap()),
            (_, None) => unknown(401, "UNAUTHORIZED", "").with("WWW-Authenticate", "Basic"),
        }
    });
    let back = format!("{}/back", home.url());
    let other = start(b"", move |_, _| Reply::new(307, b"").with("Location", &back));
    *away.lock().unwrap() = format!("{}/x", other.url());
    let (options, _file) = with_logins(&[(format!("127.0.0.1:{}", home.port), ALICE)]);
    assert_eq!(get(&home, &options, &blob).unwrap(), blob);
    assert_eq!(sent(&other, "authorization"), [None]);
}

#[test]
fn redirects_that_lead_to_no_store_are_not_followed() {
    let blob = noise(5000, 3);
    let other = strict_store(&blob);
    for to in [
        format!("http://127.1:{}/x", other.port),
        format!("http://2130706433:{}/x", other.port),
        format!("http://0.0.0.0:{}/x", other.port),
        format!("http://alice:x@127.0.0.1:{}/x", other.port),
        format!("//127.0.0.1:{}/x", other.port),
        "http://store.example/x".to_owned(),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://[fe80::1]/x".to_owned(),
        "file:///etc/passwd".to_owned(),
        "x".to_owned(),
    ] {
        let at = to.clone();
        let server = start(&blob, move |_, _| Reply::new(307, b"").with("Location", &at));
        let error = get(&server, &options(), &blob).unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{to}: {error}");
        assert_eq!((error.kind(), server.count()), (Kind::Refused, 1), "{to}");
    }
    assert_eq!(other.count(), 0);
    let endless = start(&blob, |request, _| {
        Reply::new(307, b"").with("Location", &format!("/{}", request.number))
    });
    let error = get(&endless, &options(), &blob).unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
    assert_eq!(endless.count(), 6);
}

#[test]
fn what_a_store_says_no_to_is_told_as_its_own_word_and_asks_for_no_login() {
    let blob = noise(5000, 4);
    for (status, kind) in [(401, Kind::Denied), (403, Kind::Denied), (404, Kind::NotFound)] {
        let elsewhere = start(&blob, move |_, _| {
            Reply::error(status, "AccessDenied").with("WWW-Authenticate", "Basic realm=\"x\"")
        });
        let to = elsewhere.url();
        let server = start(&blob, move |_, _| Reply::new(307, b"").with("Location", &to));
        let (options, _file) = with_logins(&[
            (format!("127.0.0.1:{}", server.port), ALICE),
            (format!("127.0.0.1:{}", elsewhere.port), ALICE),
        ]);
        let error = get(&server, &options, &blob).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("the registry redirected to"), "{error}");
        assert_eq!((server.count(), elsewhere.count()), (1, 1));
        assert_eq!(sent(&elsewhere, "authorization"), [None]);
    }
}

#[test]
fn ranges_that_come_whole_or_wrong_end_in_the_right_bytes_or_in_an_error() {
    let blob = noise(9_000_001, 5);
    let whole = start(&blob, {
        let blob = blob.clone();
        move |request, _| open(request, Reply::new(200, &blob))
    });
    let cut = start(&blob, {
        let blob = blob.clone();
        move |request, _| {
            let reply = open(request, Reply::new(200, &blob));
            if request.number < 2 { reply.pace(Pace::Cut(4_000_000)) } else { reply }
        }
    });
    let none = start(&blob, |request, reply| match request.range() {
        Some(_) => unknown(416, "RANGE_INVALID", "no"),
        None => open(request, reply),
    });
    let label =
        start(&blob, |request, reply| open(request, reply).with("Content-Encoding", "x-gzip"));
    for (server, name) in [(whole, "whole"), (cut, "cut"), (none, "none"), (label, "label")] {
        for jobs in [1, 4] {
            let options = Options { jobs: Some(jobs), ..options() };
            assert!(get(&server, &options, &blob).unwrap() == blob, "{name} {jobs}");
        }
        let encodings = sent(&server, "accept-encoding");
        assert!(encodings.iter().all(|sent| sent.as_deref() == Some("identity")));
    }
    let other = start(&blob, {
        let blob = blob.clone();
        move |request, reply| match request.range() {
            Some((first, last)) if first > 0 => {
                let range = format!("bytes 0-{}/{}", last - first, blob.len());
                Reply::new(206, &blob[..=last - first]).with("Content-Range", &range)
            }
            Some(_) => open(request, reply),
            None => Reply::new(503, b""),
        }
    });
    let options = Options { jobs: Some(4), tries_max: Some(2), ..options() };
    let error = get(&other, &options, &blob).unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. } | Error::Range { .. }), "{error}");
    // Every range that was asked for has its end.
    let open_ended = sent(&other, "range").into_iter().flatten().any(|range| range.ends_with('-'));
    assert!(!open_ended);
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says() {
    let blob = noise(5000, 6);
    let server = start(&blob, |request, reply| match request.number {
        0 => unknown(429, "TOOMANYREQUESTS", "retry-after: 985us").with("Retry-After", "1"),
        1 => Reply::new(429, b"slow down\n"),
        2 => Reply::raw(b"HTTP/1.1 429 Too Many Requests\nRetry-After: 0\n\n"),
        _ => open(request, reply),
    });
    let begun = Instant::now();
    assert_eq!(get(&server, &options(), &blob).unwrap(), blob);
    assert!(begun.elapsed() >= Duration::from_secs(1) && server.count() == 4);
    let always = start(&blob, |_, _| unknown(429, "TOOMANYREQUESTS", "you are over your limit"));
    let hasty = Options { patience: Duration::from_millis(300), ..options() };
    let error = get(&always, &hasty, &blob).unwrap_err();
    let Error::GaveUp { last, .. } = &error else { panic!("{error}") };
    assert_eq!(error.kind(), Kind::Throttled);
    assert!(last.to_string().contains("over your limit") && last.to_string().contains("log in"));
}

#[test]
fn wrong_bytes_are_found_out_also_where_many_answers_gave_them() {
    let blob = noise(9_000_001, 7);
    let mut wrong = blob.clone();
    wrong[6_000_000] ^= 1;
    let server = start(&wrong, open);
    for jobs in [1, 4] {
        let options = Options { jobs: Some(jobs), ..options() };
        let error = get(&server, &options, &blob).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }
    // Of another size than the manifest says: not one byte is passed on.
    let expect = Expect { size: Some(9_000_000), ..Expect::default() };
    let error = client(&server, &options()).open(blob_of(&server, &blob), &expect).unwrap_err();
    assert_eq!(error.kind(), Kind::Changed, "{error}");
    let missing = start(b"", |_, _| unknown(404, "BLOB_UNKNOWN", "blob\\u001b[2Junknown"));
    let error = get(&missing, &options(), &blob).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let said = error.to_string();
    assert!(said.contains("BLOB_UNKNOWN") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn an_empty_blob_is_one() {
    let server = start(b"", open);
    assert_eq!(get(&server, &options(), b"").unwrap(), b"");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    let client = client(&server, &options());
    let mut body = client.open_for_file(blob_of(&server, b""), &Expect::default(), &path).unwrap();
    assert_eq!(body.read(&mut [0; 8]).unwrap(), 0);
    body.keep().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn a_spool_of_a_killed_process_is_gone_on_with() {
    let blob = noise(5_000_000, 8);
    let elsewhere = strict_store(&blob);
    let to = elsewhere.url();
    // It sends on for HEAD as well, and what it has signed is good for GET only.
    let server = start(&blob, move |_, _| Reply::new(307, b"").with("Location", &to));
    let dir = tempfile::tempdir().unwrap();
    let options = Options { jobs: Some(1), spool_min: 0, ..options() };
    let (place, expect) = (blob_of(&server, &blob), Expect::default());
    let open = || client(&server, &options).open_spooled(&place, &expect, dir.path()).unwrap();
    let mut begun = open();
    begun.read_exact(&mut vec![0; 3_000_000]).unwrap();
    drop(begun);
    let mut again = open();
    let mut bytes = Vec::new();
    again.read_to_end(&mut bytes).unwrap();
    assert!(bytes == blob && again.summary().unwrap().reused >= 3_000_000);
    assert!(asked(&elsewhere).iter().all(|asked| asked.starts_with("GET ")), "no HEAD goes on");
    again.discard_spool().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_mirror_is_told_the_registry_and_not_who_asks_and_is_left_where_it_lies() {
    let blob = noise(3_000_000, 9);
    let server = start(&blob, |request, reply| match header(request, "authorization") {
        Some(_) => open(request, reply),
        None => unknown(401, "UNAUTHORIZED", "").with("WWW-Authenticate", "Basic"),
    });
    let good = start(&blob, |_, reply| reply);
    let host = format!("127.0.0.1:{}", server.port);
    let (logged_in, _file) =
        with_logins(&[(host.clone(), ALICE), (format!("127.0.0.1:{}", good.port), ALICE)]);
    let by = |mirror: &Server| Options { sources: vec![mirror.url()], ..logged_in.clone() };
    assert_eq!(get(&server, &by(&good), &blob).unwrap(), blob);
    assert_eq!(server.count(), 0);
    {
        let asked = good.requests.lock().unwrap();
        assert_eq!(asked[0].path, format!("/v2/team/app/blobs/{}", Digest::of(&blob)));
        assert_eq!(asked[0].query, format!("ns={}", host.replace(':', "%3A")));
        assert_eq!(header(&asked[0], "veneer-sha256"), Some(Digest::of(&blob).hex().as_str()));
    }
    // One that wants a login, and one that lies.
    let guarded =
        start(&blob, |_, _| unknown(401, "UNAUTHORIZED", "").with("WWW-Authenticate", "Basic"));
    assert_eq!(get(&server, &by(&guarded), &blob).unwrap(), blob);
    let liar = start(&noise(3_000_000, 10), |_, reply| reply);
    let place = blob_of(&server, &blob);
    let first = client(&server, &by(&liar));
    assert_eq!(read(&first, &place).unwrap_err().kind(), Kind::Digest);
    let second = first.elsewhere(&place).unwrap().unwrap();
    assert!(second.asks_anew() && read(&second, &place).is_err());
    let third = second.elsewhere(&place).unwrap().unwrap();
    assert_eq!(read(&third, &place).unwrap(), blob);
    for mirror in [&good, &guarded, &liar] {
        assert!(sent(mirror, "authorization").iter().all(Option::is_none));
    }
}

#[test]
fn a_blob_is_read_ahead() {
    let blob = noise(3_000_000, 11);
    let server = start(&blob, |request, reply| match request.number {
        0 => open(request, reply).pace(Pace::Cut(1_000_000)),
        _ => open(request, reply),
    });
    let dir = tempfile::tempdir().unwrap();
    let place = blob_of(&server, &blob);
    let expect = Expect { size: Some(3_000_000), ..Expect::default() };
    let spool = dir.path().to_owned();
    let mut ahead = Ahead::begin(client(&server, &options()), place, expect, spool, false);
    let mut bytes = Vec::new();
    ahead.read_to_end(&mut bytes).unwrap();
    assert!(bytes == blob && ahead.summary().unwrap().resumed == 1);
    ahead.discard_spool();
}

#[test]
fn a_client_of_one_repository_asks_for_nothing_of_another() {
    let blob = noise(5000, 12);
    let server = start(&blob, open);
    let client = client(&server, &options());
    let own = blob_of(&server, &blob);
    let object: fetch::ObjectRef = "s3://bucket/key".parse().unwrap();
    for other in [
        Locator::from(BlobRef { name: "team/other".into(), ..own.clone() }),
        Locator::from(BlobRef { host: "localhost:1".into(), ..own.clone() }),
        Locator::from(BlobRef { name: "team/../app".into(), ..own.clone() }),
        Locator::from(object),
    ] {
        let error = client.open(&other, &Expect::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    }
    assert!(client.list("bucket", "").is_err());
    assert_eq!(server.count(), 0);
    let s3 = Options { endpoint: Some(server.url()), region: Some("r".into()), ..options() };
    let error = Client::new(&s3).unwrap().open(&own, &Expect::default()).unwrap_err();
    assert_eq!((error.kind(), server.count()), (Kind::Usage, 0));
    assert_eq!(at(&server).host, own.host);
}
