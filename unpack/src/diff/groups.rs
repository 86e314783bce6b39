//! Which names of the upper tree a layer has to bring.
//!
//! The names of one inode belong together: the first in path order has its record, the others are links to it. A
//! layer that replaces one of them would part it from the others, and one that links to a file of a layer below cannot
//! be applied by everybody. So a group is brought whole, or not at all: it stays where the lower tree has a group with
//! the same first name, the same record and all of these names. Names that the lower group has besides were removed,
//! or belong to another group now, which is brought.

use crate::diff::Work;
use crate::diff::compare::{Name, Names, sorting};
use crate::diff::source::{Source, Target, size_of};
use crate::error::Fault;
use crate::record::runs::{Merge, Row, Sorter};
use crate::record::{What, key};

/// The keys of the names that are brought.
pub(crate) struct Marked(Sorter);

/// Goes along them, in path order.
pub(crate) struct Marks<'a> {
    rows: Merge<'a>,
    next: Option<Row>,
}

impl Marked {
    pub(crate) fn marks(&mut self) -> Result<Marks<'_>, Fault> {
        let mut rows = self.0.sorted().map_err(sorting)?;
        let next = rows.next().map_err(sorting)?;
        Ok(Marks { rows, next })
    }
}

impl Marks<'_> {
    /// Whether this name is one. They have to be asked for in path order.
    pub(crate) fn has(&mut self, key: &[u8]) -> Result<bool, Fault> {
        while self.next.as_ref().is_some_and(|row| row.key.as_slice() < key) {
            self.next = self.rows.next().map_err(sorting)?;
        }
        Ok(self.next.as_ref().is_some_and(|row| row.key == key))
    }
}

fn row(key: Vec<u8>, seq: u64, rest: Vec<u8>) -> Row {
    Row { key, seq, rest }
}

/// Compares every name with that of the lower tree, and files with one another where nothing else tells them apart.
pub(crate) fn marked(
    names: &mut Names,
    upper: &mut dyn Source,
    base: &mut dyn Source,
    work: &mut Work<'_>,
) -> Result<Marked, Fault> {
    let sorter = || Sorter::new(work.spill.clone());
    // By the first name of a group: each of the others, and whatever makes the group another than below.
    let (mut groups, mut other) = (sorter(), sorter());
    let mut pairs = names.pairs()?;
    while let Some(pair) = pairs.next()? {
        work.budget.step()?;
        let Some(name) = pair.upper else { continue };
        if let What::Hardlink { target } = &name.record.what {
            let first = key(target);
            if pair.base.is_none_or(|below| below.record != name.record) {
                other.push(&row(first.clone(), 0, Vec::new())).map_err(sorting)?;
            }
            groups.push(&row(first, 0, pair.key)).map_err(sorting)?;
        } else if !same(&name, pair.base.as_ref(), upper, base)? {
            other.push(&row(pair.key, 0, Vec::new())).map_err(sorting)?;
        }
    }
    drop(pairs);
    let mut marked = sorter();
    let mut links = groups.sorted().map_err(sorting)?;
    let mut link = links.next().map_err(sorting)?;
    let mut others = other.sorted().map_err(sorting)?;
    let mut last: Option<Vec<u8>> = None;
    while let Some(Row { key: first, .. }) = others.next().map_err(sorting)? {
        work.budget.step()?;
        if last.as_ref() == Some(&first) {
            continue;
        }
        while let Some(one) = link.take_if(|one| one.key <= first) {
            if one.key == first {
                marked.push(&row(one.rest, 0, Vec::new())).map_err(sorting)?;
            }
            link = links.next().map_err(sorting)?;
        }
        marked.push(&row(first.clone(), 0, Vec::new())).map_err(sorting)?;
        last = Some(first);
    }
    Ok(Marked(marked))
}

/// Whether a name that is no link is in the lower tree just as it is here.
fn same(
    name: &Name,
    below: Option<&Name>,
    upper: &mut dyn Source,
    base: &mut dyn Source,
) -> Result<bool, Fault> {
    let Some(below) = below.filter(|below| below.record == name.record) else {
        return Ok(false);
    };
    let path = name.record.path.as_slice();
    match size_of(&name.record) {
        None | Some(0) => Ok(true),
        // Neither time nor inode proves anything: who has written to the upper tree may have set them.
        Some(size) => {
            let target = |number| Target { path, number, size };
            Ok(upper.hashed(target(name.number))? == base.hashed(target(below.number))?)
        }
    }
}
