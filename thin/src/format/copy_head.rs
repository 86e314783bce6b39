//! The first page of a file that has a copy of a pool's metadata: whose it is, of when, and what follows. Pure.
//!
//! The file has pages of 4096 bytes: this one, the superblock as the metadata snapshot had it, and every node of the
//! trees of thins, of their details and of their mappings, each once. Each page but the first says itself which block of
//! the metadata it is, under the kernel's own checksum.

use serde::{Deserialize, Serialize};

use crate::format::block::{BLOCK, crc32c};
use crate::format::ondisk::SUPERBLOCK_XOR;

/// Version of this form.
const FORMAT: u32 = 1;
const WHAT: &str = "metadata of a thin pool";
/// A checksum in hexadecimal digits, and a line feed.
const END: usize = 9;

/// What a copy says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyHead {
    /// Version of this form.
    pub format: u32,
    what: String,
    /// The pool's identity.
    pub id: String,
    /// Device-mapper name of the pool.
    pub name: String,
    /// Seconds since 1970 when it was taken.
    pub taken_s: u64,
    /// The pool's transaction id.
    pub transaction_id: u64,
    /// Size of a data block in sectors.
    pub block_sectors: u64,
    /// Data blocks that the pool had.
    pub data_blocks: u64,
    /// Metadata blocks that the pool had.
    pub metadata_blocks: u64,
    /// Thins.
    pub thins: u64,
    /// Pages that follow.
    pub pages: u64,
    /// CRC-32C of the pages that follow.
    pub sum: u32,
}

/// What whoever copies knows of the pool beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) taken_s: u64,
    pub(crate) transaction_id: u64,
    pub(crate) block_sectors: u64,
    pub(crate) data_blocks: u64,
    pub(crate) metadata_blocks: u64,
}

impl CopyHead {
    pub(crate) fn new(of: Taken, thins: u64, pages: u64, sum: u32) -> CopyHead {
        CopyHead {
            format: FORMAT,
            what: WHAT.to_owned(),
            id: of.id,
            name: of.name,
            taken_s: of.taken_s,
            transaction_id: of.transaction_id,
            block_sectors: of.block_sectors,
            data_blocks: of.data_blocks,
            metadata_blocks: of.metadata_blocks,
            thins,
            pages,
            sum,
        }
    }

    /// The page; none where the names in it are too long.
    pub(crate) fn page(&self) -> Option<[u8; BLOCK]> {
        let text = serde_json::to_string(self).ok()?;
        let mut page = [b' '; BLOCK];
        page[..BLOCK - END].get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let sum = format!("{:08x}\n", crc32c(&page[..BLOCK - END]));
        page[BLOCK - END..].copy_from_slice(sum.as_bytes());
        Some(page)
    }

    /// Reads the page.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(page: &[u8]) -> Result<CopyHead, String> {
        let other = || "it is no copy of a pool's metadata".to_owned();
        let page = page.get(..BLOCK).ok_or_else(other)?;
        let (text, sum) = page.split_at(BLOCK - END);
        if !text.starts_with(b"{\"format\":") {
            return Err(other());
        }
        if format!("{:08x}\n", crc32c(text)).as_bytes() != sum {
            return Err("the checksum of its first page does not hold: it is damaged".to_owned());
        }
        let head: CopyHead =
            serde_json::from_slice(text).map_err(|err| format!("its first page: {err}"))?;
        if head.format != FORMAT || head.what != WHAT {
            let (found, what) = (head.format, head.what.escape_debug());
            return Err(format!(
                "format {found} of \"{what}\", this program knows {FORMAT} of \"{WHAT}\""
            ));
        }
        Ok(head)
    }
}

/// The superblock of a metadata snapshot as it is to stand in block 0: without a snapshot or a failed commit, with
/// these roots of space maps, for metadata of so many blocks.
pub(crate) fn rooted(
    superblock: &[u8; BLOCK],
    data: [u8; 32],
    metadata: [u8; 32],
    metadata_blocks: u64,
) -> [u8; BLOCK] {
    let mut out = *superblock;
    out[4..8].fill(0);
    out[8..16].fill(0);
    out[56..64].fill(0);
    out[64..320].fill(0);
    out[64..96].copy_from_slice(&data);
    out[192..224].copy_from_slice(&metadata);
    out[344..352].copy_from_slice(&metadata_blocks.to_le_bytes());
    let sum = crc32c(&out[4..]) ^ SUPERBLOCK_XOR;
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> CopyHead {
        let of = Taken {
            id: "00112233445566778899aabbccddeeff".to_owned(),
            name: "veneer".to_owned(),
            taken_s: 1_796_000_000,
            transaction_id: 41,
            block_sectors: 128,
            data_blocks: 1 << 20,
            metadata_blocks: 4096,
        };
        CopyHead::new(of, 12, 99, 0xdead_beef)
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_no_bit_of_it_may_change() {
        let page = head().page().unwrap();
        assert_eq!(CopyHead::parse(&page), Ok(head()));
        for at in 0..BLOCK {
            let mut bad = page;
            bad[at] ^= 4;
            assert!(CopyHead::parse(&bad).is_err(), "byte {at}");
        }
        assert!(CopyHead::parse(&page[..4095]).unwrap_err().contains("no copy"));
        assert!(CopyHead::parse(&[0; BLOCK]).unwrap_err().contains("no copy"));
        let newer = CopyHead { format: 2, ..head() }.page().unwrap();
        assert!(CopyHead::parse(&newer).unwrap_err().contains("format 2"));
        assert_eq!(CopyHead { name: "n".repeat(4096), ..head() }.page(), None);
    }
}
