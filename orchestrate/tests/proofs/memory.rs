//! What is remembered counts only where all that it depended on is as it was. Two tenants whose objects
//! share bytes, ETags and sizes: nothing that one has changes what the other gets.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tests::layer;

use crate::bench::{Bench, Host, json};
use crate::matrix::killed_once;

/// The form of an MD5, and of an ETag of several parts.
const ONE_PART: &str = "00112233445566778899aabbccddeeff";
const PARTS: &str = "00112233445566778899aabbccdde-27";

fn says(content: &str) -> Vec<u8> {
    layer::of(&[("which".into(), content.into())])
}

fn which(host: &Host<'_>, name: &str) -> String {
    std::fs::read_to_string(host.store().join("active").join(name).join("which")).unwrap()
}

fn run(host: &Host<'_>, words: &[&str]) -> (Option<i32>, String) {
    let output = host.command(words).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn quarantine(host: &Host<'_>) -> Vec<Value> {
    let output = host.command(&["quarantine"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn image(prefix: &str) -> String {
    format!("s3://bucket/{prefix}/")
}

fn ensure(host: &Host<'_>, prefix: &str) -> (Option<i32>, String) {
    run(host, &["ensure", &image(prefix)])
}

/// Activates an image and gives what its file says.
fn up(host: &Host<'_>, prefix: &str) -> String {
    host.ok(&["activate", &image(prefix), "--name", prefix]);
    which(host, prefix)
}

/// Events and warnings that tell of ETags that do not stand for contents.
fn doubts(host: &Host<'_>) -> usize {
    host.rows("SELECT subject FROM events WHERE to_state = 'etags doubted'").len()
}

#[test]
fn a_layer_that_is_refused_alone_is_no_harm_to_the_image_that_contains_it() {
    for bad_first in [true, false] {
        let bench = Bench::new(&[], 1, 1);
        bench.put("good/1.tar", &says("good"));
        bench.put("good/2.tar", &layer::hard_link("link", "which"));
        bench.put("alone/1.tar", &layer::hard_link("link", "which"));
        let host = bench.host("host");
        let refused = || {
            let (code, said) = ensure(&host, "alone");
            assert_eq!(code, Some(100), "{said}");
            said
        };
        if bad_first {
            let said = refused();
            assert!(said.contains("hard link"), "{said}");
        }
        assert_eq!(up(&host, "good"), "good", "bad first: {bad_first}");
        let first = refused();
        assert_eq!(first.contains("refused before"), bad_first, "{first}");
        let gets = bench.gets().len();
        assert!(refused().contains("refused before"));
        assert_eq!(bench.gets().len(), gets, "what is refused is not fetched again");
        let kept = quarantine(&host);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0]["below"], "template");
        // The good one goes and comes again.
        host.ok(&["rm", "good"]);
        host.ok(&["rm", &image("good")]);
        assert_eq!(up(&host, "good"), "good");
        host.ok(&["quarantine", "--release", kept[0]["digest"].as_str().unwrap()]);
        assert!(!refused().contains("refused before"));
        host.check();
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = Command::new("gzip");
    let mut gzip =
        gzip.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    gzip.stdin.take().unwrap().write_all(bytes).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

#[test]
fn a_refusal_under_smaller_limits_is_none_under_larger_ones() {
    let bench = Bench::new(&[], 1, 1);
    bench.put("big/1.tar", &gzip(&says(&"x".repeat(50_000))));
    let host = bench.host("host");
    let with = |max: &str| run(&host, &["ensure", &image("big"), "--bytes-max", max]);
    let (code, said) = with("20000");
    assert_eq!(code, Some(100), "{said}");
    assert!(said.contains("--bytes-max 20000"), "{said}");
    let gets = bench.gets().len();
    for max in ["20000", "10000"] {
        let (code, said) = with(max);
        assert_eq!(code, Some(100));
        assert!(said.contains("refused before"), "{max}: {said}");
    }
    assert_eq!(bench.gets().len(), gets, "a bomb is not unpacked again");
    let (code, said) = with("30000");
    assert_eq!(code, Some(100));
    assert!(!said.contains("refused before") && said.contains("--bytes-max 30000"), "{said}");
    assert_eq!(up(&host, "big").len(), 50_000);
    host.check();
}

#[test]
fn a_refusal_by_other_rules_is_none() {
    let bench = Bench::new(&[], 1, 1);
    bench.put("bad/1.tar", &layer::named("../../evil"));
    let host = bench.host("host");
    assert_eq!(ensure(&host, "bad").0, Some(100));
    assert!(ensure(&host, "bad").1.contains("refused before"));
    let change = |sql: &str| {
        let path = host.state().join("registry.db");
        rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    };
    for version in [0, 4711] {
        change(&format!("UPDATE quarantine SET unpacker = {version}"));
        let (code, said) = ensure(&host, "bad");
        assert_eq!(code, Some(100));
        assert!(!said.contains("refused before"), "{said}");
        // It was judged anew, and that is remembered.
        assert!(ensure(&host, "bad").1.contains("refused before"));
    }
}

#[test]
fn a_refused_object_is_no_harm_to_another_of_its_etag_and_size() {
    for etag in [ONE_PART, PARTS] {
        let bench = Bench::new(&[], 1, 1);
        let mut bad = says("good");
        bad[0] ^= 1;
        bench.put("bad/1.tar", &bad);
        bench.put("v/1.tar", &says("good"));
        for key in ["bad/1.tar", "v/1.tar"] {
            bench.proxy.forge_etag(key, etag);
        }
        let host = bench.host("host");
        assert_eq!(ensure(&host, "bad").0, Some(100));
        assert!(ensure(&host, "bad").1.contains("refused before"));
        assert_eq!(up(&host, "v"), "good", "{etag}");
        host.check();
    }
}

#[test]
fn an_object_of_the_same_etag_and_size_gives_nobody_its_layer() {
    for etag in [ONE_PART, PARTS] {
        let bench = Bench::new(&[], 1, 1);
        for (prefix, content) in [("a", "evil"), ("v", "good"), ("w", "fine")] {
            bench.put(&format!("{prefix}/1.tar"), &says(content));
            bench.proxy.forge_etag(&format!("{prefix}/1.tar"), etag);
        }
        let host = bench.host("host");
        assert_eq!(up(&host, "a"), "evil");
        let output = host.command(&["activate", &image("v"), "--name", "v"]).output().unwrap();
        json(&["v"], &output);
        assert_eq!(which(&host, "v"), "good", "{etag}");
        // It is told once that one ETag stood for two contents, or was no MD5 to begin with.
        assert_eq!(doubts(&host), 1);
        assert_eq!(up(&host, "w"), "fine");
        assert_eq!(doubts(&host), 1);
        // Each is known by its own key, also when its layer is gone.
        for (prefix, content) in [("v", "good"), ("a", "evil"), ("w", "fine")] {
            host.ok(&["rm", prefix]);
            host.ok(&["rm", &image(prefix)]);
            assert_eq!(up(&host, prefix), content);
        }
        let gets = bench.gets().len();
        for prefix in ["a", "v", "w"] {
            assert_eq!(host.ok(&["ensure", &image(prefix)])["fetched_objects"], 0);
        }
        assert_eq!(bench.gets().len(), gets);
        host.check();
    }
}

#[test]
fn a_warning_tells_of_an_etag_that_is_no_md5() {
    let bench = Bench::new(&[], 1, 1);
    bench.put("a/1.tar", &says("a"));
    bench.proxy.forge_etag("a/1.tar", ONE_PART);
    let host = bench.host("host");
    let (code, said) = ensure(&host, "a");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: ") && said.contains("not the MD5"), "{said}");
}

#[test]
fn where_etags_are_md5_another_key_needs_no_second_fetch() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", &image("a")]);
    assert_eq!(host.ok(&["ensure", &image("b")])["fetched_objects"], 1);
    assert_eq!(doubts(&host), 0);
    // One counterexample ends that for its bucket.
    bench.put("odd/1.tar", &says("odd"));
    bench.proxy.forge_etag("odd/1.tar", ONE_PART);
    bench.put("c/1.tar", &layer::stacked(1, 4, 2000));
    host.ok(&["ensure", &image("odd")]);
    assert_eq!(host.ok(&["ensure", &image("c")])["fetched_objects"], 1);
    host.check();
}

/// That an ETag was the MD5 of what came is in the seal record too.
#[test]
fn after_a_rebuild_another_key_of_a_shared_layer_needs_no_second_fetch() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", &image("a")]);
    host.ok(&["ensure", &image("b")]);
    host.lose_registry();
    host.ok(&["rebuild"]);
    for prefix in ["a", "b"] {
        let done = host.ok(&["ensure", &image(prefix)]);
        assert_eq!(done["fetched_objects"], 0, "{done}");
    }
    host.check();
}

/// Each time a layer turns out to be there already, that is an end and no crash.
#[test]
fn layers_that_were_there_already_are_no_crash_loop() {
    let bench = Bench::new(&[], 1, 1);
    for number in 1..=7 {
        bench.put(&format!("copy-{number}/1.tar"), &says("same"));
    }
    let host = bench.host("host");
    for number in 1..=7 {
        host.ok(&["--no-etag-dedup", "ensure", &image(&format!("copy-{number}"))]);
    }
    assert_eq!(host.rows("SELECT build FROM attempts"), [""; 0]);
    host.check();
}

/// What was counted of a build goes with the volume that it would be built on.
#[test]
fn a_build_that_was_killed_is_not_remembered_for_ever() {
    let bench = Bench::small();
    let host = bench.host("host");
    killed_once(&host, &["ensure", &image("a")], "volumes/3");
    host.ok(&["cancel", "1"]);
    let counted = |host: &Host<'_>| host.rows("SELECT begun FROM attempts");
    assert_eq!(counted(&host), ["1"], "it was killed once");
    host.ok(&["gc"]);
    assert_eq!(host.rows("SELECT role FROM volumes"), ["template"]);
    assert_eq!(counted(&host), [""; 0]);
    host.ok(&["ensure", &image("a")]);
    assert_eq!(counted(&host), [""; 0]);
    host.check();
}

/// A guess is only good for what is sealed: where something arrives, that counts.
#[test]
fn a_guess_is_no_expectation() {
    let bench = Bench::new(&[], 1, 1);
    bench.put("a/1.tar", &says("evil"));
    bench.put("v/1.tar", &says("base"));
    bench.put("v/2.tar", &says("good"));
    let host = bench.host("host");
    assert_eq!(up(&host, "a"), "evil");
    let etag = host.rows("SELECT etag FROM sources").remove(0);
    bench.proxy.forge_etag("v/2.tar", etag.trim_matches('"'));
    assert_eq!(up(&host, "v"), "good");
    assert_eq!(doubts(&host), 1);
    host.check();
}

#[test]
fn what_arrives_counts_against_what_was_remembered_of_the_same_key() {
    for etag in [ONE_PART, PARTS] {
        let bench = Bench::new(&[], 1, 1);
        bench.put("k/1.tar", &says("old"));
        bench.proxy.forge_etag("k/1.tar", etag);
        let host = bench.host("host");
        assert_eq!(up(&host, "k"), "old");
        host.ok(&["rm", "k"]);
        host.ok(&["rm", &image("k")]);
        bench.put("k/1.tar", &says("new"));
        assert_eq!(up(&host, "k"), "new", "{etag}");
        host.check();
    }
}

/// The same command with another server.
fn elsewhere(host: &Host<'_>, words: &[&str]) -> Output {
    let command = host.command(words);
    let mut args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let at = args.iter().position(|arg| arg == "--endpoint").unwrap() + 1;
    args[at] = "http://127.0.0.1:1".into();
    let mut other = Command::new(command.get_program());
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap());
    }
    other.args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_name_of_another_server_is_a_conflict() {
    let bench = Bench::small();
    let host = bench.host("host");
    let activate = ["activate", "s3://bucket/a/", "--name", "a-1"];
    host.ok(&activate);
    let own = format!("http://{}", bench.proxy.address);
    let conflict = |words: &[&str]| {
        let output = elsewhere(&host, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(100), "{words:?}: {said}");
        assert!(said.contains(&own) && said.contains("http://127.0.0.1:1"), "{words:?}: {said}");
    };
    conflict(&activate);
    conflict(&["activate", "s3://bucket/a/", "--name", "a-1", "--dry-run"]);
    conflict(&["activate", "s3://bucket/a/", "--name", "a-2", "--no-fetch"]);
    host.ok(&["deactivate", "a-1"]);
    conflict(&activate);
    assert_eq!(host.ok(&activate)["already"], false);
    // The image's row may go, or become another server's: the activation knows its own.
    host.ok(&["rm", "a-1"]);
    host.ok(&activate);
    let path = host.state().join("registry.db");
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.execute("UPDATE images SET endpoint = 'http://127.0.0.1:1'", []).unwrap();
    drop(conn);
    conflict(&activate);
    assert_eq!(host.ok(&activate)["already"], true);
    host.check();
}

#[test]
fn what_a_run_was_asked_with_is_kept_when_it_is_taken_up() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    bench.proxy.hold("/b/1.tar", 100);
    let words = ["--no-etag-dedup", "activate", "s3://bucket/b/", "--name", "b-1"];
    let mut command = host.command(&words);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    bench.proxy.wait_held(std::time::Duration::from_secs(120)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    bench.proxy.release();
    let done = host.ok(&["recover"]);
    assert_eq!(done["resumed"][0]["state"], "done", "{done}");
    let read = host.rows("SELECT key, known_by FROM sources WHERE key LIKE 'b/%' ORDER BY key");
    assert_eq!(read, ["b/1.tar | read", "b/2.tar | read", "b/3.tar | read"]);
    host.check();
}

/// A daemon, or a person, has another server in its settings than the command that was killed.
#[test]
fn a_run_is_taken_up_at_the_server_that_it_was_asked_of() {
    let bench = Bench::small();
    let host = bench.host("host");
    bench.proxy.hold("/b/2.tar", 100);
    let mut command = host.command(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    bench.proxy.wait_held(std::time::Duration::from_secs(120)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    bench.proxy.release();
    let output = elsewhere(&host, &["recover"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("\"done\""), "{output:?}");
    host.check_tree("b-1", 4);
    host.check();
}
