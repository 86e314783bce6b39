//! What is said where a file of the caller's cannot be written: an export to a full disk, a closed standard
//! output, a layout on a full disk; a state directory that nobody may change; and files that may not be as long.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tests::layer;
use tests::oci::Image;

use super::{A, B, Of, fill_at, images, prepared};
use crate::bench::{Bench, Host, names};
use crate::damage::Mount;

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// This exit code, and all of these words.
fn told(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let said = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text)).concat();
    for word in words {
        assert!(said.contains(word), "{word:?} in {said}");
    }
}

/// A full file system of its own at `bench/full`, with nothing but what fills it and `before`.
fn full_disk(bench: &Bench, of: Of, before: impl FnOnce(&Path)) -> Mount {
    let disk = bench.path("full");
    fs::create_dir_all(&disk).unwrap();
    let mount = Mount::new(&["-t", "tmpfs", "-o", "size=2m,nr_inodes=400", "none"], &disk);
    before(&disk);
    fill_at(&disk.join("ballast"), of);
    mount
}

/// One that is up, of more changes than a disk has left.
fn changed(bench: &Bench) -> Host<'_> {
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    fs::write(host.store().join("active/a-1/srv/new"), vec![b'n'; 1 << 20]).unwrap();
    host
}

#[test]
fn an_export_to_a_full_disk_names_the_file_and_its_disk() {
    let bench = images();
    let host = changed(&bench);
    for (of, what) in [(Of::Bytes, "bytes"), (Of::Inodes, "inodes")] {
        let mount = full_disk(&bench, of, |_| {});
        let file = bench.path("full/layer.tar");
        let done = host.command(&["export", "a-1", "-o", text_of(&file)]).output().unwrap();
        told(&done, 111, &[text_of(&file), what, "no_space", text_of(&bench.path("full"))]);
        assert_eq!(names(&bench.path("full")), ["ballast"], "{of:?}");
        drop(mount);
    }
    // To standard output.
    let _mount = full_disk(&bench, Of::Bytes, |disk| fs::write(disk.join("out"), "").unwrap());
    for words in [&["export", "a-1"][..], &["export", "a-1", "--zstd"], &["ls"], &["config"]] {
        let out = fs::File::create(bench.path("full/out")).unwrap();
        let done = host.command(words).stdout(out).output().unwrap();
        told(&done, 111, &["standard output", "no bytes left"]);
    }
    host.check();
}

/// `>&-`: there is nothing that it could go to.
#[test]
fn an_export_to_a_closed_standard_output_is_refused() {
    let bench = images();
    let host = changed(&bench);
    let closed = |words: &[&str]| {
        let inner = host.command(words);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(inner.get_program());
        shell.args(inner.get_args()).env("VENEER_CONFIG", bench.path("settings.toml"));
        shell.stdout(Stdio::null()).output().unwrap()
    };
    told(&closed(&["export", "a-1"]), 100, &["standard output is closed", "-o FILE"]);
    told(&closed(&["send", "a-1"]), 100, &["standard output is closed", "-o FILE"]);
    // What is thrown away on purpose is not, whoever opened it, nor is what needs no output.
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let done = host.command(&["export", "a-1"]).stdout(null).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(closed(&["pin", A]).status.success());
    let file = bench.path("layer.tar");
    assert!(closed(&["export", "a-1", "-o", text_of(&file)]).status.success());
    assert!(file.exists());
}

/// Many tags: the index is no small file any more.
#[test]
fn an_export_into_a_layout_on_a_full_disk_leaves_the_layout_as_it_was() {
    let bench = images();
    let host = bench.host("host");
    let layer = bench.path("layer.tar");
    fs::write(&layer, layer::stacked(1, 4, 2000)).unwrap();
    let image = Image::new(&[layer], ("org.opencontainers.image.ref.name", "v1")).unwrap();
    let make = |disk: &Path| {
        image.write(&disk.join("layout")).unwrap();
        many_tags(&disk.join("layout/index.json"), 3000);
    };
    let mount = full_disk(&bench, Of::Inodes, make);
    let at = |tag: &str| format!("oci:{}:{tag}", bench.path("full/layout").display());
    host.ok(&["activate", &at("v1"), "--name", "w"]);
    fs::write(host.store().join("active/w/srv/new"), vec![b'n'; 1000]).unwrap();
    drop(mount);
    for (of, what) in [(Of::Bytes, "bytes"), (Of::Inodes, "inodes")] {
        let mount = full_disk(&bench, of, make);
        let index = fs::read(bench.path("full/layout/index.json")).unwrap();
        let to = at("v2");
        let done = host.command(&["export", "w", "--image", &to]).output().unwrap();
        told(&done, 111, &["full/layout", what, "no_space"]);
        assert_eq!(fs::read(bench.path("full/layout/index.json")).unwrap(), index);
        // What is there can be read all the same.
        host.ok(&["activate", &at("v1"), "--name", "again"]);
        host.ok(&["rm", "again"]);
        fs::remove_dir_all(bench.path("full/ballast")).unwrap();
        host.ok(&["export", "w", "--image", &to]);
        drop(mount);
    }
    host.check();
}

/// Writes so many names more of the image into an index.
fn many_tags(index: &Path, count: usize) {
    let mut document: serde_json::Value =
        serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    let one = document["manifests"][0].clone();
    let all = document["manifests"].as_array_mut().unwrap();
    for number in 0..count {
        let mut more = one.clone();
        more["annotations"]["org.opencontainers.image.ref.name"] = format!("tag-{number}").into();
        all.push(more);
    }
    fs::write(index, document.to_string()).unwrap();
}

fn attributes(change: &str, path: &Path) {
    let done = Command::new("chattr").arg(change).arg(path).status().unwrap();
    assert!(done.success(), "chattr {change} {}", path.display());
}

/// Takes the attribute away whatever comes.
struct Immutable(std::path::PathBuf);

impl Immutable {
    fn new(path: std::path::PathBuf) -> Immutable {
        attributes("+i", &path);
        Immutable(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        drop(Command::new("chattr").arg("-i").arg(&self.0).status());
    }
}

/// `chattr +i`: no right of root's is enough there.
#[test]
fn a_directory_that_nobody_may_change_is_named() {
    let bench = images();
    let one = prepared(&bench);
    let host = one.copy_to("host");
    for part in ["state", "store", "state/registry.db"] {
        let fixed = Immutable::new(host.dir.join(part));
        let path = host.dir.join(part);
        for words in [&["ensure", B][..], &["activate", B, "--name", "b-1"]] {
            let done = host.command(words).output().unwrap();
            told(&done, 100, &[text_of(&path), "chattr -i"]);
            let class = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(class.contains("\"denied\""), "{part} {words:?}: {class}");
        }
        drop(fixed);
    }
    host.ok(&["activate", B, "--name", "b-1"]);
    host.check();
}

/// `ulimit -f`: no file of the process may be as long. It ends with words, and not by a signal.
#[test]
fn a_process_whose_files_may_not_be_as_long_says_so() {
    let bench = images();
    let host = changed(&bench);
    let limited = |bytes: u64, words: &[&str]| {
        let inner = host.command(words);
        let mut command = Command::new("prlimit");
        command.arg(format!("--fsize={bytes}")).arg(inner.get_program()).args(inner.get_args());
        command.env("VENEER_CONFIG", bench.path("settings.toml"));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let file = bench.path("layer.tar");
    let done = limited(100_000, &["export", "a-1", "-o", text_of(&file)]);
    told(&done, 100, &[text_of(&file), "100000 bytes", "ulimit -f"]);
    assert!(!file.exists());
    for (bytes, words) in [
        (0, &["activate", B, "--name", "b-1"][..]),
        (1000, &["activate", B, "--name", "b-1"]),
        (40_000, &["activate", B, "--name", "b-1"]),
        (1000, &["rm", "a-1"]),
    ] {
        let done = limited(bytes, words);
        told(&done, 100, &[&format!("{bytes} bytes"), "ulimit -f"]);
    }
    host.ok(&["activate", B, "--name", "b-1"]);
    host.check();
    host.check_tree("b-1", 4);
}
