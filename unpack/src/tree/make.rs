//! The calls that make one node, per kind of node, in the order that the kernel needs:
//! create, write, owner, mode, attributes, time.
//!
//! A write or a change of owner clears set-id bits and capabilities (chown(2), capabilities(7)),
//! so those come before mode and attributes; the time comes last.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::{SFlag, UtimensatFlags, futimens, makedev, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{linkat, symlinkat};

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Node};
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::record::spill::io_fault;
use crate::record::{Record, What};
use crate::sha::Sha256;
use crate::sys::{self, On};
use crate::tree::body::{Sink, too_big};
use crate::tree::dirs::{Dir, spec};
use crate::tree::fd::node::set_node_mode;
use crate::tree::fd::open::{drop_acl, mode, own, set_mode};
use crate::tree::fd::root::{is_dir, own_name, stat};
use crate::tree::site::{Target, Writer, missing_target};

/// Bits that a change of owner clears.
const SET_ID: u32 = 0o6000;

impl Writer<'_> {
    /// Runs `make`; if something is in its way, removes that and runs it again.
    fn create<T>(
        &mut self,
        slot: usize,
        name: &[u8],
        call: &'static str,
        path: &[u8],
        make: impl Fn(&Dir) -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        self.inode()?;
        let first = make(self.dirs.get(slot));
        let made = match first {
            Err(Errno::EEXIST) => {
                self.clear(slot, name)?;
                make(self.dirs.get(slot))
            }
            other => other,
        };
        made.map_err(|errno| match errno {
            Errno::ENAMETOOLONG | Errno::EINVAL | Errno::EILSEQ => {
                Refusal::new(Class::Fs, "this file system cannot hold the name").bytes(path).into()
            }
            errno => Fault::fs(call, path)(errno),
        })
    }

    /// Whether a new node in this directory needs its owner set.
    fn owner_differs(&self, entry: &Entry, dir: &Dir) -> bool {
        (entry.uid, entry.gid) != self.ids || dir.setgid
    }

    fn record(&mut self, entry: &Entry, path: Vec<u8>, what: What) -> Result<(), Fault> {
        self.keep(&Record::of(entry, path, what), false)
    }

    pub(crate) fn keep(&mut self, record: &Record, later: bool) -> Result<(), Fault> {
        if !self.limits.digests {
            return Ok(());
        }
        self.records.push(record, later).map_err(io_fault("keep the record of", &record.path))
    }

    pub(crate) fn file(
        &mut self,
        entry: &Entry,
        slot: usize,
        name: &[u8],
        path: Vec<u8>,
        size: u64,
        archive: &mut Archive<'_, Buffers>,
    ) -> Result<(), Fault> {
        let sha256 = self.content(entry, slot, name, &path, size, archive, false)?;
        let later = sha256.is_none();
        let sha256 = sha256.unwrap_or_default();
        self.keep(&Record::of(entry, path, What::File { size, sha256 }), later)
    }

    /// Makes a regular file with all that its entry says. Gives the digest of a file that was hashed
    /// `here`, as a sparse one always is; of others it follows from the thread that hashes.
    #[allow(clippy::too_many_arguments, reason = "an entry, where it goes and where it comes from")]
    pub(crate) fn content(
        &mut self,
        entry: &Entry,
        slot: usize,
        name: &[u8],
        path: &[u8],
        size: u64,
        archive: &mut Archive<'_, Buffers>,
        here: bool,
    ) -> Result<Option<[u8; 32]>, Fault> {
        let whole = || vec![(0, size)];
        let parts = archive.take_parts();
        let is_sparse = parts.is_some();
        let parts = parts.or_else(|| here.then(whole));
        let bytes = parts.as_ref().map_or(size, |parts| parts.iter().map(|part| part.1).sum());
        self.room(bytes)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = self
            .create(slot, name, "create", path, |dir| openat(dir, name, flags, mode(entry.mode)))?;
        if !is_sparse {
            self.preallocate(&fd, path, size)?;
        }
        let sink = Sink { fd: &fd, path, size, file_size_max: self.file_size_max };
        let sha256 = match parts {
            None => {
                sink.write(size >= self.limits.place_min, archive)?;
                None
            }
            Some(parts) => {
                let hash = Sha256::when(self.limits.digests);
                Some(sink.write_parts(&parts, hash, archive, &mut self.budget)?)
            }
        };
        let dir = self.dirs.get(slot);
        let owned = self.owner_differs(entry, dir);
        if owned {
            own(&fd, path, entry.uid, entry.gid)?;
        }
        if dir.acl {
            drop_acl(fd.as_fd(), path, false)?;
        }
        if dir.acl || (owned && entry.mode & SET_ID != 0) {
            set_mode(&fd, path, entry.mode)?;
        }
        set_xattrs(On::Fd(fd.as_fd()), path, entry)?;
        let time = spec(entry.mtime);
        futimens(&fd, &time, &time).map_err(Fault::fs("set time of", path))?;
        self.counts.content_bytes += size;
        Ok(sha256)
    }

    fn preallocate(&mut self, fd: &OwnedFd, path: &[u8], size: u64) -> Result<(), Fault> {
        if size == 0 || size < self.limits.place_min || !self.preallocates {
            return Ok(());
        }
        let len = i64::try_from(size).unwrap_or(i64::MAX);
        match fallocate(fd, FallocateFlags::empty(), 0, len) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.preallocates = false,
            Err(Errno::EFBIG) => return Err(too_big(path, size, self.file_size_max)),
            Err(errno) => return Err(Fault::fs("allocate", path)(errno)),
        }
        Ok(())
    }

    pub(crate) fn dir(
        &mut self,
        entry: &Entry,
        slot: usize,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Fault> {
        self.inode()?;
        let made = match mkdirat(self.dirs.get(slot), name, mode(entry.mode)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => {
                if stat(self.dirs.get(slot), name)?.is_some_and(|old| is_dir(&old)) {
                    false
                } else {
                    self.create(slot, name, "make directory", &path, |dir| {
                        mkdirat(dir, name, mode(entry.mode))
                    })?;
                    true
                }
            }
            Err(errno) => return Err(Fault::fs("make directory", &path)(errno)),
        };
        let dir = self.dirs.get(slot);
        // mkdir(2) takes no set-id bits, and inherits setgid and ACLs.
        let simple =
            made && entry.xattrs.is_empty() && entry.mode & SET_ID == 0 && !dir.setgid && !dir.acl;
        if simple {
            if self.owner_differs(entry, dir) {
                own_name(dir, name, entry.uid, entry.gid)?;
            }
            let time = spec(entry.mtime);
            utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
                .map_err(Fault::fs("set time of", &path))?;
            if self.tracks()
                && let Some(stat) = stat(dir, name)?
            {
                self.own_dir(stat.st_ino);
            }
        } else {
            let fd =
                crate::tree::fd::open::open_dir(dir, name).map_err(Fault::fs("open", &path))?;
            let inherited = dir.acl;
            let ino = self.dir_attributes(&fd, entry, &path, made, inherited)?;
            if made {
                self.own_dir(ino);
            }
        }
        self.record(entry, path, What::Dir)
    }

    /// An entry for the root itself.
    pub(crate) fn root_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        let fd = self.dirs.get(0).fd.clone();
        self.dir_attributes(&fd, entry, b".", false, false)?;
        self.record(entry, Vec::new(), What::Dir)
    }

    /// Gives an open directory all that its entry says; what a lower layer said goes.
    fn dir_attributes(
        &mut self,
        fd: &OwnedFd,
        entry: &Entry,
        path: &[u8],
        made: bool,
        inherited: bool,
    ) -> Result<u64, Fault> {
        if !made {
            let cleared = clear_xattrs(fd, path)?;
            self.budget.attributes(cleared)?;
        } else if inherited {
            drop_acl(fd.as_fd(), path, true)?;
        }
        own(fd, path, entry.uid, entry.gid)?;
        set_mode(fd, path, entry.mode)?;
        set_xattrs(On::Fd(fd.as_fd()), path, entry)?;
        let time = spec(entry.mtime);
        futimens(fd, &time, &time).map_err(Fault::fs("set time of", path))?;
        let acl = entry.xattrs.iter().any(|(key, _)| key == b"system.posix_acl_default");
        self.dirs.acls |= acl;
        let ino = nix::sys::stat::fstat(fd).map_err(Fault::fs("stat", path))?.st_ino;
        if let Some(open) = self.dirs.by_ino(ino) {
            open.mtime = entry.mtime;
            open.setgid = entry.mode & 0o2000 != 0;
            open.acl = acl;
        }
        Ok(ino)
    }

    pub(crate) fn symlink(
        &mut self,
        entry: &Entry,
        slot: usize,
        name: &[u8],
        path: Vec<u8>,
        target: &[u8],
    ) -> Result<(), Fault> {
        self.create(slot, name, "make symlink", &path, |dir| symlinkat(target, dir, name))?;
        let dir = self.dirs.get(slot);
        if self.owner_differs(entry, dir) {
            own_name(dir, name, entry.uid, entry.gid)?;
        }
        set_time(dir, name, entry)?;
        self.record(entry, path, What::Symlink { target: target.to_vec() })
    }

    pub(crate) fn special(
        &mut self,
        entry: &Entry,
        slot: usize,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Fault> {
        let (kind, (major, minor), what) = match entry.node {
            Node::Char { major, minor } => {
                (SFlag::S_IFCHR, (major, minor), What::Char { major, minor })
            }
            Node::Block { major, minor } => {
                (SFlag::S_IFBLK, (major, minor), What::Block { major, minor })
            }
            _ => (SFlag::S_IFIFO, (0, 0), What::Fifo),
        };
        let device = makedev(u64::from(major), u64::from(minor));
        self.create(slot, name, "make node", &path, |dir| {
            mknodat(dir, name, kind, mode(entry.mode), device)
        })?;
        let dir = self.dirs.get(slot);
        let owned = self.owner_differs(entry, dir);
        if owned {
            own_name(dir, name, entry.uid, entry.gid)?;
        }
        if dir.acl {
            match sys::remove_xattr(On::Here(dir.as_fd(), name), b"system.posix_acl_access") {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(Fault::fs("remove ACL of", &path)(errno)),
            }
        }
        if dir.acl || (owned && entry.mode & SET_ID != 0) {
            set_node_mode(dir, name, (kind, device), entry.mode)?;
        }
        set_xattrs(On::Here(dir.as_fd(), name), &path, entry)?;
        set_time(dir, name, entry)?;
        self.record(entry, path, what)
    }

    /// The target itself is never followed; its owner, mode and time stay as they are.
    pub(crate) fn hardlink(
        &mut self,
        slot: usize,
        name: &[u8],
        path: Vec<u8>,
        target: &Target,
    ) -> Result<(), Fault> {
        let refuse = |class, rule| Refusal::new(class, rule).bytes(&target.path).into();
        let from =
            |at: &Dir| linkat(&*target.dir, target.name.as_slice(), at, name, AtFlags::empty());
        let linked = match from(self.dirs.get(slot)) {
            Err(Errno::EEXIST) => {
                let old = stat(self.dirs.get(slot), name)?.map(|stat| stat.st_ino);
                match stat(&*target.dir, &target.name)?.map(|stat| stat.st_ino) {
                    None => return Err(missing_target(&target.path)),
                    new if new == old && target.path == path => {
                        return Err(refuse(Class::Link, "hard link to itself"));
                    }
                    new if new == old => Ok(()),
                    Some(_) => {
                        self.clear(slot, name)?;
                        from(self.dirs.get(slot))
                    }
                }
            }
            other => other,
        };
        match linked {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Err(missing_target(&target.path)),
            Err(Errno::EPERM)
                if stat(&*target.dir, &target.name)?.is_some_and(|stat| is_dir(&stat)) =>
            {
                return Err(refuse(Class::Link, "hard link to a directory"));
            }
            Err(Errno::EMLINK) => return Err(refuse(Class::Fs, "too many links to one inode")),
            Err(errno) => return Err(Fault::fs("link", &path)(errno)),
        }
        match target.pseudo {
            None => self.keep(&crate::record::hardlink(&path, &target.path), false),
            Some(content) => self.pseudo_record(target, &path, content),
        }
    }
}

fn set_time(dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
    let time = spec(entry.mtime);
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(Fault::fs("set time of", name))
}

fn set_xattrs(on: On<'_>, path: &[u8], entry: &Entry) -> Result<(), Fault> {
    for (key, value) in &entry.xattrs {
        match sys::set_xattr(on, key, value) {
            Ok(()) => {}
            // It is also said of an attribute that is too large for an inode where there is room enough.
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) if is_full(on, errno) => {
                return Err(Fault::fs("set extended attribute of", path)(errno));
            }
            Err(
                Errno::ENOSPC | Errno::E2BIG | Errno::ERANGE | Errno::EINVAL | Errno::EOPNOTSUPP,
            ) => {
                let rule = "this file system cannot hold the extended attribute";
                return Err(Refusal::new(Class::Xattr, rule).bytes(key).into());
            }
            Err(errno) => return Err(Fault::fs("set extended attribute of", path)(errno)),
        }
    }
    Ok(())
}

/// Whether a file system has no room for the block of an attribute. A few blocks may be free that only its
/// own structures get.
fn is_full(on: On<'_>, errno: Errno) -> bool {
    const FEW: u64 = 16;
    let (On::Fd(fd) | On::Name(fd, _) | On::Here(fd, _)) = on;
    errno == Errno::EDQUOT || fstatvfs(fd).is_ok_and(|stat| stat.blocks_available() < FEW)
}

/// Removes the attributes that a layer can set; says how many that was.
pub(crate) fn clear_xattrs(fd: impl AsFd, path: &[u8]) -> Result<usize, Fault> {
    let (on, mut cleared) = (On::Fd(fd.as_fd()), 0);
    for key in sys::list_xattr(on).map_err(Fault::fs("list extended attributes of", path))? {
        if crate::archive::entry::ours(&key) {
            match sys::remove_xattr(on, &key) {
                Ok(()) | Err(Errno::ENODATA) => cleared += 1,
                Err(errno) => {
                    return Err(Fault::fs("remove extended attribute of", path)(errno));
                }
            }
        }
    }
    Ok(cleared)
}
