//! An image as blocks and inodes.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::index;
use crate::ext4::format::decode_group::Group;
use crate::ext4::format::decode_inode::Inode;
use crate::ext4::format::decode_super::{AT, LEN, Super};
use crate::ext4::read::cost::Cost;
use crate::record::spill::io_fault;

/// Bytes of blocks that are kept: inodes and descriptors lie close to one another.
const CACHE: usize = 1 << 20;

/// An ext4 file system on an open file or device, which nobody writes to meanwhile.
#[derive(Debug)]
pub(crate) struct Image<'f> {
    file: &'f File,
    pub(crate) sup: Super,
    pub(crate) cost: Cost,
    /// Blocks by their number, modulo how many there are: number and content.
    cache: Vec<Option<(u64, Vec<u8>)>>,
}

impl<'f> Image<'f> {
    /// Reads and judges the superblock. A journal that would have to be replayed is a flaw.
    pub(crate) fn open(file: &'f File, mut cost: Cost) -> Result<Image<'f>, Fault> {
        let bytes = bytes_of(file).map_err(io_fault("find the size of", b"image"))?;
        let mut raw = vec![0; LEN];
        if bytes < AT + LEN as u64 {
            let rule = "there is no ext4 superblock";
            return Err(Flaw::new(FlawKind::Foreign, rule).value(bytes).into());
        }
        file.read_exact_at(&mut raw, AT).map_err(io_fault("read", b"image"))?;
        let sup = Super::read(&raw, bytes)?;
        if sup.recover {
            let rule = "its journal was not replayed: mount and unmount it, or run e2fsck";
            return Err(Flaw::new(FlawKind::Journal, rule).into());
        }
        cost.device(sup.blocks);
        let slots = CACHE / index(sup.block_size);
        Ok(Image { file, sup, cost, cache: vec![None; slots] })
    }

    /// Bytes of a block.
    pub(crate) fn block_size(&self) -> usize {
        index(self.sup.block_size)
    }

    /// Reads the block `number`, which may be any of the file system's.
    fn read(&mut self, number: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.cost.read(1)?;
        let at = number.saturating_mul(u64::from(self.sup.block_size));
        self.file.read_exact_at(into, at).map_err(io_fault("read", b"image"))
    }

    /// Reads `into` from the beginning of block `number` on, a part of a file.
    pub(crate) fn read_file(&mut self, number: u64, into: &mut [u8]) -> Result<(), Fault> {
        let blocks = (into.len() as u64).div_ceil(u64::from(self.sup.block_size));
        if !self.sup.may_hold(number, blocks) {
            return Err(outside(number, self.sup.blocks));
        }
        self.cost.read(blocks)?;
        let at = number.saturating_mul(u64::from(self.sup.block_size));
        self.file.read_exact_at(into, at).map_err(io_fault("read", b"image"))
    }

    /// A block with structure that a pointer of an inode leads to.
    pub(crate) fn block(&mut self, number: u64) -> Result<Vec<u8>, Fault> {
        let mut block = vec![0; self.block_size()];
        self.read_file(number, &mut block)?;
        Ok(block)
    }

    /// A block that is asked for often.
    pub(crate) fn kept(&mut self, number: u64) -> Result<&[u8], Fault> {
        if number >= self.sup.blocks {
            return Err(outside(number, self.sup.blocks));
        }
        let slot = index(number % self.cache.len() as u64);
        let old = self.cache.get_mut(slot).and_then(Option::take);
        let now = match old {
            Some((kept, block)) if kept == number => (number, block),
            old => {
                let mut block = match old {
                    Some((_, block)) => block,
                    None => vec![0; self.block_size()],
                };
                self.read(number, &mut block)?;
                (number, block)
            }
        };
        match self.cache.get_mut(slot) {
            Some(place) => Ok(&place.insert(now).1),
            None => Ok(&[]),
        }
    }

    /// Reads and judges an inode that a name leads to.
    pub(crate) fn inode(&mut self, number: u32) -> Result<Inode, Fault> {
        if !self.sup.may_be_named(number) {
            let rule = "a name leads to an inode that there is not";
            let flaw = Flaw::new(FlawKind::Directory, rule).value(number).limit(self.sup.inodes);
            return Err(flaw.into());
        }
        self.any_inode(number)
    }

    fn any_inode(&mut self, number: u32) -> Result<Inode, Fault> {
        let zero_based = number.saturating_sub(1);
        let group = zero_based / self.sup.inodes_per_group;
        let within = zero_based % self.sup.inodes_per_group;
        let table = self.group(group)?.table;
        let each = self.sup.block_size / self.sup.inode_size;
        let block = table + u64::from(within / each);
        let at = index(within % each * self.sup.inode_size);
        let size = index(self.sup.inode_size);
        let raw = self.kept(block)?.get(at..at + size).unwrap_or_default().to_vec();
        Ok(Inode::read(&raw, number, &self.sup)?)
    }

    fn group(&mut self, group: u32) -> Result<Group, Fault> {
        let (block, at) = self.sup.descriptor(group);
        let (at, len) = (index(at), index(self.sup.desc_size));
        let raw = self.kept(block)?.get(at..at + len).unwrap_or_default().to_vec();
        Group::read(&raw, group, &self.sup).map_err(|flaw| flaw.in_block(block).into())
    }
}

fn outside(number: u64, blocks: u64) -> Fault {
    Flaw::new(FlawKind::Extent, "a block lies outside the device, or where no file can be")
        .value(number)
        .limit(blocks)
        .into()
}

/// The size of a file, or of a block device. It moves the position of the descriptor, which nothing here reads
/// from.
fn bytes_of(file: &File) -> std::io::Result<u64> {
    (&mut &*file).seek(SeekFrom::End(0))
}
