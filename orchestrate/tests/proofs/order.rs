//! What is asked of a name that an earlier run is only making: it comes after that run, or is told which it is;
//! and who never came to have a name ends nobody else's wish for it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use registry::{Registry, Verb};
use serde_json::{Value, json};

use crate::actors::{bench, end_of, held, start};
use crate::bench::Host;

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn states(host: &Host<'_>) -> Vec<String> {
    host.rows("SELECT verb, subject, state FROM runs ORDER BY id")
}

/// Waits until this command's run is there.
fn until_run(host: &Host<'_>, verb: &str) {
    while host.rows(&format!("SELECT id FROM runs WHERE verb = '{verb}'")).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What a command is told once it has the store: one that waits for nothing may meet the held run while it has
/// that itself, for the moment of a step.
fn told(host: &Host<'_>, words: &[&str]) -> (i32, String) {
    loop {
        let (code, said) = host.said(words);
        if !said.contains("the store: still held by") {
            return (code, said);
        }
    }
}

fn killed(host: &Host<'_>, words: &[&str], key: &str) {
    let mut child = held(host, words, key);
    child.kill().unwrap();
    child.wait().unwrap();
    host.bench().proxy.release();
}

#[test]
fn a_name_that_is_only_being_made_is_taken_away_after_that() {
    for verb in ["rm", "deactivate"] {
        let bench = bench();
        let host = bench.host("host");
        let making = held(&host, &["activate", A, "--name", "x"], "a/3.tar");
        for words in [&[verb, "x", "--wait", "0"][..], &[verb, "x", "-n"]] {
            let (code, said) = told(&host, words);
            assert_eq!(code, 111, "{words:?}: {said}");
            assert!(said.contains("run 1 (activate x)"), "{words:?}: {said}");
            assert!(said.contains("`orchestrate cancel 1`"), "{words:?}: {said}");
        }
        assert_eq!(host.said(&[verb, "y"]).0, 100, "nobody makes that");
        let runs = states(&host).len();
        let taking = start(&host, &[verb, "x"]);
        while states(&host).len() == runs {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bench.proxy.release();
        for child in [making, taking] {
            let (code, said) = end_of(child);
            assert_eq!(code, Some(0), "{verb}: {said}");
        }
        let left = host.rows("SELECT state FROM activations");
        assert_eq!(left, if verb == "rm" { vec![] } else { vec!["inactive"] });
        host.check();
    }
}

#[test]
fn what_a_killed_run_was_making_is_not_made_after_it_was_taken_away() {
    for verb in ["rm", "deactivate"] {
        let bench = bench();
        let host = bench.host("host");
        killed(&host, &["activate", A, "--name", "x"], "a/3.tar");
        host.ok(&[verb, "x"]);
        assert_eq!(states(&host), ["activate | x | failed".into(), format!("{verb} | x | done")]);
        assert_eq!(host.ok(&["recover"])["resumed"], json!([]));
        assert_eq!(host.rows("SELECT name FROM activations"), Vec::<String>::new());
        assert_eq!(host.said(&[verb, "x"]).0, 100, "there is nothing more to take away");
        host.check();
    }
}

#[test]
fn an_image_is_made_and_taken_away_in_the_order_in_which_that_was_asked() {
    let bench = bench();
    let host = bench.host("host");
    let making = held(&host, &["ensure", A], "a/3.tar");
    for words in [&["rm", A, "--wait", "0"][..], &["pin", A], &["verify", A], &["scan", A]] {
        let (code, said) = told(&host, words);
        assert_eq!(code, 111, "{words:?}: {said}");
        assert!(said.contains("run 1 (ensure s3://bucket/a/)"), "{words:?}: {said}");
        assert!(said.contains("`orchestrate cancel 1`"), "{words:?}: {said}");
    }
    let taking = start(&host, &["rm", A]);
    until_run(&host, "rm");
    bench.proxy.release();
    for child in [making, taking] {
        let (code, said) = end_of(child);
        assert_eq!(code, Some(0), "{said}");
    }
    assert_eq!(host.rows("SELECT reference FROM images"), Vec::<String>::new());
    // Killed, it is made by nobody any more.
    killed(&host, &["ensure", B], "b/3.tar");
    host.ok(&["rm", B]);
    assert_eq!(host.ok(&["recover"])["resumed"], json!([]));
    assert_eq!(host.rows("SELECT reference FROM images"), Vec::<String>::new());
    // The other way round: who was to take it away and died comes before who asks for it.
    for words in [&["ensure", A][..], &["activate", A, "--name", "x"]] {
        host.ok(&["ensure", A]);
        let mut registry = Registry::open(&host.state().join("registry.db")).unwrap();
        let input = json!({"when_closed": false}).to_string();
        registry.write(|write| write.begin_run(Verb::Rm, A, &input)).unwrap();
        drop(registry);
        host.ok(words);
        assert_eq!(host.ok(&["recover"])["resumed"], json!([]), "{words:?}");
        assert_eq!(host.rows("SELECT reference FROM images"), [A], "{words:?}");
    }
    host.check();
}

#[test]
fn who_never_came_to_have_a_name_ends_nobody_elses_wish_for_it() {
    let bench = bench();
    let host = bench.host("host");
    killed(&host, &["activate", A, "--name", "x"], "a/3.tar");
    let resumed = |host: &Host<'_>| host.ok(&["recover", "-n"])["resumed"].clone();
    assert_eq!(resumed(&host)[0]["run"], 1);
    // Cancelled, stopped by a signal, failed: none of them had it.
    let cancelled = held(&host, &["activate", B, "--name", "x"], "b/3.tar");
    assert_eq!(resumed(&host), json!([]), "another has its place");
    let run = host.rows("SELECT max(id) FROM runs");
    assert_eq!(host.ok(&["cancel", &run[0]])["state"], "cancelled");
    assert_eq!(end_of(cancelled).0, Some(111));
    bench.proxy.release();
    assert_eq!(resumed(&host)[0]["run"], 1);
    let stopped = held(&host, &["activate", B, "--name", "x"], "b/3.tar");
    kill(Pid::from_raw(i32::try_from(stopped.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(end_of(stopped).0, Some(111));
    bench.proxy.release();
    assert_eq!(resumed(&host)[0]["run"], 1);
    assert_eq!(host.said(&["activate", "s3://bucket/none/", "--name", "x"]).0, 100);
    assert_eq!(resumed(&host)[0]["run"], 1);
    // Two that were killed, one after the other: the later wish goes first, and the earlier is not lost.
    killed(&host, &["activate", B, "--name", "x"], "b/3.tar");
    let second = host.rows("SELECT max(id) FROM runs")[0].clone();
    assert_eq!(resumed(&host)[0]["run"].to_string(), second);
    assert_eq!(host.ok(&["cancel", &second])["state"], "cancelled");
    let done: Value = host.ok(&["recover"]);
    assert_eq!(
        (&done["resumed"][0]["run"], &done["resumed"][0]["state"]),
        (&json!(1), &json!("done"))
    );
    assert_eq!(host.rows("SELECT reference FROM activations"), [A]);
    host.check_tree("x", 3);
    host.check();
}
