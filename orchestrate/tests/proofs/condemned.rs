//! A sealed volume that is not as it was sealed, or gone, is never built on or handed out again: the next
//! one who asks gets a sound one, what stands on the bad one is named, and it goes when nothing does.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn run(host: &Host<'_>, words: &[&str]) -> (Value, String, Option<i32>) {
    let output = host.command(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), said, output.status.code())
}

/// The volume of a layer of an image, from 1.
fn volume(host: &Host<'_>, image: &str, layer: usize) -> u32 {
    let listing = host.ok(&["ls"]);
    let images = listing["images"].as_array().unwrap().clone();
    let image = images.into_iter().find(|line| line["image"] == image).unwrap();
    u32::try_from(image["layers"][layer - 1]["volume"].as_u64().unwrap()).unwrap()
}

fn tree(host: &Host<'_>, volume: u32) -> PathBuf {
    host.store().join("volumes").join(volume.to_string())
}

/// One byte of it is another one now.
fn flip(host: &Host<'_>, volume: u32) {
    let file = tree(host, volume).join("srv/layer-1/2");
    let mut content = fs::read(&file).unwrap();
    content[3] ^= 1;
    fs::write(&file, content).unwrap();
}

fn sound(host: &Host<'_>) -> (bool, String) {
    let (found, _, _) = run(host, &["health"]);
    let checks = found["checks"].as_array().unwrap().clone();
    let check = checks.into_iter().find(|check| check["name"] == "sound").expect("a check `sound`");
    (check["ok"] == true, check["reason"].as_str().unwrap().to_owned())
}

#[test]
fn a_changed_layer_is_condemned_and_built_anew_and_goes_when_nothing_stands_on_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["ensure", B]);
    let (shared, top, top_b) = (volume(&host, A, 2), volume(&host, A, 3), volume(&host, B, 3));
    assert!(sound(&host).0);
    flip(&host, shared);
    let (found, said, code) = run(&host, &["verify"]);
    assert_eq!(code, Some(1), "{said}");
    // With it go those that share its blocks, and what stands on them is named.
    let condemned: Vec<u64> = found["condemned"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["volume"].as_u64().unwrap())
        .collect();
    assert_eq!(condemned, [shared, top, top_b].map(u64::from), "{found}");
    assert_eq!(found["images"], json!([A, B]), "{found}");
    assert_eq!(found["activations"], json!(["a-1"]), "{found}");
    let listing = host.ok(&["ls"]);
    let bad = &listing["images"][0]["layers"][1];
    assert!(bad["condemned"].as_str().unwrap().contains("differs"), "{bad}");
    assert!(listing["activations"][0]["condemned"].is_string(), "{listing}");
    assert_eq!(host.ok(&["df"])["condemned"], json!([shared, top, top_b]));
    let (ok, reason) = sound(&host);
    assert!(!ok && reason.contains("a-1") && reason.contains("orchestrate ensure"), "{reason}");
    // Looked at again, it is said again, and nothing new comes of it.
    assert_eq!(run(&host, &["verify"]).2, Some(1));

    // As it is here it is not handed out.
    let (_, said, code) = run(&host, &["activate", B, "--name", "b-1", "--no-fetch"]);
    assert_eq!(code, Some(100), "{said}");
    assert!(said.contains("condemned") && said.contains("orchestrate ensure"), "{said}");
    // The way out: built anew under new ids, and what was handed out stays as it is.
    let ensured = host.ok(&["ensure", A]);
    let how: Vec<&str> =
        ensured["layers"].as_array().unwrap().iter().map(|l| l["how"].as_str().unwrap()).collect();
    assert_eq!(how, ["reused", "built", "built"], "{ensured}");
    assert!(volume(&host, A, 2) > top_b);
    host.ok(&["activate", A, "--name", "a-2"]);
    host.ok(&["activate", B, "--name", "b-1"]);
    host.check_tree("a-2", 3);
    host.check_tree("b-1", 4);
    assert!(tree(&host, shared).exists());
    let (ok, reason) = sound(&host);
    assert!(!ok && reason.contains("a-1") && !reason.contains(B), "{reason}");
    let (found, _, code) = run(&host, &["verify"]);
    assert_eq!((code, &found["activations"]), (Some(1), &json!(["a-1"])), "{found}");
    assert_eq!(run(&host, &["verify", A]).2, Some(0), "the image is sound again");
    // What nothing stands on goes; the last of it with the activation.
    host.ok(&["gc"]);
    assert!(tree(&host, shared).exists() && !tree(&host, top_b).exists());
    host.ok(&["rm", "a-1"]);
    host.ok(&["gc"]);
    assert!(!tree(&host, shared).exists());
    assert!(sound(&host).0);
    assert_eq!(host.ok(&["verify"])["intact"], true);
    assert_eq!(host.ok(&["df"])["condemned"], json!([]));
    host.check();
}

#[test]
fn a_layer_that_is_gone_is_built_anew_by_who_needs_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let top = volume(&host, A, 3);
    fs::remove_dir_all(tree(&host, top)).unwrap();
    // The snapshot finds it gone; the same command builds it.
    let (done, said, code) = run(&host, &["activate", A, "--name", "a-1"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(done["ensured"]["layers"][2]["how"], "built", "{done}");
    host.check_tree("a-1", 3);
    // One in the middle, under a layer that is to be built.
    let middle = volume(&host, A, 2);
    fs::remove_dir_all(tree(&host, middle)).unwrap();
    let (_, said, code) = run(&host, &["activate", B, "--name", "b-1"]);
    assert_eq!(code, Some(0), "{said}");
    host.check_tree("b-1", 4);
    // And the template under all of them.
    let template: u32 =
        host.rows("SELECT id FROM volumes WHERE role = 'template'")[0].parse().unwrap();
    fs::remove_dir_all(tree(&host, template)).unwrap();
    bench.put("c/1.tar", &tests::layer::of(&[("srv/c".into(), b"c".to_vec())]));
    let (_, said, code) = run(&host, &["activate", "s3://bucket/c/", "--name", "c-1"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read(host.store().join("active/c-1/srv/c")).unwrap(), b"c");
    assert_eq!(host.rows("SELECT count(*) FROM volumes WHERE state <> 'sealed'"), ["0"]);
    // What cannot be looked at because it is gone is said by `verify` too.
    let id = volume(&host, "s3://bucket/c/", 1);
    fs::remove_dir_all(tree(&host, id)).unwrap();
    let (found, _, code) = run(&host, &["verify", "s3://bucket/c/"]);
    assert_eq!((code, &found["condemned"][0]["volume"]), (Some(1), &json!(id)), "{found}");
}

#[test]
fn a_look_that_was_in_the_way_condemns_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let build = host.rows("SELECT build FROM volumes WHERE role = 'layer' ORDER BY id LIMIT 1");
    let locks = orchestrate_locks(&host, &build[0]);
    let (found, said, code) = run(&host, &["verify", "--wait", "1"]);
    assert_eq!(code, Some(111), "{found} {said}");
    drop(locks);
    assert_eq!(host.ok(&["verify"])["intact"], true);
}

/// Holds every lock of the state directory, as a living process that builds would.
fn orchestrate_locks(host: &Host<'_>, _build: &str) -> Vec<fs::File> {
    let dir = host.state().join("locks");
    let mut held = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("build") {
            let file = fs::File::open(entry.path()).unwrap();
            file.lock().unwrap();
            held.push(file);
        }
    }
    held
}

#[test]
fn a_rebuild_of_two_volumes_of_one_stack_takes_the_sound_one_and_keeps_the_other() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    let bad = volume(&host, A, 2);
    flip(&host, bad);
    assert_eq!(run(&host, &["verify"]).2, Some(1));
    host.ok(&["activate", A, "--name", "a-2"]);
    let good = volume(&host, A, 2);
    assert!(good > bad);
    for lost in [false, true] {
        let copy = host.copy_to(if lost { "lost" } else { "kept" });
        if lost {
            fs::remove_dir_all(copy.state()).unwrap();
        }
        let words = if lost { &["rebuild", "--take-over"][..] } else { &["rebuild"] };
        let done = copy.ok(words);
        assert_eq!(done["layers"], 5, "{done}");
        assert_eq!(volume(&copy, A, 2), good);
        assert_eq!(copy.ok(&["df"])["condemned"].as_array().unwrap().len(), 2, "lost {lost}");
        assert_eq!(copy.ok(&["ensure", A])["fetched_objects"], 0);
        copy.check();
    }
}
