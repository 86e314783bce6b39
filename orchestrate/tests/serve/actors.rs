//! One act meets another in the daemon: what is refused changes nothing, each request's webhook is told,
//! acts on one name keep their order, and what is short waits for no download.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use registry::{NewRun, Registry, Verb};
use serde_json::{Value, json};

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, PATIENCE, until};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

const LOOPBACK: (&str, &str) = ("VENEER_SERVE_WEBHOOK_LOOPBACK", "yes");

/// Answers every POST, and gives the run that each tells of.
fn listener() -> (String, Receiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let (heard, hears) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
            let run = loop {
                let read = stream.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let header = |name: &str| {
                    let found = head.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    found.trim().parse::<u64>().unwrap()
                };
                if body.len() as u64 >= header("content-length:") {
                    break header("veneer-run:");
                }
            };
            let answer = "HTTP/1.1 204 Yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            if heard.send(run).is_err() {
                return;
            }
        }
    });
    (address, hears)
}

/// A daemon with one worker, which waits for a layer.
fn busy(host: &Host<'_>, env: &[(&str, &str)]) -> (Daemon, u64) {
    let daemon = Daemon::start_with(host, &["--concurrency", "1"], env);
    host.bench().proxy.hold("a/3.tar", 100);
    let run = daemon.activate("slow", A);
    host.bench().proxy.wait_held(PATIENCE).unwrap();
    (daemon, run)
}

#[test]
fn a_command_does_not_turn_what_is_queued_into_something_else() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (daemon, slow) = busy(&host, &[]);
    let queued = daemon.activate("x", A);
    let (code, said) = host.said(&["--no-daemon", "activate", B, "--name", "x"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains(&format!("run {queued}")), "{said}");
    bench.proxy.release();
    for run in [slow, queued] {
        assert_eq!(daemon.end_of(run)["state"], "done");
    }
    let image = host.rows("SELECT reference FROM activations WHERE name = 'x'");
    assert_eq!(image, [A]);
    // A name that was taken before its turn came is a conflict, and not done.
    daemon.end_of(daemon.activate("y", B));
    let other = daemon.ask("POST", "/v1/activations", &json!({"id": "y", "image": A}).to_string());
    assert_eq!(other.status, 409);
    daemon.stop();
    host.check();
}

#[test]
fn a_command_and_the_daemon_may_begin_the_same_at_once() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", B]);
    let daemon = Daemon::start(&host, &[]);
    for n in 0..12 {
        let name = format!("n-{n}");
        let mut command = host.command(&["--no-daemon", "activate", B, "--name", &name]);
        std::thread::scope(|scope| {
            let beside = scope.spawn(move || command.output().unwrap());
            let wish = json!({"id": name, "image": B}).to_string();
            let answer = daemon.ask("POST", "/v1/activations?wait=60s", &wish);
            assert!(answer.status < 300, "{}", String::from_utf8_lossy(&answer.body));
            let output = beside.join().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
    }
    let states = host.rows("SELECT DISTINCT state FROM runs");
    assert_eq!(states, ["done"]);
    daemon.stop();
    host.check();
}

#[test]
fn a_request_that_is_refused_changes_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (daemon, slow) = busy(&host, &[LOOPBACK]);
    let ((first, first_hears), (second, second_hears), (other, other_hears)) =
        (listener(), listener(), listener());
    let ask = |wish: Value| daemon.ask("POST", "/v1/activations", &wish.to_string());
    let wish = json!({"id": "x", "image": A, "webhook": first, "priority": 3});
    let run = ask(wish.clone()).json()["id"].as_u64().unwrap();
    for key in ["image", "bytes", "no_fetch"] {
        let mut refused = wish.clone();
        (refused["webhook"], refused["priority"]) = (other.clone().into(), 100.into());
        refused[key] = match key {
            "image" => B.into(),
            "bytes" => 8_589_934_592_u64.into(),
            _ => true.into(),
        };
        let answer = ask(refused);
        assert_eq!((answer.status, answer.json()["run"].as_u64()), (409, Some(run)), "{key}");
    }
    // Two that ask for the same are both told.
    let joined = ask(json!({"id": "x", "image": A, "webhook": second, "priority": 5}));
    assert_eq!(
        (joined.json()["id"].as_u64(), joined.header("Veneer-Joined")),
        (Some(run), Some("yes"))
    );
    assert_eq!(daemon.get(&format!("/v1/runs/{run}"))["priority"], 5);
    bench.proxy.release();
    assert_eq!(daemon.end_of(run)["state"], "done");
    for hears in [first_hears, second_hears] {
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), run);
    }
    assert_eq!(daemon.end_of(slow)["state"], "done");
    let told = || host.rows("SELECT count(*) FROM webhooks") == ["0"];
    until("all to be told", || told().then_some(()));
    assert!(other_hears.try_recv().is_err(), "who was refused has heard");
    daemon.stop();
}

#[test]
fn every_end_is_told_after_a_restart_and_who_does_not_listen_is_in_nobodys_way() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    // Ends that nobody has heard of, of two receivers, one of which never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/", silent.local_addr().unwrap());
    let (address, hears) = listener();
    let mut registry = Registry::open(&host.state().join("registry.db")).unwrap();
    let mut untold = BTreeSet::new();
    for n in 0..80 {
        let (subject, verb) = (format!("n-{n}"), Verb::Deactivate);
        let webhook = Some(if n % 2 == 0 { silent.as_str() } else { address.as_str() });
        let new = NewRun { verb, subject: &subject, input: "{}", priority: 0, webhook };
        let run = registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap();
        let registry::Enqueued::Fresh(run) = run else { panic!("{run:?}") };
        registry.write(|write| write.cancel_run(run, "no")).unwrap();
        if n % 2 == 1 {
            untold.insert(run.get());
        }
    }
    drop(registry);
    // A collection does not forget them.
    host.ok(&["gc"]);
    let daemon = Daemon::start_with(&host, &[], &[LOOPBACK]);
    while !untold.is_empty() {
        untold.remove(&hears.recv_timeout(PATIENCE).unwrap());
    }
    let left = || host.rows(&format!("SELECT count(*) FROM webhooks WHERE address = '{address}'"));
    until("that to be recorded", || (left() == ["0"]).then_some(()));
    assert_eq!(host.rows("SELECT count(*) FROM webhooks"), ["40"], "they are told again");
    daemon.stop();
}

#[test]
fn who_does_not_listen_for_the_time_that_is_set_is_given_up() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start_with(&host, &[], &[LOOPBACK, ("VENEER_SERVE_WEBHOOK_TIME", "1")]);
    // Nobody is there.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wish = json!({"image": A, "webhook": format!("http://{gone}/")});
    let run = daemon.begin("PUT", "/v1/images", &wish);
    assert_eq!(daemon.end_of(run)["state"], "done");
    until("it to be given up", || {
        (host.rows("SELECT count(*) FROM webhooks") == ["0"]).then_some(())
    });
    let told = daemon.ask("GET", &format!("/v1/events?subject=run%20{run}"), "");
    assert!(String::from_utf8_lossy(&told.body).contains("could not be told"));
    daemon.stop();
}

#[test]
fn what_is_short_waits_for_no_download() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", B, "--name", "up"]);
    let (daemon, slow) = busy(&host, &[]);
    // The only worker that fetches is at it, and each of these comes to its end.
    let done = |run: u64| assert_eq!(daemon.end_of(run)["state"], "done");
    let remove = |what: &str| {
        let answer = daemon.ask("DELETE", &format!("/v1/{what}"), "");
        done(answer.json()["id"].as_u64().unwrap());
    };
    done(daemon.begin("POST", "/v1/gc", &json!({})));
    done(daemon.begin("POST", "/v1/activations/up/deactivate", &json!({})));
    done(daemon.activate("up", B));
    done(daemon.activate("more", B));
    let here = json!({"id": "here", "image": B, "no_fetch": true});
    done(daemon.begin("POST", "/v1/activations", &here));
    for name in ["up", "more", "here"] {
        remove(&format!("activations/{name}"));
    }
    remove("images?image=s3://bucket/b/");
    assert_eq!(daemon.get("/v1/listing")["activations"], json!([]));
    assert_eq!(daemon.get(&format!("/v1/runs/{slow}"))["state"], "running");
    // What is here by its name and was replaced in the bucket goes over to who fetches, behind the other.
    bench.proxy.release();
    done(slow);
    bench.put("a/3.tar", &tests::layer::stacked(9, 4, 2000));
    done(daemon.activate("anew", A));
    host.check_tree("anew", 9);
    daemon.stop();
    host.check();
}

#[test]
fn an_answer_takes_into_account_what_stands_queued_before_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "x"]);
    let daemon = Daemon::start(&host, &[]);
    // Put into the queue by another process: the daemon finds it when its loop comes round.
    let mut registry = Registry::open(&host.state().join("registry.db")).unwrap();
    for (verb, volumes) in [(Verb::Deactivate, 1), (Verb::Rm, 2)] {
        let (subject, input) = ("x", "{}");
        let new = NewRun { verb, subject, input, priority: 0, webhook: None };
        registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap();
        let earlier = registry.live_run(verb, subject).unwrap().unwrap().id.get();
        let later = daemon.activate("x", A);
        assert!(later > earlier);
        for run in [earlier, later] {
            assert_eq!(daemon.end_of(run)["state"], "done");
        }
        assert_eq!(host.rows("SELECT state FROM activations"), ["active"]);
        let made =
            "SELECT count(*) FROM events WHERE subject = 'activation x' AND to_state = 'reserved'";
        assert_eq!(host.rows(made), [volumes.to_string()], "{verb:?}");
    }
    daemon.stop();
    host.check();
}

#[test]
fn a_run_at_a_silent_server_is_cancelled_and_put_by() {
    let bench = Bench::small();
    let host = bench.host("host");
    let never = ["FIRST_BYTE_TIMEOUT", "STALL_TIMEOUT", "PATIENCE"]
        .map(|limit| (format!("VENEER_FETCH_{limit}"), "100000"));
    let never = never.each_ref().map(|(name, value)| (name.as_str(), *value));
    let (daemon, slow) = busy(&host, &never);
    let wish = daemon.ask("POST", &format!("/v1/runs/{slow}/cancel?wait=60s"), "");
    assert_eq!((wish.status, &wish.json()["state"]), (200, &json!("cancelled")));
    bench.proxy.release();
    bench.proxy.hold("b/3.tar", 100);
    let put_by = daemon.activate("two", B);
    bench.proxy.wait_held(PATIENCE).unwrap();
    daemon.stop();
    assert_eq!(host.rows(&format!("SELECT state FROM runs WHERE id = {put_by}")), ["queued"]);
    bench.proxy.release();
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.end_of(put_by)["state"], "done");
    daemon.stop();
    host.check();
}
