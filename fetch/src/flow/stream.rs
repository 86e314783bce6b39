//! The bytes of one object, or of one part of it, in order, over as many connections as it takes.
//!
//! A broken stream is taken up at its byte with `Range` and what holds the server to the version (`pin.rs`);
//! the reader does not notice.
//! The answer is believed in nothing: status, range, length and entity tag are all compared with
//! the pin, since servers were seen to ignore each of the two headers. Digests are in `body.rs`.

use std::ops::Range;
use std::sync::Arc;

use ureq::Body;
use ureq::http::Response;

use crate::client::Client;
use crate::error::Error;
use crate::error::kind::Kind;
use crate::flow::feed::Feed;
use crate::flow::pin::{Pin, Tag, changed, resized};
use crate::flow::pressure::Pressure;
use crate::http::checksum::Checksum;
use crate::http::head::{self, etag, modified};
use crate::http::retry::{Trial, may_retry};
use crate::http::sign::Hold;
use crate::http::vigil::Waiting;
use crate::name::locator::Locator;
use crate::s3::object::Expect;
use crate::s3::options::Event;
use crate::text::range::ContentRange;

/// A resumable stream of bytes `at..end` of an object.
#[derive(Debug)]
pub(crate) struct Stream {
    client: Client,
    object: Locator,
    pub(crate) subject: String,
    pub(crate) pin: Pin,
    /// The object's own checksum, where the server told one.
    pub(crate) checksum: Option<Checksum>,
    start: u64,
    at: u64,
    end: u64,
    feed: Option<Feed>,
    /// Nobody else asks for parts of the object, and this goes on to its end: the whole will do instead of the
    /// rest, and what is through already is dropped.
    alone: bool,
    /// The server cannot do ranges: the whole is asked for.
    unranged: bool,
    trial: Trial,
    /// Shared with the streams of the other parts.
    pub(crate) pressure: Option<Arc<Pressure>>,
    /// Requests sent.
    pub(crate) tries: u32,
    /// How often the stream was taken up in the middle.
    pub(crate) resumed: u32,
}

impl Stream {
    /// Asks for the object, or for its first `first` bytes, and learns what it is. A server that
    /// knows no ranges gives the whole; `end()` tells.
    ///
    /// # Errors
    /// All of [`Error`] but digests.
    pub(crate) fn open(
        client: &Client,
        object: &Locator,
        expect: &Expect,
        first: Option<u64>,
    ) -> Result<Stream, Error> {
        let subject = object.to_string();
        let _waiting = Waiting::begin(&client.inner.options, &client.inner.http, &subject);
        let mut trial = Trial::new(&client.inner.options, client.inner.is_source.is_some());
        let mut tries = 0;
        let mut first = first;
        let Opened { pin, end, checksum, feed } = loop {
            tries += 1;
            match begin(client, object, &subject, expect, first) {
                Ok(opened) => break opened,
                // Of an empty object no byte can be in any range (RFC 9110 15.5.17), and some servers
                // know none.
                Err(error) if first.is_some() && is_about_the_range(&error) => first = None,
                Err(error) => trial.again(&subject, error)?,
            }
        };
        let (client, object, feed) = (client.clone(), object.clone(), Some(feed));
        let (start, at, resumed, alone) = (0, 0, 0, end == pin.size);
        Ok(Stream {
            client,
            object,
            subject,
            pin,
            checksum,
            start,
            at,
            end,
            feed,
            alone,
            unranged: false,
            trial,
            pressure: None,
            tries,
            resumed,
        })
    }

    /// A part of an object that is known already; nothing is sent before the first read.
    pub(crate) fn part(client: &Client, object: &Locator, pin: &Pin, range: Range<u64>) -> Stream {
        Stream {
            client: client.clone(),
            object: object.clone(),
            subject: object.to_string(),
            pin: pin.clone(),
            checksum: None,
            start: range.start,
            at: range.start,
            end: range.end,
            feed: None,
            alone: false,
            unranged: false,
            trial: Trial::new(&client.inner.options, client.inner.is_source.is_some()),
            pressure: None,
            tries: 0,
            resumed: 0,
        }
    }

    /// All that is left of a known object from byte `at` on, by this stream alone: a server that knows no ranges
    /// will do.
    pub(crate) fn rest(client: &Client, object: &Locator, pin: &Pin, at: u64) -> Stream {
        Stream { alone: true, ..Stream::part(client, object, pin, at..pin.size) }
    }

    /// Reads on; 0 only at the end.
    ///
    /// # Errors
    /// All of [`Error`] but digests, after which the stream is of no more use.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let inner = &self.client.inner;
        let _waiting = Waiting::begin(&inner.options, &inner.http, &self.subject);
        self.trial.begin();
        while self.at < self.end && !buffer.is_empty() {
            let error = match self.step(buffer) {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            self.feed = None;
            if may_retry(&error) && self.at > 0 && !self.pin.may_go_on() {
                let (subject, at) = (self.subject.clone(), self.at);
                return Err(Error::Unresumable { subject, at, source: Box::new(error) });
            }
            self.ease(&error);
            self.trial.again(&self.subject, error)?;
        }
        Ok(0)
    }

    /// An overloaded server gets fewer requests at a time, not only later ones.
    fn ease(&self, error: &Error) {
        if let (Kind::Throttled, Some(pressure)) = (error.kind(), &self.pressure)
            && let Some(limit) = pressure.slow_down()
        {
            let text = format!("the server is overloaded: {limit} ranges in flight");
            self.client.inner.options.watch.tell(&Event::Note { text: &text });
        }
    }

    /// The byte after the last that has come.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The byte after the last that will come.
    pub(crate) fn end(&self) -> u64 {
        self.end
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
            self.feed = Some(feed);
        } else {
            feed.finish(&self.subject, self.pin.size)?;
        }
        Ok(count)
    }

    /// Asks for what is left.
    fn resume(&mut self) -> Result<Feed, Error> {
        self.tries += 1;
        let (subject, at) = (&self.subject, self.at);
        if at > self.start {
            self.resumed += 1;
            self.client.inner.options.watch.tell(&Event::Resume { subject, at });
        }
        let alone = self.alone;
        let range = (!alone || (at > 0 && !self.unranged)).then_some((at, self.end - 1));
        match self.ask(range) {
            // Once more as a whole, which needs no range.
            Err(error) if alone && range.is_some() && is_about_the_range(&error) => {
                self.unranged = true;
                self.ask(None)
            }
            // A range of a known size can only be out of it if that is another size now.
            Err(Error::Answer { subject, answer })
                if answer.status == 416
                    && answer.size.is_some_and(|size| size != self.pin.size) =>
            {
                Err(resized(&subject, self.pin.size, answer.size.unwrap_or_default()))
            }
            asked => asked,
        }
    }

    /// Asks for a range, or for the whole of which what is through is dropped.
    fn ask(&mut self, range: Option<(u64, u64)>) -> Result<Feed, Error> {
        let (subject, at) = (&self.subject, self.at);
        let hold = Hold {
            if_match: self.pin.etag.strong(),
            if_none_match: None,
            unmodified_since: self.pin.unmodified_since(),
            wanted: self.client.wanted(self.pin.digest.as_ref()),
        };
        let response = self.client.get(subject, &self.object, range, hold)?;
        self.pin.hold(response.headers(), subject)?;
        let length = length(&response);
        if response.status() == 206 {
            let due = ContentRange { first: at, last: self.end - 1, size: self.pin.size };
            let got = content_range(&response);
            let read = ContentRange::parse(&got);
            if let Some(read) = read
                && read.size != due.size
            {
                return Err(resized(subject, due.size, read.size));
            }
            if range.is_none() || read != Some(due) || length.is_some_and(|n| n != self.end - at) {
                return Err(wrong_range(subject, &due.to_string(), &got, length));
            }
            return Ok(Feed::new(response, 0, &self.client));
        }
        if let Some(length) = length
            && length != self.pin.size
        {
            return Err(resized(subject, self.pin.size, length));
        }
        // 200: a server may ignore Range (RFC 9110 14.2). The whole comes again, from which the
        // part that is already through is dropped; only by one stream, or each part would do so.
        if !self.alone {
            let due = ContentRange { first: at, last: self.end - 1, size: self.pin.size };
            return Err(wrong_range(subject, &due.to_string(), "all of it", length));
        }
        Ok(Feed::new(response, at, &self.client))
    }
}

/// Whether a server may do without a range what it cannot with one.
pub(crate) fn is_about_the_range(error: &Error) -> bool {
    match error {
        Error::Range { .. } => true,
        Error::Answer { answer, .. } => {
            matches!(answer.status, 400 | 416 | 501) && answer.kind() == Kind::Refused
        }
        _ => false,
    }
}

struct Opened {
    pin: Pin,
    end: u64,
    checksum: Option<Checksum>,
    feed: Feed,
}

/// The first request. Without `first` it has no range, so that any HTTP server will do.
fn begin(
    client: &Client,
    object: &Locator,
    subject: &str,
    expect: &Expect,
    first: Option<u64>,
) -> Result<Opened, Error> {
    let pinned = Tag::Known(expect.etag.clone());
    let range = first.map(|bytes| (0, bytes.max(1) - 1));
    let wanted = client.wanted(expect.sha256.as_ref());
    let hold = Hold { if_match: pinned.strong(), wanted, ..Hold::default() };
    let response = client.get(subject, object, range, hold)?;
    let etag = etag(response.headers(), subject)?;
    if expect.etag.is_some() && etag != expect.etag {
        return Err(changed(subject, "ETag", &expect.etag, &etag));
    }
    let length = length(&response);
    let (size, end) = match (response.status().as_u16(), range) {
        (206, Some((_, last))) => {
            let got = content_range(&response);
            let due = ContentRange::parse(&got).filter(|read| {
                read.first == 0
                    && read.last == last.min(read.size - 1)
                    && length.is_none_or(|n| n == read.last + 1)
            });
            match due {
                Some(read) => (read.size, read.last + 1),
                None => {
                    return Err(wrong_range(subject, &format!("bytes 0-{last}/"), &got, length));
                }
            }
        }
        (206, None) => {
            return Err(wrong_range(subject, "all of it", &content_range(&response), length));
        }
        _ => match length.or(expect.size) {
            Some(size) => (size, size),
            None => return Err(Error::NoLength { subject: subject.to_owned() }),
        },
    };
    check_size(subject, size, expect)?;
    let checksum = if end == size { Checksum::of(response.headers()) } else { None };
    let modified = modified(response.headers());
    let pin = Pin { size, etag: Tag::Known(etag), modified, digest: expect.sha256 };
    let mut feed = Feed::new(response, 0, client);
    if size == 0 {
        feed.finish(subject, size)?;
    }
    Ok(Opened { pin, end, checksum, feed })
}

/// Compares a size with what is expected, before a byte is passed on.
pub(crate) fn check_size(subject: &str, size: u64, expect: &Expect) -> Result<(), Error> {
    if let Some(size_max) = expect.size_max
        && size > size_max
    {
        return Err(Error::TooLarge { subject: subject.to_owned(), size, size_max });
    }
    match expect.size {
        Some(due) if due != size => Err(resized(subject, due, size)),
        _ => Ok(()),
    }
}

/// The length that an answer promises. ureq does not count a body of 0 bytes as one of known length.
fn length(response: &Response<Body>) -> Option<u64> {
    let headers = response.headers();
    let empty = !headers.contains_key("transfer-encoding")
        && headers.get("content-length").is_some_and(|value| value == "0");
    if empty { Some(0) } else { response.body().content_length() }
}

fn content_range(response: &Response<Body>) -> String {
    head::text(response.headers(), "content-range").unwrap_or_default()
}

fn wrong_range(subject: &str, want: &str, got: &str, length: Option<u64>) -> Error {
    let length = length.map_or_else(|| "unknown length".to_owned(), |n| format!("{n} bytes"));
    let got = format!("{got}, {length}");
    Error::Range { subject: subject.to_owned(), want: want.to_owned(), got }
}
