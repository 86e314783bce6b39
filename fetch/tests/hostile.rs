//! Hostile listings, redirects and names; other sources.

mod fault;

use std::io::Read;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fault::{Pace, Plan, Reply, Request, Server, noise};
use fetch::{Client, CredentialsFrom, Error, Expect, Kind, ObjectRef, Options};
use sha2::{Digest as _, Sha256};

fn program(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_ENDPOINT_URL", url);
    command
}

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn serve(plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(b"hello".to_vec(), Arc::new(plan))
}

fn client_options(server: &Server) -> Options {
    Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        tries_max: Some(2),
        list_keys_max: 5000,
        ..Options::default()
    }
}

fn client(server: &Server) -> Client {
    Client::new(&client_options(server)).unwrap()
}

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn page(inside: &str) -> String {
    format!("<?xml version=\"1.0\"?><ListBucketResult>{inside}</ListBucketResult>")
}

const ENTRY: &str = "<Contents><Key>p/1.tar</Key><Size>5</Size></Contents>";

#[test]
fn listings_that_lie_are_refused() {
    let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>T</NextContinuationToken>";
    let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>";
    let external = "<!DOCTYPE r [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>";
    for (name, document) in [
        ("the same page for ever", page(&format!("{ENTRY}{more}"))),
        ("truncated without a token", page(&format!("{ENTRY}<IsTruncated>true</IsTruncated>"))),
        ("an entity bomb", format!("{bomb}{}", page("<Contents><Key>&b;</Key></Contents>"))),
        (
            "an external entity",
            format!("{external}{}", page("<Contents><Key>&x;</Key></Contents>")),
        ),
        ("an undefined entity", page("<Contents><Key>&nbsp;</Key><Size>1</Size></Contents>")),
        ("a key outside", page("<Contents><Key>q/1.tar</Key><Size>1</Size></Contents>")),
        ("a negative size", page("<Contents><Key>p/1.tar</Key><Size>-1</Size></Contents>")),
        (
            "a huge size",
            page("<Contents><Key>p/1.tar</Key><Size>99999999999999999999</Size></Contents>"),
        ),
        (
            "two keys in one",
            page("<Contents><Key>p/1</Key><Key>p/2</Key><Size>1</Size></Contents>"),
        ),
        ("deep nesting", "<ListBucketResult>".repeat(100_000)),
        ("half a document", page(ENTRY)[..60].to_owned()),
        ("a login page", "<html><body>sign in</body></html>".to_owned()),
        ("an error with status 200", "<Error><Code>InternalError</Code></Error>".to_owned()),
        ("nothing", String::new()),
        ("no text", "\u{0}\u{1}".to_owned()),
    ] {
        let server = serve(move |_, _| Reply::new(200, document.as_bytes()));
        let error = client(&server).list("bkt", "p/").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{name}: {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{name}: {error}");
        assert!(server.count() <= 2, "{name}: {} requests", server.count());
    }
}

#[test]
fn endless_listings_end() {
    // Each page has another token and a new key.
    let server = serve(|q, _| {
        let n = q.number;
        if n > 300 {
            return Reply::error(404, "NobodyStops");
        }
        let keys: String = (0..1000)
            .map(|k| format!("<Contents><Key>p/{n}-{k}</Key><Size>1</Size></Contents>"))
            .collect();
        let token = format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>"
        );
        Reply::new(200, page(&format!("{keys}{token}")).as_bytes())
    });
    let error = client(&server).list("bkt", "p/").unwrap_err();
    assert!(matches!(error, Error::ListingTooLong { keys_max: 5000, .. }), "{error}");
    // Each page is empty and promises another.
    let server = serve(|q, _| {
        let n = q.number;
        if n > 300 {
            return Reply::error(404, "NobodyStops");
        }
        let token = format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>"
        );
        Reply::new(200, page(&token).as_bytes())
    });
    let error = client(&server).list("bkt", "p/").unwrap_err();
    assert!(matches!(error, Error::ListingTooLong { .. }) && server.count() < 200, "{error}");
}

#[test]
fn a_listing_of_a_gibibyte_is_not_read() {
    let server = serve(|_, _| {
        let reply = Reply::new(200, &vec![b' '; 20 << 20]);
        reply.with("Content-Length", &(1_u64 << 30).to_string())
    });
    let error = client(&server).list("bkt", "p/").unwrap_err();
    assert!(error.to_string().contains("16 MiB"), "{error}");
}

#[test]
fn listed_keys_are_shown_escaped_and_never_leave_the_prefix() {
    let evil = "p/&#x1b;[2J&#xa;../../etc/passwd";
    let server = serve(move |_, _| {
        let entry = format!("<Contents><Key>{evil}</Key><Size>1</Size></Contents>");
        Reply::new(200, page(&entry).as_bytes())
    });
    let (code, out, said) = run(program(&server.url()).args(["--list", "s3://bkt/p/"]));
    assert_eq!((code, out.len()), (Some(100), 0), "{said}");
    assert!(said.contains("\\u{1b}[2J\\n") && !said.contains('\x1b'), "{said}");
    let (code, out, _) = run(program(&server.url()).args(["--list", "--all", "s3://bkt/p/"]));
    let out = String::from_utf8(out).unwrap();
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out:?}");
    assert!(!out.contains('\x1b'));
    // As data it is whole; asking for it is what is refused.
    let key = &client(&server).list("bkt", "p/").unwrap()[0].object;
    assert!(matches!(client(&server).head(key), Err(Error::Unaddressable { .. })));
}

#[test]
fn redirects_go_to_listed_hosts_only() {
    let target = serve(|_, reply| reply);
    let to = format!("{}/bkt/key", target.url());
    let server = serve(move |_, _| Reply::new(307, b"").with("Location", &to));
    let (code, _, said) = run(program(&server.url()).arg("s3://bkt/key"));
    assert!(code == Some(100) && said.contains("--redirect-to"), "{said}");
    assert_eq!(target.count(), 0);
    let host = format!("127.0.0.1:{}", target.port);
    let mut command = program(&server.url());
    command.env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", "SK");
    let (code, out, said) = run(command.args(["--redirect-to", &host, "s3://bkt/key"]));
    assert!(code == Some(0) && out == b"hello", "{said}");
    // Signed anew for the new host, not handed on.
    let sign = |server: &Server| {
        let requests = server.requests.lock().unwrap();
        requests.last().unwrap().headers["authorization"].clone()
    };
    assert_ne!(sign(&server), sign(&target));
}

#[test]
fn names_do_not_lead_to_instance_metadata() {
    // Numbers of any notation are addresses to somebody; nothing is sent to this one.
    for host in ["0xa9fea9fe", "2852039166", "169.254.43518"] {
        let url = format!("http://{host}");
        let start = Instant::now();
        let (code, _, said) = run(program(&url).args(["--anonymous", "s3://bkt/key"]));
        assert_eq!(code, Some(100), "{host}: {said}");
        assert!(said.contains("169.254.169.254"), "{host}: {said}");
        assert!(start.elapsed() < Duration::from_secs(5), "{host}: it was tried again");
    }
}

#[test]
fn dead_ends_are_told_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    // RFC 5737: 192.0.2.0/24 leads nowhere; here it may also be refused at once.
    for (url, says) in [
        ("http://no-such-host.invalid".to_owned(), "lookup"),
        (format!("http://{closed}"), "refused"),
        ("http://192.0.2.1".to_owned(), ""),
    ] {
        let start = Instant::now();
        let (code, _, said) = run(program(&url).args([
            "--anonymous",
            "--tries",
            "3",
            "--connect-timeout",
            "1",
            "s3://bkt/key",
        ]));
        assert_eq!(code, Some(111), "{said}");
        assert!(said.contains("gave up after 3 tries") && said.contains(says), "{said}");
        assert!(start.elapsed() < Duration::from_secs(10), "{url} took {:?}", start.elapsed());
    }
}

#[test]
fn a_deadline_ends_a_slow_object() {
    let server = Server::start(
        noise(3_000_000, 20),
        Arc::new(|_, reply: Reply| reply.pace(Pace::Steady(100_000))),
    );
    let (code, _, said) =
        run(program(&server.url()).args(["--anonymous", "--deadline", "1", "s3://bkt/key"]));
    assert!(code == Some(111) && said.contains("deadline"), "{code:?} {said}");
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn sources_are_asked_in_order_and_believed_in_nothing() {
    let bytes = noise(9_000_000, 21);
    let broken: Plan = Arc::new(|q, r: Reply| {
        if q.number == 0 {
            r.with("ETag", "\"cache\"").pace(Pace::Cut(1_000_000))
        } else {
            Reply::error(503, "x")
        }
    });
    let absent: Plan = Arc::new(|_, _| Reply::error(404, "NoSuchKey"));
    for jobs in ["1", "3"] {
        // One that has nothing, one that breaks off, then the origin.
        let servers: Vec<Server> =
            [absent.clone(), broken.clone(), Arc::new(|_: &Request, r: Reply| r)]
                .into_iter()
                .map(|plan| Server::start(bytes.clone(), plan))
                .collect();
        let ask = |digest: Option<&str>| {
            let mut command = program(&servers[2].url());
            command.args(["--anonymous", "-v", "--jobs", jobs, "--patience", "2", "s3://bkt/key"]);
            command.args(["--source", &servers[0].url(), "--source", &servers[1].url()]);
            if let Some(digest) = digest {
                command.args(["--digest", digest]);
            }
            run(&mut command)
        };
        let (code, out, said) = ask(Some(&digest(&bytes)));
        assert!(code == Some(0) && out == bytes, "jobs {jobs}: {code:?} {said}");
        assert!(servers.iter().all(|server| server.count() > 0), "{said}");
        // Without a digest nobody else is asked.
        let before = servers[0].count() + servers[1].count();
        let (code, out, said) = ask(None);
        assert!(code == Some(0) && out == bytes, "{code:?} {said}");
        assert_eq!(servers[0].count() + servers[1].count(), before);
    }
}

#[test]
fn a_source_that_lies_is_passed_over_and_none_of_it_seen() {
    let bytes = noise(9_000_000, 21);
    let lies = [noise(9_000_000, 22), noise(8_999_999, 23), noise(10_000_000, 24)];
    let mut liars: Vec<Server> =
        lies.into_iter().map(|lie| Server::start(lie, Arc::new(|_, r| r))).collect();
    let honest = Server::start(bytes.clone(), Arc::new(|_, r| r));
    let origin = Server::start(bytes.clone(), Arc::new(|_, r| r));
    let dir = tempfile::tempdir().unwrap();
    let (file, spool, tmp) = (dir.path().join("f"), dir.path().join("s"), dir.path().join("t"));
    for path in [&spool, &tmp] {
        std::fs::create_dir(path).unwrap();
    }
    let ask = |sources: &[&Server], args: &[&str]| {
        let mut command = program(&origin.url());
        command.args(["--anonymous", "--digest", &digest(&bytes), "s3://bkt/key"]);
        for source in sources {
            command.args(["--source", &source.url()]);
        }
        let ran = run(command.env("TMPDIR", &tmp).args(args));
        for path in [&spool, &tmp] {
            assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "something is left");
        }
        ran
    };
    let all = [&liars[0], &liars[1], &liars[2]];
    for args in [&[][..], &["--spool", spool.to_str().unwrap()], &["--jobs", "3"]] {
        let (code, out, said) = ask(&all, args);
        assert!(code == Some(0) && out == bytes, "{args:?}: {code:?} {said}");
        assert_eq!(said.matches("a source lied").count(), 3, "{said}");
    }
    let (code, _, said) = ask(&all, &["-o", file.to_str().unwrap()]);
    assert!(code == Some(0) && std::fs::read(&file).unwrap() == bytes, "{said}");
    // The next source is asked before the origin is.
    let before = origin.count();
    let (code, out, said) = ask(&[&liars[1], &honest], &[]);
    assert!(code == Some(0) && out == bytes && origin.count() == before, "{code:?} {said}");
    // Where all lie there is an error, and nothing else.
    let wrong = Server::start(noise(9_000_000, 25), Arc::new(|_, r| r));
    let last = liars.pop().unwrap();
    let (code, out, said) = ask(&[&last], &["--endpoint", &wrong.url()]);
    assert_eq!((code, out.len()), (Some(100), 0), "{said}");
    assert!(said.contains("digest mismatch"), "{said}");
}

#[test]
fn a_consumer_that_leaves_is_no_scandal() {
    let server = Server::start(noise(3_000_000, 23), Arc::new(|_, reply| reply));
    let mut child = program(&server.url())
        .args(["--anonymous", "s3://bkt/key"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(111), 0));
}

#[test]
fn expectations_hold_for_what_a_source_says() {
    let server = serve(|_, reply| reply);
    let expect = Expect { size: Some(6), sha256: Some([1; 32]), ..Expect::default() };
    let error = client(&server).open(object(), &expect).unwrap_err();
    assert_eq!(error.kind(), Kind::Changed, "{error}");
}

#[test]
fn keys_and_tokens_of_any_length_are_refused_on_their_page() {
    for (what, key, token) in [
        ("a key of more than 1024 bytes", 1025, 1),
        ("a key of more than 1024 bytes", 15 << 20, 1),
        ("a token for the next page of more than 4096 bytes", 8, 4097),
    ] {
        let server = serve(move |q, _| {
            // Each page has another key and leads to another.
            let (key, n) = ("k".repeat(key), q.number);
            let token = format!("{n}{}", "t".repeat(token));
            let inside = format!(
                "<Contents><Key>p/{key}</Key><Size>1</Size></Contents><IsTruncated>true\
                 </IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
            );
            Reply::new(200, page(&inside).as_bytes())
        });
        let error = client(&server).list("bkt", "p/").unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().len() < 500, "{} bytes", error.to_string().len());
        assert_eq!((error.kind(), server.count()), (Kind::Refused, 1));
    }
}

#[test]
fn long_etags_count_too() {
    let server = serve(|q, _| {
        let n = q.number;
        let entry = |k| {
            let (key, etag) = (format!("{n}-{k}-{}", "k".repeat(1000)), "e".repeat(1024));
            format!("<Contents><Key>p/{key}</Key><Size>1</Size><ETag>{etag}</ETag></Contents>")
        };
        let keys: String = (0..1000).map(entry).collect();
        let token = format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>"
        );
        Reply::new(200, page(&format!("{keys}{token}")).as_bytes())
    });
    let options = Options { list_keys_max: 100_000, ..client_options(&server) };
    let error = Client::new(&options).unwrap().list("bkt", "p/").unwrap_err();
    assert!(matches!(error, Error::ListingTooLarge { .. }), "{error}");
    assert!(server.count() < 40, "{} pages", server.count());
}

#[test]
fn an_image_has_so_many_layers_and_no_more_is_listed_of_it() {
    let layers = |from: usize, keys: usize| -> String {
        let entry = |k: usize| format!("<Contents><Key>p/{k}.tar</Key><Size>1</Size></Contents>");
        (from..from + keys).map(entry).collect()
    };
    let listing = move |strange: bool| {
        serve(move |q, _| {
            let strange = match strange {
                true => "<Contents><Key>p/readme</Key><Size>1</Size></Contents>",
                false => "",
            };
            let (n, keys) = (q.number, layers(1 + q.number * 1000, 1000));
            let token = format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>"
            );
            Reply::new(200, page(&format!("{keys}{strange}{token}")).as_bytes())
        })
    };
    let image = "s3://bkt/p/".parse().unwrap();
    let server = listing(false);
    let options = Options { list_keys_max: 100_000, ..client_options(&server) };
    let error = Client::new(&options).unwrap().layers(&image).unwrap_err();
    assert!(matches!(error, Error::TooManyLayers { layers_max: 1000, .. }), "{error}");
    assert!(error.to_string().contains("VENEER_FETCH_LAYERS"), "{error}");
    assert_eq!((error.kind(), server.count()), (Kind::Refused, 2));
    // As many as there may be, with the folder's own object, are an image.
    let entries = (1..=7)
        .map(|k| format!("<Contents><Key>p/{k}.tar</Key><Size>1</Size><ETag>e</ETag></Contents>"));
    let folder = "<Contents><Key>p/</Key><Size>0</Size></Contents>".to_owned();
    let all = page(&entries.chain([folder]).collect::<String>());
    let server = serve(move |_, _| Reply::new(200, all.as_bytes()));
    for (layers_max, good) in [(7, true), (6, false)] {
        let options = Options { layers_max, ..client_options(&server) };
        let found = Client::new(&options).unwrap().layers(&image);
        assert_eq!(found.is_ok(), good, "{layers_max}: {found:?}");
    }
    // What is no layer is named, as in a short listing.
    let server = listing(true);
    let error = client(&server).layers(&image).unwrap_err();
    assert!(error.to_string().contains("p/readme"), "{error}");
}

/// A byte now and then is not silence, and would hold whoever waits for ever.
#[test]
fn a_small_answer_that_drips_ends() {
    let drip = |status: u16, text: &str| {
        let text = format!("{text}{}", " ".repeat(10_000));
        serve(move |_, _| Reply { pace: Pace::Drip(3), ..Reply::new(status, text.as_bytes()) })
    };
    let quick = |server: &Server| {
        let answer_timeout = Duration::from_millis(300);
        let options = Options { tries_max: Some(1), answer_timeout, ..client_options(server) };
        Client::new(&options).unwrap()
    };
    let begun = Instant::now();
    let server = drip(200, &page(ENTRY));
    let error = quick(&server).list("bkt", "p/").unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    // An error is known by its status.
    let server = drip(404, "<Error>");
    let error = quick(&server).head(&object()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let Err(error) = quick(&server).open(object(), &Expect::default()) else { panic!("opened") };
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    // Whole it would take 1,000 s.
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
}
