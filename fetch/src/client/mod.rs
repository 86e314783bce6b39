//! A client of one server: lists, asks, opens, writes. The order of requests is here; what a listing means
//! is in `listing.rs`, how bytes keep flowing in `stream.rs`.

pub(crate) mod blame;
mod layers;
pub(crate) mod registry;
mod write;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Body as HttpBody;
use ureq::http::Response;

use crate::client::blame::{Blamed, Shun, Shunned};
use crate::distribution::Repository;
use crate::error::Error;
use crate::error::kind::Kind;
use crate::http::checksum::Checksum;
use crate::http::redirect::{self, HOPS_MAX, Regions};
use crate::http::request::Request;
use crate::http::retry::Trial;
use crate::http::sign::{Op, Target, sign};
use crate::http::vigil::Waiting;
use crate::http::{Http, head};
use crate::keys::Source;
use crate::keys::configured::Configured;
use crate::s3::endpoint::{Addressing, Endpoint};
use crate::s3::keys::Keys;
use crate::s3::listing;
use crate::s3::object::{Object, ObjectRef, check_bucket};
use crate::s3::options::{CredentialsFrom, Event, Options};

/// Makes a request for a server, with these keys.
type Signing<'a> = dyn Fn(&Target, Option<&Keys>) -> Result<Request, Error> + 'a;

/// A page of 1,000 keys of 1,024 bytes, each byte spelled as an entity, is smaller.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// What keys and ETags of one listing may take together, bytes: `list_keys_max` keys of usual length are
/// far below.
const LISTING_BYTES_MAX: usize = 64 << 20;

/// A cache or a peer is nobody to show a signature to, and nobody to wait for where it does not answer.
fn source(options: &Options, url: &str) -> Options {
    Options {
        endpoint: Some(url.to_owned()),
        addressing: Addressing::Path,
        credentials: CredentialsFrom::Anonymous,
        connect_timeout: options.connect_timeout.min(Duration::from_secs(3)),
        sources: Vec::new(),
        ..options.clone()
    }
}

/// Speaks to one server. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) http: Http,
    pub(crate) server: Server,
    /// The canonical endpoint.
    url: String,
    /// Other servers of the same objects, to be asked before this one.
    pub(crate) sources: Vec<Client>,
    /// This is one of those, and whether it is told that what it keeps is wrong.
    pub(crate) is_source: Option<Shun>,
    /// What was found out about them.
    pub(crate) shunned: Shunned,
    pub(crate) blamed: Mutex<Vec<Blamed>>,
}

/// What is spoken with the server.
#[derive(Debug)]
pub(crate) enum Server {
    /// S3.
    Store(Box<Store>),
    /// The OCI distribution specification.
    Registry(Box<Repository>),
}

#[derive(Debug)]
pub(crate) struct Store {
    target: Target,
    regions: Regions,
    keys: Source,
}

impl Server {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Server::Store(store) => &store.target.endpoint,
            Server::Registry(repository) => repository.server(),
        }
    }

    /// The same for another client, with the keys that are known.
    pub(crate) fn again(&self) -> Server {
        match self {
            Server::Store(store) => {
                let (target, regions) = (store.target.clone(), Regions::default());
                Server::Store(Box::new(Store { target, regions, keys: store.keys.again() }))
            }
            Server::Registry(repository) => Server::Registry(Box::new(repository.again())),
        }
    }

    /// What a source of the same bytes speaks.
    fn at_source(&self, options: &Options, url: &str) -> Result<Server, Error> {
        match self {
            Server::Store(_) => Server::store(options, Source::new(options)?),
            Server::Registry(repository) => {
                let mirror = repository.at_mirror(Endpoint::parse(url)?);
                Ok(Server::Registry(Box::new(mirror)))
            }
        }
    }

    fn store(options: &Options, keys: Source) -> Result<Server, Error> {
        let endpoint = Endpoint::parse(options.endpoint.as_deref().unwrap_or_default())?;
        let region = options.region.clone().unwrap_or_default();
        let target = Target { endpoint, region, addressing: options.addressing };
        Ok(Server::Store(Box::new(Store { target, regions: Regions::default(), keys })))
    }
}

impl Client {
    /// Checks the options and finds the credentials; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Credentials`], [`Error::Unreadable`].
    pub fn new(options: &Options) -> Result<Client, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let settled = Configured::read(options, &look)?.settle(options)?;
        let server = Server::store(&settled, Source::new(options)?)?;
        Client::settled(&settled, server, None, Shunned::new())
    }

    /// The same client with what was found out about its sources.
    pub(crate) fn shunning(&self, shunned: Shunned) -> Result<Client, Error> {
        Client::settled(&self.inner.options, self.inner.server.again(), None, shunned)
    }

    /// With options to which environment and files have nothing to add.
    pub(crate) fn settled(
        options: &Options,
        server: Server,
        is_source: Option<Shun>,
        shunned: Shunned,
    ) -> Result<Client, Error> {
        for host in &options.redirect_hosts {
            Endpoint::parse(&format!("https://{host}")).map_err(|_| Error::Setting {
                name: "redirect host",
                value: host.clone(),
                why: "expected host or host:port, of a server of objects",
            })?;
        }
        let sources = options.sources.iter().map(|url| {
            let own = Endpoint::parse(url)?.url();
            // Whoever is not asked at all is told nothing.
            let shun = shunned.get(&own).copied().unwrap_or(Shun::Not);
            let options = source(options, url);
            let server = server.at_source(&options, url)?;
            Client::settled(&options, server, Some(shun), Shunned::new())
        });
        let sources = sources.collect::<Result<_, _>>()?;
        let http = Http::new(options, server.endpoint())?;
        let url = server.endpoint().url();
        let mut options = options.clone();
        if let Some(deadline) = options.deadline {
            for limit in [&mut options.patience, &mut options.first_byte_timeout] {
                *limit = deadline.min(*limit);
            }
        }
        let inner = Inner {
            options,
            http,
            server,
            url,
            sources,
            is_source,
            shunned,
            blamed: Mutex::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// The S3 server that this client speaks to.
    ///
    /// # Errors
    /// [`Error::Reference`] where it is a registry.
    fn store(&self, subject: &str) -> Result<&Store, Error> {
        match &self.inner.server {
            Server::Store(store) => Ok(store),
            Server::Registry(_) => Err(self.not_here(subject)),
        }
    }

    /// A client of one server cannot ask for what is at another.
    pub(crate) fn not_here(&self, subject: &str) -> Error {
        let why = match &self.inner.server {
            Server::Store(_) => "it is asked for by a client of an S3 server",
            Server::Registry(_) => "it is asked for by a client of another repository",
        };
        Error::Reference { text: subject.to_owned(), why }
    }

    /// The endpoint in its canonical spelling: `scheme://host[:port]`, lower case, the scheme's own
    /// port left out. It is the identity of the source, whatever spelling the options had.
    pub fn endpoint(&self) -> &str {
        &self.inner.url
    }

    /// What a source is told of the bytes that are wanted, so that it can keep them by their content.
    pub(crate) fn wanted<'a>(&self, digest: Option<&'a [u8; 32]>) -> Option<(&'a [u8; 32], bool)> {
        let anew = self.inner.is_source? == Shun::Anew;
        digest.map(|digest| (digest, anew))
    }

    /// All objects under a prefix, of all pages, in the server's order.
    ///
    /// # Errors
    /// [`Error::ListingTooLong`] beyond `list_keys_max`, [`Error::ListingTooLarge`]; else as any request.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        let keys_max = self.inner.options.list_keys_max;
        self.pages(bucket, prefix, |page| {
            objects.extend(page);
            match objects.len() > keys_max {
                true => Err(Error::ListingTooLong {
                    subject: format!("s3://{bucket}/{prefix}"),
                    keys_max,
                }),
                false => Ok(()),
            }
        })?;
        Ok(objects)
    }

    /// Hands on what each page has, until that is an error.
    pub(crate) fn pages(
        &self,
        bucket: &str,
        prefix: &str,
        mut each: impl FnMut(Vec<Object>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let subject = format!("s3://{bucket}/{prefix}");
        if let Err(why) = check_bucket(bucket) {
            return Err(Error::Reference { text: subject, why });
        }
        let keys_max = self.inner.options.list_keys_max;
        let mut token: Option<String> = None;
        let (mut empty, mut bytes) = (0, 0);
        // Whether keys are asked for in url-encoding, and whether that is known to be done.
        let (mut encoded, mut sure) = (true, false);
        loop {
            let list = |encoded| {
                let op = Op::List { prefix, token: token.as_deref(), encoded };
                self.ask(&subject, || {
                    let response = self.send(&subject, bucket, op)?;
                    let document = self.document(&subject, response)?;
                    listing::page(&document, bucket, prefix, encoded)
                })
            };
            let mut page = match list(encoded) {
                // Some servers know no such question.
                Err(Error::Answer { answer, .. })
                    if encoded
                        && matches!(answer.status, 400 | 501)
                        && answer.kind() == Kind::Refused =>
                {
                    encoded = false;
                    continue;
                }
                listed => listed?,
            };
            if page.doubtful && !sure {
                match list(false) {
                    Ok(plain) if page.is_belied_by(&plain) => (page, encoded) = (plain, false),
                    // One with keys that no XML can carry is no answer at all.
                    Ok(_) | Err(_) => sure = true,
                }
            }
            // Pages may be empty (all their keys deleted meanwhile), but not for ever.
            empty = if page.objects.is_empty() { empty + 1 } else { 0 };
            if empty > 100 {
                return Err(Error::ListingTooLong { subject, keys_max });
            }
            bytes += page.objects.iter().map(Object::held_bytes).sum::<usize>();
            if bytes > LISTING_BYTES_MAX {
                return Err(Error::ListingTooLarge { subject, bytes_max: LISTING_BYTES_MAX });
            }
            each(page.objects)?;
            match page.next {
                None => return Ok(()),
                same if same == token => {
                    let why = "the token for the next page leads to the same page";
                    let got = same.unwrap_or_default();
                    return Err(Error::Malformed { subject, why, got });
                }
                next => token = next,
            }
        }
    }

    /// Size and ETag of one object.
    ///
    /// # Errors
    /// As any request; [`Error::NoLength`] if the server does not tell the size.
    pub fn head(&self, object: &ObjectRef) -> Result<Object, Error> {
        Ok(self.head_with_checksum(object)?.0)
    }

    pub(crate) fn head_with_checksum(
        &self,
        object: &ObjectRef,
    ) -> Result<(Object, Option<Checksum>), Error> {
        object.check()?;
        let subject = object.to_string();
        self.ask(&subject, || self.head_once(&subject, object))
    }

    pub(crate) fn head_once(
        &self,
        subject: &str,
        object: &ObjectRef,
    ) -> Result<(Object, Option<Checksum>), Error> {
        let time = self.inner.options.answer_timeout;
        self.head_within(subject, object, time)
    }

    /// One try of so long at most, with nobody told of it.
    pub(crate) fn head_briefly(
        &self,
        object: &ObjectRef,
        time: Duration,
    ) -> Result<(Object, Option<Checksum>), Error> {
        self.head_within(&object.to_string(), object, time.min(self.inner.options.answer_timeout))
    }

    fn head_within(
        &self,
        subject: &str,
        object: &ObjectRef,
        time: Duration,
    ) -> Result<(Object, Option<Checksum>), Error> {
        let op = Op::Head { key: &object.key };
        let response = self.send_within(subject, &object.bucket, op, Some(time))?;
        let etag = head::etag(response.headers(), subject)?;
        let checksum = Checksum::of(response.headers());
        let length = crate::http::head::text(response.headers(), "content-length");
        match length.and_then(|text| text.parse().ok()) {
            Some(size) => Ok((Object { object: object.clone(), size, etag }, checksum)),
            None => Err(Error::NoLength { subject: subject.to_owned() }),
        }
    }

    /// Sends one signed request. A new signature for each: one is good for 15 minutes only.
    pub(crate) fn send(
        &self,
        subject: &str,
        bucket: &str,
        op: Op<'_>,
    ) -> Result<Response<HttpBody>, Error> {
        let small = match op {
            Op::List { .. } | Op::Head { .. } => Some(self.inner.options.answer_timeout),
            Op::Get { .. } => None,
        };
        self.send_within(subject, bucket, op, small)
    }

    fn send_within(
        &self,
        subject: &str,
        bucket: &str,
        op: Op<'_>,
        small: Option<Duration>,
    ) -> Result<Response<HttpBody>, Error> {
        let sign = |target: &Target, keys: Option<&Keys>| {
            sign(target, bucket, op, keys, &self.inner.options)
        };
        self.exchange(subject, bucket, &sign, &[], small)
    }

    /// Sends what `sign` makes, and follows a bucket to where it is.
    fn exchange(
        &self,
        subject: &str,
        bucket: &str,
        sign: &Signing<'_>,
        body: &[u8],
        small: Option<Duration>,
    ) -> Result<Response<HttpBody>, Error> {
        let store = self.store(subject)?;
        let mut target = store.regions.of(bucket).unwrap_or_else(|| store.target.clone());
        let (mut hops, mut renewed, mut elsewhere) = (0, false, false);
        loop {
            let keys = store.keys.keys()?;
            let signed = sign(&target, keys.as_ref())?;
            let url = signed.url.clone();
            match self.inner.http.send_with(subject, signed, body, small) {
                Err(Error::Redirect { subject, status, to, .. }) if !to.is_empty() => {
                    let listed = &self.inner.options.redirect_hosts;
                    let next = redirect::follow(&target, bucket, &url, &to, listed);
                    hops += 1;
                    match next {
                        Ok(next) if hops <= HOPS_MAX => target = next,
                        Ok(_) => {
                            let why = "too many redirects came before it";
                            return Err(Error::Redirect { subject, status, to, why });
                        }
                        Err(why) => return Err(Error::Redirect { subject, status, to, why }),
                    }
                }
                // Temporary keys may end in the middle of a long object.
                Err(Error::Answer { answer, .. })
                    if answer.code.as_deref() == Some("ExpiredToken")
                        && !renewed
                        && store.keys.renew(keys.as_ref())? =>
                {
                    renewed = true;
                }
                Err(Error::Answer { subject, mut answer }) => {
                    answer.anonymous = keys.is_none();
                    let there =
                        answer.other_region(&target.region).map(|region| target.in_region(region));
                    match there {
                        Some(Ok(there)) if !elsewhere => {
                            elsewhere = true;
                            let text =
                                format!("bucket {bucket:?} is in {}: asked there", there.region);
                            self.inner.options.watch.tell(&Event::Note { text: &text });
                            store.regions.keep(bucket, &there);
                            target = there;
                        }
                        _ => return Err(Error::Answer { subject, answer }),
                    }
                }
                answered => return answered,
            }
        }
    }

    /// A line for who wants every detail.
    pub(crate) fn note(&self, text: &str) {
        self.inner.options.watch.tell(&Event::Note { text });
    }

    /// Repeats a small request for as long as that makes sense.
    pub(crate) fn ask<T>(
        &self,
        subject: &str,
        once: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.ask_as(subject, &self.inner.options, once)
    }

    /// As [`Client::ask`], with the patience of these options.
    pub(crate) fn ask_as<T>(
        &self,
        subject: &str,
        options: &Options,
        mut once: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _waiting = Waiting::begin(options, &self.inner.http, subject);
        let mut trial = Trial::new(options, self.inner.is_source.is_some());
        loop {
            match once() {
                Ok(found) => return Ok(found),
                Err(error) => trial.again(subject, error)?,
            }
        }
    }

    pub(crate) fn document(
        &self,
        subject: &str,
        response: Response<HttpBody>,
    ) -> Result<Vec<u8>, Error> {
        let mut document = Vec::new();
        let mut reader = response.into_body().into_reader().take(PAGE_BYTES_MAX + 1);
        reader
            .read_to_end(&mut document)
            .map_err(|e| self.inner.http.transport(subject, ureq::Error::from(e)))?;
        if document.len() as u64 > PAGE_BYTES_MAX {
            let (why, got) = ("a page larger than 16 MiB", String::new());
            return Err(Error::Malformed { subject: subject.to_owned(), why, got });
        }
        Ok(document)
    }
}
