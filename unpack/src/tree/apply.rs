//! The loop: one entry after another takes effect under the root.
//!
//! Rules are those of the OCI image spec, layer.md ("Applying Changesets"). Parents come from
//! `dirs`, what is refused was refused in `archive` and `entry`, what a whiteout may hide is
//! known to `touched`. The calls per kind of node are in `make`.

use std::fs::File;
use std::io::{Read, Write};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::umask;
use nix::sys::statvfs::fstatvfs;

use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Node, PSEUDO};
use crate::archive::pax::Time;
use crate::archive::pipeline::{self, Digests};
use crate::archive::{Archive, End};
use crate::error::refusal::{Refusal, Space};
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::applied::{Applied, Counts};
use crate::record::spill::{Records, io_fault, spill_file};
use crate::tree::budget::Budget;
use crate::tree::dirs::{Dirs, Missing};
use crate::tree::fd::open::mode;
use crate::tree::fd::remove::{remove, stream};
use crate::tree::fd::root::{Root, is_dir, stat};
use crate::tree::site::{Pseudo, Target, Writer, depth, missing_target, split};
use crate::tree::touched::{Below, Inodes, LOST_AND_FOUND, Touched};

/// Applies one layer, plain, gzip or zstd by its content, to the tree under `root`.
///
/// What is there already is taken to be the layers below. On any error the tree is worth nothing
/// and has to be thrown away: there is no rollback. Does not sync unless `limits.sync` is set.
///
/// # Errors
/// [`Error::Refused`] for what the layer does wrong; an error of `layer` itself comes back whole
/// in [`Error::Stream`].
pub fn apply(layer: impl Read, root: &Root, limits: &Limits) -> Result<Applied, Error> {
    apply_with(layer, root, limits, None)
}

/// [`apply`], which also writes the manifest: one JSON line for each node that the layer made, in
/// path order. Its sha256 is [`Applied::tree_digest`].
///
/// # Errors
/// As [`apply`], and [`Error::Fs`] if `manifest` cannot be written.
pub fn apply_with(
    layer: impl Read,
    root: &Root,
    limits: &Limits,
    manifest: Option<&mut (dyn Write + Send)>,
) -> Result<Applied, Error> {
    let spill = spill_file(limits)?;
    let work = Work { manifest, spill, alone: false, file_size_max: file_size_max() };
    apply_work(layer, root, limits, work)
}

/// What an application may write besides the tree.
pub(crate) struct Work<'a> {
    pub(crate) manifest: Option<&'a mut (dyn Write + Send)>,
    /// Records that do not fit in memory.
    pub(crate) spill: Option<File>,
    /// This process does nothing else.
    pub(crate) alone: bool,
    /// How large a file the host lets this process make.
    pub(crate) file_size_max: u64,
}

/// RLIMIT_FSIZE (getrlimit(2)), to be asked for before a wall forbids it.
pub(crate) fn file_size_max() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}

fn apply_work(
    layer: impl Read,
    root: &Root,
    limits: &Limits,
    work: Work<'_>,
) -> Result<Applied, Error> {
    let write =
        |archive: Archive<'_, Buffers>, digests| write(archive, digests, root, limits, work);
    let (mut applied, blob, diff) = pipeline::run(layer, limits, write, |done| done.entries)?;
    applied.sealed(&blob, &diff);
    if limits.sync {
        crate::tree::fd::root::sync(root)?;
    }
    Ok(applied)
}

/// Makes the tree out of an archive, to its end.
pub(crate) fn write(
    archive: Archive<'_, Buffers>,
    digests: Digests,
    root: &Root,
    limits: &Limits,
    work: Work<'_>,
) -> Result<(Applied, End), Error> {
    let records = Records::new(work.spill, limits.spill_bytes_max, Some(digests));
    let budget = Budget::new(limits, archive.deadline(), work.alone);
    let mut writer = Writer::new(root, limits, records, budget).map_err(Fault::nowhere)?;
    writer.file_size_max = work.file_size_max;
    writer.run(archive, work.manifest)
}

impl<'l> Writer<'l> {
    fn new(
        root: &Root,
        limits: &'l Limits,
        records: Records,
        budget: Budget,
    ) -> Result<Writer<'l>, Fault> {
        // This thread's own umask: modes are exact at creation. Threads share it otherwise.
        unshare(CloneFlags::CLONE_FS).map_err(Fault::fs("unshare", b"fs"))?;
        umask(mode(0));
        let mut dirs = Dirs::new(root.reopen()?)?;
        let (below, acls) = below(root, &dirs)?;
        dirs.acls = acls;
        Ok(Writer {
            limits,
            dirs,
            touched: Touched::new(below),
            budget,
            counts: Counts::default(),
            records,
            ids: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
            inodes: 0,
            preallocates: true,
            file_size_max: u64::MAX,
            pseudo: Pseudo::default(),
        })
    }

    fn run(
        mut self,
        mut archive: Archive<'_, Buffers>,
        manifest: Option<&mut (dyn Write + Send)>,
    ) -> Result<(Applied, End), Error> {
        let end = loop {
            match archive.next()? {
                Err(end) => break end,
                Ok(entry) => {
                    if let Err(fault) = self.entry(&entry, &mut archive) {
                        return Err(fault.in_tree().at(archive.place().clone()));
                    }
                }
            }
        };
        self.pseudo_end().map_err(|fault| fault.in_tree().nowhere())?;
        self.dirs.finish().map_err(|fault| fault.in_tree().nowhere())?;
        let mut sink = manifest;
        let mut budget = self.budget;
        let tree_digest = match self.limits.digests {
            true => self
                .records
                .finish(|_, line| {
                    budget.step()?;
                    match &mut sink {
                        Some(sink) => sink.write_all(line),
                        None => Ok(()),
                    }
                })
                .map_err(|e| io_fault("write", b"manifest")(e).nowhere())?,
            false => [0; 32],
        };
        let mut applied = Applied::new(self.counts, tree_digest);
        (applied.steps, applied.removals) = (budget.walked(), budget.removed());
        Ok((applied, end))
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_, Buffers>) -> Result<(), Fault> {
        self.budget.entry(depth(&entry.path))?;
        self.budget.attributes(entry.xattrs.len())?;
        self.counts.count(entry);
        let cost = entry.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() as u64;
        self.counts.xattr_bytes += cost;
        if self.counts.xattr_bytes > self.limits.xattrs_bytes_max {
            let (value, max) = (self.counts.xattr_bytes, self.limits.xattrs_bytes_max);
            let rule = "too many bytes of extended attributes";
            return Err(Refusal::limit("--xattrs-bytes-max", rule, value, max).into());
        }
        if self.counts.hardlinks > self.limits.links_max {
            let rule = "too many hard links";
            let max = self.limits.links_max;
            return Err(Refusal::limit("--links-max", rule, self.counts.hardlinks, max).into());
        }
        match &entry.node {
            Node::Aufs => return Ok(()),
            Node::Pseudo { size } => return self.pseudo(entry, *size, archive),
            Node::Opaque => return self.opaque(&entry.path),
            Node::Whiteout => return self.whiteout(&entry.path),
            Node::Dir if entry.path.is_empty() => return self.root_entry(entry),
            Node::File { .. }
            | Node::Dir
            | Node::Symlink { .. }
            | Node::Hardlink { .. }
            | Node::Char { .. }
            | Node::Block { .. }
            | Node::Fifo => {}
        }
        // A link's target first: to resolve it may push other directories out of the cache.
        let target = match &entry.node {
            Node::Hardlink { target } if target.starts_with(PSEUDO) => {
                Some(self.pseudo_target(target)?)
            }
            Node::Hardlink { target } => Some(self.target(target)?),
            _ => None,
        };
        let (parent, name) = split(&entry.path);
        let Some(slot) =
            self.dirs.resolve(parent, Missing::Make, &mut self.touched, &mut self.budget)?
        else {
            return Err(Fault::fs("open directory", parent)(nix::errno::Errno::ENOENT));
        };
        self.count_implicit();
        let dir = self.dirs.get_mut(slot);
        dir.dirty = true;
        let ino = dir.ino;
        self.touched.touch(ino, name, true);
        let path = crate::tree::dirs::join(&dir.path, name);
        match &entry.node {
            Node::File { size } => self.file(entry, slot, name, path, *size, archive),
            Node::Dir => self.dir(entry, slot, name, path),
            Node::Symlink { target } => self.symlink(entry, slot, name, path, target),
            Node::Hardlink { .. } => match target {
                Some(target) => self.hardlink(slot, name, path, &target),
                None => Ok(()),
            },
            Node::Char { .. } | Node::Block { .. } | Node::Fifo => {
                self.special(entry, slot, name, path)
            }
            Node::Whiteout | Node::Opaque | Node::Aufs | Node::Pseudo { .. } => Ok(()),
        }
    }

    /// Accounts for the directories that had to be made for a parent.
    fn count_implicit(&mut self) {
        let made = std::mem::take(&mut self.dirs.made);
        self.inodes = self.inodes.saturating_sub(made);
        self.counts.implicit_dirs += made;
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Fault> {
        let (parent, name) = split(path);
        let Some(slot) =
            self.dirs.resolve(parent, Missing::Report, &mut self.touched, &mut self.budget)?
        else {
            return Ok(());
        };
        let dir = self.dirs.get(slot);
        let (ino, path) = (dir.ino, crate::tree::dirs::join(&dir.path, name));
        if !self.touched.lower(ino) {
            return Ok(());
        }
        if !self.touched.touched(ino, name) {
            return self.clear(slot, name);
        }
        // The name is this layer's, but may be a directory merged with a lower one.
        let explicit = self.touched.explicit(ino, name);
        if let Some(slot) = self.dirs.resolve_real(&path)? {
            self.clear_lower(&path)?;
            if !explicit {
                self.reset_implicit(slot, &path)?;
            }
        }
        Ok(())
    }

    /// A lower directory that this layer uses only as a parent has been hidden: what is left is
    /// as if it had been missing.
    fn reset_implicit(&mut self, slot: usize, path: &[u8]) -> Result<(), Fault> {
        let ids = (self.ids.0.into(), self.ids.1.into());
        let dir = self.dirs.get_mut(slot);
        let cleared = crate::tree::make::clear_xattrs(&*dir, path)?;
        self.budget.attributes(cleared)?;
        crate::tree::fd::open::plain_dir(&*dir, path, ids, 0o755)?;
        dir.mtime = Time::default();
        dir.setgid = false;
        dir.acl = false;
        dir.dirty = true;
        Ok(())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<(), Fault> {
        match self.dirs.resolve(path, Missing::Report, &mut self.touched, &mut self.budget)? {
            Some(slot) => {
                let real = self.dirs.get(slot).path.clone();
                self.clear_lower(&real)
            }
            None => Ok(()),
        }
    }

    /// Removes what the lower layers have in a directory, and in those below it that this layer
    /// has a part in. Each directory is cleared once; then it is this layer's own.
    fn clear_lower(&mut self, path: &[u8]) -> Result<(), Fault> {
        let mut todo = vec![path.to_vec()];
        while let Some(path) = todo.pop() {
            let Some(slot) = self.dirs.resolve_real(&path)? else { continue };
            let dir = self.dirs.get_mut(slot);
            if !self.touched.lower(dir.ino) {
                continue;
            }
            dir.dirty = true;
            let ino = dir.ino;
            let mut removed_dir = false;
            for entry in stream(&*dir, b".")?.iter() {
                let entry = entry.map_err(Fault::fs("read directory", &path))?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                self.budget.remove(1)?;
                if !self.touched.touched(ino, name) {
                    removed_dir = true;
                    remove(&*dir, name, &mut self.budget)?;
                } else if stat(&*dir, name)?.is_some_and(|stat| is_dir(&stat)) {
                    todo.push(crate::tree::dirs::join(&path, name));
                }
            }
            self.touched.own(ino);
            if removed_dir {
                self.dirs.forget_paths();
            }
        }
        Ok(())
    }

    /// Makes way for a new node, or hides a lower one.
    pub(crate) fn clear(&mut self, slot: usize, name: &[u8]) -> Result<(), Fault> {
        let dir = self.dirs.get_mut(slot);
        dir.dirty = true;
        let Some(old) = stat(&*dir, name)? else { return Ok(()) };
        remove(&*dir, name, &mut self.budget)?;
        // Open paths may have led through it.
        match old.st_mode & libc::S_IFMT {
            libc::S_IFDIR | libc::S_IFLNK => self.dirs.forget_paths(),
            _ => {}
        }
        Ok(())
    }

    /// Checks that an inode is left before one is made.
    pub(crate) fn inode(&mut self) -> Result<(), Fault> {
        if self.inodes == 0 {
            let stat = fstatvfs(self.dirs.get(0)).map_err(Fault::fs("statvfs", b"."))?;
            // Some file systems make inodes as they go and count none.
            self.inodes = if stat.files() == 0 { u64::MAX } else { stat.files_free() };
            if self.inodes == 0 {
                return Err(Fault::NoSpace { what: Space::Inodes, need: 1, free: 0 });
            }
        }
        self.inodes -= 1;
        Ok(())
    }

    /// Checks that a large body fits before its file is made.
    pub(crate) fn room(&self, size: u64) -> Result<(), Fault> {
        if size < 1 << 20 {
            return Ok(());
        }
        let stat = fstatvfs(self.dirs.get(0)).map_err(Fault::fs("statvfs", b"."))?;
        let free = stat.blocks_free().saturating_mul(stat.fragment_size());
        if free < size {
            return Err(Fault::NoSpace { what: Space::Bytes, need: size, free });
        }
        Ok(())
    }

    pub(crate) fn own_dir(&mut self, ino: u64) {
        self.touched.own(ino);
    }

    pub(crate) fn tracks(&self) -> bool {
        self.touched.wants_inodes()
    }

    /// Where a hard link's target is, its parents followed inside the root.
    fn target(&mut self, path: &[u8]) -> Result<Target, Fault> {
        let (parent, name) = split(path);
        match self.dirs.resolve(parent, Missing::Report, &mut self.touched, &mut self.budget)? {
            Some(slot) => {
                let dir = self.dirs.get(slot);
                let path = crate::tree::dirs::join(&dir.path, name);
                Ok(Target { dir: dir.fd.clone(), name: name.to_vec(), path, pseudo: None })
            }
            None => Err(missing_target(path)),
        }
    }
}

/// What the root holds before the layer: a new file system (nothing, or an empty lost+found)
/// needs no bookkeeping. Also whether an ACL may be met that children inherit.
fn below(root: &Root, dirs: &Dirs) -> Result<(Below, bool), Fault> {
    let full = || (Below::AllBut(Inodes::default()), true);
    let mut lost_and_found = None;
    for entry in stream(root, b".")?.iter() {
        let entry = entry.map_err(Fault::fs("read directory", b"."))?;
        let name = entry.file_name().to_bytes();
        match name {
            b"." | b".." => continue,
            LOST_AND_FOUND => {}
            _ => return Ok(full()),
        }
        let Some(stat) = stat(root, name)? else { continue };
        if !is_dir(&stat) {
            return Ok(full());
        }
        for child in stream(root, name)?.iter() {
            let child = child.map_err(Fault::fs("read directory", name))?;
            if !matches!(child.file_name().to_bytes(), b"." | b"..") {
                return Ok(full());
            }
        }
        lost_and_found = Some(stat.st_ino);
    }
    Ok((Below::New { root: dirs.get(0).ino, lost_and_found }, dirs.get(0).acl))
}
