//! A daemon in a state directory that becomes full, or with a store that does: what makes room works by way of it, and
//! one starts there.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, log_of};

const A: &str = "s3://bucket/a/";
const FULL: &str = "the state directory is full";

/// A mount that goes when the test does.
struct Mount<'h>(&'h Host<'h>);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.state()).status());
    }
}

fn fill(host: &Host<'_>, inodes: bool) {
    let dir = host.state().join("ballast");
    // Where there is no inode left, there is one to take the bytes already.
    drop(fs::create_dir_all(&dir));
    if inodes {
        let from = fs::read_dir(&dir).unwrap().count();
        let _full = (from..).find(|n| File::create_new(dir.join(n.to_string())).is_err());
        return;
    }
    let mut file = File::options().create(true).append(true).open(dir.join("bytes")).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn in_a_full_state_directory_it_looks_makes_room_and_says_why_it_does_nothing_else() {
    let bench = Bench::small();
    for inodes in [false, true] {
        let host = bench.host("host");
        host.wipe();
        fs::create_dir_all(host.state()).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=8m,nr_inodes=90", "none"];
        assert!(Command::new("mount").args(options).arg(host.state()).status().unwrap().success());
        let _mount = Mount(&host);
        for name in ["a-1", "a-2", "a-3"] {
            host.ok(&["activate", A, "--name", name]);
        }
        let mut daemon = Daemon::start(&host, &[]);
        fill(&host, inodes);
        for again in [false, true] {
            if again {
                daemon.stop();
                daemon = Daemon::start(&host, &[]);
                // It gave some back as it stopped.
                fill(&host, inodes);
            }
            for words in [&["ls"][..], &["runs"], &["events"], &["show", "a-2"]] {
                let (code, said) = host.said(words);
                assert_eq!(code, 0, "{inodes} {again} {words:?}: {said}");
            }
            let (code, said) = host.said(&["health"]);
            assert!(code == 1 && said.contains(FULL), "{inodes} {again}: {code}: {said}");
            let (code, said) = host.said(&["ensure", "s3://bucket/b/"]);
            assert!(code == 111 && said.contains(FULL), "{inodes} {again}: {code}: {said}");
            let name = if again { "a-2" } else { "a-1" };
            for words in [&["deactivate", name][..], &["rm", name], &["gc"]] {
                let (code, said) = host.said(words);
                assert_eq!(code, 0, "{inodes} {again} {words:?}: {said}; {}", log_of(&host));
            }
        }
        fs::remove_dir_all(host.state().join("ballast")).unwrap();
        host.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
        daemon.stop();
        host.check();
        host.check_tree("b-1", 4);
        host.check_tree("a-3", 3);
    }
}

fn fill_both(host: &Host<'_>) {
    fill(host, false);
    fill(host, true);
}

/// A host with activations, whose state directory has a small file system of its own.
fn small<'h>(host: &'h Host<'h>, names: usize) -> Mount<'h> {
    host.wipe();
    fs::create_dir_all(host.state()).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=8m,nr_inodes=140", "none"];
    assert!(Command::new("mount").args(options).arg(host.state()).status().unwrap().success());
    let mount = Mount(host);
    for number in 0..names {
        host.ok(&["activate", A, "--name", &format!("a-{number}")]);
    }
    mount
}

/// Whatever becomes free is taken by others, after each command.
#[test]
fn where_others_take_all_that_becomes_free_it_makes_room_as_often_as_it_is_asked() {
    const NAMES: usize = 20;
    let bench = Bench::small();
    let host = bench.host("host");
    let _mount = small(&host, NAMES);
    let mut daemon = Daemon::start(&host, &[]);
    for number in 0..NAMES {
        if number == NAMES / 2 {
            daemon.stop();
            daemon = Daemon::start(&host, &[]);
        }
        let name = format!("a-{number}");
        for words in [&["deactivate", &name][..], &["rm", &name], &["gc"]] {
            fill_both(&host);
            let (code, said) = host.said(words);
            assert_eq!(code, 0, "{words:?}: {said}; {}", log_of(&host));
        }
    }
    use std::os::unix::fs::MetadataExt as _;
    let kept =
        fs::metadata(host.state().join("reserve/room")).map_or(0, |room| room.blocks() * 512);
    assert!(kept >= 256 << 10, "{kept} bytes are still kept back");
    fs::remove_dir_all(host.state().join("ballast")).unwrap();
    host.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    daemon.stop();
    host.check();
    host.check_tree("b-1", 4);
}

/// What was kept back is gone, too: nobody waits for a run that cannot be begun without a word.
#[test]
fn where_nothing_is_kept_back_either_it_says_so_at_once() {
    let bench = Bench::small();
    let host = bench.host("host");
    let _mount = small(&host, 3);
    let daemon = Daemon::start(&host, &[]);
    // One that takes what is kept back as soon as a run is to be begun.
    fill_both(&host);
    for entry in fs::read_dir(host.state().join("reserve")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fill_both(&host);
    for words in [&["rm", "a-0"][..], &["deactivate", "a-1"], &["gc"]] {
        let begun = Instant::now();
        let (code, said) = host.said(words);
        assert!(code == 111 && said.contains(FULL), "{words:?}: {code}: {said}");
        assert!(said.contains("Delete something else there"), "{words:?}: {said}");
        assert!(said.contains(host.state().to_str().unwrap()), "{words:?}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{words:?}: {:?}", begun.elapsed());
    }
    fs::remove_dir_all(host.state().join("ballast")).unwrap();
    for words in [&["rm", "a-0"][..], &["rm", "a-1"], &["rm", "a-2"], &["gc"]] {
        let (code, said) = host.said(words);
        assert!(code == 0 || said.contains("no activation"), "{words:?}: {code}: {said}");
    }
    daemon.stop();
    host.check();
}

/// A full store is no reason to begin no work: what makes room in it has to go on.
#[test]
fn with_a_full_store_it_makes_room_and_says_which_is_full() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.wipe();
    fs::create_dir_all(host.store()).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=2m,mode=0755", "none"];
    let store = host.store();
    assert!(Command::new("mount").args(options).arg(&store).status().unwrap().success());
    let _mount = StoreMount(&host);
    for name in ["a-1", "a-2"] {
        host.ok(&["activate", A, "--name", name]);
    }
    let mut daemon = Daemon::start(&host, &[]);
    let fill = || {
        let file = File::options().create(true).append(true).open(store.join("ballast"));
        let mut file = file.unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    };
    for name in ["a-1", "a-2"] {
        fill();
        let (code, said) = host.said(&["ensure", "s3://bucket/b/"]);
        assert!(code == 111 && said.contains("the store is full"), "{code}: {said}");
        assert!(said.contains("no_space"), "{said}");
        for words in [&["ls"][..], &["deactivate", name], &["rm", name], &["gc"]] {
            fill();
            let (code, said) = host.said(words);
            assert_eq!(code, 0, "{words:?}: {said}; {}", log_of(&host));
        }
        // And one that starts there.
        daemon.stop();
        fill();
        daemon = Daemon::start(&host, &[]);
    }
    fs::remove_file(store.join("ballast")).unwrap();
    host.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    daemon.stop();
    host.check();
    host.check_tree("b-1", 4);
}

/// The mount at a host's store, which goes when the test does.
struct StoreMount<'h>(&'h Host<'h>);

impl Drop for StoreMount<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.store()).status());
    }
}
