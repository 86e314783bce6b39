//! What somebody else has put into a directory store, or in the place of ours, is never followed, waited for,
//! written through or removed; and a store that is not there is not judged by what is missing in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn host(bench: &Bench) -> Host<'_> {
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["activate", A, "--name", "a-2"]);
    host.ok(&["ensure", B]);
    host
}

/// A directory of somebody's, with content.
fn precious(bench: &Bench) -> PathBuf {
    let dir = bench.path("precious");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("data"), "somebody's").unwrap();
    dir
}

fn id_of(host: &Host<'_>, name: &str) -> String {
    let sql = format!("SELECT id FROM activations WHERE name = '{name}'");
    host.rows(&sql)[0].trim().to_owned()
}

#[test]
fn nothing_is_removed_through_a_link_in_a_volumes_place() {
    let bench = Bench::small();
    let host = host(&bench);
    let (kept, volumes) = (precious(&bench), host.store().join("volumes"));
    let moved = volumes.join(id_of(&host, "a-1"));
    fs::remove_dir_all(&moved).unwrap();
    symlink(&kept, &moved).unwrap();
    host.others_go_on();
    // The row goes, and the name is free; what is not ours stays.
    host.ok(&["rm", "a-1"]);
    host.ok(&["activate", A, "--name", "a-1"]);
    host.check_tree("a-1", 3);

    // A sealed layer, and an id that was never ours.
    let layer = host.rows("SELECT max(id) FROM volumes")[0].trim().to_owned();
    fs::rename(volumes.join(&layer), bench.path("layer")).unwrap();
    symlink(&kept, volumes.join(&layer)).unwrap();
    symlink(&kept, volumes.join("4000")).unwrap();
    assert_eq!(host.said(&["verify"]).0, 1, "a link is no layer");
    host.command(&["rm", B]).output().unwrap();
    host.command(&["gc"]).output().unwrap();
    host.command(&["gc", "--purge-foreign", "4000"]).output().unwrap();
    assert!(fs::symlink_metadata(volumes.join("4000")).is_err(), "asked for by its number");
    assert_eq!(fs::read_to_string(kept.join("data")).unwrap(), "somebody's");
    host.check_tree("a-2", 3);
}

#[test]
fn what_is_no_directory_in_a_volumes_place_is_told_and_removed_by_rm() {
    let bench = Bench::small();
    let host = host(&bench);
    let place = host.store().join("volumes").join(id_of(&host, "a-1"));
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "somebody's").unwrap();
    let (code, text) = host.said(&["health"]);
    assert!(code == 1 && text.contains("a-1"), "{code}: {text}");
    host.others_go_on();
    host.ok(&["rm", "a-1"]);
    assert_eq!(fs::read_to_string(&place).unwrap(), "somebody's");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.check_tree("a-1", 3);
}

#[test]
fn files_links_and_pipes_where_ours_are_to_be_are_not_touched_or_waited_for() {
    let bench = Bench::small();
    let host = host(&bench);
    let (store, kept) = (host.store(), precious(&bench));
    let next: u32 = host.rows("SELECT next_id FROM meta")[0].trim().parse().unwrap();
    let place = |folder: &str, more: u32| store.join(folder).join((next + more).to_string());
    fs::write(place("notes", 0), "somebody's").unwrap();
    symlink(kept.join("new"), place("made", 1)).unwrap();
    symlink(kept.join("data"), place("notes", 2)).unwrap();
    nix::unistd::mkfifo(&place("notes", 3), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(place("made", 4)).unwrap();
    host.others_go_on();
    host.ok(&["activate", A, "--name", "a-3"]);
    host.ok(&["rm", "a-3"]);
    assert_eq!(fs::read_to_string(place("notes", 0)).unwrap(), "somebody's");
    assert!(!kept.join("new").exists(), "made through a link");
    assert_eq!(fs::read_to_string(kept.join("data")).unwrap(), "somebody's");
    for (folder, more) in [("made", 1), ("notes", 2), ("notes", 3), ("made", 4)] {
        assert!(fs::symlink_metadata(place(folder, more)).is_ok(), "{folder} {more} is gone");
    }

    // In the place of one that is there, and of what is kept beside the registry.
    let note = store.join("notes").join(id_of(&host, "a-1"));
    fs::remove_file(&note).unwrap();
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let marker = host.state().join("store.json");
    fs::remove_file(&marker).unwrap();
    nix::unistd::mkfifo(&marker, nix::sys::stat::Mode::S_IRWXU).unwrap();
    host.others_go_on();
    host.ok(&["rebuild", "-n"]);
}

#[test]
fn a_store_whose_volumes_are_not_there_condemns_nothing() {
    let bench = Bench::small();
    let host = host(&bench);
    let (volumes, away) = (host.store().join("volumes"), bench.path("away"));
    fs::rename(&volumes, &away).unwrap();
    fs::create_dir(&volumes).unwrap();
    for words in [&["verify"][..], &["activate", B, "--name", "b-1"]] {
        let (code, text) = host.said(words);
        assert!(code == 111 && text.contains("is it mounted"), "{words:?}: {code}: {text}");
    }
    fs::remove_dir_all(&volumes).unwrap();
    fs::rename(&away, &volumes).unwrap();
    host.ok(&["recover"]);
    assert_eq!(host.ok(&["verify"])["intact"], true);
    host.check_tree("a-1", 3);
    host.others_go_on();
}

#[test]
fn links_that_were_lost_are_made_anew() {
    let bench = Bench::small();
    let host = host(&bench);
    fs::remove_dir_all(host.store().join("active")).unwrap();
    host.ok(&["recover"]);
    host.check_tree("a-1", 3);
    host.check();
}
