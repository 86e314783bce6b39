//! Against a real S3 server: signatures, listings, keys, addressing, multipart objects.

#![allow(clippy::disallowed_methods, reason = "objects are put with rust-s3, never fetched")]

mod fault;
mod real;

use std::process::{Command, Output};

use fault::noise;
use fetch::{
    Client, CredentialsFrom, Error, Expect, ImageRef, Kind, ObjectRef, Options, may_retry,
};
use real::{ACCESS_KEY, RealServer, SECRET_KEY, program, proxy, sha256, write};

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn options(server: &RealServer, secret_key: &str) -> Options {
    Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Static {
            access_key: ACCESS_KEY.into(),
            secret_key: secret_key.into(),
            session_token: None,
        },
        ..Options::default()
    }
}

fn client(server: &RealServer) -> Client {
    Client::new(&options(server, SECRET_KEY)).unwrap()
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[test]
fn signed_and_anonymous_give_the_same_bytes() {
    let bytes = noise(300_000, 3);
    let signed = RealServer::start(true);
    signed.bucket().put_object("/images/x/1.tar", &bytes).unwrap();
    let (code, out, said) = run(signed.fetch().arg("s3://bkt/images/x/1.tar"));
    assert!(code == Some(0) && out == bytes, "{code:?} {said}");
    assert!(said.contains(&sha256(&bytes)), "{said}");
    let (code, out, said) =
        run(program(&signed.url()).args(["--anonymous", "s3://bkt/images/x/1.tar"]));
    assert_eq!((code, out.len()), (Some(100), 0), "{said}");

    let open = RealServer::start(false);
    open.drop_file("images/x/1.tar", &bytes);
    let (code, out, said) = run(program(&open.url()).arg("s3://bkt/images/x/1.tar"));
    assert!(code == Some(0) && out == bytes, "{code:?} {said}");
}

#[test]
fn a_wrong_secret_is_denied_and_not_told() {
    let server = RealServer::start(true);
    server.drop_file("k", b"x");
    let mut command = server.fetch();
    command.env("AWS_SECRET_ACCESS_KEY", "hunter2hunter2").args(["-v", "s3://bkt/k"]);
    let (code, _, said) = run(&mut command);
    assert_eq!(code, Some(100), "{said}");
    assert!(said.contains("SignatureDoesNotMatch") && !said.contains("hunter2"), "{said}");
}

#[test]
fn keys_come_from_profiles_too() {
    let server = RealServer::start(true);
    server.drop_file("k", b"x");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials");
    write(
        &file,
        &format!("[p]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
    );
    let base = || {
        let mut command = program(&server.url());
        command.env("AWS_SHARED_CREDENTIALS_FILE", &file).arg("s3://bkt/k");
        command
    };
    assert_eq!(run(base().env("AWS_PROFILE", "p")).0, Some(0));
    assert_eq!(run(base().args(["--profile", "p"])).0, Some(0));
    let (code, _, said) = run(base().args(["--profile", "q"]));
    assert!(code == Some(100) && said.contains("no such profile"), "{said}");
    // Without a profile's name there is no default section, so it goes on anonymously.
    assert_eq!(run(&mut base()).0, Some(100));
}

#[test]
fn layers_are_in_numeric_order_with_pins() {
    let server = RealServer::start(true);
    for n in 1..=12 {
        server.drop_file(&format!("images/x/{n}.tar"), &noise(n * 100, 4));
    }
    let client = client(&server);
    let layers = client.layers(&image("s3://bkt/images/x/")).unwrap();
    let numbers: Vec<u64> = layers.iter().map(|layer| layer.number).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
    for layer in &layers {
        assert_eq!(layer.object.size, layer.number * 100);
        let etag = layer.object.etag.as_deref().unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        let mut body = client.open(&layer.object.object, &layer.object.expect()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut body, &mut bytes).unwrap();
        assert_eq!(bytes, noise(bytes.len(), 4));
        assert_eq!(body.summary().unwrap().etag.as_deref(), Some(etag));
    }
    let one = client.layers(&image("s3://bkt/images/x/7.tar")).unwrap();
    assert_eq!((one.len(), one[0].number, one[0].object.size), (1, 1, 700));
}

#[test]
fn a_prefix_that_is_no_image_is_refused_by_name() {
    let server = RealServer::start(true);
    server.drop_file("stranger/1.tar", b"x");
    server.drop_file("stranger/README", b"x");
    server.drop_file("gap/1.tar", b"x");
    server.drop_file("gap/3.tar", b"x");
    server.drop_file("deep/1.tar", b"x");
    server.drop_file("deep/more/2.tar", b"x");
    server.drop_file("twice/1.tar", b"x");
    server.drop_file("twice/1.tgz", b"x");
    for (prefix, code, says) in [
        ("stranger", 100, "stranger/README"),
        ("gap", 100, "layer 2 is missing"),
        ("deep", 100, "deep/more/2.tar"),
        ("twice", 100, "layer 1 is there twice"),
        ("empty", 100, "no objects"),
    ] {
        let (got, out, said) = run(server.fetch().args(["--list", &format!("s3://bkt/{prefix}/")]));
        assert_eq!((got, out.len()), (Some(code), 0), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let (code, _, said) = run(server.fetch().args(["--list", "s3://nosuchbucket/x/"]));
    assert!(code == Some(100) && said.contains("NoSuchBucket"), "{said}");
}

#[test]
fn two_thousand_five_hundred_keys_are_all_listed() {
    let server = RealServer::start(true);
    for n in 0..2500 {
        server.drop_file(&format!("many/{n:04}"), b"");
    }
    let client = client(&server);
    let objects = client.list("bkt", "many/").unwrap();
    let keys: Vec<_> = objects.iter().map(|object| object.object.key.clone()).collect();
    let due: Vec<_> = (0..2500).map(|n| format!("many/{n:04}")).collect();
    assert_eq!(keys, due);
    let few = Options { list_keys_max: 2000, ..options(&server, SECRET_KEY) };
    let error = Client::new(&few).unwrap().list("bkt", "many/").unwrap_err();
    assert!(matches!(error, Error::ListingTooLong { .. }), "{error}");
}

#[test]
fn odd_keys_arrive_as_they_are() {
    let server = RealServer::start(true);
    let client = client(&server);
    for key in [
        "a b",
        "a+b",
        "a%2Fb",
        "a%b",
        "a#b",
        "a?b=c&d",
        "é",
        "\u{1f980}",
        "a\nb",
        "a\\b",
        "a'b\"c",
        "a&b<c>",
        "a;b:c@d",
        "a=b",
        "..a/b..",
        "a*b",
        "~",
        "a|b",
        " lead",
        "trail ",
        "a\u{202e}b",
        "%",
        "%00",
        "x/%2e%2e/y",
    ] {
        let bytes = noise(100, 5);
        server.drop_file(&format!("odd/{key}"), &bytes);
        let object = ObjectRef::new("bkt", &format!("odd/{key}")).unwrap();
        let mut body =
            client.open(&object, &Expect::default()).unwrap_or_else(|e| panic!("{key:?}: {e}"));
        let mut got = Vec::new();
        std::io::Read::read_to_end(&mut body, &mut got).unwrap();
        assert_eq!(got, bytes, "{key:?}");
        assert_eq!(client.head(&object).unwrap().size, 100, "{key:?}");
        let listed = client.list("bkt", &format!("odd/{key}")).unwrap();
        assert!(listed.iter().any(|o| o.object == object), "{key:?} not in {listed:?}");
        std::fs::remove_file(server.file(&format!("odd/{key}"))).unwrap();
    }
}

#[test]
fn multipart_objects_and_ranges() {
    let server = RealServer::start(true);
    let bytes = noise(21_000_000, 6);
    // In parts of 8 MiB, so the ETag is no MD5 of the whole.
    server.bucket().put_object_stream(&mut bytes.as_slice(), "/big.tar").unwrap();
    let client = client(&server);
    let object: ObjectRef = "s3://bkt/big.tar".parse().unwrap();
    let head = client.head(&object).unwrap();
    assert!(head.etag.as_deref().unwrap().contains("-3"), "{head:?}");
    for jobs in ["1", "4", "16"] {
        let (code, out, said) =
            run(server.fetch().args(["s3://bkt/big.tar", "--jobs", jobs, "--json"]));
        assert!(code == Some(0) && out == bytes, "{code:?} {said}");
        let tries = if jobs == "1" { "\"tries\":1," } else { "\"tries\":11," };
        assert!(said.contains(tries), "jobs {jobs}: {said}");
    }
}

#[test]
fn the_bucket_may_be_in_the_host() {
    let server = RealServer::start(true);
    server.drop_file("k", b"hello");
    let (port, told) = proxy(server.port);
    let (code, out, said) = run(server
        .fetch()
        .env("AWS_ENDPOINT_URL", format!("http://s3.test:{}", server.port))
        .env("HTTP_PROXY", format!("http://127.0.0.1:{port}"))
        .args(["--addressing", "virtual-host", "s3://bkt/k"]));
    assert!(code == Some(0) && out == b"hello", "{code:?} {said}");
    let asked = told.recv().unwrap();
    assert_eq!(asked, format!("GET http://bkt.s3.test:{}/k HTTP/1.1", server.port));
    // And NO_PROXY goes around it.
    let (code, _, _) = run(server
        .fetch()
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "127.0.0.1")
        .arg("s3://bkt/k"));
    assert_eq!(code, Some(0));
}

#[test]
fn expectations_are_made_sure() {
    let server = RealServer::start(true);
    server.drop_file("k", b"hello");
    let client = client(&server);
    let object: ObjectRef = "s3://bkt/k".parse().unwrap();
    let kind = |expect: Expect| {
        let mut body = match client.open(&object, &expect) {
            Ok(body) => body,
            Err(error) => return Err(error.kind()),
        };
        let mut bytes = Vec::new();
        match std::io::Read::read_to_end(&mut body, &mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => {
                let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).unwrap();
                assert!(bytes.is_empty(), "bytes of a small wrong object got out");
                assert!(!may_retry(inner));
                Err(inner.kind())
            }
        }
    };
    assert_eq!(kind(Expect::default()), Ok(b"hello".to_vec()));
    assert_eq!(kind(Expect { size: Some(6), ..Expect::default() }), Err(Kind::Changed));
    assert_eq!(kind(Expect { size_max: Some(4), ..Expect::default() }), Err(Kind::Refused));
    assert_eq!(kind(Expect { sha256: Some([0; 32]), ..Expect::default() }), Err(Kind::Digest));
    let etag = Some("\"00000000000000000000000000000000\"".to_owned());
    assert_eq!(kind(Expect { etag, ..Expect::default() }), Err(Kind::Changed));
    let right = client.head(&object).unwrap();
    assert_eq!(kind(right.expect()), Ok(b"hello".to_vec()));
}

#[test]
fn an_empty_object_is_an_object() {
    let server = RealServer::start(true);
    server.drop_file("empty", b"");
    for jobs in ["1", "4"] {
        let (code, out, said) = run(server.fetch().args(["s3://bkt/empty", "--jobs", jobs]));
        assert_eq!((code, out.len()), (Some(0), 0), "{said}");
        assert!(said.contains(&sha256(b"")), "{said}");
    }
}
