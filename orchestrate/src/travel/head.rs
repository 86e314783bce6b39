//! What a stream says of itself: which disk it is of, and what it stands on.

use registry::{Digest, DiskState};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::travel::fault::Fault;

/// The first bytes of a stream; the last of them is the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"VNRDISK\x01";

/// Bytes that a head may have.
pub(crate) const HEAD_MAX: usize = 64 << 10;

/// Bytes of a block: those that a pool may have (kernel's thin-provisioning.rst), and what is held in memory.
pub(crate) const BLOCK_MIN: u64 = 64 << 10;
/// See [`BLOCK_MIN`].
pub(crate) const BLOCK_MAX: u64 = 64 << 20;

/// Bytes of a disk: what the metadata of one pool can map at most is far below it.
pub(crate) const DISK_MAX: u64 = 1 << 50;

/// What the blocks of a stream are put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Basis {
    /// On nothing: every block that the disk has is in the stream.
    Nothing {},
    /// On the sealed volume of the image.
    Image {
        /// Its block digest.
        blocks: Digest,
    },
    /// On an earlier point, that was received before.
    Point {
        /// Which.
        identity: Digest,
    },
}

/// A point of the sent disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadPoint {
    /// Its name there.
    pub(crate) name: String,
    /// What tells it from every other point anywhere.
    pub(crate) identity: Digest,
    /// What the file system on it is.
    pub(crate) consistency: DiskState,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// What tells this content from every other: equal in every stream of it, wherever that begins.
    pub(crate) stream: Digest,
    /// The activation's name where it was sent.
    pub(crate) name: String,
    /// Its image.
    pub(crate) image: String,
    /// The chain id of its stack.
    pub(crate) chain: Digest,
    /// Bytes of a block: that of the pool it was on.
    pub(crate) block_bytes: u64,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// What its blocks are put on.
    pub(crate) basis: Basis,
    /// Which point it is; none where it is the disk as it was when it was sent.
    pub(crate) point: Option<HeadPoint>,
    /// The first block whose record is in this stream: what is below it was sent before.
    pub(crate) from: u64,
}

impl Head {
    /// How many blocks the disk has.
    pub(crate) fn blocks(&self) -> u64 {
        self.disk_bytes / self.block_bytes.max(1)
    }

    /// Everything but where this stream begins.
    pub(crate) fn begins_digest(&self) -> Result<Sha256, Fault> {
        let text = json(&Head { from: 0, ..self.clone() })?;
        let mut hash = Sha256::new();
        hash.update(&text);
        Ok(hash)
    }

    /// Its bytes in the stream, with what is before and after.
    ///
    /// # Errors
    /// [`Fault::Beyond`] where they are too many.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Fault> {
        self.check()?;
        let text = json(self)?;
        let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= HEAD_MAX);
        let length = length.ok_or(Fault::Beyond {
            what: "the length of the head, bytes,",
            value: text.len() as u64,
            limit: HEAD_MAX as u64,
        })?;
        let mut out = MAGIC.to_vec();
        out.extend(length.to_le_bytes());
        out.extend(text);
        let digest = Sha256::digest(&out);
        out.extend(digest);
        Ok(out)
    }

    /// Reads the text of one, whose digest was compared.
    ///
    /// # Errors
    /// [`Fault::Head`], [`Fault::Beyond`].
    pub(crate) fn parse(text: &[u8]) -> Result<Head, Fault> {
        let head: Head = serde_json::from_slice(text)
            .map_err(|error| Fault::Head { what: error.to_string() })?;
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), Fault> {
        let beyond = |what, value, limit| Err(Fault::Beyond { what, value, limit });
        let head = |what: &str| Err(Fault::Head { what: what.into() });
        if self.block_bytes > BLOCK_MAX {
            return beyond("the size of a block, bytes,", self.block_bytes, BLOCK_MAX);
        }
        if self.block_bytes < BLOCK_MIN || !self.block_bytes.is_multiple_of(BLOCK_MIN) {
            return head("the size of a block is not a multiple of 65536 bytes");
        }
        if self.disk_bytes > DISK_MAX {
            return beyond("the size of the disk, bytes,", self.disk_bytes, DISK_MAX);
        }
        if self.disk_bytes == 0 || !self.disk_bytes.is_multiple_of(self.block_bytes) {
            return head("the size of the disk is not whole blocks");
        }
        if self.from > self.blocks() {
            return beyond("the block that it begins at", self.from, self.blocks());
        }
        Ok(())
    }
}

fn json(head: &Head) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(head).map_err(|error| Fault::Head { what: error.to_string() })
}
