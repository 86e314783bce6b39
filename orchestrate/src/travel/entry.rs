//! One entry of a stream: a block with its data, a stretch of zeros, or the end. 64 bytes, little-endian:
//! kind (1), zeros (3), bytes of the frame (4), first block (8), blocks (8), place of the record (8), sha256 (32).

use registry::Digest;

use crate::travel::fault::Fault;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 64;

/// What an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// One block: a frame of so many bytes follows its record.
    Data {
        /// Bytes of the frame; 0 in the index of a stream that does not have the record.
        frame: u32,
    },
    /// Blocks that are not mapped, and read as zeros.
    Zeros,
    /// The end of the records; `blocks` is how many entries the index has.
    End,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What it is of.
    pub(crate) what: What,
    /// The first block.
    pub(crate) begin: u64,
    /// How many.
    pub(crate) blocks: u64,
    /// Where its record begins, bytes from the beginning of the stream; 0 where the stream does not have it.
    pub(crate) place: u64,
    /// sha256 of the block as it is on the disk; zeros where there is no data.
    pub(crate) sha256: Digest,
}

impl Entry {
    /// As it stands in the stream.
    pub(crate) fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let (kind, frame) = match self.what {
            What::Data { frame } => (1, frame),
            What::Zeros => (2, 0),
            What::End => (3, 0),
        };
        out[0] = kind;
        out[4..8].copy_from_slice(&frame.to_le_bytes());
        out[8..16].copy_from_slice(&self.begin.to_le_bytes());
        out[16..24].copy_from_slice(&self.blocks.to_le_bytes());
        out[24..32].copy_from_slice(&self.place.to_le_bytes());
        out[32..].copy_from_slice(&self.sha256.0);
        out
    }

    /// Reads one that stands at byte `at`.
    ///
    /// # Errors
    /// [`Fault::Entry`].
    pub(crate) fn parse(bytes: &[u8; ENTRY_BYTES], at: u64) -> Result<Entry, Fault> {
        let bad = |what| Fault::Entry { at, what };
        let long = |from: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(value)
        };
        let frame = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if bytes[1..4] != [0; 3] {
            return Err(bad("bytes that should be zero are not"));
        }
        let what = match bytes[0] {
            1 => What::Data { frame },
            2 => What::Zeros,
            3 => What::End,
            _ => return Err(bad("it is of no kind that this program knows")),
        };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[32..]);
        if !matches!(what, What::Data { .. }) && (frame != 0 || sha256 != [0; 32]) {
            return Err(bad("it has no data, and a frame or a digest of some"));
        }
        let entry = Entry {
            what,
            begin: long(8),
            blocks: long(16),
            place: long(24),
            sha256: Digest(sha256),
        };
        match entry.what {
            What::Data { .. } if entry.blocks != 1 => Err(bad("a frame is of one block")),
            What::Zeros if entry.blocks == 0 => Err(bad("a stretch of no blocks")),
            What::Data { .. } | What::Zeros | What::End => Ok(entry),
        }
    }

    /// The part of it that the digest of the content covers: not how it is packed, nor where.
    pub(crate) fn content(&self) -> [u8; ENTRY_BYTES] {
        let what = match self.what {
            What::Data { .. } => What::Data { frame: 0 },
            What::Zeros => What::Zeros,
            What::End => What::End,
        };
        Entry { what, place: 0, ..*self }.bytes()
    }
}

/// That entries ascend, do not overlap and stay on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// Blocks of the disk.
    blocks: u64,
    /// The first that may come.
    free: u64,
}

impl Order {
    pub(crate) fn new(blocks: u64) -> Order {
        Order { blocks, free: 0 }
    }

    pub(crate) fn take(&mut self, entry: &Entry, at: u64) -> Result<(), Fault> {
        if entry.begin < self.free {
            return Err(Fault::Entry { at, what: "its blocks were there before" });
        }
        let end = entry.begin.checked_add(entry.blocks).filter(|end| *end <= self.blocks);
        self.free =
            end.ok_or(Fault::Entry { at, what: "its blocks are beyond the end of the disk" })?;
        Ok(())
    }
}
