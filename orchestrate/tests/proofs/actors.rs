//! One act meets another: what a run is for is so when it is done, the later request wins, and nobody
//! waits for a download that is not its own.

use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::guest::proxy::Spoil;
use tests::layer;

use crate::bench::{Bench, Host};
use crate::matrix::killed_once;

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const C: &str = "s3://bucket/c/";

/// Long beyond what anything here takes; only what waits for a server that never answers gets there.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn bench() -> Bench {
    Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[5])], 4, 2000)
}

/// A program that never gives up a silent server by itself.
pub(crate) fn start(host: &Host<'_>, words: &[&str]) -> Child {
    let mut command = host.command(words);
    for limit in ["FIRST_BYTE_TIMEOUT", "STALL_TIMEOUT", "PATIENCE"] {
        command.env(format!("VENEER_FETCH_{limit}"), "100000");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// One whose download of this object is held back.
pub(crate) fn held(host: &Host<'_>, words: &[&str], key: &str) -> Child {
    let bench = host.bench();
    bench.proxy.hold(key, 100);
    let child = start(host, words);
    bench.proxy.wait_held(PATIENCE).unwrap();
    child
}

pub(crate) fn end_of(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn reference(host: &Host<'_>, name: &str) -> Vec<String> {
    host.rows(&format!("SELECT reference FROM activations WHERE name = '{name}'"))
}

fn states(host: &Host<'_>) -> Vec<String> {
    host.rows("SELECT verb, json_extract(input, '$.image'), state FROM runs ORDER BY id")
}

#[test]
fn a_killed_run_for_one_image_is_never_done_by_another() {
    let bench = bench();
    let host = bench.host("host");
    let mut child = held(&host, &["activate", A, "--name", "x"], "a/2.tar");
    child.kill().unwrap();
    child.wait().unwrap();
    bench.proxy.release();
    host.ok(&["activate", B, "--name", "x"]);
    assert_eq!(reference(&host, "x"), [B]);
    let [first, second] = <[String; 2]>::try_from(states(&host)).unwrap();
    assert_eq!(first, format!("activate | {A} | failed"));
    assert_eq!(second, format!("activate | {B} | done"));
    assert_eq!(host.ok(&["recover"])["resumed"], json!([]));
    host.check();
    // The same once more is the run that was killed.
    let mut child = held(&host, &["activate", A, "--name", "y"], "a/3.tar");
    child.kill().unwrap();
    child.wait().unwrap();
    bench.proxy.release();
    host.ok(&["activate", A, "--name", "y"]);
    assert_eq!(states(&host).len(), 3);
    host.check_tree("y", 3);
}

#[test]
fn who_asks_for_something_else_under_a_name_is_refused_at_once() {
    let bench = bench();
    let host = bench.host("host");
    let child = held(&host, &["activate", A, "--name", "x"], "a/2.tar");
    for words in [
        &["activate", B, "--name", "x"][..],
        &["activate", A, "--name", "x", "--size", "8589934592"],
        &["activate", A, "--name", "x", "--no-fetch"],
        &["--no-etag-dedup", "activate", A, "--name", "x"],
    ] {
        let (code, said) = host.said(words);
        assert_eq!(code, 100, "{words:?}: {said}");
        assert!(said.contains("run 1"), "{words:?}: {said}");
    }
    bench.proxy.release();
    assert_eq!(end_of(child).0, Some(0));
    assert_eq!(states(&host), [format!("activate | {A} | done")]);
    host.check_tree("x", 3);
}

#[test]
fn what_was_listed_later_is_what_the_image_is() {
    let bench = Bench::new(&[("a", &[1, 2])], 4, 2000);
    let host = bench.host("host");
    // It has listed two layers, and waits for the second.
    let older = held(&host, &["activate", A, "--name", "older"], "a/2.tar");
    bench.put("a/1.tar", &layer::stacked(4, 4, 2000));
    bench.delete("a/2.tar");
    let newer = host.ok(&["ensure", A]);
    bench.proxy.release();
    let (code, said) = end_of(older);
    assert_eq!(code, Some(0), "{said}");
    let chain = host.rows("SELECT chain FROM images");
    assert!(newer["chain"].as_str().unwrap().ends_with(&chain[0]), "{chain:?}: {newer}");
    assert_eq!(host.ok(&["ls"])["images"][0]["layers"].as_array().map_or(1, Vec::len), 1);
    // And so is what is activated of it as it is here.
    host.ok(&["activate", A, "--name", "newer", "--no-fetch"]);
    let origin = host.rows("SELECT origin FROM activations WHERE name = 'newer'");
    assert_eq!(origin, host.rows("SELECT volume FROM image_layers"));
    host.ok(&["gc"]);
    host.check();
}

#[test]
fn nobody_waits_for_a_download_of_somebody_else() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["activate", B, "--name", "up"]);
    host.ok(&["ensure", C]);
    let slow = held(&host, &["activate", A, "--name", "slow"], "a/3.tar");
    // Each at the first try, or not at all.
    let now = |words: &[&str]| -> Value {
        let mut all = words.to_vec();
        all.extend(["--wait", "0"]);
        let output = host.command(&all).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    now(&["ls"]);
    now(&["pin", C]);
    now(&["unpin", C]);
    now(&["gc"]);
    now(&["deactivate", "up"]);
    now(&["activate", B, "--name", "up"]);
    now(&["activate", C, "--name", "c-1", "--no-fetch"]);
    now(&["activate", C, "--name", "c-2"]);
    now(&["verify"]);
    now(&["rm", "c-1"]);
    now(&["rm", "c-2"]);
    now(&["rm", C]);
    now(&["rm", "up"]);
    // What is only being made is taken away after that.
    assert_eq!(host.said(&["rm", "slow", "--wait", "0"]).0, 111);
    // All that nobody needs goes, and what the download stands on stays.
    let swept = now(&["gc", "--keep-bytes", "0"]);
    assert_eq!(
        swept["sweeps"].as_array().unwrap().len(),
        2,
        "b, and the layer only it had: {swept}"
    );
    bench.proxy.release();
    let (code, said) = end_of(slow);
    assert_eq!(code, Some(0), "{said}");
    host.check_tree("slow", 3);
    host.check();
    assert_eq!(bench.gets().iter().filter(|key| key.ends_with("/1.tar")).count(), 2);
}

#[test]
fn a_wish_to_stop_is_heard_while_a_server_is_silent() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["ensure", C]);
    bench.proxy.clear();
    // The listing never comes; then a layer never goes on.
    bench.proxy.spoil(0, true, Spoil::Stall(0));
    let listing = start(&host, &["ensure", A]);
    let run = |state: &str| host.rows(&format!("SELECT max(id) FROM runs WHERE state = '{state}'"));
    while bench.proxy.exchanges().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let cancelled = host.ok(&["cancel", &run("running")[0]]);
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(end_of(listing).0, Some(111));
    bench.proxy.release();
    let layer = held(&host, &["activate", A, "--name", "x"], "a/2.tar");
    let cancelled = host.ok(&["cancel", &run("running")[0]]);
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(end_of(layer).0, Some(111));
    bench.proxy.release();
    host.check();
    host.ok(&["activate", A, "--name", "x"]);
    host.check_tree("x", 3);
}

/// Killed before it did anything, what was to take a name away comes before who asks for the name later;
/// and who was to bring one up does not come after who took it away.
#[test]
fn acts_on_one_name_keep_their_order_over_a_kill() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "x"]);
    killed_once(&host, &["deactivate", "x"], "active/x");
    assert_eq!(host.rows("SELECT state FROM runs WHERE verb = 'deactivate'"), ["running"]);
    host.ok(&["activate", A, "--name", "x"]);
    assert_eq!(host.rows("SELECT state FROM runs WHERE verb = 'deactivate'"), ["done"]);
    assert_eq!(host.ok(&["recover"])["resumed"], json!([]));
    assert_eq!(host.rows("SELECT state FROM activations"), ["active"]);
    host.check();

    host.ok(&["deactivate", "x"]);
    killed_once(&host, &["activate", A, "--name", "x"], "active/x");
    host.ok(&["rm", "x"]);
    let recovered = host.command(&["recover"]).output().unwrap();
    let recovered: Value = serde_json::from_slice(&recovered.stdout).unwrap();
    assert_eq!(recovered["resumed"][0]["state"], "failed", "{recovered}");
    assert_eq!(host.rows("SELECT name FROM activations"), Vec::<String>::new());
    host.check();
}
