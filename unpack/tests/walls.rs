//! A sandbox that lacks a wall: said, or refused; and what a host is short of is not the sandbox's fault.

mod forge;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use forge::{Pen, tar};

const NOBODY: u32 = 65534;

/// The program behind `before`, which gets it as its last words.
fn run(before: &[&str], args: &[&str], root: &Path, layer: &[u8]) -> Output {
    // Where anybody may run it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("unpack");
    // By another process: a thread that starts one meanwhile would have our copy open, and busy.
    let copied =
        Command::new("cp").args([Path::new(env!("CARGO_BIN_EXE_unpack")), &program]).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(&program).args(args).arg("--root").arg(root);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("setpriv, of util-linux, is needed");
    let (mut stdin, layer) = (child.stdin.take().unwrap(), layer.to_vec());
    let writer = std::thread::spawn(move || match stdin.write_all(&layer) {
        Ok(()) | Err(_) => {}
    });
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

fn walls(out: &Output) -> Vec<(String, bool, String)> {
    let said: serde_json::Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let walls = said["sandbox"].as_array().unwrap_or_else(|| panic!("{said}"));
    walls
        .iter()
        .map(|wall| (text(&wall["wall"]), wall["stands"] == true, text(&wall["note"])))
        .collect()
}

fn layer() -> Vec<u8> {
    tar().dir("d").file("d/f", "content").end()
}

#[test]
fn a_right_that_lacks_is_named_and_never_tried_again() {
    for (caps, wanted) in [
        ("-sys_admin", &["mount: ", "CAP_SYS_ADMIN"][..]),
        ("-sys_chroot", &["chroot: ", "CAP_SYS_CHROOT"]),
        ("-sys_admin,-sys_chroot", &["mount: ", "CAP_SYS_ADMIN", "chroot: ", "CAP_SYS_CHROOT"]),
    ] {
        let before = ["setpriv", "--bounding-set", caps, "--inh-caps", caps];
        let pen = Pen::new();
        let out = run(&before, &["--json", "--sandbox", "require"], &pen.root(), &layer());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(100), "{caps}: {out:?}");
        for word in wanted.iter().chain(&["--sandbox on"]) {
            assert!(said.contains(word), "{caps}: {word:?} in {said}");
        }
        assert!(fs::read_dir(pen.root()).unwrap().next().is_none(), "something was written");
        // With fewer it is done, and said which.
        let out = run(&before, &["--json", "--sandbox", "on"], &pen.root(), &layer());
        assert_eq!(out.status.code(), Some(0), "{caps}: {out:?}");
        for (wall, stands, note) in walls(&out) {
            let down = wanted.contains(&format!("{wall}: ").as_str());
            assert_eq!(stands, !down, "{wall}: {note}");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(said.contains(&format!("without the wall {wall}: {note}")), down, "{said}");
        }
    }
}

/// Who is not root gets the walls that take a right in a user namespace, and its own files in the tree.
#[test]
fn all_walls_stand_without_root() {
    let before = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set=-all",
    ];
    let pen = Pen::new();
    fs::set_permissions(pen.root().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    chown(pen.root(), Some(NOBODY), Some(NOBODY)).unwrap();
    let own: &[(&str, &[u8])] = &[("uid", b"65534"), ("gid", b"65534")];
    let layer = tar().pax(own).dir("d").pax(own).file("d/f", "content").end();
    let out = run(&before, &["--json", "--sandbox", "require"], &pen.root(), &layer);
    if !out.status.success() {
        // A host that lets nobody make one says so, and how to do without.
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let told = said.contains("user namespaces") && said.contains("--sandbox on");
        assert!(out.status.code() == Some(100) && told, "{out:?}");
        assert!(
            fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone")
                .is_ok_and(|text| text.trim() == "0")
                || fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
                    .is_ok_and(|text| text.trim() == "1"),
            "{said}"
        );
        return;
    }
    assert!(walls(&out).iter().all(|(_, stands, _)| *stands), "{out:?}");
    let made = fs::metadata(pen.root().join("d/f")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.len()), (NOBODY, NOBODY, 7));
    // What takes root is still refused, as without a namespace.
    let foreign = tar().file("f", "of root").end();
    let out = run(&before, &["--sandbox", "require"], &pen.root(), &foreign);
    assert_eq!(out.status.code(), Some(100), "{out:?}");
}

/// RLIMIT_FSIZE ends nobody and is tried again: the operator may lift it.
#[test]
fn a_limit_on_files_is_tried_again() {
    let big = vec![b'x'; 6 << 20];
    // Blocks of 512 bytes: too few for the memory that both processes share, and for the file.
    for blocks in ["8", "8192"] {
        for sandbox in ["require", "on", "off"] {
            let line = format!("ulimit -f {blocks}; exec \"$@\"");
            let before = ["sh", "-c", &line, "sh"];
            let pen = Pen::new();
            let args = ["--sandbox", sandbox];
            let out = run(&before, &args, &pen.root(), &tar().file("f", &big).end());
            assert_eq!(out.status.code(), Some(111), "{blocks}, {sandbox}: {out:?}");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(said.contains("File too large"), "{said}");
        }
    }
}
