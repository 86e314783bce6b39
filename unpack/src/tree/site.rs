//! What an application has at hand, and where an entry goes.

use std::collections::HashMap;
use std::hash::RandomState;

use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::limits::Limits;
use crate::record::Hashed;
use crate::record::applied::Counts;
use crate::record::spill::Records;
use crate::tree::budget::Budget;
use crate::tree::dirs::Dirs;
use crate::tree::sink::{At, Sink};
use crate::tree::touched::Touched;

/// A tree being written.
pub(crate) struct Writer<'l, S: Sink> {
    pub(crate) limits: &'l Limits,
    pub(crate) dirs: Dirs<S>,
    pub(crate) touched: Touched,
    pub(crate) budget: Budget,
    pub(crate) counts: Counts,
    pub(crate) records: Records,
    pub(crate) pseudo: Pseudo,
}

/// An existing node that gets another name.
pub(crate) struct Target<D> {
    pub(crate) dir: D,
    pub(crate) name: Vec<u8>,
    /// Canonical.
    pub(crate) path: Vec<u8>,
    /// What is in it, if it is one of AUFS's own files.
    pub(crate) pseudo: Option<Hashed>,
}

impl<D> Target<D> {
    pub(crate) fn at(&self) -> At<'_, D> {
        At { dir: &self.dir, name: &self.name, path: &self.path }
    }
}

/// Parent path and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Levels between the root and what is at `path`.
pub(crate) fn depth(path: &[u8]) -> u64 {
    path.iter().filter(|&&b| b == b'/').count() as u64
}

/// Only `Class::Link` comes of a missing hard link target.
pub(crate) fn missing_target(target: &[u8]) -> Fault {
    Refusal::new(Class::Link, "hard link to what does not exist").bytes(target).into()
}

/// What is kept for links.
#[derive(Debug, Default)]
pub(crate) struct Pseudo {
    /// The directory's name in the root, once there is one.
    pub(crate) dir: Option<Vec<u8>>,
    /// Files made: the next one's name in it.
    pub(crate) made: u64,
    /// By the hash of what the layer calls them, with a random key: the latest of that name, and what is
    /// in it.
    pub(crate) files: HashMap<u64, (u64, Hashed)>,
    pub(crate) key: RandomState,
}
