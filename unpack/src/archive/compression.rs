//! How a layer is wrapped: told by its first bytes, and undone.
//!
//! Members, frames, checksums and what follows them are checked here; how bytes come and go is in
//! `buffers`, what is in them in `archive`.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use crate::archive::buffers::{Buffers, Filler, Gone, read_buffered};
use crate::error::refusal::{Class, Refusal};
use crate::limits::{Compression, Limits, ZEROS_MAX};

/// Bytes that may come out whatever their ratio: a megabyte of blob cannot make more of them.
const RATIO_FREE: u64 = 256 << 20;

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

/// Inflates `blob` into `filler`.
pub(crate) fn inflate(
    filler: Filler,
    blob: Buffers,
    compression: Compression,
    limits: &Limits,
) -> Result<(), Gone> {
    let mut bytes = 0u64;
    let input = Cell::new(0u64);
    let failed = Cell::new(None);
    let blob = Watched { inner: blob, input: &input, failed: &failed };
    let seen = |piece: &[u8]| {
        bytes += piece.len() as u64;
        let fair = input.get().saturating_mul(limits.ratio_max).max(RATIO_FREE);
        if bytes > fair {
            let ratio = bytes / input.get().max(1);
            let rule = "compression ratio too high";
            return Err(Refusal::limit("--ratio-max", rule, ratio, limits.ratio_max).into());
        }
        Ok(())
    };
    match compression {
        Compression::Plain => filler.pump(blob, seen),
        Compression::Gzip => {
            filler.pump(Checked { inner: Members::new(blob), failed: &failed }, seen)
        }
        Compression::Zstd => match zstd_decoder(blob, limits) {
            Ok(decoder) => filler.pump(Checked { inner: decoder, failed: &failed }, seen),
            Err(e) => filler.send(Err(e)),
        },
    }
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
    input: &'a Cell<u64>,
    failed: &'a Cell<Option<io::Error>>,
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
        read_buffered(self, to)
    }
}

/// Tells a decoder's complaint about the data from an error of the source.
struct Checked<'a, R> {
    inner: R,
    failed: &'a Cell<Option<io::Error>>,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.inner.read(to).map_err(|e| match self.failed.take() {
            Some(source) => source,
            None if e.kind() == io::ErrorKind::Interrupted => e,
            // What libzstd says of a window beyond the limit (ZSTD_error_frameParameter_windowTooLarge).
            None if e.to_string().contains("requires too much memory") => Refusal::new(
                Class::Limit,
                "the zstd window is larger than --zstd-window-log-max allows",
            )
            .into(),
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
    let mut zeros = 0;
    loop {
        let piece = rest.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        if piece.iter().any(|&b| b != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "data after gzip padding"));
        }
        let len = piece.len();
        zeros += len as u64;
        if zeros > ZEROS_MAX {
            let why = "more than 64 MiB of gzip padding";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        rest.consume(len);
    }
}
