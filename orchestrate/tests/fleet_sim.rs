//! A fleet of thousands of hosts in one process and no time: the product's own `converge`, the product's own memory
//! of dead sources and its own pauses between tries, in a simulation by events. What is a model here are links, caches
//! and disks: a cache fetches each layer once over a line that it uses for one layer at a time, hosts share what it
//! sends evenly, and unpacking has a fixed rate. The same seed gives the same trace.
//!
//! `VENEER_FLEET_HOSTS` and `VENEER_FLEET_SEEDS` ask for more; `just soak-fleet` does. `VENEER_FLEET_PLOT` names a file
//! for the plot of docs/fleet.md.

#[path = "../../fetch/src/http/backoff.rs"]
mod backoff;
#[path = "../../fetch/src/flow/breaker.rs"]
#[allow(dead_code)]
mod breaker;
#[path = "../../fetch/src/flow/leave.rs"]
mod leave;
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

#[path = "fleet_sim/plot.rs"]
mod plot;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use backoff::backoff;
use breaker::{Breaker, Last};
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
/// `fetch.source_fallback`: at least so long is waited before a host goes to the origin, and at most twice that.
const FALLBACK: f64 = 60.0;
/// What a busy origin asks for in Retry-After.
const RETRY_AFTER: f64 = 1.0;
/// `fetch.patience`: so long a host waits for one that is busy.
const PATIENCE: f64 = 120.0;
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
    /// This layer of the image is asked for once more.
    Ask(usize, String, usize),
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
    /// Since when nobody can be asked for the layer that is wanted now.
    away: Option<Duration>,
    /// Since when the origin has been busy for that layer, and the tries.
    busy: Option<(Duration, u32)>,
    /// Whether its cache is sending it something.
    receives: bool,
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
    /// From when to when the origin says SlowDown.
    busy: (Duration, Duration),
    /// How often it said so, in each second.
    slowed: BTreeMap<u64, u64>,
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
            away: None,
            busy: None,
            receives: false,
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
            busy: (Duration::ZERO, Duration::ZERO),
            slowed: BTreeMap::new(),
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
            Event::Poll(n)
            | Event::Look(n)
            | Event::Layer(n, ..)
            | Event::Ask(n, ..)
            | Event::Done(n, _) => self.hosts[*n].life,
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
            Event::Poll(n)
            | Event::Look(n)
            | Event::Layer(n, ..)
            | Event::Ask(n, ..)
            | Event::Done(n, _)
                if !self.hosts[n].up || self.hosts[n].life != life => {}
            Event::Poll(n) => self.poll(n),
            Event::Look(n) => self.look(n),
            Event::Layer(n, image, position) => self.layer(n, &image, position),
            Event::Ask(n, image, position) => self.ask(n, &image, position),
            Event::Done(n, what) => self.done(n, what),
            Event::CacheDies(site) => self.sites[site].dead = true,
            Event::CacheBack(site) => self.sites[site].dead = false,
            Event::Down(n) => {
                let host = &mut self.hosts[n];
                (host.up, host.life) = (false, host.life + 1);
                (host.away, host.busy) = (None, None);
                if std::mem::take(&mut host.receives) {
                    self.sites[host.site].sending -= 1;
                }
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
        let layers = self.images[name].clone();
        if let Some((done, _)) = position.checked_sub(1).map(|before| layers[before].clone()) {
            let host = &mut self.hosts[n];
            if std::mem::take(&mut host.receives) {
                self.sites[host.site].sending -= 1;
            }
            if done.ends_with('!') {
                return self.failed(n, name);
            }
            assert!(self.hosts[n].layers.insert(done), "a host reads a layer once");
        }
        let missing = layers.iter().enumerate().skip(position);
        let missing = missing.clone().find(|(_, (layer, _))| !self.hosts[n].layers.contains(layer));
        let Some((next, _)) = missing else { return self.is_here(n, name) };
        self.ask(n, name, next);
    }

    fn ask(&mut self, n: usize, name: &str, position: usize) {
        let (layer, bytes) = self.images[name][position].clone();
        match self.fetched(n, &layer, bytes) {
            Ok(come) => {
                let host = &mut self.hosts[n];
                (host.away, host.busy) = (None, None);
                let done = self.now.max(come) + at(bytes / UNPACK);
                self.put(done, Event::Layer(n, name.into(), position + 1));
            }
            Err(again) => {
                let again = again.max(self.now + Duration::from_millis(1));
                self.put(again, Event::Ask(n, name.into(), position));
            }
        }
    }

    /// When the bytes of a layer have come, or when they are asked for again.
    fn fetched(&mut self, n: usize, layer: &str, bytes: f64) -> Result<Duration, Duration> {
        let (now, dice) = (self.now, self.dice());
        let host = &mut self.hosts[n];
        let site = &mut self.sites[host.site];
        let fallback = at(FALLBACK);
        let draws = format!("{:?} {layer} {now:?}", dice);
        let mut draw = 0;
        let mut roll = || {
            draw += 1;
            bucket(&draws, &format!("{} {draw}", host.me.host))
        };
        // As `fetch` does: what is away is waited for, and looked at once more before it is left.
        let leave_at = |source: &Breaker, away: Duration, roll: &mut dyn FnMut() -> u64| {
            source.leave_at(away, || leave::wait(fallback, roll))
        };
        let mut admitted = host.source.admits(now);
        if !admitted {
            let away = *host.away.get_or_insert(now);
            let due = leave_at(&host.source, now, &mut roll).min(away + fallback * 2);
            admitted = due <= now && host.source.last(now) == Last::Look;
        }
        let number = bucket(layer, &format!("{} {}", host.me.host, now.as_nanos()));
        let (from, until) = self.busy;
        if admitted && !site.dead {
            host.source.went_well();
            if !site.there.contains_key(layer) {
                let free = site.line_free.max(now);
                if (from..until).contains(&now) {
                    *self.slowed.entry(now.as_secs()).or_default() += 1;
                    let (since, tries) = host.busy.unwrap_or((now, 0));
                    assert!(
                        now - since < at(PATIENCE),
                        "it is waited for as long as patience goes"
                    );
                    let pause = at(RETRY_AFTER) + backoff(tries + 1, number);
                    host.busy = Some((since, tries + 1));
                    return Err(now + pause);
                }
                let mut come = free + at(bytes / WAN);
                if free < until && come > from {
                    // What had not come before comes when it is over, and a pause later.
                    come += until - free.max(from) + backoff(40, number);
                }
                self.origin_bytes += bytes;
                site.line_free = come;
                site.there.insert(layer.to_owned(), come);
            }
            site.sending += 1;
            host.receives = true;
            let rate = CARD.min(CACHE / f64::from(site.sending));
            return Ok(site.there[layer].max(now) + at(bytes / rate));
        }
        // A dead one costs its time-out, and is remembered; it is waited for before the origin is asked.
        let known = if admitted { now + at(TIMEOUT) } else { now };
        let pause = match admitted {
            true => host.source.failed(known, true, bucket(layer, &host.me.host)),
            false => Some(host.source.pause(now)),
        };
        let away = *host.away.get_or_insert(known);
        let due = leave_at(&host.source, known, &mut roll).min(away + fallback * 2);
        if due > now || admitted {
            return Err(due.max(known).min(known + pause.unwrap_or_default()));
        }
        self.origin_bytes += bytes;
        // The line of the site is shared by those who go around its cache, one after the other.
        site.line_free = site.line_free.max(now) + at(bytes / WAN);
        Ok(site.line_free)
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
        plot::add(what, &ready);
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
    each("caches live", |world| {
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
    for (what, back) in [
        ("one cache is away for 20 s", Some(45.0)),
        ("one cache is away for a minute", Some(85.0)),
        ("one cache is away for a minute and a half", Some(115.0)),
        ("one cache dies for ever", None),
    ] {
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
            // Nobody goes to the origin for one that is back within the time to wait for it, few soon after that, and
            // each host of the site where it never comes back: then nobody has what the others have.
            let most = match back {
                Some(back) if back <= 25.0 + FALLBACK => 1.0,
                Some(_) => one * there / 4.0,
                None => one * there,
            };
            let times = world.origin_bytes / distinct;
            assert!(world.origin_bytes <= distinct + most, "{what}: {times}");
            distinct
        });
    }
}

#[test]
fn a_busy_origin_is_waited_for_and_asked_with_pauses() {
    each("origin says SlowDown for a minute", |world| {
        world.publish(0.0, 1, &wants("one", ""));
        world.busy = (at(10.0), at(70.0));
        world.run(1200.0);
        assert_eq!(world.has("one"), world.hosts.len());
        let distinct = world.distinct(&["one"]);
        assert!((world.origin_bytes - distinct).abs() < 1.0, "nobody goes around a busy origin");
        // Each host asks at most once in Retry-After.
        let most = world.slowed.values().max().copied().unwrap_or(0);
        assert!(most <= world.hosts.len() as u64, "{most} in a second");
        distinct
    });
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
