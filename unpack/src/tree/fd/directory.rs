//! A tree below a directory's descriptor: every operation of a [`Sink`] as system calls, per kind of node
//! in the order that the kernel needs: create, write, owner, mode, attributes, time.
//!
//! A write or a change of owner clears set-id bits and capabilities (chown(2), capabilities(7)), so those
//! come before mode and attributes; the time comes last. Directories are opened by `openat2` under one that
//! is open, with RESOLVE_IN_ROOT, NO_MAGICLINKS, NO_XDEV and NO_SYMLINKS.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, futimens, makedev, mkdirat, mknodat, umask};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{linkat, symlinkat};

use crate::archive::pax::Time;
use crate::error::Fault;
use crate::limits::Limits;
use crate::record::{Hashed, Record};
use crate::sys::{self, On};
use crate::tree::budget::Budget;
use crate::tree::fd::attributes::{clear_xattrs, set_time, set_xattrs};
use crate::tree::fd::file::File;
use crate::tree::fd::handle::{Handle, spec};
use crate::tree::fd::look::read_known;
use crate::tree::fd::node::set_node_mode;
use crate::tree::fd::open::{drop_acl, mode, open_dir, own, plain_dir, set_mode};
use crate::tree::fd::remove::{remove, stream};
use crate::tree::fd::root::{Root, is_dir, kind, own_name, stat};
use crate::tree::sink::{
    At, Attr, Base, Body, Cleared, Found, Linked, Made, Sink, Special, Step, cannot_hold_name,
    cannot_hold_target, no_inode, no_room,
};
use crate::tree::touched::LOST_AND_FOUND;

/// The most bytes of a name, in nearly every file system (limits.h).
const NAME_MAX: usize = 255;

/// Bits that a change of owner clears.
const SET_ID: u32 = 0o6000;

/// Bytes of a body before which it is asked whether they fit.
const ASK: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Directory {
    root: Handle,
    /// Our own ids: what new nodes get.
    ids: (u32, u32),
    /// Whether a default ACL can be met at all.
    acls: bool,
    /// Inodes that may be made before the file system is asked again.
    inodes: u64,
    /// Files of at least this many bytes get their place at once.
    place_min: u64,
    /// Whether the file system knows fallocate(2).
    preallocates: bool,
    /// How large a file the host lets this process make.
    file_size_max: u64,
}

impl Directory {
    /// The tree below `root`, for this thread to write.
    pub(crate) fn new(
        root: &Root,
        limits: &Limits,
        file_size_max: u64,
    ) -> Result<Directory, Fault> {
        // This thread's own umask: modes are exact at creation. Threads share it otherwise.
        unshare(CloneFlags::CLONE_FS).map_err(Fault::fs("unshare", b"fs"))?;
        umask(mode(0));
        Ok(Directory { place_min: limits.place_min, file_size_max, ..Directory::to_read(root)? })
    }

    /// The tree below `root`, for looking at it alone.
    pub(crate) fn to_read(root: &Root) -> Result<Directory, Fault> {
        Ok(Directory {
            root: Handle::new(root.reopen()?),
            ids: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
            acls: true,
            inodes: 0,
            place_min: u64::MAX,
            preallocates: true,
            file_size_max: u64::MAX,
        })
    }

    /// Runs `make` in a directory, which either makes one inode or finds the name taken.
    fn create<T>(
        &mut self,
        at: &At<'_, Handle>,
        call: &'static str,
        make: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<Made<T>, Fault> {
        if self.inodes == 0 {
            let stat = fstatvfs(&self.root).map_err(Fault::fs("statvfs", b"."))?;
            // Some file systems make inodes as they go and count none.
            self.inodes = if stat.files() == 0 { u64::MAX } else { stat.files_free() };
            if self.inodes == 0 {
                return Err(no_inode());
            }
        }
        at.dir.changes(at.path)?;
        match make(at.dir.fd()) {
            Ok(made) => {
                self.inodes -= 1;
                Ok(Made::New(made))
            }
            Err(Errno::EEXIST) => Ok(Made::Exists),
            Err(Errno::ENAMETOOLONG | Errno::EINVAL | Errno::EILSEQ) => {
                Err(cannot_hold_name(at.path))
            }
            Err(errno) => Err(Fault::fs(call, at.path)(errno)),
        }
    }

    /// Whether children of this directory inherit an ACL.
    fn hands_down_acl(&self, at: &At<'_, Handle>) -> Result<bool, Fault> {
        Ok(self.acls && at.dir.acl(at.path)?)
    }

    /// Whether a new node in this directory needs its owner set.
    fn owner_differs(&self, at: &At<'_, Handle>, attr: &Attr<'_>) -> Result<bool, Fault> {
        Ok((attr.uid, attr.gid) != self.ids || at.dir.setgid(at.path)?)
    }

    /// Gives an open directory all that `attr` says.
    fn dress(&mut self, fd: &OwnedFd, path: &[u8], attr: &Attr<'_>) -> Result<(), Fault> {
        own(fd, path, attr.uid, attr.gid)?;
        set_mode(fd, path, attr.mode)?;
        set_xattrs(On::Fd(fd.as_fd()), path, attr.xattrs)?;
        let time = spec(attr.mtime);
        futimens(fd, &time, &time).map_err(Fault::fs("set time of", path))?;
        self.acls |= has_default_acl(attr);
        Ok(())
    }
}

fn has_default_acl(attr: &Attr<'_>) -> bool {
    attr.xattrs.iter().any(|(key, _)| key == b"system.posix_acl_default")
}

impl Sink for Directory {
    type Dir = Handle;
    type File = File;
    type Done = ();

    fn root(&mut self) -> Result<Handle, Fault> {
        Ok(self.root.clone())
    }

    fn base(&mut self) -> Result<Base, Fault> {
        let mut lost_and_found = None;
        for entry in stream(&self.root, b".")?.iter() {
            let entry = entry.map_err(Fault::fs("read directory", b"."))?;
            let name = entry.file_name().to_bytes();
            match name {
                b"." | b".." => continue,
                LOST_AND_FOUND => {}
                _ => return Ok(Base::Tree),
            }
            let Some(stat) = stat(&self.root, name)? else { continue };
            if !is_dir(&stat) {
                return Ok(Base::Tree);
            }
            for child in stream(&self.root, name)?.iter() {
                let child = child.map_err(Fault::fs("read directory", name))?;
                if !matches!(child.file_name().to_bytes(), b"." | b"..") {
                    return Ok(Base::Tree);
                }
            }
            lost_and_found = Some(stat.st_ino);
        }
        self.acls = self.root.acl(b".")?;
        Ok(Base::Blank { lost_and_found })
    }

    fn open(&mut self, from: &Handle, path: &[u8], told: &[u8]) -> Result<Step<Handle>, Fault> {
        match open_dir(from, path) {
            Ok(fd) => Ok(Step::Dir(Handle::new(fd))),
            Err(Errno::ENOENT) => Ok(Step::Missing),
            Err(Errno::ELOOP) => Ok(Step::Link),
            Err(Errno::ENOTDIR) => Ok(Step::NotDir),
            Err(Errno::ENAMETOOLONG) => Ok(Step::TooLong),
            Err(Errno::EXDEV) => Ok(Step::Elsewhere),
            Err(errno) => Err(Fault::fs("open directory", told)(errno)),
        }
    }

    fn id(&mut self, dir: &Handle, path: &[u8]) -> Result<u64, Fault> {
        dir.ino(path)
    }

    fn close(&mut self, dir: &Handle, path: &[u8]) -> Result<(), Fault> {
        dir.settle(path)
    }

    fn look(&mut self, at: &At<'_, Handle>) -> Result<Option<Found>, Fault> {
        let found = stat(at.dir, at.name)?;
        Ok(found.map(|stat| Found { id: stat.st_ino, kind: kind(&stat) }))
    }

    fn read_link(&mut self, at: &At<'_, Handle>) -> Result<Vec<u8>, Fault> {
        let target = readlinkat(at.dir, at.name).map_err(Fault::fs("read link", at.path))?;
        Ok(target.into_encoded_bytes())
    }

    fn record(
        &mut self,
        at: &At<'_, Handle>,
        path: Vec<u8>,
        content: Hashed,
    ) -> Result<Option<Record>, Fault> {
        let Some(stat) = stat(at.dir, at.name)? else { return Ok(None) };
        let (known, mut budget) = (Some(content), Budget::unlimited());
        read_known(at.dir.fd(), at.name, path, &stat, known, true, &mut budget).map(Some)
    }

    fn make_dir(&mut self, at: &At<'_, Handle>, attr: &Attr<'_>) -> Result<Made<()>, Fault> {
        let made =
            self.create(at, "make directory", |dir| mkdirat(dir, at.name, mode(attr.mode)))?;
        if made == Made::Exists {
            return Ok(Made::Exists);
        }
        let inherits = self.hands_down_acl(at)?;
        // mkdir(2) takes no set-id bits, and inherits setgid and ACLs.
        let simple = attr.xattrs.is_empty() && attr.mode & SET_ID == 0 && !inherits;
        if simple && !at.dir.setgid(at.path)? {
            if self.owner_differs(at, attr)? {
                own_name(at.dir, at.name, attr.uid, attr.gid)?;
            }
            set_time(at.dir, at.name, at.path, attr.mtime)?;
        } else {
            let fd = open_dir(at.dir, at.name).map_err(Fault::fs("open", at.path))?;
            if inherits {
                drop_acl(fd.as_fd(), at.path, true)?;
            }
            self.dress(&fd, at.path, attr)?;
        }
        Ok(Made::New(()))
    }

    fn make_implicit(&mut self, at: &At<'_, Handle>) -> Result<Handle, Fault> {
        at.dir.changes(at.path)?;
        mkdirat(at.dir, at.name, mode(0o755)).map_err(Fault::fs("make directory", at.path))?;
        self.inodes = self.inodes.saturating_sub(1);
        let fd = open_dir(at.dir, at.name).map_err(Fault::fs("open directory", at.path))?;
        let dir = Handle::new(fd);
        // It is at the epoch when it is closed.
        dir.changes(at.path)?;
        if self.hands_down_acl(at)? || at.dir.setgid(at.path)? {
            plain_dir(&dir, at.path, self.ids, 0o755)?;
        }
        dir.became(Time::default(), false, false, at.path)?;
        Ok(dir)
    }

    fn set_dir(
        &mut self,
        dir: &Handle,
        path: &[u8],
        attr: &Attr<'_>,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        let cleared = clear_xattrs(dir, path)?;
        budget.attributes(cleared)?;
        self.dress(dir.fd(), path, attr)?;
        dir.became(attr.mtime, attr.mode & 0o2000 != 0, has_default_acl(attr), path)
    }

    fn reset_dir(&mut self, dir: &Handle, path: &[u8], budget: &mut Budget) -> Result<(), Fault> {
        dir.changes(path)?;
        let cleared = clear_xattrs(dir, path)?;
        budget.attributes(cleared)?;
        plain_dir(dir, path, self.ids, 0o755)?;
        dir.became(Time::default(), false, false, path)
    }

    fn make_symlink(
        &mut self,
        at: &At<'_, Handle>,
        target: &[u8],
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault> {
        let mut too_long = false;
        let made = self.create(at, "make symlink", |dir| {
            let made = symlinkat(target, dir, at.name);
            // Of a name that is no longer than any may be it is the target.
            too_long = made == Err(Errno::ENAMETOOLONG) && at.name.len() <= NAME_MAX;
            made
        });
        let made = if too_long { Err(cannot_hold_target(target.len(), None)) } else { made }?;
        if made == Made::Exists {
            return Ok(Made::Exists);
        }
        if self.owner_differs(at, attr)? {
            own_name(at.dir, at.name, attr.uid, attr.gid)?;
        }
        set_time(at.dir, at.name, at.name, attr.mtime)?;
        Ok(Made::New(()))
    }

    fn make_special(
        &mut self,
        at: &At<'_, Handle>,
        special: Special,
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault> {
        let (kind, (major, minor)) = match special {
            Special::Char(major, minor) => (SFlag::S_IFCHR, (major, minor)),
            Special::Block(major, minor) => (SFlag::S_IFBLK, (major, minor)),
            Special::Fifo => (SFlag::S_IFIFO, (0, 0)),
        };
        let device = makedev(u64::from(major), u64::from(minor));
        let make = |dir: &OwnedFd| mknodat(dir, at.name, kind, mode(attr.mode), device);
        if self.create(at, "make node", make)? == Made::Exists {
            return Ok(Made::Exists);
        }
        let (owned, inherits) = (self.owner_differs(at, attr)?, self.hands_down_acl(at)?);
        if owned {
            own_name(at.dir, at.name, attr.uid, attr.gid)?;
        }
        let here = On::Here(at.dir.as_fd(), at.name);
        if inherits {
            match sys::remove_xattr(here, b"system.posix_acl_access") {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(Fault::fs("remove ACL of", at.path)(errno)),
            }
        }
        if inherits || (owned && attr.mode & SET_ID != 0) {
            set_node_mode(at.dir, at.name, (kind, device), attr.mode)?;
        }
        set_xattrs(here, at.path, attr.xattrs)?;
        set_time(at.dir, at.name, at.name, attr.mtime)?;
        Ok(Made::New(()))
    }

    fn make_link(&mut self, at: &At<'_, Handle>, target: &At<'_, Handle>) -> Result<Linked, Fault> {
        at.dir.changes(at.path)?;
        match linkat(target.dir, target.name, at.dir, at.name, AtFlags::empty()) {
            Ok(()) => Ok(Linked::Done),
            Err(Errno::EEXIST) => Ok(Linked::Exists),
            Err(Errno::ENOENT) => Ok(Linked::NoTarget),
            Err(Errno::EMLINK) => Ok(Linked::TooMany(None)),
            Err(Errno::EPERM)
                if stat(target.dir, target.name)?.is_some_and(|stat| is_dir(&stat)) =>
            {
                Ok(Linked::Directory)
            }
            Err(errno) => Err(Fault::fs("link", at.path)(errno)),
        }
    }

    fn begin_file(
        &mut self,
        at: &At<'_, Handle>,
        attr: &Attr<'_>,
        body: &Body<'_>,
    ) -> Result<Made<File>, Fault> {
        let bytes = body.bytes();
        if bytes >= ASK {
            let stat = fstatvfs(&self.root).map_err(Fault::fs("statvfs", b"."))?;
            let free = stat.blocks_free().saturating_mul(stat.fragment_size());
            if free < bytes {
                return Err(no_room(bytes, free));
            }
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = self.create(at, "create", |dir| openat(dir, at.name, flags, mode(attr.mode)))?;
        let fd = match made {
            Made::New(fd) => fd,
            Made::Exists => return Ok(Made::Exists),
        };
        let file = File::new(fd, body, body.size >= self.place_min, self.file_size_max);
        self.preallocates = self.preallocates && file.preallocate(at.path)?;
        Ok(Made::New(file))
    }

    fn write(
        &mut self,
        file: &mut File,
        at: &At<'_, Handle>,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), Fault> {
        file.write(at.path, offset, piece)
    }

    fn end_file(
        &mut self,
        mut file: File,
        at: &At<'_, Handle>,
        attr: &Attr<'_>,
        _: &Body<'_>,
    ) -> Result<(), Fault> {
        file.end(at.path)?;
        let (owned, inherits) = (self.owner_differs(at, attr)?, self.hands_down_acl(at)?);
        if owned {
            own(&file, at.path, attr.uid, attr.gid)?;
        }
        if inherits {
            drop_acl(file.as_fd(), at.path, false)?;
        }
        if inherits || (owned && attr.mode & SET_ID != 0) {
            set_mode(&file, at.path, attr.mode)?;
        }
        set_xattrs(On::Fd(file.as_fd()), at.path, attr.xattrs)?;
        let time = spec(attr.mtime);
        futimens(&file, &time, &time).map_err(Fault::fs("set time of", at.path))
    }

    fn remove(&mut self, at: &At<'_, Handle>, budget: &mut Budget) -> Result<(), Fault> {
        at.dir.changes(at.path)?;
        remove(at.dir, at.name, budget)
    }

    fn clear(
        &mut self,
        dir: &Handle,
        path: &[u8],
        mut keep: impl FnMut(&[u8]) -> bool,
        budget: &mut Budget,
    ) -> Result<Cleared, Fault> {
        dir.changes(path)?;
        let mut cleared = Cleared::default();
        for entry in stream(dir, b".")?.iter() {
            let entry = entry.map_err(Fault::fs("read directory", path))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            budget.remove(1)?;
            if !keep(name) {
                cleared.removed = true;
                remove(dir, name, budget)?;
            } else if stat(dir, name)?.is_some_and(|stat| is_dir(&stat)) {
                cleared.dirs.push(name.to_vec());
            }
        }
        Ok(cleared)
    }

    fn finish(self, _: &mut Budget) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also below a directory that hands down its group.
    #[test]
    fn it_is_what_a_sink_is() {
        for bits in [0o755, 0o2755] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::open(dir.path()).unwrap();
            set_mode(&root, b".", bits).unwrap();
            let limits = Limits::default();
            // The umask is a thread's own from then on.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    crate::tree::contract::holds(Directory::new(&root, &limits, u64::MAX).unwrap());
                });
            });
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
