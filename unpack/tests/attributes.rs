//! What a node is besides its name and its bytes: mode, owner, times, attributes, device numbers;
//! set exactly, or refused, or dropped and counted.

mod forge;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use forge::{Head, Pen, octal, tar, xattr};
use unpack::{Class, Devices, Limits};

fn with(pairs: &[(&str, &[u8])]) -> forge::Tar {
    let keys: Vec<String> = pairs.iter().map(|(k, _)| format!("SCHILY.xattr.{k}")).collect();
    let records: Vec<(&str, &[u8])> =
        keys.iter().map(String::as_str).zip(pairs.iter().map(|&(_, v)| v)).collect();
    tar().pax(&records)
}

fn applied(layers: &[Vec<u8>], limits: &Limits) -> (Pen, unpack::Applied) {
    let pen = Pen::new();
    let mut last = None;
    for layer in layers {
        last = Some(pen.apply(layer, limits).unwrap_or_else(|e| panic!("{e}: {e:?}")));
    }
    (pen, last.unwrap())
}

fn entry(name: &str, typeflag: u8, mode: u64, (uid, gid): (u64, u64)) -> forge::Tar {
    tar().with(Head::new(name, typeflag, 0), "", |h| {
        h.mode = octal(mode, 8);
        h.uid = octal(uid, 8);
        h.gid = octal(gid, 8);
        if matches!(typeflag, b'3' | b'4') {
            h.major = octal(1, 8);
            h.minor = octal(3, 8);
        }
    })
}

/// linux/posix_acl_xattr.h: version 2, then tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

const NONE: u32 = u32::MAX;

/// user::rwx user:1234:rwx group::r-x mask::rwx other::r-x
fn wide_acl() -> Vec<u8> {
    acl(&[(1, 7, NONE), (2, 7, 1234), (4, 5, NONE), (16, 7, NONE), (32, 5, NONE)])
}

/// linux/capability.h, revision 2: the low word of the permitted set holds a newline.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

refused! {
    s02_block_device Type: tar().node("sda", b'4', 8, 0).end();
    s02b_character_device_of_a_driver Type: tar().node("kvm", b'3', 10, 232).end();
    s02d_the_kernels_log Type: tar().node("kmsg", b'3', 1, 11).end();
    s02e_the_hosts_memory Type: tar().node("mem", b'3', 1, 1).end();
    s02f_a_terminal_beyond_the_standard Type: tar().node("t", b'3', 5, 3).end();
    s02c_character_device_zero Type: tar().node("wh", b'3', 0, 0).end();
    s09_xattr_of_70000_bytes Xattr: with(&[("user.a", &[b'x'; 70_000])]).file("f", "").end();
    s09b_xattr_name_of_256_bytes Xattr:
        with(&[(&format!("user.{}", "x".repeat(251)), b"1")]).file("f", "").end();
    s09c_xattr_name_with_nothing_after_its_namespace Extension: with(&[("", b"1")]).file("f", "").end();
    s11b_malformed_acl Xattr: with(&[("system.posix_acl_access", b"junk")]).file("f", "").end();
    s11c_acl_of_version_1 Xattr:
        with(&[("system.posix_acl_access", b"\x01\0\0\0")]).file("f", "").end();
    s11d_acl_with_permission_8 Xattr:
        with(&[("system.posix_acl_access", &acl(&[(1, 8, NONE)]))]).file("f", "").end();
}

accepted! {
    s01_null_device: tar().node("null", b'3', 1, 3).node("tty", b'3', 5, 0).end()
        => ["null char 0644 0:0 1000 1:3", "tty char 0644 0:0 1000 5:0"];
    s03_fifo: tar().node("p", b'6', 0, 0).end() => ["p fifo 0644 0:0 1000"];
    s03b_device_numbers_on_a_fifo_mean_nothing: tar().node("p", b'6', 7, 7).end()
        => ["p fifo 0644 0:0 1000"];
    s06_set_id_bits: entry("a", b'0', 0o6755, (7, 8)).0.into_iter()
        .chain(entry("b", b'0', 0o1644, (0, 0)).0).chain(entry("d", b'5', 0o3777, (7, 8)).0)
        .chain(entry("p", b'6', 0o4644, (7, 8)).0).chain(entry("n", b'3', 0o2666, (7, 8)).0)
        .chain([0; 1024]).collect()
        => ["a file 6755 7:8 1000", "b file 1644 0:0 1000", "d dir 3777 7:8 1000",
            "p fifo 4644 7:8 1000", "n char 2666 7:8 1000 1:3"];
    s06b_set_id_bits_survive_a_body: tar().with(Head::new("su", b'0', 5), "hello", |h| {
        h.mode = octal(0o4755, 8);
        h.uid = octal(7, 8);
    }).end() => ["su file 4755 7:0 1000 hello"];
    s06c_children_of_a_setgid_directory: entry("d", b'5', 0o2777, (0, 50)).file("d/f", "").dir("d/e")
        .sym("d/s", "x").node("d/p", b'6', 0, 0).file("d/i/f", "").end()
        => ["d dir 2777 0:50 1000", "d/f file 0644 0:0 1000", "d/e dir 0755 0:0 1000",
            "d/s symlink 0777 0:0 1000 x", "d/p fifo 0644 0:0 1000", "d/i dir 0755 0:0 0",
            "d/i/f file 0644 0:0 1000"];
    s12_closed_directories: tar().dir_mode("a", 0o555).file("a/f", "1").dir_mode("b", 0).file("b/f", "2").end()
        => ["a dir 0555 0:0 1000", "a/f file 0644 0:0 1000 1", "b dir 0000 0:0 1000",
            "b/f file 0644 0:0 1000 2"];
    s13_directory_times_survive_children: tar().dir("d").dir("d/e").file("d/e/f", "1")
        .sym("d/s", "x").hard("d/h", "d/e/f").file("d/gone", "").file("d/gone", "again").end()
        => ["d dir 0755 0:0 1000", "d/e dir 0755 0:0 1000", "d/e/f file 0644 0:0 1000 1",
            "d/s symlink 0777 0:0 1000 x", "d/h file 0644 0:0 1000 1",
            "d/gone file 0644 0:0 1000 again"];
    s13b_the_directory_comes_after_its_children: tar().file("d/f", "1").dir_mode("d", 0o700).end()
        => ["d dir 0700 0:0 1000", "d/f file 0644 0:0 1000 1"];
    s14_duplicate_files: tar().file("f", "one").file("f", "two").end() => ["f file 0644 0:0 1000 two"];
    s15_duplicate_directories: tar().dir_mode("d", 0o700).file("d/f", "1").dir_mode("d", 0o711).end()
        => ["d dir 0711 0:0 1000", "d/f file 0644 0:0 1000 1"];
    s16_missing_parents: tar().file("a/b/c", "1").end()
        => ["a dir 0755 0:0 0", "a/b dir 0755 0:0 0", "a/b/c file 0644 0:0 1000 1"];
    s17_owner_and_time_of_a_symlink: tar().pax(&[("mtime", b"-7.25")]).with(Head::new("s", b'2', 0), "", |h| {
        h.link = b"x".to_vec();
        h.uid = octal(7, 8);
        h.gid = octal(8, 8);
        h.mode = octal(0, 8);
    }).end() => ["s symlink 0777 7:8 -8.750000000 x"];
    s18_names_of_owners_mean_nothing: tar().pax(&[("uname", b"daemon"), ("gname", b"daemon")]).file("f", "").end()
        => ["f file 0644 0:0 1000"];
    s19_a_layer_gives_a_lower_directory_new_attributes:
        entry("d", b'5', 0o2700, (7, 8)).file("d/f", "1").end(), tar().dir_mode("d", 0o755).end()
        => ["d dir 0755 0:0 1000", "d/f file 0644 0:0 1000 1"];
}

#[test]
fn s01b_devices_by_policy() {
    let refuse = Limits { devices: Devices::Refuse, ..Limits::default() };
    forge::refuse(&[tar().node("null", b'3', 1, 3).end()], &refuse, Class::Type);
    forge::accept(&[tar().node("p", b'6', 0, 0).end()], &refuse, &["p fifo 0644 0:0 1000"]);
    let keep = Limits { devices: Devices::Keep, ..Limits::default() };
    forge::accept(&[tar().node("b", b'4', 7, 99).end()], &keep, &["b block 0644 0:0 1000 7:99"]);
    forge::accept(
        &[tar().node("c", b'3', 4095, 1_048_575).end()],
        &keep,
        &["c char 0644 0:0 1000 4095:1048575"],
    );
}

#[test]
fn s07_foreign_attributes_are_dropped_and_counted() {
    let keys = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.anything",
        "security.selinux",
        "security.ima",
        "security.evm",
        "security.unknown",
        "system.nfs4_acl",
        "nonamespace",
        "user.",
    ];
    for key in keys {
        let layer = with(&[(key, b"y"), ("user.kept", b"1")]).file("f", "").end();
        let (pen, applied) = applied(std::slice::from_ref(&layer), &Limits::default());
        assert_eq!(applied.dropped_xattrs, 1, "{key}");
        assert_eq!(xattr(&pen.root().join("f"), key), None, "{key}");
        assert_eq!(xattr(&pen.root().join("f"), "user.kept").as_deref(), Some(&b"1"[..]));
        let strict = Limits { xattrs_strict: true, ..Limits::default() };
        forge::refuse(&[layer], &strict, Class::Xattr);
    }
}

#[test]
fn s08_user_attributes_only_where_they_can_be() {
    let mut layer = with(&[("user.a", b"1")]).sym("s", "x");
    for (name, typeflag) in [("p", b'6'), ("n", b'3')] {
        layer = layer.raw(with(&[("user.a", b"1")]).node(name, typeflag, 1, 3).0);
    }
    layer = layer.raw(with(&[("user.a", b"1"), ("security.capability", CAPABILITY)]).dir("d").0);
    let (pen, applied) = applied(&[layer.end()], &Limits::default());
    assert_eq!(applied.dropped_xattrs, 4, "capabilities mean nothing on a directory");
    assert_eq!(xattr(&pen.root().join("d"), "user.a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn d16_capabilities_with_a_newline_and_a_body() {
    let layer = with(&[("security.capability", CAPABILITY)])
        .with(Head::new("ping", b'0', 4), "body", |h| h.uid = octal(7, 8))
        .end();
    let (pen, applied) = applied(&[layer], &Limits::default());
    assert_eq!(applied.dropped_xattrs, 0);
    assert_eq!(xattr(&pen.root().join("ping"), "security.capability").as_deref(), Some(CAPABILITY));
}

#[test]
fn s09d_values_are_bytes() {
    let value: Vec<u8> = (0..=255).collect();
    let layer = with(&[("user.bytes", &value)]).file("f", "").end();
    let (pen, _) = applied(&[layer], &Limits::default());
    assert_eq!(xattr(&pen.root().join("f"), "user.bytes"), Some(value));
}

#[test]
fn s11_acls_agree_with_the_mode() {
    let layer = with(&[("system.posix_acl_access", &wide_acl())]).file("f", "").end();
    let (pen, _) = applied(&[layer], &Limits::default());
    let path = pen.root().join("f");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644, "the mode wins");
    let kept = acl(&[(1, 6, NONE), (2, 7, 1234), (4, 5, NONE), (16, 4, NONE), (32, 4, NONE)]);
    assert_eq!(xattr(&path, "system.posix_acl_access"), Some(kept));
}

#[test]
fn s11e_default_acls_are_not_handed_down() {
    let default = ("system.posix_acl_default", wide_acl());
    let lower = with(&[(default.0, &default.1)]).dir("d").end();
    let children = |layer: forge::Tar| {
        layer.file("d/f", "").dir("d/e").node("d/p", b'6', 0, 0).file("d/i/f", "")
    };
    let upper = children(tar()).end();
    let one = children(with(&[(default.0, &default.1)]).dir("d")).end();
    for layers in [vec![lower, upper], vec![one]] {
        let (pen, _) = applied(&layers, &Limits::default());
        let at = |name: &str| pen.root().join(name);
        assert_eq!(xattr(&at("d"), default.0), Some(default.1.clone()));
        for name in ["d/f", "d/e", "d/p", "d/i", "d/i/f"] {
            for key in ["system.posix_acl_access", "system.posix_acl_default"] {
                assert_eq!(xattr(&at(name), key), None, "{name} {key}");
            }
        }
        let mode = |name: &str| std::fs::symlink_metadata(at(name)).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode("d/f"), mode("d/e"), mode("d/p"), mode("d/i")),
            (0o644, 0o755, 0o644, 0o755)
        );
    }
}

/// Nodes that must not be opened get their ACL too, also where there is no /proc: in the sandbox.
#[test]
fn s11f_acls_of_special_nodes() {
    let acl = ("system.posix_acl_access", wide_acl());
    let node = |name: &str, typeflag| {
        with(&[(acl.0, &acl.1)]).with(Head::new(name, typeflag, 0), "", |h| {
            h.mode = octal(0o775, 8);
            h.major = octal(1, 8);
            h.minor = octal(3, 8);
        })
    };
    let layer = node("p", b'6').raw(node("n", b'3').0).raw(tar().dir("d").0).end();
    for sandbox in ["require", "off"] {
        let pen = Pen::new();
        let out = program(&["-q", "--sandbox", sandbox], &pen.root(), &layer);
        assert_eq!(out.status.code(), Some(0), "{sandbox}: {out:?}");
        for name in ["p", "n"] {
            assert_eq!(xattr(&pen.root().join(name), acl.0), Some(acl.1.clone()), "{name}");
        }
        let out = program(&["-q", "--verify"], &pen.root(), &layer);
        assert_eq!(out.status.code(), Some(0), "{sandbox}: {out:?}");
    }
}

fn program(args: &[&str], root: &Path, layer: &[u8]) -> std::process::Output {
    let file = forge::scratch();
    let path = file.path().join("layer");
    std::fs::write(&path, layer).unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_unpack"))
        .args(args)
        .arg("--root")
        .arg(root)
        .stdin(std::fs::File::open(path).unwrap())
        .output()
        .unwrap()
}

/// What a lower layer said of a directory goes when a layer says something else.
#[test]
fn s20_attributes_of_a_lower_directory_go() {
    let lower = with(&[("user.a", b"1"), ("system.posix_acl_default", &wide_acl())]).dir("d").end();
    let (pen, _) = applied(&[lower, tar().dir("d").end()], &Limits::default());
    let path = pen.root().join("d");
    assert_eq!(xattr(&path, "user.a"), None);
    assert_eq!(xattr(&path, "system.posix_acl_default"), None);
}

#[test]
fn s21_attributes_of_the_root() {
    let layer = with(&[("user.a", b"1")]).dir("./").end();
    let (pen, _) = applied(&[layer], &Limits::default());
    assert_eq!(xattr(&pen.root(), "user.a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn s22_access_times_are_modification_times() {
    let layer = tar().pax(&[("mtime", b"5.5"), ("atime", b"9")]).file("f", "").dir("d").end();
    let pen = Pen::unread();
    pen.apply(&layer, &Limits::default()).unwrap();
    for (name, time) in [("f", (5, 500_000_000)), ("d", (1000, 0))] {
        let meta = std::fs::metadata(pen.root().join(name)).unwrap();
        assert_eq!((meta.atime(), meta.atime_nsec()), time, "{name}");
    }
}
