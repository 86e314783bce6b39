//! A site whose bucket is away: what its cache has is enough for images that are new to a host, as long as a signed
//! catalog or a digest says what they are. And while the bucket is there, it is asked for nothing that these say.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tests::distribution::Registry;
use tests::s3::{KEYS, Server};

use crate::bench::{self, Bench, Host, json};
use crate::front::{Front, Mood};
use crate::layout::{Family, Image, Layout, Packing};
use crate::nginx::Cache;
use crate::signed;

const CATALOG: &str = "s3://bucket/catalog.json";
const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const APP: &str = "oci:s3://bucket/app/:v1";

/// Signs the catalog with this serial and this end.
fn publish(bench: &Bench, images: &Value, serial: u64, expires: Option<&str>) {
    let mut catalog = json!({"version": 2, "serial": serial, "images": images});
    if let Some(expires) = expires {
        catalog["expires"] = expires.into();
    }
    let bytes = serde_json::to_vec(&catalog).unwrap();
    signed::publish(bench, "catalog", "catalog.json", &bytes);
}

/// The images of a host that has ensured them, as version 2 lists them.
fn images(bench: &Bench, references: &[&str]) -> Value {
    let maker = bench.host("maker");
    for reference in references {
        maker.ok(&["ensure", reference]);
    }
    let mut made = maker.ok(&["catalog", "--make", "1"])["images"].clone();
    for (_, image) in made.as_object_mut().unwrap() {
        if image.is_array() {
            *image = json!({"layers": image});
        }
    }
    maker.wipe();
    made
}

/// On this host, with this bucket and these sources.
fn command(host: &Host<'_>, front: &Front, sources: &str, words: &[&str]) -> Command {
    let mut command = host.command_at(front.plain, words);
    command.envs([
        ("VENEER_CATALOG_URL", CATALOG.into()),
        ("VENEER_CATALOG_KEYS", signed::path(host.bench(), "catalog.pub")),
        ("VENEER_FETCH_SOURCES", sources.into()),
        ("VENEER_FETCH_SOURCE_FALLBACK", "60".into()),
        // Whoever is away is away for good in this test.
        ("VENEER_FETCH_PATIENCE", "2".into()),
    ]);
    command
}

fn run(host: &Host<'_>, front: &Front, sources: &str, words: &[&str]) -> Output {
    command(host, front, sources, words).output().unwrap()
}

fn ok(host: &Host<'_>, front: &Front, sources: &str, words: &[&str]) -> Value {
    json(words, &run(host, front, sources, words))
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    (output.status.code(), text.into_owned())
}

/// What hosts asked the bucket themselves since the last time, and what of it was a listing or a head.
fn own(front: &Front) -> (Vec<String>, usize) {
    let asked = front.asked().into_iter().filter(|one| !one.by_cache);
    let asked: Vec<String> = asked.map(|one| format!("{} {}", one.method, one.target)).collect();
    front.forget();
    let is_look = |one: &&String| one.starts_with("HEAD ") || one.contains("list-type");
    let looks = asked.iter().filter(is_look).count();
    (asked, looks)
}

/// A bucket with signatures behind a front, its images and the cache of a site.
struct Lab {
    cache: Cache,
    front: Front,
    bench: Bench,
    images: Value,
    _signed: Server,
}

fn lab() -> Lab {
    let bench = Bench::small();
    signed::keys(&bench, "catalog");
    Layout::one(&Image::of(&[5, 6]), Packing::Gzip, Family::Oci).put(&bench, "app");
    let images = images(&bench, &[A, B, APP]);
    let signed = Server::start(&bench::server(), &bench.path("s3"), Some(KEYS)).unwrap();
    let front = Front::start(signed.address, bench.server());
    let cache = Cache::start(&bench.path("cache"), &front);
    Lab { cache, front, bench, images, _signed: signed }
}

#[test]
fn a_site_gets_what_is_new_to_it_while_its_bucket_is_away() {
    let Lab { mut cache, front, bench, images, _signed } = lab();
    publish(&bench, &images, 1, Some("2100-01-01T00:00:00Z"));
    let sources = cache.url();
    let first = bench.host("first");
    // The bucket itself once, whether the catalog of the cache is its own, as it was never asked before.
    ok(&first, &front, &sources, &["ensure", A]);
    assert_eq!(own(&front), (vec!["GET /bucket/catalog.json".to_owned()], 0));
    for (image, name) in [(B, "b-1"), (APP, "app-1")] {
        ok(&first, &front, &sources, &["activate", image, "--name", name]);
        assert_eq!(own(&front), (Vec::new(), 0), "{image}: nothing of the bucket itself");
    }
    first.check();

    front.is(Mood::Away);
    let second = bench.host("second");
    for image in [A, B, APP] {
        let done = ok(&second, &front, &sources, &["ensure", image]);
        let layers = done["layers"].as_array().unwrap();
        assert!(layers.iter().any(|layer| layer["how"] == "built"), "{done}");
    }
    ok(&second, &front, &sources, &["activate", A, "--name", "a-1"]);
    second.check_tree("a-1", 3);
    // By digest without a catalog: the manifest names all that is asked for.
    let digest = images["app/:v1"]["manifest"].as_str().unwrap();
    let pinned = format!("oci:s3://bucket/app/@{digest}");
    let third = bench.host("third");
    let mut plain = third.command_at(front.plain, &["ensure", &pinned]);
    let plain = plain.env("VENEER_FETCH_SOURCES", &sources).output().unwrap();
    assert!(plain.status.success(), "{plain:?}");
    second.check();
    third.check();

    // Nobody at all: a host without anything is told whom it could not reach; one that has heard of a catalog with an end
    // goes by that until then.
    cache.kill();
    let nobody = bench.host("nobody");
    let (code, text) = said(&run(&nobody, &front, &sources, &["ensure", A]));
    assert_eq!(code, Some(111), "{text}");
    let bucket = front.plain.to_string();
    for wanted in ["catalog.json is not to be had", &sources, &bucket] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    let (code, text) = said(&run(&second, &front, &sources, &["activate", B, "--name", "b-1"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the catalog of serial 1 has to do"), "{text}");
}

#[test]
fn an_expired_catalog_stops_what_is_new_and_nothing_that_is_there() {
    let Lab { cache, front, bench, images, _signed } = lab();
    publish(&bench, &images, 1, Some("2100-01-01T00:00:00Z"));
    let (host, sources) = (bench.host("host"), cache.url());
    ok(&host, &front, &sources, &["activate", A, "--name", "a-1"]);
    ok(&host, &front, &sources, &["deactivate", "a-1"]);
    publish(&bench, &images, 2, Some("2020-01-01T00:00:00Z"));
    // Past the two seconds for which the cache keeps a document; the bucket itself has the last word on what is over.
    thread::sleep(Duration::from_millis(3100));
    let (code, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert!(code == Some(100) && text.contains("has expired at 2020-01-01"), "{code:?} {text}");
    front.is(Mood::Away);
    let (code, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert!(code == Some(111) && text.contains(": it has expired"), "{code:?} {text}");
    ok(&host, &front, &sources, &["activate", A, "--name", "a-1"]);
    host.check_tree("a-1", 3);
    host.check();
}

#[test]
fn a_mirror_that_keeps_an_old_catalog_rolls_nobody_back() {
    let (bench, mirror) = (Bench::small(), Bench::small());
    signed::keys(&bench, "catalog");
    let all = images(&bench, &[A, B]);
    let front = Front::start(bench.server(), bench.server());
    publish(&bench, &all, 1, None);
    for part in ["to-sign", "to-sign.minisig"] {
        let key = part.replace("to-sign", "catalog.json");
        mirror.put(&key, &std::fs::read(bench.path(part)).unwrap());
    }
    let mut fewer = all.clone();
    fewer.as_object_mut().unwrap().remove("b/");
    publish(&bench, &fewer, 2, None);
    let (host, sources) = (bench.host("host"), format!("http://{}", mirror.server()));
    // The bucket was never asked, so it comes first: what was taken out is taken out.
    let (code, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert!(code == Some(100) && text.contains("no image \"b/\" in it"), "{code:?} {text}");
    ok(&host, &front, &sources, &["ensure", A]);
    let serial = |host: &Host<'_>| host.rows("SELECT serial FROM catalogs");
    assert_eq!(serial(&host), ["2"]);
    let (_, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert!(text.contains("no image \"b/\" in it"), "{text}");
    // Without the bucket the old one is no word either.
    front.is(Mood::Away);
    let (code, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert_eq!(code, Some(111), "{text}");
    assert!(
        text.contains(&sources) && text.contains("another one of serial 2 was believed"),
        "{text}"
    );
    assert_eq!(serial(&host), ["2"]);
    front.is(Mood::Well);
    // A mirror that never changes is heard for five minutes, and no longer.
    publish(&bench, &all, 3, None);
    let sign = |key: &str| std::fs::read(bench.path(key)).unwrap();
    mirror.put("catalog.json", &sign("to-sign"));
    mirror.put("catalog.json.minisig", &sign("to-sign.minisig"));
    ok(&host, &front, &sources, &["ensure", B]);
    assert_eq!(serial(&host), ["3"]);
    publish(&bench, &fewer, 4, None);
    ok(&host, &front, &sources, &["ensure", B]);
    assert_eq!(serial(&host), ["3"], "the mirror has answered");
    let registry = rusqlite::Connection::open(host.state().join("registry.db")).unwrap();
    let aged =
        "UPDATE counters SET value = value - 300000 WHERE name = 'catalog_asked_milliseconds'";
    assert_eq!(registry.execute(aged, []).unwrap(), 1);
    drop(registry);
    let (code, text) = said(&run(&host, &front, &sources, &["ensure", B]));
    assert!(code == Some(100) && text.contains("no image \"b/\" in it"), "{code:?} {text}");
    assert_eq!(serial(&host), ["4"]);
}

/// A source that gives these bytes for what ends so, each with this entity tag, whatever it is asked.
fn liar(files: Vec<(&'static str, Vec<u8>)>, etag: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = first.split(' ').nth(1).unwrap_or_default();
            let found = files.iter().find(|(end, _)| path.ends_with(end));
            let (status, body) =
                found.map_or(("404 Not Found", &[][..]), |(_, body)| ("200 OK", body));
            let head = format!(
                "HTTP/1.1 {status}\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let answer = [head.as_bytes(), body].concat();
            // Whoever has gone does not want it.
            drop((&stream).write_all(&answer));
        }
    });
    format!("http://{address}")
}

#[test]
fn a_source_that_gives_the_tag_of_a_newer_catalog_with_an_older_one_keeps_it_back_no_longer() {
    let bench = Bench::small();
    signed::keys(&bench, "catalog");
    let all = images(&bench, &[A, B]);
    let front = Front::start(bench.server(), bench.server());
    let host = bench.host("host");
    publish(&bench, &all, 1, None);
    ok(&host, &front, "", &["ensure", A]);

    publish(&bench, &all, 2, None);
    let older = [("catalog.json", "to-sign"), ("catalog.json.minisig", "to-sign.minisig")];
    let older = older.map(|(end, part)| (end, std::fs::read(bench.path(part)).unwrap()));
    let mut fewer = all.clone();
    fewer.as_object_mut().unwrap().remove("b/");
    publish(&bench, &fewer, 3, None);
    let newest = std::fs::read(bench.path("to-sign")).unwrap();
    let source = liar(older.to_vec(), format!("\"{:x}\"", md5::compute(&newest)));

    let due = || {
        let registry = rusqlite::Connection::open(host.state().join("registry.db")).unwrap();
        let sql = "DELETE FROM counters WHERE name = 'catalog_asked_milliseconds'";
        registry.execute(sql, []).unwrap();
    };
    for _ in 0..2 {
        due();
        let (code, text) = said(&run(&host, &front, &source, &["ensure", B]));
        assert!(code == Some(100) && text.contains("no image \"b/\" in it"), "{code:?} {text}");
        assert_eq!(host.rows("SELECT serial FROM catalogs"), ["3"]);
    }
}

#[test]
fn a_catalog_that_has_not_changed_costs_no_body() {
    let bench = Bench::small();
    signed::keys(&bench, "catalog");
    let all = images(&bench, &[A, B]);
    let front = Front::start(bench.server(), bench.server());
    publish(&bench, &all, 1, None);
    let host = bench.host("host");
    let asked = |image: &str| {
        front.forget();
        ok(&host, &front, "", &["ensure", image]);
        let of_it = front.asked().into_iter().filter(|one| one.target.contains("/catalog.json"));
        of_it.map(|one| one.status).collect::<Vec<_>>()
    };
    assert_eq!(asked(A), [200, 200], "with its signature");
    assert_eq!(asked(B), [304]);
    // Somebody has written over what is kept, or it is of a key that counts no longer.
    let kept = host.state().join("catalog.json");
    let whole = std::fs::read(&kept).unwrap();
    for other in [&whole[..whole.len() / 2], b"", b"{}\n{}"] {
        std::fs::write(&kept, other).unwrap();
        assert_eq!(asked(A), [200, 200]);
        assert_eq!(asked(A), [304]);
    }
    publish(&bench, &all, 2, None);
    assert_eq!(asked(A), [200, 200]);
    host.check();
}

#[test]
fn an_image_of_a_registry_comes_by_its_mirror_while_the_registry_is_away() {
    let bench = Bench::small();
    signed::keys(&bench, "catalog");
    let layout = Layout::one(&Image::of(&[1, 2, 3]), Packing::Gzip, Family::Oci);
    layout.write(&bench.path("layout"));
    let start = |dir: &str| {
        let program = bench::cached("registry/docker-registry");
        let registry = Registry::start(&program, &bench.path(dir)).unwrap();
        registry.put(&bench.path("layout"), "app", "v1").unwrap();
        registry
    };
    let (registry, mirror) = (start("registry"), start("mirror"));
    let front = Front::start(bench.server(), bench.server());
    let host = registry.host();
    let digest = layout.manifests[0]["digest"].as_str().unwrap();
    publish(&bench, &json!({format!("{host}/app:v1"): {"manifest": digest}}), 1, None);
    let tag = format!("docker://{host}/app:v1");
    let pinned = format!("docker://{host}/app@{digest}");
    let sources = format!("http://{}", mirror.host());
    drop(registry);
    for (name, reference) in [("tag", &tag), ("pinned", &pinned)] {
        let there = bench.host(name);
        let done = ok(&there, &front, &sources, &["ensure", reference]);
        assert_eq!(done["chain"], Image::of(&[1, 2, 3]).chain());
        there.check();
    }
    // Without a catalog only the registry knows what a tag means.
    let alone = bench.host("alone");
    let mut command = alone.command_at(front.plain, &["ensure", &tag]);
    command.env("VENEER_FETCH_SOURCES", &sources).env("VENEER_FETCH_PATIENCE", "1");
    let (code, text) = said(&command.output().unwrap());
    assert!(code == Some(111) && text.contains(&host), "{code:?} {text}");
}
