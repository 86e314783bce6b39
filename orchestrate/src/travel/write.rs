//! A stream is written: the head, a record for each block or stretch, the index and the trailer.
//!
//! The index has an entry for each record. Kept here in memory it would be as large as the disk, so it goes out to
//! `aside`, and comes back from there.

use std::io::{Read, Write};

use registry::Digest;
use sha2::{Digest as _, Sha256};

use crate::travel::entry::{ENTRY_BYTES, Entry, Order, What};
use crate::travel::fault::Fault;
use crate::travel::head::Head;

/// What a trailer begins with.
pub(crate) const END_MAGIC: [u8; 8] = *b"VNRDEND\x01";

/// Bytes of a trailer: its magic, the place of the index, its entries, the digests of the content and of all bytes.
pub(crate) const TRAILER_BYTES: usize = 8 + 8 + 8 + 32 + 32;

/// How well frames are packed: what zstd's own program does.
const LEVEL: i32 = 3;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes of the stream.
    pub(crate) bytes: u64,
    /// Blocks with data in the content.
    pub(crate) data_blocks: u64,
    /// Blocks of the content that read as zeros.
    pub(crate) zero_blocks: u64,
    /// Blocks whose frames are in this stream.
    pub(crate) sent_blocks: u64,
    /// The digest of the content.
    pub(crate) content: Digest,
}

/// See the module.
pub(crate) struct StreamWriter<'a, W: Write, A: Read + Write> {
    out: W,
    aside: A,
    head: &'a Head,
    order: Order,
    pack: zstd::bulk::Compressor<'static>,
    frame: Vec<u8>,
    all: Sha256,
    content: Sha256,
    entries: u64,
    done: Sent,
}

impl<'a, W: Write, A: Read + Write> StreamWriter<'a, W, A> {
    /// Writes the head.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn new(out: W, aside: A, head: &'a Head) -> Result<StreamWriter<'a, W, A>, Fault> {
        let begin = head.bytes()?;
        let mut writer = StreamWriter {
            out,
            aside,
            head,
            order: Order::new(head.blocks()),
            pack: zstd::bulk::Compressor::new(LEVEL).map_err(Fault::Io)?,
            frame: Vec::new(),
            all: Sha256::new(),
            content: head.begins_digest()?,
            entries: 0,
            done: Sent {
                bytes: 0,
                data_blocks: 0,
                zero_blocks: 0,
                sent_blocks: 0,
                content: Digest([0; 32]),
            },
        };
        writer.put(&begin)?;
        Ok(writer)
    }

    /// Adds the block `begin`, whole.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn data(&mut self, begin: u64, block: &[u8]) -> Result<(), Fault> {
        let sha256 = Digest(Sha256::digest(block).into());
        let mut entry = Entry { what: What::Data { frame: 0 }, begin, blocks: 1, place: 0, sha256 };
        self.done.data_blocks += 1;
        if begin < self.head.from {
            return self.keep(&entry);
        }
        let bound = zstd::zstd_safe::compress_bound(block.len());
        self.frame.resize(bound, 0);
        let packed = self.pack.compress_to_buffer(block, &mut self.frame[..]);
        self.frame.truncate(packed.map_err(Fault::Io)?);
        let frame = u32::try_from(self.frame.len()).map_err(|_| Fault::Beyond {
            what: "the length of a frame, bytes,",
            value: self.frame.len() as u64,
            limit: u32::MAX.into(),
        })?;
        (entry.what, entry.place) = (What::Data { frame }, self.done.bytes);
        self.put(&entry.bytes())?;
        let frame = std::mem::take(&mut self.frame);
        let put = self.put(&frame);
        self.frame = frame;
        self.done.sent_blocks += 1;
        put.and_then(|()| self.keep(&entry))
    }

    /// Adds blocks that read as zeros.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn zeros(&mut self, begin: u64, blocks: u64) -> Result<(), Fault> {
        let sha256 = Digest([0; 32]);
        let mut entry = Entry { what: What::Zeros, begin, blocks, place: 0, sha256 };
        self.done.zero_blocks += blocks;
        if begin >= self.head.from {
            entry.place = self.done.bytes;
            self.put(&entry.bytes())?;
        }
        self.keep(&entry)
    }

    /// Writes the index and the trailer. `rewind` makes what was put aside be read from its beginning.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn finish(
        mut self,
        rewind: impl FnOnce(&mut A) -> std::io::Result<()>,
    ) -> Result<(Sent, W), Fault> {
        let index = self.done.bytes;
        let sha256 = Digest([0; 32]);
        let end = Entry { what: What::End, begin: 0, blocks: self.entries, place: index, sha256 };
        self.put(&end.bytes())?;
        self.aside.flush().and_then(|()| rewind(&mut self.aside)).map_err(Fault::Io)?;
        for _ in 0..self.entries {
            let mut entry = [0; ENTRY_BYTES];
            self.aside.read_exact(&mut entry).map_err(Fault::Io)?;
            self.put(&entry)?;
        }
        self.done.content = Digest(self.content.clone().finalize().into());
        let mut trailer = END_MAGIC.to_vec();
        trailer.extend(index.to_le_bytes());
        trailer.extend(self.entries.to_le_bytes());
        trailer.extend(self.done.content.0);
        self.put(&trailer)?;
        let all: [u8; 32] = self.all.clone().finalize().into();
        self.put(&all)?;
        self.out.flush().map_err(Fault::Io)?;
        Ok((self.done, self.out))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.write_all(bytes).map_err(Fault::Io)?;
        self.all.update(bytes);
        self.done.bytes += bytes.len() as u64;
        Ok(())
    }

    fn keep(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.order.take(entry, self.done.bytes)?;
        self.content.update(entry.content());
        self.entries += 1;
        self.aside.write_all(&entry.bytes()).map_err(Fault::Io)
    }
}
