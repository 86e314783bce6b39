//! A registry of one repository, `team/app`, with one blob: the fault server with a registry's paths, and what a client
//! of it needs.

#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use fetch::image::{Digest, RegistryRef};
use fetch::{BlobRef, Client, CredentialsFrom, Options};

use crate::fault::{Reply, Request, Server, good};

pub const NAME: &str = "team/app";

/// The answer of a registry that lets everybody in.
pub fn open(request: &Request, blob: Reply) -> Reply {
    match request.path.starts_with("/v2/team/app/blobs/sha256:") {
        // Of a blob its own name is the tag.
        true => blob,
        false => unknown(404, "NAME_UNKNOWN", "repository name not known to registry"),
    }
}

/// A registry's error.
pub fn unknown(status: u16, code: &str, message: &str) -> Reply {
    let text = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}","detail":null}}]}}"#);
    Reply::new(status, text.as_bytes()).with("Content-Type", "application/json")
}

/// A challenge for a token of this server.
pub fn challenge(realm: &str) -> Reply {
    let field =
        format!(r#"Bearer realm="{realm}",service="test",scope="repository:team/app:pull""#);
    unknown(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", &field)
}

/// A token server's answer.
pub fn token(value: &str, seconds: u64) -> Reply {
    let text = format!(r#"{{"token":"{value}","expires_in":{seconds}}}"#);
    Reply::new(200, text.as_bytes()).with("Content-Type", "application/json")
}

pub fn start(
    blob: &[u8],
    plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(blob.to_vec(), Arc::new(plan))
}

/// A registry that lets in who has this token.
pub fn guarded(blob: &[u8], value: &'static str, realm: String) -> Server {
    start(blob, move |request, reply| match header(request, "authorization") {
        Some(sent) if sent == format!("Bearer {value}") => open(request, reply),
        _ => challenge(&realm),
    })
}

pub fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(String::as_str)
}

/// What was asked of a server, as `METHOD path`.
pub fn asked(server: &Server) -> Vec<String> {
    let requests = server.requests.lock().unwrap();
    requests.iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}

/// The values of a header that were sent to a server, in order.
pub fn sent(server: &Server, name: &str) -> Vec<Option<String>> {
    let requests = server.requests.lock().unwrap();
    requests.iter().map(|request| header(request, name).map(str::to_owned)).collect()
}

/// The pairs of a query or a form, decoded as far as these tests need it.
pub fn pairs(text: &str) -> HashMap<String, String> {
    let decoded = |text: &str| {
        text.replace("%3A", ":").replace("%2F", "/").replace("%20", " ").replace("%2C", ",")
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

pub fn at(server: &Server) -> RegistryRef {
    RegistryRef::parse(&format!("127.0.0.1:{}/{NAME}:v1", server.port)).unwrap()
}

pub fn blob_of(server: &Server, bytes: &[u8]) -> BlobRef {
    BlobRef::new(&at(server), Digest::of(bytes))
}

/// Options of which no file of this machine is a part.
pub fn options() -> Options {
    Options {
        credentials: CredentialsFrom::Anonymous,
        patience: Duration::from_secs(5),
        ..Options::default()
    }
}

/// With a login for these hosts: what stands in the file is `"host": {..}`.
pub fn with_logins(entries: &[(String, &str)]) -> (Options, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let entries: Vec<_> =
        entries.iter().map(|(host, entry)| format!(r#""{host}":{entry}"#)).collect();
    write!(file, r#"{{"auths":{{{}}}}}"#, entries.join(",")).unwrap();
    let authfile = Some(file.path().to_owned());
    (Options { credentials: CredentialsFrom::Auto, authfile, ..options() }, file)
}

pub fn client(server: &Server, options: &Options) -> Client {
    Client::registry(options, &at(server)).unwrap()
}

/// As a store answers, with a tag of its own each time.
pub fn store(request: &Request, blob: &[u8]) -> Reply {
    good(request, blob).with("ETag", &format!("\"{}\"", request.number))
}
