//! An image that a newer catalog lists no longer: no activation of it comes up again, by whatever way.

use std::fs;
use std::process::Command;

use crate::bench::Bench;
use crate::catalog::{
    A, B, URL, goes_down, is_up, key, made, publish, refused, run, said, well, without,
};

#[test]
fn no_activation_of_a_revoked_image_comes_up_again() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let first = made(&bench, 1);
    publish(&bench, &secret, &first);
    let host = bench.host("host");
    let run = |words: &[&str]| run(&host, &public, words);
    for (image, name) in
        [(A, "inactive"), (A, "runs"), (A, "booted"), (B, "other"), (B, "other-booted")]
    {
        well(&run(&["activate", image, "--name", name]));
    }
    well(&run(&["deactivate", "inactive"]));
    goes_down(&host, "booted");
    goes_down(&host, "other-booted");
    publish(&bench, &secret, &without(&first, 2, "a/"));
    // The catalog is asked before anything of it is brought up; an inactive name counts as a new one.
    refused(&run(&["activate", A, "--name", "booted"]), "is revoked");
    let again = ["activate", A, "--name", "inactive"];
    refused(&run(&again), "\"a/\" in the catalog of serial 2");
    refused(&run(&["activate", A, "--name", "new"]), "no image \"a/\" in it");
    let repairs = well(&run(&["recover"]));
    assert!(!is_up(&host, "booted") && is_up(&host, "other-booted"), "{repairs}");
    assert!(is_up(&host, "runs") && !is_up(&host, "inactive"));
    let told = repairs["unsettled"][0].to_string();
    assert!(told.contains("activation booted") && told.contains("revoked"), "{repairs}");
    // The one that runs is named where people and machines look.
    let ls = well(&run(&["ls"]));
    let barred: Vec<&str> = ls["activations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| !line["barred"].is_null())
        .map(|line| line["name"].as_str().unwrap())
        .collect();
    assert_eq!(barred, ["booted", "inactive", "runs"]);
    let (code, health) = said(&run(&["health"]));
    assert!(code == Some(1) && health.contains("activation runs runs: "), "{health}");
    let (_, metrics) = said(&run(&["metrics"]));
    for line in [
        "veneer_activations_barred 1",
        "veneer_activation_barred_info{name=\"runs\"} 1",
        "veneer_catalog_serial 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // It is up, and nothing else was asked for.
    assert_eq!(well(&run(&["activate", A, "--name", "runs"]))["already"], true);
    // Taken down only by a setting; what was written to it is kept.
    let settings = [
        ("VENEER_CATALOG_URL", URL),
        ("VENEER_CATALOG_KEYS", public.as_str()),
        ("VENEER_CATALOG_RUNNING", "deactivate"),
    ];
    well(&host.command(&["recover"]).envs(settings).output().unwrap());
    assert!(!is_up(&host, "runs") && is_up(&host, "other"));
    refused(&run(&["activate", A, "--name", "runs"]), "is revoked");
    // Without the setting for the catalog nothing is judged by it; listed again, all come up.
    publish(&bench, &secret, &{
        let mut third = first.clone();
        third["serial"] = 3.into();
        third
    });
    well(&run(&["catalog"]));
    well(&run(&["recover"]));
    assert!(is_up(&host, "booted"));
    well(&run(&again));
    well(&run(&["activate", A, "--name", "runs"]));
    host.check();
}

#[test]
fn a_server_that_is_away_keeps_nothing_down_that_is_not_revoked() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let first = made(&bench, 1);
    publish(&bench, &secret, &first);
    let host = bench.host("host");
    let away = |words: &[&str]| {
        let command = host.command(words);
        let proxy = format!("http://{}", bench.proxy.address);
        let nobody = |word: &std::ffi::OsStr| {
            if *word == *proxy { "http://127.0.0.1:1".into() } else { word.to_owned() }
        };
        let mut other = Command::new(command.get_program());
        other
            .args(command.get_args().map(nobody))
            .env("VENEER_CONFIG", bench.path("settings.toml"));
        other.env("VENEER_CATALOG_URL", URL).env("VENEER_CATALOG_KEYS", &public).output().unwrap()
    };
    for (image, name) in [(A, "one"), (B, "two")] {
        well(&run(&host, &public, &["activate", image, "--name", name]));
        well(&run(&host, &public, &["deactivate", name]));
    }
    publish(&bench, &secret, &without(&first, 2, "a/"));
    well(&run(&host, &public, &["catalog"]));
    // The other server is not the image's; it only has to be one that does not answer.
    for name in ["one", "two"] {
        let sql = "UPDATE activations SET endpoint = 'http://127.0.0.1:1'";
        rusqlite::Connection::open(host.state().join("registry.db"))
            .unwrap()
            .execute(sql, [])
            .unwrap();
        let (code, text) =
            said(&away(&["activate", if name == "one" { A } else { B }, "--name", name]));
        match name {
            "one" => assert!(code == Some(100) && text.contains("is revoked"), "{text}"),
            _ => {
                assert!(code == Some(0) && text.contains("catalog of serial 2 has to do"), "{text}")
            }
        }
    }
    // One that is played back says nothing either.
    let sql = format!("UPDATE activations SET endpoint = 'http://{}'", bench.proxy.address);
    rusqlite::Connection::open(host.state().join("registry.db"))
        .unwrap()
        .execute(&sql, [])
        .unwrap();
    well(&run(&host, &public, &["deactivate", "two"]));
    publish(&bench, &secret, &first);
    refused(&run(&host, &public, &["activate", A, "--name", "one"]), "is revoked");
    well(&run(&host, &public, &["activate", B, "--name", "two"]));
}

#[test]
fn what_an_image_was_before_is_revoked_only_by_a_setting() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let first = made(&bench, 1);
    publish(&bench, &secret, &first);
    let host = bench.host("host");
    well(&run(&host, &public, &["activate", A, "--name", "one"]));
    well(&run(&host, &public, &["deactivate", "one"]));
    let mut second = first.clone();
    second["serial"] = 2.into();
    second["images"]["a/"][2]["sha256"] = first["images"]["b/"][2]["sha256"].clone();
    publish(&bench, &secret, &second);
    let mut strict = host.command(&["activate", A, "--name", "one"]);
    strict.env("VENEER_CATALOG_URL", URL).env("VENEER_CATALOG_KEYS", &public);
    let strict = strict.env("VENEER_CATALOG_SUPERSEDED", "revoke").output().unwrap();
    refused(&strict, "\"a/\" has other layers in the catalog of serial 2");
    well(&run(&host, &public, &["activate", A, "--name", "one"]));
    host.check();
}

#[test]
fn after_a_rebuild_a_catalog_that_is_played_back_brings_nothing_up() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let first = made(&bench, 1);
    publish(&bench, &secret, &first);
    let host = bench.host("host");
    well(&run(&host, &public, &["activate", A, "--name", "one"]));
    well(&run(&host, &public, &["deactivate", "one"]));
    publish(&bench, &secret, &without(&first, 2, "a/"));
    well(&run(&host, &public, &["catalog"]));
    host.lose_registry();
    let rebuilt = well(&run(&host, &public, &["rebuild"]));
    let name = rebuilt["activations"][0].as_str().unwrap().to_owned();
    publish(&bench, &secret, &first);
    refused(&run(&host, &public, &["activate", A, "--name", &name]), "serial 2 was believed");
    publish(&bench, &secret, &without(&first, 2, "a/"));
    refused(&run(&host, &public, &["activate", A, "--name", &name]), "is revoked");
}

/// What a catalog listed is known again only when it was read again: until then nothing comes up that the
/// registry before may have known to be revoked. Where that can be read, it is known at once.
#[test]
fn after_a_rebuild_recovery_brings_nothing_up_that_was_revoked() {
    for lost in [true, false] {
        let bench = Bench::small();
        let (public, secret) = key(&bench, "good");
        let first = made(&bench, 1);
        publish(&bench, &secret, &first);
        let host = bench.host("host");
        for (image, name) in [(A, "revoked"), (B, "sound")] {
            well(&run(&host, &public, &["activate", image, "--name", name]));
        }
        let second = without(&first, 2, "a/");
        publish(&bench, &secret, &second);
        well(&run(&host, &public, &["catalog"]));
        if lost {
            host.lose_registry();
        }
        well(&run(&host, &public, &["rebuild"]));
        for name in ["revoked", "sound"] {
            goes_down(&host, name);
        }
        // Who answers for the server plays the first one back.
        publish(&bench, &secret, &first);
        for words in [&["recover"][..], &["gc"]] {
            well(&run(&host, &public, words));
            assert!(!is_up(&host, "revoked"), "{words:?}, the registry was lost: {lost}");
            assert_eq!(is_up(&host, "sound"), !lost, "{words:?}, the registry was lost: {lost}");
        }
        publish(&bench, &secret, &second);
        well(&run(&host, &public, &["catalog"]));
        well(&run(&host, &public, &["recover"]));
        assert!(is_up(&host, "sound") && !is_up(&host, "revoked"));
    }
}

#[test]
fn a_registry_of_before_a_catalog_was_believed_is_found_out() {
    let bench = Bench::small();
    let (public, secret) = key(&bench, "good");
    let first = made(&bench, 1);
    publish(&bench, &secret, &first);
    let host = bench.host("host");
    well(&run(&host, &public, &["activate", A, "--name", "one"]));
    well(&run(&host, &public, &["deactivate", "one"]));
    let kept = bench.path("kept.db");
    let registry = registry::Registry::open(&host.state().join("registry.db")).unwrap();
    registry.backup(&kept, 0).unwrap();
    drop(registry);
    publish(&bench, &secret, &without(&first, 2, "a/"));
    well(&run(&host, &public, &["catalog"]));
    for part in ["registry.db-wal", "registry.db-shm"] {
        fs::remove_file(host.state().join(part)).ok();
    }
    fs::copy(&kept, host.state().join("registry.db")).unwrap();
    publish(&bench, &secret, &first);
    let (code, text) = said(&run(&host, &public, &["activate", A, "--name", "one"]));
    assert_eq!(code, Some(100), "{text}");
    assert!(text.contains("rebuild"), "{text}");
}
