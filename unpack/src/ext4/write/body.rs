//! A file's content: block after block as it comes, holes left out.

use crate::error::Fault;
use crate::ext4::format::inode::{self, Extent, LONGEST};
use crate::ext4::write::image::Image;
use crate::tree::sink::{cannot_hold_pieces, cannot_hold_size};

static ZEROS: [u8; 4096] = [0; 4096];

/// A file being written.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) number: u32,
    pub(crate) extents: Vec<Extent>,
    /// Offset in the file of the next byte, if it follows the last one.
    end: u64,
    /// Where on the device that byte goes, and how many bytes of blocks that were taken are left there.
    at: u64,
    room: u64,
    /// What is said of a file that is too large.
    size: u64,
}

impl Body {
    pub(crate) fn new(number: u32, size: u64) -> Body {
        Body { number, extents: Vec::new(), end: 0, at: 0, room: 0, size }
    }

    /// Blocks of the file.
    pub(crate) fn blocks(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }
}

/// Extents of a file with one level of blocks that hold them.
pub(crate) fn extents_max(block: usize) -> usize {
    inode::IN_INODE * inode::in_block(block)
}

impl Image {
    /// The next piece, at or after the end of the last.
    pub(crate) fn append(
        &mut self,
        body: &mut Body,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), Fault> {
        let block = self.block_len() as u64;
        if offset != body.end {
            if body.room > 0 && offset / block == body.end / block {
                self.zeros(body, offset - body.end)?;
            } else {
                self.fill(body)?;
                body.end = offset / block * block;
                self.zeros(body, offset % block)?;
            }
        }
        self.bytes(body, piece)
    }

    /// Fills the last block with zeros.
    pub(crate) fn fill(&mut self, body: &mut Body) -> Result<(), Fault> {
        self.zeros(body, body.room)
    }

    fn zeros(&mut self, body: &mut Body, count: u64) -> Result<(), Fault> {
        // Less than a block.
        let count = usize::try_from(count).unwrap_or(0).min(ZEROS.len());
        self.bytes(body, &ZEROS[..count])
    }

    fn bytes(&mut self, body: &mut Body, mut bytes: &[u8]) -> Result<(), Fault> {
        let block = self.block_len() as u64;
        while !bytes.is_empty() {
            if body.room == 0 {
                let want = (bytes.len() as u64).div_ceil(block).min(LONGEST.into());
                let run = self.blocks.take(&mut self.disk, want)?;
                let logical =
                    u32::try_from(body.end / block).map_err(|_| cannot_hold_size(body.size))?;
                let len = u32::try_from(run.len).unwrap_or(0);
                join(&mut body.extents, Extent { logical, len, start: run.start });
                let most = extents_max(self.block_len());
                if body.extents.len() > most {
                    return Err(cannot_hold_pieces(body.extents.len(), most));
                }
                (body.at, body.room) = (run.start * block, run.len * block);
            }
            let now = usize::try_from(body.room).unwrap_or(usize::MAX).min(bytes.len());
            self.disk.stream(body.at, &bytes[..now])?;
            bytes = &bytes[now..];
            body.at += now as u64;
            body.room -= now as u64;
            body.end += now as u64;
        }
        Ok(())
    }
}

/// Adds an extent, as part of the last one where both are one run.
pub(crate) fn join(extents: &mut Vec<Extent>, more: Extent) {
    if let Some(last) = extents.last_mut()
        && last.logical + last.len == more.logical
        && last.start + u64::from(last.len) == more.start
        && last.len + more.len <= LONGEST
    {
        last.len += more.len;
        return;
    }
    extents.push(more);
}
