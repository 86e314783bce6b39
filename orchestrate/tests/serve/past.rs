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
