//! What our own reader says of an ext4 image is what the kernel shows of it, mounted. Needs root and loop
//! devices.

mod images;

use std::fs::{self, File};
use std::path::Path;

use images::{Mounted, blank, fill};
use unpack::{
    Error, FlawKind, Limits, Root, image_manifest, image_manifest_replayed, tree_manifest,
};

/// The tree of `image`, read by us and mounted; every line has to be the same.
fn equal(image: &Path) -> usize {
    let (mut ours, mut kernels) = (Vec::new(), Vec::new());
    let read = image_manifest(&File::open(image).unwrap(), &mut ours, &Limits::default());
    let read = read.unwrap_or_else(|error| panic!("{}: {error:?}", image.display()));
    let mounted = Mounted::new(image, "ro");
    let root = Root::open(&mounted.0).unwrap();
    let shown = tree_manifest(&root, &mut [], &mut kernels).unwrap();
    let lines = |text: &[u8]| {
        text.split(|&b| b == b'\n').map(|l| String::from_utf8_lossy(l).into_owned()).collect()
    };
    let (ours, kernels): (Vec<String>, Vec<String>) = (lines(&ours), lines(&kernels));
    for (ours, kernels) in ours.iter().zip(&kernels) {
        assert_eq!(ours, kernels, "{}", image.display());
    }
    assert_eq!(ours.len(), kernels.len());
    assert_eq!(read, shown);
    ours.len()
}

/// What the program says of an image, behind all of its walls, and of a directory.
fn told(of: &str, path: &Path) -> String {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
    let sandbox = if of == "--image" { "require" } else { "on" };
    program.args(["--tree-digest", "--sandbox", sandbox, of]).arg(path);
    let out = program.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_program_says_one_digest_of_an_image_and_of_its_mount() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "content").unwrap();
    blank(&image, 8, "-t ext4", Some(&tree));
    let said = told("--image", &image);
    assert!(said.starts_with("sha256:") && said.len() == 7 + 64 + 1, "{said}");
    let mounted = Mounted::new(&image, "ro");
    assert_eq!(said, told("--root", &mounted.0));
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"));
    let out =
        program.args(["--tree-digest", "--image"]).arg(tree.join("a/b/file")).output().unwrap();
    assert_eq!(out.status.code(), Some(100));
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains("refused image: foreign: there is no ext4 superblock"), "{text}");
}

#[test]
fn a_tree_that_mke2fs_copied_is_read_as_it_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    for block in [1024, 2048, 4096] {
        let tree = dir.path().join(format!("tree-{block}"));
        fs::create_dir(&tree).unwrap();
        fill(&tree, 2000, block);
        let image = dir.path().join(format!("{block}.img"));
        blank(&image, 100, &format!("-t ext4 -b {block} -N 8192"), Some(&tree));
        assert!(equal(&image) > 2400);
    }
}

#[test]
fn a_tree_that_the_kernel_made_is_read_as_it_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    for block in [1024, 2048, 4096] {
        let image = dir.path().join(format!("{block}.img"));
        blank(&image, 100, &format!("-t ext4 -b {block} -N 40000"), None);
        let mounted = Mounted::new(&image, "rw");
        fill(&mounted.0, 20_000, block);
        drop(mounted);
        assert!(equal(&image) > 20_400);
    }
}

/// Every way in which mke2fs can lay things out, or leave them out.
#[test]
fn whatever_the_features_are_the_tree_is_the_mounted_one() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for options in [
        "-t ext2 -b 1024 -I 128",
        "-t ext3 -b 4096",
        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
        "-t ext4 -b 1024 -O ^metadata_csum,^64bit,^extents -g 1024",
        "-t ext4 -b 4096 -O bigalloc -C 16384",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 1024",
        "-t ext4 -b 2048 -O sparse_super2,^resize_inode,^flex_bg",
        "-t ext4 -b 4096 -O metadata_csum_seed,orphan_file -I 512",
        "-t ext4 -b 4096 -O ^has_journal,^dir_index,mmp,^sparse_super,^resize_inode",
        "-t ext4 -b 1024 -O ^large_file,^huge_file,^extra_isize -I 1024",
    ] {
        blank(&image, 120, options, None);
        let mounted = Mounted::new(&image, "rw");
        // Without a block of attributes that is filled to its end: not all of them have room for it.
        fill(&mounted.0, 300, 1024);
        drop(mounted);
        assert!(equal(&image) > 700, "{options}");
    }
}

/// Some descriptors in the one table and the others in their groups, as in a file system that was grown beyond
/// what its table had room for.
#[test]
fn a_grown_image_is_read_as_it_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    blank(&image, 120, "-t ext4 -b 1024 -g 1024 -O ^resize_inode,meta_bg", None);
    // The first block of descriptors has the same place in both.
    images::fuzzer::debugfs(&image, &["set_super_value first_meta_bg 1"]);
    let mounted = Mounted::new(&image, "rw");
    fill(&mounted.0, 1000, 1024);
    drop(mounted);
    assert!(equal(&image) > 1400);
}

/// Blocks that no kernel with pages of 4 KiB mounts: the tree is that of a file system with smaller ones.
#[test]
fn blocks_larger_than_pages_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir(&tree).unwrap();
    fill(&tree, 3000, 1024);
    let lines = |block: u32| {
        blank(&image, 200, &format!("-t ext4 -b {block} -N 8192"), Some(&tree));
        let mut lines = Vec::new();
        image_manifest(&File::open(&image).unwrap(), &mut lines, &Limits::default())
            .unwrap_or_else(|error| panic!("{block}: {error}"));
        let lines: Vec<String> =
            lines.split(|&b| b == b'\n').map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        // The root and lost+found are as new as the image.
        let made = ["{\"path\":\".\"", "{\"path\":\"lost+found\""];
        lines.into_iter().filter(|line| !made.iter().any(|made| line.starts_with(made))).collect()
    };
    let small: Vec<String> = lines(4096);
    assert!(small.len() > 3300);
    for block in [8192, 65536] {
        assert_eq!(lines(block), small, "{block}");
    }
}

/// Cut while it was mounted: what the kernel has in the journal alone is replayed in memory, and the image stays as
/// it is. Whoever does not ask for that is told.
#[test]
fn a_journal_that_was_not_replayed_counts_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    for (n, options) in [
        "-t ext4 -b 1024",
        "-t ext4 -b 4096",
        "-t ext4 -b 2048 -O ^metadata_csum",
        "-t ext4 -b 1024 -O ^64bit,^metadata_csum",
        "-t ext3 -b 1024",
    ]
    .into_iter()
    .enumerate()
    {
        let (image, cut) = (dir.path().join(format!("{n}")), dir.path().join(format!("{n}-cut")));
        blank(&image, 120, options, None);
        let mounted = Mounted::new(&image, "rw,data=journal");
        fill(&mounted.0, 1000, 1024);
        // What is freed and used again is revoked.
        fs::remove_dir_all(mounted.0.join("deep")).unwrap();
        for n in 0..50 {
            // A block that begins as the journal's own do is escaped.
            let escaped = [&[0xc0, 0x3b, 0x39, 0x98][..], &vec![n; 5000]].concat();
            fs::write(mounted.0.join(format!("after-{n}")), escaped).unwrap();
        }
        // It is committed, and its places are written to some time later. (`sync` would write to them at once.)
        File::open(mounted.0.join("after-49")).and_then(|file| file.sync_all()).unwrap();
        fs::copy(&image, &cut).unwrap();
        drop(mounted);
        let before = fs::read(&cut).unwrap();
        match image_manifest(&File::open(&cut).unwrap(), &mut std::io::sink(), &Limits::default()) {
            Err(Error::Image { flaw }) => assert_eq!(flaw.kind, FlawKind::Journal, "{flaw:?}"),
            other => panic!("{options}: it was not cut: {other:?}"),
        }
        let mut lines = Vec::new();
        let file = File::open(&cut).unwrap();
        image_manifest_replayed(&file, &mut lines, &Limits::default()).unwrap();
        assert!(fs::read(&cut).unwrap() == before, "{options}: it was written to");
        // Without what is in the journal it is another tree, or none.
        let old = dir.path().join("old");
        fs::copy(&cut, &old).unwrap();
        images::fuzzer::debugfs(&old, &["feature ^needs_recovery"]);
        let mut without = Vec::new();
        let read = image_manifest(&File::open(&old).unwrap(), &mut without, &Limits::default());
        assert!(read.is_err() || without != lines, "{options}: nothing was in the journal alone");
        // The next mount replays it on the device.
        drop(Mounted::new(&cut, "rw,noatime"));
        assert!(equal(&cut) > 1300, "{options}");
        let mut after = Vec::new();
        image_manifest(&file, &mut after, &Limits::default()).unwrap();
        assert!(lines == after, "{options}: the next mount shows another tree");
    }
}
