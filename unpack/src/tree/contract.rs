//! What the documentation of [`Sink`] promises, as one test over any kind of tree: each kind has a test that
//! hands an empty one of its own to [`holds`].

use crate::archive::entry::Xattrs;
use crate::archive::pax::Time;
use crate::tree::budget::Budget;
use crate::tree::sink::{
    At, Attr, Base, Body, Cleared, Found, Kind, Linked, Made, Sink, Special, Step,
};

static NONE: Xattrs = Vec::new();

fn attr(mode: u32) -> Attr<'static> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Attr { mode, uid, gid, mtime: Time { sec: 1000, nsec: 7 }, xattrs: &NONE }
}

fn at<'a, D>(dir: &'a D, name: &'a str) -> At<'a, D> {
    At { dir, name: name.as_bytes(), path: name.as_bytes() }
}

fn opened<S: Sink>(sink: &mut S, from: &S::Dir, path: &str) -> S::Dir {
    sink.open(from, path.as_bytes(), b"told").unwrap().parent(path.as_bytes()).unwrap()
}

fn dir<S: Sink>(sink: &mut S, from: &S::Dir, name: &str) -> S::Dir {
    assert_eq!(sink.make_dir(&at(from, name), &attr(0o755)).unwrap(), Made::New(()), "{name}");
    opened(sink, from, name)
}

fn file<S: Sink>(sink: &mut S, from: &S::Dir, name: &str, attr: &Attr<'_>) {
    let (at, body) = (at(from, name), Body { size: 6, parts: None });
    let Made::New(mut file) = sink.begin_file(&at, attr, &body).unwrap() else {
        panic!("{name} exists");
    };
    sink.write(&mut file, &at, 0, b"con").unwrap();
    sink.write(&mut file, &at, 3, b"ten").unwrap();
    sink.end_file(file, &at, attr, &body).unwrap();
}

fn look<S: Sink>(sink: &mut S, from: &S::Dir, name: &str) -> Option<Found> {
    sink.look(&at(from, name)).unwrap()
}

/// Every promise that can be seen from above, on an empty tree.
pub(crate) fn holds<S: Sink>(mut sink: S) {
    assert!(matches!(sink.base().unwrap(), Base::Blank { .. }));
    let root = sink.root().unwrap();
    ways(&mut sink, &root);
    names_that_are_taken(&mut sink, &root);
    links(&mut sink, &root);
    attributes(&mut sink, &root);
    removals(&mut sink, &root);
    clearings(&mut sink, &root);
    for name in ["ways", "taken", "links", "attributes", "clearings"] {
        sink.remove(&at(&root, name), &mut Budget::unlimited()).unwrap();
    }
    sink.close(&root, b"").unwrap();
    sink.finish(&mut Budget::unlimited()).unwrap();
}

fn ways<S: Sink>(sink: &mut S, root: &S::Dir) {
    let top = dir(sink, root, "ways");
    let below = sink.make_implicit(&at(&top, "below")).unwrap();
    file(sink, &below, "file", &attr(0o600));
    let long = "../".repeat(300);
    for (name, target) in [("link", "below"), ("long", long.as_str())] {
        let made = sink.make_symlink(&at(&top, name), target.as_bytes(), &attr(0o777));
        assert_eq!(made.unwrap(), Made::New(()));
        assert_eq!(sink.read_link(&at(&top, name)).unwrap(), target.as_bytes());
        assert_eq!(look(sink, &top, name).map(|found| found.kind), Some(Kind::Symlink));
    }
    let id = sink.id(&below, b"below").unwrap();
    assert_eq!(look(sink, &top, "below"), Some(Found { id, kind: Kind::Dir }));
    for (from, path) in [(root, "ways/below"), (&top, "below")] {
        let again = opened(sink, from, path);
        assert_eq!(sink.id(&again, b"below").unwrap(), id);
    }
    let (name, path) = ("n".repeat(256), "n/".repeat(2048));
    for (path, step) in [
        ("nope", Step::Missing),
        ("ways/nope/below", Step::Missing),
        ("ways/link", Step::Link),
        ("ways/link/file", Step::Link),
        ("ways/below/file", Step::NotDir),
        ("ways/below/file/x", Step::NotDir),
        (name.as_str(), Step::TooLong),
        (path.as_str(), Step::TooLong),
    ] {
        let found = sink.open(root, path.as_bytes(), b"told").unwrap();
        assert_eq!(found.then(|_| Ok(())).unwrap(), step, "{path}");
    }
}

fn names_that_are_taken<S: Sink>(sink: &mut S, root: &S::Dir) {
    let top = dir(sink, root, "taken");
    let _dir = dir(sink, &top, "dir");
    file(sink, &top, "file", &attr(0o600));
    assert_eq!(
        sink.make_special(&at(&top, "fifo"), Special::Fifo, &attr(0o600)).unwrap(),
        Made::New(())
    );
    assert_eq!(sink.make_symlink(&at(&top, "link"), b"x", &attr(0o777)).unwrap(), Made::New(()));
    for name in ["dir", "file", "fifo", "link"] {
        let (at, attr) = (at(&top, name), attr(0o700));
        let before = sink.look(&at).unwrap();
        assert_eq!(sink.make_dir(&at, &attr).unwrap(), Made::Exists);
        assert_eq!(sink.make_symlink(&at, b"y", &attr).unwrap(), Made::Exists);
        assert_eq!(sink.make_special(&at, Special::Fifo, &attr).unwrap(), Made::Exists);
        let body = Body { size: 1, parts: None };
        assert!(matches!(sink.begin_file(&at, &attr, &body).unwrap(), Made::Exists));
        assert_eq!(sink.look(&at).unwrap(), before);
    }
    let empty = Body { size: 1 << 30, parts: Some(&[]) };
    let Made::New(sparse) = sink.begin_file(&at(&top, "holes"), &attr(0o600), &empty).unwrap()
    else {
        panic!("it is new");
    };
    sink.end_file(sparse, &at(&top, "holes"), &attr(0o600), &empty).unwrap();
}

fn links<S: Sink>(sink: &mut S, root: &S::Dir) {
    let top = dir(sink, root, "links");
    let _dir = dir(sink, &top, "dir");
    file(sink, &top, "file", &attr(0o600));
    assert_eq!(sink.make_symlink(&at(&top, "link"), b"dir", &attr(0o777)).unwrap(), Made::New(()));
    for (name, target, linked) in [
        ("file", "nope", Linked::NoTarget),
        ("dir", "file", Linked::Exists),
        ("file", "file", Linked::Exists),
        ("file", "dir", Linked::Exists),
        ("new", "dir", Linked::Directory),
        ("new", "file", Linked::Done),
        ("other", "link", Linked::Done),
    ] {
        let made = sink.make_link(&at(&top, name), &at(&top, target)).unwrap();
        assert_eq!(made, linked, "{name} to {target}");
    }
    assert_eq!(look(sink, &top, "new"), look(sink, &top, "file"));
    assert_eq!(look(sink, &top, "other"), look(sink, &top, "link"));
    // A node goes with its last name.
    sink.remove(&at(&top, "file"), &mut Budget::unlimited()).unwrap();
    assert_eq!(look(sink, &top, "new").map(|found| found.kind), Some(Kind::Other));
    // What is in a directory that was removed is not there.
    let gone = dir(sink, &top, "gone");
    file(sink, &gone, "file", &attr(0o600));
    sink.remove(&at(&top, "gone"), &mut Budget::unlimited()).unwrap();
    assert_eq!(look(sink, &gone, "file"), None);
    assert_eq!(sink.make_link(&at(&top, "late"), &at(&gone, "file")).unwrap(), Linked::NoTarget);
}

fn attributes<S: Sink>(sink: &mut S, root: &S::Dir) {
    let two = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), vec![b'1'; 200])];
    let dressed = Attr { xattrs: &two, ..attr(0o4750) };
    let top = dir(sink, root, "attributes");
    file(sink, &top, "file", &dressed);
    let record = sink.record(&at(&top, "file"), b"told".to_vec(), (6, [9; 32])).unwrap().unwrap();
    assert_eq!((record.mode, record.uid, record.gid), (0o4750, dressed.uid, dressed.gid));
    assert_eq!((record.path, record.mtime), (b"told".to_vec(), dressed.mtime));
    assert_eq!(record.xattrs, [two[1].clone(), two[0].clone()]);
    assert_eq!(sink.record(&at(&top, "nope"), Vec::new(), (0, [0; 32])).unwrap(), None);
    // Each attribute that goes is three steps.
    let mut steps = Vec::new();
    for (mode, xattrs) in [(0o2700, &two), (0o700, &NONE), (0o755, &two)] {
        let mut budget = Budget::unlimited();
        sink.set_dir(&top, b"attributes", &Attr { xattrs, ..attr(mode) }, &mut budget).unwrap();
        steps.push(budget.walked());
    }
    let mut budget = Budget::unlimited();
    sink.reset_dir(&top, b"attributes", &mut budget).unwrap();
    steps.push(budget.walked());
    assert_eq!(steps, [0, 6, 0, 6]);
}

/// A directory with a file, and one with a file in it.
fn small_tree<S: Sink>(sink: &mut S, root: &S::Dir, name: &str) {
    let top = dir(sink, root, name);
    file(sink, &top, "file", &attr(0o600));
    let below = dir(sink, &top, "dir");
    file(sink, &below, "file", &attr(0o600));
}

fn removals<S: Sink>(sink: &mut S, root: &S::Dir) {
    small_tree(sink, root, "removals");
    for (cost, nodes) in [(1 + 2 + 2 + 3, 4), (1, 1)] {
        let mut budget = Budget::unlimited();
        sink.remove(&at(root, "removals"), &mut budget).unwrap();
        assert_eq!((budget.removed(), budget.nodes()), (cost, nodes));
        assert_eq!(look(sink, root, "removals"), None);
    }
}

fn clearings<S: Sink>(sink: &mut S, root: &S::Dir) {
    let top = dir(sink, root, "clearings");
    for name in ["kept", "gone"] {
        small_tree(sink, &top, name);
    }
    file(sink, &top, "kept file", &attr(0o600));
    file(sink, &top, "gone file", &attr(0o600));
    assert_eq!(
        sink.make_symlink(&at(&top, "kept link"), b"kept", &attr(0o777)).unwrap(),
        Made::New(())
    );
    let dirs = vec![b"kept".to_vec()];
    // One for each name; and for those that go as when they are removed alone.
    for (removed, cost) in [(true, 5 + 1 + (1 + 2 + 2 + 3)), (false, 3)] {
        let mut budget = Budget::unlimited();
        let keep = |name: &[u8]| name.starts_with(b"kept");
        let cleared = sink.clear(&top, b"clearings", keep, &mut budget).unwrap();
        assert_eq!(cleared, Cleared { removed, dirs: dirs.clone() });
        assert_eq!(budget.removed(), cost);
        for name in ["gone", "gone file"] {
            assert_eq!(look(sink, &top, name), None);
        }
        for name in ["kept", "kept file", "kept link"] {
            assert!(look(sink, &top, name).is_some());
        }
    }
    assert!(matches!(sink.open(&top, b"kept/dir", b"told").unwrap(), Step::Dir(_)));
}
