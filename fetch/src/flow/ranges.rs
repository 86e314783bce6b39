//! Several ranges of one object in flight, handed out in order, in bounded memory.
//!
//! Part i goes to worker i mod N, so the consumer always knows whom to ask next. A worker can be
//! ahead by the buffers it owns and no further: they travel to the consumer full and back empty.
//! Memory is jobs * (part + one buffer), whatever the object's size.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use crate::client::Client;
use crate::error::Error;
use crate::flow::pin::Pin;
use crate::flow::pressure::Pressure;
use crate::flow::stream::Stream;
use crate::name::locator::Locator;

/// Bytes of one range. Smaller ones cost requests, larger ones memory: four of these keep the whole
/// program below 16 MiB. docs/fetch.md promises this number, and that parts begin at multiples of it, to
/// caches that keep an object in slices.
pub(crate) const PART_BYTES: u64 = 2 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// A part and one buffer more, which the consumer may be holding.
const BUFFERS: usize = 9;

/// From this size on several ranges are faster than one stream.
pub(crate) const SIZE_MIN: u64 = 16 << 20;
/// Ranges in flight when nobody says how many.
pub(crate) const JOBS: usize = 4;
/// More would only cost memory.
pub(crate) const JOBS_MAX: usize = 16;

enum Message {
    Bytes(Vec<u8>),
    /// The end of a part: requests sent and resumptions it took.
    End(u32, u32),
    Failed(Error),
}

#[derive(Debug)]
struct Worker {
    full: Receiver<Message>,
    empty: Sender<Vec<u8>>,
}

/// The bytes `at..end` of an object, by several workers.
#[derive(Debug)]
pub(crate) struct Ranges {
    workers: Vec<Worker>,
    /// Whose turn it is.
    turn: usize,
    buffer: Vec<u8>,
    taken: usize,
    at: u64,
    end: u64,
    pressure: Arc<Pressure>,
    /// What is held of the object, for whoever goes on in their place.
    pub(crate) pin: Pin,
    pub(crate) tries: u32,
    pub(crate) resumed: u32,
}

/// Workers that wait for their turn would wait for ever.
impl Drop for Ranges {
    fn drop(&mut self) {
        self.pressure.close();
    }
}

impl Ranges {
    /// Starts the workers. `first` is an open stream of the first bytes, if there is one.
    ///
    /// # Errors
    /// [`Error::File`] if the kernel gives no thread.
    pub(crate) fn start(
        client: &Client,
        object: &Locator,
        pin: &Pin,
        first: Option<Stream>,
        range: Range<u64>,
        jobs: usize,
    ) -> Result<Ranges, Error> {
        // Worker 0 begins with the first stream, so the rest starts with worker 1.
        let shift = usize::from(first.is_some());
        let base = first.as_ref().map_or(range.start, Stream::end);
        let end = range.end;
        // What an earlier stream left off at need be no such place: the first part goes up to one.
        let aligned = base - base % PART_BYTES;
        let part = move |number: usize| {
            let start = PART_BYTES.checked_mul(number as u64)?.checked_add(aligned)?;
            let part = start.max(base)..end.min(start.saturating_add(PART_BYTES));
            (part.start < part.end).then_some(part)
        };
        let mut first = first;
        let pressure = Arc::new(Pressure::new(jobs));
        let mut workers = Vec::with_capacity(jobs);
        for number in 0..jobs {
            let (full_in, full) = channel();
            let (empty, empty_out) = channel();
            for _ in 0..BUFFERS {
                // The receiver is right here, so this cannot fail.
                drop(empty.send(Vec::new()));
            }
            let (client, object, pin) = (client.clone(), object.clone(), pin.clone());
            let pressure = pressure.clone();
            let first = first.take();
            let work = move || {
                let parts = ((number + jobs - shift) % jobs..).step_by(jobs);
                let parts = parts.map_while(|number| Some((number + shift, part(number)?)));
                let streams =
                    parts.map(|(n, range)| (n, Stream::part(&client, &object, &pin, range)));
                for (number, mut stream) in first.map(|first| (0, first)).into_iter().chain(streams)
                {
                    stream.pressure = Some(pressure.clone());
                    if !pressure.begin(number) || !deliver(stream, &full_in, &empty_out) {
                        return;
                    }
                    pressure.end();
                }
            };
            thread::Builder::new()
                .name("fetch-range".to_owned())
                .stack_size(512 << 10)
                .spawn(work)
                .map_err(|source| Error::Thread { source })?;
            workers.push(Worker { full, empty });
        }
        let (turn, buffer, taken, tries, resumed) = (0, Vec::new(), 0, 0, 0);
        let (at, end) = (range.start, range.end);
        let pin = pin.clone();
        Ok(Ranges { workers, turn, buffer, taken, at, end, pressure, pin, tries, resumed })
    }

    /// Reads on; 0 only at the end.
    ///
    /// # Errors
    /// As [`Stream::read`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        while self.at < self.end && !buffer.is_empty() {
            if self.taken < self.buffer.len() {
                let count = buffer.len().min(self.buffer.len() - self.taken);
                buffer[..count].copy_from_slice(&self.buffer[self.taken..][..count]);
                self.taken += count;
                self.at += count as u64;
                if self.at == self.end {
                    self.close();
                }
                return Ok(count);
            }
            let worker = &self.workers[self.turn % self.workers.len()];
            let spent = std::mem::take(&mut self.buffer);
            if !spent.is_empty() {
                // A worker that is through with its parts needs no buffers any more.
                drop(worker.empty.send(spent));
            }
            self.taken = 0;
            match worker.full.recv() {
                Ok(Message::Bytes(bytes)) => self.buffer = bytes,
                Ok(Message::End(tries, resumed)) => {
                    self.tries += tries;
                    self.resumed += resumed;
                    self.turn += 1;
                }
                Ok(Message::Failed(error)) => return Err(error),
                Err(_) => {
                    let source = io::Error::other("it ended before its part");
                    return Err(Error::Thread { source });
                }
            }
        }
        Ok(0)
    }

    /// Takes the count of the last part.
    fn close(&mut self) {
        let worker = &self.workers[self.turn % self.workers.len()];
        if let Ok(Message::End(tries, resumed)) = worker.full.recv() {
            self.tries += tries;
            self.resumed += resumed;
        }
    }
}

/// Sends one part; false when nobody wants more.
fn deliver(mut stream: Stream, full: &Sender<Message>, empty: &Receiver<Vec<u8>>) -> bool {
    while stream.at() < stream.end() {
        let Ok(mut buffer) = empty.recv() else { return false };
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        while filled < buffer.len() && stream.at() < stream.end() {
            match stream.read(&mut buffer[filled..]) {
                Ok(count) => filled += count,
                Err(error) => {
                    drop(full.send(Message::Failed(error)));
                    return false;
                }
            }
        }
        buffer.truncate(filled);
        if full.send(Message::Bytes(buffer)).is_err() {
            return false;
        }
    }
    full.send(Message::End(stream.tries, stream.resumed)).is_ok()
}
