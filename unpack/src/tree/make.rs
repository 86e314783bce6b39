//! What an entry makes, per kind of node; and what gives way to it.

use nix::errno::Errno;

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::entry::{Entry, Node};
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::record::spill::io_fault;
use crate::record::{Record, What};
use crate::sha::Sha256;
use crate::tree::body::{pass, spread};
use crate::tree::sink::{At, Attr, Body, Kind, Linked, Made, Sink, Special, Step};
use crate::tree::site::{Target, Writer, missing_target};

impl<S: Sink> Writer<'_, S> {
    /// Runs `make`; if something is in its way, removes that and runs it again.
    fn create<T>(
        &mut self,
        at: &At<'_, S::Dir>,
        mut make: impl FnMut(&mut S) -> Result<Made<T>, Fault>,
    ) -> Result<T, Fault> {
        if let Made::New(made) = make(&mut self.dirs.sink)? {
            return Ok(made);
        }
        self.clear(at)?;
        match make(&mut self.dirs.sink)? {
            Made::New(made) => Ok(made),
            Made::Exists => Err(Fault::fs("replace", at.path)(Errno::EEXIST)),
        }
    }

    /// Makes way for a new node, or hides a lower one.
    pub(crate) fn clear(&mut self, at: &At<'_, S::Dir>) -> Result<(), Fault> {
        let Some(old) = self.dirs.sink.look(at)? else { return Ok(()) };
        self.dirs.sink.remove(at, &mut self.budget)?;
        // Paths may have led through it.
        match old.kind {
            Kind::Dir | Kind::Symlink => self.dirs.forget_paths(),
            Kind::Other => {}
        }
        Ok(())
    }

    pub(crate) fn keep(&mut self, record: &Record, later: bool) -> Result<(), Fault> {
        if !self.limits.digests {
            return Ok(());
        }
        self.records.push(record, later).map_err(io_fault("keep the record of", &record.path))
    }

    /// Makes a regular file with all that its entry says. Gives the digest of a file that was hashed
    /// `here`, as a sparse one always is; of others it follows from the thread that hashes.
    pub(crate) fn content(
        &mut self,
        entry: &Entry,
        at: &At<'_, S::Dir>,
        size: u64,
        archive: &mut Archive<'_, Buffers>,
        here: bool,
    ) -> Result<Option<[u8; 32]>, Fault> {
        let (parts, whole) = (archive.take_parts(), [(0, size)]);
        let (attr, body) = (Attr::of(entry), Body { size, parts: parts.as_deref() });
        let mut file = self.create(at, |sink| sink.begin_file(at, &attr, &body))?;
        let sink = &mut self.dirs.sink;
        let put = |offset, piece: &[u8]| sink.write(&mut file, at, offset, piece);
        let sha256 = match body.parts.or(here.then_some(&whole)) {
            None => {
                pass(archive, put)?;
                None
            }
            Some(parts) => {
                let hash = Sha256::when(self.limits.digests);
                Some(spread(parts, size, hash, archive, &mut self.budget, put)?)
            }
        };
        self.dirs.sink.end_file(file, at, &attr, &body)?;
        self.counts.content_bytes += size;
        Ok(sha256)
    }

    /// Makes a directory, or gives one that is there what the entry says.
    pub(crate) fn dir(&mut self, entry: &Entry, at: &At<'_, S::Dir>) -> Result<(), Fault> {
        let attr = Attr::of(entry);
        if self.dirs.sink.make_dir(at, &attr)? == Made::Exists {
            if let Some(old) = self.dirs.sink.look(at)?
                && old.kind == Kind::Dir
            {
                let handle = match self.dirs.by_id(old.id) {
                    Some(dir) => dir.handle.clone(),
                    None => match self.dirs.sink.open(at.dir, at.name, at.path)? {
                        Step::Dir(dir) => dir,
                        Step::Missing
                        | Step::Link
                        | Step::NotDir
                        | Step::TooLong
                        | Step::Elsewhere => {
                            return Err(Fault::fs("open", at.path)(Errno::ESTALE));
                        }
                    },
                };
                return self.dirs.sink.set_dir(&handle, at.path, &attr, &mut self.budget);
            }
            self.create(at, |sink| sink.make_dir(at, &attr))?;
        }
        if self.touched.wants_inodes()
            && let Some(made) = self.dirs.sink.look(at)?
        {
            self.touched.own(made.id);
        }
        Ok(())
    }

    /// An entry for the root itself.
    pub(crate) fn root_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        let root = self.dirs.root();
        self.dirs.sink.set_dir(&root, b".", &Attr::of(entry), &mut self.budget)?;
        self.keep(&Record::of(entry, Vec::new(), What::Dir), false)
    }

    pub(crate) fn symlink(
        &mut self,
        entry: &Entry,
        at: &At<'_, S::Dir>,
        target: &[u8],
    ) -> Result<(), Fault> {
        let attr = Attr::of(entry);
        self.create(at, |sink| sink.make_symlink(at, target, &attr))
    }

    pub(crate) fn special(
        &mut self,
        entry: &Entry,
        at: &At<'_, S::Dir>,
        special: Special,
    ) -> Result<(), Fault> {
        let attr = Attr::of(entry);
        self.create(at, |sink| sink.make_special(at, special, &attr))
    }

    /// The target itself is never followed; its owner, mode and time stay as they are.
    pub(crate) fn hardlink(
        &mut self,
        at: &At<'_, S::Dir>,
        target: &Target<S::Dir>,
    ) -> Result<(), Fault> {
        let refuse = |class, rule| Err(Refusal::new(class, rule).bytes(&target.path).into());
        let mut linked = self.dirs.sink.make_link(at, &target.at())?;
        if linked == Linked::Exists {
            let old = self.dirs.sink.look(at)?.map(|old| old.id);
            match self.dirs.sink.look(&target.at())?.map(|new| new.id) {
                None => return Err(missing_target(&target.path)),
                new if new == old && target.path == at.path => {
                    return refuse(Class::Link, "hard link to itself");
                }
                new if new == old => linked = Linked::Done,
                Some(_) => {
                    self.clear(at)?;
                    linked = self.dirs.sink.make_link(at, &target.at())?;
                }
            }
        }
        match linked {
            Linked::Done => {}
            Linked::NoTarget => return Err(missing_target(&target.path)),
            Linked::Exists => return Err(Fault::fs("link", at.path)(Errno::EEXIST)),
            Linked::Directory => return refuse(Class::Link, "hard link to a directory"),
            Linked::TooMany(None) => return refuse(Class::Fs, "too many links to one inode"),
            Linked::TooMany(Some(links)) => {
                let rule = format!(
                    "too many links to one inode: it has {links}, the most in this file system"
                );
                let refusal = Refusal { rule: rule.into(), ..Refusal::new(Class::Fs, "") };
                return Err(refusal.bytes(&target.path).into());
            }
        }
        match target.pseudo {
            None => self.keep(&crate::record::hardlink(at.path, &target.path), false),
            Some(content) => self.pseudo_record(target, at.path, content),
        }
    }

    /// Makes the node of an entry. Gives what is written down of it, and whether the digest of its content
    /// follows later; nothing where that was done.
    pub(crate) fn node(
        &mut self,
        entry: &Entry,
        at: &At<'_, S::Dir>,
        target: Option<&Target<S::Dir>>,
        archive: &mut Archive<'_, Buffers>,
    ) -> Result<Option<(What, bool)>, Fault> {
        Ok(match &entry.node {
            &Node::File { size } => {
                let sha256 = self.content(entry, at, size, archive, false)?;
                let later = sha256.is_none();
                Some((What::File { size, sha256: sha256.unwrap_or_default() }, later))
            }
            Node::Dir => {
                self.dir(entry, at)?;
                Some((What::Dir, false))
            }
            Node::Symlink { target } => {
                self.symlink(entry, at, target)?;
                Some((What::Symlink { target: target.clone() }, false))
            }
            &Node::Char { major, minor } => {
                self.special(entry, at, Special::Char(major, minor))?;
                Some((What::Char { major, minor }, false))
            }
            &Node::Block { major, minor } => {
                self.special(entry, at, Special::Block(major, minor))?;
                Some((What::Block { major, minor }, false))
            }
            Node::Fifo => {
                self.special(entry, at, Special::Fifo)?;
                Some((What::Fifo, false))
            }
            Node::Hardlink { .. } => {
                target.map_or(Ok(()), |target| self.hardlink(at, target))?;
                None
            }
            Node::Whiteout | Node::Opaque | Node::Aufs | Node::Pseudo { .. } => None,
        })
    }
}
