//! The places of those who wait for an answer: there are so many.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One of the places of those who wait.
pub(super) struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    pub(super) fn take(taken: &'a AtomicUsize, most: usize) -> Option<Slot<'a>> {
        let more = |n: usize| (n < most).then_some(n + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Slot(taken))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
