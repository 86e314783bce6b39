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
