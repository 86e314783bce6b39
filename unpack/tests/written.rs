//! Images that our own writer makes: each is what e2fsck and the kernel want, a function of its layers and
//! its geometry, and nobody else's file is touched. That its trees are those of a directory is shown
//! by all other tests, whose layers go both ways. Needs root and loop devices.

mod forge;
mod images;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use forge::{Tar, gzip, tar};
use images::{Mounted, run};
use unpack::{
    Before, Geometry, ImageError, Kind, Limits, Root, Unfit, apply_image, image_manifest_strict,
    layers, make_blank, tree_manifest,
};

const MIB: u64 = 1 << 20;
const PIECE: usize = 1 << 20;

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    /// A blank.
    fn new(mib: u64, block: u32, inodes: u64) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let geometry = Geometry::new(mib * MIB, block, inodes, 1 << 20).unwrap();
        let file = File::create_new(&path).unwrap();
        file.set_len(geometry.blocks * u64::from(geometry.block)).unwrap();
        drop(file);
        let image = Image { _dir: dir, path };
        make_blank(&image.file(), geometry, Before::Unknown).unwrap();
        image
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn try_layer(&self, layer: &[u8]) -> Result<unpack::Applied, ImageError> {
        apply_image(layer, &self.file(), &Limits::default(), None)
    }

    fn layer(&self, layer: &[u8]) -> &Image {
        self.try_layer(layer).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        self
    }

    /// e2fsck has no word against it.
    fn checked(&self) -> &Image {
        run("e2fsck", &["-fn".as_ref(), self.path.as_os_str()]);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Numbers of the MiB that are not zeros.
    fn pieces(&self) -> BTreeSet<usize> {
        let bytes = self.bytes();
        let pieces = bytes.chunks(PIECE).enumerate();
        pieces.filter(|(_, piece)| piece.iter().any(|&b| b != 0)).map(|(n, _)| n).collect()
    }

    /// The kernel shows what our own reader reads, and has no word against it either.
    fn mounted(&self) -> Vec<String> {
        let (mut ours, mut kernels) = (Vec::new(), Vec::new());
        image_manifest_strict(&self.file(), &mut ours, &Limits::default()).unwrap();
        let mounted = Mounted::new(&self.path, "ro");
        let root = Root::open(&mounted.0).unwrap();
        tree_manifest(&root, &mut [], &mut kernels).unwrap();
        let lines = |text: Vec<u8>| -> Vec<String> {
            String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
        };
        let (ours, kernels) = (lines(ours), lines(kernels));
        ours.iter().zip(&kernels).for_each(|(ours, kernels)| assert_eq!(ours, kernels));
        assert_eq!(ours.len(), kernels.len());
        ours
    }
}

/// A base of some directories, files of many sizes and links.
fn base() -> Vec<u8> {
    let mut base = tar();
    for d in 0..40u8 {
        base = base.dir(format!("d{d}"));
        for f in 0..20 {
            let body = vec![b'a' + (d % 26); (usize::from(d) * 997 + f * 4099) % 70_000];
            base = base.file(format!("d{d}/f{f}"), body);
        }
        base = base.sym(format!("d{d}/fast"), "f1").sym(format!("d{d}/slow"), "x/".repeat(90));
    }
    base.hard("linked", "d3/f3").end()
}

fn upper() -> Vec<u8> {
    tar()
        .file("d1/.wh.f1", "")
        .file("d2/.wh..wh..opq", "")
        .file("d2/own", "own")
        .file("d3/f3", "replaced")
        .dir("d4/f4")
        .file("d4/f4/in", vec![b'i'; 9000])
        .file("d5", "a file now")
        .hard("again", "linked")
        .end()
}

/// Gives pieces of odd sizes.
struct Crumbs(Cursor<Vec<u8>>, usize);

impl Read for Crumbs {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 7 % 1009 + 1;
        let len = self.1.min(to.len());
        self.0.read(&mut to[..len])
    }
}

/// The same layers are the same bytes, however they come, and whoever applies them.
#[test]
fn bytes_follow_from_layers_and_geometry() {
    for block in [2048, 4096] {
        let first = Image::new(64, block, 0);
        first.layer(&base()).checked().layer(&upper()).checked();
        let second = Image::new(64, block, 0);
        let crumbs = Crumbs(Cursor::new(base()), 1);
        apply_image(crumbs, &second.file(), &Limits::default(), None).unwrap();
        second.layer(&gzip(&upper()));
        assert!(first.bytes() == second.bytes(), "{block}");
        assert_eq!(layers(&first.file()).unwrap(), 2);
        // By the chain the file system has its name.
        let uuid = |image: &Image| image.bytes()[1024 + 0x68..1024 + 0x78].to_vec();
        let other = Image::new(64, block, 0);
        other.layer(&base());
        assert_ne!(uuid(&first), uuid(&other));
    }
}

/// A layer that was killed or refused leaves what nobody takes for an image; a new one is as if nothing
/// had been.
#[test]
fn a_layer_that_did_not_end_leaves_no_image() {
    let image = Image::new(64, 4096, 0);
    image.layer(&base());
    let cut = &base()[..300_000];
    assert!(matches!(image.try_layer(cut), Err(ImageError::Layer(_))));
    for _ in 0..2 {
        let refused = image.try_layer(&upper());
        assert!(matches!(refused, Err(ImageError::Unfit(Unfit::Unsealed))), "{refused:?}");
    }
    assert!(matches!(layers(&image.file()), Err(Unfit::Unsealed)));
}

/// What is not ours, or not as we sealed it, is refused by its name, and not a byte of it changes.
#[test]
fn what_is_no_parent_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign");
    images::blank(&foreign, 16, "-t ext4", None);
    let empty = dir.path().join("empty");
    File::create(&empty).unwrap().set_len(16 * MIB).unwrap();
    let ours = Image::new(64, 4096, 0);
    ours.layer(&base());
    let changed = |name: &str, change: &dyn Fn(&File)| {
        let path = dir.path().join(name);
        fs::copy(&ours.path, &path).unwrap();
        change(&File::options().read(true).write(true).open(&path).unwrap());
        path
    };
    let flip = |at: u64| {
        move |file: &File| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    };
    let mounted = dir.path().join("mounted");
    fs::copy(&ours.path, &mounted).unwrap();
    drop(Mounted::new(&mounted, "rw"));
    type Wanted = fn(&Unfit) -> bool;
    let cases: [(PathBuf, Wanted); 7] = [
        (foreign, |unfit| matches!(unfit, Unfit::Foreign)),
        (empty, |unfit| matches!(unfit, Unfit::Empty)),
        (mounted, |unfit| matches!(unfit, Unfit::Changed)),
        (changed("mark", &flip(920)), |unfit| matches!(unfit, Unfit::Changed)),
        (changed("superblock", &flip(1024 + 0x10)), |unfit| matches!(unfit, Unfit::Changed)),
        (changed("descriptor", &flip(4096 + 0x0c)), |unfit| matches!(unfit, Unfit::Changed)),
        (changed("short", &|file| file.set_len(1000).unwrap()), |unfit| {
            matches!(unfit, Unfit::Short { .. })
        }),
    ];
    for (path, wanted) in cases {
        let before = fs::read(&path).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        match apply_image(&*upper(), &file, &Limits::default(), None) {
            Err(ImageError::Unfit(unfit)) if wanted(&unfit) => {}
            other => panic!("{path:?}: {other:?}"),
        }
        assert!(before == fs::read(&path).unwrap(), "{path:?} was changed");
    }
}

/// A blank is made where nothing is.
#[test]
fn a_blank_is_made_in_what_is_empty_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("used");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(b"x", 40 * MIB + 17).unwrap();
    let geometry = Geometry::new(64 * MIB, 4096, 0, 1 << 20).unwrap();
    for before in [Before::Unknown, Before::Image] {
        let at = match make_blank(&file, geometry, before) {
            Err(Unfit::InUse { at }) => at,
            other => panic!("{other:?}"),
        };
        assert_eq!(at, 40 * MIB + 17);
    }
    file.write_all_at(&[0], 40 * MIB + 17).unwrap();
    make_blank(&file, geometry, Before::Unknown).unwrap();
    assert!(matches!(make_blank(&file, geometry, Before::Unknown), Err(Unfit::InUse { at: 896 })));
    make_blank(&file, geometry, Before::Image).unwrap();
}

/// Blanks of every odd size, short last groups among them.
#[test]
fn blanks_of_all_sizes_are_clean() {
    for block in [2048, 4096] {
        for mib in [16, 33, 64, 129, 130, 257, 1025, 5000, 70_000] {
            let image = Image::new(mib, block, 0);
            image.checked();
            assert_eq!(image.mounted().len(), 2, "{block} {mib}");
        }
    }
}

/// A small layer changes three pieces: what is counted, its inodes, its data. A blank is one, and one for
/// each copy of its superblock.
#[test]
fn a_small_layer_costs_three_pieces() {
    let image = Image::new(512, 4096, 0);
    assert_eq!(image.pieces().into_iter().collect::<Vec<_>>(), [0, 128, 384]);
    image.layer(&base());
    for n in 0..4 {
        let before = image.bytes();
        image.layer(&tar().file(format!("d{n}/small"), "small").end());
        let after = image.bytes();
        let pieces = before.chunks(PIECE).zip(after.chunks(PIECE));
        let changed = pieces.filter(|(before, after)| before != after).count();
        assert_eq!(changed, 3, "layer {n}");
    }
    image.checked();
}

/// What a layer brings is the same pieces on any parent.
#[test]
fn data_of_a_layer_is_the_same_on_two_parents() {
    let mut layer = tar();
    for n in 0..30u32 {
        let body: Vec<u8> = (0..200_000u32).map(|at| (at * n).to_le_bytes()[1]).collect();
        layer = layer.file(format!("data{n}"), body);
    }
    let layer = layer.end();
    let data = |parent: &[u8]| {
        let image = Image::new(256, 4096, 0);
        image.layer(parent);
        let before = image.pieces();
        image.layer(&layer);
        let bytes = image.bytes();
        let new: Vec<Vec<u8>> = image
            .pieces()
            .difference(&before)
            .map(|&n| bytes[n * PIECE..(n + 1) * PIECE].to_vec())
            .collect();
        new
    };
    let big = tar().file("big", vec![b'b'; 120 << 20]).end();
    let (one, two) = (data(&base()), data(&big));
    // All but the last, which holds the root directory too.
    assert!(one.len() >= 6 && one.len() == two.len(), "{} {}", one.len(), two.len());
    assert!(one[..5] == two[..5]);
}

/// One name fewer, and one more, than each form of a directory holds.
#[test]
fn directories_change_their_form_where_the_kernel_expects_it() {
    let image = Image::new(256, 2048, 60_000);
    // Entries of 264 bytes: seven in a block, and 251 blocks below one root.
    let long = |n: usize| format!("{n:0255}");
    for (name, count) in [("one", 7), ("two", 8), ("root", 251 * 7), ("more", 251 * 7 + 1)] {
        let mut layer = tar();
        for n in 0..count {
            let path = format!("{name}/{}", long(n));
            layer = layer.pax(&[("path", path.as_bytes())]).file("f", "");
        }
        image.layer(&layer.end()).checked();
    }
    assert_eq!(image.mounted().len(), 2 + 4 + 7 + 8 + 251 * 14 + 1);
    let mounted = Mounted::new(&image.path, "rw");
    for name in ["one", "two", "root", "more"] {
        for n in 0..300 {
            fs::write(mounted.0.join(name).join(format!("new{n}")), "x").unwrap();
            let gone = mounted.0.join(name).join(long(n));
            assert_eq!(
                fs::remove_file(gone).is_ok(),
                n < 7 || (name == "two" && n == 7) || name.len() == 4
            );
        }
    }
    drop(mounted);
    image.checked();
}

/// More subdirectories than a link count can say, taken away again.
#[test]
fn a_directory_with_too_many_subdirectories_to_count() {
    let image = Image::new(512, 4096, 80_000);
    let mut layer = tar();
    for n in 0..65_000 {
        layer = layer.dir(format!("d/{n}"));
    }
    image.layer(&layer.end()).checked();
    image.layer(&tar().file("d/.wh.5", "").end()).checked();
    let mut layer = tar();
    for n in 0..500 {
        layer = layer.file(format!("d/.wh.{}", n * 3), "");
    }
    image.layer(&layer.end()).checked();
}

/// Files in five pieces and more, and over each copy of the superblock.
#[test]
fn files_in_pieces() {
    for block in [2048u32, 4096] {
        let image = Image::new(1100, block, 0);
        let body: Vec<u8> = (0..300u32 << 20).map(|at| (at >> 8).to_le_bytes()[0]).collect();
        image.layer(&tar().file("large", &body).end()).checked();
        drop(body);
        let mut layer = tar();
        for parts in [4usize, 5, 339, 340, 341, 670] {
            let step = 3 * block as usize;
            let map: Vec<String> = (0..parts).map(|n| format!("{},{block}", n * step)).collect();
            let (size, map) = ((parts * step).to_string(), map.join(","));
            let bytes = vec![b'p'; parts * block as usize];
            let name = format!("parts{parts}");
            let sparse: [(&str, &[u8]); 6] = [
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.name", name.as_bytes()),
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.numblocks", parts.to_string().leak().as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ];
            layer = layer.pax(&sparse).file("x", bytes);
        }
        image.layer(&layer.end()).checked();
        assert_eq!(image.mounted().len(), 2 + 1 + 6);
        let whiteouts = tar().file(".wh.large", "").file(".wh.parts670", "").end();
        image.layer(&whiteouts).checked();
    }
}

/// What ext4 cannot hold is a named refusal, and what does not fit says how much is missing.
#[test]
fn what_does_not_fit_is_told() {
    let kind = |image: &Image, layer: Tar| match image.try_layer(&layer.end()) {
        Err(ImageError::Layer(error)) => (error.kind(), error.to_string()),
        other => panic!("{other:?}"),
    };
    for (block, fits) in [(2048, 2047), (4096, 4095)] {
        let target = "t".repeat(fits);
        let image = Image::new(32, block, 0);
        image.layer(&tar().pax(&[("linkpath", target.as_bytes())]).sym("s", "x").end()).checked();
        assert_eq!(image.mounted().len(), 3);
    }
    let image = Image::new(32, 2048, 0);
    let target = "t".repeat(2048);
    let (said, text) = kind(&image, tar().pax(&[("linkpath", target.as_bytes())]).sym("s", "x"));
    assert!(
        said == Kind::Refused && text.contains("a link's target of more than 2047 bytes: 2048"),
        "{text}"
    );
    let image = Image::new(32, 2048, 0);
    let value = vec![b'v'; 3000];
    let (said, text) = kind(&image, tar().pax(&[("SCHILY.xattr.user.a", &value)]).file("f", ""));
    assert!(
        said == Kind::Refused && text.contains("user.a") && text.contains("2012 bytes left"),
        "{text}"
    );
    let image = Image::new(32, 4096, 0);
    let (said, text) = kind(&image, tar().file("f", vec![b'f'; 32 << 20]));
    assert!(said == Kind::NoSpace && text.contains("33554432"), "{text}");
    let image = Image::new(32, 4096, 128);
    let mut many = tar();
    for n in 0..200 {
        many = many.file(n.to_string(), "");
    }
    let (said, text) = kind(&image, many);
    assert!(said == Kind::NoSpace && text.contains("inodes"), "{text}");
}

/// All inodes but none more, and nearly all blocks.
#[test]
fn a_full_image_is_clean() {
    let image = Image::new(32, 4096, 128);
    let free = 128 - 11;
    let mut all = tar();
    for n in 0..free {
        all = all.file(n.to_string(), "x");
    }
    image.layer(&all.end()).checked();
    assert_eq!(image.mounted().len(), 2 + free);
    let image = Image::new(64, 4096, 0);
    let fits = (1..64).rev().find(|mib| {
        let body = vec![b'b'; mib << 20];
        let fresh = Image::new(64, 4096, 0);
        fresh.try_layer(&tar().file("b", body).end()).is_ok()
    });
    let body = vec![b'b'; fits.unwrap() << 20];
    image.layer(&tar().file("b", body).end()).checked();
}

/// A guest does all that guests do: it writes, removes, grows, fills, and has it checked.
#[test]
fn a_guest_uses_what_was_written() {
    for block in [2048, 4096] {
        let image = Image::new(128, block, 0);
        image.layer(&base()).layer(&upper()).checked();
        let mounted = Mounted::new(&image.path, "rw");
        let at = |name: String| mounted.0.join(name);
        for n in 0..3000 {
            fs::write(at(format!("d6/new{n}")), n.to_string()).unwrap();
        }
        for n in (0..3000).step_by(2) {
            fs::remove_file(at(format!("d6/new{n}"))).unwrap();
        }
        fs::rename(at("d7".into()), at("d8/moved".into())).unwrap();
        fs::remove_dir_all(at("d9".into())).unwrap();
        fs::hard_link(at("linked".into()), at("d6/linked".into())).unwrap();
        drop(mounted);
        image.checked();
        run("truncate", &["-s".as_ref(), "1280M".as_ref(), image.path.as_os_str()]);
        run("e2fsck", &["-fp".as_ref(), image.path.as_os_str()]);
        run("resize2fs", &[image.path.as_os_str()]);
        image.checked();
        let mounted = Mounted::new(&image.path, "rw");
        let fill = File::create(mounted.0.join("fill")).unwrap();
        let piece = vec![b'f'; 1 << 20];
        let mut full = false;
        for n in 0..2000u64 {
            full = fill.write_all_at(&piece, n << 20).is_err();
            if full {
                break;
            }
        }
        assert!(full);
        drop(fill);
        fs::remove_file(mounted.0.join("fill")).unwrap();
        drop(mounted);
        image.checked();
        let mut optimize = std::process::Command::new("e2fsck");
        let out = optimize.args(["-fyD"]).arg(&image.path).output().unwrap();
        assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
        image.checked();
    }
}

/// The whole program, in its child and behind every wall.
#[test]
fn the_program_makes_extends_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let call = |args: &[&str], input: &[u8]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
        program.args(args).arg("--image").arg(&path);
        fs::write(dir.path().join("in"), input).unwrap();
        program.stdin(File::open(dir.path().join("in")).unwrap());
        let out = program.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(call(&[], &base()).0, Some(100));
    assert_eq!(call(&["--blank", "64M"], b"").0, Some(0));
    let again = call(&["--blank", "64M"], b"");
    assert!(again.0 == Some(100) && again.1.contains("not empty"), "{again:?}");
    let first = call(&["--sandbox", "require"], &base());
    assert!(first.0 == Some(0), "{first:?}");
    let second = call(&["--sandbox", "require"], &gzip(&upper()));
    assert!(second.0 == Some(0), "{second:?}");
    let same = Image::new(64, 4096, 0);
    same.layer(&base()).layer(&upper());
    assert!(same.bytes() == fs::read(&path).unwrap());
    let cut = call(&[], &base()[..300_000]);
    assert_eq!(cut.0, Some(100), "{cut:?}");
    let after = call(&[], &upper());
    assert!(after.0 == Some(100) && after.1.contains("begun in it and has not ended"), "{after:?}");
    let small = dir.path().join("small");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
    let out = program.args(["--blank", "1M", "--image"]).arg(&small).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(100) && text.contains("the least is"), "{text}");
    assert!(!Path::new(&small).exists());
}

/// What is made over an image of before holds nothing of it, least of all what a guest has written there.
#[test]
fn a_blank_over_an_image_brings_nothing_back() {
    for block in [2048, 4096] {
        let image = Image::new(64, 4096, 8000);
        let mounted = Mounted::new(&image.path, "rw");
        for n in 0..3000 {
            fs::write(mounted.0.join(n.to_string()), format!("secret {n}")).unwrap();
        }
        drop(mounted);
        let geometry = Geometry::new(64 * MIB, block, 0, 1 << 20).unwrap();
        make_blank(&image.file(), geometry, Before::Image).unwrap();
        image.checked().layer(&base()).checked();
        let mounted = Mounted::new(&image.path, "rw");
        for n in 0..3000 {
            fs::write(mounted.0.join(n.to_string()), "new").unwrap();
        }
        drop(mounted);
        image.checked();
    }
}

/// A copy that was cut short is no parent, whatever is missing of it.
#[test]
fn a_copy_that_was_cut_short_is_refused() {
    let image = Image::new(64, 4096, 0);
    image.layer(&base());
    for bytes in [63 * MIB, 40 * MIB, MIB, 5, 0] {
        image.file().set_len(bytes).unwrap();
        let before = image.bytes();
        match image.try_layer(&upper()) {
            Err(ImageError::Unfit(Unfit::Short { have, .. })) => assert_eq!(have, bytes),
            other => panic!("{bytes}: {other:?}"),
        }
        assert!(before == image.bytes());
    }
}

/// Who else has the file: another of us, or a loop device; and what is given for two things at once.
#[test]
fn the_program_takes_an_image_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let call = |args: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
        program.arg("--image").arg(&path).args(args).stdin(std::process::Stdio::null());
        let out = program.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for tiny in ["0", "1", "4095", "1M"] {
        let said = call(&["--blank", tiny]);
        assert!(said.0 == Some(100) && said.1.contains("the least is"), "{tiny}: {said:?}");
    }
    assert_eq!(call(&["--blank", "64M"]).0, Some(0));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.lock().unwrap();
    let said = call(&[]);
    assert!(said.0 == Some(111) && said.1.contains("another process is writing it"), "{said:?}");
    drop(file);
    let mounted = Mounted::new(&path, "ro");
    let said = call(&[]);
    assert!(said.0 == Some(100) && said.1.contains("attached to /dev/loop"), "{said:?}");
    drop(mounted);
    let before = fs::read(&path).unwrap();
    let same = path.to_str().unwrap();
    for args in [&["--manifest", same][..], &["--tree-digest", "--manifest", same]] {
        let said = call(args);
        assert!(said.0 == Some(100) && said.1.contains("names the image itself"), "{said:?}");
        assert!(before == fs::read(&path).unwrap());
    }
    // What could not be made leaves an empty file, and the same command may come again.
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=16k", "tmpfs", small.to_str().unwrap()].map(AsRef::as_ref),
    );
    let full = small.join("image");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
    let out = program.args(["--blank", "64M", "--image"]).arg(&full).output().unwrap();
    let len = fs::metadata(&full).map_or(0, |file| file.len());
    run("umount", &[small.as_os_str()]);
    assert_eq!((out.status.code(), len), (Some(111), 0), "{out:?}");
}
