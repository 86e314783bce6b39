//! Who asks a registry: tokens, passwords, and to whom they are told. Each fault through a socket.

mod fault;
mod registry;

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fault::{Pace, Reply, Server, noise};
use fetch::image::Digest;
use fetch::{Client, Error, Expect, Gate, Kind, Options, Which};
use registry::{
    asked, at, blob_of, challenge, client, guarded, header, open, options, pairs, sent, start,
    token, unknown, with_logins,
};

const ALICE: &str = r#"{"auth":"YWxpY2U6c2VzYW1l"}"#;
const BASIC: &str = "Basic YWxpY2U6c2VzYW1l";

fn read(client: &Client, server: &Server, blob: &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut body = client.open(blob_of(server, blob), &Expect::default())?;
    match body.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.downcast::<Error>().unwrap()),
    }
}

fn tokens(value: &'static str) -> Server {
    start(b"", move |_, _| token(value, 60))
}

/// Each token another one, and all of so many seconds.
fn tokens_of(seconds: u64) -> Server {
    start(b"", move |request, _| token(&format!("t{}", request.number), seconds))
}

#[test]
fn an_anonymous_token_opens_a_public_repository() {
    let blob = noise(5000, 1);
    let tokens = tokens("t1");
    let server = guarded(&blob, "t1", format!("{}/token?x=1%2F", tokens.url()));
    let client = client(&server, &options());
    assert_eq!(read(&client, &server, &blob).unwrap(), blob);
    assert_eq!(read(&client, &server, &blob).unwrap(), blob);
    let asked = tokens.requests.lock().unwrap();
    assert_eq!(asked.len(), 1, "the token is kept");
    assert!(asked[0].query.starts_with("x=1%2F&"), "{}", asked[0].query);
    let pairs = pairs(&asked[0].query);
    assert_eq!(pairs["scope"], "repository:team/app:pull");
    assert_eq!(pairs["service"], "test");
    assert!(!pairs.contains_key("account") && header(&asked[0], "authorization").is_none());
    let told = [None, Some("Bearer t1".to_owned()), Some("Bearer t1".to_owned())];
    assert_eq!(sent(&server, "authorization"), told);
}

#[test]
fn a_password_goes_to_the_realm_alone() {
    let blob = noise(5000, 2);
    let tokens = tokens("t1");
    let store = start(&blob, |_, reply| reply);
    let (realm, to) = (format!("{}/token", tokens.url()), store.url());
    let server = start(&blob, move |request, _| match header(request, "authorization") {
        Some("Bearer t1") => Reply::new(307, b"").with("Location", &format!("{to}/x?sig=1")),
        _ => challenge(&realm),
    });
    let (options, _file) = with_logins(&[
        (format!("127.0.0.1:{}", server.port), ALICE),
        (format!("127.0.0.1:{}", store.port), r#"{"auth":"Ym9iOng="}"#),
    ]);
    assert_eq!(read(&client(&server, &options), &server, &blob).unwrap(), blob);
    assert_eq!(sent(&tokens, "authorization"), [Some(BASIC.to_owned())]);
    assert_eq!(pairs(&tokens.requests.lock().unwrap()[0].query)["account"], "alice");
    assert_eq!(sent(&server, "authorization"), [None, Some("Bearer t1".to_owned())]);
    assert_eq!(sent(&store, "authorization"), [None]);
}

#[test]
fn a_registry_that_wants_a_password_gets_it_once_it_asks() {
    let blob = noise(5000, 3);
    let server = start(&blob, |request, reply| match header(request, "authorization") {
        Some(BASIC) => open(request, reply),
        _ => unknown(401, "UNAUTHORIZED", "no").with("WWW-Authenticate", "basic realm=\"r\""),
    });
    let host = format!("127.0.0.1:{}", server.port);
    let (good, _file) = with_logins(&[(host.clone(), ALICE)]);
    assert_eq!(read(&client(&server, &good), &server, &blob).unwrap(), blob);
    assert_eq!(sent(&server, "authorization"), [None, Some(BASIC.to_owned())]);
    let (wrong, _file) = with_logins(&[(host.clone(), r#"{"auth":"YWxpY2U6aHVudGVyMg=="}"#)]);
    let error = read(&client(&server, &wrong), &server, &blob).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let said = error.to_string();
    assert!(said.contains("\"alice\"") && said.contains(&host), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("YWxpY2U"), "{said}");
    assert_eq!(server.count(), 4, "a password is not tried twice");
    let error = read(&client(&server, &options()), &server, &blob).unwrap_err().to_string();
    assert!(error.contains("--anonymous"), "{error}");
    let (none, _file) = with_logins(&[("other".to_owned(), ALICE)]);
    let error = read(&client(&server, &none), &server, &blob).unwrap_err().to_string();
    assert!(error.contains(&format!("no login for \"{host}\"")), "{error}");
}

#[test]
fn an_identity_token_is_posted_and_where_that_is_not_known_sent_as_a_password() {
    let blob = noise(5000, 4);
    for refused in [0, 400, 401, 404, 405] {
        let tokens = start(b"", move |request, _| match request.method.as_str() {
            "POST" if refused == 0 => Reply::new(200, br#"{"access_token":"t1"}"#),
            "POST" => Reply::new(refused, b""),
            _ => token("t1", 60),
        });
        let server = guarded(&blob, "t1", format!("{}/token", tokens.url()));
        let host = format!("127.0.0.1:{}", server.port);
        let (options, _file) = with_logins(&[(host, r#"{"identitytoken":"id/1"}"#)]);
        assert_eq!(read(&client(&server, &options), &server, &blob).unwrap(), blob);
        let asked = tokens.requests.lock().unwrap();
        let form = pairs(std::str::from_utf8(&asked[0].body).unwrap());
        assert_eq!(form["grant_type"], "refresh_token");
        assert_eq!(form["refresh_token"], "id/1");
        assert_eq!(form["scope"], "repository:team/app:pull");
        assert_eq!(header(&asked[0], "content-type"), Some("application/x-www-form-urlencoded"));
        assert!(header(&asked[0], "authorization").is_none() && asked[0].query.is_empty());
        assert_eq!(asked.len(), 1 + usize::from(refused != 0));
        if let Some(second) = asked.get(1) {
            // ":id/1"
            assert_eq!(header(second, "authorization"), Some("Basic OmlkLzE="));
        }
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_layer_is_renewed_at_that_byte() {
    let blob = noise(900_000, 5);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let tokens = start(b"", move |_, _| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        token(&format!("t{number}"), 3600)
    });
    let realm = format!("{}/token", tokens.url());
    let server = start(&blob, move |request, reply| {
        // The first token is good for one answer, which breaks off; the second one for all others.
        match (header(request, "authorization"), request.range()) {
            (Some("Bearer t0"), None | Some((0, _))) => {
                open(request, reply).pace(Pace::Cut(300_000))
            }
            (Some("Bearer t1"), Some((first, _))) if first > 0 => open(request, reply),
            _ => challenge(&realm),
        }
    });
    let client = client(&server, &options());
    let mut body = client.open(blob_of(&server, &blob), &Expect::default()).unwrap();
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, blob);
    let summary = body.summary().unwrap();
    assert_eq!((summary.resumed, summary.tries), (1, 2), "the 401 was no failed try");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn tokens_of_one_second_last_for_a_layer_of_several() {
    let blob = noise(5_000_001, 6);
    let begun = Instant::now();
    let tokens = start(b"", move |_, _| token(&begun.elapsed().as_millis().to_string(), 1));
    let realm = format!("{}/token", tokens.url());
    let server = start(&blob, move |request, reply| {
        let made = header(request, "authorization").and_then(|sent| sent.strip_prefix("Bearer "));
        let made = made.and_then(|made| made.parse::<u64>().ok()).map(Duration::from_millis);
        match made.is_some_and(|made| begun.elapsed() < made + Duration::from_secs(1)) {
            true => open(request, reply).pace(Pace::Steady(20_000)),
            false => challenge(&realm),
        }
    });
    for jobs in [1, 4] {
        let options = Options { jobs: Some(jobs), ..options() };
        let client = client(&server, &options);
        assert_eq!(read(&client, &server, &blob).unwrap(), blob);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(read(&client, &server, &blob).unwrap(), blob, "a client that was idle");
    }
    assert!(tokens.count() >= 4, "{}", tokens.count());
}

#[test]
fn a_token_is_renewed_before_it_ends() {
    let blob = noise(5000, 16);
    let tokens = tokens_of(1);
    let realm = format!("{}/token", tokens.url());
    let server = start(&blob, move |request, reply| match header(request, "authorization") {
        Some(_) => open(request, reply),
        None => challenge(&realm),
    });
    let client = client(&server, &options());
    assert_eq!(read(&client, &server, &blob).unwrap(), blob);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(read(&client, &server, &blob).unwrap(), blob);
    let told = [None, Some("Bearer t0".to_owned()), Some("Bearer t1".to_owned())];
    assert_eq!(sent(&server, "authorization"), told, "nobody is asked with one that has ended");
}

#[test]
fn many_ranges_that_are_refused_at_once_have_one_renewal() {
    let blob = noise(17_000_000, 7);
    let tokens = tokens_of(3600);
    let realm = format!("{}/token", tokens.url());
    // The first token is good for the first range; the others of it are refused together.
    let server = start(&blob, move |request, reply| match header(request, "authorization") {
        Some("Bearer t1") => open(request, reply),
        Some("Bearer t0") if request.range().is_some_and(|(first, _)| first == 0) => {
            open(request, reply)
        }
        _ => Reply { delay: Duration::from_millis(200), ..challenge(&realm) },
    });
    let options = Options { jobs: Some(8), ..options() };
    assert_eq!(read(&client(&server, &options), &server, &blob).unwrap(), blob);
    let refused =
        sent(&server, "authorization").into_iter().flatten().filter(|sent| sent == "Bearer t0");
    assert!(refused.count() > 4, "they were to be refused together");
    assert_eq!(tokens.count(), 2);
}

#[test]
fn a_second_401_is_final() {
    let blob = noise(5000, 8);
    let tokens = tokens("t1");
    let realm = format!("{}/token", tokens.url());
    let server = start(&blob, move |_, _| {
        let field = format!(r#"Bearer realm="{realm}",service="test",error="insufficient_scope""#);
        Reply::new(401, b"").with("WWW-Authenticate", &field)
    });
    let error = read(&client(&server, &options()), &server, &blob).unwrap_err();
    assert_eq!((error.kind(), server.count(), tokens.count()), (Kind::Denied, 2, 1));
    assert!(error.to_string().contains("insufficient_scope"), "{error}");
    let scope = &pairs(&tokens.requests.lock().unwrap()[0].query)["scope"];
    assert_eq!(scope, "repository:team/app:pull", "where the challenge has none");
}

#[test]
fn a_token_server_that_is_down_is_asked_again_for_as_long_as_patience_lasts() {
    let blob = noise(5000, 9);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = guarded(&blob, "t1", format!("http://{closed}/token"));
    let hasty = Options { patience: Duration::from_secs(1), ..options() };
    let error = read(&client(&server, &hasty), &server, &blob).unwrap_err();
    let Error::GaveUp { tries, last, .. } = &error else { panic!("{error}") };
    assert!(*tries > 1 && last.to_string().contains(&closed.to_string()), "{last}");
    assert_eq!(error.kind(), Kind::Network);
    let tokens = start(b"", |request, _| match request.number {
        0 => Reply::new(503, b"<html>"),
        1 => Reply::new(429, br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
        _ => token("t1", 60),
    });
    let server = guarded(&blob, "t1", format!("{}/token", tokens.url()));
    assert_eq!(read(&client(&server, &options()), &server, &blob).unwrap(), blob);
    assert_eq!(tokens.count(), 3);
}

#[test]
fn a_token_server_that_says_no_or_nonsense_is_named() {
    let blob = noise(5000, 10);
    let endless = "x".repeat(3 << 20);
    for (reply, kind, says) in [
        (
            Reply::new(401, br#"{"details":"incorrect password"}"#),
            Kind::Denied,
            "incorrect password",
        ),
        (Reply::new(403, b""), Kind::Denied, "token server"),
        (Reply::new(200, b"{}"), Kind::Refused, "neither token nor"),
        (Reply::new(200, b"<html>"), Kind::Refused, "JSON"),
        (Reply::new(200, endless.as_bytes()), Kind::Refused, "1 MiB"),
        (Reply::new(200, br#"{"token":"a\r\nX: y"}"#), Kind::Refused, "header"),
        (Reply::new(404, b""), Kind::NotFound, "token server"),
    ] {
        let tokens = start(b"", move |_, _| reply.clone());
        let server = guarded(&blob, "t1", format!("{}/token", tokens.url()));
        let error = read(&client(&server, &options()), &server, &blob).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!((tokens.count(), server.count()), (1, 1), "{error}");
    }
}

/// 0.0.0.0 and the numbers lead to this machine, too: a request would arrive.
#[test]
fn a_token_server_at_a_forbidden_place_gets_no_request_at_all() {
    let blob = noise(5000, 11);
    let other = tokens("t1");
    let port = other.port;
    for realm in [
        format!("http://0.0.0.0:{port}/token"),
        format!("http://127.1:{port}/token"),
        format!("http://2130706433:{port}/token"),
        format!("http://0x7f000001:{port}/token"),
        format!("http://alice@127.0.0.1:{port}/token"),
        format!("ftp://127.0.0.1:{port}/token"),
        format!("//127.0.0.1:{port}/token"),
        "http://169.254.169.254/token".to_owned(),
        "https://169.254.169.254/token".to_owned(),
        "https://10.0.0.1/token".to_owned(),
        "http://r.example/token".to_owned(),
    ] {
        let server = guarded(&blob, "t1", realm.clone());
        let (options, _file) = with_logins(&[(format!("127.0.0.1:{}", server.port), ALICE)]);
        let error = read(&client(&server, &options), &server, &blob).unwrap_err();
        let refused =
            matches!(&error, Error::Gate { gate, .. } if matches!(**gate, Gate::Realm { .. }));
        assert!(refused && error.kind() == Kind::Refused, "{realm}: {error}");
        assert_eq!(sent(&server, "authorization"), [None]);
    }
    assert_eq!(other.count(), 0);
    // What is listed is asked.
    let server = guarded(&blob, "t1", format!("http://0.0.0.0:{port}/token"));
    let listed = vec![format!("0.0.0.0:{port}")];
    let options = Options { registry_http: listed.clone(), registry_realms: listed, ..options() };
    assert_eq!(read(&client(&server, &options), &server, &blob).unwrap(), blob);
}

#[test]
fn a_redirect_of_the_token_server_is_not_followed() {
    let blob = noise(5000, 12);
    let other = tokens("t1");
    let to = format!("{}/token", other.url());
    let tokens = start(b"", move |_, _| Reply::new(302, b"").with("Location", &to));
    let server = guarded(&blob, "t1", format!("{}/token", tokens.url()));
    let (options, _file) = with_logins(&[(format!("127.0.0.1:{}", server.port), ALICE)]);
    let error = read(&client(&server, &options), &server, &blob).unwrap_err();
    assert!(matches!(error, Error::Redirect { status: 302, .. }), "{error}");
    assert_eq!((other.count(), error.kind()), (0, Kind::Refused));
}

#[test]
fn what_a_registry_asks_for_and_nobody_can_do_is_said() {
    let blob = noise(5000, 13);
    for (field, says) in [
        (None, "does not say"),
        (Some("Digest realm=\"x\""), "neither a token"),
        (Some("Bearer service=\"x\""), "where from"),
        (Some("Bearer realm=\"x"), "quote"),
    ] {
        let server = start(&blob, move |_, _| {
            let reply = Reply::new(401, b"");
            field.map_or(reply.clone(), |field| reply.with("WWW-Authenticate", field))
        });
        let error = read(&client(&server, &options()), &server, &blob).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!((error.kind(), server.count()), (Kind::Refused, 1));
    }
}

#[test]
fn manifests_are_guarded_alike() {
    let text = br#"{"schemaVersion":2}"#;
    let tokens = tokens("t1");
    let realm = format!("{}/token", tokens.url());
    let server = start(text, move |request, reply| match header(request, "authorization") {
        Some("Bearer t1") => reply.with("Docker-Content-Digest", &Digest::of(text).to_string()),
        _ => challenge(&realm),
    });
    let client = client(&server, &options());
    assert_eq!(client.head_manifest("v1").unwrap(), Some(Digest::of(text)));
    assert_eq!(client.manifest(&Which::of(&at(&server))).unwrap().bytes, text);
    assert_eq!(tokens.count(), 1);
    assert_eq!(
        asked(&server),
        [
            "HEAD /v2/team/app/manifests/v1",
            "HEAD /v2/team/app/manifests/v1",
            "GET /v2/team/app/manifests/v1"
        ]
    );
}

#[test]
fn who_waits_for_a_silent_token_server_or_store_may_stop() {
    let blob = noise(5000, 17);
    let silent = start(b"", |_, reply| Reply { mute: true, ..reply });
    let to = format!("{}/x", silent.url());
    let by_token = guarded(&blob, "t1", to.clone());
    let by_store = start(&blob, move |_, _| Reply::new(307, b"").with("Location", &to));
    for server in [by_token, by_store] {
        let begun = Instant::now();
        let stop = fetch::Stop::new(move || begun.elapsed() > Duration::from_millis(300));
        let options = Options { stop, patience: Duration::from_secs(60), ..options() };
        read(&client(&server, &options), &server, &blob).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    assert_eq!(silent.count(), 2);
}
