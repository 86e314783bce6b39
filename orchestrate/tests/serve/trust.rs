//! What a daemon brings up when it starts, and keeps up, is judged by the signed catalog and by verdicts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, until};
use crate::signed::{self, keys, path};

const URL: &str = "s3://bucket/catalog.json";
const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// Publishes the catalog with this serial and without these images.
fn publish(bench: &Bench, catalog: &Value, serial: u64, without: &[&str]) {
    let mut catalog = catalog.clone();
    catalog["serial"] = serial.into();
    for image in without {
        catalog["images"].as_object_mut().unwrap().remove(*image);
    }
    signed::publish(bench, "c", "catalog.json", &serde_json::to_vec(&catalog).unwrap());
}

fn ran(host: &Host<'_>, env: &[(&str, &str)], words: &[&str]) -> Value {
    let done = host.command(words).envs(env.iter().copied()).output().unwrap();
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

fn is_up(host: &Host<'_>, name: &str) -> bool {
    host.store().join("active").join(name).is_symlink()
}

/// As a boot leaves it.
fn goes_down(host: &Host<'_>, name: &str) {
    fs::remove_file(host.store().join("active").join(name)).unwrap();
}

#[test]
fn a_daemon_brings_up_nothing_that_is_revoked_and_hears_of_it_by_itself() {
    let bench = Bench::small();
    keys(&bench, "c");
    let maker = bench.host("maker");
    maker.ok(&["ensure", A]);
    maker.ok(&["ensure", B]);
    let catalog = maker.ok(&["catalog", "--make", "1"]);
    publish(&bench, &catalog, 1, &[]);
    let host = bench.host("host");
    let public = path(&bench, "c.pub");
    let mut env = vec![
        ("VENEER_CATALOG_URL", URL),
        ("VENEER_CATALOG_KEYS", &public),
        ("VENEER_CATALOG_REFRESH", "1"),
    ];
    for (image, name) in [(A, "booted"), (A, "runs"), (B, "other")] {
        ran(&host, &env, &["activate", image, "--name", name]);
    }
    publish(&bench, &catalog, 2, &["a/"]);
    goes_down(&host, "booted");
    goes_down(&host, "other");
    let daemon = Daemon::start_with(&host, &[], &env);
    until("what is not revoked", || is_up(&host, "other").then_some(()));
    assert!(!is_up(&host, "booted") && is_up(&host, "runs"));
    // Nobody asks for an image, and the daemon hears of the next one.
    publish(&bench, &catalog, 3, &["a/", "b/"]);
    let barred = |name: &str| {
        let all = daemon.get("/v1/activations")["activations"].clone();
        let line = all.as_array()?.iter().find(|line| line["name"] == name)?.clone();
        line["barred"].as_str().map(str::to_owned)
    };
    let why = until("the third catalog", || barred("other"));
    assert!(why.contains("serial 3"), "{why}");
    assert!(is_up(&host, "other") && is_up(&host, "runs"), "taken down only by a setting");
    daemon.stop();
    env.push(("VENEER_CATALOG_RUNNING", "deactivate"));
    let daemon = Daemon::start_with(&host, &[], &env);
    until("what runs to go", || (!is_up(&host, "other") && !is_up(&host, "runs")).then_some(()));
    // Listed again, what should be up comes up by itself, and what was taken down when it is asked for.
    publish(&bench, &catalog, 4, &[]);
    until("what is listed again", || is_up(&host, "booted").then_some(()));
    let run = daemon.activate("runs", A);
    assert_eq!(daemon.end_of(run)["state"], "done");
    daemon.stop();
    host.check();
}

#[test]
fn a_daemon_brings_up_nothing_that_was_not_scanned_and_scans_it_by_itself() {
    let bench = Bench::small();
    let scanner = |name: &str, text: &str| {
        let file = bench.path(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{} {{}}", file.display())
    };
    const CLEAN: &str = "echo '{\"SchemaVersion\": 2, \"Results\": []}'";
    let bad = format!("cat {}/tests/reports/trivy.json", env!("CARGO_MANIFEST_DIR"));
    let host = bench.host("host");
    let first = scanner("first", CLEAN);
    let by = |command: &str| {
        [("VENEER_SCAN_POLICY", "required".to_owned()), ("VENEER_SCAN_COMMAND", command.to_owned())]
    };
    let env = by(&first);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    ran(&host, &env, &["activate", A, "--name", "one"]);
    ran(&host, &env, &["activate", B, "--name", "two"]);
    goes_down(&host, "one");
    goes_down(&host, "two");
    // Another scanner is set now: nobody has asked it yet, and of one it says something else.
    let second =
        scanner("second", &format!("if [ -d $1/srv/layer-3 ]; then {bad}; else {CLEAN}; fi"));
    let env = by(&second);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let daemon = Daemon::start_with(&host, &[], &env);
    until("what passes", || is_up(&host, "two").then_some(()));
    let why = until("the other's verdict", || {
        let all = daemon.get("/v1/activations")["activations"].clone();
        let line = all.as_array()?.iter().find(|line| line["name"] == "one")?.clone();
        line["barred"].as_str().filter(|why| why.contains("2 critical")).map(str::to_owned)
    });
    assert!(!is_up(&host, "one"), "{why}");
    daemon.stop();
}
