//! A stream is read: in one pass, with one block in memory, and nothing of it is believed before it is compared.

use std::io::{ErrorKind, Read};

use registry::Digest;
use sha2::{Digest as _, Sha256};

use crate::travel::entry::{ENTRY_BYTES, Entry, Order, What};
use crate::travel::fault::Fault;
use crate::travel::head::{HEAD_MAX, Head, MAGIC};
use crate::travel::write::{END_MAGIC, TRAILER_BYTES};

/// What comes next of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The block of this number: it is in the buffer.
    Data(u64),
    /// So many blocks from this on read as zeros.
    Zeros(u64, u64),
    /// There are no more; the index follows.
    End,
}

/// What was read, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Bytes of the stream.
    pub(crate) bytes: u64,
    /// Entries of the index.
    pub(crate) entries: u64,
    /// The digest of the content.
    pub(crate) content: Digest,
}

/// See the module.
pub(crate) struct StreamReader<R: Read> {
    input: R,
    head: Head,
    at: u64,
    all: Sha256,
    /// Over the entries of the records, as they came.
    seen: Sha256,
    order: Order,
    frame: Vec<u8>,
    unpack: zstd::bulk::Decompressor<'static>,
    entries: u64,
    index: u64,
}

impl<R: Read> StreamReader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn new(mut input: R) -> Result<StreamReader<R>, Fault> {
        let mut begin = [0; MAGIC.len() + 4];
        fill(&mut input, &mut begin, 0)?;
        let (magic, length) = begin.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Fault::NoStream);
        }
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > HEAD_MAX {
            let (value, limit) = (length.into(), HEAD_MAX as u64);
            return Err(Fault::Beyond { what: "the length of the head, bytes,", value, limit });
        }
        let mut text = vec![0; bytes];
        let mut at = begin.len() as u64;
        fill(&mut input, &mut text, at)?;
        at += text.len() as u64;
        let mut digest = [0; 32];
        fill(&mut input, &mut digest, at)?;
        at += digest.len() as u64;
        let mut all = Sha256::new();
        all.update(begin);
        all.update(&text);
        if <[u8; 32]>::from(all.clone().finalize()) != digest {
            return Err(Fault::Seal { what: "the digest of its head is another" });
        }
        all.update(digest);
        let head = Head::parse(&text)?;
        Ok(StreamReader {
            input,
            order: Order::new(head.blocks()),
            head,
            at,
            all,
            seen: Sha256::new(),
            frame: Vec::new(),
            unpack: zstd::bulk::Decompressor::new().map_err(Fault::Io)?,
            entries: 0,
            index: 0,
        })
    }

    /// What it says of itself.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// What was not read of it.
    pub(crate) fn into_rest(self) -> R {
        self.input
    }

    /// The next record; a block's data is put into `block`.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn next(&mut self, block: &mut Vec<u8>) -> Result<Next, Fault> {
        let at = self.at;
        let entry = self.entry()?;
        if entry.place != at {
            return Err(Fault::Entry { at, what: "it says that it is elsewhere" });
        }
        if let What::End = entry.what {
            (self.entries, self.index) = (entry.blocks, at);
            let limit = self.head.blocks();
            if entry.blocks > limit {
                let value = entry.blocks;
                return Err(Fault::Beyond { what: "the entries of the index", value, limit });
            }
            return Ok(Next::End);
        }
        if entry.begin < self.head.from {
            return Err(Fault::Entry { at, what: "its blocks are before the stream's first" });
        }
        self.order.take(&entry, at)?;
        self.seen.update(entry.bytes());
        match entry.what {
            What::Data { frame } => {
                self.data(frame, &entry, block)?;
                Ok(Next::Data(entry.begin))
            }
            What::Zeros | What::End => Ok(Next::Zeros(entry.begin, entry.blocks)),
        }
    }

    fn data(&mut self, frame: u32, entry: &Entry, block: &mut Vec<u8>) -> Result<(), Fault> {
        let bytes = usize::try_from(self.head.block_bytes).unwrap_or(usize::MAX);
        let limit = zstd::zstd_safe::compress_bound(bytes);
        let length = usize::try_from(frame).unwrap_or(usize::MAX);
        if length > limit {
            let (value, limit) = (frame.into(), limit as u64);
            return Err(Fault::Beyond { what: "the length of a frame, bytes,", value, limit });
        }
        self.frame.resize(length, 0);
        fill(&mut self.input, &mut self.frame, self.at)?;
        self.all.update(&self.frame);
        self.at += u64::from(frame);
        let bad = Fault::Block { block: entry.begin };
        block.resize(bytes, 0);
        match self.unpack.decompress_to_buffer(&self.frame, &mut block[..]) {
            Ok(written) if written == bytes => {}
            Ok(_) | Err(_) => return Err(bad),
        }
        match Digest(Sha256::digest(&block[..]).into()) == entry.sha256 {
            true => Ok(()),
            false => Err(bad),
        }
    }

    /// Reads the index and the trailer, and compares all with what came. `visit` sees each entry of the content, also
    /// those whose records are in no part of this stream; what it says wrong ends it.
    ///
    /// # Errors
    /// [`Fault`], as that of `visit`.
    pub(crate) fn finish<E: From<Fault>>(
        mut self,
        mut visit: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<Whole, E> {
        let mut content = self.head.begins_digest()?;
        let (mut order, mut sent) = (Order::new(self.head.blocks()), Sha256::new());
        for _ in 0..self.entries {
            let at = self.at;
            let entry = self.entry()?;
            if let What::End = entry.what {
                return Err(Fault::Entry { at, what: "the index has an end in its middle" }.into());
            }
            order.take(&entry, at)?;
            content.update(entry.content());
            if entry.begin >= self.head.from {
                sent.update(entry.bytes());
            } else if entry.place != 0 || entry.content() != entry.bytes() {
                let what = "it tells of a record that the stream does not have";
                return Err(Fault::Entry { at, what }.into());
            }
            visit(&entry)?;
        }
        let content: [u8; 32] = content.finalize().into();
        let mut trailer = [0; TRAILER_BYTES - 32];
        self.take(&mut trailer)?;
        let mut wanted = END_MAGIC.to_vec();
        wanted.extend(self.index.to_le_bytes());
        wanted.extend(self.entries.to_le_bytes());
        let seal = |what| Err(Fault::Seal { what }.into());
        if !trailer.starts_with(&wanted) {
            return seal("its trailer does not lead to its index");
        }
        if sent.finalize() != self.seen.clone().finalize() {
            return seal("its index is not of its records");
        }
        if trailer[wanted.len()..] != content {
            return seal("the digest of its content is another");
        }
        let all: [u8; 32] = self.all.clone().finalize().into();
        let mut says = [0; 32];
        fill(&mut self.input, &mut says, self.at)?;
        self.at += says.len() as u64;
        if says != all {
            return seal("the digest of its bytes is another");
        }
        let more = loop {
            match self.input.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                more => break more.map_err(Fault::Io)?,
            }
        };
        match more {
            0 => Ok(Whole { bytes: self.at, entries: self.entries, content: Digest(content) }),
            _ => Err(Fault::Longer { at: self.at }.into()),
        }
    }

    fn entry(&mut self) -> Result<Entry, Fault> {
        let (mut bytes, at) = ([0; ENTRY_BYTES], self.at);
        self.take(&mut bytes)?;
        Entry::parse(&bytes, at)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        fill(&mut self.input, into, self.at)?;
        self.all.update(&*into);
        self.at += into.len() as u64;
        Ok(())
    }
}

/// Fills `into` from byte `at` of the stream on.
fn fill(input: &mut impl Read, into: &mut [u8], at: u64) -> Result<(), Fault> {
    let mut done = 0;
    while done < into.len() {
        match input.read(&mut into[done..]) {
            Ok(0) => return Err(Fault::Ends { at: at + done as u64 }),
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Io(error)),
        }
    }
    Ok(())
}
