//! An image as blocks and inodes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::index;
use crate::ext4::format::decode_group::Group;
use crate::ext4::format::decode_inode::Inode;
use crate::ext4::format::decode_journal::MAGIC;
use crate::ext4::format::decode_super::{AT, LEN, Super};
use crate::ext4::read::cost::Cost;
use crate::record::spill::io_fault;

/// Bytes of blocks that are kept: inodes and descriptors lie close to one another.
const CACHE: usize = 1 << 20;

/// Where a block's content is instead: in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instead {
    pub(crate) block: u64,
    /// Whether its first four bytes are the journal's magic, and zeros there.
    pub(crate) escaped: bool,
}

/// What a journal has, by the block that it belongs to.
pub(crate) type Replayed = BTreeMap<u64, Instead>;

/// An ext4 file system on an open file or device, which nobody writes to meanwhile.
#[derive(Debug)]
pub(crate) struct Image<'f> {
    file: &'f File,
    bytes: u64,
    pub(crate) sup: Super,
    pub(crate) cost: Cost,
    /// Blocks by their number, modulo how many there are: number and content.
    cache: Vec<Option<(u64, Vec<u8>)>>,
    /// Blocks whose content is in the journal.
    replayed: Replayed,
}

impl<'f> Image<'f> {
    /// Reads and judges the superblock. Whether a journal has to be replayed first is for `replay`.
    pub(crate) fn new(file: &'f File, mut cost: Cost) -> Result<Image<'f>, Fault> {
        let bytes = bytes_of(file).map_err(io_fault("find the size of", b"image"))?;
        let mut raw = vec![0; LEN];
        if bytes < AT + LEN as u64 {
            let rule = "there is no ext4 superblock";
            return Err(Flaw::new(FlawKind::Foreign, rule).value(bytes).into());
        }
        file.read_exact_at(&mut raw, AT).map_err(io_fault("read", b"image"))?;
        let sup = Super::read(&raw, bytes)?;
        cost.device(sup.blocks);
        let slots = CACHE / index(sup.block_size);
        let (cache, replayed) = (vec![None; slots], Replayed::new());
        Ok(Image { file, bytes, sup, cost, cache, replayed })
    }

    /// Takes in what a journal has, and judges the superblock that it leaves.
    pub(crate) fn replay(&mut self, replayed: Replayed) -> Result<(), Fault> {
        self.replayed = replayed;
        self.cache.iter_mut().for_each(|kept| *kept = None);
        let size = u64::from(self.sup.block_size);
        let at = index(AT % size);
        let raw = self.kept(AT / size)?.get(at..at + LEN).unwrap_or_default().to_vec();
        let sup = Super::read(&raw, self.bytes)?;
        if sup.block_size != self.sup.block_size {
            let rule = "a journal changes the size of blocks";
            return Err(Flaw::new(FlawKind::Journal, rule).into());
        }
        self.cost.device(sup.blocks);
        self.sup = sup;
        Ok(())
    }

    /// Bytes of a block.
    pub(crate) fn block_size(&self) -> usize {
        index(self.sup.block_size)
    }

    /// Reads the block `number`, which may be any of the file system's.
    fn read(&mut self, number: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.cost.read(1)?;
        let at = number.saturating_mul(u64::from(self.sup.block_size));
        self.file.read_exact_at(into, at).map_err(io_fault("read", b"image"))?;
        self.instead(number, into)
    }

    /// Reads `into` from the beginning of block `number` on, a part of a file.
    pub(crate) fn read_file(&mut self, number: u64, into: &mut [u8]) -> Result<(), Fault> {
        let blocks = (into.len() as u64).div_ceil(u64::from(self.sup.block_size));
        if !self.sup.may_hold(number, blocks) {
            return Err(outside(number, self.sup.blocks));
        }
        self.cost.read(blocks)?;
        let at = number.saturating_mul(u64::from(self.sup.block_size));
        self.file.read_exact_at(into, at).map_err(io_fault("read", b"image"))?;
        self.instead(number, into)
    }

    /// Puts what the journal has in the place of what was read from block `first` on.
    fn instead(&mut self, first: u64, read: &mut [u8]) -> Result<(), Fault> {
        let size = self.block_size();
        let to = first.saturating_add(read.len().div_ceil(size) as u64);
        for (&number, instead) in self.replayed.range(first..to) {
            let at = index(number - first).saturating_mul(size);
            let end = at.saturating_add(size).min(read.len());
            let Some(part) = read.get_mut(at..end) else { continue };
            self.cost.read(1)?;
            let from = instead.block.saturating_mul(u64::from(self.sup.block_size));
            self.file.read_exact_at(part, from).map_err(io_fault("read", b"image"))?;
            if instead.escaped {
                let magic = MAGIC.to_be_bytes();
                let len = part.len().min(magic.len());
                part[..len].copy_from_slice(&magic[..len]);
            }
        }
        Ok(())
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

    /// Reads and judges an inode, named or not.
    pub(crate) fn any_inode(&mut self, number: u32) -> Result<Inode, Fault> {
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
