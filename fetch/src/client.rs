//! A client of one server: lists, asks, opens, writes. The order of requests is here; what a listing means
//! is in `listing.rs`, how bytes keep flowing in `stream.rs`.

mod write;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Body as HttpBody;
use ureq::http::Response;

use crate::error::Error;
use crate::error::kind::Kind;
use crate::http::checksum::Checksum;
use crate::http::redirect::{self, HOPS_MAX, Regions};
use crate::http::retry::{Trial, may_retry};
use crate::http::sign::{Op, Signed, Target, sign};
use crate::http::vigil::Waiting;
use crate::http::{Http, head};
use crate::keys::Source;
use crate::keys::configured::Configured;
use crate::s3::blame::{Blamed, Shun, Shunned};
use crate::s3::endpoint::{Addressing, Endpoint};
use crate::s3::keys::Keys;
use crate::s3::listing;
use crate::s3::object::{ImageRef, Layer, Object, ObjectRef, check_bucket};
use crate::s3::options::{CredentialsFrom, Event, Options};

/// Makes a request for a server, with these keys.
type Signing<'a> = dyn Fn(&Target, Option<&Keys>) -> Result<Signed, Error> + 'a;

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
    target: Target,
    regions: Regions,
    /// The canonical endpoint.
    url: String,
    keys: Source,
    /// Other servers of the same objects, to be asked before this one.
    pub(crate) sources: Vec<Client>,
    /// This is one of those, and whether it is told that what it keeps is wrong.
    pub(crate) is_source: Option<Shun>,
    /// What was found out about them.
    pub(crate) shunned: Shunned,
    pub(crate) blamed: Mutex<Vec<Blamed>>,
}

impl Client {
    /// Checks the options and finds the credentials; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Credentials`], [`Error::Unreadable`].
    pub fn new(options: &Options) -> Result<Client, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let settled = Configured::read(options, &look)?.settle(options)?;
        Client::settled(&settled, Source::new(options)?, None, Shunned::new())
    }

    /// The same client with what was found out about its sources.
    pub(crate) fn shunning(&self, shunned: Shunned) -> Result<Client, Error> {
        Client::settled(&self.inner.options, self.inner.keys.again(), None, shunned)
    }

    /// With options to which environment and files have nothing to add.
    fn settled(
        options: &Options,
        keys: Source,
        is_source: Option<Shun>,
        shunned: Shunned,
    ) -> Result<Client, Error> {
        let region = options.region.clone().unwrap_or_default();
        for host in &options.redirect_hosts {
            Endpoint::parse(&format!("https://{host}")).map_err(|_| Error::Setting {
                name: "redirect host",
                value: host.clone(),
                why: "expected host or host:port, of a server of objects",
            })?;
        }
        let endpoint = Endpoint::parse(options.endpoint.as_deref().unwrap_or_default())?;
        let sources = options.sources.iter().map(|url| {
            let own = Endpoint::parse(url)?.url();
            // Whoever is not asked at all is told nothing.
            let shun = shunned.get(&own).copied().unwrap_or(Shun::Not);
            let options = source(options, url);
            Client::settled(&options, Source::new(&options)?, Some(shun), Shunned::new())
        });
        let sources = sources.collect::<Result<_, _>>()?;
        let http = Http::new(options, &endpoint)?;
        let url = endpoint.url();
        let addressing = options.addressing;
        let target = Target { endpoint, region, addressing };
        let mut options = options.clone();
        if let Some(deadline) = options.deadline {
            for limit in [&mut options.patience, &mut options.first_byte_timeout] {
                *limit = deadline.min(*limit);
            }
        }
        let inner = Inner {
            options,
            http,
            target,
            regions: Regions::default(),
            url,
            keys,
            sources,
            is_source,
            shunned,
            blamed: Mutex::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
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
    fn pages(
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

    /// The layers of an image, base first, each with size and (where the server has them) ETag.
    ///
    /// # Errors
    /// [`Error::EmptyPrefix`], [`Error::Gap`], [`Error::Stranger`] (names the key),
    /// [`Error::Duplicate`], [`Error::TooManyLayers`]; else as any request.
    pub fn layers(&self, image: &ImageRef) -> Result<Vec<Layer>, Error> {
        let (bucket, prefix) = match image {
            ImageRef::Object(object) => {
                let object = self.head_or_hint(object)?;
                return Ok(vec![Layer { number: 1, object }]);
            }
            ImageRef::Prefix { bucket, prefix } => (bucket, prefix),
        };
        let objects = self.layer_objects(bucket, prefix)?;
        let mut layers = listing::layers(bucket, prefix, objects)?;
        if layers.len() > self.inner.options.layers_max {
            let layers_max = self.inner.options.layers_max;
            return Err(Error::TooManyLayers {
                subject: format!("s3://{bucket}/{prefix}"),
                layers_max,
            });
        }
        for layer in &mut layers {
            // Not every server puts ETags into listings; without them nothing could be pinned.
            if layer.object.etag.is_none() {
                let object = self.head(&layer.object.object)?;
                if object.size != layer.object.size {
                    let subject = object.object.to_string();
                    let (want, got) = (layer.object.size.to_string(), object.size.to_string());
                    return Err(Error::Changed { subject, field: "size", want, got });
                }
                layer.object = object;
            }
        }
        Ok(layers)
    }

    /// What lies under the prefix of an image; no more is read of it than an image may have.
    fn layer_objects(&self, bucket: &str, prefix: &str) -> Result<Vec<Object>, Error> {
        let layers_max = self.inner.options.layers_max;
        let mut objects = Vec::new();
        self.pages(bucket, prefix, |page| {
            objects.extend(page);
            // The prefix itself may be there, as what a console makes of a folder.
            if objects.len() <= layers_max.saturating_add(1) {
                return Ok(());
            }
            // What is no layer at all is the better word.
            let strange = listing::layers(bucket, prefix, std::mem::take(&mut objects)).err();
            Err(match strange {
                Some(error @ Error::Stranger { .. }) => error,
                Some(_) | None => {
                    Error::TooManyLayers { subject: format!("s3://{bucket}/{prefix}"), layers_max }
                }
            })
        })?;
        Ok(objects)
    }

    /// The only layer of an image that is one object. Where there is none and something lies below it, the
    /// reference lacks its last slash: some servers say 404 to that, and some 500, however often.
    fn head_or_hint(&self, object: &ObjectRef) -> Result<Object, Error> {
        let subject = object.to_string();
        let waiting = Waiting::begin(&self.inner.options, self.inner.http.agent(), &subject);
        let error = match self.head_once(&subject, object) {
            Ok((found, _)) => return Ok(found),
            Err(error) => error,
        };
        let suspect = error.kind() == Kind::NotFound
            || matches!(&error, Error::Answer { answer, .. } if answer.status == 500);
        let prefix = format!("{}/", object.key);
        if suspect && self.has_any(&object.bucket, &prefix) {
            return Err(Error::NoSlash { subject });
        }
        drop(waiting);
        match may_retry(&error) {
            true => self.head(object),
            false => Err(error),
        }
    }

    /// Whether there is an object below the prefix, as far as one request tells.
    fn has_any(&self, bucket: &str, prefix: &str) -> bool {
        let subject = format!("s3://{bucket}/{prefix}");
        let listed = self
            .send(&subject, bucket, Op::List { prefix, token: None, encoded: true })
            .and_then(|response| self.document(&subject, response))
            .and_then(|document| listing::page(&document, bucket, prefix, true));
        listed.is_ok_and(|page| !page.objects.is_empty())
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

    fn head_once(
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
        let mut target = self.inner.regions.of(bucket).unwrap_or_else(|| self.inner.target.clone());
        let (mut hops, mut renewed, mut elsewhere) = (0, false, false);
        loop {
            let keys = self.inner.keys.keys()?;
            let signed = sign(&target, keys.as_ref())?;
            let url = signed.url.clone();
            match self.inner.http.send(subject, signed, body, small) {
                Err(Error::Redirect { subject, status, to, .. }) if !to.is_empty() => {
                    let listed = &self.inner.options.redirect_hosts;
                    let next = redirect::follow(&target, bucket, &url, &to, listed);
                    hops += 1;
                    match next {
                        Ok(next) if hops <= HOPS_MAX => target = next,
                        Ok(_) => {
                            let why = "there were too many before it";
                            return Err(Error::Redirect { subject, status, to, why });
                        }
                        Err(why) => return Err(Error::Redirect { subject, status, to, why }),
                    }
                }
                // Temporary keys may end in the middle of a long object.
                Err(Error::Answer { answer, .. })
                    if answer.code.as_deref() == Some("ExpiredToken")
                        && !renewed
                        && self.inner.keys.renew(keys.as_ref())? =>
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
                            self.inner.regions.keep(bucket, &there);
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
    fn ask<T>(
        &self,
        subject: &str,
        mut once: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _waiting = Waiting::begin(&self.inner.options, self.inner.http.agent(), subject);
        let mut trial = Trial::new(&self.inner.options, self.inner.is_source.is_some());
        loop {
            match once() {
                Ok(found) => return Ok(found),
                Err(error) => trial.again(subject, error)?,
            }
        }
    }

    fn document(&self, subject: &str, response: Response<HttpBody>) -> Result<Vec<u8>, Error> {
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
