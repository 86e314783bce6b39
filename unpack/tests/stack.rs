//! The digest of a whole tree from what was hashed while layers were applied: equal to that of the
//! file system, without reading the files again. Needs root, since layers have owners.

use std::fs::{self, File};
use std::io::{BufReader, Cursor};

use unpack::{Limits, Root, apply_with, tree_digest, tree_manifest};

fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        match content.strip_prefix("-> ") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
            None => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// Applies to `root`; returns the layer's manifest.
fn applied(root: &Root, files: &[(&str, &str)]) -> Vec<u8> {
    assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E just test-native");
    let mut manifest = Vec::new();
    let layer = layer(files);
    apply_with(Cursor::new(layer), root, &Limits::default(), Some(&mut manifest)).unwrap();
    manifest
}

#[test]
fn two_manifests_give_the_digest_of_the_tree_and_of_what_it_must_hold() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let first = [
        ("a/x", "one"),
        ("a/y\n\"\\", "two"),
        ("a.b", "three"),
        ("a/z", "-> a/x"),
        ("gone", "four"),
        ("later/z", "five"),
    ];
    let below_layer = applied(&root, &first);
    let mut below = Vec::new();
    let digest = tree_manifest(&root, &mut [&mut &below_layer[..]], &mut below).unwrap();
    assert_eq!(digest, tree_digest(&root).unwrap());

    let second = [("a/x", "ONE"), (".wh.gone", ""), ("new", "six"), ("b", "-> a.b")];
    let above = applied(&root, &second);
    let mut whole = Vec::new();
    let mut again = || {
        whole.clear();
        tree_manifest(&root, &mut [&mut &above[..], &mut &below[..]], &mut whole).unwrap()
    };
    let digest = again();
    assert_eq!(digest, tree_digest(&root).unwrap());

    // Not read, but known: what the disk says now is not asked.
    let touch = |name: &str, text: &str| {
        let path = dir.path().join(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, text).unwrap();
        let times = fs::FileTimes::new().set_modified(modified);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    };
    touch("later/z", "FIVE");
    assert_eq!(again(), digest);
    assert_ne!(tree_digest(&root).unwrap(), digest);
    // Of another size it is read; so is everything without a manifest.
    touch("later/z", "longer");
    assert_eq!(again(), tree_digest(&root).unwrap());
    let damaged = BufReader::new(&b"{\"path\":\"a\",\"type\":\"dir\"}\nnot a line\n"[..]);
    let mut damaged = damaged;
    let none = tree_manifest(&root, &mut [&mut damaged], &mut Vec::new()).unwrap();
    assert_eq!(none, tree_digest(&root).unwrap());
}

/// Who took a child over can write a manifest of anything: no line of it is read without end.
#[test]
fn a_manifest_line_without_end_is_a_broken_child() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let told = tree_manifest(&root, &mut [&mut endless], &mut Vec::new()).unwrap_err();
    assert_eq!(told.kind(), unpack::Kind::Died, "{told}");
}
