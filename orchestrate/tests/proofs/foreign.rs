//! What is in the store and in none of our rows is somebody else's: its id is never used, and nothing of
//! ours ever takes it away.

use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// A volume that another program has made, with something on it.
fn put_foreign(host: &Host<'_>, id: u32) {
    let dir = host.store().join("volumes").join(id.to_string());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("theirs"), format!("data of {id}")).unwrap();
}

fn is_whole(host: &Host<'_>, id: u32) -> bool {
    let file = host.store().join("volumes").join(id.to_string()).join("theirs");
    fs::read_to_string(file).is_ok_and(|text| text == format!("data of {id}"))
}

fn next_id(host: &Host<'_>) -> u32 {
    host.rows("SELECT next_id FROM meta")[0].parse().unwrap()
}

/// The JSON, what was said on stderr, and the exit code.
fn run(host: &Host<'_>, words: &[&str]) -> (Value, String, Option<i32>) {
    let output = host.command(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), said, output.status.code())
}

#[test]
fn ids_that_the_store_has_and_no_row_knows_are_passed_over_and_named_once() {
    let bench = Bench::small();
    let host = bench.host("host");
    // Bound and empty: even the template's id is taken.
    host.ok(&["ls"]);
    put_foreign(&host, next_id(&host));
    let first = next_id(&host);
    let (_, said, code) = run(&host, &["ensure", A]);
    assert_eq!(code, Some(0), "{said}");
    let mut foreign = vec![first];
    let next = next_id(&host);
    // Under layers that come, and under activations; with holes.
    for id in [next, next + 1, next + 3] {
        put_foreign(&host, id);
        foreign.push(id);
    }
    let (_, first_said, code) = run(&host, &["activate", B, "--name", "b-1"]);
    assert_eq!(code, Some(0), "{first_said}");
    let (_, second_said, code) = run(&host, &["activate", B, "--name", "b-2"]);
    assert_eq!(code, Some(0), "{second_said}");
    for id in &foreign {
        assert!(is_whole(&host, *id), "foreign volume {id} is gone or changed");
    }
    let said = said + &first_said + &second_said;
    for id in &foreign {
        let line = format!("id {id} in the store is not ours (no row has it): left alone, skipped");
        assert_eq!(said.matches(&line).count(), 1, "{line}: {said}");
    }
    host.check_tree("b-1", 4);
    host.check_tree("b-2", 4);
    for gone in ["b-1", "b-2", B] {
        host.ok(&["rm", gone]);
    }
    assert_eq!(host.ok(&["gc"])["foreign"], json!(foreign));
    assert_eq!(host.ok(&["df"])["foreign"], json!(foreign));
    for id in &foreign {
        assert!(is_whole(&host, *id), "foreign volume {id} is gone or changed");
    }
}

/// A row that names an id which the store has from somebody else: as a kill leaves it that comes between
/// the commit of the row and the look at the store, while the other one makes its volume.
#[test]
fn a_row_over_a_foreign_volume_goes_and_the_volume_stays() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    let id = next_id(&host);
    put_foreign(&host, id);
    put_foreign(&host, id + 1);
    let conn = Connection::open(host.state().join("registry.db")).unwrap();
    let at = "(SELECT transaction_id FROM meta)";
    conn.execute_batch(&format!(
        "INSERT INTO volumes(id, role, parent, build, bytes, state, created_ms, reserved_at)
           SELECT {id}, 'layer', id, 'b', 1, 'building', 0, {at} FROM volumes WHERE role = 'template';
         INSERT INTO activations(name, reference, origin, id, bytes, state, created_ms, reserved_at)
           SELECT 'half', '{A}', max(id), {id} + 1, 1, 'reserved', 0, {at} FROM volumes WHERE id < {id};
         UPDATE meta SET next_id = {id} + 2"
    ))
    .unwrap();
    drop(conn);
    let (_, said, code) = run(&host, &["recover"]);
    assert_eq!(code, Some(0), "{said}");
    for id in [id, id + 1] {
        assert!(is_whole(&host, id), "foreign volume {id} is gone or changed");
        assert!(said.contains(&format!("id {id} in the store is not ours")), "{said}");
    }
    assert_eq!(host.rows("SELECT count(*) FROM volumes WHERE state <> 'sealed'"), ["0"]);
    assert_eq!(host.rows("SELECT count(*) FROM activations"), ["1"]);
    assert_eq!(host.ok(&["gc"])["foreign"], json!([id, id + 1]));
}

#[test]
fn foreign_volumes_go_only_by_their_ids_and_never_while_they_are_used() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    for id in [7777, 7778, 7779] {
        put_foreign(&host, id);
    }
    let link: PathBuf = host.store().join("active/theirs");
    std::os::unix::fs::symlink("../volumes/7778", link).unwrap();
    let all = json!([7777, 7778, 7779]);
    assert_eq!(host.ok(&["gc"])["foreign"], all);
    // Without ids it tells, and does nothing at all.
    let (done, said, code) = run(&host, &["gc", "--purge-foreign"]);
    assert_eq!((code, &done["foreign"], &done["dry_run"]), (Some(0), &all, &json!(true)), "{said}");
    assert!([7777, 7778, 7779].iter().all(|id| is_whole(&host, *id)), "listed, and gone");
    // One that is in use, one of ours and one that is not there: each is refused, the others go.
    let own = host.rows("SELECT max(id) FROM volumes")[0].clone();
    let ids = format!("7777,7778,{own},9999");
    let dry = run(&host, &["gc", "--purge-foreign", &ids, "--dry-run"]);
    assert!(is_whole(&host, 7777), "a dry run purged");
    assert_eq!(dry.2, Some(1), "{}", dry.1);
    let (done, said, code) = run(&host, &["gc", "--purge-foreign", &ids]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(done["sweeps"], json!([{"what": "foreign", "volume": 7777}]), "{done}");
    let refused: Vec<&Value> =
        done["refused"].as_array().unwrap().iter().map(|line| &line["volume"]).collect();
    let own: u32 = own.parse().unwrap();
    assert_eq!(json!(refused), json!([own, 7778, 9999]), "{done}");
    assert!(done["refused"].to_string().contains("theirs"), "{done}");
    assert!(!host.store().join("volumes/7777").exists());
    assert!(is_whole(&host, 7778) && is_whole(&host, 7779));
    assert!(host.store().join("volumes").join(own.to_string()).exists());
    for words in [["gc", "--purge-foreign", "x"], ["gc", "--purge-foreign", "1,"]] {
        assert_eq!(run(&host, &words).2, Some(100), "{words:?}");
    }
}
