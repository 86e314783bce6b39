//! Names that go, with all below them: by a stack of our own, a block of names at a time.

use crate::error::Fault;
use crate::ext4::format::directory::DIRECTORY;
use crate::ext4::format::inode::Inode;
use crate::ext4::write::entry::Entry;
use crate::ext4::write::image::Image;
use crate::ext4::write::lower::Owned;
use crate::ext4::write::names::Chain;
use crate::tree::budget::Budget;

/// A directory whose names are gone through.
#[derive(Debug)]
pub(crate) struct Walk {
    directory: u32,
    /// Blocks of names that are still to be read, the next one last.
    leaves: Vec<u64>,
    names: Vec<Owned>,
    later: Later,
}

/// What a walk comes to after the blocks.
#[derive(Debug)]
enum Later {
    /// Names that are in runs, behind this one; some are at hand.
    Runs(Option<(u32, Vec<u8>)>),
    /// Names that are in memory.
    Fresh(Chain),
}

impl Image {
    /// What is at a name now.
    pub(crate) fn find(&mut self, directory: u32, name: &[u8]) -> Result<Option<Entry>, Fault> {
        let Some(known) = self.directories.get(directory) else { return Ok(None) };
        match self.names.get(directory, name)? {
            Some(entry) => Ok((entry.inode != 0).then_some(entry)),
            None if known.lower => self.lower_find(directory, name),
            None => Ok(None),
        }
    }

    /// Says what has become of a name.
    pub(crate) fn set_name(
        &mut self,
        directory: u32,
        name: &[u8],
        entry: Entry,
    ) -> Result<(), Fault> {
        let block = self.block_len();
        let Some(known) = self.directories.get(directory) else { return Ok(()) };
        if !known.changed {
            let lower = if known.lower { self.inode(directory)?.size / block as u64 } else { 0 };
            self.directories.change(directory);
            self.blocks.reserved += 2 + lower;
        }
        self.name_bytes += crate::ext4::format::directory::entry_len(name);
        if self.name_bytes > block / 2 {
            self.name_bytes = 0;
            self.blocks.reserved += 1;
        }
        self.names.set(directory, name, entry)
    }

    /// All the names of a directory. None is set in it before the walk has ended.
    pub(crate) fn walk(&mut self, directory: u32) -> Result<Walk, Fault> {
        let known = self.directories.get(directory);
        let mut leaves = Vec::new();
        if known.is_some_and(|known| known.lower) {
            leaves = self.leaves(directory)?;
            leaves.reverse();
        }
        Ok(Walk { directory, leaves, names: Vec::new(), later: Later::Runs(None) })
    }

    /// The next of them.
    pub(crate) fn next_name(&mut self, walk: &mut Walk) -> Result<Option<Owned>, Fault> {
        loop {
            let from_runs = matches!(walk.later, Later::Runs(Some(_)));
            while let Some((name, entry)) = walk.names.pop() {
                // What has a later record comes with that.
                let has_later = match from_runs {
                    true => self.names.is_fresh(walk.directory, &name),
                    false => self.names.get(walk.directory, &name)?.is_some(),
                };
                if !has_later && entry.inode != 0 {
                    return Ok(Some((name, entry)));
                }
            }
            if let Some(leaf) = walk.leaves.pop() {
                walk.names = self.names_in(walk.directory, leaf)?;
                continue;
            }
            match &mut walk.later {
                Later::Runs(after) => {
                    let some = self.names.in_runs(walk.directory, after.as_ref())?;
                    walk.later = match some.last() {
                        Some(last) => Later::Runs(Some((last.hash(), last.name.clone()))),
                        None => Later::Fresh(self.names.chain(walk.directory)),
                    };
                    walk.names = some.into_iter().map(|row| (row.name, row.entry)).collect();
                }
                Later::Fresh(chain) => {
                    while let Some((name, entry)) = self.names.next(chain) {
                        if entry.inode != 0 {
                            return Ok(Some((name.to_vec(), entry)));
                        }
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Removes what `entry` is, with all below it; the name itself is the caller's.
    pub(crate) fn remove_node(&mut self, entry: Entry, budget: &mut Budget) -> Result<(), Fault> {
        if entry.kind != DIRECTORY {
            return self.release(entry.inode);
        }
        self.directories.enter(entry.inode);
        let mut levels = vec![self.walk(entry.inode)?];
        while let Some(level) = levels.last_mut() {
            let mut walk = std::mem::replace(level, Walk::nowhere());
            let next = self.next_name(&mut walk)?;
            let directory = walk.directory;
            *level = walk;
            match next {
                Some((_, entry)) => {
                    budget.remove(levels.len() as u64 + 1)?;
                    if entry.kind == DIRECTORY {
                        self.directories.enter(entry.inode);
                        let below = self.walk(entry.inode)?;
                        levels.push(below);
                    } else {
                        self.release(entry.inode)?;
                    }
                }
                None => {
                    levels.pop();
                    self.release(directory)?;
                }
            }
        }
        Ok(())
    }

    /// One name less for an inode; with the last it goes.
    fn release(&mut self, number: u32) -> Result<(), Fault> {
        self.settle(number)?;
        let mut inode = self.inode(number)?;
        let is_directory = inode.is_directory();
        if !is_directory && inode.links > 1 {
            inode.links -= 1;
            return self.set_inode(number, &inode);
        }
        self.free_blocks(number, &mut inode)?;
        self.directories.remove(number);
        self.inodes.give_back(&mut self.disk, &mut self.blocks, number, is_directory)
    }

    fn free_blocks(&mut self, number: u32, inode: &mut Inode) -> Result<(), Fault> {
        for run in self.runs(number, inode)? {
            self.blocks.give_back(&mut self.disk, run)?;
        }
        self.detach(inode)
    }
}

impl Walk {
    fn nowhere() -> Walk {
        Walk { directory: 0, leaves: Vec::new(), names: Vec::new(), later: Later::Runs(None) }
    }
}
