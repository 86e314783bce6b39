//! The body of one answer, watched for its rate. What the answer must be is in `stream.rs`.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::Response;

use crate::client::Client;
use crate::error::Error;

/// The bytes of one answer.
pub(crate) struct Feed {
    reader: ureq::BodyReader<'static>,
    /// Bytes to drop first.
    skip: u64,
    /// The current window of the rate floor: time spent waiting, and what came in it.
    waited: Duration,
    came: u64,
    window: Duration,
    floor: u64,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("skip", &self.skip).finish_non_exhaustive()
    }
}

impl Feed {
    pub(crate) fn new(response: Response<Body>, skip: u64, client: &Client) -> Feed {
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

    /// Reads on; 0 at the end of the answer. `at` is only for messages.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Slow`].
    pub(crate) fn read(
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
    ///
    /// # Errors
    /// [`Error::Long`].
    pub(crate) fn finish(&mut self, subject: &str, size: u64) -> Result<(), Error> {
        match self.reader.read(&mut [0]) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(Error::Long { subject: subject.to_owned(), size }),
        }
    }
}
