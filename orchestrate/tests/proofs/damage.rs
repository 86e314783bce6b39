//! A registry that is damaged, foreign, newer, locked, on a full or read-only file system: the right exit
//! code and reason, the file left as it is, and never an empty one in its place.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;
use tests::dice::Dice;
use tests::trace::{self, Act, Call, Effect, Side, Whose};

use crate::bench::{Bench, Host, names};

const ACTIVATE: &[&str] = &["activate", "s3://bucket/a/", "--name", "a-1"];
const SECOND: &[&str] = &["activate", "s3://bucket/b/", "--name", "b-1"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn database(host: &Host<'_>) -> PathBuf {
    host.state().join("registry.db")
}

/// A host with one activation, copied for each kind of damage.
fn with_one<'b>(bench: &'b Bench) -> Host<'b> {
    let host = bench.host("one");
    host.ok(ACTIVATE);
    host
}

/// This exit code and this text, and neither the registry nor the store has moved.
fn refused(host: &Host<'_>, code: i32, text: &str) {
    let before = (fs::read(database(host)).ok(), names(&host.store().join("volumes")));
    for words in [SECOND, &["rm", "a-1"], &["recover"], &["ls"]] {
        let output = host.command(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(text), "{words:?}: {}", said(&output));
    }
    let after = (fs::read(database(host)).ok(), names(&host.store().join("volumes")));
    assert!(before == after, "refused, and something is changed");
}

#[test]
fn foreign_and_newer_registries_are_refused() {
    let bench = Bench::small();
    let one = with_one(&bench);
    let host = one.copy_to("foreign");
    let set = |host: &Host<'_>, pragma: &str| {
        let conn = Connection::open(database(host)).unwrap();
        conn.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
    };
    set(&host, "application_id = 1234");
    refused(&host, 100, "of another program");
    let host = one.copy_to("newer");
    set(&host, "user_version = 99");
    refused(&host, 100, "use the newer veneer");
}

#[test]
fn a_damaged_registry_is_never_replaced() {
    let bench = Bench::small();
    let one = with_one(&bench);
    let whole = fs::read(database(&one)).unwrap();
    // Not a database any more, from its first byte on.
    for (name, bytes) in [("text", b"not a database".repeat(600)), ("noise", noise(8192))] {
        let host = one.copy_to(name);
        fs::write(database(&host), bytes).unwrap();
        refused(&host, 100, "registry");
    }
    // Cut off: whatever SQLite makes of what is left, no volume goes and no empty file comes.
    for length in [1, 99, 100, 512, 4096, 4097, 8192, whole.len() / 2, whole.len() - 1] {
        let host = one.copy_to("cut");
        fs::write(database(&host), &whole[..length]).unwrap();
        survives(&host, &format!("cut to {length}"));
    }
    let mut dice = Dice::new(3);
    let flips = if std::env::var_os("VENEER_LONG").is_some() { 2000 } else { 60 };
    for flip in 0..flips {
        let host = one.copy_to("flipped");
        // A third in the header, the rest anywhere.
        let size = if flip % 3 == 0 { 100 } else { whole.len() as u64 };
        let at = dice.roll(size);
        let file = fs::OpenOptions::new().write(true).open(database(&host)).unwrap();
        let old = whole[usize::try_from(at).unwrap()];
        let bit = 1_u8 << dice.roll(8);
        file.write_all_at(&[old ^ bit], at).unwrap();
        survives(&host, &format!("bit {bit:#x} flipped at {at}"));
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(9);
    (0..bytes).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect()
}

/// Whatever is wrong with it: an orderly end, and what the store had it still has.
fn survives(host: &Host<'_>, what: &str) {
    let volumes = names(&host.store().join("volumes"));
    for words in [SECOND, &["recover"]] {
        let output = host.command(words).output().unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 100 | 111)), "{what}: {words:?}: {}", said(&output));
    }
    let now = names(&host.store().join("volumes"));
    let gone: Vec<_> = volumes.iter().filter(|id| !now.contains(id)).collect();
    assert!(gone.is_empty(), "{what}: volumes {gone:?} are gone");
    let output = host.command(&["ls"]).output().unwrap();
    if output.status.success() {
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(listing.contains("a-1"), "{what}: the activation is forgotten: {listing}");
    }
}

/// An empty file where a registry was, beside a store that has volumes, is damage too.
#[test]
fn an_emptied_registry_is_not_begun_anew() {
    let bench = Bench::small();
    let host = with_one(&bench);
    fs::write(database(&host), b"").unwrap();
    let volumes = names(&host.store().join("volumes"));
    let output = host.command(SECOND).output().unwrap();
    assert_eq!(output.status.code(), Some(100), "{}", said(&output));
    assert_eq!(names(&host.store().join("volumes")), volumes);
    assert_eq!(fs::metadata(database(&host)).unwrap().len(), 0, "{}", said(&output));
}

#[test]
fn a_registry_that_another_process_holds_is_busy() {
    let bench = Bench::small();
    let host = with_one(&bench);
    let conn = Connection::open(database(&host)).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let output = host.command(&["rm", "a-1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(111), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"temporary\""), "{}", said(&output));
    drop(conn);
    host.ok(&["rm", "a-1"]);
    host.check();
}

/// A mount that goes when the test does.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(words: &[&str], at: &Path) -> Mount {
        let mounted = Command::new("mount").args(words).arg(at).status().unwrap();
        assert!(mounted.success(), "mount {words:?} {}", at.display());
        Mount(at.to_owned())
    }

    pub(crate) fn again(&self, options: &str) {
        let done = Command::new("mount").args(["-o", options]).arg(&self.0).status().unwrap();
        assert!(done.success(), "mount -o {options} {}", self.0.display());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Sizes of the state's file system from too small for anything up to enough.
#[test]
fn a_full_disk_below_the_registry_ends_with_no_space_and_goes_on_when_there_is_some() {
    let bench = Bench::small();
    let (mut full, mut enough) = (0, 0);
    for kib in (16..=1424).step_by(64) {
        let host = bench.host("full");
        host.wipe();
        let state = host.state();
        fs::create_dir_all(&state).unwrap();
        let mount = Mount::new(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "none"], &state);
        let output = host.command(ACTIVATE).output().unwrap();
        match output.status.code() {
            Some(0) => enough += 1,
            Some(111) => {
                full += 1;
                let told = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(told.contains("\"no_space\""), "{kib} KiB: {told} {}", said(&output));
            }
            code => panic!("{kib} KiB: {code:?}: {}", said(&output)),
        }
        mount.again("remount,size=8m");
        host.ok(ACTIVATE);
        host.check();
        host.check_tree("a-1", 3);
        drop(mount);
    }
    assert!(full > 3 && enough > 0, "{full} were full, {enough} were enough");
}

#[test]
fn a_read_only_file_system_is_named_and_nothing_is_lost() {
    let bench = Bench::small();
    for place in ["state", "store"] {
        let host = bench.host(place);
        host.wipe();
        let at = host.dir.join(place);
        fs::create_dir_all(&at).unwrap();
        let mount = Mount::new(&["-t", "tmpfs", "none"], &at);
        host.ok(ACTIVATE);
        mount.again("remount,ro");
        for words in [SECOND, &["rm", "a-1"]] {
            let output = host.command(words).output().unwrap();
            assert_eq!(output.status.code(), Some(100), "{place} {words:?}: {}", said(&output));
            let told = said(&output);
            let named = ["ead-only", "readonly"].iter().any(|text| told.contains(text));
            assert!(named, "{place} {words:?}: {told}");
        }
        mount.again("remount,rw");
        host.ok(SECOND);
        host.check();
        drop(mount);
    }
}

/// The log of what was committed, deleted by hand after a kill: what was lost with it is noticed, or
/// there was nothing to lose.
#[test]
fn a_deleted_log_is_noticed() {
    let bench = Bench::small();
    let one = with_one(&bench);
    // Closed in order there is none, and the index is made anew.
    let host = one.copy_to("closed");
    for part in ["registry.db-wal", "registry.db-shm"] {
        drop(fs::remove_file(host.state().join(part)));
    }
    host.ok(SECOND);
    host.check();
    let (mut noticed, mut harmless) = (0, 0);
    for at in (20..400).step_by(23) {
        for parts in [
            &["registry.db-wal"][..],
            &["registry.db-shm"],
            &["registry.db-wal", "registry.db-shm"],
        ] {
            let host = one.copy_to("killed");
            let mut seen = 0;
            let each = |call: &Call, side: Side| {
                seen += usize::from(call.effect == Effect::Changes && side == Side::Before);
                if seen == at { Act::Kill } else { Act::Go }
            };
            trace::run(&host.command(SECOND), &[&host.dir], Whose::Main, each).unwrap();
            for part in parts {
                drop(fs::remove_file(host.state().join(part)));
            }
            let volumes = names(&host.store().join("volumes"));
            let output = host.command(SECOND).output().unwrap();
            match output.status.code() {
                Some(0) => {
                    harmless += 1;
                    host.check_tree("b-1", 4);
                    // A log that was being copied into the file takes part of the file with it.
                    // SQLite cannot know; its own check does.
                    let registry = registry::Registry::open(&database(&host)).unwrap();
                    match registry.check().unwrap().is_empty() {
                        true => host.check(),
                        false => assert!(parts.contains(&"registry.db-wal"), "at {at}, {parts:?}"),
                    }
                }
                Some(100) if parts.contains(&"registry.db-wal") => {
                    noticed += 1;
                    let told = said(&output);
                    assert!(told.contains("out of step"), "at {at}, {parts:?}: {told}");
                    assert_eq!(names(&host.store().join("volumes")), volumes);
                }
                code => panic!("at {at} without {parts:?}: {code:?}: {}", said(&output)),
            }
        }
    }
    assert!(noticed > 0 && harmless > 0, "{noticed} noticed, {harmless} harmless");
}
