//! A store's file system that is full: what makes room works, looking works, and all else names the store and
//! what to do. Where state directory and store are on one file system, too.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{A, B, Disk, Of, Small, fill_at, images, prepared};
use crate::bench::{Host, names};
use crate::damage::Mount;

/// What is said of it.
pub(super) const FULL: &str = "the store is full";

/// A copy of `one` under this name, whose store is on a small file system together with the caller's files.
pub(super) fn small<'b>(one: &Host<'b>, name: &str) -> Small<'b> {
    let host = one.copy_to(name);
    let (disk, store, kept) = (host.dir.join("disk"), host.store(), host.dir.join("kept"));
    // A host of which nothing is there yet has none.
    fs::create_dir_all(&store).unwrap();
    fs::rename(&store, &kept).unwrap();
    fs::create_dir_all(&disk).unwrap();
    let tmpfs = Mount::new(&["-t", "tmpfs", "-o", "size=4m,nr_inodes=600", "none"], &disk);
    for (from, to) in [(kept, "store"), (host.dir.join("out"), "out")] {
        let to = disk.join(to);
        fs::create_dir(&to).unwrap();
        if from.exists() {
            let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(&to).status();
            assert!(copied.unwrap().success());
        }
    }
    fs::create_dir(&store).unwrap();
    // What fills it is not in the store itself.
    let bound = Mount::new(&["--bind", disk.join("store").to_str().unwrap()], &store);
    Small { host, disk: Disk::Store, mounts: vec![tmpfs, bound] }
}

#[test]
fn looking_and_making_room_work_in_a_full_store_and_all_else_says_so() {
    let bench = images();
    let one = prepared(&bench);
    for of in [Of::Bytes, Of::Inodes, Of::Both] {
        let small = small(&one, "host");
        let host = &small.host;
        small.fill(of);
        let before = host.rows("SELECT name, state FROM activations");
        for words in
            [&["ls"][..], &["df"], &["show", "a-1"], &["runs", "-a"], &["events"], &["metrics"]]
        {
            let (code, said) = host.said(words);
            assert_eq!(code, 0, "{of:?} {words:?}: {said}");
        }
        let health = host.command(&["health"]).output().unwrap();
        let found: Value = serde_json::from_slice(&health.stdout).unwrap();
        let checks = found["checks"].to_string();
        assert!(health.status.code() == Some(1) && checks.contains(FULL), "{of:?}: {found}");
        // Where there is neither, either is true.
        let what = match of {
            Of::Bytes => "no bytes left",
            Of::Inodes => "no inodes left",
            Of::Both => "left",
        };
        for words in [
            &["ensure", B][..],
            &["activate", B, "--name", "b-1"],
            &["activate", A, "--name", "a-4", "--no-fetch"],
            &["fork", "a-3", "f-1"],
            &["snapshot", "a-3", "p"],
        ] {
            small.fill(of);
            let (code, said) = host.said(words);
            let store = host.store().display().to_string();
            let named = [FULL, &store, what, "no_space", "`orchestrate gc`"];
            assert_eq!(code, 111, "{of:?} {words:?}: {said}");
            for text in named {
                assert!(said.contains(text), "{of:?} {words:?}: {text:?} in {said}");
            }
        }
        assert_eq!(host.rows("SELECT name, state FROM activations"), before);
        // Of a bundle there is nothing, or an empty directory.
        small.fill(of);
        let bundle = small.out().join("bundle").display().to_string();
        let (code, said) = host.said(&["bundle", "a-1", &bundle, "--", "/bin/sh"]);
        assert!(
            code == 111 && said.contains(&bundle) && said.contains(what),
            "{of:?}: {code}: {said}"
        );
        assert!(names(Path::new(&bundle)).is_empty(), "{of:?}: {:?}", names(Path::new(&bundle)));
        // One after the other, though nobody else makes room and what becomes free is taken.
        for words in [
            &["pin", A][..],
            &["unpin", A],
            &["deactivate", "a-1"],
            &["rm", "a-1"],
            &["rm", "a-3"],
            &["rm", "s3://bucket/garbage/"],
            &["recover"],
            &["gc"],
            &["rm", "a-2"],
            &["rm", A],
            &["gc"],
        ] {
            small.fill(of);
            let (code, said) = host.said(words);
            assert!(code == 0, "{of:?} {words:?}: {code}: {said}");
        }
        assert_eq!(host.rows("SELECT count(*) FROM activations"), ["0"]);
        small.make_room();
        host.ok(&["activate", B, "--name", "b-1"]);
        host.check();
        host.check_tree("b-1", 4);
    }
}

/// As most hosts have it: one file system for both.
#[test]
fn where_state_and_store_share_a_full_file_system_room_is_made_all_the_same() {
    let bench = images();
    let one = prepared(&bench);
    for of in [Of::Bytes, Of::Inodes, Of::Both] {
        let host = one.copy_to("kept");
        let both = bench.host("both");
        both.wipe();
        fs::create_dir_all(&both.dir).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=8m,nr_inodes=600", "none"];
        let _mount = Mount::new(&options, &both.dir);
        let mut copy = Command::new("cp");
        copy.args(["-a", "--sparse=never"]).arg(host.dir.join(".")).arg(&both.dir);
        assert!(copy.status().unwrap().success());
        let ballast = both.dir.join("ballast");
        for words in [&["ls"][..], &["df"], &["show", "a-1"]] {
            fill_at(&ballast, of);
            let (code, said) = both.said(words);
            assert_eq!(code, 0, "{of:?} {words:?}: {said}");
        }
        for words in [&["ensure", B][..], &["activate", A, "--name", "a-4", "--no-fetch"]] {
            fill_at(&ballast, of);
            let (code, said) = both.said(words);
            assert!(code == 111 && said.contains(super::FULL), "{of:?} {words:?}: {code}: {said}");
        }
        for words in
            [&["rm", "a-1"][..], &["deactivate", "a-2"], &["gc"], &["rm", "a-2"], &["rm", "a-3"]]
        {
            fill_at(&ballast, of);
            let (code, said) = both.said(words);
            assert!(code == 0, "{of:?} {words:?}: {code}: {said}");
        }
        fs::remove_dir_all(&ballast).unwrap();
        both.ok(&["activate", B, "--name", "b-1"]);
        both.check();
    }
}
