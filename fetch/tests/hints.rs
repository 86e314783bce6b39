//! What is said so that nobody has to guess: the slash that a reference lacks, and who is waited for.

mod fault;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fault::{Reply, Request, Server, noise};
use fetch::{Client, CredentialsFrom, Error, Event, ImageRef, Kind, Options, Watch};

fn options(server: &Server) -> Options {
    Options {
        endpoint: Some(format!("http://127.0.0.1:{}", server.port)),
        credentials: CredentialsFrom::Anonymous,
        tries_max: Some(2),
        ..Options::default()
    }
}

const LISTING: &str = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>images/a/1.tar\
    </Key><Size>1</Size></Contents></ListBucketResult>";

#[test]
fn a_reference_without_its_last_slash_is_told_so_at_once() {
    for (status, code) in [(404, "NoSuchKey"), (500, "InternalError")] {
        let server = Server::start(
            noise(10, 1),
            Arc::new(move |request: &Request, _: Reply| match request.method.as_str() {
                "HEAD" => Reply::error(status, code),
                _ => Reply::new(200, LISTING.as_bytes()),
            }),
        );
        let client = Client::new(&options(&server)).unwrap();
        let image: ImageRef = "s3://bucket/images/a".parse().unwrap();
        let error = client.layers(&image).unwrap_err();
        assert!(matches!(error, Error::NoSlash { .. }), "{status}: {error}");
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("\"s3://bucket/images/a/\""), "{error}");
        let heads = server.requests.lock().unwrap().iter().filter(|q| q.method == "HEAD").count();
        assert_eq!(heads, 1, "{status}: the object was asked for {heads} times");
    }
}

#[test]
fn a_server_that_only_stumbles_is_asked_again() {
    let server = Server::start(
        noise(10, 1),
        Arc::new(|request: &Request, reply: Reply| match request.number {
            0 => Reply::error(500, "InternalError"),
            _ if request.query.contains("list-type") => Reply::new(
                200,
                b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
            ),
            _ => reply,
        }),
    );
    let client = Client::new(&options(&server)).unwrap();
    let image: ImageRef = "s3://bucket/images/a.tar".parse().unwrap();
    assert_eq!(client.layers(&image).unwrap()[0].object.size, 10);
}

#[test]
fn who_waits_for_a_silent_server_says_so() {
    let server = Server::start(
        noise(10, 1),
        Arc::new(|_: &Request, reply: Reply| Reply { mute: true, ..reply }),
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let watch = Watch::new(move |event| {
        if let Event::Waiting { subject, .. } = event {
            kept.lock().unwrap().push((*subject).to_owned());
        }
    });
    let (first_byte_timeout, tell_waiting) = (Duration::from_secs(2), Duration::from_millis(20));
    let options =
        Options { watch, first_byte_timeout, tell_waiting, tries_max: Some(1), ..options(&server) };
    let client = Client::new(&options).unwrap();
    client.list("bucket", "images/").unwrap_err();
    client
        .open("s3://bucket/k".parse::<fetch::Locator>().unwrap(), &fetch::Expect::default())
        .unwrap_err();
    let told = told.lock().unwrap();
    for subject in ["s3://bucket/images/", "s3://bucket/k"] {
        assert!(told.iter().any(|line| line == subject), "{subject} in {told:?}");
    }
}
