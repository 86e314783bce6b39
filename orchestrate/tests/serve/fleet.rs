//! A daemon that follows the document of a fleet: a real server, real signatures, a directory store.

use std::fs;
use std::net::SocketAddr;

use registry::{NewRun, Registry, Verb};
use serde_json::{Value, json};

use crate::bench::{Bench, Host};
use crate::daemon::{Daemon, log_of, until};
use crate::signed::{self, keys, minisign, path, signature};

const URL: &str = "s3://bucket/fleet/worker.json";
const KEY: &str = "fleet/worker.json";
const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// A document of the fleet with this serial.
fn document(serial: u64, more: &Value) -> Vec<u8> {
    let mut document = json!({"version": 1, "serial": serial, "fleet": "prod", "class": "worker"});
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    serde_json::to_vec(&document).unwrap()
}

fn publish(bench: &Bench, bytes: &[u8]) {
    signed::publish(bench, "fleet", KEY, bytes);
}

fn env(bench: &Bench) -> Vec<(&'static str, String)> {
    vec![
        ("VENEER_FLEET_URL", URL.into()),
        ("VENEER_FLEET_KEYS", path(bench, "fleet.pub")),
        ("VENEER_FLEET_NAME", "prod".into()),
        ("VENEER_FLEET_CLASS", "worker".into()),
        ("VENEER_FLEET_HOST_ID", "h-1".into()),
        ("VENEER_FLEET_SITE", "fra".into()),
        ("VENEER_FLEET_POLL", "1".into()),
    ]
}

fn start(host: &Host<'_>, at: Option<SocketAddr>) -> Daemon {
    let mut command = match at {
        Some(server) => host.command_at(server, &["serve"]),
        None => host.command(&["serve"]),
    };
    command.envs(env(host.bench()));
    Daemon::start_command(host, command)
}

/// The daemon's word on its fleet, once it is as wanted.
fn fleet(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(what, || Some(daemon.get("/v1/fleet")).filter(|status| wanted(status)))
}

fn images(daemon: &Daemon) -> Vec<String> {
    let all = daemon.get("/v1/images")["images"].clone();
    let all = all.as_array().unwrap().iter();
    all.map(|image| image["image"].as_str().unwrap().to_owned()).collect()
}

fn metric(daemon: &Daemon, name: &str) -> Option<f64> {
    let text = String::from_utf8(daemon.ask("GET", "/metrics", "").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn a_host_follows_its_document_and_keeps_to_it_without_the_origin() {
    let bench = Bench::small();
    keys(&bench, "fleet");
    let host = bench.host("host");
    let wants = json!({
        "images": {"main": {"image": A}, "late": {"image": B, "rollout": {"salt": "s", "percent": 0}}},
        "activations": {"web": {"image": "main"}},
    });
    publish(&bench, &document(5, &wants));
    let daemon = start(&host, None);
    let status = fleet(&daemon, "the document", |s| {
        s["serial"] == 5 && s["activations"][0]["state"] == "ready"
    });
    assert_eq!(images(&daemon), [A], "B is for nobody yet: {status}");
    assert_eq!(
        status["images"][0]["why"].as_str().map(|why| why.contains("come to 0 %")),
        Some(true)
    );
    host.check_tree("web", 3);
    let here = daemon.get("/v1/host");
    assert_eq!((&here["id"], &here["fleet_serial"]), (&json!("h-1"), &json!(5)));
    assert!(here["free_bytes"].as_u64().unwrap() > 0, "{here}");
    assert_eq!(metric(&daemon, "veneer_fleet_serial"), Some(5.0));
    assert_eq!(metric(&daemon, "veneer_fleet_images{state=\"ready\"}"), Some(2.0));
    assert!(metric(&daemon, "veneer_fleet_age_seconds").unwrap() < 100.0);
    // Behind people's, and with the word of who asked.
    let runs = daemon.get("/v1/runs?status=all")["runs"].clone();
    let first = &runs.as_array().unwrap()[0];
    let input: Value = serde_json::from_str(first["input"].as_str().unwrap()).unwrap();
    assert_eq!((&first["priority"], &input["by"]), (&json!(-10), &json!("document")), "{first}");
    assert_eq!(
        (input["document"].as_u64(), runs.as_array().unwrap().len()),
        (Some(5), 2),
        "{runs}"
    );

    // A next one names what is to go: it goes not before an hour has passed, and is not forgotten.
    let next = json!({"images": {"main": {"image": B}}, "remove": [A]});
    publish(&bench, &document(6, &next));
    let status =
        fleet(&daemon, "the next", |s| s["serial"] == 6 && s["images"][0]["state"] == "ready");
    assert_eq!(images(&daemon), [A, B]);
    let why = status["remove"][0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("activations are made of it"), "{why}");
    daemon.stop();

    // The origin is gone, and so is what was here of B: it is still known what is wanted.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = start(&host, Some(dead));
    let status = fleet(&daemon, "the kept one", |s| s["serial"] == 6 && s["refused"].is_string());
    assert_eq!(status["images"][0]["state"], "ready", "{status}");
    assert!(metric(&daemon, "veneer_fleet_refused_total{why=\"unreachable\"}").unwrap() >= 1.0);
    let said = host.command(&["fleet"]).envs(env(&bench)).output().unwrap();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["serial"], 6, "{said}");
    daemon.kill();
    // Without a daemon the command says as much from what is kept.
    let said = host.command(&["fleet"]).envs(env(&bench)).output().unwrap();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["serial"], &said["images"][0]["state"]), (&json!(6), &json!("ready")));
    host.check();
}

#[test]
fn what_is_not_the_next_document_of_this_fleet_changes_nothing() {
    let bench = Bench::small();
    keys(&bench, "fleet");
    keys(&bench, "stranger");
    let host = bench.host("host");
    let old = document(7, &json!({"images": {"main": {"image": B}}}));
    let good = document(8, &json!({"images": {"main": {"image": A}}}));
    publish(&bench, &good);
    let daemon = start(&host, None);
    fleet(&daemon, "the image", |s| s["images"][0]["state"] == "ready");
    let goes = json!({"remove": [A], "images": {"main": {"image": B}}});
    let other = |key: &str, value: Value| {
        let mut more = goes.clone();
        more[key] = value;
        document(9, &more)
    };
    let mut large = document(9, &goes);
    large.extend(vec![b' '; 1 << 20]);
    let whole = document(9, &goes);
    let cases: [(&str, Vec<u8>, &str, &str); 9] = [
        ("older", old, "fleet", "one of serial 8 was believed"),
        ("same_serial", document(8, &goes), "fleet", "two documents were signed with serial 8"),
        ("other_fleet", other("fleet", json!("test")), "fleet", "for the fleet \"test\""),
        ("other_fleet", other("class", json!("db")), "fleet", "for the class \"db\""),
        ("unsigned", whole.clone(), "stranger", "no key of fleet.keys"),
        ("malformed", other("removee", json!([])), "fleet", "removee: there is no such field"),
        ("malformed", large, "fleet", "at most 1048576"),
        ("malformed", whole[..whole.len() / 2].to_vec(), "fleet", "no JSON"),
        ("far", document(9 + (1 << 33), &goes), "fleet", "none above"),
    ];
    for (word, bytes, key, wanted) in cases {
        let name = format!("veneer_fleet_refused_total{{why=\"{word}\"}}");
        let before = metric(&daemon, &name).unwrap();
        let signed = signature(&bench, key, &bytes);
        bench.put(KEY, &bytes);
        bench.put(&format!("{KEY}.minisig"), &signed);
        let status = fleet(&daemon, wanted, |s| {
            s["refused"].as_str().is_some_and(|why| why.contains(wanted))
        });
        assert_eq!((&status["serial"], images(&daemon)), (&json!(8), vec![A.to_owned()]), "{word}");
        until("its count", || (metric(&daemon, &name).unwrap() > before).then_some(()));
    }
    // The signature of another document, as in the middle of an upload; then none at all; then nothing.
    bench.put(KEY, &whole);
    bench.put(&format!("{KEY}.minisig"), &signature(&bench, "fleet", &good));
    fleet(&daemon, "half a pair", |s| {
        s["refused"].as_str().is_some_and(|w| w.contains("no key of"))
    });
    let file = path(&bench, "to-sign");
    fs::write(&file, &whole).unwrap();
    minisign(&["-S", "-l", "-W", "-s", &path(&bench, "fleet.key"), "-m", &file]);
    bench.put(&format!("{KEY}.minisig"), &fs::read(format!("{file}.minisig")).unwrap());
    fleet(&daemon, "the older form", |s| {
        s["refused"].as_str().is_some_and(|why| why.contains("older form"))
    });
    bench.delete(&format!("{KEY}.minisig"));
    fleet(&daemon, "no signature", |s| {
        s["refused"].as_str().is_some_and(|why| why.contains("no signature beside it"))
    });
    bench.delete(KEY);
    until("its count", || {
        (metric(&daemon, "veneer_fleet_refused_total{why=\"absent\"}").unwrap() > 0.0).then_some(())
    });
    assert_eq!(images(&daemon), [A], "{}", log_of(&host));
    // One that is good is in force at once, whatever came before it.
    publish(&bench, &document(9, &json!({"images": {"main": {"image": B}}})));
    let status =
        fleet(&daemon, "the good one", |s| s["images"][0]["state"] == "ready" && s["serial"] == 9);
    assert_eq!(
        (&status["refused"], images(&daemon)),
        (&Value::Null, vec![A.to_owned(), B.to_owned()])
    );
    daemon.stop();
    // Played back to the next daemon, the old one is as old.
    publish(&bench, &good);
    let daemon = start(&host, None);
    fleet(&daemon, "the replay", |s| {
        s["serial"] == 9
            && s["refused"].as_str().is_some_and(|why| why.contains("was believed before"))
    });
    daemon.stop();
}

/// A request of a document that was made before a person came.
fn remove_by_document(host: &Host<'_>, daemon: &Daemon, subject: &str) -> Value {
    let mut registry = Registry::open(&host.state().join("registry.db")).unwrap();
    let input = r#"{"by": "document", "document": 3, "when_closed": false}"#;
    let new = NewRun { verb: Verb::Rm, subject, input, priority: -10, webhook: None };
    let queued = registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap();
    let registry::Enqueued::Fresh(id) = queued else { panic!("{queued:?}") };
    daemon.end_of(id.get())
}

#[test]
fn a_document_takes_away_only_what_no_person_has_asked_for() {
    let bench = Bench::small();
    keys(&bench, "fleet");
    let host = bench.host("host");
    let wants = json!({
        "images": {"a": {"image": A}, "b": {"image": B}},
        "activations": {
            "web": {"image": "a"}, "db": {"image": "b"},
            "labelled": {"image": "a"}, "timed": {"image": "a"}, "named": {"image": "a"},
        },
    });
    publish(&bench, &document(1, &wants));
    let daemon = start(&host, None);
    let ready = |s: &Value| {
        ["images", "activations"]
            .iter()
            .all(|of| s[of].as_array().unwrap().iter().all(|line| line["state"] == "ready"))
            && s["serial"] == 1
    };
    fleet(&daemon, "all of it", ready);
    assert_eq!(
        host.rows("SELECT name, asked FROM activations ORDER BY 1"),
        ["db", "labelled", "named", "timed", "web"].map(|name| format!("{name} | document"))
    );
    assert_eq!(host.rows("SELECT DISTINCT asked FROM images"), ["document"]);
    publish(&bench, &document(2, &json!({"paused": true})));
    fleet(&daemon, "the pause", |s| s["serial"] == 2);
    // A person asks for what is up already: no run, and still it is remembered.
    let answer =
        daemon.ask("POST", "/v1/activations", &json!({"id": "web", "image": A}).to_string());
    assert_eq!(answer.status, 200);
    // What a person has put on one of them makes it theirs as well.
    for words in
        [["label", "labelled", "tier=1"], ["ttl", "timed", "1h"], ["rename", "named", "mine"]]
    {
        host.ok(&words);
    }
    for subject in ["web", "labelled", "timed", "mine", A] {
        let end = remove_by_document(&host, &daemon, subject);
        let why = end["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(end["state"], "failed", "{end}");
        assert!(why.contains("a person has asked for it") || why.contains("activation"), "{why}");
    }
    host.check_tree("web", 3);
    assert_eq!(remove_by_document(&host, &daemon, "db")["state"], "done");
    // Pinned, and unpinned again: a person wanted it.
    for pinned in [true, false] {
        let body = json!({"image": B, "pinned": pinned}).to_string();
        assert_eq!(daemon.ask("POST", "/v1/images/pin", &body).status, 200);
        let end = remove_by_document(&host, &daemon, B);
        assert_eq!(end["class"], "cancelled", "{end}");
    }
    assert_eq!(images(&daemon), [A, B]);
    // What this host would refuse is planned by nobody.
    let file = path(&bench, "draft.json");
    for (serial, why) in [(1, "serial 1"), (2, "serial 2"), (3 + (1 << 33), "none above")] {
        fs::write(&file, document(serial, &json!({"images": {"a": {"image": A}}}))).unwrap();
        let plan = host.command(&["fleet", "--plan", &file]).envs(env(&bench)).output().unwrap();
        let said = String::from_utf8_lossy(&plan.stderr).into_owned();
        assert!(plan.status.code() == Some(100) && said.contains(why), "{serial}: {said}");
        assert!(said.contains("would not follow it"), "{said}");
    }
    daemon.stop();
    host.check();
}

#[test]
fn an_image_that_only_a_document_brought_goes_with_its_layers() {
    let bench = Bench::small();
    keys(&bench, "fleet");
    let host = bench.host("host");
    publish(&bench, &document(1, &json!({"images": {"a": {"image": A}, "b": {"image": B}}})));
    let daemon = start(&host, None);
    fleet(&daemon, "both", |s| {
        s["images"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|l| l["state"] == "ready"))
    });
    // `ensure` of a person makes it that person's.
    let run = daemon.begin("PUT", "/v1/images", &json!({"image": B}));
    assert_eq!(daemon.end_of(run)["state"], "done");
    publish(&bench, &document(2, &json!({"remove": [A, B]})));
    let status = fleet(&daemon, "the removal", |s| s["serial"] == 2);
    let whys: Vec<&str> =
        status["remove"].as_array().unwrap().iter().map(|l| l["why"].as_str().unwrap()).collect();
    assert!(
        whys[0].contains("less than an hour ago") && whys[1].contains("a person has asked"),
        "{whys:?}"
    );
    assert!(status["remove"][0]["wait_s"].as_u64().unwrap() > 3000, "{status}");
    assert_eq!(remove_by_document(&host, &daemon, A)["state"], "done");
    assert_eq!(remove_by_document(&host, &daemon, B)["class"], "cancelled");
    assert_eq!(images(&daemon), [B]);
    daemon.stop();
    host.check();
}

#[test]
fn a_document_is_checked_and_tried_before_it_is_signed() {
    let bench = Bench::small();
    keys(&bench, "fleet");
    let host = bench.host("host");
    let file = path(&bench, "draft.json");
    let run = |words: &[&str]| host.command(words).envs(env(&bench)).output().unwrap();
    let value = |words: &[&str]| -> (Option<i32>, Value) {
        let done = run(words);
        (
            done.status.code(),
            serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}")),
        )
    };
    fs::write(&file, br#"{"version": 1, "serial": 0, "fleet": "x y"}"#).unwrap();
    let (code, found) = value(&["fleet", "--check", &file]);
    assert_eq!(
        (code, found["good"].as_bool(), found["faults"].as_array().unwrap().len()),
        (Some(1), Some(false), 2)
    );
    assert_eq!(found["faults"][1]["place"], "fleet");
    fs::write(&file, document(9, &json!({"images": {"a": {"image": A}}, "remove": [B]}))).unwrap();
    assert_eq!(
        value(&["fleet", "--check", &file]),
        (Some(0), json!({"good": true, "faults": [], "more": 0}))
    );
    host.ok(&["ensure", B]);
    let (code, plan) = value(&["fleet", "--plan", &file]);
    assert_eq!(code, Some(0));
    assert_eq!(plan["acts"], json!([{"act": "ensure", "image": A}]), "{plan}");
    assert!(plan["remove"][0]["why"].as_str().unwrap().contains("a person has asked"), "{plan}");
    // Nothing was done, and nothing is in force by it.
    assert_eq!(value(&["fleet"]).1["serial"], Value::Null);
    assert_eq!(host.rows("SELECT reference FROM images"), [B]);
    fs::write(&file, document(9, &json!({"class": "db"}))).unwrap();
    let done = run(&["fleet", "--plan", &file]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(100));
    assert!(said.contains("for the class \"db\""), "{said}");
    let (code, said) = host.said(&["fleet"]);
    assert!(
        code == 100 && said.contains("this host is in no fleet: set fleet.url"),
        "{code}: {said}"
    );
    for (name, value) in [("VENEER_FLEET_HOST_ID", "a\u{1b}[2J"), ("VENEER_FLEET_LABELS", "x;y=z")]
    {
        let done = host.command(&["fleet"]).envs(env(&bench)).env(name, value).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(100) && said.contains("A-Z a-z 0-9"), "{name}: {said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}
