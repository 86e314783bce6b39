//! The bytes of one object, or of one range of it, in order, over as many connections as it takes.
//!
//! A broken stream is taken up at its byte with `Range` and `If-Match`; the reader does not notice.
//! The answer is believed in nothing: status, range, length and entity tag are all compared with
//! the pin, since servers were seen to ignore each of the two headers. Digests are in `body.rs`.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::Response;

use crate::client::Client;
use crate::error::Error;
use crate::http;
use crate::listing::entity_tag;
use crate::object::{Expect, ObjectRef};
use crate::options::Event;
use crate::range::ContentRange;
use crate::retry::{Trial, may_retry};
use crate::sign::Op;

/// What all parts of one object must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) size: u64,
    pub(crate) etag: Option<String>,
    /// Whether a mixture of two versions would be found out at the end.
    pub(crate) digest: bool,
}

impl Pin {
    /// If-Match compares strongly (RFC 9110 13.1.1), so a weak tag never matches.
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

/// A resumable stream of bytes `at..end` of an object.
#[derive(Debug)]
pub(crate) struct Stream {
    client: Client,
    object: ObjectRef,
    pub(crate) subject: String,
    pub(crate) pin: Pin,
    at: u64,
    end: u64,
    feed: Option<Feed>,
    trial: Trial,
    /// Requests sent.
    pub(crate) tries: u32,
    /// How often the stream was taken up in the middle.
    pub(crate) resumed: u32,
}

impl Stream {
    /// Asks for the whole object and learns what it is.
    ///
    /// # Errors
    /// All of [`Error`] but digests.
    pub(crate) fn open(
        client: &Client,
        object: &ObjectRef,
        expect: &Expect,
    ) -> Result<Stream, Error> {
        let subject = object.to_string();
        let mut trial = Trial::new(&client.inner.options);
        let mut tries = 0;
        let (pin, feed) = loop {
            tries += 1;
            match whole(client, object, &subject, expect) {
                Ok(opened) => break opened,
                Err(error) => trial.again(&subject, error)?,
            }
        };
        let (client, object, end) = (client.clone(), object.clone(), pin.size);
        let feed = Some(feed);
        Ok(Stream { client, object, subject, pin, at: 0, end, feed, trial, tries, resumed: 0 })
    }

    /// Reads on; 0 only at the end.
    ///
    /// # Errors
    /// All of [`Error`] but digests, after which the stream is of no more use.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        while self.at < self.end && !buffer.is_empty() {
            let error = match self.step(buffer) {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            self.feed = None;
            if may_retry(&error) && self.at > 0 && self.pin.strong().is_none() && !self.pin.digest {
                let (subject, at) = (self.subject.clone(), self.at);
                return Err(Error::Unresumable { subject, at, source: Box::new(error) });
            }
            self.trial.again(&self.subject, error)?;
        }
        Ok(0)
    }

    /// Whether all bytes have come.
    pub(crate) fn at_end(&self) -> bool {
        self.at == self.end
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut feed = match self.feed.take() {
            Some(feed) => feed,
            None => self.resume()?,
        };
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = feed.read(&self.client, &self.subject, self.at, &mut buffer[..room])?;
        if count == 0 {
            let (at, size) = (self.at, self.pin.size);
            return Err(Error::Short { subject: self.subject.clone(), at, size });
        }
        self.at += count as u64;
        self.trial.progress(count);
        if self.at < self.end {
            if self.trial.overdue() {
                // The next failure would be the last anyway; this makes one.
                let over = self.client.inner.options.deadline.unwrap_or_default();
                let (subject, at) = (self.subject.clone(), self.at);
                let slow = Error::Slow { subject, at, bytes: at, over, floor: 0 };
                return Err(Error::GaveUp {
                    tries: self.tries,
                    elapsed: over,
                    last: Box::new(slow),
                });
            }
            self.feed = Some(feed);
        } else {
            feed.finish(&self.subject, self.pin.size)?;
        }
        Ok(count)
    }

    /// Asks for what is left.
    fn resume(&mut self) -> Result<Feed, Error> {
        self.tries += 1;
        self.resumed += 1;
        let (subject, at) = (&self.subject, self.at);
        self.client.inner.options.watch.tell(&Event::Resume { subject, at });
        let range = (at, self.end - 1);
        let op = Op::Get { key: &self.object.key, range: Some(range), if_match: self.pin.strong() };
        let response = self.client.send(subject, &self.object.bucket, op)?;
        let etag = etag(&response, subject)?;
        if etag != self.pin.etag {
            return Err(changed(subject, "ETag", &self.pin.etag, &etag));
        }
        let length = response.body().content_length();
        let due = ContentRange { first: at, last: range.1, size: self.pin.size };
        if response.status() == 206 {
            let got = http::text(response.headers(), "content-range").unwrap_or_default();
            let read = ContentRange::parse(&got);
            if let Some(read) = read
                && read.size != due.size
            {
                let (want, got) = (due.size.to_string(), read.size.to_string());
                return Err(Error::Changed { subject: subject.clone(), field: "size", want, got });
            }
            if read != Some(due) || length.is_some_and(|n| n != self.end - at) {
                let got = format!("{got}, {length:?} bytes");
                return Err(Error::Range { subject: subject.clone(), want: due.to_string(), got });
            }
            return Ok(Feed::new(response, 0, &self.client));
        }
        // 200: a server may ignore Range (RFC 9110 14.2). The whole comes again, from which the
        // part that is already through is dropped; only for the whole, or each range would do so.
        if self.end != self.pin.size || length != Some(self.pin.size) {
            let got = format!("all of the object, {length:?} bytes");
            return Err(Error::Range { subject: subject.clone(), want: due.to_string(), got });
        }
        Ok(Feed::new(response, at, &self.client))
    }
}

/// The first request: no range, so that any HTTP server will do.
fn whole(
    client: &Client,
    object: &ObjectRef,
    subject: &str,
    expect: &Expect,
) -> Result<(Pin, Feed), Error> {
    let strong = expect.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
    let op = Op::Get { key: &object.key, range: None, if_match: strong };
    let response = client.send(subject, &object.bucket, op)?;
    if response.status() != 200 {
        let got = http::text(response.headers(), "content-range").unwrap_or_default();
        let want = "the whole object".to_owned();
        return Err(Error::Range { subject: subject.to_owned(), want, got });
    }
    let etag = etag(&response, subject)?;
    if expect.etag.is_some() && etag != expect.etag {
        return Err(changed(subject, "ETag", &expect.etag, &etag));
    }
    let length = response.body().content_length();
    let Some(size) = length.or(expect.size) else {
        return Err(Error::NoLength { subject: subject.to_owned() });
    };
    check_size(subject, size, expect)?;
    let pin = Pin { size, etag, digest: expect.sha256.is_some() };
    let mut feed = Feed::new(response, 0, client);
    if size == 0 {
        feed.finish(subject, size)?;
    }
    Ok((pin, feed))
}

/// Compares a size with what is expected, before a byte is passed on.
pub(crate) fn check_size(subject: &str, size: u64, expect: &Expect) -> Result<(), Error> {
    if let Some(size_max) = expect.size_max
        && size > size_max
    {
        return Err(Error::TooLarge { subject: subject.to_owned(), size, size_max });
    }
    match expect.size {
        Some(due) if due != size => Err(Error::Changed {
            subject: subject.to_owned(),
            field: "size",
            want: due.to_string(),
            got: size.to_string(),
        }),
        _ => Ok(()),
    }
}

/// The entity tag of an answer.
pub(crate) fn etag<B>(response: &Response<B>, subject: &str) -> Result<Option<String>, Error> {
    let Some(value) = response.headers().get("etag") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    entity_tag(&text).map_err(|why| Error::Malformed {
        subject: subject.to_owned(),
        why,
        got: text.clone().into_owned(),
    })
}

fn changed(
    subject: &str,
    field: &'static str,
    want: &Option<String>,
    got: &Option<String>,
) -> Error {
    let shown = |etag: &Option<String>| etag.clone().unwrap_or_else(|| "none".to_owned());
    Error::Changed { subject: subject.to_owned(), field, want: shown(want), got: shown(got) }
}

/// The body of one answer.
struct Feed {
    reader: ureq::BodyReader<'static>,
    /// Bytes to drop first.
    skip: u64,
    /// The current window of the rate floor: time spent waiting, and what came in it.
    waited: Duration,
    came: u64,
    window: Duration,
    floor: u64,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("skip", &self.skip).finish_non_exhaustive()
    }
}

impl Feed {
    fn new(response: Response<ureq::Body>, skip: u64, client: &Client) -> Feed {
        let options = &client.inner.options;
        Feed {
            reader: response.into_body().into_reader(),
            skip,
            waited: Duration::ZERO,
            came: 0,
            window: options.stall_timeout,
            floor: options.rate_floor,
        }
    }

    fn read(
        &mut self,
        client: &Client,
        subject: &str,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        while self.skip > 0 {
            let room = usize::try_from(self.skip).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.pull(client, subject, at, &mut buffer[..room])?;
            if count == 0 {
                return Ok(0);
            }
            self.skip -= count as u64;
        }
        self.pull(client, subject, at, buffer)
    }

    /// One read, timed: the floor counts only time spent waiting for the server, so that a slow
    /// consumer does not look like a slow server.
    fn pull(
        &mut self,
        client: &Client,
        subject: &str,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        let start = Instant::now();
        let count = self
            .reader
            .read(buffer)
            .map_err(|e| client.inner.http.transport(subject, ureq::Error::from(e)))?;
        self.waited += start.elapsed();
        self.came += count as u64;
        if self.waited >= self.window {
            let (bytes, over, floor) = (self.came, self.waited, self.floor);
            if (bytes as f64) < floor as f64 * over.as_secs_f64() {
                return Err(Error::Slow { subject: subject.to_owned(), at, bytes, over, floor });
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(count)
    }

    /// All promised bytes are in: nothing may follow. With a Content-Length this is local and gives
    /// the connection back to the pool; a broken end of a chunked body harms nobody any more.
    fn finish(&mut self, subject: &str, size: u64) -> Result<(), Error> {
        match self.reader.read(&mut [0]) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(Error::Long { subject: subject.to_owned(), size }),
        }
    }
}
