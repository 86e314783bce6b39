//! What can be done with an image can be done with one of a layout or an archive: every verb, the signed catalog,
//! a registry that is made anew, the daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bench::{Bench, Host, names};
use crate::catalog::{key, publish, refused, run, well};
use crate::images::daemon::Daemon;
use crate::images::layout::{Family, Image, Layout, Packing, Saved, archive, saved, sha};

const BUCKET: &str = "oci:s3://bucket/images/app/:v1";

fn image() -> Image {
    Image::of(&[1, 2, 3])
}

/// The same image in each place, with the digest that it is known by.
fn places(bench: &Bench) -> Vec<(String, String)> {
    let layout = Layout::one(&image(), Packing::Gzip, Family::Oci);
    let manifest = layout.manifests[0]["digest"].as_str().unwrap().to_owned();
    layout.put(bench, "images/app");
    let dir = bench.path("layout");
    layout.write(&dir);
    fs::write(bench.path("oci.tar"), layout.tar()).unwrap();
    let docker = archive(&saved(&image(), Saved::Podman, &["app:v1"]));
    fs::write(bench.path("docker.tar"), docker).unwrap();
    let config = format!("sha256:{}", sha(image().config().to_string().as_bytes()));
    let path = |name: &str| bench.path(name).display().to_string();
    vec![
        (BUCKET.to_owned(), manifest.clone()),
        (format!("oci:{}:v1", path("layout")), manifest.clone()),
        (format!("oci:{}@{manifest}", path("layout")), manifest.clone()),
        (format!("oci-archive:{}:v1", path("oci.tar")), manifest),
        (format!("docker-archive:{}:app:v1", path("docker.tar")), config),
    ]
}

/// For words that print nothing.
fn done(host: &Host<'_>, words: &[&str]) {
    let (code, said) = host.said(words);
    assert_eq!(code, 0, "{words:?}: {said}");
}

#[test]
fn every_verb_knows_it() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    for (reference, digest) in places(&bench) {
        let reference = reference.as_str();
        let dry = host.ok(&["ensure", reference, "--dry-run"]);
        assert_eq!(
            dry["chain"],
            image().chain(),
            "it is known before a byte has come: {reference}"
        );
        assert_eq!(dry["layers"][2]["how"], "planned", "{reference}");
        assert_eq!(host.rows("SELECT reference FROM images"), [""; 0]);
        let dry = host.ok(&["activate", reference, "--name", "a-1", "--dry-run"]);
        assert_eq!(dry["ensured"]["chain"], image().chain());
        host.ok(&["ensure", reference]);
        done(&host, &["pin", reference]);
        host.command(&["gc", "--keep-bytes", "0"]).output().unwrap();
        let listed = host.ok(&["ls"]);
        assert_eq!(listed["images"][0]["image"], reference, "{listed}");
        assert_eq!(host.rows("SELECT pinned FROM images"), ["1"]);
        // By its digest it is the same.
        for name in [reference, &digest] {
            let shown = host.ok(&["show", name]);
            assert_eq!(shown["image"]["image"], reference, "{name}: {shown}");
            assert!(shown.to_string().contains(&digest), "{name}: {shown}");
        }
        done(&host, &["unpin", &digest]);
        assert_eq!(host.rows("SELECT pinned FROM images"), ["0"]);
        host.ok(&["activate", &digest, "--name", "a-1"]);
        host.ok(&["activate", reference, "--name", "a-2", "--no-fetch"]);
        for name in ["a-1", "a-2"] {
            host.check_tree(name, 3);
        }
        let rows = host.rows("SELECT DISTINCT reference FROM activations");
        assert_eq!(rows, [reference]);
        let verified = host.ok(&["verify", &digest]);
        assert!(!verified.to_string().contains("differs"), "{verified}");
        done(&host, &["verify", reference]);
        done(&host, &["df"]);
        done(&host, &["runs"]);
        let events = host.command(&["events"]).output().unwrap();
        assert!(String::from_utf8_lossy(&events.stdout).contains(reference), "{events:?}");
        let used = host.command(&["rm", &digest]).output().unwrap();
        assert_eq!(used.status.code(), Some(100), "{used:?}");
        for name in ["a-1", "a-2"] {
            done(&host, &["deactivate", name]);
            host.ok(&["rm", name]);
        }
        host.ok(&["rm", &digest]);
        for sql in [
            "SELECT reference FROM images",
            "SELECT digest FROM configs",
            "SELECT id FROM volumes WHERE role = 'layer'",
        ] {
            assert_eq!(host.rows(sql), [""; 0], "{reference}: {sql}");
        }
        let (code, said) = host.said(&["show", &digest]);
        assert_eq!(code, 100, "{said}");
        let (code, said) = host.said(&["ensure", &digest]);
        assert_eq!(code, 100, "{said}");
        assert!(said.contains(&digest[7..]), "{said}");
        host.check();
    }
}

#[test]
fn its_tree_is_scanned_by_any_of_its_names() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let scanner = bench.path("scanner");
    fs::write(&scanner, "#!/bin/sh\ntest -d $1/srv/layer-3 || exit 7\necho '{\"SchemaVersion\": 2, \"Results\": []}'\n").unwrap();
    fs::set_permissions(&scanner, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("{} {{}}", scanner.display());
    for (reference, digest) in places(&bench) {
        let name = format!("a-{}", names(&host.store().join("active")).len());
        for words in [
            &["activate", &reference, "--name", &name][..],
            &["scan", &reference],
            &["scan", &digest],
            &["scan", "--show", &digest],
        ] {
            let mut ran = host.command(words);
            ran.env("VENEER_SCAN_COMMAND", &command).env("VENEER_SCAN_POLICY", "required");
            let ran = ran.output().unwrap();
            assert!(ran.status.success(), "{words:?}: {ran:?}");
        }
    }
    host.check();
}

#[test]
fn a_registry_made_anew_knows_it() {
    let bench = Bench::new(&[], 4, 2000);
    for (reference, digest) in places(&bench) {
        let host = bench.host("host");
        host.wipe();
        host.ok(&["activate", &reference, "--name", "a-1"]);
        let docker = reference.starts_with("docker");
        let documents = "SELECT reference, manifest, config FROM images";
        let before = host.rows(documents);
        // Beside the old registry: all of it.
        host.ok(&["rebuild"]);
        assert_eq!(host.rows(documents), before, "{reference}");
        assert_eq!(host.rows("SELECT count(*) FROM configs"), ["1"], "{reference}");
        assert_eq!(host.ok(&["show", &digest])["image"]["image"], reference);
        let done = host.ok(&["ensure", &reference]);
        assert!(!done.to_string().contains("built"), "{reference}: {done}");
        host.ok(&["ensure", &reference, "--dry-run"]);
        // Without: image and manifest are sealed with the layer.
        host.lose_registry();
        host.ok(&["rebuild"]);
        let rows = host.rows("SELECT reference, manifest FROM images");
        let manifest = if docker { "-" } else { digest.trim_start_matches("sha256:") };
        assert_eq!(rows, [format!("{reference} | {manifest}")]);
        let rows = host.rows("SELECT name, manifest FROM activations");
        assert_eq!(rows, [format!("a-1 | {manifest}")]);
        host.check_tree("a-1", 3);
        if !docker {
            assert_eq!(host.ok(&["show", &digest])["image"]["image"], reference);
            host.ok(&["activate", &digest, "--name", "a-2", "--no-fetch"]);
        }
        // The next one puts the config back, and no layer is read for it.
        let done = host.ok(&["ensure", &reference]);
        assert_eq!(done["fetched_objects"], 0, "{reference}: {done}");
        assert!(!done.to_string().contains("built"), "{reference}: {done}");
        assert_eq!(host.rows(documents), before, "{reference}");
        assert_eq!(host.rows("SELECT count(*) FROM configs"), ["1"], "{reference}");
        host.check();
    }
}

#[test]
fn names_that_share_a_stack_come_back_by_their_documents() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let all = places(&bench);
    for (at, (reference, _)) in all.iter().enumerate() {
        host.ok(&["activate", reference, "--name", &format!("a-{at}")]);
    }
    let names = "SELECT reference FROM images ORDER BY reference";
    let before = host.rows(names);
    host.ok(&["rebuild"]);
    assert_eq!(host.rows(names), before);
    // The seal record has the name that the stack was sealed for, and no other.
    host.lose_registry();
    host.ok(&["rebuild"]);
    assert_eq!(host.rows(names), [all[0].0.as_str()]);
    for at in 0..all.len() {
        host.check_tree(&format!("a-{at}"), 3);
    }
    for (reference, _) in &all {
        let done = host.ok(&["ensure", reference]);
        assert_eq!(done["fetched_objects"], 0, "{reference}: {done}");
        assert!(!done.to_string().contains("built"), "{reference}: {done}");
    }
    assert_eq!(host.rows(names), before);
    host.check();
}

#[test]
fn a_signed_catalog_lists_it_by_its_manifest() {
    let bench = Bench::new(&[], 4, 2000);
    let (public, secret) = key(&bench, "good");
    let all = places(&bench);
    let maker = bench.host("maker");
    maker.ok(&["ensure", BUCKET]);
    let catalog = maker.ok(&["catalog", "--make", "7"]);
    let listed = &catalog["images"]["images/app/:v1"];
    assert_eq!(
        (&catalog["version"], &listed["manifest"]),
        (&2.into(), &all[0].1.clone().into()),
        "{catalog}"
    );
    publish(&bench, &secret, &catalog);
    let host = bench.host("host");
    for (reference, _) in &all {
        let ran = run(&host, &public, &["ensure", reference]);
        match reference.starts_with("docker") {
            // It has no manifest that could be signed.
            true => refused(&ran, "catalog"),
            false => assert!(ran.status.success(), "{reference}: {ran:?}"),
        }
    }
    // Another manifest under the tag: what the catalog says is the image. And one that is not in it.
    let mut other = Layout::one(&Image::of(&[1, 2, 4]), Packing::Gzip, Family::Oci);
    other.put(&bench, "images/app");
    let done = well(&run(&host, &public, &["ensure", BUCKET]));
    assert_eq!(done["chain"], Image::of(&[1, 2, 3]).chain());
    other.manifests[0]["annotations"] = json!({});
    let dir = bench.path("other");
    other.write(&dir);
    refused(&run(&host, &public, &["ensure", &format!("oci:{}", dir.display())]), "catalog");
    let digest = other.manifests[0]["digest"].as_str().unwrap();
    refused(
        &run(&host, &public, &["ensure", &format!("oci:s3://bucket/images/app/@{digest}")]),
        "catalog",
    );
    host.check();
}

#[test]
fn the_daemon_makes_what_it_may_and_opens_no_path() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let all = places(&bench);
    let daemon = Daemon::start(&host, &[]);
    // Over the API no path of this host is opened.
    for (reference, _) in &all[1..] {
        for (method, path, body) in [
            ("PUT", "/v1/images", json!({"image": reference})),
            ("POST", "/v1/activations", json!({"id": "a-1", "image": reference})),
        ] {
            let answer = daemon.ask(method, path, &body.to_string());
            assert_eq!(
                answer.status,
                400,
                "{reference}: {:?}",
                String::from_utf8_lossy(&answer.body)
            );
            let said = answer.json().to_string();
            assert!(said.contains("opens no path"), "{said}");
        }
    }
    for words in ["docker-archive:-", "oci-archive:-"] {
        let answer = daemon.ask("PUT", "/v1/images", &json!({"image": words}).to_string());
        assert_eq!(answer.status, 400);
    }
    assert_eq!(host.rows("SELECT id FROM runs"), [""; 0]);
    // A bucket's image is made by it; a local one by the command, beside it.
    for (at, (reference, digest)) in all.iter().enumerate() {
        let name = format!("a-{at}");
        let done = host.ok(&["activate", reference, "--name", &name]);
        assert_eq!(done["name"], name.as_str(), "{done}");
        host.check_tree(&name, 3);
        host.ok(&["activate", digest, "--name", &format!("b-{at}")]);
        // By a digest that several names have, none of them is changed.
        for words in [["pin", digest.as_str()], ["unpin", digest], ["rm", digest]] {
            let (code, said) = host.said(&words);
            let alone = all[..at].iter().all(|(_, other)| other != digest);
            let due = if alone && words[0] != "rm" { 0 } else { 100 };
            assert_eq!(code, due, "{words:?}: {said}");
            assert!(alone || said.contains("name one of"), "{words:?}: {said}");
        }
    }
    let rows = host.rows("SELECT count(*) FROM volumes WHERE role = 'layer'");
    assert_eq!(rows, ["3"]);
    for at in 0..all.len() {
        host.ok(&["rm", &format!("a-{at}")]);
        host.ok(&["rm", &format!("b-{at}")]);
    }
    // A pipe beside a daemon, too.
    let file = fs::File::open(bench.path("docker.tar")).unwrap();
    let mut piped = host.command(&["activate", "docker-archive:-", "--name", "piped"]);
    let ran = piped.stdin(Stdio::from(file)).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let done: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(done["image"], all[4].1.as_str(), "{done}");
    let mut listed: Vec<String> = all.iter().map(|(reference, _)| reference.clone()).collect();
    listed.push(all[4].1.clone());
    listed.sort();
    let rows = host.rows("SELECT reference FROM images ORDER BY reference");
    assert_eq!(rows, listed);
    for reference in &listed[..listed.len() - 1] {
        host.ok(&["rm", reference]);
    }
    assert_eq!(names(&host.state().join("archives")), [""; 0]);
    daemon.stop();
    host.check();
}
