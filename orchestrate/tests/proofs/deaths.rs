//! A run that kills its process: twice in one step, in one boot, without coming forward, and it is failed
//! and told; any other deaths are only counted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use registry::Registry;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const ACTIVATE: &[&str] = &["activate", A, "--name", "a-1"];

/// Bytes of what has come and is kept for the next process.
fn spooled(host: &Host<'_>) -> u64 {
    let Ok(entries) = std::fs::read_dir(host.state().join("spool")) else { return 0 };
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Runs it until its answer is held back at this key and it is at that layer, and kills it there; with
/// `more`, when more of it is kept than before.
fn killed_at(host: &Host<'_>, words: &[&str], key: &str, after: u64, more: bool) {
    let proxy = &host.bench().proxy;
    let before = spooled(host);
    // Requests of the process before may come late, and its step stands in its row: a begin is an event.
    let begins = || host.rows("SELECT seq FROM events WHERE subject LIKE 'run %'").len();
    let begun = begins();
    proxy.hold(key, after);
    let mut child =
        host.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    proxy.wait_held(Duration::from_secs(60)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The next layer arrives while this one is applied.
    let layer = key.rsplit('/').next().unwrap().trim_end_matches(".tar");
    let sql = format!("SELECT place FROM lives WHERE place LIKE 'layer {layer} of %'");
    let there = || begins() > begun && !host.rows(&sql).is_empty();
    while !there() || more && spooled(host) <= before {
        assert!(Instant::now() < deadline, "{words:?}: {:?}", host.rows("SELECT * FROM runs"));
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.cut();
}

fn recovered(host: &Host<'_>) -> Value {
    // One that is given up is no success.
    let ran = host.command(&["recover"]).output().unwrap();
    let done: Value = serde_json::from_slice(&ran.stdout).unwrap();
    done["resumed"].clone()
}

#[test]
fn a_run_whose_process_died_twice_in_one_step_is_failed_and_begun_anew_when_asked_for() {
    let bench = Bench::small();
    let host = bench.host("host");
    for words in [ACTIVATE, &["recover"]] {
        killed_at(&host, words, "/a/2.tar", 512, false);
    }
    let planned = host.said(&["recover", "--dry-run"]).1;
    assert!(planned.contains("\"state\":\"failed\""), "{planned}");
    let ended = recovered(&host);
    assert_eq!((&ended[0]["state"], &ended[0]["class"]), (&json!("failed"), &json!("crash_loop")));
    let message = ended[0]["message"].as_str().unwrap();
    let run = ended[0]["run"].to_string();
    for part in
        [&format!("run {run} (activate a-1)"), "twice", "layer 2 of 3", "found dead at 2", "ask"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(host.rows("SELECT run FROM lives"), [""; 0]);
    // Nobody takes it up again, it is in nobody's way, and who asks for the same gets it.
    assert_eq!(recovered(&host), json!([]));
    host.ok(&["activate", B, "--name", "b-1"]);
    host.ok(ACTIVATE);
    host.check_tree("a-1", 3);
    host.check();
}

#[test]
fn who_asks_for_the_same_after_two_deaths_begins_anew_and_not_for_ever() {
    let bench = Bench::small();
    let host = bench.host("host");
    for _ in 0..5 {
        killed_at(&host, ACTIVATE, "/a/1.tar", 512, false);
        // The builds have a count of their own.
        let conn = Connection::open(host.state().join("registry.db")).unwrap();
        conn.execute("DELETE FROM attempts", []).unwrap();
    }
    let runs = host.rows("SELECT state, attempt FROM runs ORDER BY id");
    assert_eq!(runs, ["failed | 2", "failed | 4", "running | 5"]);
    let (code, said) = host.said(ACTIVATE);
    assert!(code == 100 && said.contains("begun 5 times"), "{code}: {said}");
    let given_up = "SELECT message FROM runs WHERE attempt = 5";
    let message = host.rows(given_up).concat();
    for part in ["(activate a-1) is given up", "begun 5 times", "the most", "ask for the same"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    host.ok(ACTIVATE);
    host.check();
}

#[test]
fn other_deaths_only_count() {
    let bench = Bench::small();
    let host = bench.host("host");
    // In another step each time.
    killed_at(&host, ACTIVATE, "/a/1.tar", 512, false);
    killed_at(&host, &["recover"], "/a/2.tar", 512, false);
    killed_at(&host, &["recover"], "/a/3.tar", 512, false);
    // In another boot.
    {
        drop(Registry::open(&host.state().join("registry.db")).unwrap());
        let conn = Connection::open(host.state().join("registry.db")).unwrap();
        assert_eq!(conn.execute("UPDATE lives SET boot = 'x'", []).unwrap(), 1);
    }
    killed_at(&host, &["recover"], "/a/3.tar", 512, false);
    let ended = recovered(&host);
    assert_eq!(ended[0]["state"], "done", "{ended}");
    host.check_tree("a-1", 3);
    host.check();
}

/// What an earlier run of the same `recover` sealed is no progress of the next one.
#[test]
fn another_run_coming_forward_in_the_same_process_is_none_of_this_one() {
    let bench = Bench::small();
    let host = bench.host("host");
    killed_at(&host, &["ensure", B], "/b/3.tar", 512, false);
    killed_at(&host, ACTIVATE, "/a/3.tar", 512, false);
    // Seals the last layer of b, then comes to the same step of a-1, and dies there again.
    killed_at(&host, &["recover"], "/a/3.tar", 512, false);
    let ended = recovered(&host);
    assert_eq!((&ended[0]["subject"], &ended[0]["class"]), (&json!("a-1"), &json!("crash_loop")));
    host.check();
}

/// Who has less of the layer than the one that died before has not come forward.
#[test]
fn a_spool_that_is_smaller_than_at_the_last_death_is_no_progress() {
    let bench = Bench::new(&[("a", &[1])], 200, 1 << 16);
    let host = bench.host("host");
    killed_at(&host, ACTIVATE, "/a/1.tar", 1 << 20, true);
    killed_at(&host, &["recover"], "/a/1.tar", 512, false);
    for entry in fs::read_dir(host.state().join("spool")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let ended = recovered(&host);
    assert_eq!(ended[0]["class"], "crash_loop", "{ended}");
}

/// The layers are there, and what comes after them kills it.
#[test]
fn a_run_that_dies_past_its_layers_is_failed_after_two_deaths_too() {
    let bench = Bench::small();
    let host = bench.host("host");
    let scanner = bench.path("scanner");
    let nap = format!("4{:06}", std::process::id());
    fs::write(&scanner, format!("#!/bin/sh\nsleep {nap}\n")).unwrap();
    fs::set_permissions(&scanner, fs::Permissions::from_mode(0o755)).unwrap();
    let with_scanner = |words: &[&str]| -> Command {
        let mut command = host.command(words);
        command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", scanner.display()));
        command.env("VENEER_SCAN_POLICY", "report");
        command
    };
    let napping = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| *line == format!("sleep\0{nap}\0").into_bytes()).count() > 0
    };
    let wait = |there: bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while napping() != there {
            assert!(Instant::now() < deadline, "scanner at work: {}", !there);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for words in [ACTIVATE, &["recover"]] {
        let mut command = with_scanner(words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait(true);
        child.kill().unwrap();
        child.wait().unwrap();
        wait(false);
    }
    let ended = recovered(&host);
    assert_eq!(ended[0]["class"], "crash_loop", "{ended}");
    assert!(ended[0]["message"].as_str().unwrap().contains("(activation)"), "{ended}");
    host.check();
}

#[test]
fn what_has_come_of_a_layer_is_progress() {
    // One that is spooled, in one stream.
    let bench = Bench::new(&[("a", &[1])], 200, 1 << 16);
    let host = bench.host("host");
    for words in [ACTIVATE, &["recover"], &["recover"], &["recover"]] {
        killed_at(&host, words, "/a/1.tar", 256 << 10, true);
    }
    let ended = recovered(&host);
    assert_eq!(ended[0]["state"], "done", "{ended}");
    host.check();
}
