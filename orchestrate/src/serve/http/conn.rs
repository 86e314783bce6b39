//! One connection: bytes in within bounds of size and time, answers out likewise.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::sys::{self, Received};
use crate::serve::auth;
use crate::serve::http::files::{FILES_MAX, Files};
use crate::serve::http::request::{self, Head, Peer, Reject, Request};
use crate::serve::http::response::Response;
use crate::serve::http::{HEAD_MAX, IDLE, REQUESTS_MAX, STEP, WHOLE_ANSWER, WHOLE_REQUEST};

/// A stream of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    /// From this host.
    Unix(UnixStream),
    /// From anywhere.
    Tcp(TcpStream),
}

impl Stream {
    /// A handle to end it by, where anybody may have made it.
    pub(crate) fn of_a_stranger(&self) -> Option<OwnedFd> {
        match self {
            // The kernel has said who it is.
            Stream::Unix(_) => None,
            Stream::Tcp(stream) => stream.as_fd().try_clone_to_owned().ok(),
        }
    }

    fn read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    fn write_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_write_timeout(Some(time)),
            Stream::Tcp(stream) => stream.set_write_timeout(Some(time)),
        }
    }

    fn nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_nonblocking(true),
            Stream::Tcp(stream) => stream.set_nonblocking(true),
        }
    }

    fn shut(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        }
    }

    /// Descriptors come over a unix socket alone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        match self {
            Stream::Unix(stream) => sys::receive(stream.as_fd(), buffer),
            Stream::Tcp(stream) => {
                Ok(Received { bytes: stream.read(buffer)?, files: Vec::new(), cut: false })
            }
        }
    }

    fn user(&self) -> Option<u32> {
        match self {
            Stream::Unix(stream) => auth::Peer::of(stream).ok().map(|peer| peer.user()),
            Stream::Tcp(_) => None,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }
}

/// A connection with what was read of the next request.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: Stream,
    buffer: Vec<u8>,
    /// What came with it.
    files: Vec<File>,
    /// Whether more came than are taken.
    too_many: bool,
    served: u32,
}

/// How reading a request ended.
#[derive(Debug)]
pub(crate) enum Next {
    /// With a request.
    Request(Request),
    /// With an answer that ends the connection.
    Reject(Reject),
    /// The client has gone, or has nothing to say.
    Gone,
}

impl Conn {
    pub(crate) fn new(stream: Stream) -> Conn {
        Conn { stream, buffer: Vec::new(), files: Vec::new(), too_many: false, served: 0 }
    }

    /// The next request, read to its last byte.
    pub(crate) fn next(&mut self) -> Next {
        match self.read_request() {
            Ok(Ok(request)) => Next::Request(request),
            Ok(Err(reject)) => Next::Reject(reject),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.buffer.is_empty() => {
                Next::Reject(Reject { status: 408, why: "the request did not come to its end" })
            }
            Err(_) => Next::Gone,
        }
    }

    fn read_request(&mut self) -> io::Result<Result<Request, Reject>> {
        if self.buffer.is_empty() {
            self.more(Instant::now() + IDLE, IDLE)?;
        }
        let deadline = Instant::now() + WHOLE_REQUEST;
        let head = loop {
            match request::parse(&self.buffer) {
                Ok(Some(head)) => break head,
                Ok(None) => self.more(deadline, STEP)?,
                Err(reject) => return Ok(Err(reject)),
            }
        };
        let Head { mut request, head_bytes, body_bytes } = head;
        let whole = head_bytes + body_bytes;
        if request.expects_continue && self.buffer.len() < whole {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", deadline)?;
        }
        while self.buffer.len() < whole {
            self.more(deadline, STEP)?;
        }
        if std::mem::take(&mut self.too_many) {
            let why =
                "more open files came than one request may have, or than this process has room for";
            return Ok(Err(Reject { status: 400, why }));
        }
        if !self.files.is_empty() {
            request.files = Files::new(std::mem::take(&mut self.files), self.stream.user());
        }
        request.body = self.buffer[head_bytes..whole].to_vec();
        self.buffer.drain(..whole);
        self.served += 1;
        request.keep_alive &= self.served < REQUESTS_MAX;
        Ok(Ok(request))
    }

    /// Reads at least one byte more.
    fn more(&mut self, deadline: Instant, step: Duration) -> io::Result<()> {
        let mut piece = [0; HEAD_MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.read_timeout(left.min(step))?;
            match self.stream.read(&mut piece) {
                Ok(Received { bytes: 0, .. }) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Received { bytes, files, cut }) => {
                    self.buffer.extend_from_slice(&piece[..bytes]);
                    self.too_many |= cut || self.files.len() + files.len() > FILES_MAX;
                    if self.too_many {
                        self.files.clear();
                    } else {
                        self.files.extend(files.into_iter().map(File::from));
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a timeout is called depends on the system.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The other end, to be looked at while an answer is waited for.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let fd = match &self.stream {
            Stream::Unix(stream) => stream.as_fd().try_clone_to_owned(),
            Stream::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
        };
        fd.ok().map(|fd| Peer(Arc::new(fd)))
    }

    /// Writes an answer. False when the connection ends with it.
    pub(crate) fn answer(&mut self, response: &Response, keep_alive: bool, head: bool) -> bool {
        let bytes = response.bytes(keep_alive, head);
        let written = self.write(&bytes, Instant::now() + WHOLE_ANSWER);
        written.is_ok() && keep_alive
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.write_timeout(left.min(STEP))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection so that the last answer is read: what the client still sends is taken and
    /// thrown away for a moment, since closing over unread bytes would break its reading off.
    pub(crate) fn close(mut self) {
        if self.stream.shut(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(500);
        for _ in 0..8 {
            self.buffer.clear();
            if self.more(deadline, Duration::from_millis(200)).is_err() {
                return;
            }
        }
    }
}

/// Answers without waiting for anything, and without a thread of its own.
pub(crate) fn turn_away(mut stream: Stream, response: &Response) {
    let answered = stream.nonblocking().and_then(|()| {
        let mut piece = [0; HEAD_MAX];
        // Mostly the request is there already; who is slower may not get to read the answer.
        drop(stream.read(&mut piece));
        stream.write(&response.bytes(false, false))?;
        stream.shut(Shutdown::Write)
    });
    drop(answered);
}
