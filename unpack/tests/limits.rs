//! Budgets: each is refused before it takes effect, by class, flag and value; and what is just
//! within a limit passes.

mod forge;

use std::time::Duration;

use forge::{Head, Pen, tar};
use unpack::{Class, Limits};

fn files(count: usize, size: usize) -> forge::Tar {
    (0..count).fold(tar(), |tar, n| tar.file(format!("f{n}"), vec![b'x'; size]))
}

/// Over the limit by one it is refused, at the limit it is not.
fn bounded(layer: &[u8], flag: &str, class: Class, set: impl Fn(&mut Limits, u64), exact: u64) {
    let limits = |value| {
        let mut limits = Limits::default();
        set(&mut limits, value);
        limits
    };
    let pen = Pen::new();
    let error = pen.apply(layer, &limits(exact - 1)).expect_err(flag);
    assert_eq!(error.class(), Some(class), "{flag}: {error}");
    let text = error.to_string();
    assert!(text.contains(&format!("{exact} (limit {flag} {})", exact - 1)), "{text}");
    Pen::new().apply(layer, &limits(exact)).unwrap_or_else(|e| panic!("{flag} {exact}: {e}"));
}

#[test]
fn each_budget_has_its_edge() {
    let three = files(3, 600).end();
    let size = three.len() as u64;
    bounded(&three, "--entries-max", Class::Limit, |l, n| l.entries_max = n, 3);
    bounded(&three, "--file-bytes-max", Class::Limit, |l, n| l.file_bytes_max = n, 600);
    bounded(&three, "--blob-bytes-max", Class::Limit, |l, n| l.blob_bytes_max = n, size);
    bounded(&three, "--bytes-max", Class::Limit, |l, n| l.bytes_max = n, size);
    let links = tar().file("a", "").hard("b", "a").hard("c", "a").end();
    bounded(&links, "--links-max", Class::Limit, |l, n| l.links_max = n, 2);
    let deep = tar().file("a/b/c/d", "").end();
    bounded(&deep, "--depth-max", Class::Path, |l, n| l.depth_max = n, 4);
    bounded(&deep, "--path-bytes-max", Class::Path, |l, n| l.path_bytes_max = n, 7);
    let long = tar().sym("s", "12345678").end();
    bounded(&long, "--path-bytes-max", Class::Link, |l, n| l.path_bytes_max = n, 8);
    let pax = tar().pax(&[("comment", &[b'c'; 500])]).file("f", "").end();
    bounded(&pax, "--extension-bytes-max", Class::Limit, |l, n| l.extension_bytes_max = n, 513);
    bounded(&pax, "--extensions-max", Class::Limit, |l, n| l.extensions_max = n, 1);
    let attributes = tar()
        .pax(&[("SCHILY.xattr.user.a", b"12345")])
        .file("f", "")
        .pax(&[("SCHILY.xattr.user.a", b"12345")])
        .file("g", "")
        .end();
    bounded(&attributes, "--xattr-bytes-max", Class::Xattr, |l, n| l.xattr_bytes_max = n, 5);
    bounded(&attributes, "--xattrs-bytes-max", Class::Limit, |l, n| l.xattrs_bytes_max = n, 22);
}

/// The limit on all extension bodies of one entry is on their sum.
#[test]
fn extension_bodies_are_counted_together() {
    let layer = tar()
        .extension(b'g', &forge::record("comment", [b'c'; 700]))
        .extension(b'K', &[b'k'; 700])
        .extension(b'L', &[b'l'; 200])
        .sym("f", "x")
        .end();
    let limits = Limits { extension_bytes_max: 1500, ..Limits::default() };
    forge::refuse(&[layer], &limits, Class::Limit);
}

/// A size is a promise that is refused before a byte of it is looked for.
#[test]
fn r06_nothing_is_made_for_what_is_too_large() {
    let layer = tar().file("ok", "1").head(&Head::new("big", b'0', 1 << 30)).0;
    let limits = Limits { file_bytes_max: 1 << 20, ..Limits::default() };
    let pen = forge::refuse(&[layer], &limits, Class::Limit);
    assert_eq!(pen.tree(), ["ok file 0644 0:0 1000 1"]);
}

/// Entries without bytes cost entries (r03).
#[test]
fn r03_many_symlinks() {
    let layer = (0..1001).fold(tar(), |tar, n| tar.sym(format!("s{n}"), "x")).end();
    let limits = Limits { entries_max: 1000, ..Limits::default() };
    forge::refuse(&[layer], &limits, Class::Limit);
}

/// A stream that stalls is given up (r05), in the sandbox by the child's own clock.
#[test]
fn r05_a_stalled_stream() {
    struct Stalls(std::io::Cursor<Vec<u8>>);
    impl std::io::Read for Stalls {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(to)? {
                0 => {
                    std::thread::sleep(Duration::from_millis(1500));
                    Ok(0)
                }
                len => Ok(len),
            }
        }
    }
    let pen = Pen::new();
    let root = unpack::Root::open(&pen.root()).unwrap();
    let limits = Limits { time_max: Duration::from_millis(300), ..Limits::default() };
    let layer = Stalls(std::io::Cursor::new(tar().file("f", "1").end()));
    let error = unpack::apply(layer, &root, &limits).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--time-max"), "{error}");
}

/// What each refusal depends on besides the bytes: the layers below, the limits, or neither.
#[test]
fn a_refusal_knows_what_it_depended_on() {
    let base = || tar().file("a/f", "x").sym("loop", "loop").end();
    let deep = Limits { depth_max: 1, ..Limits::default() };
    let few = Limits { removals_max: 0, ..Limits::default() };
    let slow = Limits { time_max: Duration::ZERO, ..Limits::default() };
    let small = Limits { blob_bytes_max: 10, ..Limits::default() };
    let mut garbled = tar().file("f", "x").end();
    garbled[0] ^= 1;
    let all = Limits::default();
    let plain = || tar().file("f", "x").end();
    for (what, layer, limits, right) in [
        ("garbled", garbled, &all, Some((false, false))),
        ("escape", tar().file("../f", "").end(), &all, Some((false, false))),
        ("link out", tar().hard("l", "../f").end(), &all, Some((false, false))),
        ("missing target", tar().hard("l", "below").end(), &all, Some((true, false))),
        ("parent is a file", tar().file("a/f/g", "").end(), &all, Some((true, false))),
        ("parent is a loop", tar().file("loop/g", "").end(), &all, Some((true, false))),
        ("link to a directory", tar().hard("l", "a").end(), &all, Some((true, false))),
        ("whiteout of no name", tar().file("a/.wh.", "").end(), &all, Some((false, false))),
        ("too deep", tar().file("a/b/c", "").end(), &deep, Some((false, true))),
        ("device", tar().node("n", b'4', 8, 0).end(), &all, Some((false, true))),
        ("removals", tar().file(".wh.a", "").end(), &few, Some((true, true))),
        ("time", plain(), &slow, None),
        ("blob", plain(), &small, None),
    ] {
        let pen = Pen::new();
        pen.apply(&base(), &all).unwrap();
        let error = pen.apply(&layer, limits).expect_err(what);
        let found = error.depends_on().map(|depends| (depends.tree, depends.limits));
        assert_eq!(found, right, "{what}: {error}");
    }
}
