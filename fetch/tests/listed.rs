//! Keys of any characters in a listing, by way of `encoding-type=url`.

mod fault;

use std::sync::Arc;

use fault::{Reply, Request, Server};
use fetch::{Client, CredentialsFrom, Options};

/// As S3 does it: a blank is a plus, a slash stays.
fn url_encoded(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.*/".contains(&b);
    key.bytes().fold(String::new(), |text, byte| match byte {
        b' ' => text + "+",
        byte if plain(byte) => text + &char::from(byte).to_string(),
        byte => text + &format!("%{byte:02X}"),
    })
}

fn listed(plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> (Server, Client) {
    let server = Server::start(Vec::new(), Arc::new(plan));
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        ..Options::default()
    };
    let client = Client::new(&options).unwrap();
    (server, client)
}

fn page(keys: &[String], more: &str) -> Reply {
    let entry = |key: &String| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
    let entries: String = keys.iter().map(entry).collect();
    let text = format!(
        "<ListBucketResult>{entries}<IsTruncated>false</IsTruncated>{more}</ListBucketResult>"
    );
    Reply::new(200, text.as_bytes())
}

const ODD: [&str; 9] = [
    "p/\u{1}x",
    "p/a+b",
    "p/100%",
    "p/a b",
    "p/é\u{1f980}",
    "p/%2F",
    "p/a&b<c>",
    "p/\r\n",
    "p/\u{fffe}",
];

#[test]
fn odd_keys_come_as_they_are() {
    let keys: Vec<String> = ODD.iter().map(|key| url_encoded(key)).collect();
    let (server, client) =
        listed(move |request, _| match request.query.contains("encoding-type") {
            true => page(&keys, "<EncodingType>url</EncodingType><Prefix>p%2F</Prefix>"),
            // What S3 answers to that: no XML.
            false => page(&["p/&#x1;x".to_owned(), "p/\u{1}".to_owned()], ""),
        });
    let found = client.list("bkt", "p/").unwrap();
    let found: Vec<&str> = found.iter().map(|object| object.object.key.as_str()).collect();
    assert_eq!(found, ODD);
    assert_eq!(server.count(), 2, "a second look at keys that may mean two things");
    let query = server.requests.lock().unwrap()[0].query.clone();
    assert!(query.contains("encoding-type=url"), "{query}");
}

#[test]
fn a_server_that_does_not_encode_is_taken_as_it_says() {
    let keys = vec!["p/a+b".to_owned(), "p/%41".to_owned()];
    let (_server, client) = listed(move |_, _| page(&keys, ""));
    let found = client.list("bkt", "p/").unwrap();
    let found: Vec<&str> = found.iter().map(|object| object.object.key.as_str()).collect();
    assert_eq!(found, ["p/a+b", "p/%41"]);
    // One that says so and does not is found out by a second look...
    let keys = vec!["p/a+b".to_owned(), "p/%41".to_owned()];
    let (server, client) = listed(move |_, _| page(&keys, "<EncodingType>url</EncodingType>"));
    let found = client.list("bkt", "p/").unwrap();
    let found: Vec<&str> = found.iter().map(|object| object.object.key.as_str()).collect();
    assert_eq!((found, server.count()), (vec!["p/a+b", "p/%41"], 2));
    // ... and by what no encoding leaves.
    let keys = vec!["p/a b".to_owned(), "p/100%".to_owned(), "p/x+y".to_owned()];
    let (_server, client) = listed(move |_, _| page(&keys, "<EncodingType>url</EncodingType>"));
    let found = client.list("bkt", "p/").unwrap();
    let found: Vec<&str> = found.iter().map(|object| object.object.key.as_str()).collect();
    assert_eq!(found, ["p/a b", "p/100%", "p/x+y"]);
}

#[test]
fn what_is_no_text_is_refused_and_what_leaves_the_prefix_too() {
    for key in ["p/%FF", "p%2F..%2Fx%FF", "q%2F1"] {
        let keys = vec![key.to_owned()];
        let (_server, client) = listed(move |_, _| page(&keys, "<EncodingType>url</EncodingType>"));
        assert!(client.list("bkt", "p/").is_err(), "{key}");
    }
    // A long key is longer still in this spelling.
    let long = format!("p/{}", "é".repeat(511));
    assert_eq!(long.len(), 1024);
    let keys = vec![url_encoded(&long)];
    let (_server, client) = listed(move |_, _| page(&keys, "<EncodingType>url</EncodingType>"));
    assert_eq!(client.list("bkt", "p/").unwrap()[0].object.key, long);
}

#[test]
fn a_server_that_refuses_to_be_asked_so_is_asked_without() {
    for (status, code) in [(400, "InvalidArgument"), (501, "NotImplemented")] {
        let (server, client) =
            listed(move |request, _| match request.query.contains("encoding-type") {
                true => Reply::error(status, code),
                false => page(&["p/1".to_owned()], ""),
            });
        assert_eq!(client.list("bkt", "p/").unwrap().len(), 1);
        assert_eq!(server.count(), 2);
    }
}
