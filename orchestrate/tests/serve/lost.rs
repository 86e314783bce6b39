//! A daemon whose registry is gone: it comes up, or stays up, says so, and makes none.

use std::fs;

use serde_json::json;

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, log_of, until};

const A: &str = "s3://bucket/a/";
const ACTIVATE: &[&str] = &["--no-daemon", "activate", A, "--name", "a-1"];

/// It answers after health and metrics, with the reason, and takes nothing on.
fn in_rescue(host: &Host<'_>, daemon: &Daemon) {
    until("rescue mode", || (daemon.get("/v1/status")["mode"] == "rescue").then_some(()));
    let why = daemon.get("/v1/status")["why"].to_string();
    assert!(why.contains("there is no registry") && why.contains("`orchestrate rebuild`"), "{why}");
    let ready = until("readiness to be of now", || {
        let ready = daemon.ask("GET", "/readyz", "");
        (ready.json()["mode"] == "rescue").then_some(ready)
    });
    let checks = ready.json()["checks"].to_string();
    assert!(ready.status == 503 && checks.contains("`orchestrate rebuild`"), "{checks}");
    let metrics = daemon.ask("GET", "/metrics", "");
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("veneer_up{part=\"registry\"} 0"), "{text}");
    assert!(text.contains("veneer_mode{mode=\"rescue\"} 1"), "{text}");
    assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
    let body = json!({"id": "a-2", "image": A}).to_string();
    let asked = daemon.ask("POST", "/v1/activations", &body);
    let told = String::from_utf8_lossy(&asked.body).into_owned();
    assert!(
        asked.status >= 400 && told.contains("`orchestrate rebuild`"),
        "{}: {told}",
        asked.status
    );
    for question in ["/v1/activations", "/v1/runs", "/v1/events", "/v1/pool", "/v1/usage"] {
        let answer = daemon.ask("GET", question, "");
        let told = String::from_utf8_lossy(&answer.body);
        let right = answer.status == 503 && told.contains("`orchestrate rebuild`");
        assert!(right, "{question}: {}: {told}", answer.status);
    }
    let ls = host.command(&["ls"]).output().unwrap();
    let said = String::from_utf8_lossy(&ls.stderr);
    assert!(ls.status.code() == Some(100) && said.contains("`orchestrate rebuild`"), "{said}");
    assert!(!host.state().join("registry.db").exists(), "one was made: {}", log_of(host));
}

#[test]
fn without_its_registry_it_comes_up_and_says_so() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    host.lose_registry();
    let daemon = Daemon::start(&host, &[]);
    in_rescue(&host, &daemon);
    // The loop has come round since.
    let (age, begun) = (|| daemon.get("/healthz")["age_ms"].as_u64().unwrap(), log_of(&host));
    let first = age();
    until("the loop to come round", || (age() < first).then_some(()));
    in_rescue(&host, &daemon);
    assert_eq!(log_of(&host).matches("rescue mode").count(), begun.matches("rescue mode").count());
    daemon.stop();

    assert_eq!(host.ok(&["rebuild"])["activations"], json!(["a-1"]));
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.get("/v1/status")["mode"], "normal");
    assert_eq!(host.ok(&["activate", A, "--name", "a-1"])["already"], true);
    daemon.stop();
    host.check();
}

#[test]
fn when_its_registry_is_taken_away_it_goes_by_no_ghost_of_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let run = daemon.activate("a-1", A);
    assert_eq!(daemon.end_of(run)["state"], "done");
    host.lose_registry();
    in_rescue(&host, &daemon);
    daemon.stop();
    assert_eq!(host.ok(&["rebuild"])["activations"], json!(["a-1"]));
    host.check();
}

/// The second state directory's daemon on a store that is the first's.
#[test]
fn on_anothers_store_it_makes_no_registry() {
    let bench = Bench::small();
    let (host, other) = (bench.host("host"), bench.host("other"));
    host.ok(ACTIVATE);
    fs::create_dir(&other.dir).unwrap();
    std::os::unix::fs::symlink(host.store(), other.store()).unwrap();
    let daemon = Daemon::start(&other, &[]);
    in_rescue(&other, &daemon);
    daemon.stop();
    let refused = other.command(&["rebuild"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(100), "the daemon's directory is taken for used");
    assert_eq!(host.ok(&["activate", A, "--name", "a-1"])["already"], true);
    host.check();
}

/// What it accepts is told to who asked, before anything is done for it: a registry from before that is not
/// taken for today's.
#[test]
fn the_stores_number_moves_with_what_is_queued_and_with_what_is_taken_back() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("/a/1.tar", 100);
    let ask = |image: &str| {
        let asked = daemon.ask("PUT", "/v1/images", &json!({"image": image}).to_string());
        assert!(asked.status == 202, "{}", asked.status);
        asked.json()
    };
    ask(A);
    bench.proxy.wait_held(std::time::Duration::from_secs(60)).unwrap();
    let number = || fs::read_to_string(host.store().join("transaction")).unwrap();
    let before = number();
    let queued = ask("s3://bucket/b/");
    let accepted = number();
    assert_ne!(before, accepted);
    let run = queued["id"].as_u64().or(queued["run"].as_u64()).or(queued["run"]["id"].as_u64());
    let cancel = format!("/v1/runs/{}/cancel", run.unwrap_or_else(|| panic!("{queued}")));
    assert!(daemon.ask("POST", &cancel, "{}").status < 300);
    assert_ne!(accepted, number());
    bench.proxy.release();
    daemon.stop();
}
