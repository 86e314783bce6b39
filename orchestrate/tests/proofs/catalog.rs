//! The signed catalog: with a key trusted, only what is signed and listed is made or activated. Keys and
//! signatures are minisign's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::bench::{Bench, Host};

const URL: &str = "s3://bucket/catalog.json";
const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn minisign(words: &[&str]) {
    let done = Command::new("minisign").args(words).output().expect("no minisign: run ./bootstrap");
    assert!(done.status.success(), "minisign {words:?}: {done:?}");
}

/// The files of a fresh key: public, secret.
fn key(bench: &Bench, name: &str) -> (String, String) {
    let file = |end: &str| bench.path(&format!("{name}.{end}")).to_string_lossy().into_owned();
    let (public, secret) = (file("pub"), file("key"));
    minisign(&["-G", "-W", "-p", &public, "-s", &secret]);
    (public, secret)
}

fn sign(bench: &Bench, secret: &str, catalog: &[u8]) -> Vec<u8> {
    let file: PathBuf = bench.path("to-sign");
    fs::write(&file, catalog).unwrap();
    minisign(&["-S", "-W", "-s", secret, "-m", &file.to_string_lossy()]);
    fs::read(bench.path("to-sign.minisig")).unwrap()
}

fn publish(bench: &Bench, secret: &str, catalog: &Value) {
    let bytes = serde_json::to_vec_pretty(catalog).unwrap();
    bench.put("catalog.json.minisig", &sign(bench, secret, &bytes));
    bench.put("catalog.json", &bytes);
}

fn run(host: &Host<'_>, keys: &str, words: &[&str]) -> Output {
    let mut command = host.command(words);
    command.env("VENEER_CATALOG_URL", URL).env("VENEER_CATALOG_KEYS", keys).output().unwrap()
}

fn refused(output: &Output, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(100), "{wanted}: {output:?}");
    assert!(said.contains(wanted), "{wanted} in {said}");
}

/// A catalog of what a host has that ensured both images.
fn made(bench: &Bench, serial: u64) -> Value {
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
    publish(&bench, &secret, &json!({"version": 2, "serial": 1, "images": {}}));
    refused(&ensure(), "version 2");
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
    refused(&ensure(), "the size of \"a/2.tar\" differs");
    with(&|layers| layers[1]["etag"] = "\"other\"".into());
    refused(&ensure(), "the ETag of \"a/2.tar\" differs");
    with(&|layers| layers[1]["key"] = "a/3.tar".into());
    refused(&ensure(), "the name or place of \"a/2.tar\" differs");
    with(&|layers| drop(layers.as_array_mut().unwrap().pop()));
    refused(&ensure(), "2 layers in it, 3 on the server");
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
}
