//! The cache that is shipped, as many hosts at once use it: what the origin sends of an object whatever becomes of the
//! cache meanwhile, and that everybody has the object in the end.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tests::programs::program;
use tests::s3::{KEYS, Server};

use crate::bench::{self, Bench};
use crate::front::{Asked, Front, Mood};
use crate::layout::{Family, Image, Layout, Packing};
use crate::nginx::Cache;
use crate::number;
use crate::space::{Net, again};

/// fetch asks for parts of so many bytes, and the cache keeps so many in an entry.
const SLICE: u64 = 2 << 20;

/// A bucket behind a front, the cache of a site, and the programs of its hosts.
struct Lab {
    // The cache before what it lies in.
    cache: Cache,
    front: Front,
    bench: Bench,
    _signed: Server,
    /// Where its hosts are, if not all on the loopback.
    net: Option<Net>,
    hosts: u64,
    size: u64,
}

impl Lab {
    fn new() -> Lab {
        Lab::of(None)
    }

    /// Each host in a namespace of its own, behind one line.
    fn apart() -> Lab {
        let net = Net::new(number("VENEER_CACHE_HOSTS", 8), number("VENEER_CACHE_MBIT", 400));
        Lab::of(Some(net))
    }

    fn of(net: Option<Net>) -> Lab {
        let bench = Bench::new(&[], 1, 1);
        let signed = Server::start(&bench::server(), &bench.path("s3"), Some(KEYS)).unwrap();
        let at = if net.is_some() { Net::ORIGIN } else { Ipv4Addr::LOCALHOST };
        let front = Front::start_at(at, signed.address, bench.server());
        if net.is_none() {
            front.width(number("VENEER_CACHE_MBIT", 400));
        }
        let space = net.as_ref().map(|net| (Net::CACHE, net.site.pid()));
        let cache = Cache::start_for(&bench.path("cache"), &front, &front, space);
        let (hosts, size) = (number("VENEER_CACHE_HOSTS", 8), number("VENEER_CACHE_MB", 32));
        Lab { cache, front, bench, _signed: signed, net, hosts, size: size * 1_000_000 }
    }

    /// An object of the lab's size that is like no other; gives its digest.
    fn object(&self, key: &str) -> String {
        let mut seed = u64::from_le_bytes(Sha256::digest(key)[..8].try_into().unwrap()) | 1;
        let words = (0..self.size / 8).flat_map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        });
        let bytes: Vec<u8> = words.collect();
        self.bench.put(key, &bytes);
        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Begins to fetch it, on all hosts at once.
    fn begin(&self, key: &str, digest: &str, more: &[&str]) -> Hosts {
        let fetch = program("fetch");
        let dir = self.bench.path(&format!("out-{key}"));
        fs::create_dir_all(&dir).unwrap();
        let start = |number: u64| {
            let log = fs::File::create(dir.join(format!("{number}.log"))).unwrap();
            let host =
                self.net.as_ref().and_then(|net| net.hosts.get(usize::try_from(number).ok()?));
            let command = host.map_or_else(|| Command::new(&fetch), |host| host.command(&fetch));
            let mut command = command;
            command
                .args([&format!("s3://bucket/{key}"), "--digest", &format!("sha256:{digest}")])
                .args(["--anonymous", "--endpoint", &format!("http://{}", self.front.plain)])
                .args(["--source", &self.cache.url(), "--source-fallback", "60", "-v"])
                .args(["--patience", "60"])
                .args(more)
                .arg("-o")
                .arg(dir.join(number.to_string()))
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let begun = Instant::now();
        let children = (0..self.hosts).map(start).collect();
        Hosts { dir, size: self.size, begun, children }
    }

    /// Waits until the origin has sent so many per cent of it.
    fn comes_to(&self, key: &str, per_cent: u64) {
        let begun = Instant::now();
        while self.front.bytes(key) < self.size * per_cent / 100 {
            assert!(begun.elapsed() < Duration::from_secs(120), "nothing comes");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A line of the table in docs/fleet.md; gives the bytes of the origin.
    fn told(&self, what: &str, key: &str, times: &[f64]) -> u64 {
        let sent = self.front.bytes(key);
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        println!(
            "| {what} | {:.2} x | {} | {:.1} / {:.1} |",
            sent as f64 / self.size as f64,
            self.front.asked().iter().filter(|one| one.target.contains(key)).count(),
            times[times.len() / 2],
            times.last().unwrap(),
        );
        sent
    }

    /// Once, and no more than was on its way when something went wrong: 10 % of an object of 100 MB and more.
    fn about_once(&self, sent: u64) {
        let most = self.size + (self.size / 10).max(5 * SLICE);
        assert!(sent >= self.size && sent <= most, "{sent} of {}", self.size);
    }
}

/// Programs on their way.
struct Hosts {
    dir: std::path::PathBuf,
    size: u64,
    begun: Instant,
    children: Vec<Child>,
}

impl Hosts {
    /// Everybody has it; gives the seconds that it took each.
    fn end(self) -> Vec<f64> {
        let Hosts { dir, size, begun, children } = self;
        let wait = |(number, mut child): (usize, Child)| {
            let log = dir.join(format!("{number}.log"));
            thread::spawn(move || {
                let status = child.wait().unwrap();
                let said = fs::read_to_string(log).unwrap_or_default();
                assert!(status.success(), "{status}: {said}");
                begun.elapsed().as_secs_f64()
            })
        };
        let waits: Vec<_> = children.into_iter().enumerate().map(wait).collect();
        let times: Vec<f64> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
        for number in 0..times.len() {
            // The program has compared the digest.
            assert_eq!(fs::metadata(dir.join(number.to_string())).unwrap().len(), size);
        }
        fs::remove_dir_all(dir).unwrap();
        times
    }
}

/// One request of whoever can reach the cache: status, and body.
fn ask(cache: &Cache, target: &str, headers: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(cache.address).unwrap();
    let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer[at..].to_vec())
}

#[test]
fn many_hosts_cost_the_origin_one_whatever_becomes_of_the_cache() {
    whatever_becomes_of_the_cache(Lab::new());
}

#[test]
#[ignore = "needs ip and tc, and a kernel with veth and tbf: just soak-cache"]
fn hosts_in_namespaces_of_their_own_cost_the_origin_one() {
    if !again("cache::hosts_in_namespaces_of_their_own_cost_the_origin_one") {
        whatever_becomes_of_the_cache(Lab::apart());
    }
}

fn whatever_becomes_of_the_cache(mut lab: Lab) {
    println!(
        "| {} hosts, {} MB, {} Mbit | origin | requests | p50 / max, s |",
        lab.hosts,
        lab.size / 1_000_000,
        number("VENEER_CACHE_MBIT", 400)
    );

    let digest = lab.object("cold");
    let times = lab.begin("cold", &digest, &[]).end();
    let sent = lab.told("cold", "cold", &times);
    assert_eq!(sent, lab.size, "each byte once");
    let all = lab.front.asked();
    assert!(all.iter().all(|one| one.by_cache), "nobody else came to the origin");

    lab.front.forget();
    let times = lab.begin("cold", &digest, &[]).end();
    assert_eq!(lab.told("warm", "cold", &times), 0);

    lab.cache.rots("/bucket/cold");
    let times = lab.begin("cold", &digest, &[]).end();
    let sent = lab.told("warm, a bit of it rotten", "cold", &times);
    lab.about_once(sent);
    lab.front.forget();
    let times = lab.begin("cold", &digest, &[]).end();
    assert_eq!(lab.told("the same again", "cold", &times), 0, "what was fetched again is kept");

    let digest = lab.object("busy");
    let hosts = lab.begin("busy", &digest, &[]);
    lab.comes_to("busy", 20);
    lab.front.is(Mood::Busy(Some(1)));
    let fault = number("VENEER_CACHE_FAULT", 3);
    thread::sleep(Duration::from_secs(fault));
    lab.front.is(Mood::Well);
    let what = format!("origin says SlowDown for {fault} s");
    let sent = lab.told(&what, "busy", &hosts.end());
    lab.about_once(sent);

    let digest = lab.object("killed");
    let hosts = lab.begin("killed", &digest, &[]);
    lab.comes_to("killed", 30);
    lab.cache.kill();
    thread::sleep(Duration::from_secs(fault));
    lab.cache.rise();
    let what = format!("cache killed, started again after {fault} s");
    let sent = lab.told(&what, "killed", &hosts.end());
    lab.about_once(sent);
    let by_cache = |one: &Asked| one.by_cache || !one.target.contains("killed");
    assert!(lab.front.asked().iter().all(by_cache), "nobody goes around it within a minute");

    let digest = lab.object("hung");
    let stall = number("VENEER_CACHE_STALL", 1);
    let seconds = stall.to_string();
    let hosts = lab.begin(
        "hung",
        &digest,
        &["--stall-timeout", &seconds, "--first-byte-timeout", &seconds],
    );
    lab.comes_to("hung", 30);
    lab.cache.hangs();
    thread::sleep(Duration::from_secs(stall * 2));
    lab.cache.goes_on();
    let sent = lab.told("cache hung for twice the time-out", "hung", &hosts.end());
    lab.about_once(sent);
}

#[test]
fn whatever_of_an_image_has_rotted_costs_the_origin_that_once_for_a_site() {
    let lab = Lab::new();
    let mut layout = Layout::default();
    let manifest = layout.image(&Image::of(&[5, 6]), Packing::Gzip, Family::Oci);
    let index = layout.index(&[manifest], Family::Oci);
    layout.tag(index, "v1");
    layout.put(&lab.bench, "app");
    // Gives what the origin was asked for but the index of all, which has no digest: by the cache, and bytes.
    let ensure = |name: &str| {
        lab.front.forget();
        let host = lab.bench.host(name);
        let mut command = host.command_at(lab.front.plain, &["ensure", "oci:s3://bucket/app/:v1"]);
        command.env("VENEER_FETCH_SOURCES", lab.cache.url());
        let done = command.env("VENEER_FETCH_SOURCE_FALLBACK", "60").output().unwrap();
        assert!(done.status.success(), "{name}: {done:?}");
        host.check();
        let mut asked = lab.front.asked();
        asked.retain(|one| !one.target.ends_with("/index.json"));
        assert!(asked.iter().all(|one| one.by_cache), "{name}: {asked:?}");
        asked.iter().map(|one| one.bytes).sum::<u64>()
    };
    let all: u64 = layout.files.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(ensure("first"), all);
    for file in layout.files.keys() {
        lab.cache.rots(&format!("/bucket/app/{file}"));
    }
    assert_eq!((ensure("second"), ensure("third")), (all, 0));
}

#[test]
fn a_site_s_cache_keeps_nobody_on_yesterday_and_is_not_led_astray() {
    let lab = Lab::new();
    let put = |key: &str, text: &str| lab.bench.put(key, text.as_bytes());
    // Documents: the newest is given two seconds later at the latest, also where nobody else asks.
    put("fleet/w.json", "one");
    assert_eq!(ask(&lab.cache, "/bucket/fleet/w.json", ""), (200, b"one".to_vec()));
    put("fleet/w.json", "two");
    thread::sleep(Duration::from_millis(3100));
    assert_eq!(ask(&lab.cache, "/bucket/fleet/w.json", ""), (200, b"two".to_vec()));
    // One that has not changed costs the origin no body.
    thread::sleep(Duration::from_millis(3100));
    lab.front.forget();
    assert_eq!(ask(&lab.cache, "/bucket/fleet/w.json", ""), (200, b"two".to_vec()));
    let asked = lab.front.asked();
    assert_eq!((asked.len(), asked[0].status, asked[0].bytes), (1, 304, 0));
    // While the origin is away, or has too much to do, the last one stands.
    thread::sleep(Duration::from_millis(3100));
    for mood in [Mood::Away, Mood::Busy(None)] {
        lab.front.is(mood);
        assert_eq!(ask(&lab.cache, "/bucket/fleet/w.json", ""), (200, b"two".to_vec()), "{mood:?}");
    }
    lab.front.is(Mood::Well);
    // No query, no listing, nothing but reading.
    put("a/1.tar", "good");
    assert_eq!(ask(&lab.cache, "/bucket/a/1.tar?x", "").0, 400);
    assert_eq!(ask(&lab.cache, "/bucket?list-type=2", "").0, 404);
    assert_eq!(ask(&lab.cache, "/bucket/?list-type=2", "").0, 404);
    // What looks like the object's name and is another at the origin is not kept as the object.
    assert_eq!(ask(&lab.cache, "/bucket/a/1.tar", ""), (200, b"good".to_vec()));
    let led = ask(&lab.cache, "/bucket/b/%2e%2e/a/1.tar", "").0;
    assert_ne!(led, 200, "the origin knows no such key");
    // A header that is no digest makes no entry of its own.
    lab.front.forget();
    for header in ["", "Veneer-Sha256: x\r\n", "Veneer-Sha256: 00\r\nVeneer-Refetch: 7\r\n"] {
        assert_eq!(ask(&lab.cache, "/bucket/a/1.tar", header), (200, b"good".to_vec()));
    }
    assert_eq!(lab.front.asked().len(), 0, "{:?}", lab.front.asked());
    // Replaced, it is another one for who wants that.
    put("a/1.tar", "other");
    let digest: String = Sha256::digest("other").iter().map(|b| format!("{b:02x}")).collect();
    let header = format!("Veneer-Sha256: {digest}\r\n");
    assert_eq!(ask(&lab.cache, "/bucket/a/1.tar", &header), (200, b"other".to_vec()));
    assert!(Path::new(&lab.bench.path("cache/site-cache.log")).exists(), "{}", lab.cache.errors());
}
