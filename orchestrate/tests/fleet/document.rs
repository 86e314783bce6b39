//! The document between the bucket and the host: what is asked of whom, as long as all is well and when it is not.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tests::s3::{KEYS, Server};

use crate::bench::{self, Bench, Host};
use crate::daemon::{Daemon, until};
use crate::front::{Front, Mood};
use crate::nginx::Cache;
use crate::signed;

const KEY: &str = "fleet/worker.json";

/// A document with this serial that names nothing.
fn publish(bench: &Bench, serial: u64) {
    let text = json!({"version": 1, "serial": serial, "fleet": "prod"}).to_string();
    signed::publish(bench, "fleet", KEY, text.as_bytes());
}

/// A daemon of this host that asks the bucket there each second, after these sources.
fn start(host: &Host<'_>, bucket: SocketAddr, sources: &str) -> Daemon {
    let mut command = host.command_at(bucket, &["serve"]);
    command.envs([
        ("VENEER_FLEET_URL", format!("s3://bucket/{KEY}")),
        ("VENEER_FLEET_KEYS", signed::path(host.bench(), "fleet.pub")),
        ("VENEER_FLEET_NAME", "prod".into()),
        ("VENEER_FLEET_HOST_ID", "h-1".into()),
        ("VENEER_FLEET_POLL", "1".into()),
        ("VENEER_FETCH_SOURCES", sources.into()),
    ]);
    Daemon::start_command(host, command)
}

fn has(daemon: &Daemon, serial: u64) -> Value {
    until(&format!("document {serial}"), || {
        Some(daemon.get("/v1/fleet")).filter(|status| status["serial"] == serial)
    })
}

/// Of the requests for the document, whether each came by the cache, and what became of it.
fn asked(front: &Front) -> Vec<(bool, u16)> {
    // Those that have an answer.
    let all = front.asked().into_iter().filter(|one| one.target.ends_with(KEY) && one.status > 0);
    all.map(|one| (one.by_cache, one.status)).collect()
}

#[test]
fn a_document_that_has_not_changed_costs_no_body_and_a_busy_bucket_is_left_alone() {
    let bench = Bench::small();
    signed::keys(&bench, "fleet");
    let front = Front::start(bench.server(), bench.server());
    publish(&bench, 1);
    let host = bench.host("host");
    let daemon = start(&host, front.plain, "");
    has(&daemon, 1);
    until("questions", || (asked(&front).len() > 3).then_some(()));
    let all = asked(&front);
    let bodies = all.iter().filter(|(_, status)| *status == 200).count();
    assert!(bodies == 1 && all[1..].iter().all(|(_, status)| *status == 304), "{all:?}");
    // It asks for a pause, and has it: for longer than one question takes with its tries.
    front.forget();
    front.is(Mood::Busy(Some(60)));
    until("a busy answer", || (!asked(&front).is_empty()).then_some(()));
    thread::sleep(Duration::from_secs(13));
    assert_eq!(asked(&front), [(false, 503)], "left alone for a minute");
    let status = daemon.get("/v1/fleet");
    assert!(status["refused"].as_str().is_some_and(|why| why.contains("SlowDown")), "{status}");
    daemon.stop();
}

#[test]
fn a_document_comes_by_the_cache_of_a_site_and_from_the_bucket_without_one() {
    let bench = Bench::small();
    signed::keys(&bench, "fleet");
    let signed = Server::start(&bench::server(), &bench.path("s3"), Some(KEYS)).unwrap();
    let front = Front::start(signed.address, bench.server());
    let mut cache = Cache::start(&bench.path("cache"), &front);
    publish(&bench, 1);
    let host = bench.host("host");
    let daemon = start(&host, front.plain, &cache.url());
    has(&daemon, 1);
    publish(&bench, 2);
    has(&daemon, 2);
    until("questions", || (asked(&front).len() > 3).then_some(()));
    let all = asked(&front);
    let itself = all.iter().filter(|(by_cache, _)| !by_cache).count();
    assert!(itself <= 1 && all.contains(&(true, 304)), "the host asks once in ten: {all:?}");
    // While the bucket is away the site goes on by what its cache has.
    front.is(Mood::Away);
    front.forget();
    let tried = || front.asked().iter().filter(|one| one.target.ends_with(KEY)).count();
    until("questions", || (tried() > 3).then_some(()));
    let status = daemon.get("/v1/fleet");
    assert_eq!((&status["serial"], &status["refused"]), (&json!(2), &Value::Null), "{status}");
    front.is(Mood::Well);
    // Without the cache the bucket is asked.
    cache.kill();
    publish(&bench, 3);
    has(&daemon, 3);
    daemon.stop();
}

#[test]
fn a_mirror_that_keeps_an_old_document_holds_nobody_back_for_long() {
    let (bench, mirror) = (Bench::small(), Bench::small());
    signed::keys(&bench, "fleet");
    let front = Front::start(bench.server(), bench.server());
    publish(&bench, 1);
    let pair = std::fs::read(bench.path("to-sign")).unwrap();
    mirror.put(KEY, &pair);
    mirror.put(&format!("{KEY}.minisig"), &std::fs::read(bench.path("to-sign.minisig")).unwrap());
    publish(&bench, 2);
    let host = bench.host("host");
    let daemon = start(&host, front.plain, &format!("http://{}", mirror.server()));
    has(&daemon, 1);
    has(&daemon, 2);
    // What it says from now on is no news, and not counted as refused.
    front.forget();
    until("questions", || (asked(&front).len() > 2).then_some(()));
    assert_eq!(daemon.get("/v1/fleet")["refused"], Value::Null);
    daemon.stop();
}
