//! Blocks that belong behind a layer's data: targets of long links, attributes, maps of files in many
//! pieces. They wait until the end, or until too many wait.

use crate::error::Fault;
use crate::ext4::format::attributes::{self, REFERENCES_MAX, Split};
use crate::ext4::format::geometry::Run;
use crate::ext4::format::inode::{Extent, Inode, extent_block, in_block, leaf_map, node_map};
use crate::ext4::write::image::Image;
use crate::ext4::write::waiting::Item;

/// Bytes that may wait.
const WAITING: usize = 4 << 20;

impl Image {
    fn wait(&mut self, inode: u32, item: Item, bytes: usize, blocks: u64) -> Result<(), Fault> {
        self.later.items.push(item);
        self.later.bytes += bytes + 64;
        self.later.inodes.insert(inode.into());
        self.blocks.reserved += blocks;
        match self.later.bytes > WAITING {
            true => self.write_later(),
            false => Ok(()),
        }
    }

    /// The target of a link that does not fit into its inode.
    pub(crate) fn wait_target(&mut self, inode: u32, target: &[u8]) -> Result<(), Fault> {
        let item = Item::Target { inode, target: target.to_vec() };
        self.wait(inode, item, target.len(), 1)
    }

    /// The extents of a file that do not fit into its inode.
    pub(crate) fn wait_extents(&mut self, inode: u32, extents: Vec<Extent>) -> Result<(), Fault> {
        let (bytes, blocks) =
            (extents.len() * 16, extents.len().div_ceil(in_block(self.block_len())));
        self.wait(inode, Item::Extents { inode, extents }, bytes, blocks as u64)
    }

    /// The attributes of a node: those in the inode at once, the block later.
    pub(crate) fn attach(
        &mut self,
        number: u32,
        inode: &mut Inode,
        split: Split,
    ) -> Result<Option<Vec<u8>>, Fault> {
        inode.attributes = split.inode;
        inode.attributes_block = 0;
        let Some(block) = split.block else { return Ok(None) };
        if let Some(Item::Attributes { inodes, block: last }) = self.later.items.last_mut()
            && *last == block
            && inodes.len() < REFERENCES_MAX as usize
        {
            inodes.push(number);
            self.later.inodes.insert(number.into());
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// The block that [`Image::attach`] gave back, once the inode is written.
    pub(crate) fn wait_attributes(
        &mut self,
        number: u32,
        block: Option<Vec<u8>>,
    ) -> Result<(), Fault> {
        let Some(block) = block else { return Ok(()) };
        let bytes = block.len();
        self.wait(number, Item::Attributes { inodes: vec![number], block }, bytes, 1)
    }

    /// Whoever reads or frees an inode sees all of it.
    pub(crate) fn settle(&mut self, number: u32) -> Result<(), Fault> {
        match self.later.inodes.contains(number.into()) {
            true => self.write_later(),
            false => Ok(()),
        }
    }

    /// Writes all that waits.
    pub(crate) fn write_later(&mut self) -> Result<(), Fault> {
        let later = std::mem::take(&mut self.later);
        let sectors = self.sectors();
        for item in later.items {
            match item {
                Item::Target { inode: number, target } => {
                    let mut bytes = target;
                    bytes.resize(self.block_len(), 0);
                    let start = self.write_block(&bytes)?;
                    let mut inode = self.inode(number)?;
                    inode.map = leaf_map(&[Extent { logical: 0, len: 1, start }]);
                    inode.sectors += sectors;
                    self.set_inode(number, &inode)?;
                }
                Item::Attributes { inodes, mut block } => {
                    let Run { start, .. } = self.blocks.take(&mut self.disk, 1)?;
                    let count = u32::try_from(inodes.len()).unwrap_or(REFERENCES_MAX);
                    attributes::set_references(&mut block, count);
                    attributes::sign(&mut block, start);
                    self.disk.stream(start * self.block_len() as u64, &block)?;
                    for number in inodes {
                        let mut inode = self.inode(number)?;
                        inode.attributes_block = start;
                        inode.sectors += sectors;
                        self.set_inode(number, &inode)?;
                    }
                }
                Item::Extents { inode: number, extents } => {
                    let mut children = Vec::new();
                    for some in extents.chunks(in_block(self.block_len())) {
                        let bytes = extent_block(some, number, self.block_len());
                        children.push((some[0].logical, self.write_block(&bytes)?));
                    }
                    let mut inode = self.inode(number)?;
                    inode.map = node_map(&children);
                    inode.sectors += sectors * children.len() as u64;
                    self.set_inode(number, &inode)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a block and streams it out.
    pub(crate) fn write_block(&mut self, bytes: &[u8]) -> Result<u64, Fault> {
        let Run { start, .. } = self.blocks.take(&mut self.disk, 1)?;
        self.disk.stream(start * self.block_len() as u64, bytes)?;
        Ok(start)
    }

    /// Takes one node away from a block of attributes, which goes with the last.
    pub(crate) fn detach(&mut self, inode: &mut Inode) -> Result<(), Fault> {
        let block = std::mem::take(&mut inode.attributes_block);
        if block == 0 {
            return Ok(());
        }
        inode.sectors -= self.sectors();
        let references = attributes::references(self.disk.read(block)?);
        if references > 1 {
            let bytes = self.disk.edit(block)?;
            attributes::set_references(bytes, references - 1);
            attributes::sign(bytes, block);
            return Ok(());
        }
        self.blocks.give_back(&mut self.disk, Run { start: block, len: 1 })
    }
}
