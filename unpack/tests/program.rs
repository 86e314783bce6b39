//! The program: its exit codes, its messages, and that it works inside its sandbox.

mod forge;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use forge::{Pen, gzip, tar};

fn unpack(args: &[&str], root: Option<&Path>, layer: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unpack"));
    command.args(args);
    if let Some(root) = root {
        command.arg("--root").arg(root);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let layer = layer.to_vec();
    let writer = std::thread::spawn(move || match stdin.write_all(&layer) {
        Ok(()) | Err(_) => {}
    });
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

fn json(out: &Output) -> serde_json::Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

fn stderr(out: &Output) -> String {
    String::from_utf8(out.stderr.clone()).unwrap()
}

fn layer() -> Vec<u8> {
    tar()
        .dir("d")
        .pax(&[("SCHILY.xattr.user.a", b"1"), ("mtime", b"5.5")])
        .file("d/f", "content")
        .hard("h", "d/f")
        .sym("s", "../d")
        .node("null", b'3', 1, 3)
        .node("pipe", b'6', 0, 0)
        .end()
}

#[test]
fn every_wall_stands_and_the_tree_is_the_same_as_without() {
    let (walled, bare) = (Pen::new(), Pen::new());
    let out = unpack(&["--json", "--sandbox", "require"], Some(&walled.root()), &gzip(&layer()));
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let summary = json(&out);
    let standing = summary["sandbox"].as_array().unwrap();
    assert_eq!(standing.len(), 7);
    assert!(standing.iter().all(|wall| wall["stands"] == true), "{standing:#?}");
    let out = unpack(&["--json", "--sandbox", "off"], Some(&bare.root()), &gzip(&layer()));
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(json(&out)["tree_digest"], summary["tree_digest"]);
    assert_eq!(walled.tree(), bare.tree());
    assert_eq!(forge::xattr(&walled.root().join("d/f"), "user.a"), Some(b"1".to_vec()));
    walled.unharmed();
}

/// Who has checked the layer before needs none, and says so: the tree is the same, for less work.
#[test]
fn a_layer_that_was_checked_before_needs_no_digests() {
    for (layer, sandbox) in [
        (layer(), "require"),
        (gzip(&layer()), "require"),
        (layer(), "off"),
        (gzip(&layer()), "off"),
    ] {
        let (all, none) = (Pen::new(), Pen::new());
        let words = ["--json", "--sandbox", sandbox];
        let with = json(&unpack(&words, Some(&all.root()), &layer));
        let out =
            unpack(&[&words[..], &["--digests", "none"]].concat(), Some(&none.root()), &layer);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        let mut without = json(&out);
        for digest in ["blob_digest", "diff_id", "tree_digest"] {
            assert!(with[digest].as_str().is_some_and(|text| !text.contains("00000000")), "{with}");
            assert_eq!(without.get(digest), None, "{without}");
            without[digest] = with[digest].clone();
        }
        assert_eq!(without, with);
        assert_eq!(none.tree(), all.tree());
    }
    let pen = Pen::new();
    let digest = "ab".repeat(32);
    for flag in [["--digest", &digest], ["--diff-id", &digest], ["--manifest", "/dev/null"]] {
        let out =
            unpack(&[&flag[..], &["--digests", "none"]].concat(), Some(&pen.root()), &layer());
        assert_eq!(out.status.code(), Some(100), "{out:?}");
        assert!(stderr(&out).contains(flag[0]), "{out:?}");
    }
    // Nobody vouches for a stream that just stops.
    let half = &layer()[..layer().len() - 1024];
    let out = unpack(&["--digests", "none"], Some(&pen.root()), half);
    assert_eq!(out.status.code(), Some(100), "{out:?}");
    assert!(stderr(&out).contains("no end marker"), "{out:?}");
}

#[test]
fn the_manifest_is_what_the_digest_says() {
    use sha2::{Digest, Sha256};
    let pen = Pen::new();
    let dir = forge::scratch();
    let path = dir.path().join("manifest");
    let out =
        unpack(&["--json", "--manifest", path.to_str().unwrap()], Some(&pen.root()), &layer());
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let manifest = std::fs::read(&path).unwrap();
    let digest: String = Sha256::digest(&manifest).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(json(&out)["tree_digest"], format!("sha256:{digest}"));
    let lines: Vec<serde_json::Value> = manifest
        .split(|&b| b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let paths: Vec<&str> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["d", "d/f", "h", "null", "pipe", "s"]);
    assert_eq!(lines[1]["xattrs"]["user.a"], "31");
    assert_eq!(lines[2]["link"], "d/f");
}

#[test]
fn verify_says_yes_and_no() {
    let pen = Pen::new();
    assert_eq!(unpack(&["-q"], Some(&pen.root()), &layer()).status.code(), Some(0));
    let out = unpack(&["--verify", "--json"], Some(&pen.root()), &layer());
    assert_eq!((out.status.code(), &json(&out)["equal"]), (Some(0), &true.into()), "{out:?}");
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 6] = [
        ("content", &|root| std::fs::write(root.join("d/f"), "Content").unwrap()),
        ("extra", &|root| std::fs::write(root.join("extra"), "").unwrap()),
        ("missing", &|root| std::fs::remove_file(root.join("s")).unwrap()),
        ("mode", &|root| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(root.join("d"), PermissionsExt::from_mode(0o700)).unwrap();
        }),
        ("link", &|root| {
            std::fs::remove_file(root.join("h")).unwrap();
            std::fs::copy(root.join("d/f"), root.join("h")).unwrap();
        }),
        ("owner", &|root| std::os::unix::fs::lchown(root.join("s"), Some(1), None).unwrap()),
    ];
    for (what, change) in changes {
        let pen = Pen::new();
        assert_eq!(unpack(&["-q"], Some(&pen.root()), &layer()).status.code(), Some(0));
        change(&pen.root());
        let out = unpack(&["--verify", "--json"], Some(&pen.root()), &layer());
        assert_eq!((out.status.code(), &json(&out)["equal"]), (Some(1), &false.into()), "{what}");
    }
}

#[test]
fn list_writes_nothing() {
    let out = unpack(&["--list", "--json"], None, &layer());
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 7);
    assert_eq!((&lines[1]["path"], &lines[1]["nsec"]), (&"d/f".into(), &500_000_000.into()));
    assert_eq!(lines[6]["summary"]["files"], 1);
}

#[test]
fn a_refusal_names_everything_and_is_100() {
    for sandbox in ["require", "off"] {
        let pen = Pen::new();
        let bad = tar().file("ok", "").file("a\x1b[2J/../../etc/shadow", "x").end();
        let out = unpack(&["--json", "--sandbox", sandbox], Some(&pen.root()), &bad);
        assert_eq!(out.status.code(), Some(100));
        assert_eq!(
            stderr(&out),
            "unpack: fatal: refused entry 1 \"a\\x1b[2J/../../etc/shadow\" at byte 512: path: \
             path holds \"..\": \"a\\x1b[2J/../../etc/shadow\"\n"
        );
        let value = json(&out);
        assert_eq!((&value["class"], &value["entry"]), (&"path".into(), &1.into()));
        pen.unharmed();
    }
}

#[test]
fn a_limit_says_its_flag_and_value() {
    let pen = Pen::new();
    let big = tar().file("f", [0; 5000]).end();
    let out = unpack(&["--file-bytes-max", "4K"], Some(&pen.root()), &big);
    assert_eq!(out.status.code(), Some(100));
    let text = stderr(&out);
    assert!(text.contains("limit: file too large: 5000 (limit --file-bytes-max 4096)"), "{text}");
    let out = Command::new(env!("CARGO_BIN_EXE_unpack"))
        .args(["--list"])
        .env("VENEER_UNPACK_ENTRIES_MAX", "many")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(100));
    assert!(stderr(&out).contains("VENEER_UNPACK_ENTRIES_MAX \"many\" is not a number"));
}

#[test]
fn usage_is_100_and_help_is_0() {
    for args in [
        &["--nope"][..],
        &["--devices", "all", "--root", "/tmp"],
        &[],
        &["--digest", "x", "--list"],
        &["--list", "--verify", "--root", "/tmp"],
    ] {
        let out = unpack(args, None, b"");
        assert_eq!(out.status.code(), Some(100), "{args:?} {out:?}");
        assert!(!out.stderr.is_empty() && out.stdout.is_empty(), "{args:?}");
    }
    let out = unpack(&["--help"], None, b"");
    assert_eq!(out.status.code(), Some(0));
    let help = String::from_utf8(out.stdout).unwrap();
    for code in ["0", "1", "100", "111"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{code} "))), "{help}");
    }
    let out = unpack(&[], Some(Path::new("/no/such/directory")), &layer());
    assert_eq!(out.status.code(), Some(100), "{out:?}");
}

#[test]
fn a_full_file_system_is_111() {
    let dir = forge::scratch();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=50", "none"])
        .arg(dir.path())
        .status()
        .expect("mount(8)");
    assert!(mounted.success(), "this test mounts a tmpfs: run it as root");
    let mut many = tar();
    for n in 0..100 {
        many = many.file(format!("{n}"), "");
    }
    let layers = [
        ("bytes", tar().file("f", vec![1; 2 << 20]).end()),
        ("small bytes", (0..40).fold(tar(), |t, n| t.file(format!("{n}"), vec![1; 60_000])).end()),
        ("inodes", many.end()),
    ];
    let mut codes = Vec::new();
    for (what, layer) in layers {
        for sandbox in ["require", "off"] {
            let root = dir.path().join("root");
            std::fs::create_dir(&root).unwrap();
            let out = unpack(&["--sandbox", sandbox], Some(&root), &layer);
            codes.push((what, out.status.code(), stderr(&out)));
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    for (what, code, text) in codes {
        assert_eq!(code, Some(111), "{what}: {text}");
        assert!(text.to_lowercase().contains("no space"), "{what}: {text}");
    }
}

/// More records than are held in memory, whose digests come later than they do.
#[test]
fn a_layer_of_many_files_gets_through() {
    let mut layer = tar();
    for n in 0..40_000 {
        layer = layer.file(format!("d{}/f{n}", n % 100), if n % 3 == 0 { "" } else { "body" });
    }
    let layer = layer.end();
    let mut digests = Vec::new();
    for sandbox in ["require", "off"] {
        let pen = Pen::new();
        let out = unpack(
            &["--json", "--sandbox", sandbox, "--time-max", "120"],
            Some(&pen.root()),
            &layer,
        );
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        digests.push(json(&out)["tree_digest"].clone());
        let out = unpack(&["--verify", "-q"], Some(&pen.root()), &layer);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
    }
    assert_eq!(digests[0], digests[1]);
}

/// The list of an image's chunks is kept up to date, tells whether the image is what it was, and is the same
/// whoever makes it; what is no list is left alone.
#[test]
fn the_list_of_chunks_goes_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (image, list) = (at("image"), at("list"));
    let run = |args: &[&str], stdin: &[u8]| {
        let out = unpack(args, None, stdin);
        (out.status.code().unwrap(), out)
    };
    assert_eq!(run(&["--image", &image, "--blank", "32M", "-q"], b"").0, 0);
    let mut digests = Vec::new();
    for sandbox in ["require", "off"] {
        let args = ["--image", &image, "--chunks", &list, "--json", "--sandbox", sandbox];
        let (code, out) = run(&args, &gzip(&layer()));
        assert_eq!(code, 0, "{out:?}");
        let digest = json(&out)["block_digest"].as_str().unwrap().to_owned();
        let (code, out) = run(&["--block-digest", "--image", &image], b"");
        assert_eq!((code, String::from_utf8(out.stdout).unwrap()), (0, format!("{digest}\n")));
        let (code, out) = run(&["--verify", "--image", &image, "--chunks", &list, "--json"], b"");
        assert_eq!((code, &json(&out)["block_digest"]), (0, &digest.clone().into()));
        digests.push(digest);
    }
    assert_ne!(digests[0], digests[1]);
    // Without the list of before, all is read, with the same result; a list of before that is not of this image
    // is none.
    let old = std::fs::read(&list).unwrap();
    assert_eq!(run(&["--image", &image, "-q"], &layer()).0, 0);
    let (code, out) = run(&["--verify", "--image", &image, "--chunks", &list], b"");
    assert!(code == 1 && stderr(&out).contains("not equal: "), "{out:?}");
    assert_eq!(run(&["--image", &image, "--chunks", &list, "-q"], &layer()).0, 0);
    assert_eq!(run(&["--verify", "--image", &image, "--chunks", &list], b"").0, 0);
    assert_ne!(std::fs::read(&list).unwrap(), old);
    let again = at("again");
    assert_eq!(run(&["--block-digest", "--image", &image, "--chunks", &again], b"").0, 0);
    assert_eq!(std::fs::read(&list).unwrap(), std::fs::read(&again).unwrap());
    let before = std::fs::read(&image).unwrap();
    for args in [
        &["--image", &image, "--chunks", &image][..],
        &["--block-digest", "--image", &image, "--chunks", &image],
        &["--verify", "--image", &image, "--chunks", &image],
        &["--chunks", &list, "--list"],
        &["--chunks", &list, "--root", "/tmp"],
        &["--block-digest", "--root", "/tmp"],
        &["--block-digest", "--image", &image, "--verify"],
        &["--verify", "--image", &image, "--chunks", &at("none")],
    ] {
        let (code, out) = run(args, &layer());
        assert_eq!(code, 100, "{args:?} {out:?}");
        assert!(std::fs::read(&image).unwrap() == before, "{args:?}");
    }
}
