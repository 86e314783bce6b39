//! What is wrong with a file system image: which rule, where, and by what value.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The family of a rule that an image breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlawKind {
    /// It is no ext4 file system, or is cut.
    Foreign,
    /// It uses a feature that is not read.
    Feature,
    /// What it says last is in its journal, or in another device.
    Journal,
    /// Sizes and places that contradict one another or the device.
    Geometry,
    /// A checksum that does not match.
    Checksum,
    /// An inode.
    Inode,
    /// Where the blocks of a file are.
    Extent,
    /// The names of a directory.
    Directory,
    /// The index of a directory.
    Index,
    /// An extended attribute.
    Attribute,
    /// It leads round in circles: more was read than there is.
    Work,
}

impl FlawKind {
    /// The stable name, as in messages.
    pub fn name(self) -> &'static str {
        match self {
            FlawKind::Foreign => "foreign",
            FlawKind::Feature => "feature",
            FlawKind::Journal => "journal",
            FlawKind::Geometry => "geometry",
            FlawKind::Checksum => "checksum",
            FlawKind::Inode => "inode",
            FlawKind::Extent => "extent",
            FlawKind::Directory => "directory",
            FlawKind::Index => "index",
            FlawKind::Attribute => "attribute",
            FlawKind::Work => "work",
        }
    }
}

/// One rule that an image breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// The family of the rule.
    pub kind: FlawKind,
    /// The rule, as a clause.
    pub rule: Cow<'static, str>,
    /// The inode, where it is one's.
    pub inode: Option<u32>,
    /// The block of the file system, where it is known.
    pub block: Option<u64>,
    /// What broke it.
    pub value: Option<u64>,
    /// What it may be at most.
    pub limit: Option<u64>,
}

impl Flaw {
    pub(crate) fn new(kind: FlawKind, rule: &'static str) -> Flaw {
        Flaw { kind, rule: rule.into(), inode: None, block: None, value: None, limit: None }
    }

    pub(crate) fn value(self, value: impl Into<u64>) -> Flaw {
        Flaw { value: Some(value.into()), ..self }
    }

    pub(crate) fn limit(self, limit: impl Into<u64>) -> Flaw {
        Flaw { limit: Some(limit.into()), ..self }
    }

    /// Where nothing has said so yet.
    pub(crate) fn in_inode(self, inode: u32) -> Flaw {
        Flaw { inode: self.inode.or(Some(inode)), ..self }
    }

    /// Where nothing has said so yet.
    pub(crate) fn in_block(self, block: u64) -> Flaw {
        Flaw { block: self.block.or(Some(block)), ..self }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        if let Some(value) = self.value {
            write!(f, ": {value}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " (limit {limit})")?;
        }
        if let Some(inode) = self.inode {
            write!(f, ", inode {inode}")?;
        }
        match self.block {
            Some(block) => write!(f, ", block {block}"),
            None => Ok(()),
        }
    }
}
