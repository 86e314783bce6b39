//! A fleet of thousands of hosts in one process and no time: the product's own `converge` and the product's own memory
//! of dead sources, in a simulation by events. What is a model here are links, caches and disks: a cache fetches each
//! layer once over a line that it uses for one layer at a time, hosts share what it sends evenly, and unpacking has a
//! fixed rate. The same seed gives the same trace.
//!
//! `VENEER_FLEET_HOSTS` and `VENEER_FLEET_SEEDS` ask for more; `just soak-fleet` does.

#[path = "../../fetch/src/flow/breaker.rs"]
#[allow(dead_code)]
mod breaker;
mod clock {
    //! What the memory of dead sources needs of a clock: to be told from others. There is one here.

    #[derive(Default)]
    pub(crate) struct Clock(usize);

    impl Clock {
        pub(crate) fn id(&self) -> usize {
            self.0
        }
    }
}

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use breaker::Breaker;
use orchestrate::Class;
use orchestrate::fleet::converge::{
    Act, ActivationFact, Facts, Failure, ImageFact, Live, converge,
};
use orchestrate::fleet::document::Document;
use orchestrate::fleet::{Dice, Me, bucket, phase};
use sha2::{Digest as _, Sha256};

const MIB: f64 = 1_048_576.0;
const POLL: Duration = Duration::from_secs(30);
/// Bytes a second: the line of a site, what its cache sends, one host's card, unpacking.
const WAN: f64 = 1.25e9 / 8.0;
const CACHE: f64 = 25e9 / 8.0;
const CARD: f64 = 10e9 / 8.0;
const UNPACK: f64 = 120.0 * MIB;
/// `fetch.source_fallback`: at most so long is waited before a host goes to the origin.
const FALLBACK: f64 = 60.0;
/// A dead cache costs a time-out.
const TIMEOUT: f64 = 6.0;

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Poll(usize),
    Look(usize),
    Layer(usize, String, usize),
    Done(usize, Act2),
    CacheDies(usize),
    CacheBack(usize),
    Down(usize),
    Up(usize),
}

/// What comes to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act2 {
    Activated(String, String),
    Replaced(String),
    Removed(String),
}

struct Host {
    me: Me,
    site: usize,
    facts: Facts,
    document: Option<Rc<Document>>,
    layers: BTreeSet<String>,
    source: Breaker,
    up: bool,
    life: u32,
    ready: Option<Duration>,
    removals: Vec<Duration>,
    tries: u32,
}

#[derive(Default)]
struct Site {
    dead: bool,
    there: BTreeMap<String, Duration>,
    line_free: Duration,
    sending: u32,
}

struct World {
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, u32, Event)>>,
    number: u64,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    /// Layers of an image, with their bytes; the bad ones end with `!`.
    images: BTreeMap<String, Vec<(String, f64)>>,
    documents: Vec<(Duration, Rc<Document>)>,
    origin_bytes: f64,
    polls: BTreeMap<u64, u64>,
    trace: Sha256,
    seed: u64,
}

impl World {
    fn new(hosts: usize, sites: usize, seed: u64) -> World {
        let host = |n: usize| Host {
            me: Me {
                fleet: "f".into(),
                host: format!("host-{seed}-{n}"),
                site: Some(format!("site-{}", n % sites)),
                ..Me::default()
            },
            site: n % sites,
            facts: Facts { used: 10, ..Facts::default() },
            document: None,
            layers: BTreeSet::new(),
            source: Breaker::default(),
            up: true,
            life: 0,
            ready: None,
            removals: Vec::new(),
            tries: 0,
        };
        let mut world = World {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            hosts: (0..hosts).map(host).collect(),
            sites: (0..sites).map(|_| Site::default()).collect(),
            images: BTreeMap::new(),
            documents: Vec::new(),
            origin_bytes: 0.0,
            polls: BTreeMap::new(),
            trace: Sha256::new(),
            seed,
        };
        for n in 0..hosts {
            world.put(phase(&world.hosts[n].me.host, POLL), Event::Poll(n));
        }
        // Two families of five layers that share the lowest two, as 865 MB of them.
        let family = |name: &str| -> Vec<(String, f64)> {
            let sizes = [300.0, 200.0, 200.0, 150.0, 15.0];
            let of = |(n, size): (usize, &f64)| match n {
                0 | 1 => (format!("base-{n}"), size * 1e6),
                n => (format!("{name}-{n}"), size * 1e6),
            };
            sizes.iter().enumerate().map(of).collect()
        };
        for name in ["one", "two", "three"] {
            world.images.insert(image(name), family(name));
        }
        let mut bad = family("bad");
        bad[4].0.push('!');
        world.images.insert(image("bad"), bad);
        world
    }

    fn dice(&self) -> Dice {
        Dice(self.seed)
    }

    fn put(&mut self, when: Duration, event: Event) {
        self.number += 1;
        let life = match &event {
            Event::Poll(n) | Event::Look(n) | Event::Layer(n, ..) | Event::Done(n, _) => {
                self.hosts[*n].life
            }
            Event::CacheDies(_) | Event::CacheBack(_) | Event::Down(_) | Event::Up(_) => 0,
        };
        self.queue.push(Reverse((when, self.number, life, event)));
    }

    fn publish(&mut self, seconds: f64, serial: u64, more: &str) {
        let text = format!(r#"{{"version": 1, "serial": {serial}, "fleet": "f"{more}}}"#);
        let document = Document::parse(text.as_bytes()).unwrap_or_else(|why| panic!("{why}"));
        self.documents.push((at(seconds), Rc::new(document)));
    }

    fn run(&mut self, until: f64) {
        while let Some(Reverse((when, ..))) = self.queue.peek()
            && *when <= at(until)
        {
            let Some(Reverse((when, _, life, event))) = self.queue.pop() else { return };
            assert!(when >= self.now, "time goes forward");
            self.now = when;
            self.trace.update(format!("{when:?} {event:?}\n"));
            self.happens(life, event);
        }
        self.now = at(until);
    }

    fn happens(&mut self, life: u32, event: Event) {
        match event {
            // What a host was at when its power went is begun anew by what is kept.
            Event::Poll(n) | Event::Look(n) | Event::Layer(n, ..) | Event::Done(n, _)
                if !self.hosts[n].up || self.hosts[n].life != life => {}
            Event::Poll(n) => self.poll(n),
            Event::Look(n) => self.look(n),
            Event::Layer(n, image, position) => self.layer(n, &image, position),
            Event::Done(n, what) => self.done(n, what),
            Event::CacheDies(site) => self.sites[site].dead = true,
            Event::CacheBack(site) => self.sites[site].dead = false,
            Event::Down(n) => {
                let host = &mut self.hosts[n];
                (host.up, host.life) = (false, host.life + 1);
                let coming =
                    host.facts.live.iter().filter(|run| run.image.as_ref() == Some(&run.subject));
                let coming = u32::try_from(coming.count()).unwrap_or(0);
                let sending = &mut self.sites[host.site].sending;
                *sending = sending.saturating_sub(coming);
            }
            Event::Up(n) => {
                let next = self.now + phase(&self.hosts[n].me.host, POLL);
                let host = &mut self.hosts[n];
                (host.up, host.life) = (true, host.life + 1);
                host.facts.live.clear();
                (host.facts.since, host.facts.lost) = (next, self.now);
                self.put(next, Event::Poll(n));
            }
        }
    }

    fn poll(&mut self, n: usize) {
        *self.polls.entry(self.now.as_secs()).or_default() += 1;
        let newest = self.documents.iter().rev().find(|(when, _)| *when <= self.now);
        if let Some((_, document)) = newest.cloned() {
            let host = &mut self.hosts[n];
            let other = host.document.as_ref().is_none_or(|own| own.serial != document.serial);
            if other {
                host.document = Some(document);
                host.facts.since = self.now;
            }
            self.look(n);
        }
        self.put(self.now + POLL, Event::Poll(n));
    }

    fn look(&mut self, n: usize) {
        let (now, dice) = (self.now, self.dice());
        let host = &mut self.hosts[n];
        let Some(document) = host.document.clone() else { return };
        let acts = converge(&document, &host.facts, &host.me, now, dice);
        for act in acts {
            let live = |subject: &str, image: Option<&str>, takes_away| Live {
                subject: subject.into(),
                image: image.map(str::to_owned),
                document: true,
                takes_away,
            };
            match act {
                Act::Ensure { image } => {
                    assert!(document.names(&image), "{image}");
                    self.hosts[n].facts.live.push(live(&image, Some(&image), false));
                    self.hosts[n].tries += 1;
                    self.layer(n, &image, 0);
                }
                Act::Activate { name, image } => {
                    self.hosts[n].facts.live.push(live(&name, Some(&image), false));
                    self.put(now + at(0.05), Event::Done(n, Act2::Activated(name, image)));
                }
                Act::Replace { name } => {
                    self.hosts[n].facts.live.push(live(&name, None, true));
                    self.put(now + at(0.05), Event::Done(n, Act2::Replaced(name)));
                }
                Act::Remove { image } => {
                    assert!(document.remove.contains(&image), "{image} was not named");
                    self.hosts[n].facts.live.push(live(&image, None, true));
                    self.hosts[n].facts.lost = now;
                    self.hosts[n].removals.push(now);
                    self.put(now + at(0.5), Event::Done(n, Act2::Removed(image)));
                }
                Act::Wait { until } => self.put(until, Event::Look(n)),
            }
        }
    }

    /// The layers of an image from this one on: the next that is missing is fetched, over the cache or not.
    fn layer(&mut self, n: usize, name: &str, position: usize) {
        let now = self.now;
        let layers = self.images[name].clone();
        if let Some((done, _)) = position.checked_sub(1).map(|before| layers[before].clone()) {
            let site = self.hosts[n].site;
            self.sites[site].sending = self.sites[site].sending.saturating_sub(1);
            if done.ends_with('!') {
                return self.failed(n, name);
            }
            assert!(self.hosts[n].layers.insert(done), "a host reads a layer once");
        }
        let missing = layers.iter().enumerate().skip(position);
        let missing = missing.clone().find(|(_, (layer, _))| !self.hosts[n].layers.contains(layer));
        let Some((next, (layer, bytes))) = missing else { return self.is_here(n, name) };
        let come = self.fetched(n, layer, *bytes);
        self.put(now.max(come) + at(bytes / UNPACK), Event::Layer(n, name.into(), next + 1));
    }

    /// When the bytes of a layer have come.
    fn fetched(&mut self, n: usize, layer: &str, bytes: f64) -> Duration {
        let (now, dice) = (self.now, self.dice());
        let host = &self.hosts[n];
        let site = &mut self.sites[host.site];
        site.sending += 1;
        let admitted = host.source.admits(now);
        if admitted && !site.dead {
            host.source.went_well();
            let free = site.line_free.max(now);
            let there = *site.there.entry(layer.to_owned()).or_insert_with(|| {
                self.origin_bytes += bytes;
                site.line_free = free + at(bytes / WAN);
                site.line_free
            });
            let rate = CARD.min(CACHE / f64::from(site.sending.max(1)));
            return there.max(now) + at(bytes / rate);
        }
        let mut wait = 0.0;
        if admitted {
            host.source.failed(now, false, bucket(layer, &host.me.host));
            wait = TIMEOUT + FALLBACK * dice.share(&[&host.me.host, layer, "fallback"]);
        }
        self.origin_bytes += bytes;
        // The line of the site is shared by those who go around its cache, one after the other.
        site.line_free = site.line_free.max(now + at(wait)) + at(bytes / WAN);
        site.line_free
    }

    fn failed(&mut self, n: usize, name: &str) {
        let (now, host) = (self.now, &mut self.hosts[n]);
        host.facts.live.retain(|run| run.subject != name);
        let serial = host.document.as_ref().map(|document| document.serial);
        let failure = Failure { serial, class: Class::Refused, tries: 1, at: now };
        host.facts.failures.insert(name.into(), failure);
        self.look(n);
    }

    fn is_here(&mut self, n: usize, name: &str) {
        let (now, host) = (self.now, &mut self.hosts[n]);
        host.facts.live.retain(|run| run.subject != name);
        let fact = ImageFact { document: true, ..ImageFact::default() };
        assert!(host.facts.images.insert(name.into(), fact).is_none(), "{name} twice");
        host.ready = Some(now);
        self.look(n);
    }

    fn done(&mut self, n: usize, what: Act2) {
        let host = &mut self.hosts[n];
        let subject = match what {
            Act2::Activated(name, image) => {
                let row = ActivationFact { image, up: true, ..ActivationFact::default() };
                host.facts.activations.insert(name.clone(), row);
                name
            }
            Act2::Replaced(name) => {
                host.facts.activations.remove(&name);
                name
            }
            Act2::Removed(image) => {
                host.facts.images.remove(&image);
                image
            }
        };
        host.facts.live.retain(|run| run.subject != subject);
        self.look(n);
    }

    fn has(&self, name: &str) -> usize {
        let image = image(name);
        self.hosts.iter().filter(|host| host.facts.images.contains_key(&image)).count()
    }

    /// Bytes of the distinct layers of these images, at each site once.
    fn distinct(&self, names: &[&str]) -> f64 {
        let layers = names.iter().flat_map(|name| self.images[&image(name)].clone());
        let distinct: BTreeMap<String, f64> = layers.collect();
        distinct.values().sum::<f64>() * self.sites.len() as f64
    }

    /// One line of the table in docs/fleet.md.
    fn told(&self, what: &str, distinct: f64) {
        let mut ready: Vec<f64> =
            self.hosts.iter().filter_map(|host| Some(host.ready?.as_secs_f64())).collect();
        ready.sort_by(f64::total_cmp);
        let of = |per_cent: usize| {
            let place = ready.len() * per_cent / 100;
            ready.get(place.min(ready.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        println!(
            "| {what} | {:.2} ({:.2} x) | {:.0} / {:.0} / {:.0} | {} |",
            self.origin_bytes / 1e9,
            self.origin_bytes / distinct.max(1.0),
            of(50),
            of(99),
            of(100),
            self.polls.values().max().copied().unwrap_or(0),
        );
    }

    /// Polls of a second are a small multiple of their mean: no herd.
    fn no_herd(&self) {
        let most = self.polls.values().max().copied().unwrap_or(0) as f64;
        let mean = self.hosts.len() as f64 / POLL.as_secs_f64();
        assert!(most <= mean * 1.6 + 15.0, "{most} questions in one second, {mean} on average");
    }
}

fn image(name: &str) -> String {
    format!("s3://bkt/{name}/")
}

fn wants(name: &str, more: &str) -> String {
    format!(r#", "images": {{"main": {{"image": "s3://bkt/{name}/"{more}}}}}"#)
}

const WEB: &str = r#", "activations": {"web": {"image": "main", "on_change": "replace"}}"#;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Each scenario with each seed, twice: the same seed gives the same trace.
fn each(what: &str, scenario: impl Fn(&mut World) -> f64) {
    let hosts = number("VENEER_FLEET_HOSTS", 400);
    for seed in 1..=number("VENEER_FLEET_SEEDS", 1) as u64 {
        let traces = [1, 2].map(|round| {
            let mut world = World::new(hosts, (hosts / 200).max(4), seed);
            let distinct = scenario(&mut world);
            world.no_herd();
            if (seed, round) == (1, 1) {
                world.told(what, distinct);
            }
            world.trace.finalize()
        });
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

#[test]
fn every_site_fetches_each_layer_once() {
    each("caches", |world| {
        world.publish(0.0, 1, &(wants("one", "") + WEB));
        world.run(600.0);
        assert_eq!(world.has("one"), world.hosts.len());
        assert!(world.hosts.iter().all(|host| host.facts.activations["web"].up && host.tries == 1));
        let distinct = world.distinct(&["one"]);
        assert!((world.origin_bytes - distinct).abs() < 1.0, "{} {distinct}", world.origin_bytes);
        distinct
    });
}

#[test]
fn a_cache_that_dies_costs_its_site_and_no_other() {
    for (what, back) in [("a cache dies for a minute", Some(85.0)), ("a cache dies for ever", None)]
    {
        each(what, |world| {
            world.publish(0.0, 1, &wants("one", ""));
            world.put(at(25.0), Event::CacheDies(0));
            if let Some(back) = back {
                world.put(at(back), Event::CacheBack(0));
            }
            world.run(7200.0);
            assert_eq!(world.has("one"), world.hosts.len());
            let distinct = world.distinct(&["one"]);
            let one = distinct / world.sites.len() as f64;
            let there = world.hosts.iter().filter(|host| host.site == 0).count() as f64;
            assert!(
                world.origin_bytes <= distinct + one * there,
                "{}",
                world.origin_bytes / distinct
            );
            distinct
        });
    }
}

#[test]
fn a_roll_out_comes_to_its_part_of_the_hosts_and_no_other() {
    each("1, 10, 50, 100 %, each 5 min", |world| {
        world.publish(0.0, 1, &(wants("one", "") + WEB));
        let stages = [(600.0, 1), (900.0, 10), (1200.0, 50), (1500.0, 100)];
        for (n, (when, percent)) in stages.into_iter().enumerate() {
            let more = format!(
                r#", "before": "s3://bkt/one/", "rollout": {{"salt": "two", "percent": {percent}}}"#
            );
            world.publish(when, n as u64 + 2, &(wants("two", &more) + WEB));
        }
        for (when, percent) in stages {
            world.run(when + 290.0);
            let part = |host: &&Host| bucket("two", &host.me.host) < percent * 100;
            assert_eq!(world.has("two"), world.hosts.iter().filter(part).count(), "{percent} %");
            for host in &world.hosts {
                let due = if part(&host) { image("two") } else { image("one") };
                assert_eq!(host.facts.activations["web"].image, due, "{percent} %");
                assert!(host.facts.images.contains_key(&image("one")), "nobody asked to remove it");
            }
        }
        let distinct = world.distinct(&["one", "two"]);
        assert!((world.origin_bytes - distinct).abs() < 1.0);
        distinct
    });
}

#[test]
fn a_bad_image_at_one_per_cent_touches_nobody_else() {
    each("a bad image at 1 %", |world| {
        world.publish(0.0, 1, &(wants("one", "") + WEB));
        let more = r#", "before": "s3://bkt/one/", "rollout": {"salt": "bad", "percent": 1}"#;
        world.publish(600.0, 2, &(wants("bad", more) + WEB));
        world.run(4000.0);
        for host in &world.hosts {
            let inside = bucket("bad", &host.me.host) < 100;
            assert_eq!(host.tries, if inside { 2 } else { 1 }, "tried once, and by nobody else");
            assert_eq!(host.facts.activations["web"].image, image("one"));
        }
        world.distinct(&["one", "bad"])
    });
}

#[test]
fn a_document_that_names_nothing_does_nothing() {
    each("a document that names nothing", |world| {
        world.publish(0.0, 1, &(wants("one", "") + WEB));
        world.publish(600.0, 2, "");
        world.run(20_000.0);
        assert_eq!(world.has("one"), world.hosts.len());
        assert!(world.hosts.iter().all(|host| host.facts.activations["web"].up));
        world.distinct(&["one"])
    });
}

#[test]
fn after_a_black_out_everybody_comes_back_and_not_at_once() {
    each("black-out at 30 s, return at 300 s", |world| {
        world.publish(0.0, 1, &(wants("one", "") + WEB));
        for n in 0..world.hosts.len() {
            world.put(at(30.0), Event::Down(n));
            world.put(at(300.0), Event::Up(n));
        }
        world.run(1200.0);
        assert_eq!(world.has("one"), world.hosts.len());
        let distinct = world.distinct(&["one"]);
        assert!((world.origin_bytes - distinct).abs() < 1.0, "what a cache has it keeps");
        distinct
    });
}

#[test]
fn removals_take_an_hour_each() {
    each("three images are removed", |world| {
        for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
            world.publish(n as f64 * 600.0, n as u64 + 1, &wants(name, ""));
        }
        let all = r#", "remove": ["s3://bkt/one/", "s3://bkt/two/", "s3://bkt/three/"]"#;
        world.publish(1800.0, 9, all);
        world.run(4.0 * 3600.0);
        for host in &world.hosts {
            assert_eq!((host.facts.images.len(), host.removals.len()), (0, 3));
            let apart = host.removals.windows(2).map(|two| two[1] - two[0]);
            assert!(apart.min().unwrap() >= Duration::from_secs(3600));
            assert!(host.removals[0] >= Duration::from_secs(3600), "a start counts as one");
        }
        world.distinct(&["one", "two", "three"])
    });
}
