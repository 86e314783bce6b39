//! One answer, and how it is written.

use serde::Serialize;

use crate::process::log;

/// The form of failures (RFC 9457).
pub(crate) const PROBLEM: &str = "application/problem+json";

/// An answer of known length.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Bytes of some type.
    pub(crate) fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response { status, content_type, headers: Vec::new(), body }
    }

    /// One JSON object.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Response {
        let body = serde_json::to_string(value).unwrap_or_default() + "\n";
        Response::new(status, "application/json", log::harmless(body).into())
    }

    /// One JSON object a line.
    pub(crate) fn lines(values: &[impl Serialize]) -> Response {
        let mut body = String::new();
        for value in values {
            body.push_str(&serde_json::to_string(value).unwrap_or_default());
            body.push('\n');
        }
        Response::new(200, "application/x-ndjson", log::harmless(body).into())
    }

    /// With one more header. The value is ours: it has no line ends.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Response {
        self.headers.push((name, value.to_string()));
        self
    }

    /// As it goes over the wire; without its body for HEAD.
    pub(super) fn bytes(&self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let length = self.body.len().to_string();
        let mut fixed = vec![
            ("Connection", connection),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ];
        // Neither has a body (RFC 9110, 15.4.5).
        if self.status != 304 {
            fixed.extend([("Content-Type", self.content_type), ("Content-Length", &length)]);
        }
        let given = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in fixed.into_iter().chain(given) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !head_only && self.status != 304 {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The words of RFC 9110; for people.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
