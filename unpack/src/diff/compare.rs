//! The names of two trees side by side, in path order.

use crate::archive::entry::{Node, kept};
use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::read::walk::unkey;
use crate::record::runs::{Merge, Row, Sorter};
use crate::record::spill::io_fault;
use crate::record::{Record, What};

/// All names of both.
pub(crate) struct Names {
    pub(crate) upper: Sorter,
    pub(crate) base: Sorter,
}

/// A name of a tree.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) number: u64,
    /// Without the attributes that no layer can hold.
    pub(crate) record: Record,
    /// How many those were.
    pub(crate) attributes: u64,
}

/// What there is at a path.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) key: Vec<u8>,
    pub(crate) upper: Option<Name>,
    pub(crate) base: Option<Name>,
}

/// Goes along both, once.
pub(crate) struct Pairs<'a> {
    upper: Side<'a>,
    base: Side<'a>,
}

struct Side<'a> {
    rows: Merge<'a>,
    next: Option<Row>,
}

pub(crate) fn sorting(error: std::io::Error) -> Fault {
    io_fault("sort names", b".")(error)
}

impl Names {
    pub(crate) fn pairs(&mut self) -> Result<Pairs<'_>, Fault> {
        Ok(Pairs { upper: Side::new(&mut self.upper)?, base: Side::new(&mut self.base)? })
    }
}

impl Side<'_> {
    fn new(sorter: &mut Sorter) -> Result<Side<'_>, Fault> {
        let mut rows = sorter.sorted().map_err(sorting)?;
        let next = rows.next().map_err(sorting)?;
        Ok(Side { rows, next })
    }

    fn key(&self) -> Option<&[u8]> {
        self.next.as_ref().map(|row| row.key.as_slice())
    }

    /// The next name, if it is at this path.
    fn at(&mut self, key: &[u8]) -> Result<Option<Name>, Fault> {
        if self.key() != Some(key) {
            return Ok(None);
        }
        let Some(row) = std::mem::replace(&mut self.next, self.rows.next().map_err(sorting)?)
        else {
            return Ok(None);
        };
        if self.key() == Some(key) {
            let rule = "a directory has a name twice";
            return Err(Flaw::new(FlawKind::Directory, rule).into());
        }
        let record = Record::decode(unkey(&row.key), &row.rest)
            .ok_or_else(|| sorting(std::io::ErrorKind::InvalidData.into()))?;
        Ok(Some(Name::new(row.seq, record)))
    }
}

impl Pairs<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<Pair>, Fault> {
        let key = match (self.upper.key(), self.base.key()) {
            (None, None) => return Ok(None),
            (Some(one), None) | (None, Some(one)) => one.to_vec(),
            (Some(upper), Some(base)) => upper.min(base).to_vec(),
        };
        let (upper, base) = (self.upper.at(&key)?, self.base.at(&key)?);
        Ok(Some(Pair { key, upper, base }))
    }
}

impl Name {
    fn new(number: u64, mut record: Record) -> Name {
        let node = match &record.what {
            What::File { size, .. } => Some(Node::File { size: *size }),
            What::Dir => Some(Node::Dir),
            What::Char { .. } | What::Block { .. } | What::Fifo => Some(Node::Fifo),
            What::Symlink { .. } | What::Hardlink { .. } => None,
        };
        let all = record.xattrs.len();
        record.xattrs.retain(|(key, _)| node.as_ref().is_some_and(|node| kept(key, node)));
        Name { number, attributes: (all - record.xattrs.len()) as u64, record }
    }
}

/// Whether what is at `key` is below the directory at `dir`, or is it.
pub(crate) fn within(dir: &[u8], key: &[u8]) -> bool {
    dir.is_empty() || (key.starts_with(dir) && matches!(key.get(dir.len()), None | Some(&0)))
}
