//! The verbs: through the daemon they say what they say without, and each thing asked for ends.

use std::process::Output;

use serde_json::{Value, json};

use crate::bench::{Bench, Host};
use crate::daemon::Daemon;

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn said(output: &Output) -> (Option<i32>, Value) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (output.status.code(), Value::Array(lines.collect()))
}

/// Without what differs from one host or moment to the next.
fn plain(mut value: Value, host: &Host<'_>) -> Value {
    fn walk(value: &mut Value, own: &str) {
        match value {
            Value::Object(map) => {
                for key in
                    ["ms", "at_ms", "created_ms", "updated_ms", "finished_ms", "ends_ms", "input"]
                {
                    map.remove(key);
                }
                // What the daemon refuses at once leaves no run behind, so the history is shorter.
                for key in ["space", "used_bytes", "freed_bytes", "store", "runs", "seq"] {
                    map.remove(key);
                }
                map.values_mut().for_each(|value| walk(value, own));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| walk(value, own)),
            Value::String(text) => {
                *text = text.replace(own, "HOST");
                // Which runs are known differs, too.
                if let Some((before, _)) = text.split_once(": those from ") {
                    *text = before.to_owned();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    walk(&mut value, host.dir.to_str().unwrap());
    value
}

#[test]
fn every_command_says_the_same_through_the_daemon() {
    let bench = Bench::small();
    let (with, without) = (bench.host("with"), bench.host("without"));
    let daemon = Daemon::start(&with, &[]);
    let commands: &[&[&str]] = &[
        &["ensure", A, "-n"],
        &["ensure", A],
        &["ensure", A],
        &["ensure", "s3://bucket/none/"],
        &["activate", A, "--name", "one"],
        &["activate", A, "--name", "one"],
        &["activate", B, "--name", "one"],
        &["activate", A, "--name", "more", "--no-fetch"],
        &["activate", B, "--name", "none", "--no-fetch"],
        &["activate", B, "--name", "two", "-n"],
        &["activate", B, "--name", "two"],
        &["activate", B, "--name", ".."],
        &["activate", A, "--name", "ro", "--read-only", "--label", "app=web", "--ttl", "2h"],
        &["activate", A, "--name", "ro", "--read-only", "--label", "app=web", "--ttl", "2h"],
        &["activate", A, "--name", "ro"],
        &["activate", A, "--name", "ro", "--read-only", "--ttl", "3h"],
        &["label", "ro", "tier=front", "app-"],
        &["label", "ro", "tier=front"],
        &["label", "none", "a=b"],
        &["ls", "--label", "tier=front"],
        &["ls", "--label", "app"],
        &["ttl", "ro", "4h"],
        &["ttl", "none", "none"],
        &["rename", "ro", "one"],
        &["rename", "none", "new"],
        &["rename", "ro", "../x"],
        &["rename", "ro", "renamed"],
        &["show", "renamed"],
        &["ttl", "renamed", "none"],
        &["rm", "renamed"],
        &["ls"],
        &["df"],
        &["show", "one"],
        &["show", A],
        &["show", "nothing"],
        &["pin", A],
        &["pin", "s3://bucket/none/"],
        &["deactivate", "one", "-n"],
        &["deactivate", "one"],
        &["deactivate", "one"],
        &["deactivate", "none"],
        &["rm", A],
        &["rm", "one", "-n"],
        &["rm", "one"],
        &["rm", "one"],
        &["rm", "no/name"],
        &["rm", "more"],
        &["unpin", A],
        &["rm", A],
        &["gc", "-n"],
        &["gc"],
        &["gc", "--max-used", "200"],
        &["runs"],
        &["cancel", "1"],
        &["cancel", "999"],
        &["ls"],
    ];
    for words in commands {
        let asked = said(&with.command(words).output().unwrap());
        let done = said(&without.command(words).output().unwrap());
        let (asked, done) = ((asked.0, plain(asked.1, &with)), (done.0, plain(done.1, &without)));
        assert_eq!(asked, done, "{words:?}: through the daemon, and without");
    }
    // It was asked: what the commands did is in its own counts.
    assert!(daemon.get("/v1/runs?status=all")["runs"].as_array().unwrap().len() >= 8);
    let text = String::from_utf8(daemon.ask("GET", "/metrics", "").body).unwrap();
    let answered =
        text.lines().find_map(|l| l.strip_prefix("veneer_http_requests_total{code=\"2xx\"} "));
    let answered: u64 = answered.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(answered > 30, "the commands went past the daemon");
    daemon.stop();
    with.check();
    without.check();
}

#[test]
fn a_mount_is_made_and_ended_by_who_asks_and_not_by_the_daemon() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let run = daemon.activate("web", A);
    assert_eq!(daemon.end_of(run)["state"], "done");
    let at = bench.path("at");
    std::fs::create_dir(&at).unwrap();
    let runs = || daemon.get("/v1/runs?status=all")["runs"].as_array().unwrap().len();
    let before = runs();
    // In a mount namespace of its own, which ends with it: what is mounted there is seen by nobody else.
    let words = ["mount", "web", at.to_str().unwrap()];
    let mut alone = std::process::Command::new("unshare");
    alone.args(["--mount", "--propagation", "private"]);
    let command = host.command(&words);
    alone.arg(command.get_program()).args(command.get_args());
    alone.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = alone.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "the daemon has mounted it");

    host.ok(&words);
    assert!(at.join("srv").is_dir());
    assert_eq!(runs(), before, "the daemon was asked");
    let (code, said) = host.said(&["deactivate", "web"]);
    assert!(code == 111 && said.contains("a mount at "), "{code} {said}");
    let done = host.ok(&["deactivate", "web", "--unmount"]);
    assert_eq!(done["changed"], true);
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    assert!(runs() > before, "it was not the daemon that took it down");
    daemon.stop();
}

#[test]
fn a_name_asked_for_twice_is_one_run_and_of_another_image_a_conflict() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    // Held back, so that the run is there while it is asked for again.
    bench.proxy.hold("a/2.tar", 100);
    let first = daemon.activate("web", A);
    assert_eq!(daemon.activate("web", A), first);
    let other =
        daemon.ask("POST", "/v1/activations", &json!({"id": "web", "image": B}).to_string());
    assert_eq!((other.status, other.json()["run"].as_u64()), (409, Some(first)));
    bench.proxy.release();
    let run = daemon.end_of(first);
    assert_eq!(run["state"], "done", "{run}");
    assert_eq!(run["result"]["name"], "web");
    // Now it is up: no run at all.
    let again =
        daemon.ask("POST", "/v1/activations", &json!({"id": "web", "image": A}).to_string());
    assert_eq!((again.status, &again.json()["already"]), (200, &json!(true)));
    let taken =
        daemon.ask("POST", "/v1/activations", &json!({"id": "web", "image": B}).to_string());
    assert_eq!((taken.status, &taken.json()["class"]), (409, &json!("usage")));
    assert_eq!(daemon.get("/v1/activations/web")["mapped"], true);
    host.check_tree("web", 3);
    daemon.stop();
    host.check();
}
