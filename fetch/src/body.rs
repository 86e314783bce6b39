//! The bytes of an object as a `Read` that checks itself: whoever reads to the end has verified it.
//!
//! The last bytes are handed out only after length and digest are found right, so even a consumer
//! that never asks for the end of file cannot take a wrong object for a whole one.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::digest::hex;
use crate::error::Error;
use crate::object::Expect;
use crate::stream::Stream;

/// What a body was, known at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size, bytes.
    pub bytes: u64,
    /// Digest of all bytes.
    pub sha256: [u8; 32],
    /// Entity tag, as in [`crate::Object::etag`].
    pub etag: Option<String>,
    /// Requests sent, the first included.
    pub tries: u32,
    /// How often the stream broke and was taken up at its byte.
    pub resumed: u32,
}

/// The bytes of one object: in order, of the promised length and of the promised digest, or an
/// error. The `io::Error` holds an [`Error`]: `get_ref()`, then `downcast_ref::<fetch::Error>()`.
#[derive(Debug)]
pub struct Body {
    stream: Stream,
    hash: Sha256,
    sha256: Option<[u8; 32]>,
    state: State,
}

#[derive(Debug)]
enum State {
    Reading,
    Done(Summary),
    Failed,
}

impl Body {
    pub(crate) fn new(stream: Stream, expect: &Expect) -> Result<Body, Error> {
        let sha256 = expect.sha256;
        let mut body = Body { stream, hash: Sha256::new(), sha256, state: State::Reading };
        body.verify_at_end()?;
        Ok(body)
    }

    /// Size, bytes.
    pub fn size(&self) -> u64 {
        self.stream.pin.size
    }

    /// Entity tag, as in [`crate::Object::etag`].
    pub fn etag(&self) -> Option<&str> {
        self.stream.pin.etag.as_deref()
    }

    /// What was read, once all of it has been; none before, and none after an error.
    pub fn summary(&self) -> Option<Summary> {
        match &self.state {
            State::Done(summary) => Some(summary.clone()),
            State::Reading | State::Failed => None,
        }
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.stream.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.verify_at_end()?;
        Ok(count)
    }

    fn verify_at_end(&mut self) -> Result<(), Error> {
        if !self.stream.at_end() {
            return Ok(());
        }
        let got: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        if let Some(want) = self.sha256
            && want != got
        {
            return Err(Error::Digest {
                subject: self.stream.subject.clone(),
                algorithm: "sha256",
                want: hex(&want),
                got: hex(&got),
            });
        }
        self.state = State::Done(Summary {
            bytes: self.stream.pin.size,
            sha256: got,
            etag: self.stream.pin.etag.clone(),
            tries: self.stream.tries,
            resumed: self.stream.resumed,
        });
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Done(_) => return Ok(0),
            State::Failed => {
                return Err(Error::Spent { subject: self.stream.subject.clone() }.into());
            }
            State::Reading if buffer.is_empty() => return Ok(0),
            State::Reading => {}
        }
        self.advance(buffer).map_err(|error| {
            self.state = State::Failed;
            error.into()
        })
    }
}
