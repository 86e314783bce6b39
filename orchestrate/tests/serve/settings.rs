//! What a daemon is told from outside: limits that change while it runs, priorities, systemd; and what
//! it costs to have one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::Bench;
use crate::daemon::{Answer, Daemon, PATIENCE, exchange, until};

const A: &str = "s3://bucket/a/";

#[test]
fn a_hangup_reads_the_limits_again_and_a_mistake_changes_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(&host.dir).unwrap();
    let file = host.dir.join("veneer.toml");
    fs::write(&file, "[serve]\nconcurrency = 1\nbacklog = 1\n").unwrap();
    let daemon = Daemon::start_with(&host, &[], &[("VENEER_CONFIG", file.to_str().unwrap())]);
    bench.proxy.hold("a/2.tar", 100);
    let first = daemon.activate("one", A);
    bench.proxy.wait_held(PATIENCE).unwrap();
    let second = daemon.activate("two", A);
    let body = json!({"id": "three", "image": A}).to_string();
    let full = daemon.ask("POST", "/v1/activations", &body);
    assert_eq!((full.status, &full.json()["class"]), (503, &json!("temporary")));
    fs::write(&file, "[serve]\nbacklog = many\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    let log = || crate::daemon::log_of(&host);
    until("the mistake to be told", || log().contains("limits stay as they are").then_some(()));
    assert_eq!(daemon.ask("POST", "/v1/activations", &body).status, 503);
    fs::write(&file, "[serve]\nconcurrency = 2\nbacklog = 9\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    // Another hand is there now, too: what waited is begun beside the first.
    let third = until("a place in the queue", || {
        let answer = daemon.ask("POST", "/v1/activations", &body);
        (answer.status != 503).then(|| answer.json()["id"].as_u64().unwrap())
    });
    until("a second worker", || (daemon.get("/v1/status")["working"] == 2).then_some(()));
    bench.proxy.release();
    for run in [first, second, third] {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    daemon.stop();
    host.check();
}

#[test]
fn a_higher_priority_goes_first_and_a_second_wish_may_raise_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/2.tar", 100);
    let first = daemon.activate("first", A);
    bench.proxy.wait_held(PATIENCE).unwrap();
    let ask = |name: &str, priority: i32| {
        let body = json!({"id": name, "image": A, "priority": priority});
        daemon.begin("POST", "/v1/activations", &body)
    };
    let (late, low, high, raised) = (ask("late", 0), ask("low", -5), ask("high", 7), ask("up", 0));
    assert_eq!(ask("up", 9), raised);
    bench.proxy.release();
    for run in [first, late, low, high, raised] {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    daemon.stop();
    let order = host.rows("SELECT subject FROM events WHERE to_state = 'running' ORDER BY seq");
    let expected = [first, raised, high, late, low].map(|run| format!("run {run}"));
    assert_eq!(order, expected);
}

/// systemd's side is played by a few lines of Python: it opens the socket, hands it over as the third
/// descriptor, and listens for what it is told.
#[test]
fn systemd_hands_a_socket_over_and_is_told() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::create_dir_all(host.state()).unwrap();
    let told = UnixDatagram::bind(host.dir.join("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = || {
        let mut text = [0; 64];
        let length = told.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let socket = host.dir.join("handed.sock");
    let script = "import os,socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n\
                  s.listen()\nif s.fileno() != 3: os.dup2(s.fileno(), 3)\nos.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n\
                  os.execv(sys.argv[2], sys.argv[2:])\n";
    // Its own setting names the same file, as the units of the package have it.
    let named = socket.to_str().unwrap();
    let own = host.command(&["--socket", named, "serve"]);
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(&socket).arg(own.get_program()).args(own.get_args());
    command.env("NOTIFY_SOCKET", host.dir.join("notify")).env("WATCHDOG_USEC", "200000");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("python3, as ./bootstrap wants it");
    assert_eq!(hears(), "READY=1");
    assert_eq!(hears(), "WATCHDOG=1");
    assert_eq!(hears(), "WATCHDOG=1");
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(exchange(&mut stream, "GET", "/healthz", "", "").unwrap().status, 200);
    assert!(!host.state().join("serve.sock").exists(), "it made a socket of its own as well");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    until("the end to be told", || (hears() == "STOPPING=1").then_some(()));
    assert!(child.wait().unwrap().success());
    assert!(socket.exists(), "a socket that was handed over is not ours to remove");
}

/// What an idle daemon costs, and how long a question takes that needs no work. Figures: only the
/// memory is held against bounds, and only of a release build.
#[test]
fn an_idle_daemon_costs_little() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.end_of(daemon.activate("one", A))["state"], "done");
    let mut stream = daemon.connect();
    let request = b"GET /v1/runs/1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..2000 {
        let begun = Instant::now();
        stream.write_all(request).unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
        while Answer::split(&bytes).is_none() {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "the connection ended");
            bytes.extend_from_slice(&piece[..read]);
        }
        times.push(begun.elapsed());
        if times.len().is_multiple_of(900) {
            stream = daemon.connect();
        }
    }
    drop(stream);
    times.sort_unstable();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let switches = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        tasks
            .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default())
            .filter_map(|text| {
                let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
                line.trim().parse::<u64>().ok()
            })
            .sum()
    };
    // Threads of connections are kept for ten seconds.
    const OWN: u64 = 11;
    until("the last connection's thread to end", || {
        (daemon.status("Threads") <= OWN).then_some(())
    });
    let before = switches();
    std::thread::sleep(Duration::from_secs(10));
    let woken = switches().saturating_sub(before);
    let (resident, own) = (daemon.status("VmRSS"), daemon.status("RssAnon"));
    eprintln!(
        "idle: {resident} KiB resident, of which {own} are its own, {} threads, woken {woken} times in 10 s; GET of a run over one \
         connection: median {half:?}, 99 of 100 within {most:?}",
        daemon.status("Threads")
    );
    // The rest are pages of the program's file. They grow with the program, and how many of them the kernel
    // maps beside those that were touched is its own matter, so they are told and not judged: the same
    // daemon had 12 MiB on one machine and 14 on another.
    if !cfg!(debug_assertions) {
        assert!(own < 4 * 1024, "{own} KiB of its own");
        let shared = daemon.status("RssShmem");
        assert!(shared < 1024, "{shared} KiB of shared memory");
    }
    daemon.stop();
}
