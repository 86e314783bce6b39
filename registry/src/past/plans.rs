//! What each query costs where the past is long: read off SQLite's plan and counted in its steps, with
//! 600,000 ended runs and as many lines of history.

use std::time::Duration;

use rusqlite::Connection;

use crate::digest::Digest;
use crate::file::schema::Registry;
use crate::file::seen::seen;
use crate::ids::RunId;
use crate::past::history::{Keep, Moment};
use crate::run::{Enqueued, NewRun, RunState, Verb};

/// Tables that grow with what was asked for, and not with what is here.
const GROWING: &[&str] = &[
    "runs",
    "events",
    "scans",
    "findings",
    "quarantine",
    "refused_sources",
    "etag_doubts",
    "sources",
    "blobs",
];

/// Why this plan is not that of a bounded query; none where it is.
fn objection(conn: &Connection, sql: &str) -> Option<String> {
    // A pragma has no plan.
    let mut explained = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).ok()?;
    let lines = explained.raw_query().mapped(|row| row.get::<_, String>(3));
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    let bad = |line: &&String| {
        let scans = |table: &&str| {
            let mut words = line.split(' ');
            line.starts_with("SCAN ") && words.nth(1) == Some(table)
        };
        line.contains("TEMP B-TREE") || GROWING.iter().any(scans)
    };
    lines.iter().find(bad).map(|line| format!("{line}: {sql}"))
}

const ROWS: i64 = 600_000;

/// A registry with a long past: two live runs among those that have ended, and one end to be told.
fn long_past(path: &std::path::Path) -> Registry {
    let mut registry = Registry::open(path).unwrap();
    let begin = |registry: &mut Registry, subject: &str, webhook: Option<&str>| {
        let new = NewRun { verb: Verb::Ensure, subject, input: "{}", priority: 0, webhook };
        match registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap() {
            Enqueued::Fresh(id) => id,
            other => panic!("{other:?}"),
        }
    };
    begin(&mut registry, "s3://b/live/", None);
    let untold = begin(&mut registry, "s3://b/untold/", Some("http://h/"));
    registry.write(|write| write.finish_run(untold, &RunState::Done, None)).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) ";
    let fill = |sql: &str, rows: i64| {
        registry.conn.execute(&format!("{many}{sql}"), [rows]).unwrap();
    };
    registry.conn.execute_batch("PRAGMA synchronous = OFF; BEGIN").unwrap();
    fill(
        "INSERT INTO runs(verb, subject, input, state, attempt, created_ms, updated_ms, finished_ms,
           class)
         SELECT 'activate', 'name-' || i, '{}', iif(i % 9, 'done', 'failed'), 1, i, i, i,
           iif(i % 9, NULL, 'bug') FROM n",
        ROWS,
    );
    fill(
        "INSERT INTO events(at_ms, subject, from_state, to_state)
         SELECT i, 'run ' || i, 'running', 'done' FROM n",
        ROWS,
    );
    fill(
        "INSERT INTO quarantine(digest, below, unpacker, size, key, message, at_ms)
         SELECT printf('%064x', i), 'any', 1, 1, 'k', 'm', i FROM n",
        20_000,
    );
    fill(
        "INSERT INTO refused_sources(endpoint, bucket, key, etag, size, digest)
         SELECT 'e', 'b', 'key-' || i, 'etag', 1, printf('%064x', i) FROM n",
        20_000,
    );
    fill(
        "INSERT INTO etag_doubts(endpoint, bucket, etag, why, at_ms)
         SELECT 'e', 'b', iif(i > 1, 'etag-' || i, ''), 'w', 7 FROM n",
        20_000,
    );
    fill(
        "INSERT INTO blobs(digest, diff, size, diff_size, seen_ms)
         SELECT printf('%064x', 1000000 + i), printf('%064x', i), 1, 1, i FROM n",
        20_000,
    );
    fill(
        "INSERT INTO sources(endpoint, bucket, etag, size, key, digest, known_by, seen_ms)
         SELECT 'e', 'b', 'etag-' || i, 1, 'key-' || i, printf('%064x', 1000000 + i), 'read', i FROM n",
        20_000,
    );
    registry.conn.execute_batch("COMMIT; PRAGMA synchronous = FULL").unwrap();
    begin(&mut registry, "s3://b/late/", None);
    registry
}

const KEEP: Keep = Keep {
    runs: 1000,
    runs_age: Duration::from_secs(1 << 32),
    events: 2000,
    events_age: Duration::from_secs(1 << 32),
    verdicts: 3000,
    verdicts_age: Duration::from_secs(1 << 32),
    sources: 4000,
    sources_age: Duration::from_secs(1 << 32),
};

fn now() -> Moment {
    Moment { boot: "b".into(), up_ms: 7 }
}

#[test]
fn no_query_of_a_loop_walks_the_past_and_the_past_goes_in_small_steps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let mut registry = long_past(&path);
    let plans = Connection::open(&path).unwrap();
    drop(seen());
    // The loop, `ls`, health and metrics; and what a run writes.
    registry.runs(false).unwrap();
    registry.last_ended([Verb::Ensure, Verb::Activate]).unwrap().unwrap();
    for state in ["queued", "running", "cancelled"] {
        registry.runs_after(Some(state), RunId::default(), 1).unwrap();
    }
    let old = RunId::new(300_000);
    registry.runs_after(None, old, 100).unwrap();
    registry.events(None, 300_000, 100).unwrap();
    registry.events(Some("run 7"), 0, 100).unwrap();
    registry.events(Some("nothing"), 0, 100).unwrap();
    registry.live_run(Verb::Activate, "name-7").unwrap();
    registry.run(old).unwrap().unwrap();
    registry.cancel_wish(old).unwrap();
    registry.life(old).unwrap();
    registry.findings_here().unwrap();
    registry.counters().unwrap();
    registry.events_written().unwrap();
    registry.scan(Digest([1; 32])).unwrap();
    registry.refused(Digest([1; 32])).unwrap();
    registry.etag_doubt("e", "b").unwrap();
    registry.images().unwrap();
    registry.volumes().unwrap();
    registry.activations().unwrap();
    registry.transaction_id().unwrap();
    registry.store().unwrap();
    registry.touch().unwrap();
    registry.is_prune_due(&KEEP, &now()).unwrap();
    assert_eq!(registry.addresses_to_tell("", 9).unwrap(), ["http://h/"]);
    registry.last_to_tell("http://h/").unwrap().unwrap();
    registry.to_tell("http://h/", 0).unwrap().unwrap();
    let run = registry
        .write(|write| {
            let id = write.begin_run(Verb::Activate, "a", "{}")?;
            write.note_run(id, "step", true)?;
            write.begin_life(id, "boot", None)?;
            write.reach(id, "step", "", true)?;
            write.use_image("s3://b/p/")?;
            write.finish_run(id, &RunState::Done, None)?;
            Ok(id)
        })
        .unwrap();
    assert!(run.get() > 600_000);
    for (sql, steps) in seen() {
        assert_eq!(objection(&plans, &sql), None);
        assert!(steps < 5_000, "{steps} steps: {sql}");
    }
    // What counts verdicts of today goes by their number, and that has a bound.
    assert_eq!(registry.quarantined_by(1).unwrap(), 20_000);
    assert_eq!(objection(&plans, &seen()[0].0), None);

    let bytes = || std::fs::metadata(&path).unwrap().len();
    let before = bytes();
    let mut all = crate::past::history::Pruned::default();
    loop {
        let some = registry.prune(&KEEP, &now()).unwrap();
        assert!(
            some.runs <= 500 && some.events <= 500 && some.verdicts <= 2000 && some.sources <= 1000,
            "{some:?}"
        );
        for (sql, steps) in seen() {
            assert_eq!(objection(&plans, &sql), None);
            assert!(steps < 100_000, "{steps} steps: {sql}");
        }
        all += some;
        if some.is_empty() {
            break;
        }
    }
    drop(plans);
    registry.shrink().unwrap();
    assert!(bytes() * 20 < before, "{} of {before} bytes are left", bytes());
    // What has not ended, and what somebody is to be told of, is there still.
    let live: Vec<String> =
        registry.runs(false).unwrap().into_iter().map(|run| run.subject).collect();
    assert_eq!(live, ["s3://b/live/", "s3://b/late/"]);
    assert_eq!(registry.addresses_to_tell("", 9).unwrap().len(), 1);
    let kept = registry.runs(true).unwrap().len();
    assert!((995..=1003).contains(&kept), "{kept} runs");
    assert_eq!(registry.events(None, 0, u32::MAX).unwrap().len(), 2000);
    assert_eq!(registry.quarantine().unwrap().len(), 3000);
    assert_eq!(all.sources, 2 * 16_000);
    assert!(registry.etag_doubt("e", "b").unwrap().is_some(), "that of the bucket is forgotten");
    assert_eq!(registry.check().unwrap(), []);
    assert!(all.runs > 590_000 && all.events > 590_000, "{all:?}");
}
