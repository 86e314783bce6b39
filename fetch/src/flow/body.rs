//! The bytes of an object as a `Read` that checks itself: whoever reads to the end has verified it.
//!
//! The last bytes are handed out only after length and digest are found right, so even a consumer
//! that never asks for the end of file cannot take a wrong object for a whole one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::error::kind::Kind;
use crate::flow::chain::Chain;
use crate::flow::pin::Pin;
use crate::flow::promise::Promise;
use crate::flow::ranges::Ranges;
use crate::flow::spool::Spool;
use crate::flow::stream::{Stream, is_about_the_range};
use crate::name::locator::Locator;
use crate::s3::options::{Event, Watch};
use crate::text::digest::Sha256;

/// What a body was, known at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size, bytes.
    pub bytes: u64,
    /// Digest of all bytes.
    pub sha256: [u8; 32],
    /// Entity tag, as in [`crate::s3::object::Object::etag`].
    pub etag: Option<String>,
    /// Requests sent for bytes, the first included.
    pub tries: u32,
    /// How often the stream broke and was taken up at its byte.
    pub resumed: u32,
    /// Bytes that a spool still had and that were not fetched.
    pub reused: u64,
}

/// The bytes of one object: in order, of the promised length and of the promised digest, or an
/// error. The `io::Error` holds an [`Error`]: `get_ref()`, then `downcast_ref::<fetch::Error>()`.
#[derive(Debug)]
pub struct Body {
    pub(crate) object: Locator,
    pub(crate) subject: String,
    pub(crate) etag: Option<String>,
    pub(crate) pin: Pin,
    pub(crate) flow: Flow,
    /// Who is asked, and whom to ask if the flow breaks for good.
    pub(crate) chain: Chain,
    pub(crate) at: u64,
    pub(crate) hash: Sha256,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) checksum: Promise,
    pub(crate) spool: Option<Spool>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) deadline: Option<(Instant, Duration)>,
    pub(crate) watch: Watch,
    /// Requests and resumptions of flows that broke for good.
    pub(crate) counts: (u32, u32),
    /// Another flow went on where one had ended.
    pub(crate) patched: bool,
    pub(crate) state: State,
}

/// Where the bytes come from when the spool has no more.
#[derive(Debug)]
pub(crate) enum Flow {
    /// The spool has it all.
    None,
    One(Box<Stream>),
    Many(Ranges),
}

impl Flow {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        match self {
            Flow::None => Ok(0),
            Flow::One(stream) => stream.read(buffer),
            Flow::Many(ranges) => ranges.read(buffer),
        }
    }

    /// Requests sent, and resumptions.
    fn counts(&self) -> (u32, u32) {
        match self {
            Flow::None => (0, 0),
            Flow::One(stream) => (stream.tries, stream.resumed),
            Flow::Many(ranges) => (ranges.tries, ranges.resumed),
        }
    }
}

#[derive(Debug)]
pub(crate) enum State {
    Reading,
    Done(Summary),
    Failed,
}

impl Body {
    /// Size, bytes.
    pub fn size(&self) -> u64 {
        self.pin.size
    }

    /// Entity tag, as in [`crate::s3::object::Object::etag`].
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// What was read, once all of it has been; none before, and none after an error.
    pub fn summary(&self) -> Option<Summary> {
        match &self.state {
            State::Done(summary) => Some(summary.clone()),
            State::Reading | State::Failed => None,
        }
    }

    /// Makes the file of [`crate::client::Client::open_for_file`] appear under its name, durably; only after the
    /// last byte has been read.
    ///
    /// # Errors
    /// [`Error::Spent`] if the body was not read to its end or has no file, [`Error::File`].
    pub fn keep(self) -> Result<Summary, Error> {
        match (self.state, self.spool, self.output) {
            (State::Done(summary), Some(spool), Some(path)) => {
                spool.keep_as(&path)?;
                Ok(summary)
            }
            _ => Err(Error::Spent { subject: self.subject }),
        }
    }

    /// From now on all of it has to come within this time, whatever the options have.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Body {
        self.deadline = Some((Instant::now() + time, time));
        self
    }

    /// The file of the spool, while there is one. Whoever has this body may remove it at any time:
    /// the body goes on, and nothing is left.
    pub fn spool_path(&self) -> Option<&Path> {
        self.spool.as_ref().map(Spool::path)
    }

    /// Whether a later body goes on where the spool of this one ends: a strong ETag or a digest says then that it
    /// is the same version.
    pub fn goes_on_later(&self) -> bool {
        self.pin.may_have_parts()
    }

    /// Removes the spool, for a caller that has put the bytes to use.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn discard_spool(self) -> Result<(), Error> {
        self.spool.map_or(Ok(()), Spool::discard)
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if let Some((end, deadline)) = self.deadline
            && Instant::now() >= end
        {
            let (subject, at, size) = (self.subject.clone(), self.at, self.pin.size);
            return Err(Error::Overdue { subject, at, size, deadline });
        }
        let kept = self.spool.as_mut().map_or(Ok(0), |spool| spool.read(buffer))?;
        let count = if kept > 0 { kept } else { self.flow_on(buffer)? };
        let bytes = &buffer[..count];
        if let Some(spool) = &mut self.spool
            && kept == 0
            && spool.write(bytes)?
        {
            self.watch.tell(&Event::Note { text: "the spool is full: going on without it" });
        }
        self.hash.update(bytes);
        self.checksum.update(bytes);
        self.at += count as u64;
        if count == 0 && self.at < self.pin.size {
            let (subject, at, size) = (self.subject.clone(), self.at, self.pin.size);
            return Err(Error::Short { subject, at, size });
        }
        self.verify_at_end()?;
        Ok(count)
    }

    /// Reads from the flow; where it breaks for good, the next source goes on at the byte.
    fn flow_on(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let error = match self.flow.read(buffer) {
                Ok(count) => {
                    self.chain.went_well(count);
                    return Ok(count);
                }
                Err(error) => error,
            };
            // A source that only has another version is passed by. One that gave bytes of this, or an origin
            // that has another one, makes what came so far worth nothing: who wants the object begins anew.
            let passed_by = !self.chain.is_at_origin() && !self.chain.is_proven();
            if error.kind() == Kind::Changed && !passed_by {
                self.chain.blame(true);
                if let Some(spool) = self.spool.take() {
                    spool.discard()?;
                }
                return Err(error);
            }
            // Who cannot do the next range may give the whole, once and to one stream.
            if let Flow::Many(ranges) = &self.flow
                && is_about_the_range(&error)
            {
                let text = format!("at byte {}: {error}: going on without ranges", self.at);
                self.watch.tell(&Event::Note { text: &text });
                let pin = ranges.pin.clone();
                let rest = Stream::rest(self.chain.client(), &self.object, &pin, self.at);
                self.flow_by(Flow::One(Box::new(rest)));
                continue;
            }
            let next = self.chain.next(Some(error), Some(self.at))?;
            let flow = next.go_on(&self.object, &self.pin.anywhere(), self.at)?;
            self.flow_by(flow);
        }
    }

    /// From here on the bytes come by another flow.
    fn flow_by(&mut self, flow: Flow) {
        let (tries, resumed) = self.flow.counts();
        self.counts = (self.counts.0 + tries, self.counts.1 + resumed);
        self.patched |= self.at > 0;
        self.flow = flow;
    }

    /// Whether the bytes are of several answers of the origin, and nothing but a digest could tell if the object
    /// was replaced in between.
    fn may_be_mixed(&self) -> bool {
        let several = self.patched
            || matches!(self.flow, Flow::Many(_))
            || self.counts.1 + self.flow.counts().1 > 0;
        several
            && !self.object.is_blob()
            && self.chain.is_of_the_origin()
            && self.pin.etag.strong().is_none()
    }

    /// Digest and checksum, once all bytes are through.
    pub(crate) fn verify_at_end(&mut self) -> Result<(), Error> {
        if self.at < self.pin.size {
            return Ok(());
        }
        let got = std::mem::replace(&mut self.hash, Sha256::new()).finish();
        let wrong = |algorithm, want: &[u8], got: &[u8]| Error::Digest {
            subject: self.subject.clone(),
            server: self.chain.givers(),
            algorithm,
            want: hex::encode(want),
            got: hex::encode(got),
        };
        let judged = match (&self.sha256, self.checksum.settle()) {
            (Some(want), _) if *want != got => Err(wrong("sha256", want, &got)),
            (_, Some(checksum)) => {
                checksum.check(&got).map_err(|no| wrong(no.algorithm, &no.want, &no.got))
            }
            (_, None) => Ok(()),
        };
        if let Err(error) = judged {
            self.chain.blame(false);
            // Nobody can say which of the bytes are wrong, so none is worth keeping.
            let reused = self.spool.as_ref().map_or(0, Spool::kept);
            if let Some(spool) = self.spool.take() {
                spool.discard()?;
            }
            return Err(match (reused, error) {
                (0, Error::Digest { subject, algorithm, want, got, .. }) if self.may_be_mixed() => {
                    Error::Mixed { subject, algorithm, want, got }
                }
                (0, error) => error,
                (reused, _) => Error::Rotten { subject: self.subject.clone(), reused },
            });
        }
        let (tries, resumed) = self.flow.counts();
        let (tries, resumed) = (self.counts.0 + tries, self.counts.1 + resumed);
        self.state = State::Done(Summary {
            bytes: self.pin.size,
            sha256: got,
            etag: self.etag.clone(),
            tries,
            resumed,
            reused: self.spool.as_ref().map_or(0, Spool::kept),
        });
        Ok(())
    }

    /// The file that [`Body::keep`] makes.
    pub fn output(&self) -> Option<&Path> {
        self.output.as_deref()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Done(_) => return Ok(0),
            State::Failed => return Err(Error::Spent { subject: self.subject.clone() }.into()),
            State::Reading if buffer.is_empty() => return Ok(0),
            State::Reading => {}
        }
        self.advance(buffer).map_err(|error| {
            self.state = State::Failed;
            error.into()
        })
    }
}

/// `Body` is a `Read`, whose errors are `io::Error`: ours travel inside and come out again by
/// `get_ref().downcast_ref::<Error>()`.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            Kind::Usage => io::ErrorKind::InvalidInput,
            Kind::NotFound => io::ErrorKind::NotFound,
            Kind::Denied => io::ErrorKind::PermissionDenied,
            Kind::Refused | Kind::Changed | Kind::Digest => io::ErrorKind::InvalidData,
            Kind::Network => io::ErrorKind::ConnectionAborted,
            Kind::Throttled => io::ErrorKind::ResourceBusy,
            Kind::Timeout => io::ErrorKind::TimedOut,
            Kind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
