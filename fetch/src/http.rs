//! Sends a request and receives the head of the answer; every byte of HTTP goes through here.
//!
//! No retries (`retry.rs`), no signing (`sign.rs`). ureq is kept from helping: it must not turn a
//! status into an error (the error document would be lost), follow a redirect, or decode a body.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use crate::answer::Answer;
use crate::date;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::guard::Guard;
use crate::options::Options;
use crate::proxy;
use crate::sign::Signed;

/// No error document is longer.
const DOCUMENT_BYTES_MAX: u64 = 64 << 10;

/// An HTTP client for one server.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    agent: Agent,
    server: String,
}

impl Http {
    /// # Errors
    /// [`Error::Unreadable`] and [`Error::Setting`] for a certificate file.
    pub(crate) fn new(options: &Options, endpoint: &Endpoint) -> Result<Http, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let proxy = proxy::find(endpoint, &look)?;
        // Who did not answer may be the proxy, whose own address can hold a password.
        let by = if proxy.is_some() { " (by the proxy of the environment)" } else { "" };
        let server = format!("{}{by}", endpoint.url());
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("veneer-fetch/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            .proxy(proxy)
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_send_request(Some(options.first_byte_timeout))
            .timeout_recv_response(Some(options.first_byte_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .max_idle_connections_per_host(16)
            .max_idle_connections(32);
        if endpoint.is_https() {
            let roots = roots(options.ca_file.as_deref())?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = Agent::with_parts(config.build(), DefaultConnector::new(), Guard::default());
        Ok(Http { agent, server })
    }

    /// Sends `signed` and returns an answer with status 200 or 206.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Redirect`], [`Error::Answer`].
    pub(crate) fn send(&self, subject: &str, signed: Signed) -> Result<Response<Body>, Error> {
        let builder =
            if signed.head { self.agent.head(&signed.url) } else { self.agent.get(&signed.url) };
        let mut builder = builder;
        if let Some(headers) = builder.headers_mut() {
            headers.extend(signed.headers);
        }
        let response = builder.call().map_err(|source| self.transport(subject, source))?;
        let status = response.status().as_u16();
        match status {
            200 | 206 => Ok(response),
            // Without a Location and with a region this is S3's "wrong region", not a redirect.
            300..400 if response.headers().contains_key("location") => Err(Error::Redirect {
                subject: subject.to_owned(),
                status,
                to: text(response.headers(), "location").unwrap_or_default(),
                why: "a redirect",
            }),
            _ => Err(Error::Answer {
                subject: subject.to_owned(),
                answer: Box::new(answer(response)),
            }),
        }
    }

    /// Wraps what failed in the exchange.
    pub(crate) fn transport(&self, subject: &str, source: ureq::Error) -> Error {
        Error::Transport {
            subject: subject.to_owned(),
            server: self.server.clone(),
            source: Box::new(source),
        }
    }
}

fn answer(response: Response<Body>) -> Answer {
    let headers = response.headers();
    let mut answer = Answer {
        status: response.status().as_u16(),
        region: text(headers, "x-amz-bucket-region"),
        retry_after: text(headers, "retry-after")
            .and_then(|time| retry_after(&time, text(headers, "date").as_deref())),
        ..Answer::default()
    };
    let mut document = Vec::new();
    let mut reader = response.into_body().into_reader().take(DOCUMENT_BYTES_MAX);
    // A status is enough to go by; a document that breaks off adds nothing and takes nothing.
    if reader.read_to_end(&mut document).is_ok() {
        answer.read_document(&document);
    }
    answer
}

/// `Retry-After`: seconds, or a date (RFC 9110 10.2.3). A date is taken by the server's own clock
/// where it tells it, since ours may be another.
fn retry_after(text: &str, server_date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = server_date.and_then(date::http).unwrap_or_else(date::now);
    Some(Duration::from_secs(date::http(text.trim())?.saturating_sub(now)))
}

/// A header's value, if it is text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Where distributions keep the authorities: Debian, Fedora, SUSE, Alpine and the BSDs.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities of `given`, else of `SSL_CERT_FILE`, else the system's, else (on a bare machine)
/// Mozilla's as built in.
pub(crate) fn roots(given: Option<&Path>) -> Result<RootCerts, Error> {
    if let Some(path) = given {
        return bundle(path);
    }
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        return bundle(Path::new(&path));
    }
    match BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        Some(path) => bundle(path),
        None => Ok(RootCerts::WebPki),
    }
}

fn bundle(path: &Path) -> Result<RootCerts, Error> {
    let pem = fs::read(path).map_err(|source| Error::Unreadable {
        what: "CA file",
        path: path.to_owned(),
        source,
    })?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Error::Setting {
            name: "CA file",
            value: path.display().to_string(),
            why: "it holds no PEM certificate",
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let alone = |text| retry_after(text, None);
        assert_eq!(alone(" 3 "), Some(Duration::from_secs(3)));
        assert_eq!(alone("-1"), None);
        assert_eq!(alone("soon"), None);
        assert_eq!(alone("99999999999999999999"), None);
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(alone(past), Some(Duration::ZERO));
        let later = "Sun, 06 Nov 1994 08:49:44 GMT";
        assert_eq!(retry_after(later, Some(past)), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(later, Some("nonsense")), Some(Duration::ZERO));
    }
}
