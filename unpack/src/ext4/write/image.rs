//! An image that a layer goes on in: what is known of it while the layer is applied, and its two ends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::unistd::{Whence, lseek};

use crate::error::Fault;
use crate::ext4::format::crc::{SEED, crc32c};
use crate::ext4::format::geometry::{Geometry, ROOT};
use crate::ext4::format::inode::{Extent, IBLOCK, leaf_map};
use crate::ext4::format::layout::Layout;
use crate::ext4::format::superblock::{
    Changing, Group, LEN, MARK_LEN, MARK_OFFSET, Mark, Marked, OFFSET, changing, superblock,
};
use crate::ext4::unfit::Unfit;
use crate::ext4::write::blocks::Blocks;
use crate::ext4::write::directories::Directories;
use crate::ext4::write::disk::{Disk, damaged};
use crate::ext4::write::inodes::Inodes;
use crate::ext4::write::names::Names;
use crate::ext4::write::waiting::Later;
use crate::record::chunk_set::ChunkSet;
use crate::record::place::Spill;
use crate::sha::Sha256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) disk: Disk,
    pub(crate) blocks: Blocks,
    pub(crate) inodes: Inodes,
    pub(crate) names: Names,
    pub(crate) directories: Directories,
    pub(crate) later: Later,
    /// Bytes of new names for which no block is reserved yet.
    pub(crate) name_bytes: usize,
    mark: Mark,
    uuid: [u8; 16],
    journal: [u8; IBLOCK],
    /// The superblock as the first write left it.
    begun: [u8; LEN],
}

/// Mark, superblock and descriptors of a sealed image.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) mark: Mark,
    pub(crate) changing: Changing,
    pub(crate) groups: Vec<Group>,
}

impl Head {
    /// Reads and checks all of it.
    pub(crate) fn read(file: &File) -> Result<Head, Unfit> {
        let (mark, bytes) = read_start(file)?;
        let geometry = mark.geometry;
        let changing = changing(geometry, &bytes).ok_or(Unfit::Changed)?;
        if !changing.clean {
            return Err(Unfit::Unsealed);
        }
        let groups = read_groups(file, geometry)?;
        if digest(&bytes, &groups) != mark.digest {
            return Err(Unfit::Changed);
        }
        let layout = Layout::new(geometry);
        let placed = groups.iter().enumerate().all(|(n, group)| {
            group.block_bitmap == layout.block_bitmaps[n]
                && group.inode_bitmap == layout.inode_bitmaps[n]
                && group.table == layout.tables[n]
        });
        let in_bounds = mark.next_block <= geometry.blocks
            && mark.next_directory <= layout.first_file
            && mark.next_file >= layout.first_file;
        match placed && in_bounds {
            true => Ok(Head { mark, changing, groups }),
            false => Err(Unfit::Changed),
        }
    }
}

/// The mark, checked, and the superblock as it lies there.
fn read_start(file: &File) -> Result<(Mark, [u8; LEN]), Unfit> {
    let mut start = [0; 2048];
    let have = length(file)?;
    if have < start.len() as u64 {
        return Err(Unfit::Short { bytes: start.len() as u64, have });
    }
    file.read_exact_at(&mut start, 0).map_err(Unfit::read)?;
    let mut mark = [0; MARK_LEN];
    let at = usize::try_from(MARK_OFFSET).unwrap_or(0);
    mark.copy_from_slice(&start[at..at + MARK_LEN]);
    let mut bytes = [0; LEN];
    bytes.copy_from_slice(&start[1024..]);
    let mark = match Mark::decode(&mark) {
        Marked::Yes(mark) => mark,
        Marked::Version(version) => return Err(Unfit::Version(version)),
        Marked::Broken => return Err(Unfit::Changed),
        Marked::No if start.iter().all(|&byte| byte == 0) => return Err(Unfit::Empty),
        Marked::No => return Err(Unfit::Foreign),
    };
    let needs = mark.geometry.bytes();
    match have < needs {
        true => Err(Unfit::Short { bytes: needs, have }),
        false => Ok((mark, bytes)),
    }
}

/// Bytes of a file or a device.
pub(crate) fn length(file: &File) -> Result<u64, Unfit> {
    let end = lseek(file, 0, Whence::SeekEnd).map_err(|errno| Unfit::read(errno.into()))?;
    Ok(end.cast_unsigned())
}

fn read_groups(file: &File, geometry: Geometry) -> Result<Vec<Group>, Unfit> {
    let mut bytes = vec![0; geometry.groups() as usize * 64];
    file.read_exact_at(&mut bytes, geometry.block.into()).map_err(Unfit::read)?;
    let (descriptors, _) = bytes.as_chunks::<64>();
    (0u32..)
        .zip(descriptors)
        .map(|(number, bytes)| Group::decode(bytes, number).ok_or(Unfit::Changed))
        .collect()
}

/// The block bitmap of a group as it was sealed.
pub(crate) fn block_bitmap(
    file: &File,
    geometry: Geometry,
    group: &Group,
) -> Result<Vec<u8>, Unfit> {
    let mut bits = vec![0; geometry.block_len()];
    let at = group.block_bitmap * u64::from(geometry.block);
    file.read_exact_at(&mut bits, at).map_err(Unfit::read)?;
    match crc32c(SEED, &bits) == group.block_bitmap_sum {
        true => Ok(bits),
        false => Err(Unfit::Changed),
    }
}

/// Over the superblock and all descriptors.
pub(crate) fn digest(superblock: &[u8; LEN], groups: &[Group]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update(superblock);
    for (number, group) in (0u32..).zip(groups) {
        sha.update(group.encode(number));
    }
    sha.finish()
}

/// The map of inode 8.
pub(crate) fn journal_map(layout: &Layout) -> [u8; IBLOCK] {
    let [first, body] = layout.journal;
    leaf_map(&[
        Extent { logical: 0, len: 1, start: first.start },
        Extent { logical: 1, len: u32::try_from(body.len).unwrap_or(0), start: body.start },
    ])
}

/// Seals an image in which a layer was applied: from now on it is whole. With `diff_id` its UUID becomes
/// that of the chain.
///
/// # Errors
/// It is not what [`Image::finish`] leaves.
pub(crate) fn seal(file: &File, diff_id: Option<[u8; 32]>) -> Result<(), Unfit> {
    let (mut mark, bytes) = read_start(file)?;
    let mut now = changing(mark.geometry, &bytes).ok_or(Unfit::Changed)?;
    now.clean = true;
    if let Some(diff_id) = diff_id {
        now.uuid = chained(now.uuid, diff_id);
    }
    let groups = read_groups(file, mark.geometry)?;
    let journal = journal_map(&Layout::new(mark.geometry));
    let bytes = superblock(mark.geometry, &now, &journal, 0);
    mark.digest = digest(&bytes, &groups);
    // Both lie in one block, the mark before the superblock.
    let both = [&mark.encode()[..], &bytes].concat();
    file.write_all_at(&both, MARK_OFFSET).map_err(Unfit::write)
}

/// The UUID of a chain with one layer more: of the parent's and the layer's diff id, in the form of
/// version 8 (RFC 9562).
fn chained(parent: [u8; 16], diff_id: [u8; 32]) -> [u8; 16] {
    let mut sha = Sha256::new();
    sha.update(b"veneer ext4 1");
    sha.update(parent);
    sha.update(diff_id);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&sha.finish()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

impl Image {
    /// Takes a sealed image; `spill` takes records that do not fit in memory. The first thing that is written
    /// makes it an unsealed one.
    pub(crate) fn open(file: File, spill: Option<Arc<Spill>>) -> Result<Image, Unfit> {
        let Head { mark, changing, groups } = Head::read(&file)?;
        let geometry = mark.geometry;
        let layout = Layout::new(geometry);
        let journal = journal_map(&layout);
        let bytes = superblock(geometry, &Changing { clean: false, ..changing }, &journal, 0);
        let unsealed = Mark { digest: [0; 32], layers: mark.layers + 1, ..mark };
        file.write_all_at(&[&unsealed.encode()[..], &bytes].concat(), MARK_OFFSET)
            .map_err(Unfit::write)?;
        let free = changing.free_inodes;
        let mut directories = Directories::default();
        directories.enter(ROOT);
        Ok(Image {
            disk: Disk::new(file, geometry.block_len()),
            blocks: Blocks::new(geometry, &layout, groups, mark.next_block),
            inodes: Inodes::new(
                geometry,
                layout.first_file,
                mark.next_directory,
                mark.next_file,
                free,
            ),
            names: Names::new(spill),
            directories,
            later: Later::default(),
            name_bytes: 0,
            mark: unsealed,
            uuid: changing.uuid,
            journal,
            begun: bytes,
        })
    }

    pub(crate) fn block_len(&self) -> usize {
        self.disk.block_len()
    }

    /// Sectors of 512 bytes in a block.
    pub(crate) fn sectors(&self) -> u64 {
        u64::from(self.blocks.geometry.block) / 512
    }

    /// Writes what is counted, and the superblock last. It is not sealed yet.
    /// Says which chunks were changed.
    pub(crate) fn close(mut self) -> Result<ChunkSet, Fault> {
        self.blocks.finish(&mut self.disk)?;
        self.disk.flush()?;
        if self.disk.read_at::<LEN>(OFFSET)? != self.begun {
            return Err(damaged("somebody else has written its superblock meanwhile", 0));
        }
        let now = Changing {
            free_blocks: self.blocks.free,
            free_inodes: self.inodes.free,
            uuid: self.uuid,
            clean: false,
        };
        let mark = Mark {
            next_directory: self.inodes.next_directory,
            next_file: self.inodes.next_file,
            next_block: self.blocks.next,
            ..self.mark
        };
        let bytes = superblock(self.blocks.geometry, &now, &self.journal, 0);
        self.disk.write_at(OFFSET, &bytes)?;
        self.disk.write_at(MARK_OFFSET, &mark.encode())?;
        Ok(self.disk.touched())
    }
}
