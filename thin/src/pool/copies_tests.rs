//! Copies of metadata in a file, as large as a pool of three thins needs that share nodes.

use std::fs;
use std::path::PathBuf;

use crate::error::Error;
use crate::format::bitmaps::sealed_for_tests as sealed;
use crate::format::block::BLOCK;
use crate::format::block::NODE_XOR;
use crate::format::copy_head::Taken;
use crate::format::made_maps::Counts;
use crate::format::made_maps::{self, Made};
use crate::format::ondisk::resealed;
use crate::pool::copies::{Copied, Counted, count, write};
use crate::pool::metadata::Reader;

/// Blocks of the metadata, and of the data.
pub(crate) const BLOCKS: usize = 64;
pub(crate) const DATA: usize = 20_000;

fn node(place: u64, flags: u32, rows: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let size = rows.first().map_or(8, |(_, value)| value.len());
    let most = (4096 - 32) / (8 + size) / 3 * 3;
    let mut block = vec![0; BLOCK];
    let head = [(16, rows.len()), (20, most), (24, size)];
    block[4..8].copy_from_slice(&flags.to_le_bytes());
    for (at, value) in head {
        block[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    }
    for (at, (key, value)) in rows.iter().enumerate() {
        block[32 + at * 8..][..8].copy_from_slice(&key.to_le_bytes());
        block[32 + most * 8 + at * size..][..size].copy_from_slice(value);
    }
    sealed(block, place, NODE_XOR)
}

fn word(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn mapped(keys: std::ops::Range<u64>, to: u64) -> Vec<(u64, Vec<u8>)> {
    keys.map(|key| (key, word((to + key) << 24 | 5))).collect()
}

/// Thin 1 is blocks 9 (10, 11), thin 2 blocks 12 (10, 13), thin 3 is thin 1's snapshot that nobody wrote to.
pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let mut all = vec![vec![0; BLOCK]; BLOCKS];
    all[10] = node(10, 2, &mapped(0..200, 100));
    all[11] = node(11, 2, &mapped(200..400, 100));
    all[13] = node(13, 2, &mapped(200..300, 17_000));
    all[9] = node(9, 1, &[(0, word(10)), (200, word(11))]);
    all[12] = node(12, 1, &[(0, word(10)), (200, word(13))]);
    all[20] = node(20, 2, &[(1, word(9)), (2, word(12)), (3, word(9))]);
    let details = |blocks: u64| [word(blocks), word(7), word(0)].concat();
    all[21] = node(21, 2, &[(1, details(400)), (2, details(300)), (3, details(400))]);
    let mut superblock = vec![0; BLOCK];
    for (at, value) in [
        (32, 27_022_010_u64),
        (48, 7),
        (64, DATA as u64),
        (192, BLOCKS as u64),
        (320, 20),
        (328, 21),
    ] {
        superblock[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (at, value) in [(40, 2_u32), (336, 128), (340, 8)] {
        superblock[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    superblock[16..32].fill(0xab);
    all[0] = resealed(&superblock, true);
    all
}

pub(crate) fn taken() -> Taken {
    Taken {
        id: "ab".repeat(16),
        name: "veneer".to_owned(),
        taken_s: 9,
        transaction_id: 7,
        block_sectors: 128,
        data_blocks: DATA as u64,
        metadata_blocks: BLOCKS as u64,
    }
}

/// A directory with the metadata in a file, and a copy of it.
pub(crate) fn copied(test: &str) -> (PathBuf, PathBuf) {
    let dir = std::env::temp_dir().join(format!("veneer-copies-{test}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("metadata"), metadata().concat()).unwrap();
    let reader = Reader::of_file(&dir.join("metadata"));
    let copy = dir.join("copy");
    let head = write(&reader, &reader.block(0).unwrap(), taken(), &copy).unwrap();
    assert_eq!((head.thins, head.pages), (3, 8));
    (dir, copy)
}

pub(crate) fn made(copy: &Copied) -> (Counted, Made) {
    let counted = count(copy, &copy.roots().unwrap(), DATA, BLOCKS).unwrap();
    let made = made_maps::make(&counted.data, counted.metadata.clone()).unwrap();
    (counted, made)
}

#[test]
fn what_a_copy_refers_to_is_counted_once_for_each_reference() {
    let (dir, path) = copied("counts");
    let copy = Copied::open(&path).unwrap();
    let (counted, _) = made(&copy);
    assert_eq!((counted.thins, counted.nodes), (3, 7));
    // Node 9 has two thins, node 10 two parents; data is counted by the nodes that refer to it.
    let mut metadata = Counts::none(BLOCKS);
    for block in [20, 21, 9, 9, 12, 10, 10, 11, 13] {
        metadata.add(block);
    }
    let mut data = Counts::none(DATA);
    (100..500).chain(17_200..17_300).for_each(|block| assert!(data.add(block)));
    assert_eq!((counted.data, counted.metadata), (data, metadata));
    // Of a pool that is smaller than what it refers to.
    for (data, metadata) in [(17_299, BLOCKS), (DATA, 21)] {
        let error = count(&copy, &copy.roots().unwrap(), data, metadata).err().unwrap();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_copy_that_is_damaged_anywhere_is_refused_and_one_cut_short() {
    let (dir, path) = copied("damaged");
    let good = fs::read(&path).unwrap();
    assert_eq!(good.len(), 9 * BLOCK);
    for at in (0..good.len()).step_by(211) {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(&path, &bad).unwrap();
        let error = Copied::open(&path).err().unwrap_or_else(|| panic!("byte {at}"));
        assert!(matches!(error, Error::Refused { .. }), "{at}: {error}");
    }
    for length in [0, 4095, 4096, 8192, good.len() - 1, good.len() - BLOCK] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(Copied::open(&path), Err(Error::Refused { .. })), "{length}");
    }
    fs::write(&path, [&good[..], &[0; BLOCK]].concat()).unwrap();
    assert!(Copied::open(&path).is_err(), "too long");
    fs::write(&path, &good).unwrap();
    assert!(Copied::open(&path).is_ok());
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_copy_that_cannot_be_written_leaves_the_one_that_is_there() {
    let (dir, path) = copied("kept");
    let before = fs::read(&path).unwrap();
    let mut broken = metadata();
    broken[13][77] ^= 1;
    fs::write(dir.join("metadata"), broken.concat()).unwrap();
    let reader = Reader::of_file(&dir.join("metadata"));
    let error = write(&reader, &reader.block(0).unwrap(), taken(), &path).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "half a copy is left");
    // A tree that leads back into itself ends.
    let mut looped = metadata();
    looped[9] = node(9, 1, &[(0, word(9)), (200, word(11))]);
    fs::write(dir.join("metadata"), looped.concat()).unwrap();
    let reader = Reader::of_file(&dir.join("metadata"));
    assert!(write(&reader, &reader.block(0).unwrap(), taken(), &path).is_ok());
    fs::remove_dir_all(&dir).unwrap();
}
