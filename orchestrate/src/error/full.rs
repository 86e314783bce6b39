//! What has no room, other than the state directory, or lets nobody put anything there: the store's file system,
//! that of a file which is written, that of temporary records.

use std::fmt;
use std::path::PathBuf;

use crate::error::class::Class;

/// A place where nothing can be written, though the right to it is there.
#[derive(Debug)]
pub struct Full {
    /// Whose it is.
    pub of: Of,
    /// The store's directory, the file, or the directory of the records.
    pub path: PathBuf,
    /// Why.
    pub lacks: Lacks,
    /// What failed by it.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Whose place it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// The store's.
    Store,
    /// That of temporary records.
    Records,
    /// That of any other file, on the file system that is mounted here, if that is known.
    File(Option<PathBuf>),
}

/// What there is none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// Blocks.
    Bytes,
    /// Files.
    Inodes,
    /// Either, by the quota of whoever writes.
    Quota,
    /// A file as long as that: this process may write so many bytes of one (RLIMIT_FSIZE), or the file system
    /// knows no longer one.
    Length(Option<u64>),
    /// The right to change it, which an attribute of the file takes from everybody (chattr(1)).
    Attribute(&'static str, char),
}

impl Full {
    /// What it means for whoever asked.
    pub(crate) fn class(&self) -> Class {
        match self.lacks {
            Lacks::Bytes | Lacks::Inodes | Lacks::Quota => Class::NoSpace,
            // Neither goes away by itself.
            Lacks::Length(_) => Class::HostBroken,
            Lacks::Attribute(..) => Class::Denied,
        }
    }
}

/// What a file system lacks, behind its name.
impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lacks::Bytes => f.write_str("has no bytes left"),
            Lacks::Inodes => f.write_str("has no inodes left"),
            Lacks::Quota => f.write_str("has nothing left within the quota of this user"),
            Lacks::Length(_) => f.write_str("has no room for a file as long"),
            Lacks::Attribute(word, _) => write!(f, "has it {word}"),
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, lacks) = (self.path.display(), self.lacks);
        match (lacks, &self.of) {
            (Lacks::Length(Some(bytes)), _) => write!(
                f,
                "{path} cannot be written: this process may make no file longer than {bytes} bytes (`ulimit -f`, \
                 LimitFSIZE= of a unit). Raise that limit, then try again"
            ),
            (Lacks::Length(None), _) => write!(
                f,
                "{path} cannot be written: its file system holds no file as long as that. Name a place on another one"
            ),
            (Lacks::Attribute(word, flag), _) => write!(
                f,
                "{path} is {word}, so nobody may change it: `chattr -{flag} {path}` takes that away, if it is not \
                 meant; then try again"
            ),
            (Lacks::Bytes | Lacks::Inodes | Lacks::Quota, Of::Store) => write!(
                f,
                "the store is full: the file system of {path} {lacks}. `orchestrate gc` and `orchestrate rm` make \
                 room in it, or make that file system larger; then try again"
            ),
            (Lacks::Bytes | Lacks::Inodes | Lacks::Quota, Of::Records) => write!(
                f,
                "no room for temporary records: the file system of {path} {lacks}. Make room there, or name another \
                 place by unpack.spill_dir; then try again"
            ),
            (Lacks::Bytes | Lacks::Inodes | Lacks::Quota, Of::File(Some(top))) => write!(
                f,
                "{path} cannot be written: the file system at {} {lacks}. Make room there, or name a place on \
                 another one; then try again",
                top.display()
            ),
            (Lacks::Bytes | Lacks::Inodes | Lacks::Quota, Of::File(None)) => write!(
                f,
                "{path} cannot be written: the file system behind it {lacks}. Make room there, or name a place on \
                 another one; then try again"
            ),
        }
    }
}
