//! The daemon and activations that have a time, labels, another name.

use serde_json::json;

use crate::bench::Bench;
use crate::daemon::{Daemon, until};

const A: &str = "s3://bucket/a/";

#[test]
fn the_daemon_removes_what_has_a_time_without_a_collection() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let body = |name: &str, seconds: u64| json!({"id": name, "image": A, "ttl_s": seconds});
    for (name, seconds) in [("gone", 1), ("used", 1), ("later", 3600)] {
        let run = daemon.begin("POST", "/v1/activations", &body(name, seconds));
        assert_eq!(daemon.end_of(run)["state"], "done", "{name}");
    }
    let tree = host.store().join("active/used");
    let mut worker =
        std::process::Command::new("sleep").arg("600").current_dir(tree).spawn().unwrap();
    let names = || -> Vec<String> {
        let listing = daemon.get("/v1/activations");
        let lines = listing["activations"].as_array().unwrap().clone();
        lines.iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect()
    };
    until("the time to end", || (!names().contains(&"gone".to_owned())).then_some(()));
    assert_eq!(names(), ["later", "used"]);
    worker.kill().unwrap();
    worker.wait().unwrap();
    until("it to be free", || (names() == ["later"]).then_some(()));
    let runs = daemon.get("/v1/runs?status=all");
    assert!(!runs.to_string().contains("\"gc\""), "a collection was run: {runs}");
    daemon.stop();
    host.check();
}

#[test]
fn requests_on_other_terms_share_no_run() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    bench.proxy.hold("a/2.tar", 100);
    let asked =
        json!({"id": "web", "image": A, "labels": {"app": "web"}, "ttl_s": 7, "read_only": true});
    let first = daemon.begin("POST", "/v1/activations", &asked);
    assert_eq!(daemon.begin("POST", "/v1/activations", &asked), first);
    for (key, value, word) in [
        ("labels", json!({"app": "db"}), "list of --label"),
        ("ttl_s", json!(8), "--ttl"),
        ("read_only", json!(false), "choice of --read-only"),
    ] {
        let mut other = asked.clone();
        other[key] = value;
        let answer = daemon.ask("POST", "/v1/activations", &other.to_string());
        let said = answer.json().to_string();
        assert!(answer.status == 409 && said.contains(word), "{key}: {} {said}", answer.status);
    }
    // Who is being made is not renamed.
    let answer = daemon.ask("POST", "/v1/activations/web/rename", "{\"to\":\"new\"}");
    assert_eq!(answer.status, 409, "{answer:?}");
    bench.proxy.release();
    assert_eq!(daemon.end_of(first)["state"], "done");
    // Of a key that stands twice the last would count.
    let twice = r#"{"labels": {"app": "1", "app": "2"}}"#;
    let answer = daemon.ask("POST", "/v1/activations/web/labels", twice);
    assert!(answer.status == 400 && answer.json().to_string().contains("twice"), "{answer:?}");
    daemon.stop();
    host.check();
}
