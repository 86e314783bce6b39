//! A run that kills its process: twice in one step, in one boot, without coming forward, and it is failed
//! and told; any other deaths are only counted.

use std::process::Stdio;
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
    proxy.hold(key, after);
    let mut child =
        host.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    proxy.wait_held(Duration::from_secs(60)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The next layer arrives while this one is applied.
    let layer = key.trim_start_matches("/a/").trim_end_matches(".tar");
    let sql = format!("SELECT place FROM lives WHERE place LIKE 'layer {layer} of %'");
    let there = || !host.rows(&sql).is_empty();
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
