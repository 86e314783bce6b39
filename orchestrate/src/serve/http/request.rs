//! One request: its head parsed and judged, its target taken apart. Pure.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::serve::http::files::Files;
use crate::serve::http::{BODY_MAX, HEAD_MAX, HEADERS_MAX};

/// A method that some path knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

impl Method {
    /// As it stands in a request.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Method> {
        use Method::{Delete, Get, Head, Post, Put};
        [Get, Head, Put, Post, Delete].into_iter().find(|method| method.word() == word)
    }
}

/// Why a request is not answered as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    /// The status of the answer.
    pub(crate) status: u16,
    /// Which rule it breaks.
    pub(crate) why: &'static str,
}

fn reject(status: u16, why: &'static str) -> Reject {
    Reject { status, why }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// None for one that no path knows.
    pub(crate) method: Option<Method>,
    /// The path's parts between slashes, decoded.
    pub(crate) path: Vec<String>,
    /// Names and values, decoded.
    pub(crate) query: Vec<(String, String)>,
    /// The body, when it was read.
    pub(crate) body: Vec<u8>,
    /// What stands after `Authorization: Bearer`.
    pub(crate) token: Option<String>,
    /// The `If-None-Match` header.
    pub(crate) if_none_match: Option<String>,
    /// Whether the connection goes on after the answer.
    pub(crate) keep_alive: bool,
    /// Whether the client waits to be told that its body is welcome.
    pub(crate) expects_continue: bool,
    /// Who waits for the answer, where it may take a while.
    pub(crate) peer: Option<Peer>,
    /// What came with it.
    pub(crate) files: Files,
}

/// A head, and where its body begins and how long it is.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: Request,
    pub(crate) head_bytes: usize,
    pub(crate) body_bytes: usize,
}

/// Reads the head at the start of `bytes`; none when more has to come.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Head>, Reject> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes <= HEAD_MAX => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(_) => return Err(reject(431, "the head is longer than 8 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err(reject(431, "more than 64 headers")),
        Err(httparse::Error::Version) => return Err(reject(505, "neither HTTP/1.0 nor HTTP/1.1")),
        Err(_) => return Err(reject(400, "this is not HTTP")),
    };
    // Who stands in between may end a line elsewhere than we do (RFC 9112 2.2, 11.2).
    if bytes
        .iter()
        .take(head_bytes)
        .zip([0].iter().chain(bytes))
        .any(|pair| pair.0 == &b'\n' && pair.1 != &b'\r')
    {
        return Err(reject(400, "a line that does not end with CR LF"));
    }
    let (path, query) = target(parsed.path.unwrap_or_default())?;
    let mut request = Request {
        method: Method::parse(parsed.method.unwrap_or_default()),
        path,
        query,
        body: Vec::new(),
        token: None,
        if_none_match: None,
        keep_alive: parsed.version == Some(1),
        expects_continue: false,
        peer: None,
        files: Files::default(),
    };
    let mut length: Option<usize> = None;
    let mut hosts = 0;
    for header in parsed.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(header.value);
        if is("content-length") {
            let digits =
                text.ok().filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
            let bytes = digits.ok_or_else(|| reject(400, "Content-Length is not a number"))?;
            let bytes = bytes.parse().unwrap_or(usize::MAX);
            if length.is_some_and(|before| before != bytes) {
                return Err(reject(400, "two lengths of one body"));
            }
            length = Some(bytes);
        } else if is("transfer-encoding") {
            // Two ways to tell a body's end are one too many for who stands in between.
            return Err(reject(411, "a body has to come with its Content-Length"));
        } else if is("connection") {
            let words = text.unwrap_or_default().split(',').map(str::trim);
            for word in words {
                if word.eq_ignore_ascii_case("close") {
                    request.keep_alive = false;
                } else if word.eq_ignore_ascii_case("keep-alive") && parsed.version == Some(0) {
                    request.keep_alive = true;
                }
            }
        } else if is("host") {
            hosts += 1;
        } else if is("authorization") {
            request.token = text.ok().and_then(bearer).map(str::to_owned);
        } else if is("if-none-match") {
            request.if_none_match = text.ok().map(str::to_owned);
        } else if is("expect") {
            match text {
                Ok(text) if text.eq_ignore_ascii_case("100-continue") => {
                    request.expects_continue = true;
                }
                Ok(_) | Err(_) => return Err(reject(417, "an expectation that is not known here")),
            }
        }
    }
    let body_bytes = length.unwrap_or(0);
    if body_bytes > BODY_MAX {
        return Err(reject(413, "the body is larger than 64 KiB"));
    }
    // RFC 9112 3.2.
    if hosts > 1 || (hosts == 0 && parsed.version == Some(1)) {
        return Err(reject(400, "one Host header has to be there, and no second one"));
    }
    Ok(Some(Head { request, head_bytes, body_bytes }))
}

fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Path and query of an origin-form target, taken apart and decoded.
type Target = (Vec<String>, Vec<(String, String)>);

fn target(text: &str) -> Result<Target, Reject> {
    let bad = || reject(400, "the path is not one: UTF-8, %XX, no control bytes");
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let path = path.strip_prefix('/').ok_or_else(bad)?;
    let parts = path.split('/').map(|part| decoded(part, false).ok_or_else(bad));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(name, true).zip(decoded(value, true)).ok_or_else(bad)
    });
    Ok((parts.collect::<Result<_, _>>()?, pairs.collect::<Result<_, _>>()?))
}

/// Percent-decoding; none for what is not UTF-8 or has control bytes. `form`: a plus is a blank.
fn decoded(text: &str, form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()?)?, hex(rest.next()?)?);
                high << 4 | low
            }
            b'+' if form => b' ',
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl Request {
    /// The first value of this name.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// The other end of a connection, as far as it is still there.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Arc<OwnedFd>);

impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Peer {}

impl Peer {
    /// Whether it has hung up: nobody reads an answer any more. Who only has nothing more to say has not.
    pub(crate) fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let found = poll(&mut polled, PollTimeout::ZERO);
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        found.is_ok() && polled[0].revents().is_some_and(|now| now.intersects(gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Reject> {
        parse(text.as_bytes())
    }

    fn status(text: &str) -> u16 {
        head(text).unwrap_err().status
    }

    #[test]
    fn a_request_is_taken_apart() {
        let text = "PUT /v1/images/a%2Fb?x=s3%3A//b/p+q&y HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\
                    Authorization: bearer tok\r\nConnection: x, close\r\n\r\nabc";
        let head = head(text).unwrap().unwrap();
        assert_eq!((head.head_bytes, head.body_bytes), (text.len() - 3, 3));
        let request = head.request;
        assert_eq!(request.method, Some(Method::Put));
        assert_eq!(request.path, ["v1", "images", "a/b"]);
        assert_eq!(request.param("x"), Some("s3://b/p q"));
        assert_eq!(request.param("y"), Some(""));
        assert_eq!((request.token.as_deref(), request.keep_alive), (Some("tok"), false));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let with = |header: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n");
        assert_eq!(status(&with("Content-Length: 1\r\nContent-Length: 2")), 400);
        assert_eq!(status(&with("Content-Length: +1")), 400);
        assert_eq!(status(&with("Content-Length: ")), 400);
        assert_eq!(status(&with("Content-Length: 99999999999999999999999")), 413);
        assert_eq!(status(&with("Content-Length: 65537")), 413);
        assert_eq!(status(&with("Transfer-Encoding: chunked")), 411);
        assert_eq!(status(&with("Expect: money")), 417);
        assert_eq!(status("GET /%ff HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET /%00 HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET /%4 HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET http://h/ HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status("\u{1}\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(&with("Host: other")), 400);
        assert!(head("GET / HTTP/1.0\r\n\r\n").unwrap().is_some());
        for bare in ["GET / HTTP/1.1\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\n\r\n"] {
            assert_eq!(status(bare), 400, "{bare:?}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\nA: b\n\n"), 400);
        assert_eq!(status("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert!(
            head("BREW / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().unwrap().request.method.is_none()
        );
    }

    #[test]
    fn a_head_ends_somewhere() {
        assert!(head("GET / HTTP/1.1\r\nA: b\r\n").unwrap().is_none());
        let long = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(HEAD_MAX));
        assert_eq!(status(&long), 431);
        let whole = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(HEAD_MAX));
        assert_eq!(status(&whole), 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status(&many), 431);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // A small generator, so that the same bytes come again.
        let mut state: u64 = 42;
        let mut roll = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        let whole =
            b"POST /v1/runs/%31/cancel?a=%62&c HTTP/1.1\r\nContent-Length: 2\r\nHost: h\r\n\r\n";
        for _ in 0..50_000 {
            let mut bytes = whole.to_vec();
            for _ in 0..roll(4) + 1 {
                let at = roll(bytes.len());
                match roll(3) {
                    0 => bytes[at] = u8::try_from(roll(256)).unwrap(),
                    1 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, u8::try_from(roll(256)).unwrap()),
                }
            }
            if let Ok(Some(head)) = parse(&bytes) {
                assert!(head.head_bytes <= bytes.len() && head.body_bytes <= BODY_MAX);
            }
        }
    }
}
