//! The digests of an image's chunks: equal for equal layers, and no bit of the file system changes without one
//! of them. Needs no right.

mod forge;

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;

use forge::{gzip, tar};
use unpack::{
    Applied, Before, ChunkSet, Chunks, Compared, Geometry, ImageError, Limits, Stop, apply_image,
    grow_image, make_blank,
};

const MIB: u64 = 1 << 20;

fn blank(mib: u64, block: u32) -> File {
    let file = tempfile::tempfile().unwrap();
    let geometry = Geometry::new(mib * MIB, block, 0, 1 << 20).unwrap();
    file.set_len(geometry.blocks * u64::from(geometry.block)).unwrap();
    make_blank(&file, geometry, Before::Zeros).unwrap();
    file
}

fn layer(image: &File, layer: impl Read) -> Applied {
    apply_image(layer, image, &Limits::default(), None).unwrap()
}

fn all(image: &File) -> Chunks {
    Chunks::of(image, None, &Stop::default()).unwrap()
}

fn compare(chunks: &Chunks, image: &File) -> Compared {
    chunks.compare(image, &Stop::default()).unwrap()
}

fn same(list: &Chunks) -> Compared {
    Compared { digest: list.digest(), differ: 0, first: Vec::new() }
}

/// Files of many sizes, a name in many directories, long links, attributes.
fn base() -> Vec<u8> {
    let mut base = tar();
    for d in 0..40u8 {
        base = base.dir(format!("d{d}"));
        for f in 0..20 {
            let body = vec![b'a' + (d % 26); (usize::from(d) * 997 + f * 4099) % 70_000];
            base = base.file(format!("d{d}/f{f}"), body);
        }
        let value = vec![b'v'; 300];
        base = base
            .sym(format!("d{d}/slow"), "x/".repeat(90))
            .pax(&[("SCHILY.xattr.user.a", &value[..])])
            .file(format!("d{d}/attributes"), "a");
    }
    base.end()
}

fn upper() -> Vec<u8> {
    let mut upper = tar().file("d1/.wh.f1", "").file("d2/.wh..wh..opq", "").file("d2/own", "own");
    for d in 5..30 {
        upper = upper.file(format!(".wh.d{d}"), "");
    }
    upper.file("d3/f3", "replaced").file("again", "one").file("again", vec![b'2'; 70_000]).end()
}

struct Crumbs(Cursor<Vec<u8>>, usize);

impl Read for Crumbs {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 7 % 1009 + 1;
        let len = self.1.min(to.len());
        self.0.read(&mut to[..len])
    }
}

/// The same layers have the same list, however they come, and whether all was read or what has changed.
#[test]
fn lists_follow_from_layers_and_geometry() {
    for block in [2048, 4096] {
        let (one, two) = (blank(80, block), blank(80, block));
        let mut list = all(&one);
        assert_eq!(list.digest(), all(&two).digest());
        let large = tar().file("large", vec![b'l'; 40 << 20]).end();
        let gone = tar().file(".wh.large", "").end();
        for plain in [base(), large, upper(), gone, tar().end()] {
            let before = list.digest();
            assert!(list.fits(&one).unwrap());
            let applied = layer(&one, plain.as_slice());
            assert!(!list.fits(&one).unwrap());
            list = Chunks::of(&one, Some((&list, &applied.chunks)), &Stop::default()).unwrap();
            assert!(list == all(&one), "what has changed is not what the layer says");
            assert_ne!(list.digest(), before);
            layer(&two, Crumbs(Cursor::new(gzip(&plain)), 1));
            assert_eq!(list.digest(), all(&two).digest());
            assert_eq!(compare(&list, &one), same(&list));
        }
        // Other geometry is another list.
        let (three, four) = (blank(81, block), blank(80, 6144 - block));
        let own = all(&blank(80, block)).digest();
        assert!(!all(&three).fits(&two).unwrap() && !all(&blank(300, block)).fits(&two).unwrap());
        assert!(all(&three).digest() != own && all(&four).digest() != own);
        let mut text = Vec::new();
        list.write(&mut text).unwrap();
        assert_eq!(Chunks::parse(&mut text.as_slice()).unwrap(), list);
    }
}

/// A file system that has grown has another list, of all of it; the layers above go on from there.
#[test]
fn a_file_system_that_has_grown_has_another_list() {
    let image = blank(64, 4096);
    layer(&image, base().as_slice());
    let before = all(&image);
    image.set_len(128 * MIB).unwrap();
    grow_image(&image).unwrap();
    let grown = all(&image);
    assert!(grown.digest() != before.digest() && !before.fits(&image).unwrap());
    let applied = layer(&image, upper().as_slice());
    for below in [&grown, &before] {
        let list = Chunks::of(&image, Some((below, &applied.chunks)), &Stop::default()).unwrap();
        assert!(list == all(&image));
    }
    let mut text = Vec::new();
    grown.write(&mut text).unwrap();
    assert!(Chunks::parse(&mut text.as_slice()).unwrap() == grown);
}

/// Chunks of nothing but a layer's data are the same on any parent.
#[test]
fn data_has_the_same_digests_on_two_parents() {
    let body: Vec<u8> =
        (0..5u32 << 20).map(|at| at.wrapping_mul(at >> 9).to_le_bytes()[1]).collect();
    let data = tar().file("data", body).end();
    let of = |parent: Vec<u8>| {
        let image = blank(64, 4096);
        layer(&image, parent.as_slice());
        layer(&image, data.as_slice());
        let mut text = Vec::new();
        all(&image).write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        text.lines().skip(2).map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
    };
    let one: std::collections::BTreeSet<String> = of(base());
    let two: std::collections::BTreeSet<String> = of(tar().file("x", vec![9; 20 << 20]).end());
    assert!(one.intersection(&two).count() >= 5);
}

fn flip(image: &File, at: u64, bit: u32) {
    let mut byte = [0];
    image.read_exact_at(&mut byte, at).unwrap();
    image.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
}

/// By block of group 0, of which the image has no other: whether it is in use, as its bitmap says.
fn in_use(image: &File) -> (u64, Vec<bool>) {
    let (mut at, mut bits) = ([0; 4], vec![0; 4096]);
    image.read_exact_at(&mut at, 4096).unwrap();
    let bitmap = u64::from(u32::from_le_bytes(at));
    image.read_exact_at(&mut bits, bitmap * 4096).unwrap();
    let used = (0..64 * 256).map(|block| bits[block / 8] & 1 << (block % 8) != 0).collect();
    (bitmap, used)
}

/// One bit of a block in use, in each chunk at once, is found in each; bits of free blocks and of bytes 0 to
/// 895 are nobody's.
#[test]
fn every_flipped_bit_of_the_file_system_is_found() {
    let image = blank(64, 4096);
    layer(&image, base().as_slice());
    layer(&image, upper().as_slice());
    let list = all(&image);
    let (_, used) = in_use(&image);
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let chunks_in_use = used.chunks(256).filter(|chunk| chunk.contains(&true)).count() as u64;
    assert!(chunks_in_use > 5);
    for round in 0..16 {
        let (mut of_use, mut of_free) = (Vec::new(), Vec::new());
        for (chunk, blocks) in (0u64..).zip(used.chunks(256)) {
            for (wanted, to) in [(true, &mut of_use), (false, &mut of_free)] {
                let some: Vec<u64> =
                    (0u64..).zip(blocks).filter(|&(_, &is)| is == wanted).map(|(n, _)| n).collect();
                if some.is_empty() {
                    continue;
                }
                let block = some[usize::try_from(next(some.len() as u64)).unwrap()];
                // The descriptor's flags decide what else counts; they have a test of their own.
                let first = if chunk == 0 && block == 0 { 1024 } else { 0 };
                to.push(chunk * MIB + block * 4096 + first + next(4096 - first));
            }
        }
        let bit = round % 8;
        of_free.extend([0, 511, 895]);
        of_free.iter().for_each(|&at| flip(&image, at, bit));
        assert_eq!(compare(&list, &image), same(&list), "free blocks are not covered");
        of_use.iter().for_each(|&at| flip(&image, at, bit));
        let found = compare(&list, &image);
        assert_eq!(found.differ, chunks_in_use, "round {round}");
        let expected: Vec<u64> = of_use.iter().map(|at| at / MIB).collect();
        assert_eq!(found.first, expected);
        of_use.iter().chain(&of_free).for_each(|&at| flip(&image, at, bit));
        assert_eq!(compare(&list, &image), same(&list));
    }
}

/// What decides which blocks count is covered itself: each bit of a descriptor, of the mark, of the
/// superblock, and those of a bitmap, among them the bit of the bitmap's own block.
#[test]
fn what_decides_is_covered_too() {
    let image = blank(64, 4096);
    layer(&image, base().as_slice());
    let list = all(&image);
    let (bitmap, _) = in_use(&image);
    let found = |at: u64, bit: u32| {
        flip(&image, at, bit);
        let found = compare(&list, &image);
        flip(&image, at, bit);
        found.first.first() == Some(&0)
    };
    for bit in (0..64 * 8).step_by(5) {
        assert!(found(4096 + bit / 8, u32::try_from(bit % 8).unwrap()), "descriptor, bit {bit}");
    }
    for at in (896..2048).step_by(17) {
        assert!(found(at, 3), "byte {at}");
    }
    for block in (bitmap.saturating_sub(4)..bitmap + 60).chain([5000, 16_383]) {
        let bit = u32::try_from(block % 8).unwrap();
        assert!(found(bitmap * 4096 + block / 8, bit), "bit of block {block}");
    }
    // The copy of the superblock in a group that no layer has come to.
    let image = blank(300, 4096);
    let list = all(&image);
    for at in [0, 1023, 4096, 4096 + 127] {
        flip(&image, 128 * MIB + at, 0);
        assert_eq!(compare(&list, &image).first, [128]);
        flip(&image, 128 * MIB + at, 0);
    }
}

/// A child that names fewer chunks than it has written to has made a list that its image is found to differ
/// from.
#[test]
fn a_layer_that_lies_about_its_chunks_is_found() {
    let image = blank(64, 4096);
    layer(&image, base().as_slice());
    let before = all(&image);
    let applied = layer(&image, upper().as_slice());
    let honest = Chunks::of(&image, Some((&before, &applied.chunks)), &Stop::default()).unwrap();
    let lie = ChunkSet::default();
    let list = Chunks::of(&image, Some((&before, &lie)), &Stop::default()).unwrap();
    assert!(list != honest);
    assert!(compare(&list, &image).differ > 0);
    assert_eq!(compare(&honest, &image).differ, 0);
}

/// What cannot be read, or is no sealed image, has no list; and a caller who stops is heard.
#[test]
fn what_is_no_image_has_no_list() {
    let image = blank(64, 4096);
    let list = all(&image);
    let stopped = Chunks::of(&image, None, &Stop::new(|| true));
    assert!(matches!(stopped, Err(ImageError::Layer(unpack::Error::Stream { .. }))), "{stopped:?}");
    image.set_len(40 * MIB).unwrap();
    assert!(list.compare(&image, &Stop::default()).is_err());
    assert!(matches!(Chunks::of(&image, None, &Stop::default()), Err(ImageError::Unfit(_))));
    let zeros = tempfile::tempfile().unwrap();
    zeros.set_len(64 * MIB).unwrap();
    assert_eq!(compare(&list, &zeros).differ, list.len() as u64);
}
