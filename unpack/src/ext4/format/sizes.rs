//! Which geometries there are: those that are made, and those that become of them.

use crate::error::refusal::{Class, Refusal};
use crate::ext4::format::geometry::{DOUBLINGS_MAX, Geometry, INODE, rounded};
use crate::ext4::format::layout::Layout;

/// Bytes of the device for one inode, where nobody says otherwise.
const BYTES_PER_INODE: u64 = 8192;

impl Geometry {
    /// For a device of `bytes`: rounded down to whole blocks, and to a last group that can hold its own
    /// superblock. `inodes` is rounded up to what fills the groups evenly; 0 is one for 8 KiB.
    ///
    /// # Errors
    /// A refusal that says the least or the most.
    pub fn new(bytes: u64, block: u32, inodes: u64, align: u32) -> Result<Geometry, Refusal> {
        let refuse = |rule| Err(Refusal::new(Class::Fs, rule));
        if block != 2048 && block != 4096 {
            let rule = "a file system block has 2048 or 4096 bytes, and not";
            return Err(Refusal::new(Class::Fs, rule).number(block));
        }
        if !align.is_power_of_two() || align < block || !(64 << 10..=1 << 30).contains(&align) {
            let rule = "the alignment is a power of two from 64 KiB to 1 GiB, and not";
            return Err(Refusal::new(Class::Fs, rule).number(align));
        }
        // Less than this is too little in any case, and what follows says how much is enough.
        let mut blocks = (bytes / u64::from(block)).max(64);
        if blocks > u64::from(u32::MAX) {
            return refuse("an image has fewer than 2^32 blocks; take a larger block or less");
        }
        blocks = rounded(blocks, block);
        let per_group = u64::from(block) * 8;
        let groups = blocks.div_ceil(per_group).max(1);
        let inodes = if inodes == 0 { bytes / BYTES_PER_INODE } else { inodes };
        let in_block = u64::from(block) / INODE;
        let per = inodes.div_ceil(groups).next_multiple_of(in_block).clamp(in_block * 4, per_group);
        if inodes > per * groups || per * groups > u64::from(u32::MAX) {
            let most = (per_group * groups).min(u64::from(u32::MAX));
            let rule = "too many inodes for an image of that size";
            return Err(Refusal::limit("--inodes", rule, inodes, most));
        }
        let geometry = Geometry {
            block,
            blocks,
            inodes_per_group: u32::try_from(per).unwrap_or(u32::MAX),
            align,
            base: blocks,
            doublings: 0,
        };
        let layout = Layout::new(geometry);
        // One aligned piece for the first layer at least.
        if layout.first_data + geometry.align_blocks() > blocks {
            let least = (layout.first_data + 2 * geometry.align_blocks()) * u64::from(block);
            let rule = "too small for a file system; with these inodes the least is";
            return Err(Refusal::new(Class::Fs, rule).number(least));
        }
        Ok(geometry)
    }

    /// The geometry with these numbers, as [`Geometry::new`] and [`Geometry::doubled`] would have made it; `None`
    /// where they would not.
    pub(crate) fn of(
        block: u32,
        base: u64,
        inodes_per_group: u32,
        align: u32,
        doublings: u32,
    ) -> Option<Geometry> {
        let bytes = base.checked_mul(block.into())?;
        let groups = base.div_ceil(u64::from(block.max(1)) * 8);
        let inodes = u64::from(inodes_per_group).checked_mul(groups)?;
        let geometry = Geometry::new(bytes, block, inodes, align).ok()?;
        if geometry.base != base
            || geometry.inodes_per_group != inodes_per_group
            || doublings > DOUBLINGS_MAX
        {
            return None;
        }
        (0..doublings).try_fold(geometry, |geometry, _| geometry.doubled().ok())
    }

    /// The same file system with twice the blocks that it was made with, and twice more for each doubling: rounded
    /// down as in [`Geometry::new`]. Each group has as many inodes as before.
    ///
    /// # Errors
    /// A refusal that says how large it can become.
    pub fn doubled(&self) -> Result<Geometry, Refusal> {
        let next = self.after(self.doublings + 1);
        let most = u64::from(u32::MAX);
        let fits = next.doublings <= DOUBLINGS_MAX
            && next.blocks <= most
            && next.descriptor_blocks() <= next.table_room()
            && u64::from(next.inodes_per_group) * u64::from(next.groups()) <= most
            && Layout::new(next).fixed.last().is_none_or(|run| run.end() <= next.blocks);
        if fits {
            return Ok(next);
        }
        let rule = "it cannot be doubled again (six times at most, and as far as its table of \
                    descriptors has room); make a new one of more bytes than";
        Err(Refusal::new(Class::Fs, rule).number(self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 12] = [16, 33, 64, 65, 129, 130, 257, 1024, 4096, 6144, 65_536, 300_000];

    fn shapes() -> impl Iterator<Item = Geometry> {
        let shapes = SIZES.into_iter().flat_map(|mib| [(mib, 2048), (mib, 4096)]);
        let shapes = shapes.flat_map(|(mib, block)| [(mib, block, 1 << 16), (mib, block, 1 << 20)]);
        shapes.map(|(mib, block, align)| Geometry::new(mib << 20, block, 0, align).unwrap())
    }

    /// Nothing lies on anything else, in any size.
    #[test]
    fn the_fixed_parts_are_apart() {
        for made in shapes() {
            let table = Layout::new(made).tables[0] * u64::from(made.block);
            let layout = Layout::new(made);
            let first = table + u64::from(layout.first_file - 1) * INODE;
            let large = made.bytes() >= 128 << 20 && made.align == 1 << 20;
            assert!(!large || first.is_multiple_of(1 << 20), "{made:?} {first}");
            let mut next = Ok(made);
            while let Ok(geometry) = next {
                let layout = Layout::new(geometry);
                for pair in layout.fixed.windows(2) {
                    assert!(pair[0].end() <= pair[1].start, "{geometry:?} {pair:?}");
                }
                assert!(layout.fixed.last().unwrap().end() <= geometry.blocks, "{geometry:?}");
                assert!(layout.first_data.is_multiple_of(geometry.align_blocks()));
                let parts = [&layout.tables, &layout.block_bitmaps, &layout.inode_bitmaps];
                assert!(parts.iter().all(|part| part.len() == geometry.groups() as usize));
                next = geometry.doubled();
            }
        }
    }

    /// What is there stays where it is, data comes to nothing that is fixed, now or later, and there is room for some.
    #[test]
    fn a_doubling_moves_nothing() {
        for made in shapes() {
            let mut all = vec![made];
            while let Ok(next) = all[all.len() - 1].doubled() {
                assert!(next.blocks > all[all.len() - 1].blocks && next.base == made.base);
                assert!(next.blocks <= made.blocks << next.doublings);
                all.push(next);
            }
            let last = Layout::new(all[all.len() - 1]);
            for &geometry in &all {
                let layout = Layout::new(geometry);
                let groups = geometry.groups() as usize;
                assert_eq!(layout.tables[..], last.tables[..groups]);
                assert_eq!(layout.block_bitmaps[..], last.block_bitmaps[..groups]);
                assert_eq!(layout.inode_bitmaps[..], last.inode_bitmaps[..groups]);
                let (one, two) = (layout.first_data, last.first_data);
                assert_eq!(
                    (one, layout.first_file, layout.journal),
                    (two, last.first_file, last.journal)
                );
                // What becomes fixed was never given out.
                for run in last.fixed.iter().filter(|run| run.start < geometry.blocks) {
                    let over = layout.over.iter().any(|piece| {
                        piece.start <= run.start && run.end().min(geometry.blocks) <= piece.end()
                    });
                    assert!(run.end() <= layout.first_data || over, "{geometry:?} {run:?}");
                }
                assert!(layout.over.windows(2).all(|pair| pair[0].end() < pair[1].start));
                let held: u64 = layout.over.iter().map(|piece| piece.len).sum();
                let data = geometry.blocks - layout.first_data;
                let large = geometry.bytes() >= 16 * u64::from(geometry.align);
                assert!(!large || held < data / 2, "{geometry:?} {held} {data}");
            }
        }
    }

    #[test]
    fn it_is_doubled_six_times_and_as_far_as_there_is_room() {
        let most = |mib: u64, block| {
            let mut geometry = Geometry::new(mib << 20, block, 0, 1 << 20).unwrap();
            while let Ok(next) = geometry.doubled() {
                geometry = next;
            }
            (geometry.doublings, geometry.bytes() >> 30)
        };
        assert_eq!(most(1024, 4096), (6, 64));
        assert_eq!(most(4096, 4096), (6, 256));
        assert_eq!(most(8192, 4096), (5, 256));
        assert_eq!(most(4096, 2048), (4, 64));
        // More than there is room for in any case can still become twice as large.
        assert_eq!(most(65_536, 2048), (1, 128));
        assert_eq!(most(1 << 20, 4096), (1, 2048));
        // 2^32 blocks are too many.
        assert_eq!(most(6 << 20, 2048), (0, 6144));
        let said = Geometry::new(6 << 40, 2048, 0, 1 << 20).unwrap().doubled().unwrap_err();
        assert!(said.to_string().ends_with(&(6u64 << 40).to_string()), "{said}");
    }

    #[test]
    fn only_what_can_be_made_is_a_geometry() {
        let made = Geometry::new(100 << 20, 4096, 0, 1 << 20).unwrap();
        let of = |block, base, inodes, align, doublings| {
            Geometry::of(block, base, inodes, align, doublings)
        };
        let Geometry { block, base, inodes_per_group: inodes, align, .. } = made;
        assert_eq!(of(block, base, inodes, align, 0), Some(made));
        let twice = made.doubled().unwrap().doubled().unwrap();
        assert_eq!(of(block, base, inodes, align, 2), Some(twice));
        for (block, base, inodes, align, doublings) in [
            (0, base, inodes, align, 0),
            (1024, base, inodes, align, 0),
            (block, 0, inodes, align, 0),
            (block, u64::MAX, inodes, align, 0),
            (block, 1 << 33, inodes, align, 0),
            // A last group that is too short for its superblock.
            (block, 32_768 + 3, inodes, align, 0),
            (block, base, inodes + 1, align, 0),
            (block, base, 0, align, 0),
            (block, base, u32::MAX, align, 0),
            (block, base, inodes, align + 1, 0),
            (block, base, inodes, align, 7),
            (block, base, inodes, align, u32::MAX),
        ] {
            let of = of(block, base, inodes, align, doublings);
            assert_eq!(of, None, "{block} {base} {inodes} {align} {doublings}");
        }
    }

    #[test]
    fn what_is_too_small_is_told_the_least() {
        let refusal = Geometry::new(1 << 20, 4096, 0, 1 << 20).unwrap_err();
        let crate::error::refusal::Value::Number(least) = refusal.value else {
            panic!("{refusal}");
        };
        let least = u64::try_from(least).unwrap();
        Geometry::new(least, 4096, 0, 1 << 20).unwrap();
        Geometry::new(least, 1024, 0, 1 << 20).unwrap_err();
        Geometry::new(least, 4096, 0, 3 << 20).unwrap_err();
        Geometry::new(least, 4096, 1 << 40, 1 << 20).unwrap_err();
    }
}
