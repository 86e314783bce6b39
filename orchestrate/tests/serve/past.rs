//! How much of the past a host keeps, with a daemon and without.

use std::fs;

use rusqlite::Connection;

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, until};

const A: &str = "s3://bucket/a/";

/// Few of everything.
const FEW: &[(&str, &str)] = &[("VENEER_HISTORY_RUNS", "3"), ("VENEER_HISTORY_EVENTS", "10")];

fn count(host: &Host<'_>, table: &str) -> u64 {
    host.rows(&format!("SELECT count(*) FROM {table}"))[0].parse().unwrap()
}

#[test]
fn names_that_come_once_leave_nothing_for_ever_also_without_a_daemon() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    for n in 0..8 {
        let name = format!("name-{n}");
        for words in [&["activate", A, "--name", &name][..], &["rm", &name]] {
            let ran = host.command(words).envs(FEW.iter().copied()).output().unwrap();
            assert!(ran.status.success(), "{ran:?}");
        }
    }
    let (runs, events) = (count(&host, "runs"), count(&host, "events"));
    assert!((1..=4).contains(&runs) && (1..=11).contains(&events), "{runs} runs, {events} events");
    // `gc` does all of it, and says how much.
    let mut gc = host.command(&["gc"]);
    let ran =
        gc.env("VENEER_HISTORY_EVENTS", "1").env("VENEER_HISTORY_RUNS", "1").output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(said["events_forgotten"].as_u64().unwrap() > 0, "{said}");
    host.check();
}

#[test]
fn a_daemon_forgets_a_long_past_while_it_answers_and_the_file_shrinks() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let path = host.state().join("registry.db");
    let registry = Connection::open(&path).unwrap();
    registry
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO runs(verb, subject, input, state, attempt, created_ms, updated_ms, finished_ms)
             SELECT 'rm', 'name-' || i, '{}', 'done', 1, i, i, i FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO events(at_ms, subject, detail) SELECT i, 'run ' || i, hex(zeroblob(99)) FROM n;
             PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
    drop(registry);
    let before = fs::metadata(&path).unwrap().len();
    let daemon = Daemon::start_with(&host, &[], FEW);
    until("the past to be forgotten", || {
        assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
        let runs = daemon.get("/v1/runs?status=all&limit=1000");
        (runs["runs"].as_array().unwrap().len() <= 4).then_some(())
    });
    until("the file to shrink", || (fs::metadata(&path).unwrap().len() * 4 < before).then_some(()));
    assert_eq!(daemon.end_of(daemon.activate("one", A))["state"], "done");
    daemon.stop();
    host.check();
}

/// When S3 last answered is known to the next daemon, which has asked nothing yet.
#[test]
fn when_s3_last_answered_outlives_the_daemon() {
    let bench = Bench::small();
    let host = bench.host("host");
    let told = |daemon: &Daemon| {
        let text = String::from_utf8(daemon.ask("GET", "/metrics", "").body).unwrap();
        let line = text.lines().find(|line| line.starts_with("veneer_s3_ok_timestamp_seconds "));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(told(&daemon), 0.0);
    assert_eq!(daemon.end_of(daemon.activate("one", A))["state"], "done");
    let before = until("S3 to have answered", || Some(told(&daemon)).filter(|at| *at > 0.0));
    daemon.stop();
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(told(&daemon), before);
    daemon.stop();
}

/// Somebody's shell has a transaction open: the log grows, and it is told who keeps it.
#[test]
fn a_log_that_somebody_keeps_growing_is_told_with_who_it_is() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let path = host.state().join("registry.db");
    let check = || {
        let found = host.command(&["health"]).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
        let checks = found["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "registry_log").unwrap()
    };
    assert_eq!(check()["ok"], true);
    // This very process is the shell.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM runs").unwrap();
    let writer = Connection::open(&path).unwrap();
    for _ in 0..70 {
        writer
            .execute(
                "INSERT INTO events(at_ms, subject, detail) VALUES (1, 'x', hex(zeroblob(500000)))",
                [],
            )
            .unwrap();
    }
    let found = check();
    let why = found["reason"].as_str().unwrap();
    assert_eq!(found["ok"], false, "{why}");
    assert!(why.contains(&format!("process {} ", std::process::id())), "{why}");
    assert!(why.contains("close the program") && why.contains("registry.db-wal"), "{why}");
    let doctor = host.command(&["doctor"]).output().unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("registry_log"), "{doctor:?}");
    reader.execute_batch("COMMIT").unwrap();
    drop((reader, writer));
    host.ok(&["rm", A]);
    assert_eq!(check()["ok"], true);
}
