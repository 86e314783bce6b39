//! A sealed image loses its journal: for an activation whose owner wants none. What `tune2fs -O ^has_journal` does,
//! on an image of which each byte is known.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::ext4::format::crc::{SEED, crc32c};
use crate::ext4::format::geometry::{Geometry, INODE, JOURNAL_INODE, Run};
use crate::ext4::format::inode::{LEN, sign_empty};
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{
    BLOCK_UNINIT, Changing, Group, MARK_OFFSET, Mark, superblock, without_journal,
};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blank::descriptors;
use crate::ext4::write::image::{Head, block_bitmap, journal_map};

/// Frees the journal's blocks, clears inode 8 and takes it out of the superblock, which is written last. From the first
/// byte on, the image is no sealed one any more, and it never is again. Until the last one it says that it has a
/// journal, and that it is not clean.
///
/// # Errors
/// [`Unfit::Changed`] where a bitmap is not as it was sealed, before anything is written; [`Unfit::Io`].
pub(crate) fn drop_journal(file: &File, head: Head) -> Result<(), Unfit> {
    let Head { mark, changing, mut groups } = head;
    let geometry = mark.geometry;
    let layout = Layout::new(geometry);
    let block = u64::from(geometry.block);
    let mut bitmaps = Vec::new();
    for (number, group) in (0u64..).zip(&mut groups) {
        if let Some(bits) = freed(file, geometry, layout.journal, number, group)? {
            bitmaps.push((group.block_bitmap, bits));
        }
    }

    let map = journal_map(&layout);
    let unsealed = Mark { digest: [0; 32], ..mark }.encode();
    let begun = superblock(geometry, &Changing { clean: false, ..changing }, &map, 0);
    file.write_all_at(&[&unsealed[..], &begun].concat(), MARK_OFFSET).map_err(Unfit::write)?;
    for (at, bits) in bitmaps {
        file.write_all_at(&bits, at * block).map_err(Unfit::write)?;
    }
    let mut inode = [0; LEN];
    sign_empty(&mut inode, JOURNAL_INODE);
    let at = layout.tables[0] * block + u64::from(JOURNAL_INODE - 1) * INODE;
    file.write_all_at(&inode, at).map_err(Unfit::write)?;
    file.write_all_at(&descriptors(geometry, &groups), block).map_err(Unfit::write)?;
    file.sync_all().map_err(Unfit::write)?;
    let free_blocks = groups.iter().map(|group| u64::from(group.free_blocks)).sum();
    let ended =
        without_journal(superblock(geometry, &Changing { free_blocks, ..changing }, &map, 0));
    file.write_all_at(&[&unsealed[..], &ended].concat(), MARK_OFFSET).map_err(Unfit::write)?;
    file.sync_all().map_err(Unfit::write)
}

/// Frees what a group has of the journal, and says its bitmap if that is anything.
fn freed(
    file: &File,
    geometry: Geometry,
    journal: [Run; 2],
    number: u64,
    group: &mut Group,
) -> Result<Option<Vec<u8>>, Unfit> {
    let per_group = geometry.blocks_per_group();
    let (first, end) = (number * per_group, (number + 1) * per_group);
    let own: Vec<u64> = journal
        .iter()
        .flat_map(|run| run.start.max(first)..run.end().min(end))
        .map(|block| block - first)
        .collect();
    if own.is_empty() {
        return Ok(None);
    }
    if group.flags & BLOCK_UNINIT != 0 {
        return Err(Unfit::Changed);
    }
    let mut bits = block_bitmap(file, geometry, group)?;
    for bit in own {
        let (byte, mask) = (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8));
        let byte = bits.get_mut(byte).filter(|byte| **byte & mask != 0).ok_or(Unfit::Changed)?;
        *byte &= !mask;
        group.free_blocks += 1;
    }
    group.block_bitmap_sum = crc32c(SEED, &bits);
    Ok(Some(bits))
}
