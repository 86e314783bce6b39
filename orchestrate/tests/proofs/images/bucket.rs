//! Layouts in a bucket, at a real S3 server: what is asked for is counted at a proxy.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, Host};
use crate::images::layout::{CONFIG, Family, Image, Layout, MANIFEST, Packing, packed, sha};

const A: &str = "oci:s3://bucket/images/app/:v1";
const B: &str = "oci:s3://bucket/images/app/:v2";

/// `v1` of layers 1, 2, 3 and `v2` of layers 1, 2, 4.
fn bench() -> (Bench, Layout) {
    let bench = Bench::new(&[], 4, 2000);
    let mut layout = Layout::one(&Image::of(&[1, 2, 3]), Packing::Gzip, Family::Oci);
    let second = layout.image(&Image::of(&[1, 2, 4]), Packing::Gzip, Family::Oci);
    layout.tag(second, "v2");
    layout.put(&bench, "images/app");
    (bench, layout)
}

/// What was asked for since the last time, without the prefix.
fn asked(bench: &Bench) -> Vec<String> {
    let exchanges = bench.proxy.exchanges().into_iter();
    let asked = exchanges.map(|one| format!("{} {}", one.method, one.target));
    let asked = asked.map(|one| one.replace("/bucket/images/app/", "")).collect();
    bench.proxy.clear();
    asked
}

fn blob(digest: &str) -> String {
    format!("GET blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

fn of_layer(number: u8) -> String {
    blob(&sha(&packed(&Image::of(&[number]).layers[0], Packing::Gzip)))
}

fn nothing_of_it(host: &Host<'_>) {
    assert_eq!(host.rows("SELECT reference FROM images"), [""; 0]);
    assert_eq!(host.rows("SELECT digest FROM configs"), [""; 0]);
    assert_eq!(crate::bench::names(&host.state().join("spool")), [""; 0]);
    host.check();
}

#[test]
fn only_what_is_not_here_is_asked_for() {
    let (bench, layout) = bench();
    let host = bench.host("host");
    let first = host.ok(&["ensure", A]);
    assert_eq!(first["chain"], Image::of(&[1, 2, 3]).chain());
    assert_eq!(asked(&bench).len(), 6, "index, manifest, config and three layers");
    let second = host.ok(&["activate", B, "--name", "b-1"]);
    assert_eq!(second["ensured"]["fetched_objects"], 1);
    let got = asked(&bench);
    let documents = &layout.manifests[1]["digest"];
    assert_eq!((got.len(), &got[0]), (4, &"GET index.json".to_owned()), "{got:?}");
    assert!(
        got.contains(&blob(documents.as_str().unwrap())) && got.contains(&of_layer(4)),
        "{got:?}"
    );
    host.check_tree("b-1", 4);

    // Again by tag: the index says that nothing has changed (this server sends it whole, whatever tag it is asked with;
    // one that honours tags is in `push/again.rs`). Pinned by a digest: nobody is asked.
    assert_eq!(host.ok(&["ensure", A])["fetched_objects"], 0);
    assert_eq!(asked(&bench), ["GET index.json"]);
    let digest = layout.manifests[0]["digest"].as_str().unwrap();
    let pinned = format!("oci:s3://bucket/images/app/@{digest}");
    assert_eq!(host.ok(&["ensure", &pinned])["fetched_objects"], 0);
    assert_eq!(asked(&bench).len(), 2, "manifest and config, under a name that is new");
    host.ok(&["ensure", &pinned]);
    host.ok(&["activate", &pinned, "--name", "a-1"]);
    host.ok(&["ensure", digest]);
    host.ok(&["activate", digest, "--name", "a-2"]);
    assert_eq!(asked(&bench), [""; 0]);
    host.check_tree("a-2", 3);

    // The tag moves, and what was made of it stays as it is.
    let mut moved = layout.clone();
    moved.manifests[0]["annotations"] = json!({});
    moved.manifests[1]["annotations"] = json!({crate::images::layout::NAME: "v1"});
    bench.put("images/app/index.json", &moved.all()["index.json"]);
    let now = host.ok(&["ensure", A]);
    assert_eq!(now["chain"], Image::of(&[1, 2, 4]).chain());
    assert_eq!(asked(&bench).len(), 3, "index, manifest and config");
    host.check();
    let other = bench.host("other");
    assert_eq!(other.ok(&["ensure", A, "--dry-run"])["layers"].as_array().unwrap().len(), 3);
}

#[test]
fn what_is_late_is_waited_for_once_and_what_is_missing_is_named() {
    for (what, number) in [("a layer", 4), ("a manifest", 1), ("a config", 2)] {
        let (bench, layout) = bench();
        let host = bench.host("host");
        let manifest = layout.manifests[1]["digest"].as_str().unwrap()[7..].to_owned();
        let config = sha(Image::of(&[1, 2, 4]).config().to_string().as_bytes());
        let digest = match number {
            1 => manifest,
            2 => config,
            _ => of_layer(4).trim_start_matches("GET blobs/sha256/").to_owned(),
        };
        let key = format!("images/app/blobs/sha256/{digest}");
        let bytes = &layout.files[&format!("blobs/sha256/{digest}")];
        bench.delete(&key);
        let (code, said) = host.said(&["ensure", B]);
        assert_eq!(code, 100, "{what}: {said}");
        assert!(said.contains(&digest), "{what}: {said}");
        let tries = asked(&bench).iter().filter(|one| one.ends_with(&digest)).count();
        assert_eq!(tries, 2, "{what}: it is waited for once: {said}");
        assert_eq!(host.rows("SELECT reference FROM images"), [""; 0]);
        let done = std::thread::scope(|scope| {
            scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_secs(30);
                let asked = || {
                    bench
                        .proxy
                        .exchanges()
                        .iter()
                        .any(|one| one.target.ends_with(&digest) && one.status == 404)
                };
                while !asked() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                bench.put(&key, bytes);
            });
            host.ok(&["activate", B, "--name", "b-1"])
        });
        assert_eq!(done["ensured"]["chain"], Image::of(&[1, 2, 4]).chain(), "{what}");
        host.check_tree("b-1", 4);
        host.check();
    }
}

#[test]
fn what_lies_is_refused_and_nothing_of_it_stays() {
    let (bench, layout) = bench();
    let host = bench.host("host");
    // The config: no blob is blamed, and another image of the same layers is made.
    let mut lies = layout.clone();
    let mut image = Image::of(&[1, 2, 4]);
    image.diffs = Some(
        [image.diffs()[0].clone(), image.diffs()[1].clone(), format!("sha256:{}", sha(b"no"))]
            .into(),
    );
    let described = lies.image(&image, Packing::Gzip, Family::Oci);
    lies.tag(described, "lies");
    lies.put(&bench, "images/app");
    let (code, said) = host.said(&["ensure", "oci:s3://bucket/images/app/:lies"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("config says"), "{said}");
    assert_eq!(
        asked(&bench).iter().filter(|one| **one == of_layer(4)).count(),
        1,
        "nobody else is asked: {said}"
    );
    assert_eq!(host.rows("SELECT digest FROM quarantine"), [""; 0]);
    nothing_of_it(&host);
    host.ok(&["ensure", B]);
    host.ok(&["rm", B]);
    asked(&bench);

    // A blob, of the same size: it is not what its name says.
    let digest = of_layer(4).trim_start_matches("GET ").to_owned();
    let mut bytes = layout.files[&digest].clone();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    bench.put(&format!("images/app/{digest}"), &bytes);
    let (code, said) = host.said(&["ensure", B]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains(&digest[13..]), "{said}");
    assert_eq!(asked(&bench).iter().filter(|one| one.ends_with(&digest)).count(), 1, "{said}");
    assert_eq!(host.rows("SELECT digest FROM quarantine"), [""; 0], "bytes that nobody promised");
    nothing_of_it(&host);

    // And of another.
    bytes.pop();
    bench.put(&format!("images/app/{digest}"), &bytes);
    let (code, said) = host.said(&["ensure", B]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains(&digest[13..]), "{said}");
    nothing_of_it(&host);

    // A document.
    let manifest = layout.manifests[0]["digest"].as_str().unwrap()[7..].to_owned();
    bench.put(&format!("images/app/blobs/sha256/{manifest}"), b"{}");
    let (code, said) = host.said(&["ensure", A]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains(&manifest), "{said}");
    // An index of any size is not read beyond its bound.
    bench.put("images/app/index.json", &vec![b' '; 5 << 20]);
    let (code, said) = host.said(&["ensure", A]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("4194304"), "{said}");
    bench.delete("images/app/index.json");
    let (code, said) = host.said(&["ensure", A]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("index.json"), "{said}");
    nothing_of_it(&host);
}

/// Numbered layers are looked for where a layout is: the message says how that is asked for.
#[test]
fn a_layout_that_is_asked_for_as_numbered_layers_is_told_of() {
    let (bench, _) = bench();
    let host = bench.host("host");
    let (code, said) = host.said(&["ensure", "s3://bucket/images/app/"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("oci:s3://bucket/images/app/"), "{said}");
}

/// A manifest whose config is a document of a megabyte or two is an image like others.
#[test]
fn a_large_config_is_kept_as_it_came() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let mut layout = Layout::default();
    let mut manifest = layout.manifest(&Image::of(&[1]), Packing::Gzip, Family::Oci);
    let mut config = Image::of(&[1]).config();
    config["config"]["Labels"] = json!({"long": "é".repeat(1 << 20)});
    manifest["config"] = layout.json(CONFIG, &config);
    let described = layout.json(MANIFEST, &manifest);
    layout.tag(described, "v1");
    layout.put(&bench, "images/app");
    host.ok(&["ensure", A]);
    let kept = host.rows("SELECT content FROM configs");
    assert!(kept == [config.to_string()], "{} bytes", kept[0].len());
    host.ok(&["rm", A]);
    assert_eq!(host.rows("SELECT digest FROM configs"), [""; 0], "it goes with its image");
    host.check();
}
