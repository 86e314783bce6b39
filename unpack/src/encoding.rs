//! From the blob to the plain tar: compression told by content, both digests, and the threads
//! that let reading, inflating, hashing and writing happen at the same time.
//!
//! The caller's thread reads the blob (so that its reader need not be `Send` to us) and hashes
//! it; if it is compressed a second thread inflates it; the plain bytes go to the consumer over
//! a bounded channel as whole buffers, which come back to be used again.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Instant;
use std::{error, fmt};

use crate::content::{Note, Noted};
use crate::error::{Class, Refusal};
use crate::limits::Limits;
use crate::sha::Sha256;

/// How a layer is wrapped (OCI image spec, layer.md, media types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    Plain,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more zstd frames (RFC 8878), skippable ones among them.
    Zstd,
}

impl Compression {
    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// By the first bytes of a blob; `None` if they are those of another compression.
    pub fn sniff(start: &[u8]) -> Option<Compression> {
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Some(Compression::Zstd),
            // xz, bzip2, lz4, compress
            [0xfd, b'7', b'z', b'X', ..] | [b'B', b'Z', b'h', ..] => None,
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x1f, 0x9d, ..] => None,
            _ => Some(Compression::Plain),
        }
    }
}

/// A refusal on its way through `io::Error`.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) Refusal);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for Broken {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::other(Broken(refusal))
    }
}

/// Bytes of one buffer, and how many may be on their way in one channel.
const BUFFER: usize = 128 << 10;
const BUFFERS: usize = 6;

/// What the reading side saw of the blob.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: [u8; 32],
    pub(crate) bytes: u64,
    pub(crate) compression: Compression,
}

/// What the inflating side saw of the tar.
#[derive(Debug)]
pub(crate) struct Diff {
    pub(crate) digest: [u8; 32],
    pub(crate) bytes: u64,
}

/// The receiving end of a buffer channel.
#[derive(Debug)]
pub(crate) struct Buffers {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    now: Vec<u8>,
    at: usize,
    deadline: Instant,
    time_max: u64,
    /// Where buffers go whose contents are to be hashed, and what is noted of the current one.
    hasher: Option<SyncSender<Noted>>,
    notes: Vec<Note>,
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

pub(crate) fn channel(limits: &Limits, start: Instant) -> (Filler, Buffers) {
    let (full, full_rx) = sync_channel(BUFFERS);
    let (empty_tx, empty) = sync_channel(BUFFERS + 2);
    let filler = Filler { full, empty, made: 0 };
    let deadline = start + limits.time_max;
    let time_max = limits.time_max.as_secs();
    let buffers = Buffers {
        full: full_rx,
        empty: empty_tx,
        now: Vec::new(),
        at: 0,
        deadline,
        time_max,
        hasher: None,
        notes: Vec::new(),
    };
    (filler, buffers)
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

    fn send(&self, filled: io::Result<Vec<u8>>) -> Result<(), Gone> {
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

impl Buffers {
    /// Has contents hashed: `note_part` and `note_end` say which. The receiving end of `hasher`
    /// is served by [`crate::content::hash`], with the sender given back here.
    pub(crate) fn hash_contents(&mut self, hasher: SyncSender<Noted>) -> SyncSender<Vec<u8>> {
        self.hasher = Some(hasher);
        self.empty.clone()
    }

    /// The next `len` bytes are a file's.
    pub(crate) fn note_part(&mut self, len: usize) {
        self.notes.push(Note::Part { from: self.at, to: self.at + len });
    }

    /// The file is whole.
    pub(crate) fn note_end(&mut self) {
        self.notes.push(Note::End);
    }

    /// Lets go of a buffer that was read.
    fn release(&mut self, old: Vec<u8>) {
        let notes = std::mem::take(&mut self.notes);
        let gone = match &self.hasher {
            Some(hasher) if !notes.is_empty() => hasher.send((old, notes)).is_err(),
            _ => old.capacity() > 0 && self.empty.try_send(old).is_err(),
        };
        if gone {
            // Whoever would have it is done; the buffer may go.
        }
    }
}

impl BufRead for Buffers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.now.len() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.full.recv_timeout(left) {
                Ok(Ok(next)) => {
                    let old = std::mem::replace(&mut self.now, next);
                    self.at = 0;
                    self.release(old);
                }
                Ok(Err(e)) => return Err(e),
                Err(RecvTimeoutError::Disconnected) => {
                    let last = std::mem::take(&mut self.now);
                    self.at = 0;
                    self.release(last);
                    return Ok(&[]);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let rule = "layer takes too long, in seconds";
                    return Err(
                        Refusal::limit("--time-max", rule, self.time_max, self.time_max).into()
                    );
                }
            }
        }
        Ok(&self.now[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}

impl Read for Buffers {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}

/// Reads the first bytes of a blob, enough to tell its compression, and puts them back in front.
pub(crate) fn sniffed(
    mut layer: impl Read,
    limits: &Limits,
) -> io::Result<(Compression, impl Read)> {
    let mut start = [0; 6];
    let mut len = 0;
    while len < start.len() {
        match layer.read(&mut start[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let start = start[..len].to_vec();
    let Some(compression) = Compression::sniff(&start) else {
        return Err(Refusal::new(Class::Compression, "unsupported compression")
            .bytes(&start)
            .into());
    };
    if let Some(declared) = limits.compression
        && declared != compression
    {
        return Err(Refusal::new(Class::Compression, "not compressed as declared, but")
            .bytes(compression.name().as_bytes())
            .into());
    }
    Ok((compression, io::Cursor::new(start).chain(layer)))
}

/// Counts, hashes and bounds the blob while it is pumped.
pub(crate) fn pump_blob(
    filler: Filler,
    layer: impl Read,
    compression: Compression,
    limits: &Limits,
) -> Result<Blob, Gone> {
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    filler.pump(layer, |piece| {
        bytes += piece.len() as u64;
        if bytes > limits.blob_bytes_max {
            let rule = "blob too large";
            return Err(
                Refusal::limit("--blob-bytes-max", rule, bytes, limits.blob_bytes_max).into()
            );
        }
        hash.update(piece);
        Ok(())
    })?;
    Ok(Blob { digest: hash.finish(), bytes, compression })
}

/// Inflates `blob` into `filler`, hashing what comes out.
pub(crate) fn inflate(
    filler: Filler,
    blob: Buffers,
    compression: Compression,
    limits: &Limits,
) -> Result<Diff, Gone> {
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    let input = std::cell::Cell::new(0u64);
    let failed = std::cell::Cell::new(None);
    let blob = Watched { inner: blob, input: &input, failed: &failed };
    let seen = |piece: &[u8]| {
        bytes += piece.len() as u64;
        let fair = input.get().saturating_mul(limits.ratio_max).max(1 << 30);
        if bytes > fair {
            let ratio = bytes / input.get().max(1);
            let rule = "compression ratio too high";
            return Err(Refusal::limit("--ratio-max", rule, ratio, limits.ratio_max).into());
        }
        hash.update(piece);
        Ok(())
    };
    match compression {
        Compression::Plain => filler.pump(blob, seen)?,
        Compression::Gzip => {
            filler.pump(Checked { inner: Members::new(blob), failed: &failed }, seen)?;
        }
        Compression::Zstd => match zstd_decoder(blob, limits) {
            Ok(decoder) => filler.pump(Checked { inner: decoder, failed: &failed }, seen)?,
            Err(e) => filler.send(Err(e))?,
        },
    }
    Ok(Diff { digest: hash.finish(), bytes })
}

fn zstd_decoder<R: BufRead>(
    blob: R,
    limits: &Limits,
) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
    decoder.window_log_max(limits.zstd_window_log_max)?;
    Ok(decoder)
}

/// Keeps the source's own error apart from what a decoder makes of it, and counts the input.
struct Watched<'a, R> {
    inner: R,
    input: &'a std::cell::Cell<u64>,
    failed: &'a std::cell::Cell<Option<io::Error>>,
}

impl<R: BufRead> BufRead for Watched<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.inner.fill_buf() {
            Ok(piece) => Ok(piece),
            Err(e) => {
                self.failed.set(Some(e));
                Err(io::Error::other("source failed"))
            }
        }
    }

    fn consume(&mut self, len: usize) {
        self.input.set(self.input.get() + len as u64);
        self.inner.consume(len);
    }
}

impl<R: BufRead> Read for Watched<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}

/// Tells a decoder's complaint about the data from an error of the source.
struct Checked<'a, R> {
    inner: R,
    failed: &'a std::cell::Cell<Option<io::Error>>,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.inner.read(to).map_err(|e| match self.failed.take() {
            Some(source) => source,
            None if e.kind() == io::ErrorKind::Interrupted => e,
            None => Refusal::new(Class::Compression, "corrupt compressed data")
                .bytes(e.to_string().as_bytes())
                .into(),
        })
    }
}

/// All gzip members of a stream, then zero padding (RFC 1952 2.2: "a series of members").
struct Members<R> {
    state: Member<R>,
}

enum Member<R> {
    Inside(Box<flate2::bufread::GzDecoder<R>>),
    Between(R),
    Done,
}

impl<R: BufRead> Members<R> {
    fn new(inner: R) -> Members<R> {
        Members { state: Member::Inside(Box::new(flate2::bufread::GzDecoder::new(inner))) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, Member::Done) {
                Member::Done => return Ok(0),
                Member::Inside(mut decoder) => {
                    let len = decoder.read(to);
                    if matches!(len, Ok(0)) && !to.is_empty() {
                        self.state = Member::Between(decoder.into_inner());
                        continue;
                    }
                    self.state = Member::Inside(decoder);
                    return len;
                }
                Member::Between(mut inner) => match inner.fill_buf()?.first() {
                    None => return Ok(0),
                    Some(0) => padding(inner)?,
                    Some(_) => {
                        self.state =
                            Member::Inside(Box::new(flate2::bufread::GzDecoder::new(inner)));
                    }
                },
            }
        }
    }
}

fn padding(mut rest: impl BufRead) -> io::Result<()> {
    loop {
        let piece = rest.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        if piece.iter().any(|&b| b != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "data after gzip padding"));
        }
        let len = piece.len();
        rest.consume(len);
    }
}
