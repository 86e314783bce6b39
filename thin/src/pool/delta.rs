//! Where two thins differ, by the pool's metadata alone: no block of data is read for it.
//!
//! Both trees of mappings are walked side by side in the order of their keys. A subtree that both have is passed over
//! unread: it is one block of metadata, and so maps the same. A page of the answer has a bound, and the metadata is
//! held only while one page is read. Of two thins that nobody writes to, all pages together are the whole difference.

use serde::Serialize;

use crate::error::Error;
use crate::format::block::Fault;
use crate::format::ondisk::{self, Node, Superblock};
use crate::format::units::ThinId;
use crate::pool::Pool;
use crate::pool::metadata::{DEPTH_MAX, Reader};

/// How two thins differ in a stretch of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Both map it, to blocks of their own.
    Changed,
    /// Only the left one maps it: in the right one it was discarded, or never written.
    OnlyLeft,
    /// Only the right one maps it.
    OnlyRight,
}

/// Blocks in a row that differ alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Stretch {
    /// The first block, counted in data blocks of the pool from the beginning of the thin.
    pub begin: u64,
    /// How many.
    pub blocks: u64,
    /// How they differ.
    pub kind: Difference,
}

/// One page of a difference.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Delta {
    /// In the order of their blocks; they do not overlap.
    pub stretches: Vec<Stretch>,
    /// The block to go on from; none where this was the last page.
    pub next: Option<u64>,
}

impl Delta {
    /// Adds a block; false where the page is full.
    fn add(&mut self, key: u64, kind: Difference, most: usize) -> bool {
        if let Some(last) = self.stretches.last_mut()
            && last.kind == kind
            && last.begin.checked_add(last.blocks) == Some(key)
        {
            last.blocks += 1;
            return true;
        }
        if self.stretches.len() >= most.max(1) {
            self.next = Some(key);
            return false;
        }
        self.stretches.push(Stretch { begin: key, blocks: 1, kind });
        true
    }
}

/// What comes next in a tree.
#[derive(Clone, Copy, Debug)]
enum Item {
    /// A node that was not read yet: its keys are at least `low` and below `high`.
    Node { place: u64, height: u32, low: u64, high: Option<u64> },
    /// A mapping.
    Row { key: u64, block: u64 },
}

/// A walk through one tree, in the order of its keys. It has at most one node of each level in memory.
struct Walk<'a> {
    reader: &'a Reader,
    /// The next is the last.
    ahead: Vec<Item>,
    /// Keys below it are of no interest.
    from: u64,
}

impl<'a> Walk<'a> {
    /// Nothing, where there is no tree.
    fn new(reader: &'a Reader, root: Option<u64>, from: u64) -> Result<Walk<'a>, Error> {
        let mut walk = Walk { reader, ahead: Vec::new(), from };
        if let Some(place) = root {
            let height = reader.height(place)?;
            walk.ahead.push(Item::Node { place, height, low: 0, high: None });
        }
        Ok(walk)
    }

    fn next(&self) -> Option<Item> {
        self.ahead.last().copied()
    }

    fn pass(&mut self) {
        self.ahead.pop();
    }

    /// Replaces the node that comes next by what is in it. Keys have to ascend and stay between those of the nodes
    /// around: so no block is read twice, whatever is on the disk.
    fn open(&mut self) -> Result<(), Error> {
        let Some(Item::Node { place, height, low, high }) = self.ahead.pop() else { return Ok(()) };
        let bad = || self.reader.damaged(&Fault::Node);
        let (node, keys) = self.reader.node_and_keys(place)?;
        let ascend = keys.windows(2).all(|pair| pair[0] < pair[1]);
        let within = keys.first().is_none_or(|first| *first >= low)
            && keys.last().zip(high).is_none_or(|(last, high)| *last < high);
        if !ascend || !within {
            return Err(bad());
        }
        let mut items = Vec::with_capacity(keys.len());
        match (node, height) {
            (Node::Leaf(rows), 0) => {
                for (key, value) in rows {
                    let block = ondisk::data_block(&value).ok_or_else(bad)?;
                    if key >= self.from {
                        items.push(Item::Row { key, block });
                    }
                }
            }
            (Node::Internal(children), 1..) => {
                for (at, place) in children.into_iter().enumerate() {
                    let low = *keys.get(at).ok_or_else(bad)?;
                    let high = keys.get(at + 1).copied().or(high);
                    if high.is_none_or(|high| high > self.from) {
                        items.push(Item::Node { place, height: height - 1, low, high });
                    }
                }
            }
            (Node::Leaf(_), 1..) | (Node::Internal(_), 0) => return Err(bad()),
        }
        items.reverse();
        self.ahead.append(&mut items);
        Ok(())
    }
}

/// What to do next.
enum Act {
    PassBoth,
    OpenLeft,
    OpenRight,
    OpenBoth,
    Left(u64),
    Right(u64),
    Both { key: u64, same: bool },
}

fn act(left: Option<Item>, right: Option<Item>) -> Option<Act> {
    use Item::{Node, Row};
    Some(match (left, right) {
        (None, None) => return None,
        (Some(Node { .. }), None) => Act::OpenLeft,
        (None, Some(Node { .. })) => Act::OpenRight,
        (Some(Row { key, .. }), None) => Act::Left(key),
        (None, Some(Row { key, .. })) => Act::Right(key),
        (Some(Node { place: one, .. }), Some(Node { place: other, .. })) if one == other => {
            Act::PassBoth
        }
        (
            Some(Node { low: one, height: above, .. }),
            Some(Node { low: other, height: below, .. }),
        ) => match (one.cmp(&other), above.cmp(&below)) {
            (std::cmp::Ordering::Less, _) => Act::OpenLeft,
            (std::cmp::Ordering::Greater, _) => Act::OpenRight,
            // Of one height they may have children in common.
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Greater) => Act::OpenLeft,
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Less) => Act::OpenRight,
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Equal) => Act::OpenBoth,
        },
        (Some(Node { low, .. }), Some(Row { key, .. })) => match low <= key {
            true => Act::OpenLeft,
            false => Act::Right(key),
        },
        (Some(Row { key, .. }), Some(Node { low, .. })) => match low <= key {
            true => Act::OpenRight,
            false => Act::Left(key),
        },
        (Some(Row { key: one, block }), Some(Row { key: other, block: its })) => {
            match one.cmp(&other) {
                std::cmp::Ordering::Less => Act::Left(one),
                std::cmp::Ordering::Greater => Act::Right(other),
                std::cmp::Ordering::Equal => Act::Both { key: one, same: block == its },
            }
        }
    })
}

impl Reader {
    /// Levels of inner nodes above the leaves.
    fn height(&self, root: u64) -> Result<u32, Error> {
        let mut place = root;
        for height in 0..=DEPTH_MAX {
            match self.node_and_keys(place)?.0 {
                Node::Leaf(_) => return Ok(height),
                Node::Internal(children) => {
                    place = *children.first().ok_or_else(|| self.damaged(&Fault::Node))?;
                }
            }
        }
        Err(self.damaged(&Fault::Node))
    }

    fn node_and_keys(&self, place: u64) -> Result<(Node, Vec<u64>), Error> {
        let block = self.block(place)?;
        let node = Node::parse(&block.0, place).map_err(|fault| self.damaged(&fault))?;
        let entries = match &node {
            Node::Leaf(rows) => rows.len(),
            Node::Internal(children) => children.len(),
        };
        Ok((node, ondisk::keys(&block.0, entries)))
    }

    /// The root of a thin's mappings.
    fn mapping(&self, superblock: &Superblock, id: ThinId) -> Result<Option<u64>, Error> {
        let mut found = None;
        self.leaves(superblock.mapping_root, 0, &mut |key, value| {
            if key == u64::from(id.get()) {
                found = Some(ondisk::root_of(value).ok_or(Fault::Node)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn delta(&self, left: Option<u64>, right: u64, from: u64, most: usize) -> Result<Delta, Error> {
        let mut left = Walk::new(self, left, from)?;
        let mut right = Walk::new(self, Some(right), from)?;
        let mut delta = Delta::default();
        while let Some(act) = act(left.next(), right.next()) {
            let room = match act {
                Act::PassBoth => {
                    left.pass();
                    right.pass();
                    true
                }
                Act::OpenLeft => left.open().map(|()| true)?,
                Act::OpenRight => right.open().map(|()| true)?,
                Act::OpenBoth => left.open().and_then(|()| right.open()).map(|()| true)?,
                Act::Left(key) => {
                    left.pass();
                    delta.add(key, Difference::OnlyLeft, most)
                }
                Act::Right(key) => {
                    right.pass();
                    delta.add(key, Difference::OnlyRight, most)
                }
                Act::Both { key, same } => {
                    left.pass();
                    right.pass();
                    same || delta.add(key, Difference::Changed, most)
                }
            };
            if !room {
                break;
            }
        }
        Ok(delta)
    }
}

impl Pool {
    /// Where `right` differs from `left`, from block `from` on, in at most `most` stretches. Without a `left` these
    /// are all the blocks that `right` maps. What is asked about should not change meanwhile: sealed volumes,
    /// snapshots that nobody writes to.
    ///
    /// # Errors
    /// [`Error::ThinAbsent`]; those of the messages; [`Error::Refused`] when the metadata is damaged.
    pub fn delta(
        &self,
        left: Option<ThinId>,
        right: ThinId,
        from: u64,
        most: usize,
    ) -> Result<Delta, Error> {
        let absent = |id| Error::ThinAbsent { pool: self.name().to_string(), id };
        self.with_frozen_metadata(|reader, superblock| {
            let root = |id| reader.mapping(superblock, id)?.ok_or_else(|| absent(id));
            let left = left.map(root).transpose()?;
            reader.delta(left, root(right)?, from, most)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::path::PathBuf;

    use super::*;
    use crate::format::bitmaps::sealed_for_tests as sealed;
    use crate::format::block::{BLOCK, NODE_XOR};

    type Map = BTreeMap<u64, u64>;

    /// A metadata device in the making. Equal nodes are one block, as two snapshots share them.
    #[derive(Default)]
    struct Image {
        nodes: Vec<Vec<u8>>,
        places: HashMap<Vec<u8>, u64>,
    }

    impl Image {
        fn node(&mut self, flags: u32, entries: &[(u64, u64)]) -> u64 {
            let mut block = vec![0; BLOCK];
            let count = u32::try_from(entries.len()).unwrap();
            for (at, value) in [(4, flags), (16, count), (20, 252), (24, 8)] {
                block[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            for (at, (key, value)) in entries.iter().enumerate() {
                block[32 + at * 8..][..8].copy_from_slice(&key.to_le_bytes());
                block[32 + 252 * 8 + at * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
            if let Some(place) = self.places.get(&block) {
                return *place;
            }
            let place = self.nodes.len() as u64;
            self.places.insert(block.clone(), place);
            self.nodes.push(sealed(block, place, NODE_XOR));
            place
        }

        /// Leaves cut where the key says so, so that a change of one leaves the others as they were.
        fn tree(&mut self, map: &Map, fan: u64) -> u64 {
            let mut level: Vec<(u64, u64)> = Vec::new();
            let cut = |rows: &[(u64, u64)], by: u64| -> Vec<Vec<(u64, u64)>> {
                let mut parts: Vec<Vec<(u64, u64)>> = Vec::new();
                for row in rows {
                    match parts.last_mut() {
                        Some(part) if part[0].0 / by == row.0 / by => part.push(*row),
                        _ => parts.push(vec![*row]),
                    }
                }
                parts
            };
            let rows: Vec<(u64, u64)> =
                map.iter().map(|(key, block)| (*key, block << 24 | 7)).collect();
            let mut by = fan;
            for part in cut(&rows, by) {
                level.push((part[0].0, self.node(2, &part)));
            }
            if level.is_empty() {
                return self.node(2, &[]);
            }
            while level.len() > 1 {
                by *= fan;
                level =
                    cut(&level, by).iter().map(|part| (part[0].0, self.node(1, part))).collect();
            }
            level[0].1
        }

        fn write(&self, name: &str) -> PathBuf {
            let name = format!("veneer-delta-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, self.nodes.concat()).unwrap();
            path
        }
    }

    fn expected(left: &Map, right: &Map) -> Vec<(u64, Difference)> {
        let mut keys: Vec<u64> = left.keys().chain(right.keys()).copied().collect();
        keys.sort_unstable();
        keys.dedup();
        let kind = |key: &u64| match (left.get(key), right.get(key)) {
            (Some(one), Some(other)) => (one != other).then_some(Difference::Changed),
            (Some(_), None) => Some(Difference::OnlyLeft),
            (None, _) => Some(Difference::OnlyRight),
        };
        keys.iter().filter_map(|key| Some((*key, kind(key)?))).collect()
    }

    fn paged(
        reader: &Reader,
        left: Option<u64>,
        right: u64,
        most: usize,
    ) -> Vec<(u64, Difference)> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let delta = reader.delta(left, right, from, most).unwrap();
            assert!(delta.stretches.len() <= most);
            for stretch in &delta.stretches {
                let blocks = stretch.begin..stretch.begin + stretch.blocks;
                all.extend(blocks.map(|block| (block, stretch.kind)));
            }
            match delta.next {
                Some(next) => from = next,
                None => return all,
            }
        }
    }

    /// A small generator, so that the cases are the same in every run.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        }
    }

    #[test]
    fn every_difference_is_found_once_whatever_the_trees_look_like() {
        for seed in 1..25 {
            let mut roll = dice(seed);
            let size = [1, 10, 40, 200][(seed % 4) as usize];
            let left: Map = (0..roll(size) + 1).map(|at| (roll(3 * size), 1000 + at)).collect();
            let mut right = left.clone();
            for at in 0..roll(40) {
                match roll(3) {
                    0 => drop(right.remove(&roll(3 * size))),
                    1 => drop(right.insert(roll(3 * size), 900_000 + at)),
                    _ => drop(right.insert(3 * size + roll(90), 950_000 + at)),
                }
            }
            let mut image = Image::default();
            let fan = 2 + seed % 7;
            let (one, other) = (image.tree(&left, fan), image.tree(&right, fan));
            let path = image.write(&format!("seed-{seed}"));
            let reader = Reader::of_file(&path);
            for most in [3, 1000] {
                let wanted = expected(&left, &right);
                assert_eq!(paged(&reader, Some(one), other, most), wanted, "{seed}, {most}");
                let wanted = expected(&Map::new(), &right);
                assert_eq!(paged(&reader, None, other, most), wanted, "{seed}, {most}");
            }
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn stretches_are_as_long_as_they_can_be() {
        let left: Map = (0..10).map(|key| (key, key)).collect();
        let mut right = left.clone();
        right.extend([(3, 50), (4, 51), (10, 52), (11, 53)]);
        right.remove(&5);
        let mut image = Image::default();
        let (one, other) = (image.tree(&left, 4), image.tree(&right, 4));
        let path = image.write("stretches");
        let found = Reader::of_file(&path).delta(Some(one), other, 0, 9).unwrap();
        let stretch = |begin, blocks, kind| Stretch { begin, blocks, kind };
        let wanted = [
            stretch(3, 2, Difference::Changed),
            stretch(5, 1, Difference::OnlyLeft),
            stretch(10, 2, Difference::OnlyRight),
        ];
        assert_eq!((found.stretches.as_slice(), found.next), (wanted.as_slice(), None));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_both_share_is_not_read_and_what_is_damaged_is_refused() {
        let left: Map = (0..4000).map(|key| (key, key)).collect();
        let mut right = left.clone();
        right.insert(17, 90_000);
        let mut image = Image::default();
        let (one, other) = (image.tree(&left, 8), image.tree(&right, 8));
        // The leaf of key 2000 is shared: with its checksum broken, only who reads it sees that.
        let rows: Vec<(u64, u64)> = (2000..2008).map(|key| (key, key << 24 | 7)).collect();
        let shared = image.node(2, &rows);
        assert!(shared < one.max(other), "the leaf is in the tree");
        let at = usize::try_from(shared).unwrap();
        image.nodes[at][100] ^= 1;
        let path = image.write("shared");
        let reader = Reader::of_file(&path);
        let found = reader.delta(Some(one), other, 0, 9).unwrap();
        assert_eq!(found.stretches.len(), 1);
        assert!(reader.delta(None, other, 0, 9).is_err());
        std::fs::remove_file(&path).unwrap();

        // A loop, a key out of order, a leaf at the wrong height, keys beyond their parent's.
        let mut image = Image::default();
        let leaf = image.node(2, &[(5, 1 << 24), (9, 2 << 24)]);
        let disordered = image.node(2, &[(9, 1 << 24), (5, 2 << 24)]);
        let looped = image.nodes.len() as u64;
        assert_eq!(image.node(1, &[(0, looped)]), looped);
        let twice = image.node(1, &[(0, leaf), (7, leaf)]);
        let inner = image.node(1, &[(0, leaf)]);
        let uneven = image.node(1, &[(0, inner), (20, leaf)]);
        let path = image.write("damaged");
        let reader = Reader::of_file(&path);
        assert!(reader.delta(None, leaf, 0, 9).is_ok());
        for root in [disordered, looped, twice, uneven] {
            let error = reader.delta(None, root, 0, 9).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{root}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
