//! What a tree has that another has not, as a layer: applied onto the other, it gives the tree. In both kinds of
//! trees, and from behind the walls in `fences`. Needs root, loop devices and GNU tar.

mod changes;
mod forge;
mod images;

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use changes::{Dice, change, plant, time};
use images::Mounted;
use unpack::{
    Before, Class, Devices, Diffed, Error, Geometry, Kind, Limits, Root, Stop, apply, apply_image,
    clone_tree, diff_images, diff_trees, image_manifest_replayed, make_blank, tree_manifest,
};

fn limits() -> Limits {
    Limits { devices: Devices::Keep, ..Limits::default() }
}

fn root(path: &Path) -> Root {
    Root::open(path).unwrap()
}

fn lines(manifest: Vec<u8>) -> Vec<String> {
    String::from_utf8(manifest).unwrap().lines().map(str::to_owned).collect()
}

fn tree(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    tree_manifest(&root(path), &mut [], &mut out).unwrap();
    lines(out)
}

fn image_tree(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    image_manifest_replayed(&File::open(path).unwrap(), &mut out, &limits()).unwrap();
    lines(out)
}

fn equal(found: &[String], wanted: &[String], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// GNU tar has no word against it; says how many entries it saw.
fn listed(layer: &[u8]) -> u64 {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, layer).unwrap();
    let out = Command::new("tar").arg("-tf").arg(file.path()).output().expect("tar");
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    out.stdout.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Two trees in directories.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = forge::scratch();
        for name in ["base", "upper", "applied"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Place { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The upper tree begins as the lower one, and so does the one that layers are applied to.
    fn begin(&self) {
        for name in ["upper", "applied"] {
            let to = root(&self.at(name));
            clone_tree(&root(&self.at("base")), &to, &Stop::default()).unwrap();
        }
    }

    fn try_diff(&self) -> Result<(Vec<u8>, Diffed), Error> {
        let mut layer = Vec::new();
        let (upper, base) = (root(&self.at("upper")), root(&self.at("base")));
        let diffed = diff_trees(&upper, &base, &mut layer, &limits())?;
        assert_eq!(diffed.bytes, layer.len() as u64);
        Ok((layer, diffed))
    }

    fn diff(&self) -> (Vec<u8>, Diffed) {
        self.try_diff().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The layer, applied, gives the upper tree.
    fn proven(&self) -> (Vec<u8>, Diffed) {
        let (layer, diffed) = self.diff();
        let applied = apply(Cursor::new(&layer), &root(&self.at("applied")), &limits()).unwrap();
        assert_eq!((applied.diff_id, applied.entries), (diffed.diff_id, diffed.entries));
        equal(&tree(&self.at("applied")), &tree(&self.at("upper")), "applied");
        (layer, diffed)
    }
}

/// An image of our own writer with a layer in it.
fn image(path: &Path, layer: &[u8]) {
    let geometry = Geometry::new(256 << 20, 4096, 30_000, 1 << 20).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(geometry.bytes()).unwrap();
    make_blank(&file, geometry, Before::Unknown).unwrap();
    apply_image(Cursor::new(layer), &file, &limits(), None).unwrap();
}

#[test]
fn a_thousand_changes_in_directories_come_back() {
    for (seed, count) in [(1u64, 1), (2, 5), (3, 40), (5, 200), (7, 400), (11, 400)] {
        let (place, mut dice) = (Place::new(), Dice(seed));
        plant(&place.at("base"), &mut dice, 120);
        place.begin();
        for _ in 0..count {
            change(&place.at("upper"), &mut dice);
        }
        let (layer, diffed) = place.proven();
        assert_eq!(listed(&layer), diffed.entries, "seed {seed}");
        assert_eq!(place.diff().0, layer, "seed {seed}: the same trees, the same bytes");
    }
}

/// A guest's kernel makes the changes, and the image is taken as it is, with what is in its journal.
#[test]
fn a_thousand_changes_in_images_come_back() {
    for (seed, count) in [(101u64, 3), (102, 60), (103, 300), (104, 700)] {
        let (place, mut dice) = (Place::new(), Dice(seed));
        plant(&place.at("base"), &mut dice, 120);
        let empty = tempfile::tempdir().unwrap();
        let mut first = Vec::new();
        diff_trees(&root(&place.at("base")), &root(empty.path()), &mut first, &limits()).unwrap();
        let (base, live, upper, applied) =
            (place.at("b.img"), place.at("live.img"), place.at("u.img"), place.at("a.img"));
        image(&base, &first);
        fs::copy(&base, &live).unwrap();
        fs::copy(&base, &applied).unwrap();
        let mounted = Mounted::new(&live, "rw");
        for _ in 0..count {
            change(&mounted.0, &mut dice);
        }
        // As after a crash of the guest: what is in the journal only counts as well.
        File::open(&mounted.0).and_then(|top| Ok(rustix::fs::syncfs(&top)?)).unwrap();
        fs::copy(&live, &upper).unwrap();
        drop(mounted);
        let mut layer = Vec::new();
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let diffed = diff_images(&open(&upper), &open(&base), true, &mut layer, &limits()).unwrap();
        assert_eq!(listed(&layer), diffed.entries, "seed {seed}");
        apply_image(Cursor::new(&layer), &open(&applied), &limits(), None)
            .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        equal(&image_tree(&applied), &image_tree(&upper), &format!("image, seed {seed}"));
        forge::twin::checked(&applied);
        // Onto a directory it is the same layer.
        place.begin();
        let to = root(&place.at("applied"));
        apply(Cursor::new(&layer), &to, &limits()).unwrap();
        let without = |tree: Vec<String>| -> Vec<String> {
            let is = |line: &&String| !line.starts_with(r#"{"path":"lost+found""#);
            tree.iter().filter(is).cloned().collect()
        };
        let here = without(tree(&place.at("applied")));
        equal(&here, &without(image_tree(&upper)), &format!("directory, seed {seed}"));
    }
}

#[test]
fn equal_trees_give_an_empty_layer() {
    let place = Place::new();
    plant(&place.at("base"), &mut Dice(17), 60);
    place.begin();
    let (layer, diffed) = place.proven();
    assert_eq!(layer, vec![0; 1024]);
    assert_eq!(Diffed { bytes: 1024, diff_id: diffed.diff_id, ..Diffed::default() }, diffed);
}

/// Names in a layer, as its own reader has them.
fn names(layer: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    unpack::list(Cursor::new(layer), &limits(), |entry| {
        let path = String::from_utf8_lossy(&entry.path);
        names.push(format!("{} {path}", entry.node.name()));
    })
    .unwrap();
    names
}

/// A group of hard links is brought whole, or not at all.
#[test]
fn links_are_brought_whole_or_stay() {
    let place = Place::new();
    let base = |name: &str| place.at("base").join(name);
    fs::create_dir(base("d")).unwrap();
    for group in ["kept", "more", "less", "split", "first"] {
        fs::write(base(group), group).unwrap();
        fs::hard_link(base(group), base("d").join(format!("{group}-2"))).unwrap();
        fs::hard_link(base(group), base(&format!("{group}-3"))).unwrap();
    }
    for name in ["joined", "joined-2"] {
        fs::write(base(name), "two files below").unwrap();
    }
    place.begin();
    let upper = |name: &str| place.at("upper").join(name);
    fs::remove_file(upper("joined-2")).unwrap();
    fs::hard_link(upper("joined"), upper("joined-2")).unwrap();
    fs::hard_link(upper("more"), upper("d/more-4")).unwrap();
    fs::remove_file(upper("less-3")).unwrap();
    // The same in all that can be seen of it, and another inode.
    fs::remove_file(upper("split-3")).unwrap();
    fs::copy(upper("split"), upper("split-3")).unwrap();
    let was = fs::metadata(upper("split")).unwrap();
    use std::os::unix::fs::MetadataExt;
    time(&upper("split-3"), was.mtime(), was.mtime_nsec());
    // Sorted, it is the first name that is gone.
    fs::remove_file(upper("d/first-2")).unwrap();
    let (layer, diffed) = place.proven();
    let names = names(&layer);
    let of = |what: &str| -> Vec<&str> {
        names.iter().filter(|name| name.contains(what)).map(String::as_str).collect()
    };
    assert_eq!(of("kept"), [""; 0]);
    assert_eq!(
        of("more"),
        ["file d/more-2", "hardlink d/more-4", "hardlink more", "hardlink more-3"]
    );
    assert_eq!(of("less"), ["whiteout less-3"]);
    assert_eq!(of("joined"), ["file joined", "hardlink joined-2"]);
    assert_eq!(of("split"), ["file split-3"]);
    assert_eq!(of("first"), ["whiteout d/first-2", "file first", "hardlink first-3"]);
    assert_eq!((diffed.added, diffed.removed), (1, 2), "{diffed:?}");
}

/// What a layer cannot hold is refused by its name before a byte is written; what it need not hold is counted.
#[test]
fn what_no_layer_can_hold_is_refused_or_counted() {
    let place = Place::new();
    fs::create_dir(place.at("base").join("d")).unwrap();
    let long = "x".repeat(252);
    fs::write(place.at("base").join(&long), "").unwrap();
    place.begin();
    let upper = |name: &str| place.at("upper").join(name);
    let _socket = UnixListener::bind(upper("d/socket")).unwrap();
    fs::write(upper("d/file"), "x").unwrap();
    let set = |key| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(upper("d/file"), key, b"1", flags)
    };
    set("user.overlay.opaque").unwrap();
    let (layer, diffed) = place.diff();
    assert_eq!((diffed.sockets, diffed.attributes, diffed.added), (1, 1, 1));
    assert_eq!(names(&layer), ["dir ", "dir d", "file d/file"]);
    // A directory in which there is only a socket more has another time, and that is all.
    let refused = |named: &str, rule: &str| {
        let mut layer = Vec::new();
        let (upper, base) = (root(&place.at("upper")), root(&place.at("base")));
        let error = diff_trees(&upper, &base, &mut layer, &limits()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(named) && text.contains(rule), "{text}");
        assert_eq!((layer.len(), error.kind()), (0, Kind::Refused), "{text}");
        error
    };
    fs::write(upper("d/.wh.trap"), "").unwrap();
    let error = refused("d/.wh.trap", "begins with .wh.");
    assert_eq!(error.class(), Some(Class::Whiteout));
    fs::remove_file(upper("d/.wh.trap")).unwrap();
    fs::remove_file(upper(&long)).unwrap();
    refused("xxxx", "too long for a whiteout");
    fs::write(upper(&long), "").unwrap();
    set("user.a=b").unwrap();
    refused("d/file", "holds a =");
    fs::remove_file(upper("d/file")).unwrap();
    fs::create_dir_all(upper(&"e/".repeat(300))).unwrap();
    let error = place.try_diff().unwrap_err();
    assert!(error.to_string().contains("--depth-max"), "{error}");
    // Deeper than any path reaches: made step by step, as a guest may.
    fs::remove_dir_all(upper("e")).unwrap();
    let mut at = File::open(place.at("upper")).unwrap();
    let name = "n".repeat(250);
    for _ in 0..17 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    let error = place.try_diff().unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert!(error.to_string().contains("path too long"), "{error}");
}

/// Time, size and inode are the same, and the bytes are not.
#[test]
fn bytes_are_compared_and_not_times() {
    let place = Place::new();
    let file = |tree: &str| place.at(tree).join("f");
    fs::write(file("base"), vec![b'a'; 100_000]).unwrap();
    time(&file("base"), 5, 5);
    place.begin();
    File::options().write(true).open(file("upper")).unwrap().write_all_at(b"b", 70_000).unwrap();
    time(&file("upper"), 5, 5);
    let (layer, _) = place.proven();
    assert_eq!(names(&layer), ["dir ", "file f"]);
}

/// Holes are a map, as long as it is a short one: what is on the wire does not grow with them.
#[test]
fn holes_are_not_written_out() {
    let place = Place::new();
    place.begin();
    let file = File::create(place.at("upper").join(format!("{}/f", "."))).unwrap();
    file.write_all_at(b"at the beginning", 0).unwrap();
    file.write_all_at(b"in the middle", 3 << 30).unwrap();
    file.set_len(4 << 30).unwrap();
    let (layer, diffed) = place.diff();
    assert!(layer.len() < 64 << 10, "{}", layer.len());
    assert_eq!(diffed.content_bytes, 4 << 30);
    listed(&layer);
    let mut sizes = Vec::new();
    unpack::list(Cursor::new(&layer), &limits(), |entry| {
        if let unpack::Node::File { size } = entry.node {
            sizes.push((entry.path.clone(), size));
        }
    })
    .unwrap();
    assert_eq!(sizes, [(b"f".to_vec(), 4 << 30)]);
}

/// Two images that somebody made to lead a reader astray: an error with the rule, and a bound on what it costs.
#[test]
fn a_hostile_image_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = images::fuzzer::small(dir.path(), "-t ext4 -b 1024 -N 256");
    let good = dir.path().join("good");
    fs::copy(&path, &good).unwrap();
    let diff = |limits: &Limits| {
        let (upper, base) = (File::open(&path).unwrap(), File::open(&good).unwrap());
        diff_images(&upper, &base, true, &mut Vec::new(), limits)
    };
    assert_eq!(diff(&limits()).unwrap().entries, 0);
    images::fuzzer::debugfs(&path, &["link a a/b/c/again"]);
    match diff(&limits()) {
        Err(Error::Image { flaw }) => assert!(flaw.rule.contains("two names"), "{flaw}"),
        other => panic!("{other:?}"),
    }
    fs::copy(&good, &path).unwrap();
    images::fuzzer::debugfs(&path, &["sif a/file size 0x7fffffffffff"]);
    let error = diff(&limits()).unwrap_err();
    assert!(error.to_string().contains("--file-bytes-max"), "{error}");
    let soon = Limits { time_max: std::time::Duration::ZERO, ..limits() };
    assert_eq!(diff(&soon).unwrap_err().kind(), Kind::TimedOut);
}

/// The program: a layer on standard output, words on standard error, and nothing else on either.
#[test]
fn the_program_writes_a_layer_that_it_takes() {
    let place = Place::new();
    plant(&place.at("base"), &mut Dice(23), 40);
    place.begin();
    for _ in 0..30 {
        change(&place.at("upper"), &mut Dice(29));
    }
    let call = |args: &[&str], input: &[u8]| {
        let layer = place.at("layer");
        fs::write(&layer, input).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
        program.args(args).current_dir(place.dir.path()).stdin(File::open(&layer).unwrap());
        program.output().unwrap()
    };
    let require = ["--sandbox", "require"];
    let with = |args: &[&'static str]| [args, &require[..]].concat();
    let out = call(&with(&["--diff", "--root", "upper", "--base", "base", "--json"]), b"");
    assert!(out.status.success(), "{out:?}");
    let said: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(said["bytes"], out.stdout.len());
    let diff_id = said["diff_id"].as_str().unwrap();
    let args = ["--root", "applied", "--devices", "keep", "--diff-id", diff_id];
    let applied = call(&args, &out.stdout);
    assert!(applied.status.success(), "{applied:?}");
    equal(&tree(&place.at("applied")), &tree(&place.at("upper")), "applied");
    for (args, rule) in [
        (&["--diff", "--root", "upper"][..], "by --base"),
        (&["--diff", "--base", "base"], "by --root or --image"),
        (&["--base", "base", "--root", "applied"], "--base is for --diff"),
        (&["--diff", "--root", "upper", "--base", "base", "--replay"], "no journal"),
        (&["--diff", "--root", "upper", "--base", "base", "--list"], "none of --list"),
        (&["--diff", "--root", "upper", "--base", "base", "--digest", "x"], "is not a digest"),
        (&["--diff", "--root", "upper", "--base", "none"], "No such file"),
        (&["--diff", "--image", "upper", "--base", "base"], "neither a regular file"),
    ] {
        let out = call(args, b"");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(100) && text.contains(rule), "{args:?}: {text}");
        assert_eq!(out.stdout, b"", "{args:?}");
    }
}
