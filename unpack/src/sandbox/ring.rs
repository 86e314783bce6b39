//! The parent's end of the stream: fills buffers that the child can only read, hashes them, and
//! takes them back in turn.
//!
//! The caller's thread reads the layer; one thread hashes the stream, another listens to the
//! child and hashes the files by its notes. A buffer is filled again when both are done with it,
//! and neither waits for the other before. The stream's digest depends on nothing that the child
//! says; its notes decide only which bytes count as contents, of which the child has the last
//! word anyway.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;

use crate::archive::content::Files;
use crate::archive::stream_fault;
use crate::error::Error;
use crate::limits::Limits;
use crate::sandbox::wire::{self, Next, SLOT, SLOTS, Said, failed};
use crate::sha::Sha256;
use crate::sys::{Part, Shared};

/// What the parent saw of the blob.
pub(super) struct Seen {
    pub(super) digest: [u8; 32],
    pub(super) bytes: u64,
    /// Whether all of it was handed over and given back.
    pub(super) whole: bool,
}

/// How far each has come, in buffers since the start.
#[derive(Default)]
struct Progress {
    filled: usize,
    hashed: usize,
    returned: usize,
    /// No more will be filled.
    ended: bool,
    /// No more will be returned.
    over: bool,
    /// Digests that the child has not been sent: they go with the next word on the stream.
    digests: Vec<u8>,
    /// Why the child, though it lives, did not get what it was sent.
    unsent: Option<io::Error>,
}

struct Ring<'a> {
    /// Buffer n is in slot n modulo [`SLOTS`], with the number of bytes in it.
    slots: Vec<RwLock<(Part, usize)>>,
    progress: Mutex<Progress>,
    moved: Condvar,
    socket: &'a UnixStream,
    digests: bool,
}

/// Hands the layer over, then reads the verdict.
pub(super) fn serve(
    layer: impl Read,
    memory: Shared,
    socket: &UnixStream,
    limits: &Limits,
) -> Result<(Seen, Vec<u8>), Error> {
    let ring = Ring {
        slots: memory.parts(SLOT).into_iter().map(|part| RwLock::new((part, 0))).collect(),
        progress: Mutex::new(Progress::default()),
        moved: Condvar::new(),
        socket,
        digests: limits.digests,
    };
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.into());
        let started = |e| failed("start a thread")(e);
        let listener = named("hash files").spawn_scoped(scope, || ring.listen()).map_err(|e| {
            ring.hang_up();
            started(e)
        })?;
        let hasher = named("hash stream").spawn_scoped(scope, || ring.hash()).map_err(|e| {
            ring.hang_up();
            started(e)
        })?;
        let fed = ring.feed(layer, limits);
        if fed.is_err() {
            // The listener waits for a child that waits for us.
            ring.hang_up();
        }
        ring.step(|progress| progress.ended = true);
        let digest = hasher.join().unwrap_or_else(|panic| resume_unwind(panic));
        let heard = listener.join().unwrap_or_else(|panic| resume_unwind(panic));
        let bytes = fed?;
        let mut progress = ring.lock();
        if let Some(source) = progress.unsent.take() {
            // A verdict on a part of the layer is none.
            return Err(failed("hand the layer to the child")(source));
        }
        let verdict = heard?;
        let whole = bytes.is_some() && progress.returned == progress.filled;
        Ok((Seen { digest, bytes: bytes.unwrap_or_default(), whole }, verdict))
    })
}

impl Ring<'_> {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the progress, and tells those who wait for it.
    fn step(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }

    /// Waits while `condition` holds.
    fn wait(&self, mut condition: impl FnMut(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        self.moved
            .wait_while(self.lock(), |progress| condition(progress))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn hang_up(&self) {
        match self.socket.shutdown(Shutdown::Both) {
            // A child that is gone hears nothing anyway.
            Ok(()) | Err(_) => {}
        }
    }

    /// Hashes the stream.
    fn hash(&self) -> [u8; 32] {
        let mut stream = Sha256::when(self.digests);
        loop {
            let progress = self.wait(|now| now.hashed == now.filled && !now.ended);
            let at = progress.hashed;
            if at == progress.filled {
                return stream.finish();
            }
            drop(progress);
            let slot = self.slots[at % SLOTS].read().unwrap_or_else(PoisonError::into_inner);
            stream.update(slot.0.read(slot.1));
            drop(slot);
            self.step(|progress| progress.hashed += 1);
        }
    }

    /// Reads what the child says, to its verdict, and hashes the files.
    fn listen(&self) -> Result<Vec<u8>, Error> {
        let heard = self.hear();
        // Whoever waits for a buffer waits no longer.
        self.step(|progress| progress.over = true);
        heard
    }

    fn hear(&self) -> Result<Vec<u8>, Error> {
        let mut said = BufReader::with_capacity(16 << 10, self.socket);
        let mut files = Files::new();
        loop {
            match wire::read_said(&mut said).map_err(failed("read the child's verdict"))? {
                Said::Verdict(verdict) => return Ok(verdict),
                Said::Notes(notes) => {
                    let progress = self.lock();
                    let (at, filled) = (progress.returned, progress.filled);
                    drop(progress);
                    let slot = self.slots[at % SLOTS].read();
                    let slot = slot.unwrap_or_else(PoisonError::into_inner);
                    if at == filled || !wire::fit(&notes, slot.1) {
                        let text = "notes that fit no buffer";
                        return Err(failed("believe the child")(io::Error::other(text)));
                    }
                    let mut digests = Vec::new();
                    let bytes = slot.0.read(slot.1);
                    files.update(bytes, &notes, |digest| digests.extend_from_slice(&digest));
                    drop(slot);
                    self.step(|progress| {
                        progress.returned += 1;
                        progress.digests.extend(digests);
                        if progress.ended && !progress.digests.is_empty() {
                            self.send(Next::Nothing, progress);
                        }
                    });
                }
            }
        }
    }

    /// All of the layer, and its length; `None` if the child has said its last word before.
    fn feed(&self, mut layer: impl Read, limits: &Limits) -> Result<Option<u64>, Error> {
        let mut bytes = 0;
        loop {
            let full = |now: &Progress| now.filled - now.hashed.min(now.returned) == SLOTS;
            let progress = self.wait(|now| full(now) && !now.over);
            let at = progress.filled % SLOTS;
            if progress.over {
                return Ok(None);
            }
            drop(progress);
            let mut slot = self.slots[at].write().unwrap_or_else(PoisonError::into_inner);
            let len = fill(&mut layer, slot.0.write())?;
            slot.1 = len;
            drop(slot);
            bytes += len as u64;
            let over = bytes > limits.blob_bytes_max;
            let ended = over || len < SLOT;
            self.step(|progress| {
                progress.ended = ended;
                if over {
                    return self.send(Next::Over(bytes), progress);
                }
                if len > 0 {
                    progress.filled += 1;
                    self.send(Next::Buffer { slot: at, len }, progress);
                }
                if ended {
                    self.send(Next::End, progress);
                }
            });
            if ended {
                return Ok(Some(bytes));
            }
        }
    }

    /// A child that has gone away has found a reason to stop, and has said which. One that is there
    /// and does not get this would wait for it, or judge what it has got.
    fn send(&self, next: Next, progress: &mut Progress) {
        let message = wire::next(next, &progress.digests);
        progress.digests.clear();
        let mut socket = self.socket;
        match socket.write_all(&message) {
            Ok(()) => {}
            Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                progress.unsent.get_or_insert(error);
                self.hang_up();
            }
        }
    }
}

/// Reads until `buffer` is full or the layer ends; says how much came.
fn fill(layer: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut len = 0;
    while len < buffer.len() {
        match layer.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(stream_fault(source).nowhere()),
        }
    }
    Ok(len)
}
