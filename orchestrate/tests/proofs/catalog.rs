//! The signed catalog: with a key trusted, only what is signed and listed is made or activated. Keys and
//! signatures are minisign's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::bench::{Bench, Host};

pub(crate) const URL: &str = "s3://bucket/catalog.json";
pub(crate) const A: &str = "s3://bucket/a/";
pub(crate) const B: &str = "s3://bucket/b/";

fn minisign(words: &[&str]) {
    let done = Command::new("minisign").args(words).output().expect("no minisign: run ./bootstrap");
    assert!(done.status.success(), "minisign {words:?}: {done:?}");
}

/// The files of a fresh key: public, secret.
pub(crate) fn key(bench: &Bench, name: &str) -> (String, String) {
    let file = |end: &str| bench.path(&format!("{name}.{end}")).to_string_lossy().into_owned();
    let (public, secret) = (file("pub"), file("key"));
    minisign(&["-G", "-W", "-p", &public, "-s", &secret]);
    (public, secret)
}

pub(crate) fn sign(bench: &Bench, secret: &str, catalog: &[u8]) -> Vec<u8> {
    let file: PathBuf = bench.path("to-sign");
    fs::write(&file, catalog).unwrap();
    minisign(&["-S", "-W", "-s", secret, "-m", &file.to_string_lossy()]);
    fs::read(bench.path("to-sign.minisig")).unwrap()
}

pub(crate) fn publish(bench: &Bench, secret: &str, catalog: &Value) {
    let bytes = serde_json::to_vec_pretty(catalog).unwrap();
    bench.put("catalog.json.minisig", &sign(bench, secret, &bytes));
    bench.put("catalog.json", &bytes);
}

pub(crate) fn run(host: &Host<'_>, keys: &str, words: &[&str]) -> Output {
    let mut command = host.command(words);
    command.env("VENEER_CATALOG_URL", URL).env("VENEER_CATALOG_KEYS", keys).output().unwrap()
}

pub(crate) fn refused(output: &Output, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(100), "{wanted}: {output:?}");
    assert!(said.contains(wanted), "{wanted} in {said}");
}

/// A catalog of what a host has that ensured both images.
pub(crate) fn made(bench: &Bench, serial: u64) -> Value {
    let maker = bench.host("maker");
    maker.ok(&["ensure", A]);
    maker.ok(&["ensure", B]);
    maker.ok(&["catalog", "--make", &serial.to_string()])
}

#[test]
fn what_is_signed_and_listed_is_made_and_nothing_else() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let line = fs::read_to_string(&public).unwrap().lines().last().unwrap().to_owned();
    let mut catalog = made(&bench, 7);
    catalog["images"].as_object_mut().unwrap().remove("b/");
    publish(&bench, &secret, &catalog);
    let host = bench.host("host");
    for keys in [&public, &line] {
        let name = if *keys == public { "one" } else { "two" };
        let done = run(&host, keys, &["activate", A, "--name", name]);
        assert!(done.status.success(), "{done:?}");
    }
    let before = host.state_text();
    refused(&run(&host, &line, &["activate", B, "--name", "three"]), "no image \"b/\" in it");
    refused(&run(&host, &line, &["ensure", B]), "no image \"b/\" in it");
    let unasked = ["activate", A, "--name", "three", "--no-fetch"];
    refused(&run(&host, &line, &unasked), "its catalog has to be asked");
    refused(&run(&host, &line, &["ensure", B, "--dry-run"]), "no image \"b/\" in it");
    let listed = |text: &str| text.lines().filter(|line| line.starts_with("volumes ")).count();
    assert_eq!(listed(&before), listed(&host.state_text()));
    // Half a setting protects nothing, and is said to.
    let half = host.command(&["ls"]).env("VENEER_CATALOG_URL", URL).output().unwrap();
    refused(&half, "no catalog.keys");
    let half = host.command(&["ls"]).env("VENEER_CATALOG_KEYS", &line).output().unwrap();
    refused(&half, "no catalog.url");
    refused(&run(&host, "RWnonsense", &["ls"]), "catalog.keys: \"RWnonsense\"");
    host.check();
}

#[test]
fn a_catalog_that_is_not_good_is_not_believed() {
    let bench = Bench::small();
    let ((public, secret), (_, other)) = (key(&bench, "good"), key(&bench, "other"));
    let (first, second) = (made(&bench, 7), made(&bench, 8));
    let host = bench.host("host");
    let ensure = || run(&host, &public, &["ensure", A]);
    refused(&ensure(), "catalog.json");
    publish(&bench, &other, &first);
    refused(&ensure(), "no key of catalog.keys has signed");
    publish(&bench, &secret, &first);
    let mut altered = serde_json::to_vec_pretty(&first).unwrap();
    altered.push(b'\n');
    bench.put("catalog.json", &altered);
    refused(&ensure(), "no key of catalog.keys has signed");
    bench.put("catalog.json.minisig", b"untrusted comment: x\nnonsense\n");
    refused(&ensure(), "signature is not good");
    publish(&bench, &secret, &json!({"version": 3, "serial": 1, "images": {}}));
    refused(&ensure(), "version 3");
    publish(&bench, &secret, &json!({"version": 1, "serial": 1, "images": {}, "more": 1}));
    refused(&ensure(), "more");
    publish(&bench, &secret, &second);
    assert!(ensure().status.success());
    // Played back, and a second one of the same serial.
    publish(&bench, &secret, &first);
    refused(&ensure(), "the catalog has serial 7, and another one of serial 8 was believed");
    let mut twin = second.clone();
    twin["images"].as_object_mut().unwrap().remove("b/");
    publish(&bench, &secret, &twin);
    refused(&ensure(), "of serial 8 was believed");
    publish(&bench, &secret, &second);
    assert!(ensure().status.success());
    host.check();
}

#[test]
fn a_layer_that_is_not_as_listed_is_refused_and_an_etag_is_not_believed() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let good = made(&bench, 1);
    let mut serial = 1;
    let mut with = |change: &dyn Fn(&mut Value)| {
        let mut catalog = good.clone();
        serial += 1;
        catalog["serial"] = serial.into();
        change(&mut catalog["images"]["a/"]);
        publish(&bench, &secret, &catalog);
    };
    let digest = |catalog: &Value, layer: usize| catalog["images"]["b/"][layer]["sha256"].clone();
    let other = digest(&good, 2);
    let host = bench.host("host");
    let ensure = || run(&host, &public, &["ensure", A]);
    with(&|layers| layers[1]["size"] = 1.into());
    refused(&ensure(), "a/2.tar is not as the signed catalog has it: the size differs");
    with(&|layers| layers[1]["etag"] = "\"other\"".into());
    refused(&ensure(), "a/2.tar is not as the signed catalog has it: the ETag differs");
    with(&|layers| layers[1]["etag"] = "\"a\nb\"".into());
    refused(&ensure(), "an ETag with odd characters");
    with(&|layers| layers[1]["key"] = "a/3.tar".into());
    refused(&ensure(), "layer 2 is missing");
    with(&|layers| layers[1]["key"] = "b/2.tar".into());
    refused(&ensure(), "b/2.tar");
    with(&|layers| layers.as_array_mut().unwrap().swap(0, 1));
    refused(&ensure(), "\"a/2.tar\" is not in the place of its number");
    with(&|layers| layers.as_array_mut().unwrap().clear());
    refused(&ensure(), "s3://bucket/a/");
    with(&|layers| layers[2]["sha256"] = other.clone());
    refused(&ensure(), "a/3.tar");
    assert!(host.ok(&["ls"])["images"].as_array().unwrap().is_empty());
    // A host that has read the object and knows its ETag goes by the catalog: it has those bytes under
    // another name, and takes them; and where nobody has them, the object is read again and refused.
    let host = bench.host("maker");
    let done = run(&host, &public, &["ensure", A]);
    let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(done["layers"][2]["digest"], other, "{done}");
    let nobodys = format!("sha256:{}", "7".repeat(64));
    with(&|layers| layers[2]["sha256"] = nobodys.as_str().into());
    refused(&run(&host, &public, &["ensure", A]), "a/3.tar");
    with(&|_| ());
    assert!(run(&host, &public, &["ensure", A]).status.success());
    host.check();
    // What it lists is the image, whatever lies beside that on the server.
    let fewer = bench.host("fewer");
    with(&|layers| drop(layers.as_array_mut().unwrap().pop()));
    let done: Value = serde_json::from_slice(&run(&fewer, &public, &["ensure", A]).stdout).unwrap();
    assert_eq!(done["layers"].as_array().unwrap().len(), 2, "{done}");
}

/// The exit code and all that was said.
pub(crate) fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    (output.status.code(), text.into_owned())
}

pub(crate) fn well(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

pub(crate) fn without(catalog: &Value, serial: u64, image: &str) -> Value {
    let mut catalog = catalog.clone();
    catalog["serial"] = serial.into();
    catalog["images"].as_object_mut().unwrap().remove(image);
    catalog
}

pub(crate) fn is_up(host: &Host<'_>, name: &str) -> bool {
    host.store().join("active").join(name).is_symlink()
}

/// As a boot leaves it: what was up is to be up, and is not.
pub(crate) fn goes_down(host: &Host<'_>, name: &str) {
    fs::remove_file(host.store().join("active").join(name)).unwrap();
}

#[test]
fn the_believed_serial_outlives_the_registry() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let (first, second) = (made(&bench, 7), made(&bench, 8));
    publish(&bench, &secret, &second);
    let host = bench.host("host");
    let ensure = || run(&host, &public, &["ensure", A]);
    well(&ensure());
    for lost in [true, false] {
        if lost {
            host.lose_registry();
        }
        let rebuilt = well(&run(&host, &public, &["rebuild"]));
        assert_eq!(rebuilt["foreign"], json!([]), "{rebuilt}");
        publish(&bench, &secret, &first);
        refused(&ensure(), "the catalog has serial 7, and another one of serial 8 was believed");
        // Of what is here nobody knows now whether it is revoked: a catalog that is played back is no word.
        publish(&bench, &secret, &second);
        well(&ensure());
    }
    // The file is one that this store's key has sealed, or counts for nothing.
    let kept = host.store().join("serials");
    let whole = fs::read(&kept).unwrap();
    let mut forged = whole.clone();
    *forged.last_mut().unwrap() ^= 1;
    fs::write(&kept, forged).unwrap();
    host.lose_registry();
    well(&run(&host, &public, &["rebuild"]));
    publish(&bench, &secret, &first);
    well(&ensure());
    assert_ne!(fs::read(&kept).unwrap(), whole, "and it is written anew");
    fs::remove_file(&kept).unwrap();
    well(&ensure());
    assert!(kept.is_file(), "as it is when somebody deleted it");
    host.check();
}

#[test]
fn a_serial_that_would_be_the_last_is_refused_in_words_and_a_person_can_go_back() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let good = made(&bench, 5);
    let with = |serial: Value| {
        let mut catalog = good.clone();
        catalog["serial"] = serial;
        publish(&bench, &secret, &catalog);
    };
    let host = bench.host("host");
    let ensure = || run(&host, &public, &["ensure", A]);
    with(json!(5));
    well(&ensure());
    for serial in [json!(i64::MAX), json!(1_u64 << 63), json!(u64::MAX), json!(-1), json!(1.5)] {
        with(serial.clone());
        let (code, text) = said(&ensure());
        assert_eq!(code, Some(100), "{serial}: {text}");
        assert!(text.contains("no whole number from 0 to"), "{serial}: {text}");
        assert!(!text.contains("out of range"), "{text}");
    }
    with(json!(1_u64 << 62));
    refused(&ensure(), "after 5 none above 4294967301 is believed");
    with(json!(4_294_967_301_u64));
    well(&ensure());
    with(json!(6));
    refused(&ensure(), "orchestrate catalog reset --to FILE");
    // By a person, of a file that a key has signed.
    let file = bench.path("reset.json");
    let bytes = serde_json::to_vec(&{
        let mut six = good.clone();
        six["serial"] = 6.into();
        six
    })
    .unwrap();
    fs::write(&file, &bytes).unwrap();
    let words = ["catalog", "reset", "--to", file.to_str().unwrap()];
    refused(&run(&host, &public, &words), "reset.json.minisig");
    let (_, other) = key(&bench, "other");
    fs::write(bench.path("reset.json.minisig"), sign(&bench, &other, &bytes)).unwrap();
    refused(&run(&host, &public, &words), "no key of catalog.keys has signed");
    fs::write(bench.path("reset.json.minisig"), sign(&bench, &secret, &bytes)).unwrap();
    let done = well(&run(&host, &public, &words));
    assert_eq!((done["was"].as_u64(), done["serial"].as_u64()), (Some(4_294_967_301), Some(6)));
    bench.put("catalog.json.minisig", &sign(&bench, &secret, &bytes));
    bench.put("catalog.json", &bytes);
    well(&ensure());
    with(json!(7));
    well(&ensure());
    // Also what the store keeps was set back: a rebuild knows 7.
    fs::remove_file(host.state().join("registry.db")).unwrap();
    well(&run(&host, &public, &["rebuild"]));
    with(json!(6));
    refused(&ensure(), "of serial 7 was believed");
    for words in [&["catalog", "reset"][..], &["catalog", "--to", "x"], &["catalog", "reste"]] {
        assert_eq!(run(&host, &public, words).status.code(), Some(100), "{words:?}");
    }
    host.check();
}

#[test]
fn one_image_listed_twice_is_refused() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let good = made(&bench, 1);
    let host = bench.host("host");
    let text = format!(
        r#"{{"version":1,"serial":1,"images":{{"a/":{},"a/":{}}}}}"#,
        good["images"]["b/"], good["images"]["a/"]
    );
    bench.put("catalog.json.minisig", &sign(&bench, &secret, text.as_bytes()));
    bench.put("catalog.json", text.as_bytes());
    refused(&run(&host, &public, &["ensure", A]), "is in it twice");
}

#[test]
fn version_2_expires_and_a_manifest_stops_no_other_image() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let one = made(&bench, 1);
    let digest = format!("sha256:{}", "7".repeat(64));
    let two = |serial: u64, expires: Value| {
        let a =
            json!({"layers": one["images"]["a/"], "blocks": {format!("{digest}/4096"): digest}});
        let images = json!({"a/": a, "b/": {"manifest": digest}, "c/": {"manifest": digest}});
        publish(
            &bench,
            &secret,
            &json!({"version": 2, "serial": serial, "expires": expires, "images": images}),
        );
    };
    publish(&bench, &secret, &one);
    let host = bench.host("host");
    let run = |words: &[&str]| run(&host, &public, words);
    for (image, name) in [(A, "one"), (B, "two")] {
        well(&run(&["activate", image, "--name", name]));
        well(&run(&["deactivate", name]));
    }
    two(2, json!("2100-01-01T00:00:00Z"));
    well(&run(&["activate", A, "--name", "new"]));
    refused(&run(&["ensure", B]), "s3://bucket/b/ is given by a manifest");
    refused(&run(&["ensure", "s3://bucket/c/"]), "s3://bucket/c/ is given by a manifest");
    // It is listed, so what is here of it is not revoked.
    well(&run(&["activate", B, "--name", "two"]));
    well(&run(&["deactivate", "two"]));
    let printed = well(&run(&["catalog"]));
    assert_eq!(
        (printed["version"].as_u64(), printed["expires"].as_str()),
        (Some(2), Some("2100-01-01T00:00:00Z"))
    );
    assert_eq!(printed["images"]["b/"]["manifest"], digest.as_str());
    let (code, health) = said(&run(&["health"]));
    assert!(code == Some(0) && health.contains("expires at 2100-01-01T00:00:00Z"), "{health}");
    // A server that holds newer ones back: nothing new, and what is here goes on.
    two(3, json!(1_600_000_000));
    refused(&run(&["ensure", A]), "has expired at 2020-09-13T12:26:40Z");
    refused(&run(&["activate", A, "--name", "newer"]), "has expired at");
    well(&run(&["activate", A, "--name", "one"]));
    goes_down(&host, "one");
    well(&run(&["recover"]));
    assert!(is_up(&host, "one"));
    let (code, health) = said(&run(&["health"]));
    assert!(code == Some(1) && health.contains("serial 3 has expired at"), "{health}");
    let (_, metrics) = said(&run(&["metrics"]));
    assert!(metrics.contains("veneer_catalog_expires_timestamp_seconds 1600000000"), "{metrics}");
    // A grace is a setting.
    let mut patient = host.command(&["ensure", A]);
    patient.env("VENEER_CATALOG_URL", URL).env("VENEER_CATALOG_KEYS", &public);
    well(&patient.env("VENEER_CATALOG_GRACE", "100000000000").output().unwrap());
    two(4, json!("2100-01-01T00:00:00Z"));
    well(&run(&["ensure", A]));
    let made = well(&run(&["catalog", "--make", "9", "--expires", "2100-01-01T00:00:00Z"]));
    assert_eq!(
        (made["version"].as_u64(), made["images"]["a/"]["layers"].is_array()),
        (Some(2), true)
    );
    refused(&run(&["catalog", "--make", "9", "--expires", "tomorrow"]), "--expires \"tomorrow\"");
    host.check();
}
