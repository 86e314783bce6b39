//! Directories as they lie in the image: one name by the index, all of them in the index's order.

use crate::error::Fault;
use crate::ext4::format::directory::{self, place_of, read_node, read_root};
use crate::ext4::format::geometry::Run;
use crate::ext4::format::hash::HASH_SEED;
use crate::ext4::format::hash::half_md4;
use crate::ext4::format::inode::{EXTENTS, Extent, INDEX, Inode, Map, read_extent_block, read_map};
use crate::ext4::write::disk::damaged;
use crate::ext4::write::entry::Entry;
use crate::ext4::write::image::Image;

/// A name that was read.
pub(crate) type Owned = (Vec<u8>, Entry);

impl Image {
    pub(crate) fn inode(&mut self, number: u32) -> Result<Inode, Fault> {
        self.inodes.get(&mut self.disk, &self.blocks, number)
    }

    pub(crate) fn set_inode(&mut self, number: u32, inode: &Inode) -> Result<(), Fault> {
        self.inodes.put(&mut self.disk, &self.blocks, number, inode)
    }

    /// The extents of an inode, and the blocks that hold them.
    pub(crate) fn extents(
        &mut self,
        number: u32,
        inode: &Inode,
    ) -> Result<(Vec<Extent>, Vec<u64>), Fault> {
        if inode.flags & EXTENTS == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let (extents, holders) = match read_map(&inode.map) {
            Some(Map::Leaf(extents)) => (extents, Vec::new()),
            Some(Map::Node(holders)) => {
                let mut extents = Vec::new();
                for &block in &holders {
                    self.check_block(block)?;
                    let bytes = self.disk.read(block)?;
                    let more = read_extent_block(bytes, number)
                        .ok_or_else(|| damaged("no extents where they were", block))?;
                    extents.extend(more);
                }
                (extents, holders)
            }
            None => return Err(damaged("an inode's map is none", number.into())),
        };
        for extent in &extents {
            self.check_block(extent.start + u64::from(extent.len) - 1)?;
        }
        Ok((extents, holders))
    }

    fn check_block(&self, block: u64) -> Result<(), Fault> {
        match block < self.blocks.geometry.blocks {
            true => Ok(()),
            false => Err(damaged("a block beyond the end", block)),
        }
    }

    /// All the blocks of an inode, for whoever frees them.
    pub(crate) fn runs(&mut self, number: u32, inode: &Inode) -> Result<Vec<Run>, Fault> {
        let (extents, holders) = self.extents(number, inode)?;
        let runs = extents.iter().map(|extent| Run { start: extent.start, len: extent.len.into() });
        Ok(runs.chain(holders.into_iter().map(|start| Run { start, len: 1 })).collect())
    }

    /// What the image has at a name.
    pub(crate) fn lower_find(&mut self, own: u32, name: &[u8]) -> Result<Option<Entry>, Fault> {
        let inode = self.inode(own)?;
        let (extents, _) = self.extents(own, &inode)?;
        let leaves = match inode.flags & INDEX {
            0 => vec![physical(&extents, 0)?],
            _ => self.candidates(own, &extents, half_md4(name, HASH_SEED))?,
        };
        for leaf in leaves {
            let bytes = self.disk.read(leaf)?;
            let names = directory::names(bytes, own)
                .ok_or_else(|| damaged("no names where they were", leaf))?;
            if let Some(found) = names.iter().find(|found| found.name == name) {
                return Ok(Some(Entry { inode: found.inode, kind: found.kind }));
            }
        }
        Ok(None)
    }

    /// The blocks that may hold a name with this hash: more than one only where the hash goes on.
    fn candidates(&mut self, own: u32, extents: &[Extent], hash: u32) -> Result<Vec<u64>, Fault> {
        let broken = |block| damaged("no index where it was", block);
        let root = physical(extents, 0)?;
        let (levels, places) = read_root(self.disk.read(root)?, own).ok_or_else(|| broken(root))?;
        let goes_on = |place: Option<&(u32, u32)>| place.is_some_and(|place| place.0 == hash | 1);
        let mut leaves = Vec::new();
        let mut at = place_of(&places, hash);
        if levels == 0 {
            loop {
                leaves.push(physical(extents, places[at].1)?);
                at += 1;
                if !goes_on(places.get(at)) {
                    return Ok(leaves);
                }
            }
        }
        let mut first = true;
        loop {
            let node = physical(extents, places[at].1)?;
            let below = read_node(self.disk.read(node)?, own).ok_or_else(|| broken(node))?;
            let mut leaf = if first { place_of(&below, hash) } else { 0 };
            first = false;
            loop {
                leaves.push(physical(extents, below[leaf].1)?);
                leaf += 1;
                if !goes_on(below.get(leaf)) {
                    break;
                }
            }
            at += 1;
            if leaf < below.len() || !goes_on(places.get(at)) {
                return Ok(leaves);
            }
        }
    }

    /// The blocks of names of a directory, in the order of their hashes.
    pub(crate) fn leaves(&mut self, own: u32) -> Result<Vec<u64>, Fault> {
        let broken = |block| damaged("no index where it was", block);
        let inode = self.inode(own)?;
        let (extents, _) = self.extents(own, &inode)?;
        if inode.flags & INDEX == 0 {
            return extents.first().map_or(Ok(Vec::new()), |first| Ok(vec![first.start]));
        }
        let root = physical(&extents, 0)?;
        let (levels, places) = read_root(self.disk.read(root)?, own).ok_or_else(|| broken(root))?;
        let mut leaves = Vec::new();
        for (_, block) in places {
            let block = physical(&extents, block)?;
            if levels == 0 {
                leaves.push(block);
                continue;
            }
            let below = read_node(self.disk.read(block)?, own).ok_or_else(|| broken(block))?;
            for (_, leaf) in below {
                leaves.push(physical(&extents, leaf)?);
            }
        }
        Ok(leaves)
    }

    /// The names in one of those blocks.
    pub(crate) fn names_in(&mut self, own: u32, leaf: u64) -> Result<Vec<Owned>, Fault> {
        let names = directory::names(self.disk.read(leaf)?, own)
            .ok_or_else(|| damaged("no names where they were", leaf))?;
        let owned = |found: directory::Name<'_>| {
            (found.name.to_vec(), Entry { inode: found.inode, kind: found.kind })
        };
        Ok(names.into_iter().map(owned).collect())
    }
}

/// Where a block of a directory lies.
fn physical(extents: &[Extent], logical: u32) -> Result<u64, Fault> {
    let after = extents.partition_point(|extent| extent.logical <= logical);
    let found = after.checked_sub(1).and_then(|at| {
        let extent = &extents[at];
        let into = logical - extent.logical;
        (into < extent.len).then(|| extent.start + u64::from(into))
    });
    found.ok_or_else(|| damaged("a directory lacks a block", logical.into()))
}
