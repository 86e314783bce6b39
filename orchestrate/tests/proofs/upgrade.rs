//! A registry of each older schema under a host whose process was killed in the middle: it is copied,
//! migrated, and what was half done comes to its end. (A newer schema is refused: `damage`.)

use std::path::Path;

use registry::{APPLICATION_ID, SCHEMA_VERSION};
use rusqlite::Connection;

use crate::bench::{Bench, Host};
use crate::matrix::killed_once;

/// What made a file of schema n from one of n - 1.
const SCHEMAS: &[&str] = &[
    include_str!("../../../registry/schema/1.sql"),
    include_str!("../../../registry/schema/2.sql"),
    include_str!("../../../registry/schema/3.sql"),
    include_str!("../../../registry/schema/4.sql"),
    include_str!("../../../registry/schema/5.sql"),
    include_str!("../../../registry/schema/6.sql"),
    include_str!("../../../registry/schema/7.sql"),
    include_str!("../../../registry/schema/8.sql"),
    include_str!("../../../registry/schema/9.sql"),
    include_str!("../../../registry/schema/10.sql"),
    include_str!("../../../registry/schema/11.sql"),
    include_str!("../../../registry/schema/12.sql"),
    include_str!("../../../registry/schema/13.sql"),
    include_str!("../../../registry/schema/14.sql"),
    include_str!("../../../registry/schema/15.sql"),
    include_str!("../../../registry/schema/16.sql"),
    include_str!("../../../registry/schema/17.sql"),
    include_str!("../../../registry/schema/18.sql"),
];

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const ACTIVATE: &[&str] = &["activate", A, "--name", "a-1"];

fn column(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The same registry as the program of that schema would have left it: its tables with its columns.
fn made_older(host: &Host<'_>, schema: usize) {
    let path = host.state().join("registry.db");
    let older = host.state().join("registry.older");
    let conn = Connection::open(&older).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    for step in &SCHEMAS[..schema] {
        conn.execute_batch(step).unwrap();
    }
    conn.execute("ATTACH ?1 AS now", [path.to_str().unwrap()]).unwrap();
    let tables = column(
        &conn,
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    );
    for table in tables {
        let common = column(
            &conn,
            &format!(
                "SELECT name FROM pragma_table_info('{table}', 'main')
                 WHERE name IN (SELECT name FROM pragma_table_info('{table}', 'now'))"
            ),
        );
        let common = common.join(", ");
        conn.execute_batch(&format!(
            "INSERT OR REPLACE INTO main.{table}({common}) SELECT {common} FROM now.{table}"
        ))
        .unwrap_or_else(|error| panic!("{table} of schema {schema}: {error}"));
    }
    conn.execute_batch(&format!(
        "DETACH now; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {schema}"
    ))
    .unwrap();
    drop(conn);
    for part in ["registry.db-wal", "registry.db-shm"] {
        drop(std::fs::remove_file(host.state().join(part)));
    }
    std::fs::rename(older, path).unwrap();
}

fn version(path: &Path) -> i64 {
    let conn = Connection::open(path).unwrap();
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn what_an_older_program_left_half_done_is_migrated_and_ended() {
    assert_eq!(i64::try_from(SCHEMAS.len()).unwrap(), SCHEMA_VERSION, "a schema is not tried here");
    let bench = Bench::small();
    let before = bench.host("before");
    before.ok(&["activate", B, "--name", "b-1"]);
    before.ok(&["activate", B, "--name", "b-2"]);
    before.ok(&["deactivate", "b-2"]);
    let whole = before.copy_to("whole");
    whole.ok(ACTIVATE);
    let end = whole.end_text();
    // In the middle of its own layer, and of the activation.
    for place in ["volumes/7", "volumes/8"] {
        let killed = before.copy_to("killed");
        killed_once(&killed, ACTIVATE, place);
        for schema in 1..SCHEMAS.len() {
            let told = format!("schema {schema}, killed after it made {place}");
            let host = killed.copy_to("older");
            made_older(&host, schema);
            let done = host.ok(&["recover"]);
            let copy = host.state().join(format!("registry.db.schema-{schema}"));
            let versions = (version(&host.state().join("registry.db")), version(&copy));
            assert_eq!(versions, (SCHEMA_VERSION, i64::try_from(schema).unwrap()), "{told}");
            // Schema 1 knew of no runs: what was half done goes, and is asked for again.
            match schema {
                1 => assert_eq!(done["resumed"], serde_json::json!([]), "{told}"),
                _ => assert_eq!(done["resumed"][0]["state"], "done", "{told}: {done}"),
            }
            host.ok(ACTIVATE);
            host.check();
            host.check_tree("a-1", 3);
            assert_eq!(host.end_text(), end, "{told}");
        }
    }
}

/// A backup of an older program has names and pins for a rebuild, too; it is kept as it was.
#[test]
fn a_rebuild_takes_names_from_a_registry_of_an_older_schema() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    host.ok(&["deactivate", "a-1"]);
    host.ok(&["pin", A]);
    let schema = SCHEMAS.len() - 1;
    made_older(&host, schema);
    // All that tells of the store but the backup itself.
    std::fs::remove_file(host.state().join("store.json")).unwrap();
    std::fs::remove_dir_all(host.state().join("locks")).unwrap();
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["activations"], serde_json::json!(["a-1"]));
    assert_eq!(host.rows("SELECT reference FROM images WHERE pinned"), [A]);
    let kept = host.state().join("registry.db.replaced-1");
    assert_eq!(version(&kept), i64::try_from(schema).unwrap());
    host.check();
}

/// Holds one lock of the state directory, as a process of the older program does.
fn hold(host: &Host<'_>, lock: &str) -> std::fs::File {
    let path = host.state().join("locks").join(lock);
    let file =
        std::fs::File::options().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = file.unwrap();
    file.lock().unwrap();
    std::io::Write::write_all(&mut file, b"process 4194305").unwrap();
    file
}

/// Who has the registry open with an older program finds no other tables under its hands.
#[test]
fn nothing_is_migrated_under_an_older_program_that_is_at_work() {
    let bench = Bench::small();
    let one = bench.host("one");
    one.ok(ACTIVATE);
    let host = one.copy_to("older");
    made_older(&host, 6);
    let path = host.state().join("registry.db");
    let daemon = hold(&host, "serve.lock");
    for words in [&["ls"][..], ACTIVATE, &["rm", "a-1"], &["recover"], &["gc"]] {
        let (code, said) = host.said(words);
        assert!(code == 111 && said.contains("an older daemon runs"), "{words:?}: {code}: {said}");
        assert!(said.contains("4194305") && said.contains("restart it"), "{words:?}: {said}");
    }
    let (code, said) = host.said(&["health"]);
    assert!(code == 1 && said.contains("has schema 6"), "{code}: {said}");
    assert_eq!(version(&path), 6);
    drop(daemon);
    // A command of it: what it needs is waited for.
    for lock in ["images.lock", "store.lock"] {
        let busy = hold(&host, lock);
        let (code, said) = host.said(&["activate", B, "--name", "b-1", "--wait", "0"]);
        assert!(code == 111 && said.contains("4194305"), "{lock}: {code}: {said}");
        assert_eq!(version(&path), 6, "{lock}");
        drop(busy);
    }
    host.ok(&["activate", B, "--name", "b-1"]);
    assert_eq!(version(&path), SCHEMA_VERSION);
    host.check();
}
