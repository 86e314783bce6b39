//! What the program says of images and of flags that do not fit: each refusal names the thing, the value and
//! what to do. Needs a loop device for one of them.

mod forge;
mod images;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forge::tar;
use images::run;

/// A place with a blank image.
struct Place {
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let place = Place { dir, image };
        let said = place.call(&["--blank", "64M"], b"");
        assert_eq!(said.0, Some(0), "{said:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn on(&self, image: &Path, args: &[&str], layer: &[u8], out: Stdio) -> (Option<i32>, String) {
        fs::write(self.path("layer"), layer).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
        program.args(args).arg("--image").arg(image).stdout(out);
        program.stdin(File::open(self.path("layer")).unwrap());
        let out = program.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn call(&self, args: &[&str], layer: &[u8]) -> (Option<i32>, String) {
        self.on(&self.image, args, layer, Stdio::piped())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }
}

fn layer() -> Vec<u8> {
    tar().dir("d").file("d/f", "content").end()
}

/// A result that nobody could take is no reason to give the layer again, which would then be there twice.
#[test]
fn a_sealed_layer_whose_result_is_not_taken_is_told_as_done() {
    let place = Place::new();
    for standard in ["full", "closed"] {
        let before = place.bytes();
        let out = match standard {
            "full" => Stdio::from(File::options().write(true).open("/dev/full").unwrap()),
            _ => Stdio::from(std::io::pipe().unwrap().1),
        };
        let (code, text) = place.on(&place.image, &["--json"], &layer(), out);
        assert_eq!(code, Some(100), "{standard}: {text}");
        assert!(text.contains("sealed, so do not give it again"), "{standard}: {text}");
        assert!(before != place.bytes());
        let (code, text) = place.call(&["--tree-digest"], b"");
        assert_eq!(code, Some(0), "{text}");
    }
}

/// An image that a layer was begun in is no tree that has a digest, whatever of a journal counts.
#[test]
fn a_begun_image_has_no_digest() {
    let place = Place::new();
    let cut = &layer()[..700];
    assert_eq!(place.call(&[], cut).0, Some(100));
    for args in [&["--tree-digest"][..], &["--tree-digest", "--replay"]] {
        let (code, text) = place.call(args, b"");
        assert!(code == Some(100) && text.contains("begun in it and has not ended"), "{text}");
    }
    // What a guest has used is as good as any other file system.
    let place = Place::new();
    assert_eq!(place.call(&[], &layer()).0, Some(0));
    drop(images::Mounted::new(&place.image, "rw"));
    let (code, text) = place.call(&["--tree-digest"], b"");
    assert_eq!(code, Some(0), "{text}");
}

/// What is refused leaves the file of an older manifest, and a manifest that cannot be made leaves the image.
#[test]
fn neither_of_image_and_manifest_is_spoiled_for_the_other() {
    let place = Place::new();
    let before = place.bytes();
    let (code, text) = place.call(&["--manifest", "/proc/none"], &layer());
    assert!(code == Some(100) && text.contains("unable to create"), "{text}");
    assert!(before == place.bytes());
    let (manifest, foreign) = (place.path("manifest"), place.path("foreign"));
    fs::write(&manifest, "older").unwrap();
    fs::write(&foreign, vec![b'x'; 1 << 20]).unwrap();
    let args = ["--manifest", manifest.to_str().unwrap()];
    let (code, text) = place.on(&foreign, &args, &layer(), Stdio::piped());
    assert!(code == Some(100) && text.contains("not made"), "{text}");
    assert_eq!(fs::read(&manifest).unwrap(), b"older");
    let (code, text) = place.call(&args, &layer());
    assert_eq!(code, Some(0), "{text}");
    assert!(fs::read_to_string(&manifest).unwrap().contains("d/f"));
}

/// A flag that means nothing where it stands is refused by its name.
#[test]
fn flags_that_mean_nothing_are_refused() {
    let place = Place::new();
    let before = place.bytes();
    let zeros = "0".repeat(64);
    let layer_to_image: [(&[&str], &str); 9] = [
        (&["--inodes", "5"], "--inodes is for --blank"),
        (&["--block", "4K"], "--block is for --blank"),
        (&["--align", "1M"], "--align is for --blank"),
        (&["--force"], "--force is for --device with --blank"),
        (&["--parent-sealed"], "--parent-sealed is for --device"),
        (&["--upper"], "--upper is for --verify"),
        (&["--shown-max", "5"], "--shown-max is for --verify"),
        (&["--place-min", "5"], "--place-min is for --root"),
        (&["--verify"], "none of --root, --list and --verify"),
    ];
    let blank: [(&[&str], &str); 5] = [
        (&["--blank", "64M", "--manifest", "m"], "--manifest is for a layer"),
        (&["--blank", "64M", "--digest", &zeros], "--digest is for a layer"),
        (&["--blank", "64M", "--json"], "--json is for a layer"),
        (&["--blank", "64M", "--force"], "--force is for --device"),
        (&["--tree-digest", "--diff-id", &zeros], "--diff-id is for a layer"),
    ];
    for (args, wanted) in layer_to_image.into_iter().chain(blank) {
        let (code, text) = place.call(args, &layer());
        assert!(code == Some(100) && text.contains(wanted), "{args:?}: {text}");
        assert!(before == place.bytes(), "{args:?}");
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
    let out = program.args(["--blank", "4M", "--root"]).arg(place.dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("--blank is for --image and --device"), "{text}");
}

/// Values that are too large, or not spelt so, are told with what may be said.
#[test]
fn values_are_refused_with_their_limits() {
    let place = Place::new();
    let other = place.path("other");
    let cases = [
        (["--blank", "64m"], "", "as capitals"),
        (["--align", "4G"], "64M", "--align 4294967296: it is a power of two from 64K to 1G"),
        (["--align", "3M"], "64M", "a power of two from 64 KiB to 1 GiB, and not: 3145728"),
        (["--block", "8G"], "64M", "--block 8589934592: it is 2K or 4K"),
    ];
    for (args, blank, wanted) in cases {
        let mut all = args.to_vec();
        if !blank.is_empty() {
            all.extend(["--blank", blank]);
        }
        let (code, text) = place.on(&other, &all, b"", Stdio::piped());
        assert!(code == Some(100) && text.contains(wanted), "{args:?}: {text}");
    }
    let mut links = tar().file("f", "");
    for n in 0..65_000 {
        links = links.hard(format!("l{n}"), "f");
    }
    let (code, text) = place.call(&[], &links.end());
    assert!(code == Some(100) && text.contains("it has 65000, the most"), "{text}");
    let place = Place::new();
    let (parts, map) = (1361u64, (0..1361).map(|n| format!("{},4096", n * 8192)));
    let (size, map) = ((parts * 8192).to_string(), map.collect::<Vec<_>>().join(","));
    let sparse: [(&str, &[u8]); 6] = [
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"1361"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let layer = tar().pax(&sparse).file("x", vec![b'p'; 1361 * 4096]).end();
    let (code, text) = place.call(&[], &layer);
    assert!(code == Some(100) && text.contains("in more than 1360 pieces: 1361"), "{text}");
}

/// A block device in the place of a file, and the other way round.
#[test]
fn a_device_is_named_by_its_flag() {
    let place = Place::new();
    let mut attach = Command::new("losetup");
    let out = attach.args(["--find", "--show"]).arg(&place.image).output().unwrap();
    let device = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    assert!(out.status.success(), "losetup, as root: {out:?}");
    let said = [&[][..], &["--blank", "64M"]]
        .map(|args| place.on(Path::new(&device), args, &layer(), Stdio::piped()));
    run("losetup", &["-d", &device].map(AsRef::as_ref));
    for (code, text) in said {
        assert!(code == Some(100) && text.contains("name it by --device"), "{text}");
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
    let out = program.arg("--device").arg(&place.image).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("name it by --image"), "{text}");
}

/// A pipe is not waited for, and a directory is refused for good.
#[test]
fn what_is_no_file_is_refused_where_an_image_is_read() {
    let place = Place::new();
    let (pipe, list) = (place.path("pipe"), place.path("list"));
    run("mkfifo", &[pipe.as_os_str()]);
    assert_eq!(place.call(&["--chunks", list.to_str().unwrap()], &layer()).0, Some(0));
    let verify = ["--verify", "--chunks", list.to_str().unwrap()];
    for path in [&pipe, &place.path("")] {
        for args in [&["--tree-digest"][..], &["--block-digest"], &verify] {
            let (code, text) = place.on(path, args, b"", Stdio::piped());
            assert_eq!(code, Some(100), "{path:?} {args:?}: {text}");
            assert!(text.contains("neither a regular file"), "{text}");
        }
    }
}

/// What nobody hears on standard error changes no answer.
#[test]
fn a_standard_error_that_is_full_changes_no_answer() {
    let place = Place::new();
    fs::write(place.path("layer"), layer()).unwrap();
    for (args, wanted) in [(&[][..], 0), (&["--grow"], 0), (&["--inodes", "x"], 100)] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
        program.args(args).arg("--image").arg(&place.image).stderr(full);
        program.stdin(File::open(place.path("layer")).unwrap());
        assert_eq!(program.status().unwrap().code(), Some(wanted), "{args:?}");
    }
}

/// A list goes into a regular file, whose place is found before the layer is applied; a device is left alone.
#[test]
fn a_list_that_cannot_be_kept_costs_no_layer_and_no_device() {
    let place = Place::new();
    let (before, null) = (place.bytes(), place.path("null"));
    run("mknod", &[null.as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()]);
    for path in [null.clone(), place.path("none/list"), place.path("")] {
        let (code, text) = place.call(&["--chunks", path.to_str().unwrap()], &layer());
        assert_eq!(code, Some(100), "{path:?}: {text}");
        assert!(before == place.bytes(), "{path:?}: {text}");
    }
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
    let list = place.path("list");
    let (code, text) = place.call(&["--chunks", list.to_str().unwrap()], &layer());
    assert_eq!(code, Some(0), "{text}");
    let left: Vec<_> =
        fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("list.")), "{left:?}");
}

/// What lies beyond the size that a layer's files may have is a part of an image all the same.
#[test]
fn an_image_may_be_larger_than_any_file_in_it() {
    let place = Place::new();
    let large = place.path("large");
    let (code, text) = place.on(&large, &["--blank", "2T"], b"", Stdio::piped());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = place.on(&large, &[], &layer(), Stdio::piped());
    assert_eq!(code, Some(0), "{text}");
}

/// A growth for which the disk has no room leaves no image that is shorter than it says.
#[test]
fn a_growth_that_the_disk_ends_is_told_and_cuts_nothing() {
    let place = Place::new();
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=20m", "tmpfs"].map(AsRef::as_ref);
    run("mount", &[&args[..], &[small.as_os_str()]].concat());
    let image = small.join("image");
    let done = place.on(&image, &["--blank", "128M"], b"", Stdio::piped());
    let applied = place.on(&image, &[], &layer(), Stdio::piped());
    let fill = fs::write(small.join("fill"), vec![1; 20 << 20]);
    let (code, text) = place.on(&image, &["--grow"], b"", Stdio::piped());
    let len = fs::metadata(&image).unwrap().len();
    run("umount", &[small.as_os_str()]);
    assert_eq!((done.0, applied.0), (Some(0), Some(0)), "{done:?} {applied:?}");
    assert!(fill.is_err(), "the disk has room");
    assert_eq!((code, len), (Some(100), 256 << 20), "{text}");
    assert!(text.contains("a growth was begun and has not ended"), "{text}");
}
