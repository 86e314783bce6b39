//! What people are told when something is in the way: the slash that is missing, what may be done without
//! the server, and who failed.

use std::fs;

use serde_json::Value;
use tests::guest::proxy::Spoil;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";

fn run(host: &Host<'_>, words: &[&str]) -> (Value, String, Option<i32>) {
    // Patience with a server that is away is for people, not for a test.
    let output = host.command(words).env("VENEER_FETCH_TRIES", "4").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), said, output.status.code())
}

/// The same while the server is away: each connection is reset before a word of an answer.
fn away(host: &Host<'_>, words: &[&str]) -> (String, Option<i32>) {
    let proxy = &host.bench().proxy;
    proxy.clear();
    proxy.spoil(0, true, Spoil::Cut { after: 0, reset: true });
    let (_, said, code) = run(host, words);
    proxy.release();
    (said, code)
}

#[test]
fn a_reference_without_its_last_slash_is_told_so() {
    let bench = Bench::small();
    let host = bench.host("host");
    for words in [&["ensure", "s3://bucket/a"][..], &["activate", "s3://bucket/a", "--name", "a-1"]]
    {
        let (_, said, code) = run(&host, words);
        assert_eq!(code, Some(100), "{said}");
        assert!(said.contains("did you mean") && said.contains("s3://bucket/a/"), "{said}");
        assert!(!said.contains("tries"), "{said}");
    }
}

#[test]
fn an_image_that_is_here_can_be_taken_while_its_server_is_away_and_that_is_said() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let (said, code) = away(&host, &["activate", A, "--name", "a-1"]);
    assert_eq!(code, Some(111), "{said}");
    assert!(said.contains("--no-fetch"), "{said}");
    let (found, _, _) = run(&host, &["health"]);
    assert_eq!(check(&found, "s3_last_ok")["ok"], false, "{found}");
    // What is not here is not offered.
    let (said, code) = away(&host, &["activate", "s3://bucket/b/", "--name", "b-1"]);
    assert!(code == Some(111) && !said.contains("--no-fetch"), "{said}");
    assert_eq!(away(&host, &["activate", A, "--name", "a-1", "--no-fetch"]).1, Some(0));
}

fn check<'f>(found: &'f Value, name: &str) -> &'f Value {
    found["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn a_run_that_another_process_held_up_is_no_failure_of_s3() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["deactivate", "a-1"]);
    let mut held = Vec::new();
    for entry in fs::read_dir(host.state().join("locks")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("activation-") {
            let file = fs::File::open(entry.path()).unwrap();
            file.lock().unwrap();
            held.push(file);
        }
    }
    let (_, said, code) = run(&host, &["activate", A, "--name", "a-1", "--wait", "1"]);
    assert_eq!(code, Some(111), "{said}");
    drop(held);
    let (found, _, _) = run(&host, &["health"]);
    let last = check(&found, "s3_last_ok");
    assert_eq!(last["ok"], true, "{last}");
    assert!(last["reason"].as_str().unwrap().contains("not by S3"), "{last}");
}
