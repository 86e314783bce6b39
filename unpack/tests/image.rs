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
