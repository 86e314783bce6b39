//! A sealed image becomes larger: its groups keep what they have, new ones are empty.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::ext4::format::crc::SEED;
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::geometry::Geometry;
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{
    BLOCK_UNINIT, Changing, Group, MARK_OFFSET, Mark, superblock,
};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blank::{descriptors, write_copies, write_group};
use crate::ext4::write::blocks::Blocks;
use crate::ext4::write::image::{Head, block_bitmap, journal_map};
use crate::ext4::write::zeros::clear;

/// Writes all that is other in the geometry `to`, which is that of the image with more doublings. The first thing
/// that is written makes the image an unsealed one, and it is not sealed again.
///
/// # Errors
/// [`Unfit::Changed`] where a bitmap is not as it was sealed, before anything is written; [`Unfit::Io`].
pub(crate) fn grow(file: &File, head: Head, to: Geometry) -> Result<(), Unfit> {
    let Head { mark, changing, mut groups } = head;
    let from = mark.geometry;
    let (old, new) = (Layout::new(from), Layout::new(to));
    let block = u64::from(to.block);
    let mut bitmaps = Vec::new();
    for (number, group) in (0u32..).zip(&mut groups) {
        if let Some(bits) = changed(file, (from, &old), (to, &new), number, group)? {
            bitmaps.push((group.block_bitmap, bits));
        }
    }

    let map = journal_map(&new);
    let unsealed = |geometry, now: Changing| {
        let now = Changing { clean: false, ..now };
        let mark = Mark { geometry, digest: [0; 32], ..mark };
        let both = [&mark.encode()[..], &superblock(geometry, &now, &map, 0)].concat();
        file.write_all_at(&both, MARK_OFFSET).map_err(Unfit::write)
    };
    unsealed(from, changing)?;
    // Inodes of whatever was there must not come back.
    for run in new.fixed.iter().filter(|run| run.start >= from.blocks) {
        clear(file, run.start * block, run.end() * block)?;
    }
    for (at, bits) in bitmaps {
        file.write_all_at(&bits, at * block).map_err(Unfit::write)?;
    }
    for number in from.groups()..to.groups() {
        groups.push(write_group(file, to, &new, number)?);
    }
    write_copies(file, to, &new)?;
    file.write_all_at(&descriptors(to, &groups), block).map_err(Unfit::write)?;
    let now = Changing {
        free_blocks: groups.iter().map(|group| u64::from(group.free_blocks)).sum(),
        free_inodes: changing.free_inodes + (to.inodes() - from.inodes()),
        ..changing
    };
    unsealed(to, now)
}

/// Brings a group that was there to the new geometry: its end may be another, and a longer table of descriptors or
/// the parts of new groups may lie in it. Says its bitmap where that has to be written again.
fn changed(
    file: &File,
    (from, old): (Geometry, &Layout),
    (to, new): (Geometry, &Layout),
    number: u32,
    group: &mut Group,
) -> Result<Option<Vec<u8>>, Unfit> {
    let (was, _) = Blocks::fixed_bits(from, old, number);
    let (now, _) = Blocks::fixed_bits(to, new, number);
    if was == now {
        return Ok(None);
    }
    let count = |bits: &dyn Fn(u8, u8) -> u8| -> u32 {
        was.iter().zip(&now).map(|(&was, &now)| bits(was, now).count_ones()).sum()
    };
    let (freed, taken) = (count(&|was, now| was & !now), count(&|was, now| now & !was));
    group.free_blocks = (group.free_blocks + freed).checked_sub(taken).ok_or(Unfit::Changed)?;
    if group.flags & BLOCK_UNINIT != 0 {
        // Only the copy in it is longer, which the kernel knows to be there.
        return Ok(None);
    }
    let mut bits = block_bitmap(file, from, group)?;
    for (bits, (was, now)) in bits.iter_mut().zip(was.iter().zip(&now)) {
        // Only what differs: the root's first block, say, may be free by now.
        let (freed, taken) = (was & !now, now & !was);
        if *bits & freed != freed || *bits & taken != 0 {
            return Err(Unfit::Changed);
        }
        *bits = *bits & !freed | taken;
    }
    group.block_bitmap_sum = crc32c(SEED, &bits);
    Ok(Some(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ext4::apply::{Before, make_blank};

    /// A block that is used where the table of descriptors becomes longer, or a free one behind the end, whatever
    /// the checksums say.
    #[test]
    fn what_is_in_the_way_is_not_written_over() {
        // One block of descriptors, and with twice as many groups two; the last group is a part of one. With few
        // inodes its end stays free.
        for (inodes, group, bit, used) in [(0, 0, 2, true), (0, 1, 2, true), (1, 31, 16_383, false)]
        {
            let geometry = Geometry::new(1000 << 20, 2048, inodes, 1 << 20).unwrap();
            let to = geometry.doubled().unwrap();
            let file = tempfile::tempfile().unwrap();
            file.set_len(to.bytes()).unwrap();
            make_blank(&file, geometry, Before::Unknown).unwrap();
            let mut head = Head::read(&file).unwrap();
            let at = head.groups[group].block_bitmap * u64::from(geometry.block);
            let mut bits = vec![0; geometry.block_len()];
            file.read_exact_at(&mut bits, at).unwrap();
            bits[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bits[bit / 8] & 1 << (bit % 8) != 0, used);
            file.write_all_at(&bits, at).unwrap();
            head.groups[group].block_bitmap_sum = crc32c(SEED, &bits);
            let said = grow(&file, head, to);
            assert!(matches!(said, Err(Unfit::Changed)), "{group} {said:?}");
            Head::read(&file).unwrap();
        }
    }
}
