//! An object arrives while the one before it is put to use: a body read ahead by a thread into a bounded
//! buffer. The reader sees the same bytes, and the same error, as without it.
//!
//! What came is spooled, so that the process after a killed one fetches only the rest. The caller says when the
//! spool is to go; else it stays.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::client::Client;
use crate::error::Error;
use crate::flow::body::{Body, Summary};
use crate::http::retry::LOOK;
use crate::name::locator::Locator;
use crate::s3::object::Expect;
use crate::s3::options::Stop;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 128 * 1024;

/// Chunks that may wait: 4 MiB an object, and as much again for its MD5.
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
    /// The object is settled: no copy is wanted any more.
    Unwanted,
}

/// A body on its way. Dropping it lets the connection go and leaves the spool to the next run.
#[derive(Debug)]
pub struct Ahead {
    from: Receiver<Message>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
    summary: Option<Summary>,
    md5: Option<[u8; 16]>,
    copy: Arc<Mutex<Copy>>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Ahead {
    /// Begins to fetch; returns at once. Errors come out of `read`, which ends as soon as somebody asks to
    /// stop ([`crate::s3::options::Options::stop`]). With `md5` that is made, too.
    pub fn begin(
        client: Client,
        place: impl Into<Locator>,
        expect: Expect,
        spool_dir: PathBuf,
        md5: bool,
    ) -> Ahead {
        let object = place.into();
        let (to, from) = sync_channel(CHUNKS_WAITING);
        let copy = Arc::new(Mutex::new(Copy::None));
        let (shared, stop) = (copy.clone(), client.inner.options.stop.clone());
        let thread = thread::spawn(move || {
            let opened = match client.open_spooled(&object, &expect, &spool_dir) {
                // The spool is an extra: a disk that cannot hold one is no reason to fail.
                Err(Error::File { .. }) => client.open(&object, &expect),
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
            // Nobody listens any more when the reader went first.
            drop(to.send(last));
        });
        let chunk = Vec::new();
        let (read, ended, summary, md5) = (0, false, None, None);
        Ahead { from, chunk, read, ended, summary, md5, copy, stop, thread }
    }

    /// The object is put to use, or refused for good: removes the spool. Does not wait for the thread,
    /// which may be waiting for a dead server.
    pub fn discard_spool(&self) {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Copy::At(path) = &*copy {
            // What cannot be removed is swept later.
            fs::remove_file(path).ok();
        }
        *copy = Copy::Unwanted;
    }

    /// Lets go and waits until the spool is free for another reader of the same object, or until somebody
    /// asks to stop: the thread may be waiting for a dead server.
    pub fn release(self) {
        let Ahead { from, thread, stop, .. } = self;
        drop(from);
        while !thread.is_finished() && !stop.is_set() {
            thread::sleep(RELEASE_LOOK);
        }
    }

    /// What was fetched; known only after the end was read.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The MD5 of all that was read, where it was wanted; known only after the end was read.
    pub fn md5(&self) -> Option<[u8; 16]> {
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

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() && !self.ended {
            // Also while chunks are at hand: a wish to stop is heard in the middle of an object.
            if self.stop.is_set() {
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
