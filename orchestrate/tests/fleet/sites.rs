//! Real daemons at several sites follow one document, each site through its own cache, while the world breaks what it
//! can: a cache, an image, half of the daemons, the origin. What the origin sends of each layer is counted.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use orchestrate::fleet::bucket;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tests::layer;
use tests::s3::{KEYS, Server};

use crate::bench::{self, Bench, Host};
use crate::daemon::{Daemon, PATIENCE, log_of};
use crate::front::{Front, Mood};
use crate::nginx::Cache;
use crate::number;
use crate::signed;

const ONE: &str = "s3://bucket/one/";
const TWO: &str = "s3://bucket/two/";
const THREE: &str = "s3://bucket/three/";
const BAD: &str = "s3://bucket/bad/";

/// Files of a layer, and bytes of the largest.
const FILES: usize = 3;
const BYTES: usize = 1_500_000;

struct Sites<'b> {
    daemons: Vec<Option<Daemon>>,
    caches: Vec<Cache>,
    hosts: Vec<Host<'b>>,
    bench: &'b Bench,
    front: &'b Front,
    serial: u64,
    begun: Instant,
}

fn id(number: usize) -> String {
    format!("host-{number}")
}

impl<'b> Sites<'b> {
    fn new(bench: &'b Bench, front: &'b Front, sites: usize, hosts: usize) -> Sites<'b> {
        let cache = |site| Cache::start(&bench.path(&format!("cache-{site}")), front);
        let mut all = Sites {
            daemons: (0..hosts).map(|_| None).collect(),
            caches: (0..sites).map(cache).collect(),
            hosts: (0..hosts).map(|number| bench.host(&id(number))).collect(),
            bench,
            front,
            serial: 0,
            begun: Instant::now(),
        };
        (0..hosts).for_each(|number| all.rises(number));
        all
    }

    fn rises(&mut self, number: usize) {
        let (host, site) = (&self.hosts[number], number % self.caches.len());
        let mut command = host.command_at(self.front.plain, &["serve"]);
        command.envs([
            ("VENEER_FLEET_URL", "s3://bucket/fleet/worker.json".into()),
            ("VENEER_FLEET_KEYS", signed::path(self.bench, "fleet.pub")),
            ("VENEER_FLEET_NAME", "prod".into()),
            ("VENEER_FLEET_HOST_ID", id(number)),
            ("VENEER_FLEET_SITE", format!("site-{site}")),
            ("VENEER_FLEET_POLL", "1".into()),
            ("VENEER_FETCH_SOURCES", self.caches[site].url()),
            ("VENEER_FETCH_SOURCE_FALLBACK", "60".into()),
            ("VENEER_CATALOG_URL", "s3://bucket/catalog.json".into()),
            ("VENEER_CATALOG_KEYS", signed::path(self.bench, "catalog.pub")),
        ]);
        self.daemons[number] = Some(Daemon::start_command(host, command));
    }

    /// Signs the next document: this image to so many per cent, and `before`, if any, to the rest.
    fn publish(&mut self, image: &str, before: Option<&str>, salt: &str, percent: u64) {
        self.serial += 1;
        self.begun = Instant::now();
        let rollout = json!({"salt": salt, "percent": percent});
        let mut main = json!({"image": image, "rollout": rollout});
        if let Some(before) = before {
            main["before"] = before.into();
        }
        let document = json!({
            "version": 1, "serial": self.serial, "fleet": "prod",
            "images": {"main": main},
            "activations": {"web": {"image": "main", "on_change": "replace"}},
        });
        let bytes = serde_json::to_vec(&document).unwrap();
        signed::publish(self.bench, "fleet", "fleet/worker.json", &bytes);
    }

    /// Waits until all hosts have this document, and the image in this state that is due to each.
    fn have(&self, what: &str, due: impl Fn(usize) -> (&'static str, &'static str)) {
        let mut missing: Vec<usize> = (0..self.hosts.len()).collect();
        while !missing.is_empty() {
            missing.retain(|number| {
                let Some(daemon) = &self.daemons[*number] else { panic!("{number} is down") };
                let (image, state) = due(*number);
                let status = daemon.get("/v1/fleet");
                let (main, web) = (&status["images"][0], &status["activations"][0]);
                let is_due = status["serial"] == self.serial && main["image"] == image;
                let late = self.begun.elapsed() > PATIENCE;
                let host = &self.hosts[*number];
                assert!(!late, "{what}: {}: {status}\n{}", id(*number), log_of(host));
                let up = state == "failed" || web["state"] == "ready" && web["image"] == image;
                !(is_due && main["state"] == state && up)
            });
            thread::sleep(Duration::from_millis(50));
        }
        println!("| {what} | {:.1} |", self.begun.elapsed().as_secs_f64());
    }

    /// Whether each host has exactly these images: nothing goes that was not named, and nobody has what is not due.
    fn hold(&self, due: impl Fn(usize) -> Vec<&'static str>) {
        for (number, daemon) in self.daemons.iter().enumerate() {
            let all = daemon.as_ref().unwrap().get("/v1/images")["images"].clone();
            let all = all.as_array().unwrap().iter();
            let mut here: Vec<String> =
                all.map(|image| image["image"].as_str().unwrap().to_owned()).collect();
            let mut due: Vec<&str> = due(number);
            due.sort_unstable();
            here.sort_unstable();
            assert_eq!(here, due, "{}", id(number));
        }
    }

    fn is_up(&self, number: usize) -> bool {
        self.hosts[number].store().join("active/web").is_symlink()
    }

    /// Which hosts a roll-out has come to.
    fn inside(&self, salt: &str, percent: u64) -> Vec<bool> {
        let hosts = 0..self.hosts.len();
        hosts.map(|number| bucket(salt, &id(number)) < percent * 100).collect()
    }

    /// A salt by which these per cent are somebody and not everybody.
    fn salt(&self, name: &str, percent: u64) -> String {
        let some = |salt: &String| {
            let inside = self.inside(salt, percent).into_iter().filter(|inside| *inside).count();
            inside > 0 && inside <= self.hosts.len() / 2
        };
        (0..1000).map(|n| format!("{name}-{n}")).find(some).expect("a salt")
    }

    /// What the origin sent of the layers below this prefix, over what they have times the sites.
    fn sent(&self, prefix: &str, distinct: u64) -> f64 {
        let sent = self.front.bytes(&format!("/{prefix}/"));
        let times = sent as f64 / (distinct * self.caches.len() as u64) as f64;
        println!("| origin: {prefix} | {:.1} MB, {times:.2} x |", sent as f64 / 1e6);
        times
    }
}

/// A layer whose second header is broken.
fn garbled() -> Vec<u8> {
    let mut bytes = layer::stacked(9, FILES, BYTES);
    bytes[512 + BYTES.next_multiple_of(512) + 10] ^= 0xff;
    bytes
}

/// Images, and a signed catalog that lists the bad one as well: whoever signs has not tried it.
fn made() -> Bench {
    let images: [(&str, &[u8]); 3] =
        [("one", &[1, 2]), ("two", &[1, 2, 3]), ("three", &[1, 2, 3, 4])];
    let bench = Bench::new(&images, FILES, BYTES);
    signed::keys(&bench, "fleet");
    signed::keys(&bench, "catalog");
    let maker = bench.host("maker");
    for image in [ONE, TWO, THREE] {
        maker.ok(&["ensure", image]);
    }
    let mut catalog = maker.ok(&["catalog", "--make", "1"]);
    let bad = garbled();
    let digest: String = Sha256::digest(&bad).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut entry = catalog["images"]["two/"].clone();
    let layers = match entry.as_array_mut() {
        Some(layers) => layers,
        None => entry["layers"].as_array_mut().unwrap(),
    };
    for (pos, line) in layers.iter_mut().enumerate() {
        line["key"] = format!("bad/{}.tar", pos + 1).into();
        line.as_object_mut().unwrap().remove("etag");
    }
    layers[2]["sha256"] = format!("sha256:{digest}").into();
    layers[2]["size"] = bad.len().into();
    catalog["images"]["bad/"] = entry;
    for number in [1, 2] {
        bench.put(&format!("bad/{number}.tar"), &layer::stacked(number, FILES, BYTES));
    }
    bench.put("bad/3.tar", &bad);
    let bytes = serde_json::to_vec(&catalog).unwrap();
    signed::publish(&bench, "catalog", "catalog.json", &bytes);
    maker.wipe();
    bench
}

#[test]
fn daemons_at_several_sites_come_to_what_the_document_says_whatever_breaks() {
    let bench = made();
    let signed = Server::start(&bench::server(), &bench.path("s3"), Some(KEYS)).unwrap();
    let front = Front::start(signed.address, bench.server());
    front.width(number("VENEER_SITES_MBIT", 400));
    let of = |number: u8| layer::stacked(number, FILES, BYTES).len() as u64;
    let (sites, hosts) = (number("VENEER_SITES", 2), number("VENEER_SITES_HOSTS", 6));
    println!("| {hosts} daemons, {sites} sites | s |");
    let sites = usize::try_from(sites).unwrap();
    let mut all = Sites::new(&bench, &front, sites, usize::try_from(hosts).unwrap());

    all.publish(ONE, None, "one", 100);
    all.have("the first image", |_| (ONE, "ready"));
    assert_eq!(all.sent("one", of(1) + of(2)), 1.0);

    // Per cent by per cent; then a cache dies with an image on its way, and comes back.
    let salt = all.salt("two", 10);
    for percent in [10, 50, 100] {
        all.publish(TWO, Some(ONE), &salt, percent);
        let inside = all.inside(&salt, percent);
        let due = |number: usize| (if inside[number] { TWO } else { ONE }, "ready");
        all.have(&format!("the second to {percent} %"), due);
        all.hold(|number| if inside[number] { vec![ONE, TWO] } else { vec![ONE] });
    }
    assert_eq!(all.sent("two", of(3)), 1.0, "lower layers are here already");
    front.width(number("VENEER_SITES_MBIT", 400) / 40);
    all.publish(THREE, Some(TWO), "three", 100);
    while front.bytes("/three/") < of(4) / 4 {
        thread::sleep(Duration::from_millis(5));
    }
    all.caches[0].kill();
    thread::sleep(Duration::from_secs(2));
    all.caches[0].rise();
    // Half of the daemons die with it on its way, too.
    let half: Vec<usize> = (0..all.hosts.len()).step_by(2).collect();
    for number in &half {
        all.daemons[*number].take().unwrap().kill();
    }
    half.iter().for_each(|number| all.rises(*number));
    front.width(number("VENEER_SITES_MBIT", 400));
    all.have("the third, a cache killed, half of the daemons killed", |_| (THREE, "ready"));
    // A slice that was half here is fetched again.
    let times = all.sent("three", of(4));
    assert!((1.0..=1.0 + 4.2 / (of(4) as f64 / 1e6) / sites as f64).contains(&times), "{times}");
    all.hold(|_| vec![ONE, TWO, THREE]);

    // A bad image: named by those that it came to, and nobody else is touched.
    let salt = all.salt("bad", 10);
    all.publish(BAD, Some(THREE), &salt, 10);
    let inside = all.inside(&salt, 10);
    let due = |number: usize| if inside[number] { (BAD, "failed") } else { (THREE, "ready") };
    all.have("a bad image to 10 %", due);
    all.hold(|_| vec![ONE, TWO, THREE]);
    for number in (0..all.hosts.len()).filter(|number| inside[*number]) {
        let daemon = all.daemons[number].as_ref().unwrap();
        let status = daemon.get("/v1/fleet");
        let why = status["images"][0]["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("refused"), "{status}");
        assert!(all.is_up(number), "what ran before runs on");
        let runs = daemon.get("/v1/runs?status=all")["runs"].clone();
        let tries = runs.as_array().unwrap().iter().filter(|run| run["subject"] == BAD).count();
        assert_eq!(tries, 1, "{} tried it once", id(number));
    }

    // Its bytes are the right ones, so nobody looks for others: one fetch for each site that has one of them.
    let of_site = |site: usize| inside.iter().skip(site).step_by(sites).any(|inside| *inside);
    let due = (0..sites).filter(|site| of_site(*site)).count() as u64 * garbled().len() as u64;
    assert_eq!(front.bytes("/bad/3.tar"), due);

    // The origin is away, and every daemon starts anew.
    all.publish(THREE, None, "back", 100);
    all.have("back to the third", |_| (THREE, "ready"));
    front.is(Mood::Away);
    all.begun = Instant::now();
    for number in 0..all.hosts.len() {
        all.daemons[number].take().unwrap().stop();
        all.rises(number);
    }
    all.have("a restart without the origin", |_| (THREE, "ready"));
    assert!((0..all.hosts.len()).all(|number| all.is_up(number)));
    front.is(Mood::Well);
    all.hold(|_| vec![ONE, TWO, THREE]);
    // What a host asks the bucket itself: now and then for the document and the catalog, and for nothing that these say.
    let mut kinds: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for one in front.asked().iter().filter(|one| !one.by_cache) {
        let kind = match one.target.as_str() {
            target if target.ends_with(".tar") => "layers",
            target if target.contains("list-type") => "listings",
            target if target.contains("/catalog.json") => "catalog",
            _ => "document",
        };
        let count = kinds.entry(kind).or_default();
        *count = (count.0 + 1, count.1 + one.bytes);
    }
    println!("| asked by hosts themselves, requests and bytes: {kinds:?} | |");
    let around = ["layers", "listings"].map(|kind| kinds.contains_key(kind));
    assert_eq!(around, [false; 2], "no host went around its cache: {kinds:?}");
    for daemon in all.daemons.drain(..) {
        daemon.unwrap().stop();
    }
    all.hosts.iter().for_each(Host::check);
}
