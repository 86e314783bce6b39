//! The frames of a tar stream, read strictly: header blocks, extension bodies, entry bodies,
//! padding, the end marker and what follows it.
//!
//! One profile: where known readers disagree about a construct, it is refused. Memory is bounded
//! by `Limits::extension_bytes_max` and the reader's own buffer, whatever the input. The fields
//! of a block are read in `header`, records in `pax`, meaning in `entry`.

pub(crate) mod acl;
pub(crate) mod buffers;
pub(crate) mod compression;
pub(crate) mod content;
pub(crate) mod entry;
pub(crate) mod header;
pub(crate) mod members;
pub(crate) mod number;
pub(crate) mod pack;
pub(crate) mod pax;
pub(crate) mod pipeline;
pub(crate) mod sparse;
pub(crate) mod timed;

use std::io::{self, BufRead};
use std::time::Instant;

use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Extensions, Framing, entry};
use crate::archive::header::BLOCK;
use crate::archive::sparse::{Front, Parts, Sparse, parts};
use crate::error::refusal::{Class, Place, Refusal};
use crate::error::{Error, Fault};
use crate::limits::{Limits, ZEROS_MAX};

/// Bytes of holes before their ratio to what the layer has counts: some seconds of hashing.
const HOLES_FREE: u64 = 8 << 30;

/// How a tar stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// Two zero blocks, as POSIX has it.
    Marker,
    /// One zero block.
    HalfMarker,
    /// At a block boundary after an entry, without a marker.
    Bare,
    /// At once: there is not a byte, as `docker save` has it for a layer of nothing.
    Empty,
}

/// A tar stream being read.
pub(crate) struct Archive<'l, R> {
    input: R,
    limits: &'l Limits,
    /// Bytes of the tar consumed.
    pos: u64,
    /// Entries handed out.
    index: u64,
    /// Unread bytes of the current body, and the padding after them.
    body: u64,
    pad: u64,
    /// What the archive has of the current file, if that is sparse.
    parts: Option<Parts>,
    /// Bytes of all holes so far.
    holes: u64,
    place: Place,
}

impl<'l, R: BufRead> Archive<'l, R> {
    pub(crate) fn new(input: R, limits: &'l Limits) -> Archive<'l, R> {
        let place = Place::default();
        Archive { input, limits, pos: 0, index: 0, body: 0, pad: 0, parts: None, holes: 0, place }
    }

    /// Where reading stands: the entry at work or the last one.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The next entry, or how the stream ended. What the caller left of the last body is skipped.
    pub(crate) fn next(&mut self) -> Result<Result<Entry, End>, Error> {
        match self.advance() {
            Ok(next) => Ok(next),
            Err(fault) => Err(fault.at(self.place.clone())),
        }
    }

    /// The next piece of the current body; empty at its end. [`Archive::consume`] takes it.
    pub(crate) fn chunk(&mut self) -> Result<&[u8], Fault> {
        if self.body == 0 {
            return Ok(&[]);
        }
        let piece = self.input.fill_buf().map_err(stream_fault)?;
        if piece.is_empty() {
            return Err(truncated("the stream ends inside an entry's body").into());
        }
        let len = usize::try_from(self.body).unwrap_or(usize::MAX).min(piece.len());
        Ok(&piece[..len])
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.body -= len as u64;
        self.pos += len as u64;
    }

    /// Where the current body belongs in its file, if that is sparse: it is these parts one after
    /// another, and between them are holes.
    pub(crate) fn take_parts(&mut self) -> Option<Parts> {
        self.parts.take()
    }

    fn advance(&mut self) -> Result<Result<Entry, End>, Fault> {
        self.finish_body()?;
        self.parts = None;
        let mut extensions = Extensions::default();
        let (mut count, mut bytes, mut pending) = (0u64, 0u64, false);
        self.place = Place { index: self.index, offset: self.pos, name: Vec::new() };
        loop {
            let offset = self.pos;
            let Some(block) = self.block()? else {
                self.place.name.clear();
                if self.pos == 0 {
                    return Ok(Err(End::Empty));
                }
                self.nothing_pending(pending)?;
                return Ok(Err(End::Bare));
            };
            if block == [0; BLOCK] {
                self.place.name.clear();
                self.nothing_pending(pending)?;
                return self.end().map(Err);
            }
            let framed = header::frame(&block)?;
            match framed.typeflag {
                // Until the entry's name is known, that of its extension says most.
                b'x' | b'g' | b'L' | b'K' => self.place.name = header::name(&block).to_vec(),
                typeflag => {
                    let pax = extensions.pax.as_ref();
                    let long = extensions.long_name.is_some() || extensions.long_link.is_some();
                    let size = match pax.and_then(|pax| pax.size) {
                        // Older readers give the PAX size to the long name's body.
                        Some(_) if long => {
                            let rule = "a PAX size beside a GNU long name or link";
                            return Err(Refusal::new(Class::Extension, rule).into());
                        }
                        Some(size) => size,
                        None => framed.size,
                    };
                    let header = framed.header()?;
                    let framing = Framing { index: self.index, offset, typeflag, size };
                    let limits = self.limits;
                    let (entry, sparse) =
                        entry(&framing, header, extensions, limits, &mut self.place.name)?;
                    self.admit(sparse.as_ref().map_or(size, |sparse| size.max(sparse.size)))?;
                    self.start_body(size);
                    if let Some(sparse) = sparse {
                        self.spread(sparse, bytes)?;
                    }
                    self.index += 1;
                    return Ok(Ok(entry));
                }
            }
            count += 1;
            if count > self.limits.extensions_max {
                let rule = "too many extension headers before one entry";
                let max = self.limits.extensions_max;
                return Err(Refusal::limit("--extensions-max", rule, count, max).into());
            }
            bytes = bytes.saturating_add(framed.size);
            let typeflag = framed.typeflag;
            let size = framed.size;
            self.extension_bytes(bytes)?;
            let body = self.extension(size)?;
            match typeflag {
                b'g' => {
                    if pending {
                        let rule = "a global PAX header between an extension and its entry";
                        return Err(Refusal::new(Class::Extension, rule).into());
                    }
                    pax::parse_global(&body)?;
                    continue;
                }
                b'x' => {
                    let pax = pax::parse(&body, self.limits.xattrs_max)?;
                    set(&mut extensions.pax, pax, "two PAX headers in a row")?;
                }
                b'L' => set(&mut extensions.long_name, long(body)?, "two GNU long names")?,
                _ => set(&mut extensions.long_link, long(body)?, "two GNU long links")?,
            }
            pending = true;
        }
    }

    /// Refuses a body before anything is done for it.
    fn admit(&self, size: u64) -> Result<(), Refusal> {
        let limits = self.limits;
        if size > limits.file_bytes_max {
            let rule = "file too large";
            return Err(Refusal::limit("--file-bytes-max", rule, size, limits.file_bytes_max));
        }
        let total = self.pos.saturating_add(self.holes).saturating_add(size);
        if total > limits.bytes_max {
            let rule = "layer too large";
            return Err(Refusal::limit("--bytes-max", rule, total, limits.bytes_max));
        }
        if self.index >= limits.entries_max {
            let rule = "too many entries";
            return Err(Refusal::limit("--entries-max", rule, self.index + 1, limits.entries_max));
        }
        Ok(())
    }

    /// Finds where the body that begins here belongs. `spent` bytes of extensions came before it.
    fn spread(&mut self, sparse: Sparse, spent: u64) -> Result<(), Fault> {
        let map = match sparse.map {
            Some(map) => map,
            None => self.map_in_front(spent)?,
        };
        self.parts = Some(parts(&map, sparse.size, self.body)?);
        self.holes = self.holes.saturating_add(sparse.size - self.body);
        // Nobody sends them, and every zero of them is hashed.
        let sent = self.pos.saturating_add(self.body);
        let fair = sent.saturating_mul(self.limits.ratio_max).max(HOLES_FREE);
        if self.holes > fair {
            let rule = "too many bytes of holes for each that the layer has";
            let ratio = self.holes / sent.max(1);
            return Err(Refusal::limit("--ratio-max", rule, ratio, self.limits.ratio_max).into());
        }
        Ok(())
    }

    /// Reads the map at the beginning of the body, which is whole blocks.
    fn map_in_front(&mut self, mut bytes: u64) -> Result<Vec<u64>, Fault> {
        let mut front = Front::default();
        loop {
            if self.body < BLOCK as u64 {
                let rule = "a sparse map that does not fit its entry";
                return Err(Refusal::new(Class::Sparse, rule).into());
            }
            bytes = bytes.saturating_add(BLOCK as u64);
            self.extension_bytes(bytes)?;
            let mut block = [0; BLOCK];
            if self.fill(&mut block)? != BLOCK {
                return Err(truncated("the stream ends inside an entry's body").into());
            }
            self.body -= BLOCK as u64;
            if front.block(&block)? {
                return Ok(front.numbers());
            }
        }
    }

    /// Bounds what comes before an entry's content.
    fn extension_bytes(&self, bytes: u64) -> Result<(), Refusal> {
        let max = self.limits.extension_bytes_max;
        if bytes > max {
            let rule = "extension headers too large";
            return Err(Refusal::limit("--extension-bytes-max", rule, bytes, max));
        }
        Ok(())
    }

    fn nothing_pending(&self, pending: bool) -> Result<(), Refusal> {
        if pending {
            return Err(Refusal::new(Class::Extension, "an extension header without an entry"));
        }
        Ok(())
    }

    fn start_body(&mut self, size: u64) {
        self.body = size;
        self.pad = size.wrapping_neg() % BLOCK as u64;
    }

    fn finish_body(&mut self) -> Result<(), Fault> {
        loop {
            let len = self.chunk()?.len();
            if len == 0 {
                break;
            }
            self.consume(len);
        }
        let mut pad = [0; BLOCK];
        let len = usize::try_from(self.pad).unwrap_or(0);
        if self.fill(&mut pad[..len])? != len {
            return Err(truncated("the stream ends inside an entry's padding").into());
        }
        self.pad = 0;
        Ok(())
    }

    /// A whole extension body and its padding. The caller has checked its size.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        self.start_body(size);
        let mut body = Vec::new();
        loop {
            let piece = self.chunk()?;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(piece);
            let len = piece.len();
            self.consume(len);
        }
        self.finish_body()?;
        Ok(body)
    }

    /// The next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => {
                self.total()?;
                Ok(Some(block))
            }
            _ => Err(truncated("the stream ends inside a header block").into()),
        }
    }

    /// Reads until `to` is full or the stream ends; says how much came.
    fn fill(&mut self, to: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while done < to.len() {
            let piece = self.input.fill_buf().map_err(stream_fault)?;
            if piece.is_empty() {
                break;
            }
            let len = piece.len().min(to.len() - done);
            to[done..done + len].copy_from_slice(&piece[..len]);
            self.input.consume(len);
            done += len;
        }
        self.pos += done as u64;
        Ok(done)
    }

    /// After the first zero block: a second one, then zeros only, to the very end. Readers stop
    /// at different places here, so that anything else could hide from some of them. What fills a tape's
    /// last record is bounded: it could come from a hole, which costs nobody anything but its reader.
    fn end(&mut self) -> Result<End, Fault> {
        let Some(block) = self.block()? else {
            return Ok(End::HalfMarker);
        };
        if block != [0; BLOCK] {
            return Err(Refusal::new(Class::Frame, "data after a lone zero block").into());
        }
        let mut zeros = 0;
        loop {
            let piece = self.input.fill_buf().map_err(stream_fault)?;
            if piece.is_empty() {
                return Ok(End::Marker);
            }
            let len = piece.len();
            zeros += len as u64;
            if zeros > ZEROS_MAX {
                let rule = "more than 64 MiB of zeros after the end marker";
                return Err(Refusal::new(Class::Frame, rule).into());
            }
            if piece.iter().any(|&b| b != 0) {
                return Err(Refusal::new(Class::Frame, "data after the end marker").into());
            }
            self.input.consume(len);
            self.pos += len as u64;
            self.total()?;
        }
    }

    /// Bounds the tar with its holes, as far as it was read.
    fn total(&self) -> Result<(), Refusal> {
        let (total, max) = (self.pos.saturating_add(self.holes), self.limits.bytes_max);
        if total > max {
            return Err(Refusal::limit("--bytes-max", "layer too large", total, max));
        }
        Ok(())
    }
}

impl Archive<'_, Buffers> {
    /// When the layer has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        self.input.deadline()
    }

    /// [`Archive::consume`] for contents that are to be hashed.
    pub(crate) fn consume_content(&mut self, len: usize) {
        if self.limits.digests {
            self.input.note_part(len);
        }
        self.consume(len);
    }

    /// The body just consumed was a file's, and is whole.
    pub(crate) fn end_content(&mut self) {
        if self.limits.digests {
            self.input.note_end();
        }
    }
}

fn truncated(rule: &'static str) -> Refusal {
    Refusal::new(Class::Frame, rule)
}

/// Errors of the pipeline below carry a `Refusal` of their own where the layer is to blame.
pub(crate) fn stream_fault(error: io::Error) -> Fault {
    match error.downcast::<crate::archive::buffers::Broken>() {
        Ok(broken) => Fault::Refusal(broken.0),
        Err(source) => Fault::Stream(source),
    }
}

fn set<T>(slot: &mut Option<T>, value: T, rule: &'static str) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::new(Class::Extension, rule)),
    }
}

/// The body of a GNU `L` or `K` header: a name and its final NUL.
fn long(mut body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    while body.last() == Some(&0) {
        body.pop();
    }
    if body.is_empty() || body.contains(&0) {
        return Err(
            Refusal::new(Class::Extension, "GNU long name is empty or holds NUL").bytes(&body)
        );
    }
    Ok(body)
}
