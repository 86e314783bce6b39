//! Directories are written at the end: each that the layer has changed, whole, in the order of its names'
//! hashes. One block is linear; more get an index.

use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::ext4::format::directory::{
    DIRECTORY, Name, NameBlock, Place, dot_dot, index_node, index_root, node_places, root_places,
};
use crate::ext4::format::geometry::Run;
use crate::ext4::format::hash::HASH_SEED;
use crate::ext4::format::hash::half_md4;
use crate::ext4::format::inode::{
    EXTENTS, Extent, IN_INODE, INDEX, extent_block, in_block, leaf_map, node_map,
};
use crate::ext4::write::body::join;
use crate::ext4::write::directories::Directory;
use crate::ext4::write::disk::damaged;
use crate::ext4::write::entry::Entry;
use crate::ext4::write::image::Image;
use crate::ext4::write::merge::{InOrder, Row};
use crate::ext4::write::names::Names;
use crate::tree::budget::Budget;

/// Names of one directory that may have one hash. By chance two hardly ever have.
const SAME_HASH_MAX: u64 = 1024;
/// The most links of a directory that are counted (`EXT4_LINK_MAX`); above it says 1.
const LINKS_MAX: u64 = 65_000;

/// A directory being written.
struct Packing {
    own: u32,
    parent: u32,
    /// The only block, as long as all fits into one, and what is in it.
    only: Option<NameBlock>,
    held: Vec<(u32, Vec<u8>, Entry)>,
    leaf: NameBlock,
    /// From which hash on the block being filled has names, and the last hash that was seen.
    first: u32,
    last: Option<u32>,
    same: u64,
    places: Vec<Place>,
    extents: Vec<Extent>,
    blocks: u32,
    directories: u64,
}

impl Image {
    /// Writes every directory that was changed.
    pub(crate) fn pack_directories(&mut self, budget: &mut Budget) -> Result<(), Fault> {
        let directories = std::mem::take(&mut self.directories);
        let mut names = std::mem::replace(&mut self.names, Names::new(None)).in_order()?;
        for (number, directory) in directories.changed() {
            budget.step()?;
            self.pack(number, directory, &mut names, budget)?;
        }
        Ok(())
    }

    fn pack(
        &mut self,
        own: u32,
        directory: Directory,
        changes: &mut InOrder,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        let block = self.block_len();
        let parent = self.parent(own)?;
        let mut packing = Packing {
            own,
            parent,
            only: Some(NameBlock::first(block, own, parent)),
            held: Vec::new(),
            leaf: NameBlock::new(block),
            first: 0,
            last: None,
            same: 0,
            places: Vec::new(),
            extents: Vec::new(),
            blocks: 0,
            directories: 0,
        };
        let leaves = if directory.lower { self.leaves(own)? } else { Vec::new() };
        for leaf in leaves {
            budget.step()?;
            let mut names: Vec<(u32, Vec<u8>, Entry)> = self
                .names_in(own, leaf)?
                .into_iter()
                .map(|(name, entry)| (half_md4(&name, HASH_SEED), name, entry))
                .collect();
            names.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            for (hash, name, entry) in names {
                let here = (hash, name.as_slice());
                let mut replaced = false;
                while let Some(row) = changes.of(own)?
                    && (row.hash(), row.name.as_slice()) <= here
                {
                    replaced = (row.hash(), row.name.as_slice()) == here;
                    self.put_change(&mut packing, changes.take())?;
                }
                if !replaced {
                    self.put_name(&mut packing, hash, name, entry)?;
                }
            }
        }
        while changes.of(own)?.is_some() {
            self.put_change(&mut packing, changes.take())?;
        }
        self.finish_directory(packing)
    }

    /// What `..` leads to in a directory.
    fn parent(&mut self, own: u32) -> Result<u32, Fault> {
        let inode = self.inode(own)?;
        let (extents, _) = self.extents(own, &inode)?;
        let wrong = || damaged("a directory leads to no parent", own.into());
        match extents.first() {
            // It is new: see `make_directory`.
            None => u32::try_from(inode.size).map_err(|_| wrong()),
            Some(first) => dot_dot(self.disk.read(first.start)?).ok_or_else(wrong),
        }
    }

    fn put_change(&mut self, packing: &mut Packing, row: Row) -> Result<(), Fault> {
        match row.entry.inode {
            0 => Ok(()),
            _ => self.put_name(packing, row.hash(), row.name, row.entry),
        }
    }

    fn put_name(
        &mut self,
        packing: &mut Packing,
        hash: u32,
        name: Vec<u8>,
        entry: Entry,
    ) -> Result<(), Fault> {
        packing.directories += u64::from(entry.kind == DIRECTORY);
        packing.same = if packing.last == Some(hash) { packing.same + 1 } else { 1 };
        if packing.same > SAME_HASH_MAX {
            let rule = "too many names with one hash in one directory";
            return Err(Refusal::new(Class::Fs, rule).bytes(&name).into());
        }
        let shown = Name { inode: entry.inode, kind: entry.kind, name: &name };
        if let Some(only) = &mut packing.only {
            if only.put(shown) {
                packing.held.push((hash, name, entry));
                packing.last = Some(hash);
                return Ok(());
            }
            packing.only = None;
            // The root comes first, and is written last.
            self.take_block(packing)?;
            packing.last = None;
            for (hash, name, entry) in std::mem::take(&mut packing.held) {
                self.put_leaf(packing, hash, &name, entry)?;
            }
        }
        self.put_leaf(packing, hash, &name, entry)
    }

    fn put_leaf(
        &mut self,
        packing: &mut Packing,
        hash: u32,
        name: &[u8],
        entry: Entry,
    ) -> Result<(), Fault> {
        let shown = Name { inode: entry.inode, kind: entry.kind, name };
        if !packing.leaf.put(shown) {
            self.end_leaf(packing)?;
            packing.first = hash | u32::from(packing.last == Some(hash));
            packing.leaf.put(shown);
        }
        packing.last = Some(hash);
        Ok(())
    }

    fn end_leaf(&mut self, packing: &mut Packing) -> Result<(), Fault> {
        let leaf = std::mem::replace(&mut packing.leaf, NameBlock::new(self.block_len()));
        let bytes = leaf.finish(packing.own);
        let (logical, start) = self.take_block(packing)?;
        packing.places.push((packing.first, logical));
        self.disk.stream(start * self.block_len() as u64, &bytes)
    }

    /// The next block of a directory: its number in it, and where it lies.
    fn take_block(&mut self, packing: &mut Packing) -> Result<(u32, u64), Fault> {
        let Run { start, .. } = self.blocks.take(&mut self.disk, 1)?;
        let logical = packing.blocks;
        packing.blocks += 1;
        join(&mut packing.extents, Extent { logical, len: 1, start });
        Ok((logical, start))
    }

    fn finish_directory(&mut self, mut packing: Packing) -> Result<(), Fault> {
        let block = self.block_len();
        let own = packing.own;
        self.settle(own)?;
        let mut inode = self.inode(own)?;
        for run in self.runs(own, &inode)? {
            self.blocks.give_back(&mut self.disk, run)?;
        }
        let indexed = packing.only.is_none();
        match packing.only.take() {
            Some(only) => {
                let (_, start) = self.take_block(&mut packing)?;
                self.disk.stream(start * block as u64, &only.finish(own))?;
            }
            None => self.finish_index(&mut packing)?,
        }
        let holders = self.finish_map(&mut inode, &packing)?;
        inode.flags = EXTENTS | if indexed { INDEX } else { 0 };
        inode.size = u64::from(packing.blocks) * block as u64;
        inode.sectors = self.sectors()
            * (u64::from(packing.blocks) + holders + u64::from(inode.attributes_block != 0));
        let links = 2 + packing.directories;
        inode.links = if links > LINKS_MAX { 1 } else { u16::try_from(links).unwrap_or(1) };
        self.set_inode(own, &inode)
    }

    /// Nodes where the root cannot hold all places, and the root.
    fn finish_index(&mut self, packing: &mut Packing) -> Result<(), Fault> {
        let block = self.block_len();
        self.end_leaf(packing)?;
        let leaves = std::mem::take(&mut packing.places);
        let (levels, places) = if leaves.len() <= root_places(block) {
            (0, leaves)
        } else {
            let mut places = Vec::new();
            for some in leaves.chunks(node_places(block)) {
                let bytes = index_node(block, packing.own, some);
                let (logical, start) = self.take_block(packing)?;
                self.disk.stream(start * block as u64, &bytes)?;
                places.push((some[0].0, logical));
            }
            (1, places)
        };
        if places.len() > root_places(block) {
            let rule = "this file system cannot hold this many names in one directory, in blocks";
            return Err(Refusal::new(Class::Fs, rule).number(packing.blocks).into());
        }
        let root = index_root(block, packing.own, packing.parent, levels, &places);
        let start = packing.extents[0].start;
        self.disk.put(start, root)
    }

    /// The map of a directory; says how many blocks it takes besides.
    fn finish_map(
        &mut self,
        inode: &mut crate::ext4::format::inode::Inode,
        packing: &Packing,
    ) -> Result<u64, Fault> {
        if packing.extents.len() <= IN_INODE {
            inode.map = leaf_map(&packing.extents);
            return Ok(0);
        }
        let mut children = Vec::new();
        for some in packing.extents.chunks(in_block(self.block_len())) {
            let bytes = extent_block(some, packing.own, self.block_len());
            children.push((some[0].logical, self.write_block(&bytes)?));
        }
        inode.map = node_map(&children);
        Ok(children.len() as u64)
    }
}
