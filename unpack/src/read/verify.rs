//! Reading a layer without writing: to list it, or to hold a tree against it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Node, PSEUDO};
use crate::archive::pax::Time;
use crate::archive::{Archive, End, pipeline};
use crate::error::refusal::Class;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::read::walk::walk;
use crate::record::applied::{Applied, Counts};
use crate::record::place::Spill;
use crate::record::spill::{Records, io_fault};
use crate::record::{Record, What, hardlink};
use crate::sha::Sha256;
use crate::tree::budget::Budget;
use crate::tree::dirs::{Dirs, Missing, join};
use crate::tree::fd::directory::Directory;
use crate::tree::fd::look::read_node;
use crate::tree::fd::open::open_dir;
use crate::tree::fd::root::{Root, stat};
use crate::tree::site::split;
use crate::tree::touched::{Below, Inodes, Touched};

/// Reads a layer to its end and calls `each` for every entry, in order. Writes nothing.
///
/// Of the result, `tree_digest` is void (zeros): without a tree there are no resolved paths.
///
/// # Errors
/// As [`crate::apply`], save those of the file system.
pub fn list(
    layer: impl Read,
    limits: &Limits,
    each: impl FnMut(&Entry) + Send,
) -> Result<Applied, Error> {
    let mut each = each;
    let count = |mut archive: Archive<'_, Buffers>, _| {
        let mut counts = Counts::default();
        loop {
            match archive.next()? {
                Err(end) => return Ok((counts, end)),
                Ok(entry) => {
                    counts.count(&entry);
                    if let Node::File { size } | Node::Pseudo { size } = entry.node {
                        counts.content_bytes += size;
                    }
                    each(&entry);
                }
            }
        }
    };
    let (counts, blob, diff) = pipeline::run(layer, limits, count, |counts| counts.entries)?;
    let mut applied = Applied::new(counts, [0; 32]);
    applied.sealed(&blob, &diff);
    Ok(applied)
}

/// One way in which a tree is not what its layer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The layer has it, the tree has not.
    Missing {
        /// The manifest line that the layer gives.
        expected: String,
    },
    /// Both have it, and they differ.
    Changed {
        /// The manifest line that the layer gives.
        expected: String,
        /// The one that the tree gives.
        found: String,
    },
    /// The tree has it, the layer has not.
    Extra {
        /// Path below the root, raw.
        path: Vec<u8>,
    },
    /// The layer hides it, and the tree has it.
    Hidden {
        /// Path below the root, raw.
        path: Vec<u8>,
    },
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The layer; `tree_digest` is that of its manifest, as [`crate::apply`] gives it.
    pub layer: Applied,
    /// The same digest computed from the file system for the same paths.
    pub found_digest: [u8; 32],
    /// Manifest lines that are not so in the tree.
    pub differences: u64,
    /// Names that the layer does not have.
    pub extra: u64,
}

/// Holds the tree under `root` against one layer: every node that the layer makes is read back
/// and compared, contents too. `alone` says that the tree has to hold nothing else.
///
/// A parent that no entry names has to be as [`crate::apply`] makes it if `alone`, else it may be
/// a lower layer's. Where a layer lists a name twice the last one counts; parents are resolved in
/// the tree as it is, so that a symlink which the layer itself replaces half way is taken for what
/// it became.
///
/// # Errors
/// As [`crate::apply`]; a tree that differs is no error.
pub fn verify(
    layer: impl Read,
    root: &Root,
    limits: &Limits,
    alone: bool,
    mut report: impl FnMut(Difference),
) -> Result<Verified, Error> {
    let spill = crate::record::spill::spill(limits)?;
    let check = |archive: Archive<'_, Buffers>, _| {
        let budget = Budget::new(limits, archive.deadline(), false);
        let checker = Checker::new(root, spill, budget).map_err(Fault::nowhere)?;
        checker.run(archive)
    };
    let (layer, blob, diff) = pipeline::run(layer, limits, check, |layer| layer.counts.entries)?;
    let Layer { counts, records, paths, hidden, pseudo: _ } = layer;
    let tree = Tree { top: root.reopen().map_err(Fault::nowhere)?, hidden };
    let mut parents = BTreeSet::new();
    let mut differences = 0;
    let mut hash = Sha256::new();
    let mut fault = None;
    let digest = records.finish(|record, line| {
        let path = record.path.as_slice();
        let link = match &record.what {
            What::Hardlink { target } => Some(target.as_slice()),
            _ => None,
        };
        for (slash, _) in path.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            if !paths.contains(&path[..slash]) {
                parents.insert(path[..slash].to_vec());
            }
        }
        let found = match tree.record(path, link) {
            Ok(Some(found)) => found.line(),
            Ok(None) => Vec::new(),
            Err(e) => {
                fault = Some(e);
                return Err(std::io::Error::other("see fault"));
            }
        };
        hash.update(&found);
        if found != line {
            differences += 1;
            let text = |line: &[u8]| String::from_utf8_lossy(line).trim_end().to_owned();
            report(match found.is_empty() {
                true => Difference::Missing { expected: text(line) },
                false => Difference::Changed { expected: text(line), found: text(&found) },
            });
        }
        Ok(())
    });
    let digest = match (digest, fault) {
        (_, Some(fault)) => return Err(fault.nowhere()),
        (Ok(digest), None) => digest,
        (Err(source), None) => return Err(Error::Stream { source }),
    };
    for path in tree.hidden.iter().filter(|&path| !paths.contains(path) && !parents.contains(path))
    {
        if tree.stat(path).map_err(Fault::nowhere)?.is_some() {
            differences += 1;
            report(Difference::Hidden { path: path.clone() });
        }
    }
    let mut extra = 0;
    if alone {
        for path in &parents {
            let expected = implicit(path);
            let found = tree.record(path, None).map_err(Fault::nowhere)?;
            if found.as_ref() != Some(&expected) {
                differences += 1;
                let text = |r: &Record| String::from_utf8_lossy(r.line().trim_ascii()).into_owned();
                let (expected, found) = (text(&expected), found.as_ref().map(text));
                report(match found {
                    None => Difference::Missing { expected },
                    Some(found) => Difference::Changed { expected, found },
                });
            }
        }
        walk(root, |_, _, path, _| {
            if path != b"lost+found" && !paths.contains(path) && !parents.contains(path) {
                extra += 1;
                report(Difference::Extra { path: path.to_vec() });
            }
            Ok(())
        })
        .map_err(Fault::nowhere)?;
    }
    let mut layer = Applied::new(counts, digest);
    layer.sealed(&blob, &diff);
    Ok(Verified { layer, found_digest: hash.finish(), differences, extra })
}

fn implicit(path: &[u8]) -> Record {
    Record {
        path: path.to_vec(),
        what: What::Dir,
        mode: 0o755,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

/// The tree being checked, by canonical path.
struct Tree {
    top: OwnedFd,
    /// What the layer hides.
    hidden: Vec<Vec<u8>>,
}

impl Tree {
    fn parent(&self, path: &[u8]) -> Result<Option<OwnedFd>, Fault> {
        let parent = match split(path).0 {
            b"" => b".",
            parent => parent,
        };
        match open_dir(&self.top, parent) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(Fault::fs("open directory", path)(errno)),
        }
    }

    fn stat(&self, path: &[u8]) -> Result<Option<FileStat>, Fault> {
        match (path, self.parent(path)?) {
            (b"", _) => stat(&self.top, b"."),
            (_, Some(dir)) => stat(&dir, split(path).1),
            (_, None) => Ok(None),
        }
    }

    /// What is at `path`; as a hard link to `link` if that is the same inode.
    fn record(&self, path: &[u8], link: Option<&[u8]>) -> Result<Option<Record>, Fault> {
        let Some(here) = self.stat(path)? else { return Ok(None) };
        if let Some(link) = link {
            let linked = match self.stat(link)? {
                Some(there) => there.st_ino == here.st_ino,
                // Linked first and hidden after: what it was can no longer be told.
                None => self.hidden.iter().any(|hidden| hidden == link),
            };
            if linked {
                return Ok(Some(hardlink(path, link)));
            }
        }
        match (path, self.parent(path)?) {
            (b"", _) => read_node(&self.top, b".", Vec::new(), &here).map(Some),
            (_, Some(dir)) => read_node(&dir, split(path).1, path.to_vec(), &here).map(Some),
            (_, None) => Ok(None),
        }
    }
}

/// What a layer says.
struct Layer {
    counts: Counts,
    records: Records,
    /// Every path that an entry names.
    paths: HashSet<Vec<u8>>,
    hidden: Vec<Vec<u8>>,
    /// What AUFS keeps for hard links, by what the layer calls it; see `plnk`.
    pseudo: HashMap<Vec<u8>, Record>,
}

/// Reads a layer's entries into records, with parents resolved in the tree that is there.
struct Checker {
    dirs: Dirs<Directory>,
    touched: Touched,
    budget: Budget,
    layer: Layer,
}

impl Checker {
    fn new(root: &Root, spill: Option<Arc<Spill>>, budget: Budget) -> Result<Checker, Fault> {
        let layer = Layer {
            counts: Counts::default(),
            records: Records::new(spill, None),
            paths: HashSet::new(),
            hidden: Vec::new(),
            pseudo: HashMap::new(),
        };
        let dirs = Dirs::new(Directory::to_read(root)?)?;
        let touched = Touched::new(Below::AllBut(Inodes::default()));
        Ok(Checker { dirs, touched, budget, layer })
    }

    fn run(mut self, mut archive: Archive<'_, Buffers>) -> Result<(Layer, End), Error> {
        loop {
            match archive.next()? {
                Err(end) => return Ok((self.layer, end)),
                Ok(entry) => {
                    if let Err(fault) = self.entry(&entry, &mut archive) {
                        return Err(fault.at(archive.place().clone()));
                    }
                }
            }
        }
    }

    /// The canonical path, as far as the tree tells it.
    fn real(&mut self, path: &[u8]) -> Result<Vec<u8>, Fault> {
        let (parent, name) = split(path);
        Ok(match self.dirs.resolve(parent, Missing::Report, &mut self.touched, &mut self.budget) {
            Ok(Some(slot)) => join(&self.dirs.get(slot).path, name),
            // Then the entry itself will be found missing.
            Ok(None) => path.to_vec(),
            Err(Fault::Refusal(refusal)) if refusal.class != Class::Limit => path.to_vec(),
            Err(fault) => return Err(fault),
        })
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_, Buffers>) -> Result<(), Fault> {
        self.budget.entry(crate::tree::site::depth(&entry.path))?;
        self.layer.counts.count(entry);
        let what = match &entry.node {
            Node::File { size } => {
                let sha256 = crate::tree::body::digest(*size, archive, &mut self.budget)?;
                self.layer.counts.content_bytes += size;
                What::File { size: *size, sha256 }
            }
            Node::Dir => What::Dir,
            Node::Symlink { target } => What::Symlink { target: target.clone() },
            Node::Pseudo { size } => {
                let sha256 = crate::tree::body::digest(*size, archive, &mut self.budget)?;
                self.layer.counts.content_bytes += size;
                let record = Record::of(entry, Vec::new(), What::File { size: *size, sha256 });
                self.layer.pseudo.insert(entry.path.clone(), record);
                return Ok(());
            }
            Node::Hardlink { target } if target.starts_with(PSEUDO) => {
                let Some(file) = self.layer.pseudo.get(target).cloned() else {
                    return Err(crate::tree::site::missing_target(target));
                };
                let path = self.real(&entry.path)?;
                return self.keep(Record { path, ..file });
            }
            Node::Hardlink { target } => What::Hardlink { target: self.real(target)? },
            &Node::Char { major, minor } => What::Char { major, minor },
            &Node::Block { major, minor } => What::Block { major, minor },
            Node::Fifo => What::Fifo,
            Node::Whiteout => {
                let path = self.real(&entry.path)?;
                self.layer.hidden.push(path);
                return Ok(());
            }
            Node::Opaque | Node::Aufs => return Ok(()),
        };
        let path = match entry.path.is_empty() {
            true => Vec::new(),
            false => self.real(&entry.path)?,
        };
        self.keep(Record::of(entry, path, what))
    }

    fn keep(&mut self, record: Record) -> Result<(), Fault> {
        self.layer.paths.insert(record.path.clone());
        self.layer
            .records
            .push(&record, false)
            .map_err(io_fault("keep the record of", &record.path))
    }
}
