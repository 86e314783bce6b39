//! The parent's end of the stream: fills buffers that the child can only read, takes them back in
//! turn, and hashes each with the child's notes on what in it was a file's.
//!
//! The stream's digest depends on nothing that the child says; its notes decide only which bytes
//! count as contents, of which the child has the last word anyway.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use crate::error::Error;
use crate::limits::Limits;
use crate::sandbox::failed;
use crate::sandbox::wire::{self, Next, SLOT, SLOTS, Said};
use crate::sys::Shared;
use crate::twin::Twin;

/// What the parent saw of the blob.
pub(super) struct Seen {
    pub(super) digest: [u8; 32],
    pub(super) bytes: u64,
    /// Whether all of it was handed over and given back.
    pub(super) whole: bool,
}

struct Ring<'a> {
    memory: Shared,
    to: &'a UnixStream,
    from: BufReader<&'a UnixStream>,
    /// Bytes in each slot that the child has.
    lens: [usize; SLOTS],
    filled: usize,
    returned: usize,
    bytes: u64,
    ended: bool,
    twin: Twin,
    /// Digests that the child has not been sent.
    digests: Vec<u8>,
}

/// Hands the layer over, then reads the verdict.
pub(super) fn serve(
    mut layer: impl Read,
    memory: Shared,
    socket: &UnixStream,
    limits: &Limits,
) -> Result<(Seen, Vec<u8>), Error> {
    let mut ring = Ring {
        memory,
        to: socket,
        from: BufReader::with_capacity(16 << 10, socket),
        lens: [0; SLOTS],
        filled: 0,
        returned: 0,
        bytes: 0,
        ended: false,
        twin: Twin::new(),
        digests: Vec::new(),
    };
    let verdict = loop {
        while !ring.ended && ring.filled - ring.returned < SLOTS {
            ring.fill(&mut layer, limits)?;
        }
        if !ring.digests.is_empty() {
            ring.send(Next::Nothing);
        }
        match wire::read_said(&mut ring.from).map_err(failed("read the child's verdict"))? {
            Said::Verdict(verdict) => break verdict,
            Said::Notes(notes) => {
                let slot = ring.returned % SLOTS;
                let len = ring.lens[slot];
                let bytes = ring.memory.read(slot * SLOT, slot * SLOT + len);
                if ring.returned == ring.filled || !wire::fit(&notes, len) {
                    let text = "notes that fit no buffer";
                    return Err(failed("believe the child")(io::Error::other(text)));
                }
                let digests = &mut ring.digests;
                ring.twin.update_apart(bytes, &notes, |digest| digests.extend_from_slice(&digest));
                ring.returned += 1;
            }
        }
    };
    let whole = ring.ended && ring.returned == ring.filled;
    Ok((Seen { digest: ring.twin.finish(), bytes: ring.bytes, whole }, verdict))
}

impl Ring<'_> {
    fn fill(&mut self, layer: &mut impl Read, limits: &Limits) -> Result<(), Error> {
        let slot = self.filled % SLOTS;
        let buffer = self.memory.write(slot * SLOT, (slot + 1) * SLOT);
        let mut len = 0;
        while len < SLOT {
            match layer.read(&mut buffer[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Stream { source }),
            }
        }
        self.bytes += len as u64;
        if self.bytes > limits.blob_bytes_max {
            self.ended = true;
            self.send(Next::Over(self.bytes));
            return Ok(());
        }
        if len > 0 {
            self.lens[slot] = len;
            self.filled += 1;
            self.send(Next::Buffer(len));
        }
        if len < SLOT {
            self.ended = true;
            self.send(Next::End);
        }
        Ok(())
    }

    /// A child that has gone away has found a reason to stop, and has said which.
    fn send(&mut self, next: Next) {
        let message = wire::next(next, &self.digests);
        self.digests.clear();
        match (&mut self.to).write_all(&message) {
            Ok(()) | Err(_) => {}
        }
    }
}
