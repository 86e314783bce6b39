//! Runs, refused blobs, copies, and the way from an older schema, against real files.

use std::path::Path;

use registry::{
    Death, Digest, Enqueued, Error, Image, Kind, NewRun, NewVolume, Quarantined, Registry, Role,
    RunId, RunState, SCHEMA_VERSION, Seal, Source, Verb, VolumeId, VolumeState,
};
use rusqlite::Connection;

fn open(dir: &Path) -> Registry {
    Registry::open(&dir.join("registry.db")).unwrap()
}

fn failed() -> RunState {
    RunState::Failed { class: "refused".into(), message: "no".into() }
}

#[test]
fn one_run_of_a_kind_lives_at_a_time_and_how_it_ended_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let begin = |registry: &mut Registry| {
        registry.write(|write| write.begin_run(Verb::Ensure, "s3://b/p/", "{}"))
    };
    let first = begin(&mut registry).unwrap();
    assert!(begin(&mut registry).is_err(), "a second live run of one kind");
    registry.write(|write| write.begin_run(Verb::Rm, "s3://b/p/", "{}")).unwrap();
    registry.write(|write| write.finish_run(first, &failed(), None)).unwrap();
    let late = registry.write(|write| write.finish_run(first, &RunState::Done, None)).unwrap_err();
    assert_eq!(late.kind(), Kind::Conflict);
    assert_eq!(registry.run(first).unwrap().unwrap().state, failed());
    let second = begin(&mut registry).unwrap();
    assert!(second > first);
    assert_eq!(registry.runs(false).unwrap().len(), 2);
    assert_eq!(registry.runs(true).unwrap().len(), 3);

    drop(registry);
    let stray = Connection::open(dir.path().join("registry.db")).unwrap();
    assert!(stray.execute("UPDATE runs SET state = 'running' WHERE id = ?1", [first]).is_err());
}

#[test]
fn begins_are_counted_until_the_run_comes_forward() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let id = registry.write(|write| write.begin_run(Verb::Activate, "web", "{}")).unwrap();
    for begun in 2..5 {
        let run = registry.live_run(Verb::Activate, "web").unwrap().unwrap();
        registry.write(|write| write.take_up_run(&run, "{}")).unwrap();
        let stale = registry.write(|write| write.take_up_run(&run, "{}")).unwrap_err();
        assert_eq!(stale.kind(), Kind::Conflict);
        assert_eq!(registry.run(id).unwrap().unwrap().attempt, begun);
    }
    registry.write(|write| write.note_run(id, "layer 2", true)).unwrap();
    let run = registry.run(id).unwrap().unwrap();
    assert_eq!((run.attempt, run.step.as_str()), (1, "layer 2"));
}

#[test]
fn a_wish_to_cancel_is_kept_and_counts_only_for_what_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let id = registry.write(|write| write.begin_run(Verb::Ensure, "s3://b/p/", "{}")).unwrap();
    assert_eq!(registry.cancel_wish(id).unwrap(), None);
    assert!(registry.write(|write| write.cancel_run(id, "no longer wanted")).unwrap());
    assert!(!registry.write(|write| write.cancel_run(id, "again")).unwrap());
    drop(registry);
    let mut registry = open(dir.path());
    assert_eq!(registry.cancel_wish(id).unwrap().as_deref(), Some("no longer wanted"));
    registry.write(|write| write.finish_run(id, &RunState::Cancelled, None)).unwrap();
    assert!(!registry.write(|write| write.cancel_run(id, "late")).unwrap());
}

fn queued(priority: i32, webhook: Option<&str>) -> NewRun<'_> {
    let (verb, subject, input) = (Verb::Ensure, "s3://b/p/", "{}");
    NewRun { verb, subject, input, priority, webhook }
}

/// A wish that nothing is said against.
fn enqueue(registry: &mut Registry, new: &NewRun<'_>) -> Enqueued {
    registry.write(|write| write.enqueue_run(new, |_| None)).unwrap()
}

fn fresh(registry: &mut Registry, new: &NewRun<'_>) -> RunId {
    let Enqueued::Fresh(id) = enqueue(registry, new) else { panic!("not fresh") };
    id
}

fn to_tell(registry: &Registry) -> Vec<(RunId, String)> {
    let due = registry.addresses_to_tell("", 9).unwrap().into_iter();
    due.flat_map(|address| {
        let (mut found, mut after) = (Vec::new(), 0);
        while let Some(webhook) = registry.to_tell(&address, after).unwrap() {
            after = webhook.id;
            found.push((webhook.run, webhook.address));
        }
        found
    })
    .collect()
}

#[test]
fn a_wish_waits_in_the_queue_and_a_second_one_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let first = fresh(&mut registry, &queued(0, Some("http://first/")));
    let address = Some("http://h/");
    assert_eq!(enqueue(&mut registry, &queued(7, address)), Enqueued::Joined(first));
    // The same address hears once; and who is turned away has changed nothing.
    assert_eq!(enqueue(&mut registry, &queued(3, address)), Enqueued::Joined(first));
    let other = queued(99, Some("http://other/"));
    let refused = registry.write(|write| write.enqueue_run(&other, |_| Some("no".into()))).unwrap();
    assert_eq!(refused, Enqueued::Refused { id: first, why: "no".into() });
    let run = registry.live_run(Verb::Ensure, "s3://b/p/").unwrap().unwrap();
    assert_eq!((&run.state, run.attempt, run.priority), (&RunState::Queued, 0, 7));
    registry.write(|write| write.take_up_run(&run, "{}")).unwrap();
    assert!(registry.write(|write| write.take_up_run(&run, "{}")).is_err(), "taken up by another");
    registry.write(|write| write.suspend_run(run.id, "the daemon stops")).unwrap();
    let run = registry.run(run.id).unwrap().unwrap();
    assert_eq!((&run.state, run.attempt), (&RunState::Queued, 0));
    registry.write(|write| write.take_up_run(&run, "{}")).unwrap();
    assert_eq!(to_tell(&registry), [], "it has not ended");
    let gave = serde_json::json!({"layers": 3});
    registry.write(|write| write.finish_run(run.id, &RunState::Done, Some(&gave))).unwrap();
    assert_eq!(registry.run(run.id).unwrap().unwrap().result, Some(gave));
    let each = ["http://first/", "http://h/"].map(|address| (run.id, address.to_owned()));
    assert_eq!(to_tell(&registry), each);
    for (_, address) in each {
        let webhook = registry.to_tell(&address, 0).unwrap().unwrap();
        registry.write(|write| write.told_end(&webhook, "told")).unwrap();
    }
    assert_eq!(to_tell(&registry), []);
    assert!(registry.run(run.id).unwrap().is_some());
    assert!(registry.write(|write| write.suspend_run(run.id, "late")).is_err());
    let states: Vec<_> = registry.events(None, 0, 99).unwrap().into_iter().map(|e| e.to).collect();
    let words = ["queued", "running", "queued", "running", "done"].map(|w| Some(w.to_owned()));
    assert_eq!(states[..5], words);
}

#[test]
fn a_queued_run_is_cancelled_at_once_and_may_end_without_a_begin() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let first = fresh(&mut registry, &queued(0, None));
    assert!(registry.write(|write| write.cancel_run(first, "no")).unwrap());
    let run = registry.run(first).unwrap().unwrap();
    assert_eq!((run.state, run.finished_ms.is_some()), (RunState::Cancelled, true));
    let second = fresh(&mut registry, &queued(0, None));
    assert!(second > first);
    registry.write(|write| write.finish_run(second, &failed(), None)).unwrap();
    assert_eq!(registry.runs_after(Some("failed"), RunId::default(), 9).unwrap().len(), 1);
    assert_eq!(registry.runs_after(None, first, 9).unwrap().len(), 1);
    assert_eq!(registry.last_ended([Verb::Ensure, Verb::Activate]).unwrap().unwrap().id, second);
    let too_high = registry.write(|write| write.enqueue_run(&queued(101, None), |_| None));
    assert!(too_high.is_err());
}

#[test]
fn refused_bytes_are_known_by_digest_and_an_object_by_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let source =
        Source { endpoint: "https://s3".into(), bucket: "b".into(), etag: "\"e\"".into(), size: 7 };
    let digest = Digest([9; 32]);
    let refused = |below: &str, message: &str| Quarantined {
        digest,
        below: below.into(),
        limits: None,
        unpacker: 1,
        size: 7,
        key: "p/1.tar".into(),
        message: message.into(),
        at_ms: 0,
    };
    let template = refused("template", "rule");
    registry.write(|write| write.refuse(&template, Some(&source))).unwrap();
    let limits = serde_json::json!({"bytes_max": 1});
    let limited = Quarantined { limits: Some(limits.clone()), ..refused("sha256:1", "limit") };
    registry.write(|write| write.refuse(&limited, None)).unwrap();
    // Where it stood on the same, the later word counts.
    registry.write(|write| write.refuse(&refused("template", "again"), None)).unwrap();
    let kept = registry.refused(digest).unwrap();
    let kept: Vec<_> = kept.iter().map(|row| (&*row.below, &*row.message, &row.limits)).collect();
    assert_eq!(kept, [("sha256:1", "limit", &Some(limits)), ("template", "again", &None)]);
    assert_eq!(registry.quarantine().unwrap().len(), 2);
    let counted = registry.counters().unwrap();
    let counted = counted.iter().find(|row| row.name == "blobs_refused_total").unwrap();
    assert_eq!(counted.value, 1, "one blob");

    assert_eq!(registry.refused_source(&source, "p/1.tar").unwrap(), Some(digest));
    assert_eq!(registry.refused_source(&source, "q/1.tar").unwrap(), None);
    let other = Source { size: 8, ..source.clone() };
    assert_eq!(registry.refused_source(&other, "p/1.tar").unwrap(), None);
    assert!(registry.write(|write| write.release(digest)).unwrap());
    assert!(!registry.write(|write| write.release(digest)).unwrap());
    assert_eq!(registry.refused(digest).unwrap(), []);
    assert_eq!(registry.refused_source(&source, "p/1.tar").unwrap(), None);
}

#[test]
fn a_backup_is_a_registry_and_never_takes_the_place_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    registry.write(|write| write.begin_run(Verb::Ensure, "s3://b/p/", "{}")).unwrap();
    let copy = dir.path().join("copy.db");
    assert_eq!(registry.backup(&copy, 2).unwrap(), None);
    let copied = Registry::open_existing(&copy).unwrap();
    assert_eq!(copied.runs(true).unwrap(), registry.runs(true).unwrap());
    assert_eq!(copied.check().unwrap(), []);
    // The same the next days: the older ones move, and the oldest goes.
    let older = |number: u32| dir.path().join(format!("copy.db.{number}"));
    for day in 1..=3 {
        std::fs::write(dir.path().join("copy-before"), std::fs::read(&copy).unwrap()).unwrap();
        assert_eq!(registry.backup(&copy, 2).unwrap(), Some(older(1)));
        let before = std::fs::read(dir.path().join("copy-before")).unwrap();
        assert!(std::fs::read(older(1)).unwrap() == before, "on day {day} another one came");
    }
    assert!(older(2).exists() && !older(3).exists());
    assert!(Registry::open_existing(&copy).is_ok());
    // What is no backup of this store is left alone, and so is the registry itself.
    std::fs::write(older(1), "mine").unwrap();
    let in_the_way = |path: &std::path::Path| {
        let before = std::fs::read(path).unwrap();
        let refused = registry.backup(&copy, 2).unwrap_err();
        assert!(matches!(&refused, Error::InTheWay { path: named } if named == path), "{refused}");
        assert!(std::fs::read(path).unwrap() == before);
    };
    in_the_way(&older(1));
    std::fs::remove_file(older(1)).unwrap();
    std::fs::write(&copy, "mine").unwrap();
    in_the_way(&copy);
    assert!(matches!(registry.backup(registry.path(), 2), Err(Error::InTheWay { .. })));
    // Also by who may only look, as the program does; and it may only look afterwards.
    let mut looks = Registry::open_existing(&dir.path().join("registry.db")).unwrap();
    looks.backup(&dir.path().join("by-who-looks.db"), 0).unwrap();
    assert!(looks.write(|write| write.cancel_run(RunId::new(1), "x")).is_err());
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".new"))
        .collect();
    assert_eq!(names, Vec::<String>::new());
    let mut tables = Vec::new();
    registry
        .export(|row| {
            tables.push(row["table"].as_str().unwrap().to_owned());
            Ok(())
        })
        .unwrap();
    tables.dedup();
    assert_eq!(tables, ["meta", "runs", "events"]);
}

/// A file as veneer 0.1 left it at schema 1, with a row in every state.
fn schema_1(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(include_str!("../schema/1.sql")).unwrap();
    let hex = |n: u8| format!("{n:02x}").repeat(32);
    conn.execute_batch(&format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 1;
         UPDATE meta SET store_kind = 'dir', store_id = 'x', transaction_id = 9, next_id = 20;
         INSERT INTO blobs VALUES ('{b1}', '{d1}', 10, 10, 0);
         INSERT INTO volumes(id, role, parent, build, bytes, state, own_bytes, created_ms, sealed_ms)
           VALUES (1, 'template', NULL, 'template', 64, 'sealed', 1, 0, 0);
         INSERT INTO volumes(id, role, parent, build, bytes, state, chain, diff, blob, own_bytes,
             entries, content_bytes, created_ms, sealed_ms)
           VALUES (2, 'layer', 1, 'b', 64, 'sealed', '{d1}', '{d1}', '{b1}', 5, 1, 1, 0, 0);
         INSERT INTO volumes(id, role, parent, build, bytes, state, created_ms)
           VALUES (3, 'layer', 2, 'c', 64, 'building', 0), (4, 'layer', 2, 'd', 64, 'deleting', 0);
         INSERT INTO images VALUES ('s3://b/p/', 'https://s3', '{d1}', 0, 0);
         INSERT INTO image_layers VALUES ('s3://b/p/', 0, 'p/1.tar', '\"e\"', 10, '{b1}', 2);
         INSERT INTO activations VALUES ('r', 's3://b/p/', 2, 5, 64, 'reserved', 0),
           ('a', 's3://b/p/', 2, 6, 64, 'active', 0), ('i', 's3://b/p/', 2, 7, 64, 'inactive', 0),
           ('x', 's3://b/p/', 2, 8, 64, 'deleting', 0);
         INSERT INTO attempts VALUES ('c', 2, 0);
         INSERT INTO events(at_ms, subject) VALUES (0, 'volume 2');",
        registry::APPLICATION_ID,
        b1 = hex(1),
        d1 = hex(2),
    ))
    .unwrap();
}

#[test]
fn a_registry_of_schema_1_is_copied_and_then_migrated_with_rows_in_every_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    schema_1(&path);
    let refused = Registry::open_existing(&path).unwrap_err();
    assert!(matches!(refused, Error::Older { found: 1, known: SCHEMA_VERSION, .. }), "{refused}");

    let mut registry = Registry::open(&path).unwrap();
    assert_eq!(registry.check().unwrap(), []);
    let states: Vec<_> =
        registry.volumes().unwrap().iter().map(|volume| volume.state.word()).collect();
    assert_eq!(states, ["sealed", "sealed", "building", "deleting"]);
    assert_eq!(registry.activations().unwrap().len(), 4);
    assert_eq!(registry.attempts("c").unwrap(), 2);
    let image: Image = registry.image("s3://b/p/").unwrap().unwrap();
    assert_eq!((image.layers.len(), image.pinned), (1, false));
    // It goes on from where it was.
    let new = NewVolume { role: Role::Layer, parent: Some(VolumeId::new(2)), build: "n", bytes: 1 };
    let theirs = std::collections::BTreeSet::new();
    assert_eq!(
        registry.write(|write| write.reserve_volume(&new, &theirs)).unwrap().id,
        VolumeId::new(20)
    );
    let building = registry.volume(VolumeId::new(3)).unwrap().unwrap();
    let seal = Seal {
        chain: Some(Digest([7; 32])),
        diff: Some(Digest([8; 32])),
        blob: None,
        tree: None,
        blocks: None,
        own_bytes: 1,
        entries: 1,
        content_bytes: 1,
    };
    registry.write(|write| write.advance_volume(&building, &VolumeState::Sealed(seal))).unwrap();
    registry.write(|write| write.begin_run(Verb::Ensure, "s3://b/p/", "{}")).unwrap();

    let kept = Connection::open(dir.path().join("registry.db.schema-1")).unwrap();
    let version: i64 = kept.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let volumes: i64 =
        kept.query_row("SELECT count(*) FROM volumes", [], |row| row.get(0)).unwrap();
    assert_eq!((version, volumes), (1, 4));
}

/// A file of schema 2, with a run in every state and one number that is gone.
fn schema_2(path: &Path) {
    let conn = Connection::open(path).unwrap();
    for step in [include_str!("../schema/1.sql"), include_str!("../schema/2.sql")] {
        conn.execute_batch(step).unwrap();
    }
    conn.execute_batch(&format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 2;
         INSERT INTO runs(id, verb, subject, input, state, step, attempt, cancel, class, message,
             created_ms, updated_ms, finished_ms)
           VALUES (3, 'ensure', 's3://b/p/', '{{}}', 'running', 'x', 2, 'why', NULL, NULL, 1, 2, NULL),
                  (5, 'rm', 'a', '{{}}', 'done', '', 1, NULL, NULL, NULL, 1, 2, 3),
                  (6, 'gc', 'store', '{{}}', 'failed', '', 1, NULL, 'bug', 'm', 1, 2, 3),
                  (9, 'gc', 'store', '{{}}', 'cancelled', '', 1, NULL, NULL, NULL, 1, 2, 3);
         DELETE FROM runs WHERE id = 9;",
        registry::APPLICATION_ID,
    ))
    .unwrap();
}

#[test]
fn runs_of_schema_2_are_kept_and_no_number_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    schema_2(&dir.path().join("registry.db"));
    let mut registry = open(dir.path());
    assert_eq!(registry.check().unwrap(), []);
    let runs = registry.runs(true).unwrap();
    let states: Vec<_> = runs.iter().map(|run| (run.id.get(), run.state.word())).collect();
    assert_eq!(states, [(3, "running"), (5, "done"), (6, "failed")]);
    assert_eq!((runs[0].attempt, runs[0].cancel.as_deref()), (2, Some("why")));
    let next = registry.write(|write| write.begin_run(Verb::Rm, "b", "{}")).unwrap();
    assert_eq!(next.get(), 10);
    assert!(dir.path().join("registry.db.schema-2").exists());
    drop(registry);
    let stray = Connection::open(dir.path().join("registry.db")).unwrap();
    assert!(stray.execute("UPDATE runs SET priority = 1 WHERE id = 5", []).is_err());
}

/// The run that was at work.
const THIRD: RunId = RunId::new(3);

/// Deaths are kept for a run that has not ended, until it comes forward, is put by, or ends.
#[test]
fn deaths_of_a_run_go_with_what_they_are_held_against() {
    let dir = tempfile::tempdir().unwrap();
    schema_2(&dir.path().join("registry.db"));
    let mut registry = open(dir.path());
    // What an older program began, in a boot that it did not keep.
    let life = registry.life(THIRD).unwrap().unwrap();
    assert_eq!((life.boot.as_str(), life.died), ("", None));
    assert_eq!(registry.life(RunId::new(5)).unwrap(), None);
    let died = Death { boot: "b".into(), place: "layer 1".into(), mark: 7, at_ms: 1 };
    let begin = |registry: &mut Registry| {
        registry.write(|write| write.begin_life(THIRD, "b", Some(&died))).unwrap();
    };
    begin(&mut registry);
    registry.write(|write| write.reach(THIRD, "layer 1", "fetch-x-", false)).unwrap();
    let life = registry.life(THIRD).unwrap().unwrap();
    assert_eq!((life.place.as_str(), life.spool.as_str()), ("layer 1", "fetch-x-"));
    assert_eq!(life.died, Some(died.clone()));
    registry.write(|write| write.reach(THIRD, "layer 2", "", true)).unwrap();
    assert_eq!(registry.life(THIRD).unwrap().unwrap().died, None);
    begin(&mut registry);
    registry.write(|write| write.end_life(THIRD)).unwrap();
    assert_eq!(registry.life(THIRD).unwrap(), None);
    begin(&mut registry);
    registry.write(|write| write.finish_run(THIRD, &failed(), None)).unwrap();
    assert_eq!(registry.life(THIRD).unwrap(), None);
}

#[test]
fn twelve_processes_worth_of_connections_migrate_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    schema_1(&path);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| Registry::open(&path).unwrap());
        }
    });
    assert_eq!(open(dir.path()).check().unwrap(), []);
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "registry.db.schema-1"), "{names:?}");
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{names:?}");
}
