//! How much of the past stays, against real files: by number, by age, and where somebody sets the clock.

use std::path::Path;
use std::time::Duration;

use registry::{Enqueued, Keep, Moment, NewRun, Pruned, Registry, RunId, RunState, Verb};
use rusqlite::Connection;

fn open(dir: &Path) -> Registry {
    Registry::open(&dir.join("registry.db")).unwrap()
}

/// As much as anybody wants, for as long.
const ALL: Keep = Keep {
    runs: 1000,
    runs_age: Duration::from_secs(86_400),
    events: 1000,
    events_age: Duration::from_secs(86_400),
    verdicts: 1000,
    verdicts_age: Duration::from_secs(86_400),
    sources: 1000,
    sources_age: Duration::from_secs(86_400),
};

fn up(seconds: i64) -> Moment {
    Moment { boot: "boot".into(), up_ms: seconds * 1000 }
}

fn prune(registry: &mut Registry, keep: &Keep, now: &Moment) -> Pruned {
    let mut all = Pruned::default();
    loop {
        let some = registry.prune(keep, now).unwrap();
        if some.is_empty() {
            return all;
        }
        all += some;
    }
}

#[test]
fn old_runs_and_old_history_go_and_live_ones_and_untold_ends_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let live = registry.write(|write| write.begin_run(Verb::Ensure, "s3://b/live/", "{}")).unwrap();
    let (verb, webhook) = (Verb::Ensure, Some("http://h/"));
    let new = NewRun { verb, subject: "s3://b/untold/", input: "{}", priority: 0, webhook };
    let untold = registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap();
    let Enqueued::Fresh(untold) = untold else { panic!("{untold:?}") };
    registry.write(|write| write.finish_run(untold, &RunState::Done, None)).unwrap();
    let mut last = live;
    // A name that comes once: there was no end to these.
    for n in 0..9 {
        let subject = format!("s3://b/{n}/");
        last = registry.write(|write| write.begin_run(Verb::Ensure, &subject, "{}")).unwrap();
        registry.write(|write| write.finish_run(last, &RunState::Done, None)).unwrap();
    }
    let keep = Keep { runs: 3, events: 4, ..ALL };
    assert!(registry.is_prune_due(&keep, &up(0)).unwrap());
    assert!(!prune(&mut registry, &keep, &up(0)).is_empty());
    assert!(!registry.is_prune_due(&keep, &up(0)).unwrap());
    let kept: Vec<RunId> = registry.runs(true).unwrap().iter().map(|run| run.id).collect();
    let before = |more: u64| RunId::new(last.get() - more);
    assert_eq!(kept, [live, untold, before(2), before(1), last]);
    assert_eq!(registry.events(None, 0, 99).unwrap().len(), 4);
    assert_eq!(registry.addresses_to_tell("", 9).unwrap().len(), 1);
}

/// Rows as they are a week later.
fn age(dir: &Path, days: i64) {
    let conn = Connection::open(dir.join("registry.db")).unwrap();
    let back = days * 86_400_000;
    conn.execute_batch("DROP TRIGGER events_stay; DROP TRIGGER run_edges").unwrap();
    conn.execute("UPDATE events SET at_ms = at_ms - ?1", [back]).unwrap();
    conn.execute("UPDATE runs SET finished_ms = finished_ms - ?1", [back]).unwrap();
    conn.execute("UPDATE clock SET wall_ms = wall_ms - ?1", [back]).unwrap();
}

#[test]
fn what_is_older_than_its_age_goes_and_the_order_of_use_stays() {
    for (days, gone) in [(0, false), (7, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(dir.path());
        let run = registry.write(|write| write.begin_run(Verb::Gc, "store", "{}")).unwrap();
        registry.write(|write| write.finish_run(run, &RunState::Done, None)).unwrap();
        assert!(prune(&mut registry, &ALL, &up(0)).is_empty());
        age(dir.path(), days);
        // The host was up all the while.
        let pruned = prune(&mut registry, &ALL, &up(days * 86_400));
        assert_eq!((pruned.runs == 1, pruned.events > 0), (gone, gone), "{days} days");
        // What is used now is used later than anything before.
        assert_eq!(registry.events(None, 0, 99).unwrap().len(), if gone { 1 } else { 2 });
    }
}

#[test]
fn a_clock_that_is_set_makes_nothing_old() {
    for days in [366, -366] {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(dir.path());
        let run = registry.write(|write| write.begin_run(Verb::Gc, "store", "{}")).unwrap();
        registry.write(|write| write.finish_run(run, &RunState::Done, None)).unwrap();
        assert!(prune(&mut registry, &ALL, &up(0)).is_empty());
        age(dir.path(), days);
        // By the host's own time a minute has passed.
        for minute in 1..5 {
            assert!(prune(&mut registry, &ALL, &up(minute * 60)).is_empty(), "{days}");
        }
        // What is beyond the number goes nevertheless.
        let keep = Keep { events: 1, ..ALL };
        assert_eq!(prune(&mut registry, &keep, &up(600)).events, 1);
    }
}

/// Objects and blobs go by age and by number; what an image, a volume, a refusal or a condemned layer is of stays.
#[test]
fn what_objects_were_is_forgotten_where_nothing_is_of_it() {
    let digest = |number: u32| format!("{number:064x}");
    for (keep, days, left) in [
        (ALL, 0_u8, 12),
        (ALL, 7, 4),
        (Keep { sources: 6, ..ALL }, 7, 4),
        (Keep { sources: 6, sources_age: Duration::from_secs(99 * 86_400), ..ALL }, 7, 6),
        // What was read of late may be of an image that is being made.
        (Keep { sources: 1, ..ALL }, 0, 12),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(dir.path());
        assert!(prune(&mut registry, &keep, &up(0)).is_empty());
        let conn = Connection::open(dir.path().join("registry.db")).unwrap();
        for number in 1..=12 {
            let (blob, key) = (digest(number), format!("k/{number}.tar"));
            conn.execute("INSERT INTO blobs VALUES (?1, ?1, 1, 1, ?2)", (&blob, NOW + number))
                .unwrap();
            conn.execute(
                "INSERT INTO sources(endpoint, bucket, etag, size, key, digest, known_by, seen_ms)
                 VALUES ('e', 'b', ?1, 1, ?2, ?1, 'read', ?3)",
                (&blob, &key, NOW + number),
            )
            .unwrap();
        }
        let now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
        let layer = "INSERT INTO volumes(id, role, parent, build, bytes, state, chain, diff, blob, own_bytes,
             created_ms, sealed_ms, condemned)";
        conn.execute_batch(&format!(
            "UPDATE blobs SET seen_ms = {now} - 60000 + seen_ms - {NOW};
             UPDATE sources SET seen_ms = {now} - 60000 + seen_ms - {NOW};
             INSERT INTO volumes(id, role, build, bytes, state, own_bytes, created_ms, sealed_ms)
               VALUES (1, 'template', 't', 1, 'sealed', 1, 1, 1);
             {layer} VALUES (2, 'layer', 1, 'b2', 1, 'sealed', 'c2', 'd', '{0}', 1, 1, 1, NULL);
             {layer} VALUES (3, 'layer', 1, 'b3', 1, 'sealed', 'c3', 'd', '{1}', 1, 1, 1, 'torn');
             INSERT INTO images(reference, endpoint, chain, created_ms, updated_ms)
               VALUES ('s3://b/k/', 'e', 'c2', 1, 1);
             INSERT INTO image_layers VALUES ('s3://b/k/', 0, 'k/3.tar', NULL, 1, '{2}', 2);
             INSERT INTO quarantine(digest, below, unpacker, size, key, message, at_ms)
               VALUES ('{3}', 'any', 1, 1, 'k', 'm', {now});",
            digest(1),
            digest(2),
            digest(3),
            digest(4),
        ))
        .unwrap();
        let back = i64::from(days) * 86_400_000;
        for table in ["blobs", "sources"] {
            conn.execute(&format!("UPDATE {table} SET seen_ms = seen_ms - ?1"), [back]).unwrap();
        }
        conn.execute("UPDATE clock SET wall_ms = wall_ms - ?1", [back]).unwrap();
        let pruned = prune(&mut registry, &keep, &up(i64::from(days) * 86_400));
        let left_of = |table: &str| -> Vec<String> {
            let sql = format!("SELECT digest FROM {table} ORDER BY digest");
            let mut all = conn.prepare(&sql).unwrap();
            let rows = all.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        for table in ["sources", "blobs"] {
            let there = left_of(table);
            assert_eq!(there.len(), left, "{table} {keep:?} {days}: {there:?}");
            assert!((1..=4).all(|number| there.contains(&digest(number))), "{there:?}");
        }
        assert_eq!(pruned.sources, 2 * (12 - left));
    }
}

/// A moment to count from.
const NOW: u32 = 1000;

#[test]
fn an_older_file_gives_its_room_back_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    for older in [false, true] {
        let mut registry = Registry::open(&path).unwrap();
        if older {
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM").unwrap();
        }
        registry
            .write(|write| (0..9000).try_for_each(|_| write.happened("subject", &"x".repeat(400))))
            .unwrap();
        registry.shrink().unwrap();
        let bytes = || std::fs::metadata(&path).unwrap().len();
        let before = bytes();
        prune(&mut registry, &Keep { events: 10, ..ALL }, &up(0));
        registry.shrink().unwrap();
        assert!(bytes() * 3 < before, "{} of {before}, older {older}", bytes());
        assert_eq!(registry.check().unwrap(), []);
    }
}
