//! The next layer arrives while the present one is applied: a body read ahead by a thread into a
//! bounded buffer. The reader sees the same bytes, and the same error, as without it.
//!
//! What came is spooled, so that the run after a killed one fetches only the rest. The spool goes
//! when the layer is sealed or refused for good; where a run failed for a while, it stays.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fetch::{Body, Client, Expect, ObjectRef, Summary};

use crate::Error;
use crate::error::{Class, class, stream_error};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 128 * 1024;

/// Chunks that may wait: 4 MiB a layer, and at most two layers are on their way.
const CHUNKS_WAITING: usize = 32;

enum Message {
    Chunk(Vec<u8>),
    End(Option<Summary>),
    Failed(io::Error),
}

/// The spool of one stream, as its two threads see it.
#[derive(Debug)]
enum Copy {
    /// Not opened yet, or there is none.
    None,
    At(PathBuf),
    /// The layer is settled: no copy is wanted any more.
    Unwanted,
}

/// A body on its way. Dropping it lets the connection go and leaves the spool to the next run.
#[derive(Debug)]
pub(crate) struct Stream {
    from: Receiver<Message>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
    summary: Option<Summary>,
    copy: Arc<Mutex<Copy>>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Begins to fetch; returns at once. Errors come out of `read`.
    pub(crate) fn begin(
        client: Client,
        object: ObjectRef,
        expect: Expect,
        spool_dir: PathBuf,
    ) -> Stream {
        let (to, from) = sync_channel(CHUNKS_WAITING);
        let copy = Arc::new(Mutex::new(Copy::None));
        let shared = copy.clone();
        let thread = thread::spawn(move || {
            let opened = match client.open_spooled(&object, &expect, &spool_dir) {
                // The spool is an extra: a disk that cannot hold one is no reason to fail.
                Err(fetch::Error::File { .. }) => client.open(&object, &expect),
                opened => opened,
            };
            let last = match opened {
                Ok(body) if announce(&body, &shared) => pass_on(body, &to),
                Ok(body) => {
                    // Settled before the first byte. What cannot be removed is swept later.
                    body.discard_spool().ok();
                    return;
                }
                Err(error) => Message::Failed(io::Error::other(error)),
            };
            // Nobody listens any more when the apply failed first.
            drop(to.send(last));
        });
        Stream { from, chunk: Vec::new(), read: 0, ended: false, summary: None, copy, thread }
    }

    /// The layer is sealed, or refused for good: removes the spool. Does not wait for the thread,
    /// which may be waiting for a dead server.
    pub(crate) fn discard_spool(&self) {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Copy::At(path) = &*copy {
            // What cannot be removed is swept later.
            fs::remove_file(path).ok();
        }
        *copy = Copy::Unwanted;
    }

    /// Lets go and waits until the spool is free for another stream of the same blob.
    pub(crate) fn release(self) {
        let Stream { from, thread, .. } = self;
        drop(from);
        drop(thread.join());
    }

    /// What was fetched; known only after the end was read.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }
}

/// Tells where the spool is; false when it is not wanted any more.
fn announce(body: &Body, shared: &Mutex<Copy>) -> bool {
    let mut copy = shared.lock().unwrap_or_else(PoisonError::into_inner);
    match (&*copy, body.spool_path()) {
        (Copy::Unwanted, _) => return false,
        (Copy::None | Copy::At(_), Some(path)) => *copy = Copy::At(path.to_owned()),
        (Copy::None | Copy::At(_), None) => {}
    }
    true
}

/// Whom to ask again after a layer failed, if that can help: what a spool had may be rotten, and a
/// cache or a peer may have lied, where a known digest lets anybody be asked.
pub(crate) fn next(client: &Client, known: bool, error: &Error) -> Result<Option<Client>, Error> {
    if matches!(stream_error(error), Some(fetch::Error::Rotten { .. })) {
        return Ok(Some(client.clone()));
    }
    match known && class(error) == Class::Refused {
        true => client.without_first_source().map_err(Error::Fetch),
        false => Ok(None),
    }
}

/// The spool directory of a state directory, made when it is not there.
pub(crate) fn spool_dir(state: &Path) -> Result<PathBuf, Error> {
    let path = state.join("spool");
    match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Io { doing: "make", path, source }),
    }
}

/// Removes spools that nobody came back for, and gives their number and bytes.
pub(crate) fn sweep(state: &Path, age: Duration) -> Result<(usize, u64), Error> {
    let (mut count, mut bytes) = (0, 0);
    for left in fetch::leftovers(&state.join("spool")).map_err(Error::Fetch)? {
        if left.age >= age && left.discard().map_err(Error::Fetch)? {
            count += 1;
            bytes += left.bytes;
        }
    }
    Ok((count, bytes))
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
