//! A repository of a registry: what is asked of it, and how it comes to answer (OCI distribution specification).
//!
//! Who asks is told to the registry and to the token server that it named and that `rules.rs` allows, and to nobody
//! else: not to what a redirect leads to, and not to a mirror. What came is judged by its digest elsewhere.

pub(crate) mod gate;
pub(crate) mod login;
pub(crate) mod rules;
pub(crate) mod token;
pub(crate) mod url;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::distribution::gate::{Around, Gate, Pass};
use crate::error::Error;
use crate::error::answer::Api;
use crate::error::gate::Gate as Refusal;
use crate::http::request::{Method, Request};
use crate::http::{self, Http};
use crate::image::{ACCEPT, Digest, RegistryRef};
use crate::s3::endpoint::Endpoint;
use crate::s3::options::{Event, Options};

/// More is a loop.
const HOPS_MAX: usize = 5;

/// So many different texts of one registry are shown.
const WARNINGS_MAX: usize = 16;

/// What tells versions of an object apart, or what its bytes are. Of a blob its digest does that: a store that a
/// registry sends on to has tags and times of its own, and perhaps others for each range.
const OF_OBJECTS: [&str; 7] = [
    "etag",
    "last-modified",
    "x-amz-checksum-sha256",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc32",
    "x-amz-checksum-type",
];

/// What is asked of a repository.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    /// A manifest or index, by its tag or its digest. Of a mirror it is `wanted` as a blob is.
    Manifest { which: &'a str, head: bool, wanted: Option<(&'a [u8; 32], bool)> },
    /// A blob. To a mirror of ours: the digest that it must have, and whether what it keeps of it is wrong.
    Blob {
        digest: Digest,
        head: bool,
        range: Option<(u64, u64)>,
        wanted: Option<(&'a [u8; 32], bool)>,
    },
    /// What refers to an image.
    Referrers { image: Digest },
}

/// One repository at one server.
#[derive(Debug)]
pub(crate) struct Repository {
    server: Endpoint,
    host: String,
    name: String,
    /// It is a mirror of this registry, whose name it is told.
    mirrors: bool,
    gate: Gate,
    /// What it has warned of already.
    warned: Mutex<BTreeSet<String>>,
}

impl Repository {
    /// A repository at its own registry.
    ///
    /// # Errors
    /// [`Error::Setting`] for a host that is no server.
    pub(crate) fn new(at: &RegistryRef, options: &Options) -> Result<Repository, Error> {
        let server = rules::server(&at.host, options)?;
        Ok(Repository::at(server, &at.host, &at.name, false))
    }

    /// The same repository at a mirror.
    pub(crate) fn at_mirror(&self, server: Endpoint) -> Repository {
        Repository::at(server, &self.host, &self.name, true)
    }

    /// The same, with nothing known of who asks.
    pub(crate) fn again(&self) -> Repository {
        Repository::at(self.server.clone(), &self.host, &self.name, self.mirrors)
    }

    fn at(server: Endpoint, host: &str, name: &str, mirrors: bool) -> Repository {
        let (gate, warned) = (Gate::new(host, name), Mutex::default());
        Repository { server, host: host.to_owned(), name: name.to_owned(), mirrors, gate, warned }
    }

    pub(crate) fn server(&self) -> &Endpoint {
        &self.server
    }

    /// `docker://host/name`.
    pub(crate) fn text(&self) -> String {
        format!("docker://{}/{}", self.host, self.name)
    }

    /// Whether a reference is to this repository.
    pub(crate) fn is(&self, host: &str, name: &str) -> bool {
        self.host == host && self.name == name
    }

    /// Asks, and says who asks where that is wanted. With `whole`, that is the time for all of the answer.
    ///
    /// # Errors
    /// As [`Http::send`]; [`Error::Gate`].
    pub(crate) fn send(
        &self,
        http: &Http,
        subject: &str,
        op: Op<'_>,
        whole: Option<Duration>,
        options: &Options,
    ) -> Result<Response<Body>, Error> {
        let around = Around { http, server: &self.server, options, subject };
        let mut pass = self.gate.pass(around)?;
        let mut renewed = false;
        loop {
            match self.exchange(around, op, whole, &pass) {
                Err(Error::Answer { answer, .. })
                    if answer.status == 401 && answer.api == Api::Registry =>
                {
                    if renewed {
                        return Err(self.gate.refusal(&answer, around));
                    }
                    renewed = true;
                    pass = self.gate.again(&answer, &pass, around)?;
                }
                answered => return answered,
            }
        }
    }

    /// One question, and where it is sent on to.
    fn exchange(
        &self,
        around: Around<'_>,
        op: Op<'_>,
        whole: Option<Duration>,
        pass: &Pass,
    ) -> Result<Response<Body>, Error> {
        let Around { http, options, subject, .. } = around;
        let (mut server, mut url) = (self.server.clone(), self.url(op));
        // Once somebody else has been asked, who asks is told to nobody any more.
        let (mut is_own, mut hops) = (true, 0);
        loop {
            let to = http.to(options, &server)?;
            let mut headers = headers(op);
            if is_own && let Some(authorization) = &pass.0 {
                token::put(&mut headers, authorization).map_err(|why| {
                    let (server, got) = (server.url(), String::new());
                    let gate = Box::new(Refusal::Demand { server, why, got });
                    Error::Gate { subject: subject.to_owned(), gate }
                })?;
            }
            let method = if op.is_head() { Method::Head } else { Method::Get };
            let api = if is_own { Api::Registry } else { Api::Elsewhere };
            let request = Request { method, url: url.clone(), headers, api };
            match to.send(subject, request, whole) {
                Ok(mut response) => {
                    if is_own {
                        self.warn(http::warned(response.headers()), options);
                    }
                    for name in OF_OBJECTS {
                        response.headers_mut().remove(name);
                    }
                    return Ok(response);
                }
                // HEAD is answered by the registry or not at all: what was signed is signed for GET.
                Err(Error::Redirect { subject, status, to, .. })
                    if !to.is_empty() && !op.is_head() =>
                {
                    hops += 1;
                    let next = match hops > HOPS_MAX {
                        true => Err("too many redirects came before it"),
                        false => rules::redirect(&self.server, &server, &to, options),
                    };
                    match next {
                        Ok(next) => {
                            is_own &= next.server == server;
                            url = next.text();
                            server = next.server;
                        }
                        Err(why) => return Err(Error::Redirect { subject, status, to, why }),
                    }
                }
                Err(Error::Answer { subject, mut answer }) => {
                    answer.anonymous = pass.0.is_none();
                    self.warn(std::mem::take(&mut answer.warnings), options);
                    return Err(Error::Answer { subject, answer });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells each text once: "Clients SHOULD deduplicate warnings from multiple associated responses".
    fn warn(&self, texts: Vec<String>, options: &Options) {
        for text in texts {
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.len() >= WARNINGS_MAX || !warned.insert(text.clone()) {
                continue;
            }
            drop(warned);
            options.watch.tell(&Event::Warning { server: &self.server.url(), text: &text });
        }
    }

    fn url(&self, op: Op<'_>) -> String {
        let (server, name) = (self.server.url(), &self.name);
        let url = match op {
            Op::Manifest { which, .. } => format!("{server}/v2/{name}/manifests/{which}"),
            Op::Blob { digest, .. } => format!("{server}/v2/{name}/blobs/{digest}"),
            Op::Referrers { image } => format!("{server}/v2/{name}/referrers/{image}"),
        };
        match self.mirrors {
            // A mirror of several registries is told which one is meant (containerd's hosts.toml, and the
            // specification's "Registry Proxying").
            true => format!("{url}?{}", url::form(&[("ns", &self.host)])),
            false => url,
        }
    }
}

impl Op<'_> {
    fn is_head(&self) -> bool {
        match self {
            Op::Manifest { head, .. } | Op::Blob { head, .. } => *head,
            Op::Referrers { .. } => false,
        }
    }
}

fn headers(op: Op<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let (range, wanted) = match op {
        Op::Manifest { wanted, .. } => (None, wanted),
        Op::Blob { range, wanted, .. } => (range, wanted),
        Op::Referrers { .. } => (None, None),
    };
    if !matches!(op, Op::Blob { .. }) {
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    }
    let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
    let digest = wanted.map(|(digest, _)| hex::encode(digest));
    let anew = wanted.filter(|(_, anew)| *anew).map(|_| "1".to_owned());
    for (name, value) in [("range", range), ("veneer-sha256", digest), ("veneer-refetch", anew)] {
        // Digits and a hyphen are what every header carries.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}
