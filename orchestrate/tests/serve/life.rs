//! A daemon's life: killed, stopped, drained, sick; what was asked for comes to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::Bench;
use crate::daemon::{Daemon, PATIENCE, log_of, until};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn state(daemon: &Daemon, run: u64) -> String {
    daemon.get(&format!("/v1/runs/{run}"))["state"].as_str().unwrap().to_owned()
}

#[test]
fn killed_with_runs_at_work_and_in_the_queue_the_next_one_ends_them_all() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let runs: Vec<u64> = (0..6)
        .map(|n| daemon.activate(&format!("n-{n}"), if n % 2 == 0 { A } else { B }))
        .collect();
    bench.proxy.wait_held(PATIENCE).unwrap();
    assert_eq!(state(&daemon, runs[0]), "running");
    assert_eq!(state(&daemon, runs[5]), "queued");
    daemon.kill();
    bench.proxy.release();
    let daemon = Daemon::start(&host, &["--concurrency", "2"]);
    for run in &runs {
        let line = daemon.end_of(*run);
        assert_eq!(line["state"], "done", "{line}");
    }
    daemon.stop();
    host.check();
    for n in 0..6 {
        host.check_tree(&format!("n-{n}"), if n % 2 == 0 { 3 } else { 4 });
    }
}

/// What kills the daemon twice does not kill the third, which has its other work to do.
#[test]
fn a_run_that_killed_two_daemons_is_given_up_by_the_third() {
    let bench = Bench::small();
    let host = bench.host("host");
    let mut run = 0;
    for time in 0..2 {
        bench.proxy.hold("a/2.tar", 100);
        let daemon = Daemon::start(&host, &[]);
        if time == 0 {
            run = daemon.activate("one", A);
        }
        bench.proxy.wait_held(PATIENCE).unwrap();
        until("the second layer to be at work", || {
            let step = daemon.get(&format!("/v1/runs/{run}"))["step"].to_string();
            step.contains("layer 2 of 3").then_some(())
        });
        daemon.kill();
        bench.proxy.cut();
    }
    let daemon = Daemon::start(&host, &[]);
    let end = daemon.end_of(run);
    assert_eq!((&end["state"], &end["class"]), (&json!("failed"), &json!("crash_loop")), "{end}");
    assert!(end["message"].as_str().unwrap().contains("layer 2 of 3"), "{end}");
    let other = daemon.activate("two", B);
    assert_eq!(daemon.end_of(other)["state"], "done");
    // Who asks for the same begins anew.
    let again = daemon.activate("one", A);
    assert_ne!(again, run);
    assert_eq!(daemon.end_of(again)["state"], "done");
    daemon.stop();
    host.check();
}

#[test]
fn a_signal_puts_runs_by_and_the_next_daemon_takes_them_up() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let (first, second) = (daemon.activate("one", A), daemon.activate("two", B));
    bench.proxy.wait_held(PATIENCE).unwrap();
    daemon.signal(Signal::SIGTERM);
    until("the daemon to say that it stops", || log_of(&host).contains("SIGTERM").then_some(()));
    // What is held back cannot be put by before its bytes come.
    bench.proxy.release();
    assert!(daemon.wait().success());
    let registry = registry::Registry::open_existing(&host.state().join("registry.db")).unwrap();
    for run in [first, second] {
        let row = registry.run(registry::RunId::new(run)).unwrap().unwrap();
        assert!(row.state.is_end() || row.state == registry::RunState::Queued, "{row:?}");
        assert_ne!(row.state, registry::RunState::Cancelled);
    }
    drop(registry);
    assert!(!host.state().join("serve.sock").exists());
    let daemon = Daemon::start(&host, &[]);
    for run in [first, second] {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    daemon.stop();
    host.check();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    bench.proxy.hold("a/2.tar", 100);
    let run = daemon.activate("one", A);
    bench.proxy.wait_held(PATIENCE).unwrap();
    daemon.signal(Signal::SIGTERM);
    until("the daemon to say that it stops", || log_of(&host).contains("SIGTERM").then_some(()));
    daemon.signal(Signal::SIGINT);
    // The first may have been enough: what waits for a server is put by at once.
    let code = daemon.wait().code();
    assert!([Some(0), Some(111)].contains(&code), "{code:?}");
    bench.proxy.release();
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.end_of(run)["state"], "done");
    daemon.stop();
    host.check();
}

#[test]
fn draining_ends_what_waits_and_takes_nothing_new() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let (first, second) = (daemon.activate("one", A), daemon.activate("two", B));
    bench.proxy.wait_held(PATIENCE).unwrap();
    let mode = daemon.ask("POST", "/v1/mode", &json!({"mode": "drain"}).to_string());
    assert_eq!((mode.status, &mode.json()["mode"]), (200, &json!("drain")));
    let refused = daemon.ask("PUT", "/v1/images", &json!({"image": B}).to_string());
    assert_eq!((refused.status, &refused.json()["class"]), (503, &json!("temporary")));
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(daemon.ask("GET", "/readyz", "").status, 503);
    assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
    bench.proxy.release();
    for run in [first, second] {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    assert_eq!(daemon.ask("POST", "/v1/mode", "{\"mode\":\"normal\"}").status, 200);
    assert_eq!(daemon.end_of(daemon.activate("three", B))["state"], "done");
    daemon.stop();
    host.check();
}

#[test]
fn a_sick_host_is_told_and_answered_for_and_comes_back_by_itself() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "one"]);
    // A store of another day: nothing may be written.
    let transaction = host.store().join("transaction");
    let good = fs::read_to_string(&transaction).unwrap();
    fs::write(&transaction, "999").unwrap();
    let daemon = Daemon::start(&host, &[]);
    let status = daemon.get("/v1/status");
    assert_eq!(status["mode"], "rescue", "{status}");
    assert!(status["why"].as_str().unwrap().contains("999"), "{status}");
    let refused = daemon.ask("PUT", "/v1/images", &json!({"image": B}).to_string());
    assert_eq!((refused.status, &refused.json()["class"]), (503, &json!("host_broken")));
    // Questions are answered.
    assert_eq!(daemon.get("/v1/runs?status=all")["runs"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.ask("GET", "/metrics", "").status, 200);
    let ready = daemon.ask("GET", "/readyz", "");
    let checks = ready.json()["checks"].clone();
    let failed: Vec<&str> = checks
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!((ready.status, failed), (503, vec!["txid_match"]));
    let health = host.command(&["health"]).output().unwrap();
    assert_eq!(health.status.code(), Some(1));
    fs::write(&transaction, good).unwrap();
    until("the daemon to be well", || (daemon.get("/v1/status")["mode"] == "normal").then_some(()));
    assert_eq!(daemon.end_of(daemon.activate("two", B))["state"], "done");
    assert_eq!(host.command(&["health"]).status().unwrap().code(), Some(0));
    daemon.stop();
    host.check();
}

#[test]
fn it_starts_and_answers_beside_a_registry_that_is_none() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(host.state()).unwrap();
    fs::set_permissions(host.state(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(host.state().join("registry.db"), vec![7; 8192]).unwrap();
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.get("/v1/status")["mode"], "rescue");
    for target in ["/v1/runs", "/v1/images", "/v1/inventory", "/v1/pool"] {
        let answer = daemon.ask("GET", target, "");
        assert_eq!(
            (answer.status, &answer.json()["class"]),
            (503, &json!("host_broken")),
            "{target}"
        );
    }
    assert_eq!(daemon.ask("GET", "/metrics", "").status, 200);
    daemon.stop();
    assert_eq!(fs::read(host.state().join("registry.db")).unwrap(), vec![7; 8192]);
}

#[test]
fn there_is_one_daemon_and_a_socket_that_was_left_is_replaced() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let second = host.command(&["serve"]).output().unwrap();
    assert_eq!(second.status.code(), Some(111), "{second:?}");
    let mode = fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let rebuild = host.command(&["rebuild"]).output().unwrap();
    assert_eq!(rebuild.status.code(), Some(111), "a registry is moved away under a daemon");
    daemon.kill();
    assert!(host.state().join("serve.sock").exists());
    // Nobody answers there: the command does the work.
    host.ok(&["ensure", A]);
    let daemon = Daemon::start(&host, &[]);
    assert!(daemon.status("VmRSS") > 0);
    drop(daemon.connect());
    daemon.stop();
}

#[test]
fn cancelled_in_the_queue_or_at_work_and_asked_for_again() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let (first, second) = (daemon.activate("one", A), daemon.activate("two", A));
    bench.proxy.wait_held(PATIENCE).unwrap();
    let queued = daemon.ask("POST", &format!("/v1/runs/{second}/cancel"), "");
    assert_eq!((queued.status, &queued.json()["state"]), (200, &json!("cancelled")));
    let early = daemon.ask("POST", &format!("/v1/runs/{first}/retry"), "");
    assert_eq!((early.status, early.json()["run"].as_u64()), (409, Some(first)));
    let working = daemon.ask("POST", &format!("/v1/runs/{first}/cancel"), "{\"why\":\"not now\"}");
    assert_eq!(working.status, 202);
    bench.proxy.release();
    let ended = daemon.end_of(first);
    assert_eq!((&ended["state"], &ended["cancel"]), (&json!("cancelled"), &json!("not now")));
    for run in [first, second] {
        let again = daemon.begin("POST", &format!("/v1/runs/{run}/retry"), &json!({}));
        assert!(again > second);
        assert_eq!(daemon.end_of(again)["state"], "done");
        let twice = daemon.ask("POST", &format!("/v1/runs/{again}/retry"), "");
        assert_eq!(twice.status, 409);
    }
    assert_eq!(daemon.ask("POST", "/v1/runs/999/cancel", "").status, 404);
    daemon.stop();
    host.check();
}

#[test]
fn who_waits_for_events_is_woken_by_them() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let last = |text: &[u8]| -> u64 {
        let text = String::from_utf8_lossy(text).into_owned();
        let line = text.lines().last().map(|line| serde_json::from_str(line).unwrap());
        line.map_or(0, |line: serde_json::Value| line["seq"].as_u64().unwrap())
    };
    let seen = last(&daemon.ask("GET", "/v1/events", "").body);
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| daemon.ask("GET", &format!("/v1/events?after={seen}&wait=60s"), ""));
        let run = daemon.activate("one", A);
        let answer = waiting.join().unwrap();
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.lines().next().unwrap().contains(&format!("run {run}")), "{text}");
        assert_eq!(daemon.end_of(run)["state"], "done");
    });
    let only = daemon.ask("GET", "/v1/events?subject=activation%20one&limit=1", "");
    assert_eq!(only.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 1);
    let tag = daemon.ask("GET", "/v1/inventory", "").header("ETag").unwrap().to_owned();
    let mut stream = daemon.connect();
    let header = format!("If-None-Match: {tag}\r\n");
    let same = crate::daemon::exchange(&mut stream, "GET", "/v1/inventory", "", &header).unwrap();
    assert_eq!((same.status, same.body.len()), (304, 0));
    daemon.end_of(daemon.activate("two", B));
    assert_ne!(daemon.ask("GET", "/v1/inventory", "").header("ETag").unwrap(), tag);
    // A question that waits for nothing is answered when its time has passed.
    let seen = last(&daemon.ask("GET", "/v1/events", "").body);
    let begun = std::time::Instant::now();
    let none = daemon.ask("GET", &format!("/v1/events?after={seen}&wait=1s"), "");
    assert_eq!((none.status, none.body.len()), (200, 0));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    daemon.stop();
}

/// The daemon's workers, and commands that want another setting and so do their work themselves, all at
/// once on images that share layers: what holds between processes holds here.
#[test]
fn commands_that_work_beside_a_daemon_and_it_write_one_registry() {
    let bench = Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4])], 20, 5000);
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "3"]);
    let image = |n: usize| if n.is_multiple_of(2) { A } else { B };
    let (mut beside, mut runs) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let name = format!("c-{n}");
        let mut command = host.command(&["activate", image(n), "--name", &name]);
        command.env("VENEER_VOLUME_BYTES", "1234567936");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        beside.push(command.spawn().unwrap());
        runs.push(daemon.activate(&format!("d-{n}"), image(n)));
    }
    for child in beside {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("the daemon has another volume_bytes"), "{said}");
    }
    for run in runs {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    assert_eq!(bench.gets().len(), 4, "each layer comes once: {:?}", bench.gets());
    daemon.stop();
    host.check();
    for n in 0..6 {
        for who in ["c", "d"] {
            host.check_tree(&format!("{who}-{n}"), if n % 2 == 0 { 3 } else { 4 });
        }
    }
}
