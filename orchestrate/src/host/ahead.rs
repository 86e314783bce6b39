//! The next layer arrives while the present one is applied: a body read ahead by a thread into a
//! bounded buffer. The reader sees the same bytes, and the same error, as without it.
//!
//! What came is spooled, so that the run after a killed one fetches only the rest. The spool goes
//! when the layer is sealed or refused for good; where a run failed for a while, it stays.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fetch::{Body, Client, Expect, ObjectRef, Summary};

use crate::error::Error;
use crate::error::class;
use crate::error::class::Class;
use crate::error::leaves::stream_error;
use crate::process::cancel::{Cancel, LOOK};
use crate::process::place;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 128 * 1024;

/// Chunks that may wait: 4 MiB a layer, as much again for its MD5, and at most two layers are on their way.
const CHUNKS_WAITING: usize = 32;

/// How often it is looked whether a stream that was let go has ended.
const RELEASE_LOOK: Duration = Duration::from_millis(5);

enum Message {
    Chunk(Vec<u8>),
    End(Option<(Summary, Option<[u8; 16]>)>),
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
    md5: Option<[u8; 16]>,
    copy: Arc<Mutex<Copy>>,
    cancel: Cancel,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Begins to fetch; returns at once. Errors come out of `read`, which ends as soon as somebody asks to
    /// stop. With `md5` that is made, too.
    pub(crate) fn begin(
        client: Client,
        object: ObjectRef,
        expect: Expect,
        spool_dir: PathBuf,
        md5: bool,
        cancel: Cancel,
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
                Ok(body) if announce(&body, &shared) => pass_on(body, md5, &to),
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
        let chunk = Vec::new();
        let (read, ended, summary, md5) = (0, false, None, None);
        Stream { from, chunk, read, ended, summary, md5, copy, cancel, thread }
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

    /// Lets go and waits until the spool is free for another stream of the same blob, or until somebody
    /// asks to stop: the thread may be waiting for a dead server.
    pub(crate) fn release(self) {
        let Stream { from, thread, cancel, .. } = self;
        drop(from);
        while !thread.is_finished() && !cancel.is_set() {
            thread::sleep(RELEASE_LOOK);
        }
    }

    /// What was fetched; known only after the end was read.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The MD5 of all that was read, where it was wanted; known only after the end was read.
    pub(crate) fn md5(&self) -> Option<[u8; 16]> {
        self.md5
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
/// cache or a peer may have lied or have another version, where a known digest lets anybody be asked.
pub(crate) fn next(
    client: &Client,
    object: &ObjectRef,
    known: bool,
    error: &Error,
) -> Result<Option<Client>, Error> {
    let fetched = stream_error(error);
    if matches!(fetched, Some(fetch::Error::Rotten { .. })) {
        return Ok(Some(client.clone()));
    }
    let other = fetched.is_some_and(|fetched| fetched.kind() == fetch::Kind::Changed);
    match known && (other || class(error) == Class::Refused) {
        true => client.elsewhere(object).map_err(Error::Fetch),
        false => Ok(None),
    }
}

/// The spool directory of a state directory, made when it is not there.
pub(crate) fn spool_dir(state: &Path) -> Result<PathBuf, Error> {
    let path = state.join("spool");
    place::make(&path, place::STATE).map(|()| path)
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

fn pass_on(mut body: Body, md5: bool, to: &SyncSender<Message>) -> Message {
    let mut md5 = md5.then(Md5::begin).flatten();
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
            let md5 = md5.and_then(Md5::end);
            return Message::End(body.summary().map(|summary| (summary, md5)));
        }
        if let Some(md5) = &mut md5 {
            md5.take(&chunk);
        }
        if to.send(Message::Chunk(chunk)).is_err() {
            return Message::End(None);
        }
    }
}

/// An MD5 on its way, by a thread: it is slower than the sha256, and nobody should wait for it.
struct Md5 {
    to: SyncSender<Vec<u8>>,
    thread: JoinHandle<[u8; 16]>,
}

impl Md5 {
    /// None where there is no thread to be had: then nothing is learnt of the server.
    fn begin() -> Option<Md5> {
        let (to, from) = sync_channel::<Vec<u8>>(CHUNKS_WAITING);
        let work = move || {
            let mut md5 = md5::Context::new();
            from.iter().for_each(|chunk| md5.consume(&chunk));
            md5.finalize().0
        };
        let thread = thread::Builder::new().name("md5".into()).spawn(work).ok()?;
        Some(Md5 { to, thread })
    }

    fn take(&self, chunk: &[u8]) {
        // A thread that is gone has nothing to say in the end.
        drop(self.to.send(chunk.to_vec()));
    }

    fn end(self) -> Option<[u8; 16]> {
        drop(self.to);
        self.thread.join().ok()
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() && !self.ended {
            // Also while chunks are at hand: a wish to stop is heard in the middle of a layer.
            if self.cancel.is_set() {
                self.ended = true;
                return Err(io::Error::other("somebody asked to stop"));
            }
            match self.from.recv_timeout(LOOK) {
                Ok(Message::Chunk(chunk)) => (self.chunk, self.read) = (chunk, 0),
                Ok(Message::End(end)) => {
                    let (summary, md5) = end.unzip();
                    (self.summary, self.md5, self.ended) = (summary, md5.flatten(), true);
                }
                Ok(Message::Failed(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                // The thread panicked: the end was not seen, so this is not the end.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the fetching thread is gone"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let rest = &self.chunk[self.read..];
        let taken = rest.len().min(buf.len());
        buf[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        Ok(taken)
    }
}
