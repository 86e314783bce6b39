//! What earlier receives have brought of a disk: every block of it has to be in the index of the stream that ends it. A
//! stream that was cut may have had blocks that the whole one has not.

use registry::Arrival;

use crate::error::Error;
use crate::error::travel::NotMoved;
use crate::host::Host;
use crate::travel::fault::Fault;
use crate::travel::head::{Basis, Head};

/// Stretches that are asked for at a time.
const PAGE: usize = 4096;

/// Why a pass through a stream ended before its end.
pub(crate) enum Ended {
    Fault(Fault),
    Error(Error),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Ended {
        Ended::Fault(fault)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Error(error)
    }
}

/// The pages of a difference, as the store gives them: from this block on.
type Pages<'a> = Box<dyn FnMut(u64) -> Result<thin::Delta, Error> + 'a>;

/// The blocks in which an arrival differs from what it stands on, in their order.
pub(crate) struct Brought<'a> {
    name: String,
    pages: Pages<'a>,
    /// Where the next page begins; none where there is none.
    next: Option<u64>,
    page: Vec<(u64, u64)>,
    at: usize,
}

impl<'a> Brought<'a> {
    /// Of an arrival that is on disk. One that was begun by this very receive has nothing that its stream has not.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn new(
        host: &'a Host,
        head: &Head,
        arrival: &Arrival,
        resumed: bool,
    ) -> Result<Brought<'a>, Error> {
        let travels = host.store.disks().ok_or(NotMoved::Directories)?.travels();
        let left = match &head.basis {
            Basis::Nothing {} => None,
            Basis::Image { .. } => Some(arrival.origin),
            Basis::Point { .. } => arrival.base,
        };
        let id = arrival.id;
        let pages: Pages<'a> = Box::new(move |from| travels.delta(left, id, from, PAGE));
        Ok(Brought::of(&arrival.name, pages, resumed))
    }

    fn of(name: &str, pages: Pages<'a>, resumed: bool) -> Brought<'a> {
        let next = resumed.then_some(0);
        Brought { name: name.into(), pages, next, page: Vec::new(), at: 0 }
    }

    /// The next entry of the index: nothing may have been brought between the one before and this.
    pub(crate) fn pass(&mut self, begin: u64, blocks: u64) -> Result<(), Ended> {
        let end = begin.saturating_add(blocks);
        loop {
            let Some((first, last)) = self.page.get_mut(self.at) else {
                let Some(next) = self.next else { return Ok(()) };
                let page = (self.pages)(next)?;
                let ends = page.stretches.iter().map(|one| (one.begin, one.begin + one.blocks));
                (self.page, self.next, self.at) = (ends.collect(), page.next, 0);
                continue;
            };
            if *first < begin {
                let (block, name) = (*first, self.name.clone());
                return Err(Ended::Error(NotMoved::Differs { block, name }.into()));
            }
            if *first >= end {
                return Ok(());
            }
            *first = end.min(*last);
            if *first >= *last {
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_the_index_has_not_is_found() {
        let passes = |stretches: &[(u64, u64)], entries: &[(u64, u64)]| {
            // Pages of one stretch.
            let pages = |from: u64| {
                let mut left = stretches.iter().filter(|(first, _)| *first >= from);
                let one = left.next().map(|(first, last)| thin::Stretch {
                    begin: *first,
                    blocks: last - first,
                    kind: thin::Difference::Changed,
                });
                let next = left.next().map(|(first, _)| *first);
                Ok(thin::Delta { stretches: one.into_iter().collect(), next })
            };
            let mut brought = Brought::of("a", Box::new(pages), true);
            let ended = (u64::MAX, 0);
            let mut all = entries.iter().chain([&ended]);
            all.all(|(begin, blocks)| brought.pass(*begin, *blocks).is_ok())
        };
        assert!(passes(&[], &[(3, 1)]));
        assert!(passes(&[(3, 5), (8, 9)], &[(0, 1), (3, 1), (4, 1), (7, 4)]));
        assert!(passes(&[(3, 6)], &[(3, 1), (4, 2)]));
        for (stretches, entries) in [
            (&[(3, 5)], &[(3, 1)][..]),
            (&[(3, 5)], &[(4, 1)][..]),
            (&[(98, 99)], &[(3, 1), (99, 1)][..]),
            (&[(7, 8)], &[][..]),
        ] {
            assert!(!passes(stretches, entries), "{stretches:?} {entries:?}");
        }
    }
}
