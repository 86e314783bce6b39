//! An answer of the server that is not the object: its status, its error document, what they mean.
//!
//! Pure. Codes are those of the S3 API reference, "Error responses".

use std::fmt;
use std::time::Duration;

use crate::error::Kind;
use crate::wording::quoted;
use crate::xml;

/// What a server said instead of giving the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `<Code>` of the error document; none after HEAD, which has no body.
    pub code: Option<String>,
    /// `<Message>` of the error document.
    pub message: Option<String>,
    /// `x-amz-bucket-region`: where the bucket is.
    pub region: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Takes code and message out of an error document; one that makes no sense has neither.
    pub(crate) fn read_document(&mut self, document: &[u8]) {
        let Ok(found) = xml::texts(document, "Error", &["Code", "Message"]) else { return };
        let [code, message] = &found[..] else { return };
        self.code = code.clone();
        self.message = message.clone();
    }

    /// The class of this answer.
    pub fn kind(&self) -> Kind {
        match (self.status, self.code.as_deref()) {
            (400, Some("RequestTimeout")) => Kind::Timeout,
            (400, Some("ExpiredToken" | "InvalidToken" | "AuthorizationHeaderMalformed")) => {
                Kind::Denied
            }
            (401 | 403 | 407, _) => Kind::Denied,
            (404 | 410, _) => Kind::NotFound,
            (408, _) => Kind::Timeout,
            (412, _) => Kind::Changed,
            (429, _) | (500 | 502 | 503 | 504, _) => Kind::Throttled,
            (301, _) => Kind::Denied,
            // 501 and 505 say that the server will never do it.
            _ => Kind::Refused,
        }
    }

    /// What the operator can do about it.
    fn advice(&self) -> Option<&'static str> {
        Some(match (self.status, self.code.as_deref()) {
            (403, Some("RequestTimeTooSkewed")) => "set this machine's clock",
            (403, Some("SignatureDoesNotMatch")) => "check the secret key",
            (403, Some("InvalidAccessKeyId")) => "check the access key",
            (400 | 403, Some("ExpiredToken" | "InvalidToken")) => "renew the session token",
            (401 | 403, _) => "check the credentials, or --anonymous for a public bucket",
            (404, Some("NoSuchBucket")) => "check the bucket and the endpoint",
            (404, _) => "check the key; `fetch --list` shows what is there",
            (412, _) => "the object changed: list it again",
            (301 | 400, _) if self.region.is_some() => "pass that --region",
            _ => return None,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {}", quoted(code))?;
        }
        if let Some(message) = &self.message {
            write!(f, " {}", quoted(message))?;
        }
        if let Some(region) = &self.region
            && matches!(self.status, 301 | 400)
        {
            write!(f, ", the bucket is in {}", quoted(region))?;
        }
        match self.advice() {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: Some(code.into()), ..Answer::default() }
    }

    #[test]
    fn classes_follow_the_error_reference() {
        assert_eq!(answer(503, "SlowDown").kind(), Kind::Throttled);
        assert_eq!(answer(500, "InternalError").kind(), Kind::Throttled);
        assert_eq!(answer(501, "NotImplemented").kind(), Kind::Refused);
        assert_eq!(answer(403, "AccessDenied").kind(), Kind::Denied);
        assert_eq!(answer(404, "NoSuchKey").kind(), Kind::NotFound);
        assert_eq!(answer(412, "PreconditionFailed").kind(), Kind::Changed);
        assert_eq!(answer(400, "RequestTimeout").kind(), Kind::Timeout);
        assert_eq!(answer(400, "InvalidRequest").kind(), Kind::Refused);
        assert_eq!(answer(301, "PermanentRedirect").kind(), Kind::Denied);
    }

    #[test]
    fn the_document_is_read_and_escaped() {
        let mut a = Answer { status: 403, ..Answer::default() };
        a.read_document(b"<?xml version=\"1.0\"?><Error><Code>Bad\x1b[2J</Code><Message>a &amp; b</Message></Error>");
        assert_eq!(a.message.as_deref(), Some("a & b"));
        assert!(!a.to_string().contains('\x1b'), "{a}");
    }

    #[test]
    fn a_page_that_is_no_error_document_says_nothing() {
        let mut a = Answer { status: 502, ..Answer::default() };
        a.read_document(b"<html><Code>x</Code></html>");
        a.read_document(b"\xff\x00<");
        assert_eq!(a.code, None);
    }
}
