//! A site's cache that keeps something else in the place of an object: it is told so once, and then passed by. Only what
//! the origin says is final.

mod fault;

use std::io::Read as _;
use std::sync::Arc;

use fault::{Server, good, noise};
use fetch::{Client, CredentialsFrom, Expect, Fallback, Kind, ObjectRef, Options};
use sha2::{Digest as _, Sha256};

fn plain(bytes: &[u8]) -> Server {
    Server::start(bytes.to_vec(), Arc::new(|_, reply| reply))
}

fn options(origin: &Server, sources: &[String]) -> Options {
    Options {
        endpoint: Some(origin.url()),
        credentials: CredentialsFrom::Anonymous,
        sources: sources.to_vec(),
        ..Options::default()
    }
}

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn expect(bytes: &[u8]) -> Expect {
    Expect { sha256: Some(Sha256::digest(bytes).into()), ..Expect::default() }
}

/// A source that has something else, and perhaps the right bytes once it is told so.
fn rotten(wrong: &[u8], right: Option<&[u8]>) -> Server {
    let (wrong, right) = (wrong.to_vec(), right.map(<[u8]>::to_vec));
    Server::start(
        Vec::new(),
        Arc::new(move |request, _| match (&right, request.headers.get("veneer-refetch")) {
            (Some(right), Some(_)) => good(request, right),
            (Some(_) | None, _) => good(request, &wrong),
        }),
    )
}

/// What a server was told, request by request. An empty object has no first bytes: that it is asked for as a whole
/// then is no question more.
fn anew(server: &Server) -> Vec<Option<String>> {
    let requests = server.requests.lock().unwrap();
    let ranged = requests.iter().any(|request| request.range().is_some());
    let counted = requests.iter().filter(|request| request.range().is_some() == ranged);
    counted.map(|request| request.headers.get("veneer-refetch").cloned()).collect()
}

#[test]
fn what_a_source_has_in_the_place_of_a_small_object_is_final_for_nobody() {
    let bytes = noise(3001, 12);
    let expect = Expect { size_max: Some(4 << 20), ..expect(&bytes) };
    let whole = |options: &Options| Client::new(options).unwrap().read_whole(object(), &expect);
    let mut flipped = bytes.clone();
    flipped[1000] ^= 1;
    let page = b"<html>welcome to the hotel</html>".to_vec();
    let twice = [None, Some("1".to_owned())];
    for wrong in [
        flipped.clone(),
        page,
        bytes[..1000].to_vec(),
        Vec::new(),
        noise(3001, 13),
        noise(5 << 20, 14),
    ] {
        let size = wrong.len();
        let origin = plain(&bytes);
        let source = rotten(&wrong, Some(&bytes));
        let by = |sources: &[&Server]| {
            let sources: Vec<String> = sources.iter().map(|source| source.url()).collect();
            options(&origin, &sources)
        };
        assert!(whole(&by(&[&source])).unwrap() == bytes, "{size}");
        assert_eq!((anew(&source), origin.count()), (twice.to_vec(), 0), "{size}");
        // It has nothing better, and the next one does.
        let (first, second) = (rotten(&wrong, None), plain(&bytes));
        assert!(whole(&by(&[&first, &second])).unwrap() == bytes, "{size}");
        assert_eq!((anew(&first), anew(&second)), (twice.to_vec(), vec![None]), "{size}");
        // Nobody has but the origin.
        let (first, second) = (rotten(&wrong, None), rotten(&wrong, None));
        assert!(whole(&by(&[&first, &second])).unwrap() == bytes, "{size}");
        assert_eq!((anew(&first), anew(&second)), (twice.to_vec(), twice.to_vec()), "{size}");
        assert_eq!(anew(&origin), [None], "{size}");
    }
    // Its word is the last one, and the message says whose it was.
    let origin = plain(&flipped);
    let source = rotten(&flipped, None);
    let own = options(&origin, &[source.url()]);
    let error = whole(&own).unwrap_err();
    assert!(error.kind() == Kind::Digest && error.to_string().contains(&origin.url()), "{error}");
    assert_eq!((source.count(), origin.count()), (2, 1));
    let error = whole(&Options { source_fallback: Fallback::Never, ..own }).unwrap_err();
    assert!(error.kind() == Kind::Digest && error.to_string().contains(&source.url()), "{error}");
    assert_eq!((source.count(), origin.count()), (4, 1));
}

#[test]
fn a_source_with_something_of_another_size_is_told_so_before_it_is_passed_by() {
    let bytes = noise(3_000_001, 15);
    let sized = Expect { size: Some(bytes.len() as u64), ..expect(&bytes) };
    let page = b"<html>welcome to the hotel</html>";
    for (right, due) in [(Some(bytes.as_slice()), 0), (None, 1)] {
        let (origin, source) = (plain(&bytes), rotten(page, right));
        let one = Options { jobs: Some(1), ..options(&origin, &[source.url()]) };
        let mut got = Vec::new();
        let mut body = Client::new(&one).unwrap().open(object(), &sized).unwrap();
        body.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        assert_eq!((anew(&source), origin.count()), (vec![None, Some("1".to_owned())], due));
    }
}
