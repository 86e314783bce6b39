//! Images that become larger without a mount: equal bytes for equal layers and doublings, the same tree as before,
//! and no word of e2fsck or the kernel against it. Random stacks that grow are in `stacks.rs`. Needs root and
//! loop devices.

mod forge;
mod images;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use forge::tar;
use images::{Mounted, run};
use unpack::{
    Applied, Before, Geometry, ImageError, Kind, Limits, Root, Unfit, apply_image, geometry,
    grow_image, image_manifest_strict, layers, make_blank, tree_manifest,
};

const MIB: u64 = 1 << 20;

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn of(geometry: Geometry) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create_new(&path).unwrap();
        file.set_len(geometry.bytes()).unwrap();
        let image = Image { _dir: dir, path };
        make_blank(&image.file(), geometry, Before::Unknown).unwrap();
        image
    }

    /// A blank.
    fn new(mib: u64, block: u32, inodes: u64, align: u32) -> Image {
        Image::of(Geometry::new(mib * MIB, block, inodes, align).unwrap())
    }

    fn copy(&self) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        run("cp", &["--sparse=always".as_ref(), self.path.as_os_str(), path.as_os_str()]);
        Image { _dir: dir, path }
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn try_layer(&self, layer: &[u8]) -> Result<Applied, ImageError> {
        apply_image(layer, &self.file(), &Limits::default(), None)
    }

    fn layer(&self, layer: &[u8]) -> &Image {
        self.try_layer(layer).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        self
    }

    /// As a caller grows it; the tree and the count of layers stay.
    fn grow(&self) -> &Image {
        let (before, had) = (self.manifest(), layers(&self.file()).unwrap());
        let to = geometry(&self.file()).unwrap().doubled().unwrap();
        self.file().set_len(to.bytes()).unwrap();
        assert_eq!(grow_image(&self.file()).unwrap(), to);
        assert_eq!(geometry(&self.file()).unwrap(), to);
        assert_eq!(layers(&self.file()).unwrap(), had);
        assert_eq!(self.manifest(), before);
        self.checked()
    }

    /// e2fsck has no word against it.
    fn checked(&self) -> &Image {
        run("e2fsck", &["-fn".as_ref(), self.path.as_os_str()]);
        self
    }

    fn manifest(&self) -> String {
        let mut ours = Vec::new();
        image_manifest_strict(&self.file(), &mut ours, &Limits::default()).unwrap();
        String::from_utf8(ours).unwrap()
    }

    /// The blocks that are not zeros.
    fn blocks(&self) -> BTreeMap<u64, Vec<u8>> {
        let (file, mut all, mut at) = (self.file(), BTreeMap::new(), 0);
        let len = file.metadata().unwrap().len();
        let mut block = [0; 4096];
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap_or(len);
            for start in (data / 4096 * 4096..hole).step_by(4096) {
                let bytes = usize::try_from(len - start).unwrap().min(4096);
                file.read_exact_at(&mut block[..bytes], start).unwrap();
                if block[..bytes] != [0; 4096][..bytes] {
                    all.insert(start, block[..bytes].to_vec());
                }
            }
            at = hole;
        }
        all
    }

    fn mounted(&self, options: &str) -> Mounted {
        Mounted::new(&self.path, options)
    }
}

/// Where two images differ.
fn same(one: &Image, two: &Image, what: &str) {
    let lens = [one, two].map(|image| image.file().metadata().unwrap().len());
    assert_eq!(lens[0], lens[1], "{what}");
    let (one, two) = (one.blocks(), two.blocks());
    let other: Vec<u64> = one
        .keys()
        .chain(two.keys())
        .filter(|&at| one.get(at) != two.get(at))
        .map(|at| at / 1024)
        .collect();
    assert!(other.is_empty(), "{what}: at KiB {other:?}");
}

fn doubled(mut of: Geometry, times: u32) -> Geometry {
    for _ in 0..times {
        of = of.doubled().unwrap();
    }
    of
}

/// Bytes that are no others', `mib` of them in files of at most 16 MiB.
fn filling(name: &str, mib: u64) -> Vec<u8> {
    let mut layer = tar();
    for n in 0..mib.div_ceil(16) {
        let len = usize::try_from((mib - n * 16).min(16) * MIB).unwrap();
        let mut state = n + 1 + u64::from(name.as_bytes()[0]);
        let body: Vec<u8> = (0..len / 8)
            .flat_map(|_| {
                state =
                    state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                state.to_le_bytes()
            })
            .collect();
        layer = layer.file(format!("{name}/{n}"), body);
    }
    layer.end()
}

/// Some directories, files and links.
fn base() -> Vec<u8> {
    let mut base = tar();
    for d in 0..20u8 {
        base = base.dir(format!("d{d}"));
        for f in 0..10 {
            let body = vec![b'a' + d; (usize::from(d) * 997 + f * 4099) % 70_000];
            base = base.file(format!("d{d}/f{f}"), body);
        }
        base = base.sym(format!("d{d}/slow"), "x/".repeat(90));
    }
    base.hard("linked", "d3/f3").end()
}

fn upper() -> Vec<u8> {
    tar()
        .file("d1/.wh.f1", "")
        .file("d2/.wh..wh..opq", "")
        .file("d2/own", "own")
        .file("d3/f3", "replaced")
        .hard("again", "linked")
        .end()
}

/// Sizes with whole and partial last groups; ends on borders and between them.
const SHAPES: [(u64, u32, u32); 9] = [
    (17, 4096, 1 << 16),
    (33, 2048, 1 << 20),
    (64, 4096, 1 << 20),
    (64, 2048, 1 << 16),
    (130, 4096, 1 << 20),
    (257, 2048, 1 << 16),
    (1025, 4096, 1 << 16),
    (4096, 2048, 1 << 20),
    (5001, 4096, 1 << 20),
];

/// A blank that has grown is what a blank of that geometry is, to the last byte.
#[test]
fn a_grown_blank_is_a_blank_of_its_geometry() {
    for (mib, block, align) in SHAPES {
        let made = Geometry::new(mib * MIB, block, 0, align).unwrap();
        let image = Image::of(made);
        let mut to = made;
        while let Ok(next) = to.doubled() {
            to = next;
            image.grow();
            same(&image, &Image::of(to), &format!("{mib} {block} {align} {}", to.doublings));
        }
        assert!(to.doublings >= 3, "{mib} {block} {align}: {}", to.doublings);
        let before = image.blocks();
        match grow_image(&image.file()) {
            Err(Unfit::Geometry(refusal)) => {
                assert!(refusal.to_string().contains(&to.bytes().to_string()), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
        assert!(before == image.blocks());
    }
}

/// Equal layers and equal doublings are equal bytes, and where one of the two was is seen in nothing else.
#[test]
fn bytes_follow_from_layers_and_doublings() {
    for (block, align) in [(2048, 1 << 16), (4096, 1 << 20)] {
        let run = || {
            let image = Image::new(48, block, 2000, align);
            image.layer(&base()).grow().layer(&upper()).grow().layer(&filling("f", 100));
            image
        };
        let (one, two) = (run(), run());
        same(&one, &two, "again");
        one.checked();
        // Failures on the way leave nothing.
        let image = Image::new(48, block, 2000, align);
        image.layer(&base()).grow().layer(&upper());
        let parent = image.copy();
        let full = image.try_layer(&filling("f", 100)).unwrap_err();
        assert!(full.is_full(), "{full:?}");
        parent.grow().layer(&filling("f", 100));
        same(&one, &parent, "after a failure");
    }
}

/// After each layer of a few it grows, and the next one fills what is new.
#[test]
fn layers_fill_what_is_new() {
    for (mib, block, align, first) in
        [(40, 2048, 1 << 16, 1), (40, 4096, 1 << 20, 3), (70, 2048, 1 << 20, 1)]
    {
        let image = Image::new(mib, block, 3000, align);
        image.layer(&base());
        for n in 1..first {
            image.layer(&tar().file(format!("d{n}/more"), vec![b'm'; 70_000]).end());
        }
        for (n, name) in (1..).zip(["a", "b", "c"]) {
            image.grow();
            // Half of what there is now, so that it lies in the new part too.
            image.layer(&filling(name, (mib << n) * 2 / 5)).checked();
            let mut many = tar();
            for file in 0..500 {
                many = many.file(format!("{name}{file}"), name);
            }
            image.layer(&many.end()).checked();
        }
        image.layer(&tar().file("a/.wh.0", "").file("b/.wh..wh..opq", "").end()).checked();
        let ours = image.manifest();
        let mounted = image.mounted("ro");
        let mut kernels = Vec::new();
        tree_manifest(&Root::open(&mounted.0).unwrap(), &mut [], &mut kernels).unwrap();
        assert!(ours.as_bytes() == kernels, "{mib} {block} {first}");
    }
}

/// The largest layer that fits, and none larger, in what has grown; all inodes and none more.
#[test]
fn a_full_grown_image_is_clean() {
    for block in [2048, 4096] {
        let image = Image::new(140, block, 256, 1 << 16);
        image.layer(&base()).grow();
        let (least, most) = (2 * 140 - 80, 2 * 140);
        // One that fits and one that does not, until they are neighbours.
        let (mut fits, mut not) = (least, most);
        while fits + 1 < not {
            let mib = u64::midpoint(fits, not);
            let fresh = image.copy();
            match fresh.try_layer(&filling("f", mib)) {
                Ok(_) => fits = mib,
                Err(error) if error.is_full() => not = mib,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(fits > least && not < most, "{fits}");
        image.layer(&filling("f", fits)).checked();
        let free = u64::from(geometry(&image.file()).unwrap().inodes_per_group);
        let mut layer = tar();
        for n in 0..free * 20 {
            layer = layer.file(n.to_string(), "");
        }
        match image.copy().try_layer(&layer.end()) {
            Err(error) if error.is_full() => assert!(error.to_string().contains("inodes")),
            other => panic!("{other:?}"),
        }
    }
}

/// The kernel takes a grown image as any: a mount for writing changes the superblock and nothing else, and then it
/// is written, filled, emptied, grown by resize2fs without a mount and with one.
#[test]
fn a_guest_uses_what_has_grown() {
    for (mib, block, align, times) in
        [(64, 4096, 1 << 20, 2), (96, 2048, 1 << 16, 3), (130, 4096, 1 << 16, 1)]
    {
        let image = Image::new(mib, block, 0, align);
        image.layer(&base());
        for _ in 0..times {
            image.grow();
        }
        image.layer(&filling("f", mib)).layer(&upper()).checked();
        let sealed = image.blocks();
        drop(image.mounted("rw"));
        let mounted = image.blocks();
        let keys = sealed.keys().chain(mounted.keys());
        let other: Vec<_> = keys.filter(|&at| sealed.get(at) != mounted.get(at)).collect();
        assert!(other.iter().all(|&&at| at == 0), "{other:?}");

        let guest = image.mounted("rw");
        for n in 0..2000 {
            fs::write(guest.0.join(format!("d6/new{n}")), n.to_string()).unwrap();
        }
        fill(&guest, (2 * mib) << times);
        drop(guest);
        image.checked();
        run("truncate", &["-s".as_ref(), "2G".as_ref(), image.path.as_os_str()]);
        run("e2fsck", &["-fp".as_ref(), image.path.as_os_str()]);
        run("resize2fs", &[image.path.as_os_str()]);
        let guest = image.checked().mounted("rw");
        fill(&guest, 2100);
        drop(guest);
        image.checked();
        match image.try_layer(&upper()) {
            Err(ImageError::Unfit(Unfit::Changed)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Fills all that is free and removes that again.
fn fill(guest: &Mounted, most: u64) {
    let path = guest.0.join("fill");
    let fill = File::create(&path).unwrap();
    let piece = vec![b'f'; 1 << 20];
    let full = (0..most).any(|n| fill.write_all_at(&piece, n << 20).is_err());
    assert!(full);
    drop(fill);
    fs::remove_file(path).unwrap();
}

/// What cannot grow is refused by its name, and not a byte of it changes.
#[test]
fn what_cannot_grow_is_left_as_it_is() {
    let ours = Image::new(64, 4096, 0, 1 << 20);
    ours.layer(&base());
    let flip = |at: u64| {
        let image = ours.copy();
        image.file().set_len(128 * MIB).unwrap();
        let mut byte = [0];
        image.file().read_exact_at(&mut byte, at).unwrap();
        image.file().write_all_at(&[byte[0] ^ 1], at).unwrap();
        image
    };
    let cut = ours.copy();
    cut.file().set_len(50 * MIB).unwrap();
    let almost = ours.copy();
    almost.file().set_len(128 * MIB - 1).unwrap();
    let begun = ours.copy();
    begun.try_layer(&base()[..300_000]).unwrap_err();
    begun.file().set_len(128 * MIB).unwrap();
    let mounted = ours.copy();
    drop(mounted.mounted("rw"));
    mounted.file().set_len(128 * MIB).unwrap();
    // The bitmap of the only group lies behind the table and the room for it.
    let (mut descriptor, mut low) = ([0; 4], 0);
    ours.file().read_exact_at(&mut descriptor, 4096).unwrap();
    low += u64::from(u32::from_le_bytes(descriptor));
    type Wanted = fn(&Unfit) -> bool;
    let cases: [(Image, Wanted); 8] = [
        (
            ours.copy(),
            |unfit| matches!(unfit, Unfit::NoRoom { bytes, have } if *bytes == 128 * MIB && *have == 64 * MIB),
        ),
        (almost, |unfit| matches!(unfit, Unfit::NoRoom { .. })),
        (cut, |unfit| matches!(unfit, Unfit::Short { .. })),
        (begun, |unfit| matches!(unfit, Unfit::Unsealed)),
        (mounted, |unfit| matches!(unfit, Unfit::Changed)),
        (flip(920), |unfit| matches!(unfit, Unfit::Changed)),
        (flip(4096 + 0x0c), |unfit| matches!(unfit, Unfit::Changed)),
        (flip(low * 4096 + 100), |unfit| matches!(unfit, Unfit::Changed)),
    ];
    for (n, (image, wanted)) in cases.into_iter().enumerate() {
        let before = image.blocks();
        match grow_image(&image.file()) {
            Err(unfit) if wanted(&unfit) => {}
            other => panic!("{n}: {other:?}"),
        }
        assert!(before == image.blocks(), "{n} was changed");
    }
}

/// Inodes of whatever was behind the file system do not come back.
#[test]
fn what_was_behind_it_does_not_come_back() {
    let image = Image::new(64, 2048, 0, 1 << 16);
    image.layer(&base());
    let clean = image.copy();
    image.file().set_len(128 * MIB).unwrap();
    image.file().write_all_at(&vec![0xa5; 64 << 20], 64 * MIB).unwrap();
    image.grow();
    clean.grow();
    let mut many = tar();
    for n in 0..12_000 {
        many = many.file(n.to_string(), "");
    }
    let many = many.end();
    image.layer(&many).checked();
    clean.layer(&many).checked();
    assert_eq!(image.manifest(), clean.manifest());
}

/// A pool that has no room, or a disk, is no full image.
#[test]
fn a_full_disk_is_no_full_image() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let at = small.as_os_str();
    let args = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"].map(AsRef::as_ref);
    run("mount", &[&args[..], &[at]].concat());
    let path = small.join("image");
    let of = Geometry::new(64 * MIB, 4096, 0, 1 << 20).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(of.bytes()).unwrap();
    let made = make_blank(&file, of, Before::Unknown);
    let layer = apply_image(&*filling("f", 20), &file, &Limits::default(), None);
    drop(file);
    run("umount", &[at]);
    made.unwrap();
    match layer {
        Err(ImageError::Layer(error)) => {
            assert_eq!((error.kind(), error.is_full()), (Kind::NoSpace, false), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    let image = Image::new(32, 4096, 0, 1 << 20);
    match image.try_layer(&filling("f", 40)) {
        Err(ImageError::Layer(error)) => {
            assert_eq!((error.kind(), error.is_full()), (Kind::NoSpace, true), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// A small layer changes as few pieces of a pool as it can: one more than before where it reaches the new part.
#[test]
fn a_small_layer_costs_four_pieces_at_most() {
    let image = Image::new(64, 4096, 0, 1 << 20);
    image.layer(&base()).grow().layer(&filling("f", 70));
    for n in 0..4 {
        let before = image.blocks();
        image.layer(&tar().file(format!("d{n}/small"), "small").end());
        let after = image.blocks();
        let keys = before.keys().chain(after.keys());
        let mut pieces: Vec<u64> =
            keys.filter(|&at| before.get(at) != after.get(at)).map(|at| at / MIB).collect();
        pieces.sort_unstable();
        pieces.dedup();
        assert!(pieces.len() <= 4, "{n}: {pieces:?}");
    }
}

/// The program lengthens the file, and takes a device that is long enough.
#[test]
fn the_program_grows_files_and_devices() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let call = |args: &[&str], to: &[&std::ffi::OsStr]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
        let out = program.args(args).args(to).stdin(std::process::Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let image: &[&std::ffi::OsStr] = &["--image".as_ref(), path.as_os_str()];
    let len = || fs::metadata(&path).unwrap().len();
    let said = call(&["--grow"], image);
    assert_eq!(said.0, Some(100), "{said:?}");
    assert_eq!(call(&["--blank", "64M"], image).0, Some(0));
    for wrong in [&["--grow", "--blank", "64M"][..], &["--grow", "--manifest", "/dev/null"]] {
        let said = call(wrong, image);
        assert!(said.0 == Some(100) && said.1.contains("--grow goes with neither"), "{said:?}");
    }
    let said = call(&["--grow"], image);
    assert!(said.0 == Some(0) && said.1.contains("a larger file system: 32768 blocks"), "{said:?}");
    assert_eq!(len(), 128 * MIB);
    for times in 2..=6u32 {
        assert_eq!(call(&["--grow", "--quiet"], image), (Some(0), String::new()));
        assert_eq!(len(), (64 * MIB) << times);
    }
    let said = call(&["--grow"], image);
    assert!(said.0 == Some(100) && said.1.contains("cannot be doubled again"), "{said:?}");
    assert_eq!(len(), (64 * MIB) << 6);
    run("e2fsck", &["-fn".as_ref(), path.as_os_str()]);
    // What is damaged keeps its length.
    let damaged = File::options().write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    drop(damaged);
    assert_eq!(call(&["--blank", "64M"], image).0, Some(0));
    File::options().write(true).open(&path).unwrap().write_all_at(b"x", 900).unwrap();
    let said = call(&["--grow"], image);
    assert_eq!((said.0, len()), (Some(100), 64 * MIB), "{said:?}");
}

/// A device whose bytes are those of a file, from a loop device.
struct Loop(String);

impl Loop {
    fn new(image: &std::path::Path) -> Loop {
        let out = std::process::Command::new("losetup").args(["-f", "--show"]).arg(image).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{out:?}");
        Loop(String::from_utf8(out.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        match std::process::Command::new("losetup").args(["-d", &self.0]).status() {
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn the_program_grows_a_device_that_is_long_enough() {
    let image = Image::new(64, 4096, 0, 1 << 20);
    image.layer(&base());
    let call = |args: &[&str]| {
        let device = Loop::new(&image.path);
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
        let program = program.args(["--grow", "--device", &device.0]).args(args);
        let out = program.stdin(std::process::Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let said = call(&[]);
    assert!(said.0 == Some(100) && said.1.contains("--parent-sealed"), "{said:?}");
    let said = call(&["--parent-sealed"]);
    assert!(said.0 == Some(100) && said.1.contains("134217728 bytes"), "{said:?}");
    let same_of = image.copy();
    image.file().set_len(128 * MIB).unwrap();
    assert_eq!(call(&["--parent-sealed"]).0, Some(0));
    image.checked();
    same(&image, same_of.grow(), "a device and a file");
    assert_eq!(doubled(Geometry::new(64 * MIB, 4096, 0, 1 << 20).unwrap(), 1), {
        geometry(&image.file()).unwrap()
    });
}
