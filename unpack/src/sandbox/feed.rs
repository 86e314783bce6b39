//! The child's end of the stream: buffers in memory that the parent fills and the child can only
//! read, taken and given back in turn over a socket.
//!
//! With each buffer that it gives back the child says which parts were files' contents; the
//! parent, which hashes the stream anyway, sends their digests. What goes over the socket is in
//! `wire`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::archive::buffers::{Buffer, Supply};
use crate::archive::content::Note;
use crate::archive::pipeline::too_large;
use crate::limits::Limits;
use crate::sandbox::wire::{self, Next, SLOT, SLOTS};
use crate::sys::Shared;

/// How long the socket blocks at a time.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Feed {
    from: BufReader<UnixStream>,
    to: UnixStream,
    memory: Arc<Shared>,
    digests: Sender<[u8; 32]>,
    /// Files noted whose digests have not come.
    owed: u64,
    ended: bool,
    limits: Limits,
}

impl Feed {
    pub(super) fn new(
        socket: &UnixStream,
        memory: Shared,
        digests: Sender<[u8; 32]>,
        limits: &Limits,
    ) -> io::Result<Feed> {
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Feed {
            from: BufReader::with_capacity(16 << 10, socket.try_clone()?),
            to: socket.try_clone()?,
            memory: Arc::new(memory),
            digests,
            owed: 0,
            ended: false,
            limits: limits.clone(),
        })
    }

    fn receive(&mut self, until: Instant) -> io::Result<Next> {
        // The socket's own bound is short; ours is looked at in between.
        loop {
            match self.from.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        let (next, count) = wire::read_next(&mut self.from)?;
        for _ in 0..count {
            let mut digest = [0; 32];
            self.from.read_exact(&mut digest)?;
            self.owed = self.owed.saturating_sub(1);
            match self.digests.send(digest) {
                // Nobody keeps records.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(next)
    }

    fn advance(&mut self, until: Instant) -> io::Result<Option<Buffer>> {
        while !self.ended {
            match self.receive(until)? {
                Next::Nothing => {}
                Next::End => self.ended = true,
                Next::Over(bytes) => return Err(too_large(bytes, &self.limits).into()),
                Next::Buffer { slot, len } => {
                    let from = slot.min(SLOTS - 1) * SLOT;
                    let to = from + len.min(SLOT);
                    return Ok(Some(Buffer::Shared { memory: self.memory.clone(), from, to }));
                }
            }
        }
        while self.owed > 0 {
            self.receive(until)?;
        }
        Ok(None)
    }
}

impl Supply for Feed {
    fn next(
        &mut self,
        done: Option<Buffer>,
        notes: Vec<Note>,
        left: Duration,
    ) -> io::Result<Option<Buffer>> {
        if done.is_some() {
            self.owed += notes.iter().filter(|&&note| note == Note::End).count() as u64;
            self.to.write_all(&wire::notes(&notes))?;
        }
        self.advance(Instant::now() + left).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => e,
        })
    }
}
