//! Which settings are in force: in a daemon that reads them again, in a command that may hand its work to
//! it, and in every wait.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, PATIENCE, log_of, until};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// A file of settings beside the host.
struct File(std::path::PathBuf);

impl File {
    fn new(host: &Host<'_>, name: &str, text: &str) -> File {
        fs::create_dir_all(&host.dir).unwrap();
        let file = File(host.dir.join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn env(&self) -> (&str, &str) {
        ("VENEER_CONFIG", self.0.to_str().unwrap())
    }
}

/// Sends a hangup and waits until it was heard.
fn hang_up(daemon: &Daemon, host: &Host<'_>) {
    let heard = || log_of(host).matches("SIGHUP: settings").count();
    let before = heard();
    daemon.signal(Signal::SIGHUP);
    until("the hangup to be heard", || (heard() > before).then_some(()));
}

/// How many runs were at work at once, at most, of the history from this event on.
fn at_once(host: &Host<'_>, after: usize) -> usize {
    let moves = host.rows(
        "SELECT to_state FROM events WHERE subject GLOB 'run *'
         AND to_state IN ('running', 'done') ORDER BY seq",
    );
    let (mut now, mut most) = (0_usize, 0);
    for (at, to) in moves.iter().enumerate() {
        now = if to == "running" { now + 1 } else { now - 1 };
        most = if at >= after { most.max(now) } else { 0 };
    }
    most
}

/// A scanner that says of nothing that it is clean.
const REQUIRED: &str = "[scan]\npolicy = \"required\"\ncommand = [\"/bin/false\", \"{}\"]\n";

#[test]
fn as_many_work_as_the_last_hangup_says() {
    let bench = Bench::small();
    let host = bench.host("host");
    let file = File::new(&host, "veneer.toml", "[serve]\nconcurrency = 4\n");
    let daemon = Daemon::start_with(&host, &[], &[file.env()]);
    bench.proxy.hold("a/2.tar", 100);
    let runs: Vec<u64> = (0..8).map(|n| daemon.activate(&format!("name-{n}"), A)).collect();
    bench.proxy.wait_held(PATIENCE).unwrap();
    until("four to be at work", || (daemon.get("/v1/status")["working"] == 4).then_some(()));
    for concurrency in [1, 4, 1, 4] {
        file.write(&format!("[serve]\nconcurrency = {concurrency}\n"));
        hang_up(&daemon, &host);
    }
    // Whoever was one too many would have taken a run by then.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(daemon.get("/v1/status")["working"], 4);
    file.write("[serve]\nconcurrency = 1\n");
    hang_up(&daemon, &host);
    bench.proxy.release();
    for run in runs {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    // Four that were at work end before the next begins, and those go one by one.
    assert_eq!((at_once(&host, 0), at_once(&host, 8)), (4, 1));
    file.write("[serve]\nconcurrency = 3\n");
    hang_up(&daemon, &host);
    bench.proxy.hold("b/3.tar", 100);
    let runs: Vec<u64> = (0..5).map(|n| daemon.activate(&format!("more-{n}"), B)).collect();
    until("three to be at work", || (daemon.get("/v1/status")["working"] == 3).then_some(()));
    bench.proxy.release();
    for run in runs {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    daemon.stop();
    host.check();
}

#[test]
fn a_policy_that_was_tightened_is_in_force_and_what_needs_a_restart_is_said() {
    let bench = Bench::small();
    let host = bench.host("host");
    let file = File::new(&host, "veneer.toml", "");
    let daemon = Daemon::start_with(&host, &[], &[file.env()]);
    assert_eq!(daemon.end_of(daemon.activate("before", A))["state"], "done");
    // A host that was opened before is at hand for what takes no run.
    daemon.get("/v1/listing");
    bench.proxy.hold("b/3.tar", 100);
    let under_way = daemon.activate("under-way", B);
    bench.proxy.wait_held(PATIENCE).unwrap();
    file.write(&format!("{REQUIRED}[serve]\nwebhook = \"http://192.0.2.1/\"\n"));
    hang_up(&daemon, &host);
    let status = daemon.get("/v1/status");
    assert_eq!(status["settings"]["scan.policy"], "required", "{status}");
    assert_eq!(status["restart"], json!(["serve.webhook"]), "{status}");
    until("the restart to be said", || log_of(&host).contains("serve.webhook").then_some(()));
    bench.proxy.release();
    for run in [under_way, daemon.activate("after", B)] {
        let run = daemon.end_of(run);
        assert_eq!(run["state"], "failed", "{run}");
    }
    // One mistake, and nothing changes.
    file.write("[scan]\npolicy = \"required\"\n");
    hang_up(&daemon, &host);
    assert_eq!(daemon.get("/v1/status")["settings"]["scan.command"], "/bin/false,{}");
    daemon.stop();
}

#[test]
fn a_command_hands_nothing_to_a_daemon_with_other_settings_wherever_its_own_stand() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let asked = || -> u64 {
        let text = String::from_utf8(daemon.ask("GET", "/metrics", "").body).unwrap();
        let runs = text.lines().filter(|line| line.starts_with("veneer_http_requests_total"));
        runs.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let file = File::new(&host, "own.toml", REQUIRED);
    let ran = |words: &[&str]| {
        let mut command = host.command(words);
        let ran = command.env(file.env().0, file.env().1).output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (code, said) = ran(&["activate", A, "--name", "one"]);
    assert!(code != Some(0) && said.contains("another scan.policy"), "{code:?} {said}");
    for text in ["bytes_max = 1\n", "etag_dedup = false\n", "region = \"eu-west-1\"\n"] {
        file.write(text);
        let (_, said) = ran(&["activate", A, "--name", "one", "--dry-run"]);
        assert!(said.contains("the work is done here"), "{text}: {said}");
    }
    // What changes no outcome is no reason: the daemon is asked.
    file.write("wait = 7\n[history]\nruns = 3\n[serve]\nbacklog = 3\n");
    let before = asked();
    let (code, said) = ran(&["activate", A, "--name", "one"]);
    assert!(code == Some(0) && !said.contains("done here"), "{said}");
    assert!(asked() >= before + 3, "the daemon was not asked");
    daemon.stop();
    host.check();
}

#[test]
fn a_command_waits_no_longer_than_it_was_told_to_also_by_way_of_a_daemon() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let first = daemon.activate("first", A);
    bench.proxy.wait_held(PATIENCE).unwrap();
    // Its turn does not come.
    let (code, said) = host.said(&["activate", B, "--name", "second", "--wait", "1"]);
    assert_eq!(code, 111, "{said}");
    assert!(said.contains("its turn at the daemon"), "{said}");
    let runs = daemon.get("/v1/runs?status=cancelled");
    assert_eq!(runs["runs"][0]["subject"], "second", "nobody waits for it: {runs}");
    // A layer that another process builds.
    bench.proxy.release();
    assert_eq!(daemon.end_of(first)["state"], "done");
    daemon.stop();
    host.wipe();
    let mut other = host.command(&["--no-daemon", "ensure", A]);
    bench.proxy.hold("a/2.tar", 100);
    let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    bench.proxy.wait_held(PATIENCE).unwrap();
    let daemon = Daemon::start(&host, &[]);
    let (code, said) = host.said(&["activate", A, "--name", "third", "--wait", "1"]);
    assert_eq!(code, 111, "{said}");
    assert!(said.contains("still held by process"), "{said}");
    bench.proxy.release();
    assert!(other.wait().unwrap().success());
    daemon.stop();
    host.check();
}

#[test]
fn no_command_hangs_at_a_daemon_that_is_stopped() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.end_of(daemon.activate("one", A))["state"], "done");
    bench.proxy.hold("b/3.tar", 100);
    let mut waits = host.command(&["activate", B, "--name", "two"]);
    let waits = waits.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    bench.proxy.wait_held(PATIENCE).unwrap();
    // Not in the middle of a step: for who holds the store's lock, everybody waits as long as `--wait` says.
    until("the layer's volume to be made", || {
        let building = host.rows("SELECT id FROM volumes WHERE state = 'building'");
        let lock = std::fs::File::open(host.state().join("locks/store.lock")).unwrap();
        (!building.is_empty() && lock.try_lock().is_ok()).then_some(())
    });
    daemon.signal(Signal::SIGSTOP);
    for words in [&["ls"][..], &["runs"], &["health"], &["deactivate", "one"]] {
        let (code, said) = host.said(words);
        assert!(code == 0 || words == ["health"], "{words:?}: {code} {said}");
        assert!(said.contains("does not answer") || words == ["health"], "{words:?}: {said}");
    }
    // Who waited already is told, too.
    let ended = waits.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(111), "{said}");
    assert!(said.contains("is it stopped?"), "{said}");
    daemon.signal(Signal::SIGCONT);
    bench.proxy.release();
    daemon.stop();
}

#[test]
fn who_waits_asks_seldom_also_where_nobody_may_wait() {
    let bench = Bench::small();
    let host = bench.host("host");
    for waits in ["32", "0"] {
        let daemon = Daemon::start_with(&host, &[], &[("VENEER_SERVE_WAITS", waits)]);
        bench.proxy.hold("a/2.tar", 100);
        let name = |n: usize| format!("name-{waits}-{n}");
        let image = if waits == "0" { B } else { A };
        if waits == "0" {
            bench.proxy.release();
            bench.proxy.hold("b/3.tar", 100);
        }
        let mut crowd: Vec<Child> = (0..12)
            .map(|n| {
                let mut command: Command = host.command(&["activate", image, "--name", &name(n)]);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        bench.proxy.wait_held(PATIENCE).unwrap();
        until("all to be there", || {
            let live = daemon.get("/v1/runs?status=live");
            (live["runs"].as_array().unwrap().len() == 12).then_some(())
        });
        let asked = || -> u64 {
            let text = String::from_utf8(daemon.ask("GET", "/metrics", "").body).unwrap();
            let runs = text.lines().filter(|line| line.starts_with("veneer_http_requests_total"));
            runs.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        let before = asked();
        std::thread::sleep(Duration::from_secs(4));
        let requests = asked() - before;
        eprintln!("{requests} requests of 12 in 4 s, where {waits} may wait");
        // Where nobody may wait, the pauses are 50 ms to a second; else there are the first ones.
        assert!(requests < 12 * 14, "{requests} requests, where {waits} may wait");
        bench.proxy.release();
        for child in &mut crowd {
            assert!(child.wait().unwrap().success());
        }
        daemon.stop();
    }
    host.check();
}

#[test]
fn a_number_that_is_too_large_is_told_its_range_wherever_it_comes_from() {
    let bench = Bench::small();
    let host = bench.host("host");
    let large = (1_u64 << 63).to_string();
    let daemon = Daemon::start(&host, &[]);
    for direct in [&[][..], &["--no-daemon"]] {
        for words in [
            &["activate", A, "--name", "one", "--size", &large][..],
            &["gc", "--keep-bytes", &large],
            &["events", "--since", &large],
            &["cancel", &large],
            &["ls", "--bytes-max", &large],
            &["ls", "--volume-bytes", &large],
            &["ls", "--wait", &large],
            &["ls", "--spool-age", &large],
            &["serve", "--concurrency", "100000000"],
            &["gc", "--purge-foreign", &large],
        ] {
            let words: Vec<&str> = direct.iter().chain(words).copied().collect();
            let (code, said) = host.said(&words);
            assert_eq!(code, 100, "{words:?}: {said}");
            assert!(said.contains("expected") && said.contains(" to "), "{words:?}: {said}");
        }
    }
    let ask = |method: &str, target: &str, body: Value| {
        // As JSON has it, also beyond what 64 bits hold.
        let text = body.to_string().replace("\"LARGE\"", &large);
        let answer = daemon.ask(method, target, &text);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 400, "{target} {text}: {said}");
        assert!(said.contains("expected") && said.contains(" to "), "{target} {text}: {said}");
    };
    ask("POST", "/v1/activations", json!({"id": "one", "image": A, "bytes": "LARGE"}));
    ask("POST", "/v1/activations", json!({"id": "one", "image": A, "bytes": 0}));
    ask("POST", "/v1/activations", json!({"id": "one", "image": A, "priority": "LARGE"}));
    ask("PUT", "/v1/images", json!({"image": A, "priority": -101}));
    ask("POST", "/v1/gc", json!({"keep_bytes": "LARGE"}));
    ask("POST", "/v1/gc", json!({"max_used": "LARGE"}));
    ask("POST", "/v1/gc", json!({"purge_foreign": ["LARGE"]}));
    for target in ["runs?after=", "runs?limit=", "events?after=", "runs/1?seen="] {
        let answer = daemon.ask("GET", &format!("/v1/{target}{large}"), "");
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 400 && said.contains("expected 0 to"), "{target}: {said}");
    }
    assert_eq!(daemon.ask("GET", &format!("/v1/runs/{large}"), "").status, 404);
    daemon.stop();
}
