//! Which directories were met: a tree has one name for each.

use std::collections::BTreeMap;

/// Inodes of one page: 4 KiB of bits, taken when the first of them is met.
const PAGE: u32 = 32768;

/// A bit for every inode. At the very most that is a 1,024th of the device, since every inode takes
/// 128 bytes of it.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<u32, Box<[u64]>>);

impl Seen {
    /// Marks an inode; whether it was not yet.
    pub(crate) fn insert(&mut self, inode: u32) -> bool {
        let page = self
            .0
            .entry(inode / PAGE)
            .or_insert_with(|| vec![0; (PAGE / 64) as usize].into_boxed_slice());
        let bit = inode % PAGE;
        let mask = 1 << (bit % 64);
        let word = &mut page[(bit / 64) as usize];
        let is_new = *word & mask == 0;
        *word |= mask;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inode_is_new_once() {
        let mut seen = Seen::default();
        for inode in [1, 63, 64, PAGE - 1, PAGE, u32::MAX] {
            assert!(seen.insert(inode) && !seen.insert(inode), "{inode}");
        }
    }
}
