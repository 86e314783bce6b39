//! `activate --copy`: files of the caller's in a new activation, and nowhere else; killed in between, and taken up.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::layer;

use crate::bench::{Bench, Host, names};
use crate::matrix::killed_once;

const A: &str = "s3://bucket/a/";

/// A file of the caller's, for everybody to run, and as it is named for `--copy`.
fn file(bench: &Bench, name: &str, content: &str, to: &str) -> String {
    let path = bench.path(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    format!("{}:{to}", path.display())
}

fn tree(host: &Host<'_>, name: &str) -> PathBuf {
    host.store().join("active").join(name).canonicalize().unwrap()
}

/// Owner, group and mode of what is there itself.
fn of(path: &Path) -> (u32, u32, u32) {
    let is = fs::symlink_metadata(path).unwrap();
    (is.uid(), is.gid(), is.mode() & 0o7777)
}

#[test]
fn files_take_the_place_of_whatever_is_there() {
    let bench = Bench::small();
    bench.put(
        "u/1.tar",
        &layer::of_root(&[
            ("usr/sbin/old", b"old", 0o700),
            ("opt/app/deep/file", b"x", 0o600),
            ("etc/keep", b"kept", 0o640),
            ("srv/plain", b"plain", 0o644),
        ]),
    );
    bench.put("u/2.tar", &layer::links(&[("sbin", "usr/sbin"), ("etc/link", "keep")]));
    let host = bench.host("host");
    let copies = [
        file(&bench, "init", "#!init\n", "/sbin/init"),
        file(&bench, "app", "app\n", "/opt/app:0700"),
        file(&bench, "link", "no link\n", "/etc/link:4644"),
        file(&bench, "plain", "", "/srv/plain"),
        file(&bench, "deep", &"d".repeat(100_000), "/new/parents/deep"),
    ];
    let mut words = vec!["activate", "s3://bucket/u/", "--name", "web"];
    words.extend(copies.iter().flat_map(|copy| ["--copy", copy]));
    let dry = host.ok(&[&words[..], &["--dry-run"]].concat());
    assert_eq!((&dry["copied"], &dry["dry_run"]), (&json!(0), &json!(true)));
    let done = host.ok(&words);
    assert_eq!((&done["copied"], &done["already"]), (&json!(5), &json!(false)));
    let web = tree(&host, "web");
    let is = |path: &str| fs::read_to_string(web.join(path)).unwrap();
    assert_eq!(is("usr/sbin/init"), "#!init\n");
    assert_eq!(fs::read_link(web.join("sbin")).unwrap(), Path::new("usr/sbin"));
    assert_eq!(is("usr/sbin/old"), "old");
    assert_eq!((is("opt/app"), of(&web.join("opt/app"))), ("app\n".into(), (0, 0, 0o700)));
    assert_eq!((is("etc/link"), of(&web.join("etc/link"))), ("no link\n".into(), (0, 0, 0o4644)));
    assert_eq!(is("etc/keep"), "kept");
    assert_eq!((is("srv/plain"), of(&web.join("srv/plain"))), (String::new(), (0, 0, 0o751)));
    assert_eq!(is("new/parents/deep").len(), 100_000);
    assert_eq!(
        of(&web.join("usr/sbin/init")),
        (0, 0, 0o751),
        "set-id is taken over only where it is said"
    );
    for parent in ["new", "new/parents"] {
        assert_eq!(of(&web.join(parent)), (0, 0, 0o755));
    }
    host.check();

    // What is there already is left as it is, also where the file is another by now, or gone.
    fs::write(bench.path("init"), "another").unwrap();
    let again = host.ok(&words);
    assert_eq!((&again["copied"], &again["already"]), (&json!(0), &json!(true)));
    fs::remove_file(bench.path("init")).unwrap();
    assert_eq!(host.ok(&words)["copied"], 0);
    let output = host.command(&words).args(["--quiet"]).output().unwrap();
    assert!(output.status.success());
    file(&bench, "init", "another", "/sbin/init");
    host.ok(&["deactivate", "web"]);
    assert_eq!(host.ok(&words)["copied"], 0);
    assert_eq!(is("usr/sbin/init"), "#!init\n");
    // The layers have nothing of it, nor has the next activation.
    host.ok(&["verify"]);
    host.ok(&["activate", "s3://bucket/u/", "--name", "other"]);
    assert!(!tree(&host, "other").join("usr/sbin/init").exists());
    host.check();
}

#[test]
fn an_images_links_lead_nowhere_out_of_it() {
    let bench = Bench::small();
    let outside = bench.path("outside");
    fs::create_dir(&outside).unwrap();
    let up = format!("../../../../../../../..{}", outside.display());
    bench.put(
        "evil/1.tar",
        &layer::links(&[
            ("sbin", outside.to_str().unwrap()),
            ("bin", &up),
            ("etc", "/proc/self/cwd"),
            ("loop", "loop"),
            ("file", outside.join("hosts").to_str().unwrap()),
        ]),
    );
    fs::write(outside.join("hosts"), "of the host").unwrap();
    let host = bench.host("host");
    let activate = |name: &str, to: &str| {
        let copy = file(&bench, "init", "init", to);
        host.said(&["activate", "s3://bucket/evil/", "--name", name, "--copy", &copy])
    };
    for (name, to) in [("a", "/sbin/init"), ("b", "/bin/init"), ("c", "/etc/init"), ("d", "/file")]
    {
        let (code, said) = activate(name, to);
        assert_eq!(code, 0, "{to}: {said}");
        assert_eq!(names(&outside), ["hosts"], "{to}");
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "of the host");
    }
    // Beneath the root it is what the link says.
    let inside = outside.strip_prefix("/").unwrap().join("init");
    for name in ["a", "b"] {
        assert_eq!(fs::read_to_string(tree(&host, name).join(&inside)).unwrap(), "init");
    }
    assert_eq!(fs::read_to_string(tree(&host, "c").join("proc/self/cwd/init")).unwrap(), "init");
    assert!(fs::symlink_metadata(tree(&host, "d").join("file")).unwrap().is_file());
    let (code, said) = activate("e", "/loop/init");
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("--copy") && said.contains("loop"), "{said}");
    assert_eq!(host.rows("SELECT name FROM activations WHERE name = 'e'"), [""; 0]);
    host.check();
}

/// Killed when all was copied, and nobody was told.
fn killed<'b>(bench: &'b Bench, words: &[&str]) -> Host<'b> {
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    killed_once(&host, words, "active/web");
    assert_eq!(host.rows("SELECT state FROM activations"), ["reserved"]);
    host
}

fn resumed(host: &Host<'_>) -> (Option<i32>, Value) {
    let ran = host.command(&["recover"]).output().unwrap();
    let done: Value = serde_json::from_slice(&ran.stdout).unwrap();
    (ran.status.code(), done["resumed"][0].clone())
}

#[test]
fn a_run_that_is_taken_up_copies_the_very_bytes_or_fails() {
    for changed in [false, true] {
        let bench = Bench::small();
        let copy = file(&bench, "init", "the first", "/sbin/init:0755");
        let words = ["activate", A, "--name", "web", "--copy", &copy];
        let host = killed(&bench, &words);
        let input: Value =
            serde_json::from_str(&host.rows("SELECT input FROM runs WHERE verb = 'activate'")[0])
                .unwrap();
        let kept = &input["copies"][0];
        assert_eq!((&kept["from"], &kept["bytes"]), (&json!(bench.path("init")), &json!(9)));
        assert_eq!(kept["sha256"].as_str().unwrap().len(), 71, "{kept}");
        if changed {
            file(&bench, "init", "the other", "/sbin/init");
        }
        let (code, end) = resumed(&host);
        match changed {
            false => {
                assert_eq!((code, &end["state"]), (Some(0), &json!("done")), "{end}");
                assert_eq!(host.ok(&words)["copied"], 0);
            }
            true => {
                assert_eq!((code, &end["state"]), (Some(100), &json!("failed")), "{end}");
                let message = end["message"].as_str().unwrap();
                assert!(message.contains("init\" has changed since it was asked for"), "{message}");
                assert_eq!(host.rows("SELECT name FROM activations"), [""; 0]);
                host.check();
                assert_eq!(host.ok(&words)["copied"], 1);
            }
        }
        let init = fs::read_to_string(tree(&host, "web").join("sbin/init")).unwrap();
        assert_eq!(init, if changed { "the other" } else { "the first" });
        host.check();
    }
}

#[test]
fn who_asks_again_after_a_kill_gets_what_is_asked_for_now() {
    let bench = Bench::small();
    let copy = file(&bench, "init", "the first", "/sbin/init:0755");
    let host = killed(&bench, &["activate", A, "--name", "web", "--copy", &copy]);
    let other = file(&bench, "other", "other", "/sbin/other");
    let done = host.ok(&["activate", A, "--name", "web", "--copy", &other]);
    assert_eq!(done["copied"], 1);
    let web = tree(&host, "web");
    assert!(web.join("sbin/other").exists() && !web.join("sbin/init").exists());
    host.check();
}

#[test]
fn what_cannot_be_copied_is_named_before_anything_is_made() {
    let bench = Bench::small();
    let host = bench.host("host");
    let good = file(&bench, "init", "init", "/sbin/init");
    let none = format!("{}:/a", bench.path("none").display());
    let many: Vec<String> = (0..65).map(|n| format!("/dev/null:/{n}")).collect();
    let many: Vec<&str> = many.iter().flat_map(|one| ["--copy", one]).collect();
    let twice = ["--copy", &good, "--copy", &good];
    for (words, told) in [
        (&["--copy", &none][..], "there is no such file"),
        (&["--copy", "/dev/null:/a"], "not a regular file"),
        (&["--copy", "init"], "expected FILE:PATH"),
        (&twice, "the same PATH"),
        (&many, "65 files, and at most 64"),
        (&["--device-owner", "1:1"], "is a directory, and its activations are directories"),
        (&["--node", "/jail/rootfs"], &format!("the store \\\"dir:{}", host.store().display())),
        (&["--device-mode", "0999"], "--device-mode"),
    ] {
        let all = [&["activate", A, "--name", "web"][..], words].concat();
        let (code, said) = host.said(&all);
        assert!(code == 100 && said.contains(told), "{words:?}: {code} {said}");
        assert_eq!(host.rows("SELECT subject FROM runs"), [""; 0], "{words:?}");
    }
}

#[test]
fn beside_a_daemon_the_command_copies_by_itself() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let mut daemon = host.command(&["serve"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !host.state().join("serve.sock").exists() && !host.state().join("socket").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", names(&host.state()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let copy = file(&bench, "init", "init", "/sbin/init");
    let done = host.ok(&["activate", A, "--name", "web", "--copy", &copy]);
    assert_eq!(done["copied"], 1);
    // Without files the daemon says that it is there.
    let done = host.ok(&["activate", A, "--name", "web"]);
    assert_eq!((&done["copied"], &done["already"]), (&json!(0), &json!(true)));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    daemon.wait().unwrap();
    assert_eq!(fs::read_to_string(tree(&host, "web").join("sbin/init")).unwrap(), "init");
    host.check();
}

#[test]
fn a_rebuild_knows_to_whom_devices_are_given() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "web"]);
    let device = registry::Device {
        uid: Some(7),
        gid: Some(8),
        mode: Some(0o640),
        node: Some("/none/rootfs".into()),
        node_leads_to: None,
    };
    let mut registry = registry::Registry::open(&host.state().join("registry.db")).unwrap();
    registry.write(|write| write.put_device("web", &device)).unwrap();
    drop(registry);
    let given = json!({"uid": 7, "gid": 8, "mode": "0640", "node": "/none/rootfs"});
    assert_eq!(host.ok(&["ls"])["activations"][0]["device"], given);
    host.ok(&["rebuild"]);
    assert_eq!(host.ok(&["show", "web"])["activation"]["device"], given);
    host.check();
}
