//! The manifest of a tree from behind the walls. The proof of each wall is in the `tests` crate, which runs it in
//! the VM too.
//!
//! The child is this program again, so it has its own main.

mod images;

use std::fs;
use std::process::ExitCode;

use nix::sys::stat::{Mode, SFlag, mknod};
use unpack::{Limits, Root, Stop, Walls};

fn main() -> ExitCode {
    unpack::sandbox::child_entry();
    if std::env::args().any(|arg| arg == "--list") {
        println!("walls: test");
        return ExitCode::SUCCESS;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "walls are about what root can do: run as root (sudo -E cargo test -p unpack)"
    );
    manifest_in_the_sandbox();
    stopped_in_the_sandbox();
    image_in_the_sandbox();
    difference_in_the_sandbox();
    ExitCode::SUCCESS
}

/// One entry again and again, without end.
struct Endless(Vec<u8>, usize);

impl std::io::Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        for byte in &mut *to {
            *byte = self.0[self.1];
            self.1 = (self.1 + 1) % self.0.len();
        }
        Ok(to.len())
    }
}

/// Who asks to stop is heard while the child is at work, in an apply and in the manifest of a tree.
fn stopped_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_path("d/").unwrap();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    let root = Root::open(dir.path()).unwrap();
    let max = u64::MAX >> 1;
    let far = std::time::Duration::from_secs(600);
    let limits = Limits {
        entries_max: max,
        bytes_max: max,
        blob_bytes_max: max,
        time_max: far,
        processor_max: far,
        ..Limits::default()
    };
    let begun = std::time::Instant::now();
    let soon = Stop::new(move || begun.elapsed().as_millis() > 300);
    let layer = Endless(header.as_bytes().to_vec(), 0);
    let stopped = unpack::sandbox::apply_with(layer, &root, &limits, None, &soon).unwrap_err();
    assert!(
        matches!(&stopped, unpack::Error::Stream { source } if source.to_string().contains("asked to stop")),
        "{stopped:?}"
    );
    println!("stopped {} ms after it was asked", begun.elapsed().as_millis() - 300);
    assert!(begun.elapsed() < far / 10, "it was heard by the clock of the layer");
    for number in 0..2000 {
        fs::write(dir.path().join(number.to_string()), "x").unwrap();
    }
    let at_once = Stop::new(|| true);
    let stopped = unpack::sandbox::tree_manifest(&root, &[], None, &limits, &at_once);
    // It may have been done before anybody looked.
    assert!(stopped.is_ok() || matches!(stopped, Err(unpack::Error::Stream { .. })));
    assert!(unpack::tree_digest_until(&root, &at_once).is_err());
    let copy = tempfile::tempdir().unwrap();
    assert!(unpack::clone_tree(&root, &Root::open(copy.path()).unwrap(), &at_once).is_err());
    assert!(unpack::remove_tree_until(&root, &at_once).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2001);
}

/// The manifest of a tree is the same from behind the walls: hard links go to the first of their
/// names, nodes that must not be opened have their attributes, and a known content is believed.
fn manifest_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join("root").join(name);
    fs::create_dir_all(at("b/deep")).unwrap();
    fs::create_dir(at("a")).unwrap();
    fs::write(at("b/deep/first"), "one").unwrap();
    fs::hard_link(at("b/deep/first"), at("a/other")).unwrap();
    fs::hard_link(at("b/deep/first"), at("z")).unwrap();
    fs::write(at("b.file"), "two").unwrap();
    mknod(&at("p"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o644), 0).unwrap();
    let root = Root::open(&at("")).unwrap();
    let limits = Limits { walls: Walls::Require, ..Limits::default() };
    let (out, never) = (tempfile::tempfile().unwrap(), Stop::default());
    let made = unpack::sandbox::tree_manifest(&root, &[], Some(&out), &limits, &never).unwrap();
    assert_eq!(made, (unpack::tree_digest(&root).unwrap(), true));
    let mut text = String::new();
    std::io::Seek::rewind(&mut &out).unwrap();
    std::io::Read::read_to_string(&mut &out, &mut text).unwrap();
    let paths: Vec<&str> = text.lines().filter_map(|line| line.split('"').nth(3)).collect();
    let expected = [".", "a", "a/other", "b", "b/deep", "b/deep/first", "b.file", "p", "z"];
    assert_eq!(paths, expected);
    let links = text.lines().filter(|line| line.ends_with("\"link\":\"a/other\"}")).count();
    assert_eq!(links, 2, "{text}");
    // What a manifest knows is not read again.
    std::io::Seek::rewind(&mut &out).unwrap();
    fs::write(at("b.file"), "TWO").unwrap();
    let again = unpack::sandbox::tree_manifest(&root, &[&out], None, &limits, &never).unwrap();
    assert!(!again.1);
    assert_ne!(again.0, unpack::tree_digest(&root).unwrap());
    let few = Limits { time_max: std::time::Duration::ZERO, ..limits };
    let late = unpack::sandbox::tree_manifest(&root, &[], None, &few, &never).unwrap_err();
    assert_eq!(late.kind(), unpack::Kind::TimedOut, "{late}");
}

/// An image is read behind all of its walls, with and without a manifest; what is none is refused by name there too.
fn image_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/d")).unwrap();
    fs::write(dir.path().join("tree/d/file"), "content").unwrap();
    let path = dir.path().join("image");
    images::blank(&path, 8, "-t ext4 -b 1024", Some(&dir.path().join("tree")));
    let image = fs::File::open(&path).unwrap();
    let limits = Limits { walls: Walls::Require, ..Limits::default() };
    let (out, never) = (tempfile::tempfile().unwrap(), Stop::default());
    let made =
        unpack::sandbox::image_manifest(&image, false, &[], Some(&out), &limits, &never).unwrap();
    let mut lines = Vec::new();
    assert_eq!(made, (unpack::image_manifest(&image, &mut lines, &limits).unwrap(), true));
    let mut text = Vec::new();
    std::io::Seek::rewind(&mut &out).unwrap();
    std::io::Read::read_to_end(&mut &out, &mut text).unwrap();
    assert_eq!(text, lines);
    let (digest, written) =
        unpack::sandbox::image_manifest(&image, false, &[], None, &limits, &never).unwrap();
    assert_eq!((digest, written), (made.0, false));
    // What a manifest says of a path's content is taken for it, and the file is not read.
    let told = |text: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, text).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        unpack::sandbox::image_manifest(&image, false, &[&file], None, &limits, &never).unwrap().0
    };
    assert_eq!(told(&text), made.0);
    assert_eq!(told(b""), made.0, "what none knows is read");
    let line = String::from_utf8(text.clone()).unwrap();
    let at = line.find("sha256").unwrap() + 9;
    let mut lie = text.clone();
    lie[at] = if lie[at] == b'0' { b'1' } else { b'0' };
    assert_ne!(told(&lie), made.0);
    let none = tempfile::tempfile().unwrap();
    match unpack::sandbox::image_manifest(&none, false, &[], None, &limits, &never) {
        Err(unpack::Error::Image { flaw }) => assert_eq!(flaw.kind, unpack::FlawKind::Foreign),
        other => panic!("{other:?}"),
    }
    let few = Limits { time_max: std::time::Duration::ZERO, ..limits };
    let late = unpack::sandbox::image_manifest(&image, false, &[], None, &few, &never).unwrap_err();
    assert_eq!(late.kind(), unpack::Kind::TimedOut, "{late}");
}

/// A layer of what differs is the same from behind all walls, of images and of directories; a child that cannot
/// pass it on, or is asked to stop, ends with a word.
fn difference_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (tree, text) in [("base", "old"), ("upper", "new")] {
        fs::create_dir_all(at(tree).join("d")).unwrap();
        fs::write(at(tree).join("d/file"), text).unwrap();
        fs::write(at(tree).join("d").join(tree), vec![b'x'; 3 << 20]).unwrap();
        let node = at(tree).join("fifo");
        mknod(&node, SFlag::S_IFIFO, Mode::from_bits_truncate(0o644), 0).unwrap();
        images::blank(&at(&format!("{tree}.img")), 16, "-t ext4 -b 1024", Some(&at(tree)));
    }
    let limits = Limits { walls: Walls::Require, ..Limits::default() };
    let never = Stop::default();
    let image = |tree: &str| fs::File::open(at(&format!("{tree}.img"))).unwrap();
    let (mut walled, mut bare) = (Vec::new(), Vec::new());
    let (upper, base) = (image("upper"), image("base"));
    let here = unpack::diff_images(&upper, &base, false, &mut bare, &limits).unwrap();
    let there =
        unpack::sandbox::diff_images(&upper, &base, false, &mut walled, &limits, &never).unwrap();
    assert!(walled == bare && here == there, "{here:?} and {there:?}");
    let (upper, base) = (Root::open(&at("upper")).unwrap(), Root::open(&at("base")).unwrap());
    let (mut walled, mut bare) = (Vec::new(), Vec::new());
    let here = unpack::diff_trees(&upper, &base, &mut bare, &limits).unwrap();
    let there = unpack::sandbox::diff_trees(&upper, &base, &mut walled, &limits, &never).unwrap();
    assert!(walled == bare && here == there, "{here:?} and {there:?}");
    assert!((here.added, here.removed) == (1, 1) && here.bytes > 3 << 20, "{here:?}");
    let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
    let error = unpack::sandbox::diff_trees(&upper, &base, &mut full, &limits, &never);
    assert_eq!(error.unwrap_err().kind(), unpack::Kind::NoSpace);
    let small = Limits { bytes_max: 1 << 20, ..limits.clone() };
    let mut out = Vec::new();
    let error = unpack::sandbox::diff_trees(&upper, &base, &mut out, &small, &never).unwrap_err();
    assert!(error.kind() == unpack::Kind::Limit && out.is_empty(), "{error}");
    let at_once = Stop::new(|| true);
    let stopped = unpack::sandbox::diff_trees(&upper, &base, &mut out, &limits, &at_once);
    // It may have been done before anybody looked.
    assert!(stopped.is_ok() || matches!(stopped, Err(unpack::Error::Stream { .. })));
    let none = tempfile::tempfile().unwrap();
    match unpack::sandbox::diff_images(&image("upper"), &none, false, &mut out, &limits, &never) {
        Err(unpack::Error::Image { flaw }) => assert_eq!(flaw.kind, unpack::FlawKind::Foreign),
        other => panic!("{other:?}"),
    }
}
