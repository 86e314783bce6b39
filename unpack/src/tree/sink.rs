//! The seam: what a tree has to offer so that a layer can be applied to it.
//!
//! Above it, once, is what a layer means: the order of its entries, parents and the links that lead to
//! them, whiteouts, replacement, budgets, the manifest. Below it is how a node comes to be: by system
//! calls under a directory's descriptor (`fd`), or as bytes of an image of a file system. A [`Sink`]
//! decides nothing that a layer could notice, so a layer gives the same records, counts and refusals on
//! all of them.
//!
//! **Names.** What comes down here is one component, or canonical components joined by slashes: none
//! is empty, `.` or `..`, none has a NUL byte. It is longer than 255 bytes only where a link's target
//! led to it, in [`Sink::open`].
//!
//! **Replacement** is decided above: what makes a node makes none where the name is taken and says
//! [`Made::Exists`]; then that is removed and the same call comes once more. So what is new, which is
//! nearly everything, costs one call, and nothing is dropped twice.
//!
//! **Times.** A change in a directory never moves its modification time: whoever has a kernel below puts
//! it back, in [`Sink::close`] at the latest.
//!
//! **Inheritance.** A new node has what its [`Attr`] says and nothing that its parent would hand down: no
//! group of a set-group-ID directory, no default ACL; a umask takes nothing away.
//!
//! **Errors.** What this kind of tree cannot hold at all is a refusal by one of the functions at the end
//! of this file, so that all say it in the same words; the layer will never fit. Room that has run out is
//! [`Fault::NoSpace`] with what is missing, and nothing of the node was made. A budget's refusal is handed
//! on. A device, or a call, that failed is [`Fault::Fs`] with the call and the path that was given. After
//! any error the tree is worth nothing, and no operation follows.

use nix::errno::Errno;

use crate::archive::entry::{Entry, Xattrs};
use crate::archive::pax::Time;
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal, Space};
use crate::record::{Hashed, Record};
use crate::tree::budget::Budget;

/// What a node is given. Its times are all the modification time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    /// Permission bits, set-id bits and sticky bit (07777).
    pub(crate) mode: u32,
    /// Owner; not 2^32 - 1.
    pub(crate) uid: u32,
    /// Group; not 2^32 - 1.
    pub(crate) gid: u32,
    /// Modification time.
    pub(crate) mtime: Time,
    /// Extended attributes with the prefix of their namespace, in the layer's order and no name twice; only
    /// those that are in `archive::entry::ours`. ACLs come as `system.posix_acl_access` and
    /// `system.posix_acl_default`, in the form of acl(5) as the kernel takes it, and agree with `mode`.
    pub(crate) xattrs: &'a Xattrs,
}

impl<'a> Attr<'a> {
    /// What an entry says.
    pub(crate) fn of(entry: &'a Entry) -> Attr<'a> {
        let Entry { mode, uid, gid, mtime, xattrs, .. } = entry;
        Attr { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs }
    }
}

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct At<'a, D> {
    /// The directory.
    pub(crate) dir: &'a D,
    /// The name in it.
    pub(crate) name: &'a [u8],
    /// The canonical path of both, for what is said of it and nothing else. It may be long, and of a file
    /// that is kept for AUFS's links it is what the layer calls it.
    pub(crate) path: &'a [u8],
}

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The inode.
    pub(crate) id: u64,
    pub(crate) kind: Kind,
}

/// Of what kind a node is, as far as it matters to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    Symlink,
    /// A file, a device, a FIFO, a socket.
    Other,
}

/// Where a path has led, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<D> {
    /// To a directory.
    Dir(D),
    /// There is nothing at one of its components.
    Missing,
    /// One of its components is a symbolic link.
    Link,
    /// One of its components is neither a directory nor a link.
    NotDir,
    /// A component is longer than 255 bytes, or the path than 4095.
    TooLong,
    /// To where another file system is mounted. An image has none.
    Elsewhere,
}

impl<D> Step<D> {
    /// The same with what `then` makes of a directory.
    pub(crate) fn then<T>(
        self,
        then: impl FnOnce(D) -> Result<T, Fault>,
    ) -> Result<Step<T>, Fault> {
        Ok(match self {
            Step::Dir(dir) => Step::Dir(then(dir)?),
            Step::Missing => Step::Missing,
            Step::Link => Step::Link,
            Step::NotDir => Step::NotDir,
            Step::TooLong => Step::TooLong,
            Step::Elsewhere => Step::Elsewhere,
        })
    }

    /// The directory, or what is wrong with `path` as the parent of an entry.
    ///
    /// # Errors
    /// [`Class::Link`] and [`Class::Path`]; [`Fault::Fs`] with ENOENT where it is missing.
    pub(crate) fn parent(self, path: &[u8]) -> Result<D, Fault> {
        let refuse = |class, rule| Err(Refusal::new(class, rule).bytes(path).into());
        match self {
            Step::Dir(dir) => Ok(dir),
            Step::Missing => Err(Fault::fs("open directory", path)(Errno::ENOENT)),
            Step::Link => refuse(Class::Link, "too many symlinks in a parent"),
            Step::NotDir => refuse(Class::Path, "a parent is not a directory"),
            Step::TooLong => refuse(Class::Path, "a parent's path is too long"),
            Step::Elsewhere => refuse(Class::Path, "a parent is on another mount"),
        }
    }
}

/// What became of an attempt to make something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made<T> {
    New(T),
    /// Nothing was made, for the name is taken, by whatever it is.
    Exists,
}

/// What became of an attempt to make a link: the first of these, in this order, that is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// There is no target.
    NoTarget,
    /// Nothing was made, for the name is taken, be it by the target itself.
    Exists,
    /// The target is a directory.
    Directory,
    /// The target has as many links as it can have: so many, where that is known (65,000 on ext4).
    TooMany(Option<u16>),
    Done,
}

/// A device or a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Major and minor number.
    Char(u32, u32),
    /// Major and minor number.
    Block(u32, u32),
    Fifo,
}

/// The content of a file that will come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Offset and length of each part that comes, ascending, none overlapping, within `size`; the rest is
    /// holes. `None` is all of it.
    pub(crate) parts: Option<&'a [(u64, u64)]>,
}

impl Body<'_> {
    /// Bytes that will come.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.map_or(self.size, |parts| parts.iter().map(|part| part.1).sum())
    }
}

/// What lies below the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing, as in a new file system: the root is empty, but perhaps for a directory `lost+found` with
    /// this id that is empty too.
    Blank { lost_and_found: Option<u64> },
    /// Anything.
    Tree,
}

/// What came of [`Sink::clear`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleared {
    /// Whether any name was removed.
    pub(crate) removed: bool,
    /// Names that were kept and are directories (not links to such), in any order.
    pub(crate) dirs: Vec<Vec<u8>>,
}

/// A tree that a layer is applied to. See the module for what holds for all of it.
pub(crate) trait Sink: Sized {
    /// A directory: cheap to clone, all clones are one. It stays the same directory whatever becomes of
    /// its path. Once it has been removed nothing is found in it any more, and nothing is made in it.
    ///
    /// The caller keeps a few hundred at most, and of those that it makes changes in one at a time for
    /// each [`Sink::id`]: what a sink keeps in a handle until [`Sink::close`] is in one place.
    type Dir: Clone;

    /// A file between [`Sink::begin_file`] and [`Sink::end_file`]. Only one is open at a time, and nothing
    /// else is asked of the sink meanwhile.
    type File;

    /// What is left of the sink at the end.
    type Done: Send;

    /// The root. It always exists, is never removed or replaced, and needs no [`Sink::close`] but the last.
    fn root(&mut self) -> Result<Self::Dir, Fault>;

    /// What is in the root before the layer. Called once, before anything is made.
    fn base(&mut self) -> Result<Base, Fault>;

    /// Where `path`, of one component or more, leads from `from`, links not followed: what its first
    /// component is that is no directory decides. `told` is what an error names.
    ///
    /// # Errors
    /// [`Fault::Fs`] for what is no [`Step`].
    fn open(
        &mut self,
        from: &Self::Dir,
        path: &[u8],
        told: &[u8],
    ) -> Result<Step<Self::Dir>, Fault>;

    /// The number by which a directory is known, the same for all handles of it and for [`Sink::look`], and
    /// no other node's at the same time. What was removed may leave its number to a new directory: a handle
    /// that was kept of it is then one of the new one, or still leads nowhere.
    fn id(&mut self, dir: &Self::Dir, path: &[u8]) -> Result<u64, Fault>;

    /// The caller has done with a directory in which it may have made changes. It may open it again.
    fn close(&mut self, dir: &Self::Dir, path: &[u8]) -> Result<(), Fault>;

    /// What is at a name; of a link the link.
    fn look(&mut self, at: &At<'_, Self::Dir>) -> Result<Option<Found>, Fault>;

    /// The target of the symbolic link at a name, raw, as long as it is.
    fn read_link(&mut self, at: &At<'_, Self::Dir>) -> Result<Vec<u8>, Fault>;

    /// The record of the regular file at a name whose content is known, with `path` as its path: mode,
    /// owner, time and the extended attributes that a layer can set (`archive::entry::ours`), by name.
    /// `None` where there is nothing.
    fn record(
        &mut self,
        at: &At<'_, Self::Dir>,
        path: Vec<u8>,
        content: Hashed,
    ) -> Result<Option<Record>, Fault>;

    /// Makes an empty directory.
    ///
    /// # Errors
    /// [`cannot_hold_name`], [`cannot_hold_xattr`], [`Fault::NoSpace`].
    fn make_dir(&mut self, at: &At<'_, Self::Dir>, attr: &Attr<'_>) -> Result<Made<()>, Fault>;

    /// Makes the directory that a path leads through and no entry has made: mode 0755, no extended
    /// attributes, the epoch, and the sink's own owner: for a directory's descriptor the ids of this
    /// process, for an image 0, since its bytes do not depend on who writes it. [`Sink::open`] has just said
    /// that the name is missing.
    ///
    /// # Errors
    /// As [`Sink::make_dir`].
    fn make_implicit(&mut self, at: &At<'_, Self::Dir>) -> Result<Self::Dir, Fault>;

    /// Gives an existing directory, perhaps the root, what `attr` says; what it had goes, extended
    /// attributes included. The budget is asked with [`Budget::attributes`] for the number of those that
    /// went, of which only the ones in `archive::entry::ours` do.
    ///
    /// # Errors
    /// [`cannot_hold_xattr`], [`Fault::NoSpace`].
    fn set_dir(
        &mut self,
        dir: &Self::Dir,
        path: &[u8],
        attr: &Attr<'_>,
        budget: &mut Budget,
    ) -> Result<(), Fault>;

    /// Makes an existing directory as [`Sink::make_implicit`] makes it; what is in it stays. The budget is
    /// asked as in [`Sink::set_dir`].
    fn reset_dir(&mut self, dir: &Self::Dir, path: &[u8], budget: &mut Budget)
    -> Result<(), Fault>;

    /// Makes a symbolic link: owner and time are `attr`'s, its mode is 0777, and it has no extended
    /// attributes whatever `attr` says. The target is not empty and has no NUL byte.
    ///
    /// # Errors
    /// [`cannot_hold_name`], [`cannot_hold_target`] (on ext4 a block and more), [`Fault::NoSpace`].
    fn make_symlink(
        &mut self,
        at: &At<'_, Self::Dir>,
        target: &[u8],
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault>;

    /// Makes a device node or a FIFO.
    ///
    /// # Errors
    /// [`cannot_hold_name`], [`cannot_hold_xattr`], [`Fault::NoSpace`].
    fn make_special(
        &mut self,
        at: &At<'_, Self::Dir>,
        special: Special,
        attr: &Attr<'_>,
    ) -> Result<Made<()>, Fault>;

    /// Gives what is at `target`, of a symbolic link the link, another name. Of that node nothing else
    /// changes, its time neither.
    ///
    /// # Errors
    /// [`Fault::NoSpace`] for the room of the name. All else is in [`Linked`].
    fn make_link(
        &mut self,
        at: &At<'_, Self::Dir>,
        target: &At<'_, Self::Dir>,
    ) -> Result<Linked, Fault>;

    /// Begins a regular file. Whether its place is taken at once, and whether it is written out while the
    /// rest is applied, is the sink's own business.
    ///
    /// # Errors
    /// [`Fault::NoSpace`] where [`Body::bytes`] do not fit, if that can be known; [`cannot_hold_size`],
    /// [`cannot_hold_name`].
    fn begin_file(
        &mut self,
        at: &At<'_, Self::Dir>,
        attr: &Attr<'_>,
        body: &Body<'_>,
    ) -> Result<Made<Self::File>, Fault>;

    /// The next piece of the content and the offset where it belongs: never before the end of the piece
    /// before it, always within one of the body's parts. It is not empty, and may end anywhere.
    ///
    /// # Errors
    /// [`cannot_hold_size`], [`cannot_hold_pieces`], [`Fault::NoSpace`].
    fn write(
        &mut self,
        file: &mut Self::File,
        at: &At<'_, Self::Dir>,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), Fault>;

    /// Ends the file: all of its parts were written. `at`, `attr` and `body` are those that it was begun
    /// with.
    ///
    /// # Errors
    /// [`cannot_hold_xattr`], [`cannot_hold_size`], [`Fault::NoSpace`].
    fn end_file(
        &mut self,
        file: Self::File,
        at: &At<'_, Self::Dir>,
        attr: &Attr<'_>,
        body: &Body<'_>,
    ) -> Result<(), Fault>;

    /// Removes a name and, if it is a directory, all that is in it; of a link the link. What is not there is
    /// gone. A node goes with its last name. The budget is asked with [`Budget::remove`] before each node: 1
    /// for the name, be it there or not, 2 for each in it, and so on downwards, each node once. However
    /// deep the tree is, it takes neither stack nor descriptors in proportion.
    fn remove(&mut self, at: &At<'_, Self::Dir>, budget: &mut Budget) -> Result<(), Fault>;

    /// Removes every name in a directory but those that `keep` says. The budget is asked with
    /// [`Budget::remove`] for 1 at each name, kept or not, and then as by [`Sink::remove`] for what is removed.
    fn clear(
        &mut self,
        dir: &Self::Dir,
        path: &[u8],
        keep: impl FnMut(&[u8]) -> bool,
        budget: &mut Budget,
    ) -> Result<Cleared, Fault>;

    /// The layer has been applied; every directory that was kept has been closed. Nothing has to be durable
    /// yet. What takes long looks at the clock with [`Budget::step`].
    fn finish(self, budget: &mut Budget) -> Result<Self::Done, Fault>;
}

/// The refusal of a symbolic link's target that is too long for this kind of tree: it has `len` bytes, and
/// `most` are the most, where that is known.
pub(crate) fn cannot_hold_target(len: usize, most: Option<usize>) -> Fault {
    let rule = match most {
        Some(most) => {
            format!("this file system cannot hold a link's target of more than {most} bytes")
        }
        None => "this file system cannot hold a link's target of this many bytes".into(),
    };
    Refusal { rule: rule.into(), ..Refusal::new(Class::Fs, "") }.number(len as u64).into()
}

/// The refusal of a file in more pieces than this kind of tree can hold: holes are between them, or what
/// else lies on the device.
pub(crate) fn cannot_hold_pieces(pieces: usize, most: usize) -> Fault {
    let rule = format!("this file system cannot hold a file in more than {most} pieces");
    Refusal { rule: rule.into(), ..Refusal::new(Class::Fs, "") }.number(pieces as u64).into()
}

/// The refusal of an extended attribute that finds too little room: with its name it takes `bytes`, and of
/// what is for all of them `left` are left.
pub(crate) fn cannot_hold_xattr_of(key: &[u8], bytes: usize, left: usize) -> Fault {
    let rule = format!(
        "this file system has {left} bytes left for the extended attributes of one inode, and not {bytes}"
    );
    Refusal { rule: rule.into(), ..Refusal::new(Class::Xattr, "") }.bytes(key).into()
}

/// The refusal of a name that this kind of tree cannot hold.
pub(crate) fn cannot_hold_name(path: &[u8]) -> Fault {
    Refusal::new(Class::Fs, "this file system cannot hold the name").bytes(path).into()
}

/// The refusal of an extended attribute that is too large, or not known, in this kind of tree, where no more
/// can be said: `key` is its whole name.
pub(crate) fn cannot_hold_xattr(key: &[u8]) -> Fault {
    let rule = "this file system cannot hold the extended attribute";
    Refusal::new(Class::Xattr, rule).bytes(key).into()
}

/// The refusal of a file that is larger than this kind of tree can hold. `size` is in bytes.
pub(crate) fn cannot_hold_size(size: u64) -> Fault {
    let rule = "this file system cannot hold a file of that size";
    Refusal::new(Class::Fs, rule).number(size).into()
}

/// No inode is left for one more node.
pub(crate) fn no_inode() -> Fault {
    Fault::NoSpace { what: Space::Inodes, need: 1, free: 0 }
}

/// There is less room than needed. Both are in bytes.
pub(crate) fn no_room(need: u64, free: u64) -> Fault {
    Fault::NoSpace { what: Space::Bytes, need, free }
}
