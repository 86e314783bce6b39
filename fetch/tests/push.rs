//! Writing, against a real S3 server that checks signatures: objects, conditions, uploads in parts.

mod fault;
mod real;

use std::cell::Cell;
use std::io::{Cursor, Read};

use fault::noise;
use fetch::{
    Client, Condition, CredentialsFrom, Error, Kind, ObjectRef, Options, Upload, parse_digest,
};
use real::{ACCESS_KEY, RealServer, SECRET_KEY, sha256};

fn client(server: &RealServer, secret_key: &str, token: Option<&str>) -> Client {
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Static {
            access_key: ACCESS_KEY.into(),
            secret_key: secret_key.into(),
            session_token: token.map(str::to_owned),
        },
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

fn object(key: &str) -> ObjectRef {
    ObjectRef::new("bkt", key).unwrap()
}

fn status(error: &Error) -> u16 {
    match error {
        Error::Answer { answer, .. } => answer.status,
        other => panic!("{other}"),
    }
}

fn upload(key: &str, bytes: &[u8], named: bool) -> Upload {
    Upload {
        object: object(key),
        size: bytes.len() as u64,
        sha256: parse_digest(&sha256(bytes)).unwrap(),
        place: "here".into(),
        named,
    }
}

#[test]
fn what_is_written_is_read_and_conditions_hold() {
    let server = RealServer::start(true);
    let client = client(&server, SECRET_KEY, None);
    for key in ["index.json", "a b+c/ü=&?#%2F/x", "a//b"] {
        let object = object(key);
        assert_eq!(client.read_small(&object, 100).unwrap(), None);
        let first = client.put(&object, b"one", "text/plain", Some(Condition::Absent)).unwrap();
        let found = client.read_small(&object, 100).unwrap().unwrap();
        assert_eq!((found.bytes.as_slice(), &found.etag), (&b"one"[..], &first));
        let again = client.put(&object, b"two", "text/plain", Some(Condition::Absent));
        let again = again.unwrap_err();
        assert_eq!((status(&again), again.kind()), (412, Kind::Changed));
        assert!(again.to_string().contains("somebody else wrote it"), "{again}");
        let first = first.unwrap();
        let second = client.put(&object, b"two", "text/plain", Some(Condition::Match(&first)));
        assert_ne!(second.unwrap().unwrap(), first);
        let stale = client.put(&object, b"x", "text/plain", Some(Condition::Match(&first)));
        assert_eq!(status(&stale.unwrap_err()), 412);
        assert!(matches!(client.read_small(&object, 2), Err(Error::TooLarge { size_max: 2, .. })));
        client.delete(&object).unwrap();
        client.delete(&object).unwrap();
        assert_eq!(client.read_small(&object, 100).unwrap(), None);
    }
}

#[test]
fn who_may_not_write_is_told_so() {
    let server = RealServer::start(true);
    let wrong = client(&server, "wrong", None);
    let denied = wrong.put(&object("k"), b"x", "text/plain", None).unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    assert!(!denied.to_string().contains("wrong"), "{denied}");
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        ..Options::default()
    };
    let nobody = Client::new(&options).unwrap();
    let unsigned = nobody.put(&object("k"), b"x", "text/plain", None).unwrap_err();
    assert!(matches!(unsigned, Error::Unsigned { .. }), "{unsigned}");
    assert!(unsigned.to_string().contains("always signed"), "{unsigned}");
    let own = client(&server, SECRET_KEY, None);
    let none = ObjectRef::new("nothing", "k").unwrap();
    assert_eq!(own.read_small(&none, 9).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_upload_is_whole_or_not_there() {
    let server = RealServer::start(true);
    let client = client(&server, SECRET_KEY, None);
    for (key, bytes) in [("none", 0), ("small", 300_000), ("parts", (33 << 20) + 5)] {
        let content = noise(bytes, 3);
        let open = || Ok(Box::new(Cursor::new(content.clone())) as Box<dyn Read>);
        let told = Cell::new(0);
        let tell = |step: fetch::Uploaded| told.set(told.get() + step.sent + step.there);
        let size = content.len() as u64;
        let done = client.upload(&upload(key, &content, true), &open, &tell).unwrap();
        assert_eq!((done.sent, done.there, told.get()), (size, 0, size), "{key}");
        assert_eq!(std::fs::read(server.file(key)).unwrap(), content, "{key}");
        for named in [true, false] {
            let done = client.upload(&upload(key, &content, named), &open, &tell).unwrap();
            assert_eq!((done.sent, done.there), (0, size), "{key}, {named}");
        }
        // Another object where the name says nothing of its content, of the same size and of another.
        let mut other = content.clone();
        other.push(1);
        let longer = || Ok(Box::new(Cursor::new(other.clone())) as Box<dyn Read>);
        let changed = client.upload(&upload(key, &other, false), &longer, &tell).unwrap_err();
        assert!(matches!(changed, Error::Changed { field: "size", .. }), "{changed}");
        if bytes > 0 {
            other.pop();
            other[0] ^= 1;
            let same = || Ok(Box::new(Cursor::new(other.clone())) as Box<dyn Read>);
            let changed = client.upload(&upload(key, &other, false), &same, &tell).unwrap_err();
            assert!(matches!(changed, Error::Changed { field: "ETag", .. }), "{changed}");
        }
        // Bytes that are not what they are called: fewer, more, others.
        let bad = format!("bad-{key}");
        for (at, wrong) in [
            content.get(1..).unwrap_or(b"x").to_vec(),
            [content.as_slice(), b"more"].concat(),
            content.iter().map(|byte| byte ^ 1).chain((bytes == 0).then_some(1)).collect(),
        ]
        .into_iter()
        .enumerate()
        {
            let open = || Ok(Box::new(Cursor::new(wrong.clone())) as Box<dyn Read>);
            let refused = client.upload(&upload(&bad, &content, true), &open, &tell).unwrap_err();
            assert!(matches!(refused, Error::Local { .. }), "{at}: {refused}");
            assert_eq!(refused.kind(), Kind::Refused);
            assert!(!server.file(&bad).exists(), "{key}: {at}");
        }
    }
    let huge = Upload { size: u64::MAX, ..upload("huge", b"", true) };
    let nothing = || Ok(Box::new(Cursor::new(Vec::new())) as Box<dyn Read>);
    let refused = client.upload(&huge, &nothing, &|_| ()).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    assert_eq!(std::fs::read_dir(server.root.path().join("bkt")).unwrap().count(), 3);
}
