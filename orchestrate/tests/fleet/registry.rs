//! Blobs of a registry by the cache of a site: each byte once, nothing of whoever asks, and nothing but what has a digest.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::thread;

use tests::distribution::Registry;
use tests::layer;

use crate::bench::{self, Bench};
use crate::front::{Front, Mood};
use crate::layout::{Family, Image, Layout, Packing};
use crate::nginx::Cache;

/// Hosts that ask at once.
const HOSTS: usize = 4;

/// What one request of whoever reaches the cache is answered: the status.
fn ask(cache: &Cache, target: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(cache.address).unwrap();
    let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

#[test]
fn blobs_of_a_registry_cost_it_one_for_a_site_and_tell_it_nothing() {
    let bench = Bench::new(&[], 4, 2000);
    // More than two slices, and not a multiple of one.
    let layers = [1, 2].map(|number| layer::stacked(number, 3, 2_700_000)).to_vec();
    let image = Image { layers, ..Image::of(&[1]) };
    let layout = Layout::one(&image, Packing::Plain, Family::Oci);
    layout.write(&bench.path("layout"));
    let program = bench::cached("registry/docker-registry");
    let registry = Registry::start(&program, &bench.path("registry")).unwrap();
    registry.put(&bench.path("layout"), "team/app", "v1").unwrap();
    let origin = registry.host().parse().unwrap();
    let front = Front::start(origin, origin);
    let bucket = Front::start(bench.server(), bench.server());
    let cache = Cache::start_for(&bench.path("cache"), &bucket, &front, None);
    let name = front.plain.to_string();
    let tag = format!("docker://{name}/team/app:v1");
    let ensure = |number: usize, reference: &str| -> Output {
        let host = bench.host(&format!("host-{number}"));
        let mut command = host.command(&["ensure", reference]);
        command.env("VENEER_FETCH_SOURCES", cache.url());
        command.env("VENEER_FETCH_SOURCE_FALLBACK", "60").output().unwrap()
    };
    thread::scope(|scope| {
        for number in 0..HOSTS {
            let (ensure, tag) = (&ensure, &tag);
            scope.spawn(move || {
                let done = ensure(number, tag);
                assert!(done.status.success(), "{done:?}");
            });
        }
    });
    let asked = front.asked();
    let blobs: u64 =
        asked.iter().filter(|one| one.target.contains("/blobs/")).map(|one| one.bytes).sum();
    let config =
        layout.all().into_iter().find(|(_, bytes)| bytes.windows(6).any(|w| w == b"rootfs"));
    let due = image.layers.iter().map(|layer| layer.len() as u64).sum::<u64>()
        + config.expect("a config").1.len() as u64;
    assert_eq!(blobs, due, "each byte once: {asked:?}");
    // What hosts ask themselves is what the tag means, and the cache asks what has a digest.
    for one in &asked {
        match one.by_cache {
            true => {
                assert!(one.target.contains("/sha256:") && !one.target.contains('?'), "{one:?}")
            }
            false => assert!(one.target.ends_with("/v2/team/app/manifests/v1"), "{one:?}"),
        }
    }

    // Another host while the registry is away, by digest: all of it is there.
    front.is(Mood::Away);
    let digest = layout.manifests[0]["digest"].as_str().unwrap();
    let pinned = format!("docker://{name}/team/app@{digest}");
    let done = ensure(HOSTS, &pinned);
    assert!(done.status.success(), "{done:?}");
    front.is(Mood::Well);

    // A manifest and a config that have rotted are fetched again once for the site.
    let mut small = layout.files.clone();
    small.retain(|_, bytes| bytes.len() < 10_000);
    for file in small.keys() {
        let hex = file.trim_start_matches("blobs/sha256/");
        let part = if digest.ends_with(hex) { "manifests" } else { "blobs" };
        cache.rots(&format!("r/v2/team/app/{part}/sha256:{hex}"));
    }
    let all: usize = small.values().map(Vec::len).sum();
    assert_eq!(small.len(), 2);
    for (number, due) in [(HOSTS + 1, all), (HOSTS + 2, 0)] {
        front.forget();
        let done = ensure(number, &pinned);
        assert!(done.status.success(), "{done:?}");
        let asked = front.asked();
        assert!(asked.iter().all(|one| one.by_cache), "{asked:?}");
        assert_eq!(asked.iter().map(|one| one.bytes).sum::<u64>(), due as u64, "{asked:?}");
    }

    // Whoever asks tells the registry nothing of himself by the cache, and nothing of it is kept or written down.
    front.forget();
    let secret = "Authorization: Bearer c2VjcmV0\r\nCookie: c2VjcmV0\r\n";
    let other = format!("sha256:{}", "7".repeat(64));
    let ns = format!("ns={}", name.replace(':', "%3A"));
    assert_eq!(ask(&cache, &format!("/v2/team/app/blobs/{other}?{ns}"), secret), 404);
    assert_eq!(ask(&cache, &format!("/v2/team/app/manifests/{digest}?{ns}"), secret), 200);
    let asked = front.asked();
    assert_eq!(asked.len(), 1, "the manifest is there: {asked:?}");
    assert_eq!(asked[0].authorization, None);
    assert!(!cache.log().contains("c2VjcmV0") && !cache.holds("c2VjcmV0"));
    // Tokens, tags, lists, other registries and uploads are none of its business.
    front.forget();
    for target in [
        "/v2/".to_owned(),
        format!("/v2/token?service={name}"),
        format!("/v2/team/app/manifests/v1?{ns}"),
        format!("/v2/team/app/tags/list?{ns}"),
        format!("/v2/team/app/blobs/{other}"),
        format!("/v2/team/app/blobs/{other}?ns=registry.example.org"),
        format!("/v2/team/app/blobs/{other}?{ns}&x=1"),
        format!("/v2/team/app/blobs/uploads/{other}?{ns}"),
    ] {
        assert_eq!(ask(&cache, &target, secret), 404, "{target}");
    }
    assert_eq!(front.asked().len(), 0, "{:?}", front.asked());
    for number in 0..=HOSTS + 2 {
        bench.host(&format!("host-{number}")).check();
    }
}
