//! Writing: one signed request each. What an upload is made of is `flow/upload.rs`'s.

use std::io::Read as _;
use std::time::Duration;

use ureq::Body as HttpBody;
use ureq::http::Response;

use crate::client::Client;
use crate::error::Error;
use crate::error::answer::Answer;
use crate::error::kind::Kind;
use crate::http::head;
use crate::http::sign::{Hold, Op, Target, sign_write};
use crate::s3::keys::Keys;
use crate::s3::object::{ObjectRef, Small};
use crate::s3::write::{self, Condition, Content, Part, Write};
use crate::text::digest::Sha256;
use crate::text::xml::{self, Fault};

/// How much longer than another answer the end of an upload may take: a server puts the parts together then.
const JOINING: u32 = 10;

/// Pages of the parts of one upload; each but the last has a thousand.
const PAGES_MAX: usize = 16;

impl Client {
    /// Whether requests are signed: those that write have to be.
    ///
    /// # Errors
    /// [`Error::Unsigned`], and what comes of looking for keys.
    pub fn may_write(&self, object: &ObjectRef) -> Result<(), Error> {
        object.check()?;
        let subject = object.to_string();
        match self.store(&subject)?.keys.keys()? {
            Some(_) => Ok(()),
            None => Err(Error::Unsigned { subject }),
        }
    }

    /// Writes a small object, whole, and gives its entity tag where the server has one. With a condition that does
    /// not hold the error is an [`Error::Answer`] of status 412; a try whose answer was lost may have been the one
    /// that made it not hold.
    ///
    /// # Errors
    /// [`Error::Unsigned`]; else as any request.
    pub fn put(
        &self,
        object: &ObjectRef,
        bytes: &[u8],
        media: &'static str,
        condition: Option<Condition<'_>>,
    ) -> Result<Option<String>, Error> {
        let mut hash = Sha256::new();
        hash.update(bytes);
        self.put_hashed(object, Content { bytes, sha256: &hash.finish(), media }, condition)
    }

    pub(crate) fn put_hashed(
        &self,
        object: &ObjectRef,
        content: Content<'_>,
        condition: Option<Condition<'_>>,
    ) -> Result<Option<String>, Error> {
        let write = Write::Put { key: &object.key, content, condition };
        self.write(object, write, |response| head::etag(response.headers(), &object.to_string()))
    }

    /// Removes an object; that it is not there is fine.
    ///
    /// # Errors
    /// As any request.
    pub fn delete(&self, object: &ObjectRef) -> Result<(), Error> {
        match self.write(object, Write::Delete { key: &object.key }, |_| Ok(())) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// A small object of at most so many bytes, with the entity tag of the very answer; none where there is none.
    ///
    /// # Errors
    /// As any request; [`Error::TooLarge`].
    pub fn read_small(&self, object: &ObjectRef, bytes_max: u64) -> Result<Option<Small>, Error> {
        match self.small(object, bytes_max, None) {
            Ok(found) => Ok(Some(found)),
            Err(Error::Answer { answer, .. })
                if answer.status == 404 && answer.code.as_deref() != Some("NoSuchBucket") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Client::read_small`] of an object that has to be there; none where its entity tag is still the one that
    /// was seen before, which costs no body (If-None-Match, RFC 9110 13.1.2). A weak tag says too little and is not
    /// asked by.
    ///
    /// # Errors
    /// As any request; [`Error::TooLarge`].
    pub fn read_changed(
        &self,
        object: &ObjectRef,
        bytes_max: u64,
        seen: Option<&str>,
    ) -> Result<Option<Small>, Error> {
        let seen = seen.filter(|etag| !etag.starts_with("W/"));
        match self.small(object, bytes_max, seen) {
            Ok(found) => Ok(Some(found)),
            Err(Error::Answer { answer, .. }) if answer.status == 304 && seen.is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn small(
        &self,
        object: &ObjectRef,
        bytes_max: u64,
        seen: Option<&str>,
    ) -> Result<Small, Error> {
        object.check()?;
        let subject = object.to_string();
        let once = || {
            let hold = Hold { if_none_match: seen, ..Hold::default() };
            let op = Op::Get { key: &object.key, range: None, hold };
            let time = Some(self.inner.options.answer_timeout);
            let response = self.send_within(&subject, &object.bucket, op, time)?;
            let etag = head::etag(response.headers(), &subject)?;
            let mut bytes = Vec::new();
            let mut reader = response.into_body().into_reader().take(bytes_max + 1);
            reader
                .read_to_end(&mut bytes)
                .map_err(|e| self.inner.http.transport(&subject, ureq::Error::from(e)))?;
            match bytes.len() as u64 {
                size if size > bytes_max => {
                    Err(Error::TooLarge { subject: subject.clone(), size, size_max: bytes_max })
                }
                _ => Ok(Small { bytes, etag }),
            }
        };
        self.ask(&subject, once)
    }

    /// The ids of the unfinished uploads of this key, the oldest first; none where the server does not tell.
    pub(crate) fn unfinished(&self, object: &ObjectRef) -> Result<Vec<String>, Error> {
        let write = Write::Uploads { prefix: &object.key };
        let listed = self.write(object, write, |response| {
            let document = self.document(&object.to_string(), response)?;
            write::uploads(&document, &object.key).map_err(|fault| garbled(object, fault))
        });
        match listed {
            // Not every server can say, and not everybody may ask.
            Err(error) if matches!(error.kind(), Kind::Refused | Kind::Denied | Kind::NotFound) => {
                self.note(&format!("unfinished uploads are not looked for: {error}"));
                Ok(Vec::new())
            }
            listed => listed,
        }
    }

    /// The parts of an upload that are there.
    pub(crate) fn parts(&self, object: &ObjectRef, upload: &str) -> Result<Vec<Part>, Error> {
        let (mut all, mut after) = (Vec::new(), 0);
        for _ in 0..PAGES_MAX {
            let write = Write::Parts { key: &object.key, upload, after };
            let (page, next) = self.write(object, write, |response| {
                let document = self.document(&object.to_string(), response)?;
                write::parts(&document).map_err(|fault| garbled(object, fault))
            })?;
            all.extend(page);
            match next {
                Some(next) if next > after => after = next,
                Some(_) | None => break,
            }
        }
        Ok(all)
    }

    /// Begins an upload in parts, and gives its id.
    pub(crate) fn create(&self, object: &ObjectRef, media: &'static str) -> Result<String, Error> {
        self.write(object, Write::Create { key: &object.key, media }, |response| {
            let document = self.document(&object.to_string(), response)?;
            write::created(&document).map_err(|fault| garbled(object, fault))
        })
    }

    /// Writes one part; one of the same number is replaced.
    pub(crate) fn put_part(
        &self,
        object: &ObjectRef,
        upload: &str,
        number: u32,
        content: Content<'_>,
    ) -> Result<Part, Error> {
        let write = Write::Part { key: &object.key, upload, number, content };
        let etag = self.write(object, write, |response| {
            let subject = object.to_string();
            head::etag(response.headers(), &subject)?.ok_or(Error::Malformed {
                subject,
                why: "a part was taken without an ETag, and cannot be named at the end",
                got: String::new(),
            })
        })?;
        Ok(Part { number, size: content.bytes.len() as u64, etag })
    }

    /// Makes an object of these parts.
    pub(crate) fn complete(
        &self,
        object: &ObjectRef,
        upload: &str,
        parts: &[Part],
    ) -> Result<(), Error> {
        let text = write::complete(parts);
        let mut hash = Sha256::new();
        hash.update(text.as_bytes());
        let sha256 = hash.finish();
        let content = Content { bytes: text.as_bytes(), sha256: &sha256, media: "application/xml" };
        let write = Write::Complete { key: &object.key, upload, content };
        self.write(object, write, |response| {
            let subject = object.to_string();
            let document = self.document(&subject, response)?;
            // The status is sent before the parts are put together, blanks meanwhile, and the end may be an error.
            // What it is called where it is none differs; the object itself is looked at afterwards.
            let document = document.trim_ascii_start();
            match xml::texts(document, "Error", &[]) {
                Err(_) => Ok(()),
                Ok(_) => {
                    let mut answer = Answer { status: 500, writing: true, ..Answer::default() };
                    answer.read_document(document);
                    Err(Error::Answer { subject, answer: Box::new(answer) })
                }
            }
        })
    }

    /// Gives an upload up; that it is not there is fine.
    pub(crate) fn abort(&self, object: &ObjectRef, upload: &str) -> Result<(), Error> {
        match self.write(object, Write::Abort { key: &object.key, upload }, |_| Ok(())) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Sends it as often as that makes sense, and reads what is answered.
    fn write<T>(
        &self,
        object: &ObjectRef,
        write: Write<'_>,
        read: impl Fn(Response<HttpBody>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        object.check()?;
        let (subject, options) = (object.to_string(), &self.inner.options);
        let bytes = write.content().map_or(&[][..], |content| content.bytes);
        // A body that goes out as slowly as one may come in.
        let floor = options.rate_floor.max(1024);
        let mut time = options.answer_timeout + Duration::from_secs(bytes.len() as u64 / floor);
        if matches!(write, Write::Complete { .. }) {
            time *= JOINING;
        }
        let sign = |target: &Target, keys: Option<&Keys>| match keys {
            Some(keys) => sign_write(target, &object.bucket, write, keys, options),
            None => Err(Error::Unsigned { subject: subject.clone() }),
        };
        self.ask(&subject, || {
            let answered = self.exchange(&subject, &object.bucket, &sign, bytes, Some(time));
            answered.map_err(writing).and_then(&read)
        })
    }
}

fn writing(error: Error) -> Error {
    match error {
        Error::Answer { subject, mut answer } => {
            answer.writing = true;
            Error::Answer { subject, answer }
        }
        other => other,
    }
}

fn garbled(object: &ObjectRef, fault: Fault) -> Error {
    let subject = object.to_string();
    match fault {
        Fault::Syntax(source) => Error::Xml { subject, source },
        Fault::Rule(why) => Error::Malformed { subject, why, got: String::new() },
    }
}
