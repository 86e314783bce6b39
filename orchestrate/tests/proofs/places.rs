//! A directory store in a place that somebody else can change, or that somebody else holds: refused with what
//! to do, or none of our business; never followed, and never waited for without an end.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, Host, names};

const A: &str = "s3://bucket/a/";
const NOBODY: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn refused(host: &Host<'_>, word: &str, told: &str) {
    for words in [&["ensure", A][..], &["recover"], &["gc"]] {
        let (code, said) = host.said(words);
        assert!(code == 100 && said.contains(word), "{told}: {words:?}: {code}: {said}");
    }
}

/// Nothing mends it but hands, so nobody is told to try again.
#[test]
fn what_is_no_directory_is_told_with_what_it_is() {
    let bench = Bench::small();
    let path = |name: &str| bench.path(name);
    fs::write(path("file"), "hi").unwrap();
    symlink(path("file"), path("to-file")).unwrap();
    symlink("nowhere", path("to-nowhere")).unwrap();
    let good = bench.host("good");
    for (at, is) in [
        ("file", "/file is a file, not a directory"),
        ("file/below", "/file is a file, not a directory"),
        ("to-file", "/to-file is a symbolic link to a file, not a directory"),
        ("to-nowhere", "/to-nowhere is a symbolic link that leads nowhere, not a directory"),
    ] {
        let (state, store) = (good.state(), good.store());
        for (state, store, by) in
            [(&path(at), &store, "another --state"), (&state, &path(at), "another --store")]
        {
            for words in [&["ensure", A][..], &["ls"], &["recover"], &["rebuild"], &["df"]] {
                let ran = good.command_on(state, store, words).output().unwrap();
                let said = String::from_utf8(ran.stderr).unwrap();
                let told = format!("{at}, {by}, {words:?}: {said}");
                assert_eq!(ran.status.code(), Some(100), "{told}");
                assert!(said.contains(is) && said.contains(by), "{told}");
            }
            // Who only looks says so as well.
            let ran = good.command_on(state, store, &["health"]).output().unwrap();
            let said = String::from_utf8(ran.stdout).unwrap();
            assert!(said.contains(is) && said.contains(by), "{said}");
        }
        assert!(!good.state().exists() && !good.store().exists(), "{at}: something was made");
    }
}

/// The files of a store itself, in whose place there is something else.
#[test]
fn a_file_of_the_store_that_is_none_is_told_shortly() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    for name in ["veneer-store", "transaction"] {
        let file = host.store().join(name);
        let good = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        for (what, is) in [("link", "a symbolic link"), ("dir", "a directory"), ("fifo", "a pipe")]
        {
            match what {
                "link" => symlink("/etc/hostname", &file).unwrap(),
                "dir" => fs::create_dir(&file).unwrap(),
                _ => nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            }
            let (code, said) = host.said(&["ls"]);
            assert_eq!(code, 100, "{name} {what}: {said}");
            for part in [name, is, "remove it", "orchestrate rebuild"] {
                assert!(said.contains(part), "{part}: {said}");
            }
            let gone = if what == "dir" { fs::remove_dir(&file) } else { fs::remove_file(&file) };
            gone.unwrap();
        }
        for garbage in ["x".repeat(3_000_000), "x".repeat(32), "ab".repeat(400)] {
            fs::write(&file, &garbage).unwrap();
            for words in [&["ls"][..], &["rebuild", "--dry-run"], &["ensure", A]] {
                let (code, said) = host.said(words);
                let ends = code == 100 || words[0] == "rebuild";
                assert!(ends && said.len() < 3000, "{name} {words:?}: {code}: {}", said.len());
            }
        }
        fs::write(&file, good).unwrap();
    }
    host.check();
    // One that never was a store.
    let other = bench.host("other");
    fs::create_dir_all(other.store()).unwrap();
    fs::write(other.store().join("veneer-store"), "x".repeat(3_000_000)).unwrap();
    let (code, said) = other.said(&["ls"]);
    assert!(code == 100 && said.contains("32 hexadecimal digits"), "{code}: {said:.300}");
    assert!(said.contains("of 1048576 bytes or more, and"), "{said:.300}");
}

#[test]
fn what_somebody_else_can_change_is_no_place_for_a_store() {
    let bench = Bench::small();
    let foreign = bench.host("foreign");
    for part in ["volumes", "active", "notes", "made"] {
        foreign.wipe();
        let path = foreign.store().join(part);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        refused(&foreign, "belongs to uid 65534", part);
        assert_eq!(names(&foreign.store()), [part], "something was made beside it");
    }
    let open = bench.host("open");
    fs::create_dir_all(open.store()).unwrap();
    mode(&open.store(), 0o777);
    refused(&open, "others may write to it (its mode is 0777)", "the store itself");
    chown(open.store(), Some(NOBODY), None).unwrap();
    mode(&open.store(), 0o755);
    refused(&open, "belongs to uid 65534", "the store itself");

    // Of a store that is made already, too; put right, all is as it was.
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    for part in ["", "volumes", "active", "notes", "made"] {
        let path = host.store().join(part);
        mode(&path, 0o775);
        refused(&host, "its mode is 0775", part);
        mode(&path, 0o700);
        chown(&path, Some(NOBODY), None).unwrap();
        refused(&host, "belongs to uid 65534", part);
        chown(&path, Some(0), None).unwrap();
    }
    host.check();
    host.check_tree("a-1", 3);
}

#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let bench = Bench::small();
    let elsewhere = bench.path("elsewhere");
    fs::create_dir_all(elsewhere.join("precious")).unwrap();
    let fresh = bench.host("fresh");
    fs::create_dir_all(fresh.store()).unwrap();
    symlink(&elsewhere, fresh.store().join("volumes")).unwrap();
    refused(&fresh, "a symbolic link", "a fresh one");
    let made = bench.host("made");
    made.ok(&["ensure", A]);
    for part in ["volumes", "notes", "made", "active"] {
        let path = made.store().join(part);
        fs::rename(&path, made.dir.join("aside")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        refused(&made, "a symbolic link", part);
        fs::remove_file(&path).unwrap();
        fs::rename(made.dir.join("aside"), &path).unwrap();
    }
    assert_eq!(names(&elsewhere), ["precious"]);
    made.check();
}

/// What a directory was before a store was made in it, for others to look into, it is no longer.
#[test]
fn directories_that_were_there_are_looked_into_by_nobody_else() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(host.store().join("volumes")).unwrap();
    // As the root of a file system in memory is.
    mode(&host.store(), 0o1777);
    mode(&host.store().join("volumes"), 0o755);
    host.ok(&["ensure", A]);
    let found = fs::metadata(host.store().join("volumes")).unwrap().permissions().mode();
    assert_eq!(found & 0o7777, 0o700);
    let found = fs::metadata(host.store()).unwrap().permissions().mode();
    assert_eq!(found & 0o7777, 0o1755);
    host.check();
}

/// Any user may lock a directory that he can open.
#[test]
fn a_lock_on_the_directory_keeps_nobody_waiting() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(host.store()).unwrap();
    mode(&host.store(), 0o755);
    let held = File::open(host.store()).unwrap();
    held.lock().unwrap();
    // While a store is made there, a program of before is waited for a moment.
    host.ok(&["ensure", A, "--wait", "0"]);
    host.ok(&["activate", A, "--name", "a-1", "--wait", "0"]);
    drop(held);
    host.check();
}

#[test]
fn who_waits_for_another_that_makes_the_store_hears() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(host.store()).unwrap();
    let path = host.store().join(".veneer-store.lock");
    let held = File::create_new(&path).unwrap();
    held.lock().unwrap();
    let (code, said) = host.said(&["ensure", A, "--wait", "0"]);
    assert!(code == 111 && said.contains("in which a store is made"), "{code}: {said}");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = host.command(&["ensure", A, "--wait", "600"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "{signal} is not heard");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(matches!(status.code(), Some(111) | None), "{signal}: {status}");
    }
    // It dies over it: the next one makes the store.
    drop(held);
    host.ok(&["ensure", A]);
    host.check();
}

/// Killed between the store's header and letting go, one leaves its lock; nobody makes that store again.
#[test]
fn a_lock_that_was_left_in_a_store_goes_and_one_that_is_held_stays() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let path = host.store().join(".veneer-store.lock");
    let held = File::create_new(&path).unwrap();
    held.lock().unwrap();
    host.ok(&["ls"]);
    assert!(path.exists(), "a held lock was removed");
    drop(held);
    host.ok(&["recover"]);
    assert!(!path.exists(), "a lock that nobody holds stays");
    // What somebody else put there is not ours to remove.
    fs::write(&path, "a note").unwrap();
    host.ok(&["recover"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "a note");
    fs::remove_file(&path).unwrap();
    host.check();
}
