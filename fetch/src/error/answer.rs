//! An answer of the server that is not the object: its status, its error document, what they mean.
//!
//! Pure. Codes are those of the S3 API reference, "Error responses", and of the distribution specification, "Error
//! codes".

use std::fmt;
use std::time::Duration;

use crate::error::kind::Kind;
use crate::error::tunnel;
use crate::text::quote::quoted;
use crate::text::xml;

/// What a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// S3.
    #[default]
    S3,
    /// The OCI distribution specification.
    Registry,
    /// Docker's token authentication, or OAuth 2's refresh of a token.
    Token,
    /// What a registry sent on to for the bytes of a blob: any server at all.
    Elsewhere,
}

/// What a server said instead of giving the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the server speaks.
    pub api: Api,
    /// `<Code>` of the error document, or `code` of a registry's; none after HEAD, which has no body.
    pub code: Option<String>,
    /// `<Message>` of the error document, or `message` of a registry's.
    pub message: Option<String>,
    /// `x-amz-bucket-region`: where the bucket is.
    pub region: Option<String>,
    /// Whether the request had no signature.
    pub anonymous: bool,
    /// Whether something was to be written.
    pub writing: bool,
    /// The proxy, where it and not the server has answered.
    pub proxy: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The object's size, where a range was out of it: `Content-Range: bytes */N`.
    pub size: Option<u64>,
    /// `WWW-Authenticate`, each as it came.
    pub challenges: Vec<String>,
    /// What a registry wants people to know beside that (`Warning`), quoted to be shown.
    pub warnings: Vec<String>,
}

impl Answer {
    /// Takes code and message out of an error document; one that makes no sense has neither.
    pub(crate) fn read_document(&mut self, document: &[u8]) {
        if self.api != Api::S3 && document.trim_ascii_start().starts_with(b"{") {
            return self.read_json(document);
        }
        let fields = &["Code", "Message", "Region"];
        let Ok(found) = xml::texts(document, "Error", fields) else { return };
        let [code, message, region] = &found[..] else { return };
        self.code = code.clone();
        self.message = message.clone();
        // A server of its own may have only this one.
        self.region = self.region.take().or_else(|| region.clone());
    }

    /// `{"errors":[{"code":..,"message":..}]}` (distribution-spec, "Error codes"); token servers have `error` and
    /// `error_description` (RFC 6749 5.2), or `details`.
    fn read_json(&mut self, document: &[u8]) {
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(document) else { return };
        let first = json.get("errors").and_then(|errors| errors.get(0)).unwrap_or(&json);
        let text = |names: &[&str]| {
            names.iter().find_map(|name| first.get(name)?.as_str()).map(str::to_owned)
        };
        self.code = text(&["code", "error"]);
        self.message = text(&["message", "error_description", "details"]);
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
            (301, _) => Kind::Denied,
            // These say that the server will never do it.
            (501 | 505, _) => Kind::Refused,
            // Servers and what is before them have more numbers for it than the standard.
            (429 | 500..=599, _) => Kind::Throttled,
            _ => Kind::Refused,
        }
    }

    /// The region that the server names because it was asked in another one.
    pub(crate) fn other_region(&self, asked: &str) -> Option<&str> {
        let wrong = matches!(
            (self.status, self.code.as_deref()),
            (301 | 307, _)
                | (
                    400,
                    None | Some(
                        "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
                    )
                )
        );
        self.region.as_deref().filter(|region| wrong && *region != asked)
    }

    /// What the operator can do about it: the server's own code decides, then the status.
    fn advice(&self) -> Option<&'static str> {
        if self.proxy.is_some() {
            return tunnel::advice(self.status);
        }
        if self.api != Api::S3 {
            return self.advice_of_registries();
        }
        let said = self.message.as_deref().unwrap_or_default();
        let kms = said.contains("kms:") || said.contains("KMS");
        Some(match (self.status, self.code.as_deref().unwrap_or_default()) {
            (_, "RequestTimeTooSkewed" | "RequestExpired") => "set this machine's clock",
            (_, "SignatureDoesNotMatch") => "check the secret key",
            (_, "InvalidAccessKeyId") => "check the access key, and that it is this server's",
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
                "renew the session token"
            }
            (_, "InvalidObjectState") => {
                "the object is archived (Glacier): have it restored, then try again"
            }
            (_, code) if code.starts_with("KMS.") => {
                "the key that the object is encrypted with cannot be used: have it enabled in KMS"
            }
            (403, "AccessDenied") if kms => {
                "the keys may not decrypt it: allow kms:Decrypt for its KMS key"
            }
            (400, "InvalidRequest") if said.contains("Server Side Encryption") => {
                "it is encrypted with a key that the customer keeps (SSE-C), which is not supported"
            }
            (_, "AccountProblem" | "AllAccessDisabled" | "NotSignedUp") => {
                "the server has closed the account: its owner has to contact the provider"
            }
            (401 | 403, "AccessDenied" | "") if self.writing => {
                "check that these credentials may write there (s3:PutObject, \
                 s3:AbortMultipartUpload, s3:ListBucketMultipartUploads)"
            }
            (404, "NoSuchKey" | "") if self.writing => "somebody removed it meanwhile: try again",
            (412, _) if self.writing => "somebody else wrote it meanwhile: try again",
            (_, "EntityTooLarge" | "EntityTooSmall") => return None,
            (_, "QuotaExceeded") => "the bucket's quota is used up: make room, or raise it",
            (401 | 403, "AccessDenied" | "") if self.anonymous => {
                "it is not public: leave --anonymous out, or set credentials"
            }
            (401 | 403, "AccessDenied" | "") => {
                "check that these credentials may read it (s3:GetObject, s3:ListBucket); a \
                 requester-pays bucket needs --requester-pays, and a public one may need --anonymous"
            }
            (401 | 403, _) => "check the credentials",
            (_, "NoSuchBucket") => "check the bucket and the endpoint",
            (_, "NoSuchVersion") => "check --version-id",
            (404, _) => "check the key; `fetch --list` shows what is there",
            (405, "MethodNotAllowed") => "that version is a mark that the object was deleted",
            (412, _) => "the object changed: list it again",
            _ => return None,
        })
    }
}

impl Answer {
    /// As [`Answer::advice`], for what has to do with a registry.
    fn advice_of_registries(&self) -> Option<&'static str> {
        Some(match (self.api, self.status, self.code.as_deref().unwrap_or_default()) {
            (Api::Token, 400, _) => {
                "it does not understand the request: check the login (docker login)"
            }
            (Api::Elsewhere, 400 | 401 | 403, _) => {
                "the registry redirected to it, and it does not accept the signature of the registry, which may have expired: \
                 try again, and check this machine's clock and proxy"
            }
            (_, 429, _) => "it limits the number of requests: log in, or wait",
            (Api::Registry, _, "NAME_UNKNOWN" | "NAME_INVALID") => {
                "check the repository's name; some registries say this of what needs a login, too"
            }
            (Api::Registry, _, "MANIFEST_UNKNOWN" | "TAG_INVALID") => "check the tag or the digest",
            (Api::Registry, 403, _) => "check that this account may pull from this repository",
            (Api::Registry, 404, _) => {
                "check the repository, and the tag or the digest; some registries say this of what needs a login, too"
            }
            _ => return None,
        })
    }

    /// Whose answer it is.
    fn party(&self) -> &'static str {
        match self.api {
            Api::S3 => "the server",
            Api::Registry => "the registry",
            Api::Token => "the token server",
            Api::Elsewhere => "the server that the registry redirected to",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "the proxy {proxy} answered {}", self.status)?,
            None => write!(f, "{} answered {}", self.party(), self.status)?,
        }
        if let Some(code) = &self.code {
            write!(f, " {}", quoted(code))?;
        }
        if let Some(message) = &self.message {
            write!(f, " {}", quoted(message))?;
        }
        if let Some(region) = self.other_region("") {
            write!(
                f,
                ", the bucket is in {}: pass --region {}",
                quoted(region),
                quoted(region).trim_matches('"')
            )?;
            return Ok(());
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
        assert_eq!(answer(507, "").kind(), Kind::Throttled);
        assert_eq!(answer(522, "").kind(), Kind::Throttled);
        assert_eq!(answer(403, "AccessDenied").kind(), Kind::Denied);
        assert_eq!(answer(404, "NoSuchKey").kind(), Kind::NotFound);
        assert_eq!(answer(412, "PreconditionFailed").kind(), Kind::Changed);
        assert_eq!(answer(400, "RequestTimeout").kind(), Kind::Timeout);
        assert_eq!(answer(400, "InvalidRequest").kind(), Kind::Refused);
        assert_eq!(answer(301, "PermanentRedirect").kind(), Kind::Denied);
    }

    #[test]
    fn the_servers_own_code_decides_the_advice() {
        let said = |status, code: &str, message: &str, anonymous| {
            let message = Some(message.to_owned());
            Answer { message, anonymous, ..answer(status, code) }.to_string()
        };
        for (status, code, message, anonymous, says) in [
            (403, "InvalidObjectState", "", false, "restored"),
            (400, "KMS.DisabledException", "", false, "KMS"),
            (
                403,
                "AccessDenied",
                "not authorized to perform: kms:Decrypt",
                false,
                "allow kms:Decrypt for",
            ),
            (403, "AccessDenied", "Access Denied", true, "leave --anonymous out"),
            (403, "AccessDenied", "Access Denied", false, "--requester-pays"),
            (403, "RequestTimeTooSkewed", "", false, "clock"),
            (400, "ExpiredToken", "", false, "session token"),
            (403, "InvalidAccessKeyId", "", true, "access key"),
            (403, "SignatureDoesNotMatch", "", false, "secret key"),
            (404, "NoSuchVersion", "", false, "--version-id"),
            (405, "MethodNotAllowed", "", false, "deleted"),
        ] {
            let said = said(status, code, message, anonymous);
            assert!(said.contains(says), "{code}: {said}");
            let only = |word: &str| says.contains(word) || !said.contains(word);
            assert!(only("--anonymous") || code == "AccessDenied", "{code}: {said}");
        }
    }

    #[test]
    fn the_region_that_the_server_names_is_passed_on() {
        let mut a = answer(400, "");
        a.code = None;
        a.read_document(
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
        );
        assert_eq!(a.other_region("us-east-1"), Some("eu-west-1"));
        assert_eq!(a.other_region("eu-west-1"), None);
        assert!(a.to_string().ends_with("pass --region eu-west-1"), "{a}");
        assert_eq!(answer(400, "InvalidRequest").other_region("x"), None);
    }

    #[test]
    fn a_proxys_answer_is_told_as_one() {
        for (status, says) in [(407, "a name and a password"), (403, "its rules forbid")] {
            let proxy = Some("p:3128".to_owned());
            let said = Answer { status, proxy, ..Answer::default() }.to_string();
            assert!(said.contains("the proxy p:3128 answered") && said.contains(says), "{said}");
        }
    }

    #[test]
    fn the_document_is_read_and_escaped() {
        let mut a = Answer { status: 403, ..Answer::default() };
        a.read_document(b"<?xml version=\"1.0\"?><Error><Code>Bad\x1b[2J</Code><Message>a &amp; b</Message></Error>");
        assert_eq!(a.message.as_deref(), Some("a & b"));
        assert!(!a.to_string().contains('\x1b'), "{a}");
    }

    #[test]
    fn a_registrys_document_is_read_and_escaped() {
        let said = |api, status, document: &str| {
            let mut a = Answer { status, api, ..Answer::default() };
            a.read_document(document.as_bytes());
            a.to_string()
        };
        let many = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob\u001b[2J unknown","detail":{"x":[1]}},{"code":"X"}]}"#;
        let text = said(Api::Registry, 404, many);
        assert!(
            text.starts_with("the registry answered 404 \"BLOB_UNKNOWN\" \"blob\\u{1b}"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}') && text.contains("check the repository"), "{text}");
        let long =
            format!(r#"{{"errors":[{{"code":"DENIED","message":"{}"}}]}}"#, "x".repeat(5000));
        assert!(said(Api::Registry, 403, &long).len() < 500);
        let text = said(Api::Token, 401, r#"{"details":"incorrect username or password"}"#);
        assert!(text.starts_with("the token server answered 401 \"incorrect"), "{text}");
        for odd in ["{", "{}", r#"{"errors":{}}"#, r#"{"errors":[]}"#, r#"{"errors":[7]}"#, "[]"] {
            assert!(said(Api::Registry, 500, odd).ends_with("500"), "{odd}");
        }
    }

    #[test]
    fn a_page_that_is_no_error_document_says_nothing() {
        let mut a = Answer { status: 502, ..Answer::default() };
        a.read_document(b"<html><Code>x</Code></html>");
        a.read_document(b"\xff\x00<");
        assert_eq!(a.code, None);
    }
}
