//! A client of one repository of a registry: which manifest a tag means, manifests, blobs (OCI distribution
//! specification, "Pull"). What a manifest says is in `image`.

use std::io::Read as _;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use crate::client::blame::{Shun, Shunned};
use crate::client::{Client, Server};
use crate::distribution::{Op, Repository};
use crate::error::{Error, wording};
use crate::http::checksum::Checksum;
use crate::http::head::text;
use crate::http::sign::{self, Hold};
use crate::image::{DOCUMENT_BYTES_MAX, Digest, RegistryRef};
use crate::name::locator::{BlobRef, Locator};
use crate::s3::options::{Event, Options};
use crate::text::range::ContentRange;

/// How long a source that is busy is waited for where the registry itself can be asked.
const SOON: Duration = Duration::from_secs(5);

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// What a tag means now.
    Tag(String),
    /// The one of this digest.
    Digest(Digest),
}

impl Which {
    /// What a reference names; where it has a digest, its tag says nothing.
    pub fn of(at: &RegistryRef) -> Which {
        match (at.digest, &at.tag) {
            (Some(digest), _) => Which::Digest(digest),
            (None, tag) => Which::Tag(tag.clone().unwrap_or_default()),
        }
    }

    fn text(&self) -> String {
        match self {
            Which::Tag(tag) => tag.clone(),
            Which::Digest(digest) => digest.to_string(),
        }
    }
}

/// A manifest or an index as it came: its digest is over these bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What the registry says that it is (`Content-Type` without parameters), empty where it says nothing.
    pub media_type: String,
}

/// What is known of bytes before they come.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) size: u64,
    pub(crate) etag: Option<String>,
    pub(crate) checksum: Option<Checksum>,
}

impl Client {
    /// A client of the repository that a reference is to. Of the options, those of S3 (endpoint, region, keys) say
    /// nothing; [`crate::CredentialsFrom::Anonymous`] reads no file with logins. Nothing is sent and no such file is
    /// read before the registry asks who it is.
    ///
    /// # Errors
    /// [`Error::Setting`] for an option, or a host that is no server; [`Error::Unreadable`] for a file of authorities.
    pub fn registry(options: &Options, at: &RegistryRef) -> Result<Client, Error> {
        let server = Server::Registry(Box::new(Repository::new(at, options)?));
        Client::settled(options, server, None, Shunned::new())
    }

    /// The repository that this client speaks to.
    ///
    /// # Errors
    /// [`Error::Reference`] where it is an S3 server, or another repository.
    fn repository(&self, blob: Option<&BlobRef>, subject: &str) -> Result<&Repository, Error> {
        match &self.inner.server {
            Server::Registry(repository)
                if blob.is_none_or(|blob| repository.is(&blob.host, &blob.name)) =>
            {
                Ok(repository)
            }
            Server::Registry(_) | Server::Store(_) => Err(self.not_here(subject)),
        }
    }

    /// A manifest or an index, all of it; its bytes have the digest that was asked for, and the one that the registry
    /// named.
    ///
    /// # Errors
    /// [`Error::Digest`], [`Error::TooLarge`] beyond [`DOCUMENT_BYTES_MAX`]; [`Error::Gate`]; else as any request.
    pub fn manifest(&self, which: &Which) -> Result<Fetched, Error> {
        let (repository, subject) = self.manifest_subject(which)?;
        // What has this digest is the same whoever gives it; what a tag means only the registry knows.
        if let Which::Digest(_) = which
            && let Some(found) =
                self.by_sources(|source| source.manifest_of_source(which).map(Some))
        {
            return Ok(found);
        }
        self.ask(&subject, || self.manifest_once(repository, &subject, which))
    }

    /// This source, which from now on is told that what it keeps is wrong.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn told_wrong(&self) -> Result<Client, Error> {
        let server = self.inner.server.again();
        Client::settled(&self.inner.options, server, Some(Shun::Anew), Shunned::new())
    }

    /// Says that this source is asked once more.
    pub(crate) fn tell_wrong(&self, error: &Error) {
        let text = format!(
            "source {}: {}; what it keeps is wrong, and it is asked to fetch that again",
            self.endpoint(),
            wording::chain(error)
        );
        self.inner.options.watch.tell(&Event::Left { text: &text });
    }

    /// As [`Client::manifest`] of a source, which is asked once more where it keeps something else under this digest.
    fn manifest_of_source(&self, which: &Which) -> Result<Fetched, Error> {
        match self.manifest_soon(which) {
            Err(error @ (Error::Digest { .. } | Error::TooLarge { .. })) => {
                self.tell_wrong(&error);
                self.told_wrong()?.manifest_soon(which)
            }
            other => other,
        }
    }

    /// As [`Client::manifest`] of a source: whoever has it says so at once, and else the registry is asked.
    fn manifest_soon(&self, which: &Which) -> Result<Fetched, Error> {
        let (repository, subject) = self.manifest_subject(which)?;
        let own = &self.inner.options;
        let patience = own.patience.min(SOON);
        let options = Options { patience, tries_max: Some(2), ..own.clone() };
        self.ask_as(&subject, &options, || self.manifest_once(repository, &subject, which))
    }

    /// As [`Client::manifest`]; none where the registry has no such one.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub fn manifest_if_there(&self, which: &Which) -> Result<Option<Fetched>, Error> {
        match self.manifest(which) {
            Ok(fetched) => Ok(Some(fetched)),
            Err(Error::Answer { answer, .. }) if answer.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn manifest_subject(&self, which: &Which) -> Result<(&Repository, String), Error> {
        let repository = self.repository(None, &which.text())?;
        let joint = if matches!(which, Which::Tag(_)) { ":" } else { "@" };
        let subject = format!("{}{joint}{}", repository.text(), which.text());
        // A tag becomes a part of a path, and not every one was a reference before.
        crate::name::locator::registry(&subject)?;
        Ok((repository, subject))
    }

    fn manifest_once(
        &self,
        repository: &Repository,
        subject: &str,
        which: &Which,
    ) -> Result<Fetched, Error> {
        let (inner, name) = (&self.inner, which.text());
        let digest = if let Which::Digest(digest) = which { Some(&digest.0) } else { None };
        let op = Op::Manifest { which: &name, head: false, wanted: self.wanted(digest) };
        let time = Some(inner.options.answer_timeout);
        let response = repository.send(&inner.http, subject, op, time, &inner.options)?;
        let headers = response.headers();
        let media_type = text(headers, "content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_ascii_lowercase();
        let told = text(headers, "docker-content-digest");
        let bytes = self.manifest_bytes(subject, response)?;
        let digest = Digest::of(&bytes);
        let wrong = |want: &Digest| Error::Digest {
            subject: subject.to_owned(),
            server: self.endpoint().to_owned(),
            algorithm: "sha256",
            want: want.hex(),
            got: hex::encode(digest.0),
        };
        if let Which::Digest(want) = which
            && *want != digest
        {
            return Err(wrong(want));
        }
        match told.as_deref().map(Digest::parse) {
            // "the client SHOULD verify" (distribution-spec, "Pulling manifests").
            Some(Ok(told)) if told != digest => return Err(wrong(&told)),
            Some(Ok(_)) | None => {}
            Some(Err(_)) => {
                let text = "the registry names the manifest by a digest that is not sha256: its own is taken";
                inner.options.watch.tell(&Event::Note { text });
            }
        }
        Ok(Fetched { bytes, digest, media_type })
    }

    /// A document that an answer has, whole.
    fn manifest_bytes(&self, subject: &str, response: Response<Body>) -> Result<Vec<u8>, Error> {
        let length = text(response.headers(), "content-length");
        let length = length.and_then(|text| text.parse::<u64>().ok());
        let too_large = |size| Error::TooLarge {
            subject: subject.to_owned(),
            size,
            size_max: DOCUMENT_BYTES_MAX,
        };
        if let Some(size) = length.filter(|size| *size > DOCUMENT_BYTES_MAX) {
            return Err(too_large(size));
        }
        let mut bytes = Vec::new();
        let mut reader = response.into_body().into_reader().take(DOCUMENT_BYTES_MAX + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(|e| self.inner.http.transport(subject, ureq::Error::from(e)))?;
        match bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            true => Err(too_large(bytes.len() as u64)),
            false => Ok(bytes),
        }
    }

    /// What a registry lists of what refers to an image (distribution-spec, "Listing Referrers"), the first page of it;
    /// none where it cannot list that, and has it under a tag if at all.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`DOCUMENT_BYTES_MAX`]; [`Error::Gate`]; else as any request.
    pub fn referrers(&self, image: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let inner = &self.inner;
        let repository = self.repository(None, &image.to_string())?;
        let subject = format!("{}@{image}, what refers to it", repository.text());
        let time = Some(inner.options.answer_timeout);
        self.ask(&subject, || {
            let op = Op::Referrers { image: *image };
            match repository.send(&inner.http, &subject, op, time, &inner.options) {
                Ok(response) => {
                    if response.headers().contains_key("link") {
                        let text =
                            "the registry's list of what refers to the image is longer than one page: the first is read";
                        inner.options.watch.tell(&Event::Note { text });
                    }
                    self.manifest_bytes(&subject, response).map(Some)
                }
                // A registry that does not know the question says so in one of these ways.
                Err(Error::Answer { answer, .. })
                    if matches!(answer.status, 400 | 404 | 405 | 406 | 501) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })
    }

    /// The digest of what a tag means now, without its bytes where the registry can do that; none where it knows no such
    /// tag. Registries that count how often is asked do not count this.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub fn head_manifest(&self, tag: &str) -> Result<Option<Digest>, Error> {
        let which = Which::Tag(tag.to_owned());
        let (repository, subject) = self.manifest_subject(&which)?;
        let inner = &self.inner;
        let op = Op::Manifest { which: tag, head: true, wanted: None };
        let time = Some(inner.options.answer_timeout);
        let told = self.ask(&subject, || {
            match repository.send(&inner.http, &subject, op, time, &inner.options) {
                Ok(response) => {
                    let told = text(response.headers(), "docker-content-digest");
                    Ok(told.and_then(|told| Digest::parse(&told).ok()))
                }
                // Not every registry can be asked so, and some that say no mean it of the question only.
                Err(Error::Answer { answer, .. })
                    if matches!(answer.status, 404 | 405 | 500..=599) =>
                {
                    Ok(None)
                }
                Err(Error::Redirect { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        if told.is_some() {
            return Ok(told);
        }
        match self.manifest(&which) {
            Ok(fetched) => Ok(Some(fetched.digest)),
            Err(Error::Answer { answer, .. }) if answer.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for bytes of what is at a place: of all of it, or of a range.
    ///
    /// # Errors
    /// As any request; [`Error::Reference`] for what is at another place than this client speaks to.
    pub(crate) fn get(
        &self,
        subject: &str,
        place: &Locator,
        range: Option<(u64, u64)>,
        hold: Hold<'_>,
    ) -> Result<Response<Body>, Error> {
        match place {
            Locator::Object(object) => {
                let op = sign::Op::Get { key: &object.key, range, hold };
                self.send(subject, &object.bucket, op)
            }
            Locator::Blob(blob) => {
                let repository = self.repository(Some(blob), subject)?;
                let wanted = hold.wanted;
                let op = Op::Blob { digest: blob.digest, head: false, range, wanted };
                repository.send(&self.inner.http, subject, op, None, &self.inner.options)
            }
        }
    }

    /// What is at a place, without its bytes.
    ///
    /// # Errors
    /// As any request; [`Error::NoLength`] if the server does not tell the size.
    pub(crate) fn facts(&self, place: &Locator) -> Result<Facts, Error> {
        match place {
            Locator::Object(object) => {
                let (found, checksum) = self.head_with_checksum(object)?;
                Ok(Facts { size: found.size, etag: found.etag, checksum })
            }
            Locator::Blob(blob) => {
                let subject = blob.to_string();
                let size = self.ask(&subject, || self.size_once(blob, &subject))?;
                Ok(Facts { size, etag: None, checksum: None })
            }
        }
    }

    /// The size of a blob. A registry that sends on does so for HEAD, too, and what it has signed is good for GET
    /// only: then the first byte is asked for.
    fn size_once(&self, blob: &BlobRef, subject: &str) -> Result<u64, Error> {
        let repository = self.repository(Some(blob), subject)?;
        let inner = &self.inner;
        let time = Some(inner.options.answer_timeout);
        let ask = |head, range| {
            let op = Op::Blob { digest: blob.digest, head, range, wanted: None };
            repository.send(&inner.http, subject, op, time, &inner.options)
        };
        let length = |response: &Response<Body>| {
            text(response.headers(), "content-length").and_then(|text| text.parse().ok())
        };
        match ask(true, None) {
            Ok(response) => {
                if let Some(size) = length(&response) {
                    return Ok(size);
                }
            }
            Err(Error::Redirect { .. }) => {}
            Err(Error::Answer { answer, .. }) if matches!(answer.status, 405 | 500..=599) => {}
            Err(error) => return Err(error),
        }
        let response = match ask(false, Some((0, 0))) {
            // An empty one has no first byte.
            Err(Error::Answer { answer, .. }) if answer.status == 416 => ask(false, None)?,
            answered => answered?,
        };
        let size = match response.status().as_u16() {
            206 => text(response.headers(), "content-range")
                .and_then(|range| ContentRange::parse(&range))
                .map(|range| range.size),
            _ => length(&response),
        };
        size.ok_or_else(|| Error::NoLength { subject: subject.to_owned() })
    }
}
