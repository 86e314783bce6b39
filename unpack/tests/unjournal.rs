//! Images that lose their journal: no word of e2fsck or the kernel against them, the same tree, and what the journal
//! had is free. Needs root and loop devices.

mod forge;
mod images;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use forge::tar;
use images::{Mounted, run};
use unpack::{
    Before, Geometry, ImageError, Limits, Unfit, apply_image, drop_journal, grow_image,
    image_manifest_strict, make_blank,
};

const MIB: u64 = 1 << 20;
/// Blocks of a journal.
const JOURNAL: u64 = 1024;

/// A blank with a layer, and with it grown once where `grown` says so.
fn image(at: &Path, (mib, block, align): (u64, u32, u32), grown: bool) -> PathBuf {
    let geometry = Geometry::new(mib * MIB, block, 0, align).unwrap();
    let path = at.join(format!("image-{mib}-{block}-{grown}"));
    let file = File::create_new(&path).unwrap();
    file.set_len(2 * geometry.bytes()).unwrap();
    make_blank(&file, geometry, Before::Unknown).unwrap();
    let file = open(&path);
    let layer = tar().dir("d").file("d/f", vec![7; 70_000]).sym("d/s", "f").end();
    apply_image(&layer[..], &file, &Limits::default(), None).unwrap();
    if grown {
        let to = geometry.doubled().unwrap();
        file.set_len(to.bytes()).unwrap();
        grow_image(&file).unwrap();
    }
    path
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn manifest(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    image_manifest_strict(&open(path), &mut out, &Limits::default()).unwrap();
    out
}

fn checked(path: &Path) {
    run("e2fsck", &["-fn".as_ref(), path.as_os_str()]);
}

/// A line of `dumpe2fs -h`.
fn says(path: &Path, line: &str) -> Option<String> {
    let out = Command::new("dumpe2fs").arg("-h").arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn number(path: &Path, line: &str) -> u64 {
    says(path, line).unwrap().parse().unwrap()
}

#[test]
fn what_is_left_is_a_file_system_without_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    // Journals that lie in one group, and in several.
    for shape in
        [(17, 4096, 1 << 16), (33, 2048, 1 << 20), (257, 2048, 1 << 16), (1025, 4096, 1 << 20)]
    {
        for grown in [false, true] {
            let path = image(dir.path(), shape, grown);
            let (free, tree) = (number(&path, "Free blocks"), manifest(&path));
            let overhead = number(&path, "Overhead clusters");
            drop_journal(&open(&path)).unwrap();
            checked(&path);
            assert_eq!(manifest(&path), tree, "{shape:?} {grown}");
            assert_eq!(number(&path, "Free blocks"), free + JOURNAL, "{shape:?} {grown}");
            assert_eq!(number(&path, "Overhead clusters"), overhead - JOURNAL);
            let features = says(&path, "Filesystem features").unwrap();
            assert!(!features.contains("has_journal"), "{features}");

            let mounted = Mounted::new(&path, "rw");
            fs::write(mounted.0.join("d/new"), vec![1; 3 << 20]).unwrap();
            fs::remove_file(mounted.0.join("d/f")).unwrap();
            drop(mounted);
            checked(&path);
            assert_eq!(number(&path, "Overhead clusters"), overhead - JOURNAL, "the kernel agrees");
        }
    }
}

#[test]
fn no_layer_goes_on_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), (33, 4096, 1 << 20), false);
    drop_journal(&open(&path)).unwrap();
    let before = fs::read(&path).unwrap();
    let layer = tar().file("x", "x").end();
    let said = apply_image(&layer[..], &open(&path), &Limits::default(), None);
    assert!(matches!(said, Err(ImageError::Unfit(Unfit::Changed))), "{said:?}");
    let said = drop_journal(&open(&path));
    assert!(matches!(said, Err(Unfit::Changed)), "{said:?}");
    assert!(fs::read(&path).unwrap() == before, "it was written to");
}
