//! Tokens: asked for at the server that a registry named, kept for as long as they last.
//!
//! Docker's "Token Authentication Specification" (GET) and its "OAuth2 Token Specification" (POST), as of distribution.

use std::fmt;
use std::io::Read as _;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, HeaderValue, header};

use crate::distribution::url::{Url, form};
use crate::error::Error;
use crate::error::answer::Api;
use crate::error::gate::Gate;
use crate::http::Http;
use crate::http::request::{Method, Request};
use crate::image::authfile::Login;
use crate::s3::options::Options;
use crate::text::base64;

/// What a token server says is no longer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// No token is longer: it has to go into a header.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// How long a token lasts of which nobody says so (Docker's specification).
const LASTS: Duration = Duration::from_secs(60);

/// As long as one is kept at most.
const LASTS_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Purpose {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    /// One or more, parted by blanks.
    pub(crate) scope: String,
}

/// A token with its end, by the clock of the options.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) until: Duration,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The header of a name and a password (RFC 7617).
pub(crate) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64::encoded(format!("{name}:{password}").as_bytes()))
}

/// Puts who asks into the headers, marked as a secret.
///
/// # Errors
/// No header can carry it.
pub(crate) fn put(headers: &mut HeaderMap, authorization: &str) -> Result<(), &'static str> {
    let mut value = HeaderValue::from_str(authorization)
        .map_err(|_| "it has characters that no header can carry")?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    Ok(())
}

/// Asks for a token. A redirect is not followed: it would lead who asks to where nobody has looked.
///
/// # Errors
/// As any request; [`Error::Gate`] for an answer without a token.
pub(crate) fn ask(
    http: &Http,
    subject: &str,
    purpose: &Purpose,
    login: Option<&Login>,
    options: &Options,
) -> Result<Token, Error> {
    let http = http.to(options, &purpose.realm.server)?;
    let asked = options.clock.now();
    if let Some(Login::Identity { token }) = login {
        let mut pairs = vec![
            ("grant_type", "refresh_token"),
            ("client_id", "veneer"),
            ("refresh_token", token.as_str()),
            ("scope", purpose.scope.as_str()),
        ];
        pairs.extend(purpose.service.as_deref().map(|service| ("service", service)));
        let method = Method::Post(form(&pairs));
        let url = purpose.realm.text();
        match send(&http, subject, method, url, HeaderMap::new(), options) {
            // Servers that know only the older way; containerd does the same.
            Err(Error::Answer { answer, .. }) if matches!(answer.status, 400 | 401 | 404 | 405) => {
            }
            answered => return read(&answered?, purpose, asked, subject),
        }
    }
    let mut headers = HeaderMap::new();
    let mut pairs = Vec::new();
    pairs.extend(purpose.service.as_deref().map(|service| ("service", service)));
    pairs.extend(purpose.scope.split(' ').filter(|scope| !scope.is_empty()).map(|s| ("scope", s)));
    let authorization = match login {
        None => None,
        Some(Login::Password { name, password }) => {
            pairs.push(("account", name));
            Some(basic(name, password))
        }
        // Without a name, as containerd sends it.
        Some(Login::Identity { token }) => Some(basic("", token)),
    };
    if let Some(authorization) = authorization {
        put(&mut headers, &authorization).map_err(|why| no_token(purpose, subject, why))?;
    }
    let url = purpose.realm.clone().with(&pairs).text();
    let answered = send(&http, subject, Method::Get, url, headers, options)?;
    read(&answered, purpose, asked, subject)
}

fn no_token(purpose: &Purpose, subject: &str, why: &'static str) -> Error {
    let gate = Box::new(Gate::Token { realm: purpose.realm.text(), why });
    Error::Gate { subject: subject.to_owned(), gate }
}

fn send(
    http: &Http,
    subject: &str,
    method: Method,
    url: String,
    headers: HeaderMap,
    options: &Options,
) -> Result<Vec<u8>, Error> {
    let request = Request { method, url, headers, api: Api::Token };
    let response = http.send(subject, request, Some(options.answer_timeout));
    let response = response.map_err(|error| match error {
        Error::Redirect { subject, status, to, .. } => {
            let why = "it comes from a token server and leads away from the server that the registry named";
            Error::Redirect { subject, status, to, why }
        }
        other => other,
    })?;
    let mut bytes = Vec::new();
    // One byte more than is read tells a longer one by what is not JSON any more.
    let mut reader = response.into_body().into_reader().take(ANSWER_BYTES_MAX);
    reader.read_to_end(&mut bytes).map_err(|e| http.transport(subject, ureq::Error::from(e)))?;
    Ok(bytes)
}

#[derive(Deserialize)]
struct Answered {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

fn read(bytes: &[u8], purpose: &Purpose, asked: Duration, subject: &str) -> Result<Token, Error> {
    parse(bytes, asked).map_err(|why| no_token(purpose, subject, why))
}

/// The token of an answer that was asked for at this moment.
pub(crate) fn parse(bytes: &[u8], asked: Duration) -> Result<Token, &'static str> {
    let answered: Answered = serde_json::from_slice(bytes)
        .map_err(|_| "its answer is not the JSON object due, of at most 1 MiB")?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let value = given(answered.token).or_else(|| given(answered.access_token));
    let value = value.ok_or("its answer has neither token nor access_token")?;
    if value.len() > TOKEN_BYTES_MAX {
        return Err("its token is longer than 64 KiB");
    }
    // RFC 6750 2.1, and whatever else a header carries without being read in two ways.
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its token has characters that no header can carry");
    }
    let told = answered.expires_in.filter(|seconds| *seconds > 0.0);
    let lasts = told.map_or(LASTS, |seconds| {
        Duration::try_from_secs_f64(seconds).unwrap_or(LASTS_MAX).min(LASTS_MAX)
    });
    // It is renewed a little before its end, since the next request takes its time.
    let margin = (lasts / 10).min(Duration::from_secs(10));
    Ok(Token { value, until: asked.saturating_add(lasts - margin) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasts(text: &str) -> Result<(String, u64), &'static str> {
        let asked = Duration::from_secs(1000);
        let token = parse(text.as_bytes(), asked)?;
        Ok((token.value, u64::try_from((token.until - asked).as_millis()).unwrap()))
    }

    #[test]
    fn a_token_and_its_end() {
        for (text, value, millis) in [
            (r#"{"token":"a"}"#, "a", 54_000),
            (r#"{"access_token":"b","token":""}"#, "b", 54_000),
            (r#"{"token":"a","access_token":"b","expires_in":300,"issued_at":"x"}"#, "a", 290_000),
            (r#"{"token":"a","expires_in":1}"#, "a", 900),
            (r#"{"token":"a","expires_in":0}"#, "a", 54_000),
            (r#"{"token":"a","expires_in":-5}"#, "a", 54_000),
            (r#"{"token":"a","expires_in":null}"#, "a", 54_000),
            (r#"{"token":"a","expires_in":1e300}"#, "a", 86_390_000),
        ] {
            assert_eq!(lasts(text), Ok((value.to_owned(), millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX + 1));
        for text in [
            "",
            "token",
            "[]",
            "{}",
            r#"{"token":""}"#,
            r#"{"token":7}"#,
            r#"{"token":"a\r\nHost: evil"}"#,
            r#"{"token":"a b"}"#,
            r#"{"token":"é"}"#,
            r#"{"token":"a","expires_in":"soon"}"#,
            &long,
        ] {
            assert!(lasts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = parse(br#"{"token":"hunter2"}"#, Duration::ZERO).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
        let mut headers = HeaderMap::new();
        put(&mut headers, &basic("Aladdin", "open sesame")).unwrap();
        assert_eq!(headers[header::AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{headers:?}").contains("QWxh"));
        assert!(put(&mut headers, "Bearer a\nb").is_err());
    }
}
