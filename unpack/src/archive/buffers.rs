//! Bytes in buffers, on their way from who reads them to who uses them.
//!
//! A reader takes whole buffers from a [`Supply`] and gives each back when it is done with it,
//! with notes of which parts were files' contents. Two threads of one process pass buffers over a
//! [`channel`]; a walled child gets them from `sandbox`. Who hashes them is in `content`.

use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use crate::archive::content::{Note, Noted};
use crate::error::refusal::Refusal;
use crate::limits::Limits;
use crate::sys::Shared;

/// A refusal on its way through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) Refusal);

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::other(Broken(refusal))
    }
}

/// Bytes of one buffer, and how many may be on their way in one channel.
const BUFFER: usize = 256 << 10;
pub(crate) const BUFFERS: usize = 6;

/// Bytes to be read, never none.
pub(crate) enum Buffer {
    Own(Vec<u8>),
    Shared { memory: Arc<Shared>, from: usize, to: usize },
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Own(bytes) => bytes,
            Buffer::Shared { memory, from, to } => memory.read(*from, *to),
        }
    }
}

/// Where buffers come from and go back to.
pub(crate) trait Supply: Send {
    /// Takes a buffer back and gives the next one; `None` at the end. `TimedOut` after `left`.
    fn next(
        &mut self,
        done: Option<Buffer>,
        notes: Vec<Note>,
        left: Duration,
    ) -> io::Result<Option<Buffer>>;
}

/// Buffers as a reader sees them.
pub(crate) struct Buffers {
    supply: Box<dyn Supply>,
    now: Option<Buffer>,
    at: usize,
    notes: Vec<Note>,
    ended: bool,
    deadline: Instant,
    time_max: Duration,
}

impl Buffers {
    pub(crate) fn new(supply: impl Supply + 'static, limits: &Limits, start: Instant) -> Buffers {
        Buffers {
            supply: Box::new(supply),
            now: None,
            at: 0,
            notes: Vec::new(),
            ended: false,
            deadline: start + limits.time_max,
            time_max: limits.time_max,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next `len` bytes are a file's.
    pub(crate) fn note_part(&mut self, len: usize) {
        self.notes.push(Note::Part { from: self.at, to: self.at + len });
    }

    /// The file is whole.
    pub(crate) fn note_end(&mut self) {
        self.notes.push(Note::End);
    }

    fn now(&self) -> &[u8] {
        self.now.as_deref().unwrap_or_default()
    }

    fn too_long(&self) -> io::Error {
        crate::archive::buffers::too_long(self.time_max).into()
    }
}

impl BufRead for Buffers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.now().len() && !self.ended {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_long());
            }
            let (done, notes) = (self.now.take(), std::mem::take(&mut self.notes));
            self.at = 0;
            match self.supply.next(done, notes, left) {
                Ok(next) => {
                    self.ended = next.is_none();
                    self.now = next;
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(self.too_long()),
                Err(e) => return Err(e),
            }
        }
        let at = self.at;
        Ok(&self.now()[at..])
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}

impl Read for Buffers {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, to)
    }
}

/// A read out of what is in a buffer anyway.
pub(crate) fn read_buffered(from: &mut impl BufRead, to: &mut [u8]) -> io::Result<usize> {
    let there = from.fill_buf()?;
    let len = there.len().min(to.len());
    to[..len].copy_from_slice(&there[..len]);
    from.consume(len);
    Ok(len)
}

/// The receiving end of a channel.
struct Queue {
    full: Receiver<io::Result<Vec<u8>>>,
    /// Where buffers go that were read: back to be filled, or first to be hashed.
    empty: SyncSender<Vec<u8>>,
    hasher: Option<SyncSender<Noted>>,
}

impl Supply for Queue {
    fn next(
        &mut self,
        done: Option<Buffer>,
        notes: Vec<Note>,
        left: Duration,
    ) -> io::Result<Option<Buffer>> {
        if let Some(Buffer::Own(bytes)) = done {
            let gone = match &self.hasher {
                Some(hasher) => hasher.send((bytes, notes)).is_err(),
                None => self.empty.try_send(bytes).is_err(),
            };
            if gone {
                // Whoever would have it is done; the buffer may go.
            }
        }
        match self.full.recv_timeout(left) {
            Ok(Ok(bytes)) => Ok(Some(Buffer::Own(bytes))),
            Ok(Err(e)) => Err(e),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Filler {
    full: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    made: usize,
}

/// The receiving end has gone away; what it found matters more than our result.
#[derive(Debug)]
pub(crate) struct Gone;

/// A channel of buffers between two threads; the last part takes back those that were hashed.
pub(crate) fn channel(
    limits: &Limits,
    start: Instant,
    hasher: Option<SyncSender<Noted>>,
) -> (Filler, Buffers, SyncSender<Vec<u8>>) {
    let (full, full_rx) = sync_channel(BUFFERS);
    let (empty_tx, empty) = sync_channel(BUFFERS + 2);
    let filler = Filler { full, empty, made: 0 };
    let queue = Queue { full: full_rx, empty: empty_tx.clone(), hasher };
    (filler, Buffers::new(queue, limits, start), empty_tx)
}

impl Filler {
    /// A buffer of `BUFFER` bytes.
    fn buffer(&mut self) -> Result<Vec<u8>, Gone> {
        match self.empty.try_recv() {
            Ok(buffer) => Ok(buffer),
            Err(TryRecvError::Empty) if self.made < BUFFERS => {
                self.made += 1;
                Ok(vec![0; BUFFER])
            }
            Err(TryRecvError::Empty) => self.empty.recv().map_err(|_| Gone),
            Err(TryRecvError::Disconnected) => Err(Gone),
        }
    }

    pub(crate) fn send(&self, filled: io::Result<Vec<u8>>) -> Result<(), Gone> {
        self.full.send(filled).map_err(|_| Gone)
    }

    /// Reads `from` to its end into the channel; `seen` sees every byte first. An error goes
    /// down the channel, for the consumer to meet in its place.
    pub(crate) fn pump(
        mut self,
        mut from: impl Read,
        mut seen: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Gone> {
        loop {
            let mut buffer = self.buffer()?;
            buffer.resize(BUFFER, 0);
            let mut len = 0;
            let mut end = Ok(false);
            while len < BUFFER {
                match from.read(&mut buffer[len..]) {
                    Ok(0) => {
                        end = Ok(true);
                        break;
                    }
                    Ok(more) => len += more,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        end = Err(e);
                        break;
                    }
                }
            }
            buffer.truncate(len);
            if let Err(e) = seen(&buffer) {
                return self.send(Err(e));
            }
            if len > 0 {
                self.send(Ok(buffer))?;
            }
            match end {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(e) => return self.send(Err(e)),
            }
        }
    }
}

/// The refusal of a layer that is not done in time.
pub(crate) fn too_long(max: Duration) -> Refusal {
    let rule = "layer takes too long, in seconds";
    Refusal::limit("--time-max", rule, max.as_secs(), max.as_secs())
}
