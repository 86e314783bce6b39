//! The empty file system: what every first layer goes on in.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::archive::pax::Time;
use crate::ext4::format::crc::SEED;
use crate::ext4::format::crc::crc32c;
use crate::ext4::format::directory::{DIRECTORY, Name, NameBlock};
use crate::ext4::format::geometry::{
    FIRST_FREE, Geometry, JOURNAL, JOURNAL_INODE, LOST_AND_FOUND, ROOT,
};
use crate::ext4::format::inode::{
    self, ATTRIBUTES, EXTENTS, Extent, IBLOCK, Inode, LEN, leaf_map, sign, sign_empty,
};
use crate::ext4::format::journal;
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{
    BLANK_UUID, BLOCK_UNINIT, Changing, Group, INODE_UNINIT, INODE_ZEROED, MARK_OFFSET, Mark,
    OFFSET, superblock,
};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blocks::{Blocks, set_bits};
use crate::ext4::write::image::{digest, journal_map};
use crate::ext4::write::inodes::blank_bits;

/// Writes an empty file system to what reads as zeros: superblock, copies, descriptors, bitmaps, the inodes
/// below 12, the root with an empty `lost+found`, and a journal.
pub(crate) fn write_blank(file: &File, geometry: Geometry) -> Result<(), Unfit> {
    let layout = Layout::new(geometry);
    let block = geometry.block_len();
    let put = |number: u64, bytes: &[u8]| {
        file.write_all_at(bytes, number * block as u64).map_err(Unfit::write)
    };
    for number in 0..geometry.groups() {
        write_group(file, geometry, &layout, number)?;
    }
    put(layout.tables[0], &first_inodes(geometry, &layout))?;
    let mut root = NameBlock::first(block, ROOT, ROOT);
    root.put(Name { inode: LOST_AND_FOUND, kind: DIRECTORY, name: b"lost+found" });
    put(layout.root, &root.finish(ROOT))?;
    put(
        layout.lost_and_found,
        &NameBlock::first(block, LOST_AND_FOUND, ROOT).finish(LOST_AND_FOUND),
    )?;
    put(layout.journal[0].start, &journal::superblock(geometry))?;

    let (now, groups) = write_copies(file, geometry, &layout)?;
    put(1, &descriptors(geometry, &groups))?;
    let bytes = superblock(geometry, &now, &journal_map(&layout), 0);
    let mark = Mark {
        geometry,
        layers: 0,
        next_directory: FIRST_FREE,
        next_file: layout.first_file,
        next_block: layout.first_data,
        digest: digest(&bytes, &groups),
    };
    file.write_all_at(&bytes, OFFSET).map_err(Unfit::write)?;
    file.write_all_at(&mark.encode(), MARK_OFFSET).map_err(Unfit::write)
}

/// Writes the copies of superblock and descriptors, which are those of an empty file system for ever; says what
/// they say.
pub(crate) fn write_copies(
    file: &File,
    geometry: Geometry,
    layout: &Layout,
) -> Result<(Changing, Vec<Group>), Unfit> {
    let numbers = 0..geometry.groups();
    let groups: Vec<Group> =
        numbers.clone().map(|number| blank_group(geometry, layout, number).0).collect();
    let now = Changing {
        free_blocks: groups.iter().map(|group| u64::from(group.free_blocks)).sum(),
        free_inodes: groups.iter().map(|group| group.free_inodes).sum(),
        uuid: BLANK_UUID,
        clean: true,
    };
    let map = journal_map(layout);
    let table = descriptors(geometry, &groups);
    let block = u64::from(geometry.block);
    let put =
        |number: u64, bytes: &[u8]| file.write_all_at(bytes, number * block).map_err(Unfit::write);
    for number in numbers {
        let Some(copy) = geometry.backup(number) else { continue };
        let of = u16::try_from(number).unwrap_or(u16::MAX);
        put(copy.start, &superblock(geometry, &now, &map, of))?;
        put(copy.start + 1, &table)?;
    }
    Ok((now, groups))
}

/// The table of descriptors, in whole blocks.
pub(crate) fn descriptors(geometry: Geometry, groups: &[Group]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0u32..).zip(groups).flat_map(|(number, group)| group.encode(number)).collect();
    bytes.resize(bytes.len().next_multiple_of(geometry.block_len()), 0);
    bytes
}

/// Writes the bitmaps of an empty group that have to be written; says its descriptor.
pub(crate) fn write_group(
    file: &File,
    geometry: Geometry,
    layout: &Layout,
    number: u32,
) -> Result<Group, Unfit> {
    let (group, blocks, inodes) = blank_group(geometry, layout, number);
    for (at, bits) in [(group.block_bitmap, blocks), (group.inode_bitmap, inodes)] {
        let Some(bits) = bits else { continue };
        file.write_all_at(&bits, at * u64::from(geometry.block)).map_err(Unfit::write)?;
    }
    Ok(group)
}

/// A group's descriptor, and its bitmaps where they have to be written.
fn blank_group(
    geometry: Geometry,
    layout: &Layout,
    number: u32,
) -> (Group, Option<Vec<u8>>, Option<Vec<u8>>) {
    let (bits, taken) = Blocks::fixed_bits(geometry, layout, number);
    let copy = geometry.backup(number).map_or(0, |copy| copy.len);
    let mut flags = INODE_ZEROED;
    // A bitmap may be left unwritten only where it holds nothing that the kernel does not expect there.
    let block_bits = (taken > copy || geometry.was_last(number)).then_some(bits);
    let block_bitmap_sum = match &block_bits {
        Some(bits) => crc32c(SEED, bits),
        None => {
            flags |= BLOCK_UNINIT;
            0
        }
    };
    let used = if number == 0 { FIRST_FREE - 1 } else { 0 };
    let inode_bits = (used > 0).then(|| {
        let mut bits = blank_bits(geometry);
        set_bits(&mut bits, 0, used.into(), true);
        bits
    });
    let inode_bitmap_sum = match &inode_bits {
        Some(bits) => crc32c(SEED, &bits[..geometry.inodes_per_group as usize / 8]),
        None => {
            flags |= INODE_UNINIT;
            0
        }
    };
    let at = number as usize;
    let group = Group {
        block_bitmap: layout.block_bitmaps[at],
        inode_bitmap: layout.inode_bitmaps[at],
        table: layout.tables[at],
        free_blocks: u32::try_from(geometry.blocks_of(number) - taken).unwrap_or(0),
        free_inodes: geometry.inodes_per_group - used,
        directories: if number == 0 { 2 } else { 0 },
        unused: geometry.inodes_per_group - used,
        flags,
        block_bitmap_sum,
        inode_bitmap_sum,
    };
    (group, block_bits, inode_bits)
}

/// The inodes below 12, in whole blocks: the reserved ones are empty but signed, as mke2fs leaves them.
fn first_inodes(geometry: Geometry, layout: &Layout) -> Vec<u8> {
    let blank = Inode {
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        time: Time { sec: 0, nsec: 0 },
        links: 0,
        sectors: 0,
        flags: 0,
        map: [0; IBLOCK],
        attributes_block: 0,
        attributes: [0; ATTRIBUTES],
    };
    let block = u64::from(geometry.block);
    let one_block = |mode, links, start| Inode {
        mode: inode::DIRECTORY | mode,
        size: block,
        links,
        sectors: block / 512,
        flags: EXTENTS,
        map: leaf_map(&[Extent { logical: 0, len: 1, start }]),
        ..blank.clone()
    };
    let journal = Inode {
        mode: inode::REGULAR | 0o600,
        size: JOURNAL * block,
        links: 1,
        sectors: JOURNAL * block / 512,
        flags: EXTENTS,
        map: journal_map(layout),
        ..blank.clone()
    };
    let len = (FIRST_FREE as usize * LEN).next_multiple_of(geometry.block_len());
    let mut bytes = vec![0; len];
    for (number, bytes) in (1..FIRST_FREE).zip(bytes.chunks_exact_mut(LEN)) {
        let inode = match number {
            ROOT => one_block(0o755, 3, layout.root),
            JOURNAL_INODE => journal.clone(),
            LOST_AND_FOUND => one_block(0o700, 2, layout.lost_and_found),
            _ => {
                sign_empty(bytes, number);
                continue;
            }
        };
        bytes.copy_from_slice(&inode.encode());
        sign(bytes, number);
    }
    bytes
}
