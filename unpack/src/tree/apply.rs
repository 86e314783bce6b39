//! The loop: one entry after another takes effect on a tree, whatever kind of [`Sink`] that is.
//!
//! Rules are those of the OCI image spec, layer.md ("Applying Changesets"). Parents come from
//! `dirs`, what is refused was refused in `archive` and `entry`, what a whiteout may hide is
//! known to `touched`. What each kind of node takes is in `make`.

use std::io::Write;
use std::sync::Arc;

use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Node, PSEUDO};
use crate::archive::pipeline::Digests;
use crate::archive::{Archive, End};
use crate::error::refusal::Refusal;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::Record;
use crate::record::applied::{Applied, Counts};
use crate::record::place::Spill;
use crate::record::spill::{Records, io_fault};
use crate::tree::budget::Budget;
use crate::tree::dirs::{Dirs, Missing, join};
use crate::tree::sink::{At, Base, Sink};
use crate::tree::site::{Pseudo, Target, Writer, depth, missing_target, split};
use crate::tree::touched::{Below, Inodes, Touched};

/// What an application may write besides the tree.
pub(crate) struct Work<'a> {
    pub(crate) manifest: Option<&'a mut (dyn Write + Send)>,
    /// Records that do not fit in memory.
    pub(crate) spill: Option<Arc<Spill>>,
    /// This process does nothing else.
    pub(crate) alone: bool,
}

/// What was made of a layer, and what is left of the sink.
pub(crate) type Written<S> = (Applied, <S as Sink>::Done);

/// Makes the tree out of an archive, to its end.
pub(crate) fn write<S: Sink>(
    archive: Archive<'_, Buffers>,
    digests: Digests,
    sink: S,
    limits: &Limits,
    work: Work<'_>,
) -> Result<(Written<S>, End), Error> {
    let records = Records::new(work.spill, Some(digests));
    let budget = Budget::new(limits, archive.deadline(), work.alone);
    let writer = Writer::new(sink, limits, records, budget).map_err(Fault::nowhere)?;
    writer.run(archive, work.manifest)
}

impl<'l, S: Sink> Writer<'l, S> {
    fn new(
        sink: S,
        limits: &'l Limits,
        records: Records,
        budget: Budget,
    ) -> Result<Writer<'l, S>, Fault> {
        let mut dirs = Dirs::new(sink)?;
        let below = match dirs.sink.base()? {
            Base::Blank { lost_and_found } => Below::New { root: dirs.get(0).id, lost_and_found },
            Base::Tree => Below::AllBut(Inodes::default()),
        };
        Ok(Writer {
            limits,
            dirs,
            touched: Touched::new(below),
            budget,
            counts: Counts::default(),
            records,
            pseudo: Pseudo::default(),
        })
    }

    fn run(
        mut self,
        mut archive: Archive<'_, Buffers>,
        manifest: Option<&mut (dyn Write + Send)>,
    ) -> Result<(Written<S>, End), Error> {
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
        let mut budget = self.budget;
        let done = self.dirs.finish(&mut budget).map_err(|fault| fault.in_tree().nowhere())?;
        let mut sink = manifest;
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
        Ok(((applied, done), end))
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
        self.counts.implicit_dirs += std::mem::take(&mut self.dirs.made);
        let dir = self.dirs.get(slot);
        self.touched.touch(dir.id, name, true);
        let (handle, path) = (dir.handle.clone(), join(&dir.path, name));
        let at = At { dir: &handle, name, path: &path };
        match self.node(entry, &at, target.as_ref(), archive)? {
            Some((what, later)) => self.keep(&Record::of(entry, path, what), later),
            None => Ok(()),
        }
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Fault> {
        let (parent, name) = split(path);
        let Some(slot) =
            self.dirs.resolve(parent, Missing::Report, &mut self.touched, &mut self.budget)?
        else {
            return Ok(());
        };
        let dir = self.dirs.get(slot);
        let (id, handle, path) = (dir.id, dir.handle.clone(), join(&dir.path, name));
        if !self.touched.lower(id) {
            return Ok(());
        }
        if !self.touched.touched(id, name) {
            return self.clear(&At { dir: &handle, name, path: &path });
        }
        // The name is this layer's, but may be a directory merged with a lower one.
        let implicit = !self.touched.explicit(id, name);
        self.clear_lower(path, implicit)
    }

    fn opaque(&mut self, path: &[u8]) -> Result<(), Fault> {
        match self.dirs.resolve(path, Missing::Report, &mut self.touched, &mut self.budget)? {
            Some(slot) => {
                let real = self.dirs.get(slot).path.clone();
                self.clear_lower(real, false)
            }
            None => Ok(()),
        }
    }

    /// Removes what the lower layers have in a directory, and in those below it that this layer
    /// has a part in. Each directory is cleared once; then it is this layer's own. One that the layer
    /// uses only as a parent, as this one if `implicit`, is left as if it had been missing.
    fn clear_lower(&mut self, path: Vec<u8>, implicit: bool) -> Result<(), Fault> {
        let mut todo = vec![(path, implicit)];
        while let Some((path, implicit)) = todo.pop() {
            let Some(slot) = self.dirs.resolve_real(&path)? else { continue };
            let dir = self.dirs.get(slot);
            let (id, handle) = (dir.id, dir.handle.clone());
            if self.touched.lower(id) {
                let keep = |name: &[u8]| self.touched.touched(id, name);
                let cleared = self.dirs.sink.clear(&handle, &path, keep, &mut self.budget)?;
                let below = cleared.dirs.iter();
                todo.extend(
                    below.map(|name| (join(&path, name), !self.touched.explicit(id, name))),
                );
                self.touched.own(id);
                if cleared.removed {
                    self.dirs.forget_paths();
                }
            }
            if implicit {
                self.dirs.sink.reset_dir(&handle, &path, &mut self.budget)?;
            }
        }
        Ok(())
    }

    /// Where a hard link's target is, its parents followed inside the root.
    fn target(&mut self, path: &[u8]) -> Result<Target<S::Dir>, Fault> {
        let (parent, name) = split(path);
        match self.dirs.resolve(parent, Missing::Report, &mut self.touched, &mut self.budget)? {
            Some(slot) => {
                let dir = self.dirs.get(slot);
                let (path, dir) = (join(&dir.path, name), dir.handle.clone());
                Ok(Target { dir, name: name.to_vec(), path, pseudo: None })
            }
            None => Err(missing_target(path)),
        }
    }
}
