//! Sends a request and receives the head of the answer; every byte of HTTP goes through here.
//!
//! No retries (`retry.rs`), no signing (`sign.rs`). ureq is kept from helping: it must not turn a
//! status into an error (the error document would be lost), follow a redirect, or decode a body.

pub(crate) mod backoff;
pub(crate) mod checksum;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod interim;
pub(crate) mod proxy;
pub(crate) mod redirect;
pub(crate) mod request;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod sign;
pub(crate) mod trust;
pub(crate) mod vigil;

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, HeaderValue, Response};
use ureq::{Agent, Body};

use crate::clock;
use crate::error::Error;
use crate::error::answer::{Answer, Api};
use crate::http::head::text;
use crate::http::request::{Method, Request};
use crate::http::route::{Route, route};
use crate::http::vigil::Sockets;
use crate::image::challenge::FIELDS_MAX;
use crate::s3::endpoint::Endpoint;
use crate::s3::options::Options;
use crate::text::date;
use crate::text::range::out_of;
use crate::text::warning::warnings;

/// No error document is longer.
const DOCUMENT_BYTES_MAX: u64 = 64 << 10;

/// Servers that one client speaks to beside its own: a token server, and the stores that a registry sends on to.
const OTHERS_MAX: usize = 16;

/// An HTTP client for one server.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    agent: Agent,
    url: String,
    server: String,
    /// The same for other servers, whose sockets are closed with its own.
    others: Arc<Mutex<Vec<Http>>>,
    /// The proxy that reads the requests, and may answer them itself.
    proxy: Option<String>,
    /// For a whole answer that is not an object's content.
    answer_timeout: Duration,
}

impl Http {
    /// # Errors
    /// [`Error::Unreadable`] and [`Error::Setting`] for a certificate file.
    pub(crate) fn new(options: &Options, endpoint: &Endpoint) -> Result<Http, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("veneer-fetch/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            // Bytes are passed on as they are, so they are best sent so.
            .accept_encoding("identity")
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_send_request(Some(options.first_byte_timeout))
            .timeout_recv_response(Some(options.first_byte_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .max_idle_connections_per_host(16)
            .max_idle_connections(32);
        let Route { agent, proxy, read_by_proxy } =
            route(config, endpoint, options.ca_file.as_deref(), &look)?;
        let by = proxy.as_ref().map_or_else(String::new, |name| format!(" (by the proxy {name})"));
        let server = format!("{}{by}", endpoint.url());
        let proxy = proxy.filter(|_| read_by_proxy);
        let (answer_timeout, others) = (options.answer_timeout, Arc::default());
        Ok(Http { agent, url: endpoint.url(), server, others, proxy, answer_timeout })
    }

    /// The client for another server on the way of the same request, or this one.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub(crate) fn to(&self, options: &Options, endpoint: &Endpoint) -> Result<Http, Error> {
        let url = endpoint.url();
        if url == self.url {
            return Ok(self.clone());
        }
        let known = |others: &[Http]| others.iter().find(|http| http.url == url).cloned();
        if let Some(http) = known(&self.others.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(http);
        }
        // It reads the authorities to trust, which nobody else has to wait for.
        let http = Http::new(options, endpoint)?;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(http) = known(&others) {
            return Ok(http);
        }
        if others.len() >= OTHERS_MAX {
            others.remove(0);
        }
        others.push(http.clone());
        Ok(http)
    }

    /// Sends `request` and returns an answer with status 200 or 206. With `whole`, that is the time for all
    /// of it, to the end of its body.
    ///
    /// # Errors
    /// As [`Http::send_with`].
    pub(crate) fn send(
        &self,
        subject: &str,
        request: Request,
        whole: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        self.send_with(subject, request, &[], whole)
    }

    /// As [`Http::send`], with these bytes where the request takes some.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Redirect`], [`Error::Answer`].
    pub(crate) fn send_with(
        &self,
        subject: &str,
        request: Request,
        body: &[u8],
        whole: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let begun = Instant::now();
        let (is_head, api) = (request.method == Method::Head, request.api);
        let writes = matches!(request.method, Method::Put | Method::Send | Method::Delete);
        let called = match request.method {
            Method::Post(form) => {
                let builder = self.agent.post(&request.url).config().timeout_global(whole).build();
                let mut builder = builder.content_type("application/x-www-form-urlencoded");
                if let Some(headers) = builder.headers_mut() {
                    headers.extend(request.headers);
                }
                builder.send(form)
            }
            Method::Put | Method::Send => {
                let builder = match request.method == Method::Put {
                    true => self.agent.put(&request.url),
                    false => self.agent.post(&request.url),
                };
                let mut builder = builder.config().timeout_global(whole).build();
                if let Some(headers) = builder.headers_mut() {
                    headers.extend(request.headers);
                }
                builder.send(body)
            }
            Method::Get | Method::Head | Method::Delete => {
                let builder = match request.method {
                    Method::Head => self.agent.head(&request.url),
                    Method::Delete => self.agent.delete(&request.url),
                    _ => self.agent.get(&request.url),
                };
                let mut builder = builder.config().timeout_global(whole).build();
                if let Some(headers) = builder.headers_mut() {
                    headers.extend(request.headers);
                }
                builder.call()
            }
        };
        let response = called.map_err(|source| self.transport(subject, source))?;
        let status = response.status().as_u16();
        match status {
            200 | 206 => Ok(response),
            201 | 204 if writes => Ok(response),
            // Who asked whether it is another by now is told that it is not; that leads nowhere.
            304 => Err(Error::Answer {
                subject: subject.to_owned(),
                answer: Box::new(Answer { status, api, ..Answer::default() }),
            }),
            // Without a Location and with a region this is S3's "wrong region", not a redirect.
            300..400 if response.headers().contains_key("location") => Err(Error::Redirect {
                subject: subject.to_owned(),
                status,
                to: text(response.headers(), "location").unwrap_or_default(),
                why: "a redirect",
            }),
            _ => Err(Error::Answer {
                subject: subject.to_owned(),
                answer: Box::new(self.judged(response, begun + self.answer_timeout, is_head, api)),
            }),
        }
    }

    /// What an error says, and who says it: a proxy that reads the requests has rules of its own.
    fn judged(&self, response: Response<Body>, end: Instant, head: bool, api: Api) -> Answer {
        let has = |name: &str| response.headers().contains_key(name);
        let named = has("x-squid-error") || has("proxy-authenticate");
        let server = ["x-amz-request-id", "x-amz-id-2", "docker-distribution-api-version"];
        let server = server.into_iter().any(has);
        let mut answer = answer(response, end, api);
        answer.proxy = match answer.status {
            407 => self.proxy.clone(),
            403 if named || !(server || head || answer.code.is_some()) => self.proxy.clone(),
            _ => None,
        };
        answer
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

impl Sockets for Http {
    fn close(&self) {
        self.agent.clone().shutdown();
        for other in &*self.others.lock().unwrap_or_else(PoisonError::into_inner) {
            other.agent.clone().shutdown();
        }
    }
}

/// An agent for small questions to a service, in so much time each.
pub(crate) fn agent_of(
    endpoint: &Endpoint,
    ca_file: Option<&Path>,
    time: Duration,
    look: &dyn Fn(&str) -> Option<String>,
) -> Result<Agent, Error> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(time));
    // Plain http is for this machine alone: by way of a proxy the keys would be others' to read and to forge.
    let direct = |name: &str| match endpoint.is_https() || name.eq_ignore_ascii_case("no_proxy") {
        true => look(name),
        false => None,
    };
    Ok(route(config, endpoint, ca_file, &direct)?.agent)
}

/// What a registry wants people to know.
pub(crate) fn warned(headers: &HeaderMap) -> Vec<String> {
    warnings(headers.get_all("warning").iter().map(HeaderValue::as_bytes))
}

/// What an error says, as far as it came until `end`.
fn answer(response: Response<Body>, end: Instant, api: Api) -> Answer {
    let headers = response.headers();
    let mut answer = Answer {
        status: response.status().as_u16(),
        api,
        region: text(headers, "x-amz-bucket-region"),
        size: text(headers, "content-range").and_then(|range| out_of(&range)),
        retry_after: text(headers, "retry-after")
            .and_then(|time| retry_after(&time, text(headers, "date").as_deref())),
        challenges: headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|field| field.to_str().ok())
            .take(FIELDS_MAX)
            .map(str::to_owned)
            .collect(),
        warnings: match api {
            Api::Registry => warned(headers),
            Api::S3 | Api::Token | Api::Elsewhere => Vec::new(),
        },
        ..Answer::default()
    };
    let mut reader = response.into_body().into_reader().take(DOCUMENT_BYTES_MAX);
    // A status is enough to go by; a document that breaks off adds nothing and takes nothing.
    if let Some(document) = read_until(&mut reader, end) {
        answer.read_document(&document);
    }
    answer
}

/// All of it; none if it breaks off, or is still coming at `end`.
fn read_until(reader: &mut impl Read, end: Instant) -> Option<Vec<u8>> {
    let (mut document, mut piece) = (Vec::new(), [0; 8192]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Some(document),
            Ok(_) if Instant::now() > end => return None,
            Ok(read) => document.extend_from_slice(piece.get(..read)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 10.2.3). A date is taken by the server's own clock
/// where it tells it, since ours may be another.
fn retry_after(text: &str, server_date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = server_date.and_then(date::http).unwrap_or_else(clock::now);
    Some(Duration::from_secs(date::http(text.trim())?.saturating_sub(now)))
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
