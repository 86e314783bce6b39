//! `fork`, `snapshot` and `restore` of activations that are directories, and what a directory cannot do.

use std::fs;

use serde_json::json;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";

fn write(host: &Host<'_>, name: &str, text: &str) {
    let volume = host.rows(&format!("SELECT id FROM activations WHERE name = '{name}'"));
    fs::write(host.store().join("volumes").join(&volume[0]).join("day"), text).unwrap();
}

fn read(host: &Host<'_>, name: &str) -> String {
    let volume = host.rows(&format!("SELECT id FROM activations WHERE name = '{name}'"));
    fs::read_to_string(host.store().join("volumes").join(&volume[0]).join("day")).unwrap()
}

fn refused(host: &Host<'_>, words: &[&str], said: &str) {
    let (code, text) = host.said(words);
    assert!(code == 100 && text.contains(said), "{words:?}: {code}: {text}");
}

#[test]
fn a_directory_is_forked_and_brought_back_while_it_is_down() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "d"]);
    write(&host, "d", "monday");
    // Its files may change while they are copied.
    for words in [&["fork", "d", "e"][..], &["snapshot", "d", "p"]] {
        refused(&host, words, "orchestrate deactivate d");
    }
    refused(&host, &["resize", "d", "5G"], "no size of its own");
    refused(&host, &["resize", "none", "5G"], "no activation \"none\"");
    host.ok(&["deactivate", "d"]);
    assert_eq!(host.ok(&["fork", "d", "e", "-n"])["dry_run"], true);
    let fork = host.ok(&["fork", "d", "e"]);
    assert_eq!((&fork["from"], &fork["image"]), (&json!("d"), &json!(A)), "{fork}");
    assert_eq!(fork["consistency"], "clean");
    assert_eq!(host.ok(&["fork", "d", "e"])["already"], true);
    assert_eq!(read(&host, "e"), "monday");
    write(&host, "e", "of the fork");
    assert_eq!(read(&host, "d"), "monday");
    refused(&host, &["fork", "e", "d"], "taken");
    refused(&host, &["fork", "d", "d"], "taken");
    host.check();

    host.ok(&["snapshot", "d", "p"]);
    // What was put on it stays on what it is brought back to.
    host.ok(&["label", "d", "tier=1"]);
    host.ok(&["ttl", "d", "9h"]);
    refused(&host, &["snapshot", "d", "p"], "already");
    refused(&host, &["snapshot", "d", "."], ".");
    write(&host, "d", "tuesday");
    refused(&host, &["restore", "d", "q"], "no point");
    host.ok(&["restore", "d", "p", "--dry-run"]);
    assert_eq!(read(&host, "d"), "tuesday");
    host.ok(&["restore", "d", "p"]);
    assert_eq!(read(&host, "d"), "monday");
    let listed = &host.ok(&["ls"])["activations"][0];
    assert_eq!((&listed["labels"], &listed["ttl_s"]), (&json!({"tier": "1"}), &json!(32_400)));
    write(&host, "d", "wednesday");
    host.check();

    // No collection takes it; `rm` does, and the fork stays.
    host.ok(&["gc"]);
    assert_eq!(host.ok(&["df"])["points"], json!([["d/p", null]]));
    let listed = host.ok(&["points", "d"]);
    assert_eq!(listed["points"][0]["point"], "p", "{listed}");
    let ls = host.ok(&["ls"]);
    assert_eq!(
        (&ls["activations"][0]["points"], &ls["activations"][1]["forked_from"]),
        (&json!(1), &json!("d"))
    );
    assert_eq!(host.ok(&["rm", "d", "-n"])["points"], json!(["p"]));
    assert_eq!(host.ok(&["rm", "d"])["points"], json!(["p"]));
    assert_eq!(read(&host, "e"), "of the fork");
    host.check();
    assert_eq!(host.rows("SELECT count(*) FROM points"), ["0"]);
}

#[test]
fn an_activation_has_so_many_points_and_no_more() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "d"]);
    host.ok(&["deactivate", "d"]);
    host.ok(&["snapshot", "d", "first"]);
    let path = host.state().join("registry.db");
    let conn = rusqlite::Connection::open(path).unwrap();
    // Rows alone, so that the test takes no hour; ids that the store does not have.
    for n in 0..63 {
        let sql = "INSERT INTO points(id, activation, name, bytes, state, created_ms)
                   VALUES (?1, 'd', ?2, 1, 'kept', 0)";
        conn.execute(sql, (9000 + n, format!("p{n}"))).unwrap();
    }
    drop(conn);
    refused(&host, &["snapshot", "d", "more"], "64 points");
    host.ok(&["points", "d", "--remove", "p0"]);
    host.ok(&["snapshot", "d", "more"]);
    refused(&host, &["points", "d", "--remove", "p0"], "no point");
}

/// What the old registry says of points and forks stays; without it a point is a disk that nobody knows the name of.
#[test]
fn a_rebuild_keeps_points_and_where_a_fork_is_from() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "d"]);
    write(&host, "d", "monday");
    host.ok(&["deactivate", "d"]);
    host.ok(&["snapshot", "d", "p"]);
    host.ok(&["fork", "d", "e"]);
    write(&host, "d", "tuesday");
    let asked = || host.rows("SELECT name, asked FROM activations ORDER BY 1");
    {
        let conn = rusqlite::Connection::open(host.state().join("registry.db")).unwrap();
        conn.execute("UPDATE activations SET asked = 'document' WHERE name = 'e'", []).unwrap();
        conn.execute("UPDATE images SET asked = 'both'", []).unwrap();
    }
    let done = host.ok(&["rebuild"]);
    assert_eq!(
        (&done["activations"], &done["foreign"]),
        (&json!(["d", "e"]), &json!([])),
        "{done}"
    );
    host.check();
    assert_eq!(host.ok(&["points", "d"])["points"][0]["point"], "p");
    assert_eq!(host.ok(&["ls"])["activations"][1]["forked_from"], "d");
    assert_eq!(asked(), ["d | person", "e | document"]);
    assert_eq!(host.rows("SELECT asked FROM images"), ["both"]);
    host.ok(&["restore", "d", "p"]);
    assert_eq!(read(&host, "d"), "monday");
    host.check();

    // A point whose tree is gone is told, and is no point any more.
    let point = host.rows("SELECT id FROM points");
    fs::remove_dir_all(host.store().join("volumes").join(&point[0])).unwrap();
    for of in ["notes", "made"] {
        fs::remove_file(host.store().join(of).join(&point[0])).unwrap();
    }
    let done = host.ok(&["rebuild"]);
    let told = done["unread"].to_string();
    assert!(told.contains("the point p of d is gone from the store"), "{done}");
    assert_eq!(host.ok(&["points", "d"])["points"], json!([]));
    host.check();

    // A disk that has arrived in part stays what it is.
    host.ok(&["snapshot", "d", "part"]);
    {
        let conn = rusqlite::Connection::open(host.state().join("registry.db")).unwrap();
        conn.execute_batch(&format!(
            "INSERT INTO arrivals(name, id, reference, origin, bytes, stream, state, created_ms, touched_ms, reserved_at)
               SELECT 'arr', p.id, a.reference, a.origin, 0, '{}', 'arriving', 0, 0, p.reserved_at
               FROM points p JOIN activations a ON a.name = p.activation WHERE p.name = 'part';
             UPDATE points SET state = 'deleting' WHERE name = 'part'; DELETE FROM points WHERE name = 'part'",
            "a".repeat(64)
        ))
        .unwrap();
    }
    let done = host.ok(&["rebuild"]);
    assert_eq!(
        (&done["activations"], &done["foreign"]),
        (&json!(["d", "e"]), &json!([])),
        "{done}"
    );
    assert_eq!(host.rows("SELECT name FROM arrivals"), ["arr"]);
    host.ok(&["recover"]);
    {
        let conn = rusqlite::Connection::open(host.state().join("registry.db")).unwrap();
        conn.execute_batch("UPDATE arrivals SET state = 'deleting'").unwrap();
    }
    host.ok(&["recover"]);
    host.check();

    // Without any registry a point is found by what its tree says, as an activation of its own.
    host.ok(&["snapshot", "d", "q"]);
    fs::remove_file(host.state().join("registry.db")).unwrap();
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["activations"].as_array().unwrap().len(), 3, "{done}");
    host.check();
}
