//! Which chunks of an image a layer has changed: noted as bits while it is written, handed over as a short
//! list of runs that somebody else may read. Pure.

use serde::{Deserialize, Serialize};

/// Bytes of a chunk, of which a block digest has one digest each. A divisor of what one bitmap covers.
pub(crate) const CHUNK: u64 = 1 << 20;
/// Runs of a set that is handed over. It may name more chunks than were changed, never fewer.
const RUNS_MAX: usize = 1024;

/// Notes what is written: a bit for each chunk, up to the last one that was changed.
#[derive(Debug, Default)]
pub(crate) struct ChunkBits(Vec<u64>);

impl ChunkBits {
    /// Some of these bytes of the device are changed.
    pub(crate) fn note(&mut self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        for chunk in at / CHUNK..=(at + (len - 1)) / CHUNK {
            let word = usize::try_from(chunk / 64).unwrap_or(usize::MAX);
            if word >= self.0.len() {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= 1 << (chunk % 64);
        }
    }

    /// What was noted. Where that is more runs than are handed over, those nearest to one another are joined.
    pub(crate) fn set(&self) -> ChunkSet {
        let mut apart = 1;
        loop {
            let runs = self.runs(apart);
            if runs.len() <= RUNS_MAX {
                return ChunkSet(runs);
            }
            apart *= 2;
        }
    }

    /// The runs, as one where fewer than `apart` chunks are between two.
    fn runs(&self, apart: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (word, &bits) in (0u64..).zip(&self.0) {
            for chunk in (0..64).filter(|bit| bits & 1 << bit != 0).map(|bit| word * 64 + bit) {
                match runs.last_mut() {
                    Some((_, end)) if chunk < *end + apart => *end = chunk + 1,
                    Some(_) | None => runs.push((chunk, chunk + 1)),
                }
            }
        }
        runs
    }
}

/// Chunks of an image that a layer may have changed, 1 MiB each, by their numbers on the device; all others
/// are as they were. Empty for a layer that was applied to a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSet(Vec<(u64, u64)>);

impl ChunkSet {
    /// Whether these are runs in order and apart, no more than there can be, of a device of that many chunks:
    /// whoever made the set may be anybody.
    pub(crate) fn is_of(&self, chunks: u64) -> bool {
        let mut free = 0;
        self.0.len() <= RUNS_MAX
            && self.0.iter().all(|&(start, end)| {
                let fits = free <= start && start < end && end <= chunks;
                free = end;
                fits
            })
    }

    /// The numbers, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|&(start, end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_comes_back() {
        let mut bits = ChunkBits::default();
        assert_eq!(bits.set(), ChunkSet::default());
        for (at, len) in [(0, 1), (CHUNK - 1, 2), (70 * CHUNK, CHUNK), (5 * CHUNK + 9, 0)] {
            bits.note(at, len);
        }
        let set = bits.set();
        assert_eq!(set, ChunkSet(vec![(0, 2), (70, 71)]));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 70]);
        assert!(set.is_of(71) && !set.is_of(70));
    }

    /// However scattered, the set is short, and nothing is missing from it.
    #[test]
    fn a_set_is_short_and_names_all() {
        let (mut bits, mut noted) = (ChunkBits::default(), Vec::new());
        for n in 0..100_000u64 {
            let chunk = n * 3 + n % 7 * 11 % 3;
            bits.note(chunk * CHUNK + n, 1);
            noted.push(chunk);
        }
        let set = bits.set();
        assert!(set.0.len() <= RUNS_MAX && set.is_of(300_010), "{}", set.0.len());
        let all: std::collections::BTreeSet<u64> = set.iter().collect();
        assert!(noted.iter().all(|chunk| all.contains(chunk)));
    }

    #[test]
    fn a_set_of_a_stranger_is_looked_at() {
        let good = |runs: &[(u64, u64)]| ChunkSet(runs.to_vec()).is_of(100);
        assert!(good(&[]) && good(&[(0, 100)]) && good(&[(0, 1), (1, 3), (99, 100)]));
        for bad in [&[(3, 3)][..], &[(4, 3)], &[(0, 101)], &[(5, 6), (2, 3)], &[(0, 5), (4, 6)]] {
            assert!(!good(bad), "{bad:?}");
        }
        let many: Vec<(u64, u64)> = (0..1025).map(|n| (2 * n, 2 * n + 1)).collect();
        assert!(!ChunkSet(many.clone()).is_of(1 << 40));
        assert!(ChunkSet(many[..1024].to_vec()).is_of(1 << 40));
    }
}
