//! The image as a tree that a layer is applied to.

use crate::archive::entry::Xattrs;
use crate::archive::pax::Time;
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::ext4::format::attributes::{self, Unheld, split};
use crate::ext4::format::directory::{DIRECTORY, NAME_MAX, SYMLINK, type_of};
use crate::ext4::format::geometry::{LOST_AND_FOUND, ROOT};
use crate::ext4::format::inode::{
    self, ATTRIBUTES, EXTENTS, IBLOCK, IN_INODE, Inode, MAJOR_MAX, MINOR_MAX, clamp, device_map,
    leaf_map,
};
use crate::ext4::write::body::Body as Writing;
use crate::ext4::write::directories::Directory;
use crate::ext4::write::disk::damaged;
use crate::ext4::write::entry::Entry;
use crate::ext4::write::image::Image;
use crate::record::chunk_set::ChunkSet;
use crate::record::{Hashed, Record, What};
use crate::tree::budget::Budget;
use crate::tree::sink::{
    At, Attr, Base, Body, Cleared, Found, Kind, Linked, Made, Sink, Special, Step,
    cannot_hold_name, cannot_hold_size, cannot_hold_target, cannot_hold_xattr,
    cannot_hold_xattr_of,
};

/// The most names of a file (`EXT4_LINK_MAX`).
const LINKS_MAX: u16 = 65_000;
/// The most bytes of a link's target that lie in its inode.
const FAST_TARGET: usize = IBLOCK - 1;
/// What a path has at most (PATH_MAX less its end).
const PATH_MAX: usize = 4095;

/// The attributes of a directory that no entry has made.
const PLAIN: Attr<'static> =
    Attr { mode: 0o755, uid: 0, gid: 0, mtime: Time { sec: 0, nsec: 0 }, xattrs: &Vec::new() };

impl Image {
    /// A new inode with its name. Whatever is wrong with the attributes is said before anything is made.
    fn make(
        &mut self,
        at: &At<'_, u32>,
        attr: &Attr<'_>,
        (kind, size, map, flags): (u16, u64, [u8; IBLOCK], u32),
    ) -> Result<Made<u32>, Fault> {
        if self.find(*at.dir, at.name)?.is_some() {
            return Ok(Made::Exists);
        }
        self.can_make(at)?;
        let split = split(attr.xattrs, self.block_len()).map_err(unheld)?;
        // Its own block, and what its directory may need.
        self.blocks.room(u64::from(split.block.is_some()) + 2)?;
        let is_directory = kind == inode::DIRECTORY;
        let number = self.inodes.take(&mut self.disk, &mut self.blocks, is_directory)?;
        let mut new = Inode {
            mode: kind | bits(attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            size,
            time: clamp(attr.mtime),
            links: if is_directory { 2 } else { 1 },
            sectors: 0,
            flags,
            map,
            attributes_block: 0,
            attributes: [0; ATTRIBUTES],
        };
        let block = self.attach(number, &mut new, split)?;
        self.set_inode(number, &new)?;
        self.wait_attributes(number, block)?;
        self.set_name(*at.dir, at.name, Entry { inode: number, kind: type_of(kind) })?;
        Ok(Made::New(number))
    }

    /// Whether a name can be made: its directory was not removed, and it is not too long.
    fn can_make(&self, at: &At<'_, u32>) -> Result<(), Fault> {
        if at.name.len() > NAME_MAX {
            return Err(cannot_hold_name(at.path));
        }
        match self.directories.get(*at.dir) {
            Some(_) => Ok(()),
            None => Err(Fault::fs("make a name in", at.path)(nix::errno::Errno::ENOENT)),
        }
    }

    fn make_directory(&mut self, at: &At<'_, u32>, attr: &Attr<'_>) -> Result<Made<u32>, Fault> {
        // Until it is packed, its inode has its parent where the size will be.
        let parent = u64::from(*at.dir);
        let made = self.make(at, attr, (inode::DIRECTORY, parent, leaf_map(&[]), EXTENTS))?;
        if let Made::New(number) = made {
            self.directories.set(number, Directory { lower: false, changed: true });
            self.blocks.reserved += 1;
            // Its parent counts it.
            self.directories.change(*at.dir);
        }
        Ok(made)
    }

    fn attributes_of(&mut self, number: u32, inode: &Inode) -> Result<Xattrs, Fault> {
        let block = match inode.attributes_block {
            0 => None,
            block => Some((self.disk.read(block)?, block)),
        };
        attributes::join(&inode.attributes, block)
            .ok_or_else(|| damaged("no attributes where they were", number.into()))
    }
}

/// Permission, set-id and sticky bits.
fn bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

fn unheld(unheld: Unheld<'_>) -> Fault {
    match unheld {
        Unheld::Unknown(key) => cannot_hold_xattr(key),
        Unheld::TooLarge { key, bytes, left } => cannot_hold_xattr_of(key, bytes, left),
    }
}

fn kind_of(entry: Entry) -> Kind {
    match entry.kind {
        DIRECTORY => Kind::Dir,
        SYMLINK => Kind::Symlink,
        _ => Kind::Other,
    }
}

fn discard<T>(made: Made<T>) -> Made<()> {
    match made {
        Made::New(_) => Made::New(()),
        Made::Exists => Made::Exists,
    }
}

impl Sink for Image {
    type Dir = u32;
    type File = Writing;
    type Done = ChunkSet;

    fn root(&mut self) -> Result<u32, Fault> {
        Ok(ROOT)
    }

    fn base(&mut self) -> Result<Base, Fault> {
        let mut lost_and_found = None;
        let mut root = self.walk(ROOT)?;
        while let Some((name, entry)) = self.next_name(&mut root)? {
            if entry.inode != LOST_AND_FOUND || name != b"lost+found" {
                return Ok(Base::Tree);
            }
            self.directories.enter(LOST_AND_FOUND);
            let mut inside = self.walk(LOST_AND_FOUND)?;
            if self.next_name(&mut inside)?.is_some() {
                return Ok(Base::Tree);
            }
            lost_and_found = Some(LOST_AND_FOUND.into());
        }
        Ok(Base::Blank { lost_and_found })
    }

    fn open(&mut self, from: &u32, path: &[u8], _told: &[u8]) -> Result<Step<u32>, Fault> {
        if path.len() > PATH_MAX {
            return Ok(Step::TooLong);
        }
        let mut here = *from;
        for name in path.split(|&byte| byte == b'/') {
            if name.len() > NAME_MAX {
                return Ok(Step::TooLong);
            }
            let Some(entry) = self.find(here, name)? else { return Ok(Step::Missing) };
            match kind_of(entry) {
                Kind::Dir => self.directories.enter(entry.inode),
                Kind::Symlink => return Ok(Step::Link),
                Kind::Other => return Ok(Step::NotDir),
            }
            here = entry.inode;
        }
        Ok(Step::Dir(here))
    }

    fn id(&mut self, dir: &u32, _path: &[u8]) -> Result<u64, Fault> {
        Ok((*dir).into())
    }

    fn close(&mut self, _dir: &u32, _path: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn look(&mut self, at: &At<'_, u32>) -> Result<Option<Found>, Fault> {
        let found = self.find(*at.dir, at.name)?;
        Ok(found.map(|entry| Found { id: entry.inode.into(), kind: kind_of(entry) }))
    }

    fn read_link(&mut self, at: &At<'_, u32>) -> Result<Vec<u8>, Fault> {
        let Some(entry) = self.find(*at.dir, at.name)? else {
            return Err(Fault::fs("read link", at.path)(nix::errno::Errno::ENOENT));
        };
        self.settle(entry.inode)?;
        let inode = self.inode(entry.inode)?;
        let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
        if inode.flags & EXTENTS == 0 {
            return Ok(inode.map[..len.min(FAST_TARGET)].to_vec());
        }
        let (extents, _) = self.extents(entry.inode, &inode)?;
        let Some(extent) = extents.first() else {
            return Err(damaged("a link without a target", entry.inode.into()));
        };
        let bytes = self.disk.read(extent.start)?;
        Ok(bytes[..len.min(bytes.len())].to_vec())
    }

    fn record(
        &mut self,
        at: &At<'_, u32>,
        path: Vec<u8>,
        (size, sha256): Hashed,
    ) -> Result<Option<Record>, Fault> {
        let Some(entry) = self.find(*at.dir, at.name)? else { return Ok(None) };
        self.settle(entry.inode)?;
        let inode = self.inode(entry.inode)?;
        let xattrs = self.attributes_of(entry.inode, &inode)?;
        let (mode, uid, gid) = (u32::from(inode.mode & 0o7777), inode.uid, inode.gid);
        let what = What::File { size, sha256 };
        Ok(Some(Record { path, what, mode, uid, gid, mtime: inode.time, xattrs }))
    }

    fn make_dir(&mut self, at: &At<'_, u32>, attr: &Attr<'_>) -> Result<Made<()>, Fault> {
        Ok(discard(self.make_directory(at, attr)?))
    }

    fn make_implicit(&mut self, at: &At<'_, u32>) -> Result<u32, Fault> {
        match self.make_directory(at, &PLAIN)? {
            Made::New(number) => Ok(number),
            Made::Exists => Err(Fault::fs("make directory", at.path)(nix::errno::Errno::EEXIST)),
        }
    }

    fn set_dir(
        &mut self,
        dir: &u32,
        _path: &[u8],
        attr: &Attr<'_>,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        let split = split(attr.xattrs, self.block_len()).map_err(unheld)?;
        self.blocks.room(u64::from(split.block.is_some()) + 1)?;
        self.settle(*dir)?;
        let mut inode = self.inode(*dir)?;
        budget.attributes(self.attributes_of(*dir, &inode)?.len())?;
        self.detach(&mut inode)?;
        inode.mode = inode::DIRECTORY | bits(attr.mode);
        (inode.uid, inode.gid, inode.time) = (attr.uid, attr.gid, clamp(attr.mtime));
        let block = self.attach(*dir, &mut inode, split)?;
        self.set_inode(*dir, &inode)?;
        self.wait_attributes(*dir, block)
    }

    fn reset_dir(&mut self, dir: &u32, path: &[u8], budget: &mut Budget) -> Result<(), Fault> {
        self.set_dir(dir, path, &PLAIN, budget)
    }

    fn make_symlink(
        &mut self,
        at: &At<'_, u32>,
        target: &[u8],
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault> {
        if target.len() >= self.block_len() {
            return match self.find(*at.dir, at.name)? {
                Some(_) => Ok(Made::Exists),
                None => Err(cannot_hold_target(target.len(), Some(self.block_len() - 1))),
            };
        }
        let attr = Attr { mode: 0o777, xattrs: PLAIN.xattrs, ..*attr };
        let size = target.len() as u64;
        if target.len() <= FAST_TARGET {
            let mut map = [0; IBLOCK];
            map[..target.len()].copy_from_slice(target);
            return Ok(discard(self.make(at, &attr, (inode::SYMLINK, size, map, 0))?));
        }
        let made = self.make(at, &attr, (inode::SYMLINK, size, leaf_map(&[]), EXTENTS))?;
        if let Made::New(number) = made {
            self.wait_target(number, target)?;
        }
        Ok(discard(made))
    }

    fn make_special(
        &mut self,
        at: &At<'_, u32>,
        special: Special,
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault> {
        let (kind, (major, minor)) = match special {
            Special::Char(major, minor) => (inode::CHARACTER, (major, minor)),
            Special::Block(major, minor) => (inode::BLOCK, (major, minor)),
            Special::Fifo => (inode::FIFO, (0, 0)),
        };
        if major > MAJOR_MAX || minor > MINOR_MAX {
            let rule = "this file system cannot hold the device number";
            let number = format!("{major}:{minor}");
            return Err(Refusal::new(Class::Fs, rule).bytes(number.as_bytes()).into());
        }
        let map = match special {
            Special::Char(..) | Special::Block(..) => device_map(major, minor),
            Special::Fifo => [0; IBLOCK],
        };
        Ok(discard(self.make(at, attr, (kind, 0, map, 0))?))
    }

    fn make_link(&mut self, at: &At<'_, u32>, target: &At<'_, u32>) -> Result<Linked, Fault> {
        let Some(entry) = self.find(*target.dir, target.name)? else {
            return Ok(Linked::NoTarget);
        };
        if self.find(*at.dir, at.name)?.is_some() {
            return Ok(Linked::Exists);
        }
        if kind_of(entry) == Kind::Dir {
            return Ok(Linked::Directory);
        }
        self.can_make(at)?;
        let mut inode = self.inode(entry.inode)?;
        if inode.links >= LINKS_MAX {
            return Ok(Linked::TooMany(Some(LINKS_MAX)));
        }
        self.blocks.room(2)?;
        inode.links += 1;
        self.set_inode(entry.inode, &inode)?;
        self.set_name(*at.dir, at.name, entry)?;
        Ok(Linked::Done)
    }

    fn begin_file(
        &mut self,
        at: &At<'_, u32>,
        attr: &Attr<'_>,
        body: &Body<'_>,
    ) -> Result<Made<Writing>, Fault> {
        let block = self.block_len() as u64;
        if body.size.div_ceil(block) > u64::from(u32::MAX) {
            return Err(cannot_hold_size(body.size));
        }
        self.blocks.room(body.bytes().div_ceil(block))?;
        let made = self.make(at, attr, (inode::REGULAR, body.size, leaf_map(&[]), EXTENTS))?;
        Ok(match made {
            Made::New(number) => Made::New(Writing::new(number, body.size)),
            Made::Exists => Made::Exists,
        })
    }

    fn write(
        &mut self,
        file: &mut Writing,
        _at: &At<'_, u32>,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), Fault> {
        self.append(file, offset, piece)
    }

    fn end_file(
        &mut self,
        mut file: Writing,
        _at: &At<'_, u32>,
        _attr: &Attr<'_>,
        _body: &Body<'_>,
    ) -> Result<(), Fault> {
        self.fill(&mut file)?;
        if file.extents.is_empty() {
            return Ok(());
        }
        let number = file.number;
        let mut inode = self.inode(number)?;
        inode.sectors += self.sectors() * file.blocks();
        let in_inode = file.extents.len() <= IN_INODE;
        if in_inode {
            inode.map = leaf_map(&file.extents);
        }
        self.set_inode(number, &inode)?;
        if in_inode { Ok(()) } else { self.wait_extents(number, file.extents) }
    }

    fn remove(&mut self, at: &At<'_, u32>, budget: &mut Budget) -> Result<(), Fault> {
        budget.remove(1)?;
        let Some(entry) = self.find(*at.dir, at.name)? else { return Ok(()) };
        self.remove_node(entry, budget)?;
        self.set_name(*at.dir, at.name, Entry { inode: 0, kind: 0 })
    }

    fn clear(
        &mut self,
        dir: &u32,
        _path: &[u8],
        mut keep: impl FnMut(&[u8]) -> bool,
        budget: &mut Budget,
    ) -> Result<Cleared, Fault> {
        let mut cleared = Cleared::default();
        let mut walk = self.walk(*dir)?;
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        while let Some((name, entry)) = self.next_name(&mut walk)? {
            budget.remove(1)?;
            if keep(&name) {
                if kind_of(entry) == Kind::Dir {
                    cleared.dirs.push(name.clone());
                }
                if self.names.get(*dir, &name)?.is_none() {
                    kept.push((name, entry));
                }
                continue;
            }
            cleared.removed = true;
            budget.remove(1)?;
            self.remove_node(entry, budget)?;
            // Of a layer's own names all are kept.
            if self.names.get(*dir, &name)?.is_some() {
                gone.push(name);
            }
        }
        for name in gone {
            self.set_name(*dir, &name, Entry { inode: 0, kind: 0 })?;
        }
        // What the image had is gone but for these: it need not be looked at again.
        for (name, entry) in kept {
            self.set_name(*dir, &name, entry)?;
        }
        if cleared.removed && self.directories.get(*dir).is_some() {
            self.directories.set(*dir, Directory { lower: false, changed: true });
        }
        Ok(cleared)
    }

    fn finish(mut self, budget: &mut Budget) -> Result<ChunkSet, Fault> {
        self.write_later()?;
        self.pack_directories(budget)?;
        self.close()
    }
}
