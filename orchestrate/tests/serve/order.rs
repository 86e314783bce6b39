//! What is asked of a name that is only being made stands in the queue behind that; and who waits for a run that
//! somebody else has asked for, too, waits as long as it was told, and hears that it goes on.

use std::io::Read as _;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, PATIENCE, until};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// A daemon with one worker, which waits for a layer.
fn busy(host: &Host<'_>) -> (Daemon, u64) {
    let daemon = Daemon::start(host, &["--concurrency", "1"]);
    host.bench().proxy.hold("a/3.tar", 100);
    let run = daemon.activate("slow", A);
    host.bench().proxy.wait_held(PATIENCE).unwrap();
    (daemon, run)
}

fn asked(daemon: &Daemon, method: &str, target: &str) -> u64 {
    let answer = daemon.ask(method, target, "");
    // It may be done by the time it is looked at.
    assert!([200, 202].contains(&answer.status), "{method} {target}: {}", answer.json());
    answer.json()["id"].as_u64().unwrap()
}

#[test]
fn what_is_only_being_made_is_taken_away_in_its_turn() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (daemon, slow) = busy(&host);
    let mut runs = vec![slow, daemon.activate("x", A), daemon.activate("y", A)];
    let ensure = daemon.begin("PUT", "/v1/images", &json!({"image": B}));
    runs.push(ensure);
    // At work already, waiting, and an image.
    runs.push(asked(&daemon, "DELETE", "/v1/activations/slow"));
    let gone = asked(&daemon, "DELETE", "/v1/activations/x");
    runs.push(gone);
    runs.push(asked(&daemon, "POST", "/v1/activations/y/deactivate"));
    runs.push(asked(&daemon, "DELETE", "/v1/images?image=s3://bucket/b/"));
    let nobody = daemon.ask("DELETE", "/v1/activations/nobody", "");
    assert_eq!(nobody.status, 404);
    let pin = json!({"image": B, "pinned": true}).to_string();
    let pin = daemon.ask("POST", "/v1/images/pin", &pin);
    assert_eq!((pin.status, pin.json()["run"].as_u64()), (409, Some(ensure)), "{}", pin.json());
    assert!(pin.json()["detail"].as_str().unwrap().contains(&format!("cancel {ensure}")));
    // Who asks for it once more does not get what is to go.
    let again = json!({"id": "x", "image": A}).to_string();
    let again = daemon.ask("POST", "/v1/activations", &again);
    assert_eq!(again.status, 409, "{}", again.json());
    assert!(again.json()["detail"].as_str().unwrap().contains(&format!("cancel {gone}")));
    bench.proxy.release();
    for run in runs {
        assert_eq!(daemon.end_of(run)["state"], "done", "{}", daemon.end_of(run));
    }
    assert_eq!(host.rows("SELECT name, state FROM activations"), ["y | inactive"]);
    assert_eq!(host.rows("SELECT reference FROM images"), [A]);
    daemon.stop();
    host.check();
}

#[test]
fn what_another_process_is_making_is_waited_for_and_nobody_else_waits() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", B, "--name", "up"]);
    let daemon = Daemon::start(&host, &[]);
    bench.proxy.hold("a/3.tar", 100);
    let mut making = host.command(&["--no-daemon", "activate", A, "--name", "z"]);
    let making = making.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bench.proxy.wait_held(PATIENCE).unwrap();
    let gone = asked(&daemon, "DELETE", "/v1/activations/z");
    let down = asked(&daemon, "POST", "/v1/activations/up/deactivate?wait=0");
    assert_eq!(daemon.end_of(down)["state"], "done");
    assert_eq!(daemon.get(&format!("/v1/runs/{gone}"))["state"], "queued");
    bench.proxy.release();
    let made = making.wait_with_output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(daemon.end_of(gone)["state"], "done");
    assert_eq!(host.rows("SELECT name FROM activations"), ["up"]);
    daemon.stop();
    host.check();
}

fn start(host: &Host<'_>, words: &[&str]) -> Child {
    host.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn stopped(child: Child) -> String {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(111));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn who_joins_a_run_waits_no_longer_than_told_and_hears_that_it_goes_on() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (daemon, slow) = busy(&host);
    let goes_on = |said: &str| {
        assert!(said.contains(&format!("run {slow} (activate slow) goes on")), "{said}");
        assert!(said.contains(&format!("`orchestrate cancel {slow}`")), "{said}");
        assert!(!said.contains("nothing half done stays"), "{said}");
        assert_eq!(daemon.get(&format!("/v1/runs/{slow}"))["state"], "running");
    };
    let (code, said) = host.said(&["activate", A, "--name", "slow", "--wait", "1"]);
    assert_eq!(code, 111, "{said}");
    goes_on(&said);
    let mut child = start(&host, &["activate", A, "--name", "slow"]);
    // It says what the run is at: so it has joined it.
    child.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    goes_on(&stopped(child));
    // Who began it does not take it from those that have joined it since.
    let own = start(&host, &["ensure", B]);
    let run = until("its run", || {
        host.rows("SELECT id FROM runs WHERE verb = 'ensure'").first().cloned()
    });
    let second = daemon.begin("PUT", "/v1/images", &json!({"image": B}));
    assert_eq!(second.to_string(), run);
    let said = stopped(own);
    assert!(said.contains(&format!("run {run} (ensure {B}) goes on")), "{said}");
    // And where nobody has, it is cancelled.
    let own = start(&host, &["activate", B, "--name", "own"]);
    let run = until("its run", || {
        host.rows("SELECT id FROM runs WHERE subject = 'own'").first().cloned()
    });
    let said = stopped(own);
    assert!(said.contains(&format!("run {run} is cancelled")), "{said}");
    bench.proxy.release();
    for (run, state) in [(slow, "done"), (second, "done"), (run.parse().unwrap(), "cancelled")] {
        assert_eq!(daemon.end_of(run)["state"], state);
    }
    daemon.stop();
    host.check();
}

#[test]
fn what_has_a_node_that_the_daemon_does_not_see_goes_by_a_command() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    host.ok(&["activate", A, "--name", "web"]);
    let jail = bench.path("jail");
    std::fs::create_dir(&jail).unwrap();
    let node = jail.join("rootfs");
    let given = registry::Device {
        node: Some(node.to_str().unwrap().into()),
        node_leads_to: Some("253:77".into()),
        ..registry::Device::default()
    };
    let mut registry = registry::Registry::open(&host.state().join("registry.db")).unwrap();
    registry.write(|write| write.put_device("web", &given)).unwrap();
    drop(registry);
    for (method, target) in [
        ("DELETE", "/v1/activations/web"),
        ("DELETE", "/v1/activations/web?when_closed=1"),
        ("DELETE", "/v1/activations/web?dry_run=1"),
        ("POST", "/v1/activations/web/deactivate"),
    ] {
        let answer = daemon.ask(method, target, "");
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!((answer.status, &answer.json()["class"]), (409, &"temporary".into()), "{said}");
        assert!(
            said.contains(node.to_str().unwrap()) && said.contains("orchestrate rm web"),
            "{said}"
        );
    }
    assert_eq!(host.rows("SELECT verb FROM runs"), ["activate"]);
    assert_eq!(host.ok(&["ls"])["activations"][0]["state"], "active");
    // A command removes what it sees of it first, and the daemon does the rest.
    assert_eq!(host.ok(&["rm", "web"])["activation"], "web");
    assert_eq!(host.ok(&["ls"])["activations"], serde_json::json!([]));
    daemon.stop();
    host.check();
}
