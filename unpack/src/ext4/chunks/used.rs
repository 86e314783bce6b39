//! Which blocks of a chunk count: the fixed parts of the file system always, the others as the bitmap of their
//! group says. Nothing here trusts what is read: whatever it is, it decides what is digested and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ext4::format::bytes::get16;
use crate::ext4::format::geometry::{DESCRIPTOR, Geometry};
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::BLOCK_UNINIT;
use crate::ext4::write::blocks::set_bits;
use crate::record::chunk_set::CHUNK;

/// Bits of a chunk's blocks: 1 MiB in blocks of 2 KiB is the most.
const MASK: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) geometry: Geometry,
    layout: Layout,
    /// By group: whether its bitmap was never written, so that nothing of it counts but its fixed parts.
    blank: Vec<bool>,
}

/// The bitmap of a group, kept as long as chunks of that group follow one another.
#[derive(Debug, Default)]
pub(crate) struct Bitmap {
    group: Option<u64>,
    bits: Vec<u8>,
}

/// The blocks of one chunk that count.
#[derive(Debug)]
pub(crate) struct Mask {
    bits: [u8; MASK],
    /// Blocks of the chunk: fewer in the last one.
    blocks: usize,
}

impl Used {
    /// Reads the descriptors.
    pub(crate) fn read(image: &File, geometry: Geometry) -> io::Result<Used> {
        let len = usize::try_from(DESCRIPTOR).unwrap_or(usize::MAX);
        let mut bytes = vec![0; geometry.groups() as usize * len];
        image.read_exact_at(&mut bytes, geometry.block.into())?;
        let blank =
            bytes.chunks_exact(len).map(|group| get16(group, 0x12) & BLOCK_UNINIT != 0).collect();
        let mut layout = Layout::new(geometry);
        // A directory moves with the first layer that changes it.
        let moves = [layout.root, layout.lost_and_found];
        layout.fixed.retain(|run| !moves.contains(&run.start));
        Ok(Used { geometry, layout, blank })
    }

    /// What counts of a chunk of this file system.
    pub(crate) fn mask(&self, image: &File, chunk: u64, kept: &mut Bitmap) -> io::Result<Mask> {
        let per_chunk = CHUNK / u64::from(self.geometry.block);
        let (start, per_group) = (chunk * per_chunk, self.geometry.blocks_per_group());
        let end = (start + per_chunk).min(self.geometry.blocks);
        let blocks = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let mut bits = [0; MASK];
        // A chunk lies in one group: a bitmap covers whole chunks.
        let (group, first) = (start / per_group, start % per_group);
        if self.blank.get(usize::try_from(group).unwrap_or(usize::MAX)) == Some(&false) {
            kept.load(image, &self.layout, self.geometry, group)?;
            let at = usize::try_from(first / 8).unwrap_or(usize::MAX);
            let own = kept.bits.iter().skip(at).take(blocks.div_ceil(8));
            bits.iter_mut().zip(own).for_each(|(bit, own)| *bit = *own);
        }
        let fixed = &self.layout.fixed;
        let near = fixed.partition_point(|run| run.end() <= start);
        for run in fixed[near..].iter().take_while(|run| run.start < end) {
            let (from, to) = (run.start.max(start), run.end().min(end));
            set_bits(&mut bits, from - start, to - from, true);
        }
        Ok(Mask { bits, blocks })
    }
}

impl Bitmap {
    fn load(
        &mut self,
        image: &File,
        layout: &Layout,
        geometry: Geometry,
        group: u64,
    ) -> io::Result<()> {
        if self.group == Some(group) {
            return Ok(());
        }
        self.group = None;
        self.bits.resize(geometry.block_len(), 0);
        let block = usize::try_from(group).ok().and_then(|group| layout.block_bitmaps.get(group));
        let at = block.copied().unwrap_or(0) * u64::from(geometry.block);
        image.read_exact_at(&mut self.bits, at)?;
        self.group = Some(group);
        Ok(())
    }
}

impl Mask {
    fn has(&self, block: usize) -> bool {
        block < self.blocks && self.bits[block / 8] & 1 << (block % 8) != 0
    }

    /// The blocks from the first to the last that count; `None` where none does.
    pub(crate) fn span(&self) -> Option<(usize, usize)> {
        let first = (0..self.blocks).find(|&block| self.has(block))?;
        let last = (0..self.blocks).rfind(|&block| self.has(block))?;
        Some((first, last + 1))
    }

    /// The blocks that do not count.
    pub(crate) fn free(&self) -> impl Iterator<Item = usize> {
        (0..self.blocks).filter(|&block| !self.has(block))
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }
}
