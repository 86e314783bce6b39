//! One thing that cannot be mended stops nothing else, on a directory store: names that others have, trees
//! that somebody deleted or renamed. Every wait for a lock is a failure here. (Open devices: in the VM.)

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn health(host: &Host<'_>) -> (bool, String) {
    let found: Value =
        serde_json::from_slice(&host.command(&["health"]).output().unwrap().stdout).unwrap();
    let check = found["checks"].as_array().unwrap().iter().find(|c| c["name"] == "settled");
    let check = check.expect("a check of that name");
    (check["ok"] == true, check["reason"].as_str().unwrap().to_owned())
}

fn is_told(host: &Host<'_>, subject: &str, why: &str) {
    let (ok, reason) = health(host);
    assert!(!ok && reason.contains(subject) && reason.contains(why), "{ok}, {reason:?}");
    let told = host.ok(&["ls"])["unsettled"].to_string();
    assert!(told.contains(subject) && told.contains(why), "{told}");
}

fn host(bench: &Bench) -> Host<'_> {
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["activate", A, "--name", "a-2"]);
    host.ok(&["ensure", B]);
    assert_eq!(health(&host), (true, "everything is as its row says".into()));
    host
}

#[test]
fn a_name_that_somebody_else_has_is_refused_and_keeps_nobody_else_down() {
    let bench = Bench::small();
    let host = host(&bench);
    let theirs = host.store().join("active/theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("data"), "somebody's").unwrap();
    let (code, text) = host.said(&["activate", A, "--name", "theirs"]);
    assert!(code == 100 && text.contains("not ours"), "{code}: {text}");
    assert_eq!(host.rows("SELECT name FROM activations WHERE name = 'theirs'"), [""; 0]);
    host.others_go_on();

    // Somebody has it after the name was given: a-2 is up again, a-1 is told.
    for name in ["a-1", "a-2"] {
        fs::remove_file(host.store().join("active").join(name)).unwrap();
    }
    symlink("/somebody's/place", host.store().join("active/a-1")).unwrap();
    let (code, text) = host.said(&["recover"]);
    assert!(code == 100 && text.contains("activation a-1"), "{code}: {text}");
    host.check_tree("a-2", 3);
    is_told(&host, "activation a-1", "not ours");
    host.others_go_on();
    let kept = fs::read_link(host.store().join("active/a-1")).unwrap();
    assert_eq!(kept.to_str(), Some("/somebody's/place"));
    assert_eq!(fs::read_to_string(theirs.join("data")).unwrap(), "somebody's");
    fs::remove_file(host.store().join("active/a-1")).unwrap();
    host.ok(&["recover"]);
    host.check_tree("a-1", 3);
    assert!(health(&host).0);
}

#[test]
fn an_activation_that_somebody_deleted_is_told_and_removed_by_rm() {
    let bench = Bench::small();
    let host = host(&bench);
    let id = host.rows("SELECT id FROM activations WHERE name = 'a-1'")[0].clone();
    fs::rename(host.store().join("volumes").join(id.trim()), bench.path("away")).unwrap();
    is_told(&host, "activation a-1", "gone");
    let (code, text) = host.said(&["recover"]);
    assert!(code == 100 && text.contains("gone"), "{code}: {text}");
    host.others_go_on();
    host.check_tree("a-2", 3);
    host.ok(&["rm", "a-1"]);
    assert!(health(&host).0);
    host.check();
}

#[test]
fn a_link_that_was_renamed_or_leads_to_another_volume_is_put_right() {
    let bench = Bench::small();
    let host = host(&bench);
    let active = host.store().join("active");
    let right = fs::read_link(active.join("a-1")).unwrap();
    fs::remove_file(active.join("a-1")).unwrap();
    symlink(fs::read_link(active.join("a-2")).unwrap(), active.join("a-1")).unwrap();
    host.others_go_on();
    assert_eq!(fs::read_link(active.join("a-1")).unwrap(), right);
    assert!(health(&host).0);
}

#[test]
fn an_existing_name_with_another_size_is_a_conflict() {
    let bench = Bench::small();
    let host = host(&bench);
    let size = (8_u64 << 30).to_string();
    host.ok(&["activate", A, "--name", "large", "--size", &size]);
    host.ok(&["activate", A, "--name", "large", "--size", &size]);
    host.ok(&["activate", A, "--name", "large"]);
    let (code, text) = host.said(&["activate", A, "--name", "large", "--size", "9663676416"]);
    assert!(code == 100 && text.contains("8589934592"), "{code}: {text}");
    // Below the size of the image's volume it is that size.
    let done = host.ok(&["activate", A, "--name", "a-1", "--size", "1"]);
    assert_eq!(done["already"], true, "{done}");
}

#[test]
fn what_recovery_did_is_told_in_words_and_what_it_did_not_is_not() {
    let bench = Bench::small();
    let host = host(&bench);
    fs::remove_file(host.store().join("active/a-1")).unwrap();
    let mut command = host.command(&["recover"]);
    let ran = command.output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(told.contains("recovery: bring up activation a-1"), "{told}");
    assert!(!told.contains("Settle"), "{told}");
    let again = host.said(&["recover"]).1;
    assert!(!again.contains("a-1"), "{again}");
}
