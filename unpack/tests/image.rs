//! What our own reader says of an ext4 image is what the kernel shows of it, mounted. Needs root and loop
//! devices.

mod images;

use std::fs::{self, File};
use std::path::Path;

use images::{Mounted, blank, fill};
use unpack::{Limits, Root, image_manifest, tree_manifest};

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
        blank(&image, 100, &format!("-t ext4 -b {block}"), Some(&tree));
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
