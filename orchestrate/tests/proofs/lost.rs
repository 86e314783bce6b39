//! A registry that is gone, and a store with two: what one has sealed is never taken for new, and never
//! changes hands without a word.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::bench::{Bench, Host, names};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const ACTIVATE: &[&str] = &["activate", A, "--name", "a-1"];

/// Every command that opens the registry, but `serve`, `health` and `metrics`.
const COMMANDS: &[&[&str]] = &[
    &["ls"],
    &["df"],
    &["runs"],
    &["events"],
    &["show", "a-1"],
    &["quarantine"],
    &["recover"],
    &["recover", "-n"],
    &["verify"],
    &["ensure", B],
    &["activate", A, "--name", "a-2", "--no-fetch"],
    ACTIVATE,
    &["deactivate", "a-1"],
    &["rm", "a-1"],
    &["gc"],
    &["gc", "--keep-bytes", "0"],
    &["pin", A],
    &["unpin", A],
    &["cancel", "1"],
];

/// Refused for good, with these words.
fn refused(host: &Host<'_>, words: &[&str], told: &[&str]) -> String {
    let output = host.command(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(100), "{words:?}: {said}");
    for text in told {
        assert!(said.contains(text), "{words:?} does not say {text:?}: {said}");
    }
    said
}

/// All that is there, but for the registry's own log.
fn snapshot(host: &Host<'_>) -> String {
    let locks = names(&host.state().join("locks"));
    format!("{:?} {locks:?} {}", names(&host.state()), host.state_text())
}

/// The same store under another state directory, of which nothing exists.
fn second<'b>(host: &Host<'b>, name: &str) -> Host<'b> {
    let second = host.bench().host(name);
    second.wipe();
    fs::create_dir_all(&second.dir).unwrap();
    symlink(host.store(), second.store()).unwrap();
    second
}

#[test]
fn a_lost_registry_is_told_by_every_command_and_not_made_anew() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    fs::write(host.store().join("active/a-1/mark"), "kept").unwrap();
    // The whole directory may be gone, or the file alone.
    for whole in [false, true] {
        let host = host.copy_to("lost");
        match whole {
            true => fs::remove_dir_all(host.state()).unwrap(),
            false => host.lose_registry(),
        }
        let (before, gets) = (snapshot(&host), bench.gets().len());
        for words in COMMANDS {
            refused(&host, words, &["there is no registry", "`orchestrate rebuild`"]);
            refused(&host, &[words, &["--new"][..]].concat(), &["there is no registry"]);
            assert_eq!(snapshot(&host), before, "{words:?} changed something");
        }
        assert_eq!(bench.gets().len(), gets, "something was fetched");

        // Those that tell of sick hosts tell it.
        let health = host.command(&["health"]).output().unwrap();
        let found: Value = serde_json::from_slice(&health.stdout).unwrap();
        assert_eq!((health.status.code(), &found["ready"]), (Some(1), &json!(false)));
        let failed = found["checks"].as_array().unwrap().iter().find(|check| check["ok"] == false);
        let reason = failed.unwrap()["reason"].as_str().unwrap();
        assert!(reason.contains("`orchestrate rebuild`"), "{found}");
        let metrics = host.command(&["metrics"]).output().unwrap();
        let text = String::from_utf8(metrics.stdout).unwrap();
        assert!(metrics.status.success() && text.contains("veneer_up{part=\"registry\"} 0"));
        assert!(String::from_utf8(metrics.stderr).unwrap().contains("`orchestrate rebuild`"));
        assert_eq!(snapshot(&host), before, "a look changed something");

        // The way out. What is up keeps its name and what was written to it.
        let rebuild: &[&str] = if whole { &["rebuild", "--take-over"] } else { &["rebuild"] };
        let done = host.ok(rebuild);
        assert_eq!((&done["layers"], &done["activations"]), (&json!(3), &json!(["a-1"])));
        assert_eq!(host.ok(ACTIVATE)["already"], true);
        assert_eq!(fs::read(host.store().join("active/a-1/mark")).unwrap(), b"kept");
        host.check();
        assert_eq!(bench.gets().len(), gets, "something was fetched again");
    }
}

/// A registry that was begun and tied to nothing is none.
#[test]
fn a_registry_that_is_tied_to_no_store_is_as_good_as_lost() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    host.lose_registry();
    drop(registry::Registry::open(&host.state().join("registry.db")).unwrap());
    let before = snapshot(&host);
    for words in [&["ls"][..], ACTIVATE, &["gc"]] {
        refused(&host, words, &["`orchestrate rebuild`"]);
    }
    let health = host.command(&["health"]).output().unwrap();
    let said = String::from_utf8(health.stdout).unwrap();
    assert!(health.status.code() == Some(1) && said.contains("`orchestrate rebuild`"), "{said}");
    assert_eq!(snapshot(&host), before);
    assert_eq!(host.ok(&["rebuild"])["activations"], json!(["a-1"]));
    host.check();
}

#[test]
fn an_empty_file_stays_empty_whoever_looks() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    host.lose_registry();
    let database = host.state().join("registry.db");
    fs::write(&database, "").unwrap();
    for words in [&["health"][..], &["metrics"], &["ls"]] {
        host.command(words).output().unwrap();
        assert_eq!(fs::metadata(&database).unwrap().len(), 0, "{words:?} made something of it");
    }
    refused(&host, ACTIVATE, &["is empty", "`orchestrate rebuild`"]);
}

#[test]
fn a_store_of_which_it_is_not_known_is_begun_only_when_the_caller_says_so() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ls"]);
    fs::remove_dir_all(host.state()).unwrap();
    // Without anything of ours it is new.
    fs::create_dir(host.store().join("volumes/7")).unwrap();
    host.ok(&["ls"]);
    assert!(!host.state().join("store.json").exists(), "there is no key yet");
    fs::remove_dir_all(host.state()).unwrap();
    // What cannot be read may be a record.
    fs::create_dir(host.store().join("notes/7")).unwrap();
    let before = snapshot(&host);
    for words in [&["ls"][..], &["ensure", A], &["recover"]] {
        refused(&host, words, &["unknown", "volume 7", "--new"]);
    }
    let health = host.command(&["health"]).output().unwrap();
    let said = String::from_utf8(health.stdout).unwrap();
    assert!(said.contains("--new"), "{said}");
    assert_eq!(snapshot(&host), before);
    host.ok(&["ls", "--new"]);
    host.ok(&["ensure", A]);
    assert!(host.store().join("volumes/7").exists());
}

#[test]
fn a_second_state_directory_takes_a_store_over_knowingly_or_not_at_all() {
    let bench = Bench::small();
    let first = bench.host("first");
    first.ok(ACTIVATE);
    first.ok(&["pin", A]);
    let second = second(&first, "second");
    let nothing = |host: &Host<'_>| assert_eq!(names(&host.dir), ["store"], "something was made");
    for words in COMMANDS {
        refused(&second, words, &["--state", "`orchestrate rebuild --take-over`"]);
    }
    let plain: &[&[&str]] = &[&["rebuild"], &["rebuild", "-n"], &["rebuild", "--facts"]];
    let before = snapshot(&first);
    for words in plain {
        refused(&second, words, &["another registry", "`orchestrate rebuild --take-over`"]);
    }
    nothing(&second);
    let dry = second.ok(&["rebuild", "-n", "--take-over"]);
    assert_eq!((&dry["taken_over"], &dry["layers"]), (&json!(true), &json!(3)));
    nothing(&second);
    assert_eq!(snapshot(&first), before, "a refusal changed something");
    first.ok(&["recover"]);

    // From the moment on it is the second's, and the first may look and no more.
    let (mut owner, mut other) = (&second, &first);
    for _ in 0..3 {
        assert_eq!(owner.ok(&["rebuild", "--take-over"])["taken_over"], true);
        assert_eq!(owner.ok(ACTIVATE)["already"], true);
        owner.check();
        let before = snapshot(other);
        for words in [
            ACTIVATE,
            &["ensure", B],
            &["rm", "a-1"],
            &["deactivate", "a-1"],
            &["recover"],
            &["gc"],
            &["rebuild"],
            &["rebuild", "-n"],
        ] {
            let said = refused(other, words, &["taken over", "`orchestrate rebuild --take-over`"]);
            assert!(!said.contains("out of step"), "{said}");
        }
        let health = other.command(&["health"]).output().unwrap();
        assert!(String::from_utf8_lossy(&health.stdout).contains("taken over"));
        assert_eq!(snapshot(other), before, "a refusal changed something");
        // Nor where the loser's registry is lost, too.
        let poor = other.copy_to("poor");
        fs::remove_dir_all(poor.dir.join("store")).ok();
        fs::remove_file(poor.dir.join("store")).ok();
        symlink(first.store(), poor.store()).unwrap();
        poor.lose_registry();
        refused(&poor, &["rebuild"], &["taken over"]);
        owner.ok(&["activate", B, "--name", "b-1"]);
        owner.ok(&["rm", "b-1"]);
        (owner, other) = (other, owner);
    }
    // Three times: it is the second's. Its own registry is lost, and its directory knows the store.
    second.lose_registry();
    assert_eq!(second.ok(&["rebuild"])["taken_over"], false);
    second.check();
    // What the names and pins came from was each time the registry that was there.
    assert_eq!(first.rows("SELECT reference FROM images WHERE pinned"), [A]);
}

/// Killed anywhere, a take-over has happened or not, and can be done again.
#[test]
fn a_killed_take_over_leaves_one_owner() {
    use tests::trace::{self, Act, Effect, Side, Whose};
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    let words = ["rebuild", "--take-over"];
    let mut owners = [0; 2];
    // Every third call: the take-over is few of them, and the harness is slow.
    for at in (1..).step_by(3) {
        let first = host.copy_to("first");
        let second = second(&first, "second");
        let mut seen = 0;
        let each = |call: &trace::Call, side: Side| {
            seen += usize::from(call.effect == Effect::Changes && side == Side::Before);
            if seen == at { Act::Kill } else { Act::Go }
        };
        trace::run(&second.command(&words), &[&second.dir, &first.dir], Whose::Main, each).unwrap();
        let is_first = first.command(&["recover"]).output().unwrap().status.success();
        owners[usize::from(is_first)] += 1;
        second.ok(&words);
        refused(&first, ACTIVATE, &["taken over"]);
        second.check();
        if seen < at {
            break;
        }
    }
    assert!(owners[0] > 0 && owners[1] > 0, "{owners:?}");
}

#[test]
fn a_state_from_before_there_was_a_marker_is_known_by_its_use() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    let marker = host.state().join("store.json");
    let kept = fs::read_to_string(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    host.lose_registry();
    assert_eq!(host.ok(&["rebuild"])["activations"], json!(["a-1"]));
    host.check();
    assert_eq!(fs::read_to_string(&marker).unwrap(), kept);
    // And with the registry there it is written at the next command.
    fs::remove_file(&marker).unwrap();
    host.ok(&["ls"]);
    assert_eq!(fs::read_to_string(&marker).unwrap(), kept);
}

/// A registry with another key, of the same store's name.
#[test]
fn a_registry_with_another_key_is_anothers() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ls"]);
    let other = host.copy_to("other");
    host.ok(ACTIVATE);
    other.ok(ACTIVATE);
    let backup = other.copy_to("backup");
    host.lose_registry();
    // Its log is in the file, since it was closed.
    fs::copy(backup.state().join("registry.db"), host.state().join("registry.db")).unwrap();
    refused(&host, &["rebuild"], &["another key", "--take-over"]);
    assert_eq!(host.ok(&["rebuild", "--take-over"])["activations"], json!(["a-1"]));
    host.check();
}

/// A registry without anything, made in place of a lost one by a program that did so, begins no second
/// template beside the first.
#[test]
fn a_registry_that_was_made_anew_in_place_of_a_lost_one_builds_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    host.lose_registry();
    fs::remove_file(host.state().join("store.json")).unwrap();
    let store = fs::read_to_string(host.store().join("veneer-store")).unwrap();
    let transaction = fs::read_to_string(host.store().join("transaction")).unwrap();
    let mut made = registry::Registry::open(&host.state().join("registry.db")).unwrap();
    let binding = registry::StoreBinding { kind: "dir".into(), id: store.trim().into() };
    made.bind(&binding, transaction.trim().parse().unwrap(), registry::VolumeId::new(20)).unwrap();
    drop(made);
    let volumes = names(&host.store().join("volumes"));
    refused(&host, &["ensure", B], &["another registry"]);
    assert_eq!(names(&host.store().join("volumes")), volumes);
    assert_eq!(host.ok(&["rebuild"])["activations"], json!(["a-1"]));
    host.check();
}

#[test]
fn a_volume_that_cannot_be_read_is_told_and_keeps_the_others_from_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(ACTIVATE);
    fs::create_dir(host.store().join("volumes/99")).unwrap();
    fs::create_dir(host.store().join("notes/99")).unwrap();
    let done = host.ok(&["rebuild"]);
    assert_eq!((&done["layers"], &done["foreign"]), (&json!(3), &json!([99])));
    assert_eq!(done["unread"][0]["volume"], 99);
    assert_eq!(host.ok(ACTIVATE)["already"], true);
}

/// A name that looks like that of our own work is an activation's all the same.
#[test]
fn a_rebuild_takes_no_live_activation_for_work() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "net-work-3"]);
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["activations"], json!(["net-work-3"]));
    assert_eq!(names(&host.store().join("active")), ["net-work-3"]);
    host.check();
}

/// Who had the store before may look, and is told with it that what he sees may not be so any more.
#[test]
fn who_lists_a_store_that_was_taken_over_is_told() {
    let bench = Bench::small();
    let first = bench.host("first");
    first.ok(ACTIVATE);
    let quiet = first.ok(&["ls"]);
    assert_eq!(quiet["unsettled"], json!([]), "{quiet}");
    let second = second(&first, "second");
    second.ok(&["rebuild", "--take-over"]);
    second.ok(&["rm", "a-1"]);
    let listed = first.ok(&["ls"]);
    let why = listed["unsettled"][0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("taken over") && why.contains("--take-over"), "{listed}");
    assert_eq!(listed["unsettled"][0]["subject"], "store");
    let words = first.command(&["ls"]).args(["--wait", "1"]).output().unwrap();
    assert!(words.status.success());
    assert_eq!(second.ok(&["ls"])["unsettled"], json!([]));
}

/// The two files of a directory store that lie in no volume.
#[test]
fn a_lost_identity_or_number_of_a_store_comes_back_by_a_rebuild() {
    let bench = Bench::small();
    let one = bench.host("one");
    one.ok(ACTIVATE);
    fs::write(one.store().join("active/a-1/mark"), "kept").unwrap();
    let volumes = names(&one.store().join("volumes"));
    let identity = fs::read_to_string(one.store().join("veneer-store")).unwrap();
    let cases: [&[&str]; 3] =
        [&["transaction"], &["veneer-store"], &["transaction", "veneer-store"]];
    for files in cases {
        for content in [None, Some(""), Some("garbled\u{0}")] {
            // An identity may be any text.
            if content == Some("garbled\u{0}") && files.contains(&"veneer-store") {
                continue;
            }
            for registry in [true, false] {
                let host = one.copy_to("host");
                for file in files {
                    match content {
                        None => fs::remove_file(host.store().join(file)).unwrap(),
                        Some(text) => fs::write(host.store().join(file), text).unwrap(),
                    }
                }
                if !registry {
                    host.lose_registry();
                }
                let what = format!("{files:?} {content:?} with a registry: {registry}");
                for words in [ACTIVATE, &["rm", "a-1"], &["gc"], &["ls"]] {
                    let (code, said) = host.said(words);
                    assert_eq!(code, 100, "{what}: {words:?}: {said}");
                    assert!(said.contains("`orchestrate rebuild`"), "{what}: {words:?}: {said}");
                }
                let (code, said) = host.said(&["rebuild", "-n"]);
                assert!(code == 100 && said.contains("without -n"), "{what}: {said}");
                // Nobody else gets it by that.
                let thief = second(&host, "thief");
                refused(&thief, &["rebuild"], &["another registry"]);
                assert_eq!(names(&host.store().join("volumes")), volumes, "{what}");
                let done = host.ok(&["rebuild"]);
                assert_eq!(
                    done["restored"].as_array().unwrap().len(),
                    files.len(),
                    "{what}: {done}"
                );
                assert_eq!((&done["activations"], &done["foreign"]), (&json!(["a-1"]), &json!([])));
                let now = fs::read_to_string(host.store().join("veneer-store")).unwrap();
                assert_eq!(now, identity, "{what}");
                assert_eq!(host.ok(ACTIVATE)["already"], true);
                assert_eq!(fs::read(host.store().join("active/a-1/mark")).unwrap(), b"kept");
                host.ok(&["activate", B, "--name", "b-1"]);
                host.check();
            }
        }
    }
    // Nobody knows it any more.
    let host = one.copy_to("host");
    fs::remove_file(host.store().join("veneer-store")).unwrap();
    fs::remove_dir_all(host.state()).unwrap();
    refused(&host, &["rebuild"], &["nothing there tells of this store", "--take-over"]);
    assert_eq!(host.ok(&["rebuild", "--take-over"])["activations"], json!(["a-1"]));
    host.check();
}
