//! The comparing half of `just corpus`, on archives made here: what is equal, refused and different is told
//! apart. Without a network.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tests::corpus::{Outcome, compare};
use tests::programs::program;

/// The program of this build.
fn unpack() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program("unpack"))
}

type Change = fn(&mut tar::Header);

/// An archive of these entries: name, type, content or target, change of the header.
fn archive(dir: &Path, entries: &[(&str, tar::EntryType, &str, Change)]) -> PathBuf {
    let path = dir.join("archive");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (name, kind, what, change) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1000);
        let is_file = kind.is_file();
        header.set_size(if is_file { what.len() as u64 } else { 0 });
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if !is_file {
            header.as_mut_bytes()[157..157 + what.len()].copy_from_slice(what.as_bytes());
        }
        change(&mut header);
        header.set_cksum();
        let body = if is_file { what.as_bytes() } else { b"" };
        builder.append(&header, body).unwrap();
    }
    builder.finish().unwrap();
    path
}

fn same(_: &mut tar::Header) {}

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;

#[test]
fn what_both_read_alike_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let link = tar::EntryType::Link;
    let path = archive(
        dir.path(),
        &[
            ("./", DIR, "", |header| header.set_mode(0o711)),
            ("d/", DIR, "", |header| header.set_mode(0o2750)),
            ("d/f", FILE, "content", |header| header.set_mode(0o4711)),
            ("d/h", link, "d/f", same),
            ("no/entry/names/this", FILE, "", same),
            ("s", tar::EntryType::Symlink, "../outside", same),
            ("p", tar::EntryType::Fifo, "", same),
        ],
    );
    let scratch = dir.path();
    assert_eq!(compare(unpack(), &path, scratch).unwrap(), Outcome::Equal(10));
    let packed = Command::new("xz").arg("--keep").arg(&path).status().unwrap();
    assert!(packed.success());
    let packed = path.with_extension("xz");
    assert_eq!(compare(unpack(), &packed, scratch).unwrap(), Outcome::Equal(10));
}

#[test]
fn a_refusal_has_its_rule() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |entries: &[(&str, tar::EntryType, &str, Change)]| {
        compare(unpack(), &archive(dir.path(), entries), dir.path()).unwrap()
    };
    let rule = "path: a file's name ends in a slash".to_owned();
    assert_eq!(refused(&[("d/", FILE, "", same)]), Outcome::Refused { rule, both: false });
    let rule = "link: hard link to what does not exist".to_owned();
    let link = tar::EntryType::Link;
    assert_eq!(refused(&[("a", link, "nothing", same)]), Outcome::Refused { rule, both: true });
}

/// An `unpack` that makes another tree is found out, whatever it changes, and so is one that fails.
#[test]
fn another_tree_is_different() {
    let dir = tempfile::tempdir().unwrap();
    let path = archive(
        dir.path(),
        &[("d/", DIR, "", |header| header.set_mode(0o755)), ("d/f", FILE, "content", same)],
    );
    let like = |name: &str, after: &str| {
        let program = dir.path().join(name);
        let script = format!(
            "#!/bin/sh\nfor root; do :; done\ntar -xp --same-owner --numeric-owner -C \"$root\" && cd \"$root\" && {after}\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        compare(&program, &path, dir.path()).unwrap()
    };
    assert_eq!(like("good", "true"), Outcome::Equal(2));
    for (name, after) in [
        ("content", "printf CONTENT >d/f && touch -d @1000 d/f"),
        ("mode", "chmod 600 d/f"),
        ("owner", "chown 9:9 d/f"),
        ("time", "touch -d @1001 d/f"),
        ("time_of_dir", "touch -d @1001 d"),
        ("missing", "rm d/f && touch -d @1000 d"),
        ("more", "touch d/g && touch -d @1000 d"),
        ("type", "rm d/f && ln -s x d/f && touch -h -d @1000 d/f && touch -d @1000 d"),
    ] {
        let outcome = like(name, after);
        assert!(
            matches!(outcome, Outcome::Differs(_)) && !outcome.is_good(),
            "{name}: {outcome:?}"
        );
    }
    let outcome = like("fails", "exit 111");
    assert!(matches!(outcome, Outcome::Failed(_)) && !outcome.is_good(), "{outcome:?}");
}
