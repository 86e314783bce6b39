//! A client of one server: lists, asks, opens. The order of requests is here; what a listing means
//! is in `listing.rs`, how bytes keep flowing in `stream.rs`.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::Body as HttpBody;
use ureq::http::Response;

use crate::checksum::Checksum;
use crate::credentials::Source;
use crate::endpoint::{Endpoint, check_region};
use crate::error::Error;
use crate::http::Http;
use crate::listing;
use crate::object::{ImageRef, Layer, Object, ObjectRef, check_bucket};
use crate::options::{Addressing, CredentialsFrom, Options};
use crate::redirect::{self, HOPS_MAX};
use crate::retry::Trial;
use crate::sign::{Op, Target, sign};
use crate::stream;

/// A page of 1,000 keys of 1,024 bytes, each byte spelled as an entity, is smaller.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// A cache or a peer is nobody to show a signature to, and nobody to wait for.
fn source(options: &Options, url: &str) -> Options {
    Options {
        endpoint: Some(url.to_owned()),
        addressing: Addressing::Path,
        credentials: CredentialsFrom::Anonymous,
        tries_max: options.tries_max.min(2),
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
    /// The canonical endpoint.
    url: String,
    keys: Source,
    /// Other servers of the same objects, to be asked before this one.
    pub(crate) sources: Vec<Client>,
}

impl Client {
    /// Checks the options and finds the credentials; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Credentials`], [`Error::Unreadable`].
    pub fn new(options: &Options) -> Result<Client, Error> {
        check_region(&options.region)?;
        for host in &options.redirect_hosts {
            Endpoint::parse(&format!("https://{host}")).map_err(|_| Error::Setting {
                name: "redirect host",
                value: host.clone(),
                why: "expected host or host:port, of a server of objects",
            })?;
        }
        let endpoint = match &options.endpoint {
            Some(text) => Endpoint::parse(text)?,
            None => Endpoint::amazon("s3", &options.region),
        };
        let keys = Source::new(options)?;
        let sources = options.sources.iter().map(|url| Client::new(&source(options, url)));
        let sources = sources.collect::<Result<_, _>>()?;
        let http = Http::new(options, &endpoint)?;
        let url = endpoint.url();
        let (region, addressing) = (options.region.clone(), options.addressing);
        let target = Target { endpoint, region, addressing };
        let mut options = options.clone();
        if let Some(deadline) = options.deadline {
            for limit in [&mut options.patience, &mut options.first_byte_timeout] {
                *limit = deadline.min(*limit);
            }
        }
        Ok(Client { inner: Arc::new(Inner { options, http, target, url, keys, sources }) })
    }

    /// The endpoint in its canonical spelling: `scheme://host[:port]`, lower case, the scheme's own
    /// port left out. It is the identity of the source, whatever spelling the options had.
    pub fn endpoint(&self) -> &str {
        &self.inner.url
    }

    /// The same client without the first of its other sources; none if it has none. For whoever
    /// got [`Error::Digest`]: that source lied, and the next may not.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn without_first_source(&self) -> Result<Option<Client>, Error> {
        let options = &self.inner.options;
        let Some((_, rest)) = options.sources.split_first() else { return Ok(None) };
        Client::new(&Options { sources: rest.to_vec(), ..options.clone() }).map(Some)
    }

    /// All objects under a prefix, of all pages, in the server's order.
    ///
    /// # Errors
    /// [`Error::ListingTooLong`] beyond `list_keys_max`; else as any request.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Object>, Error> {
        let subject = format!("s3://{bucket}/{prefix}");
        if let Err(why) = check_bucket(bucket) {
            return Err(Error::Reference { text: subject, why });
        }
        let keys_max = self.inner.options.list_keys_max;
        let mut objects: Vec<Object> = Vec::new();
        let mut token: Option<String> = None;
        let mut empty = 0;
        loop {
            let op = Op::List { prefix, token: token.as_deref() };
            let page = self.ask(&subject, || {
                let response = self.send(&subject, bucket, op)?;
                let document = self.document(&subject, response)?;
                listing::page(&document, bucket, prefix)
            })?;
            // Pages may be empty (all their keys deleted meanwhile), but not for ever.
            empty = if page.objects.is_empty() { empty + 1 } else { 0 };
            objects.extend(page.objects);
            if objects.len() > keys_max || empty > 100 {
                return Err(Error::ListingTooLong { subject, keys_max });
            }
            match page.next {
                None => return Ok(objects),
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
    /// [`Error::Duplicate`]; else as any request.
    pub fn layers(&self, image: &ImageRef) -> Result<Vec<Layer>, Error> {
        let (bucket, prefix) = match image {
            ImageRef::Object(object) => {
                return Ok(vec![Layer { number: 1, object: self.head(object)? }]);
            }
            ImageRef::Prefix { bucket, prefix } => (bucket, prefix),
        };
        let objects = self.list(bucket, prefix)?;
        let mut layers = listing::layers(bucket, prefix, objects)?;
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
        self.ask(&subject, || {
            let response = self.send(&subject, &object.bucket, Op::Head { key: &object.key })?;
            let etag = stream::etag(&response, &subject)?;
            let checksum = Checksum::of(response.headers());
            let length = crate::http::text(response.headers(), "content-length");
            match length.and_then(|text| text.parse().ok()) {
                Some(size) => Ok((Object { object: object.clone(), size, etag }, checksum)),
                None => Err(Error::NoLength { subject: subject.clone() }),
            }
        })
    }

    /// Sends one signed request. A new signature for each: one is good for 15 minutes only.
    pub(crate) fn send(
        &self,
        subject: &str,
        bucket: &str,
        op: Op<'_>,
    ) -> Result<Response<HttpBody>, Error> {
        let mut target = &self.inner.target;
        let mut moved;
        let (mut hops, mut renewed) = (0, false);
        loop {
            let keys = self.inner.keys.keys()?;
            let signed = sign(target, bucket, op, keys.as_ref())?;
            let url = signed.url.clone();
            match self.inner.http.send(subject, signed) {
                Err(Error::Redirect { subject, status, to, .. }) if !to.is_empty() => {
                    let listed = &self.inner.options.redirect_hosts;
                    let next = redirect::follow(target, bucket, &url, &to, listed);
                    hops += 1;
                    match next {
                        Ok(next) if hops <= HOPS_MAX => moved = next,
                        Ok(_) => {
                            let why = "there were too many before it";
                            return Err(Error::Redirect { subject, status, to, why });
                        }
                        Err(why) => return Err(Error::Redirect { subject, status, to, why }),
                    }
                    target = &moved;
                }
                // Temporary keys may end in the middle of a long object.
                Err(Error::Answer { answer, .. })
                    if answer.code.as_deref() == Some("ExpiredToken")
                        && !renewed
                        && self.inner.keys.renew(keys.as_ref())? =>
                {
                    renewed = true;
                }
                answered => return answered,
            }
        }
    }

    /// Repeats a small request for as long as that makes sense.
    fn ask<T>(
        &self,
        subject: &str,
        mut once: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut trial = Trial::new(&self.inner.options);
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
