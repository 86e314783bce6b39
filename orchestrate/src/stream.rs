//! The next layer arrives while the present one is applied: a body read ahead by a thread into a
//! bounded buffer. The reader sees the same bytes, and the same error, as without it.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use fetch::{Body, Client, Expect, ObjectRef, Summary};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 128 * 1024;

/// Chunks that may wait: 4 MiB a layer, and at most two layers are on their way.
const CHUNKS_WAITING: usize = 32;

enum Message {
    Chunk(Vec<u8>),
    End(Option<Summary>),
    Failed(io::Error),
}

/// A body on its way. Dropping it lets the connection go.
#[derive(Debug)]
pub(crate) struct Stream {
    from: Receiver<Message>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
    summary: Option<Summary>,
}

impl Stream {
    /// Begins to fetch; returns at once. Errors come out of `read`.
    pub(crate) fn begin(client: Client, object: ObjectRef, expect: Expect) -> Stream {
        let (to, from) = sync_channel(CHUNKS_WAITING);
        thread::spawn(move || {
            let last = match client.open(&object, &expect) {
                Ok(body) => pass_on(body, &to),
                Err(error) => Message::Failed(io::Error::other(error)),
            };
            // Nobody listens any more when the apply failed first.
            drop(to.send(last));
        });
        Stream { from, chunk: Vec::new(), read: 0, ended: false, summary: None }
    }

    /// What was fetched; known only after the end was read.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }
}

fn pass_on(mut body: Body, to: &SyncSender<Message>) -> Message {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        while filled < chunk.len() {
            match body.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Message::Failed(error),
            }
        }
        chunk.truncate(filled);
        if filled == 0 {
            return Message::End(body.summary());
        }
        if to.send(Message::Chunk(chunk)).is_err() {
            return Message::End(None);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() && !self.ended {
            match self.from.recv() {
                Ok(Message::Chunk(chunk)) => (self.chunk, self.read) = (chunk, 0),
                Ok(Message::End(summary)) => (self.summary, self.ended) = (summary, true),
                Ok(Message::Failed(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                // The thread panicked: the end was not seen, so this is not the end.
                Err(_) => return Err(io::Error::other("the fetching thread is gone")),
            }
        }
        let rest = &self.chunk[self.read..];
        let taken = rest.len().min(buf.len());
        buf[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        Ok(taken)
    }
}
