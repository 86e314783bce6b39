//! The commands that meet a full file system: what each is, and what comes before it on a host with something
//! of everything.

use std::fs;

use serde_json::Value;
use tests::layer;
use tests::oci::Image;
use tests::trace::Whose;

use super::{A, B, Disk};
use crate::bench::{Bench, Host};
use crate::catalog::{URL, key, made, sign};
use crate::matrix::killed_once;

/// A command, and what comes before it.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Makes the host ready, and gives the words; `{out}` is a directory on a file system with room, or on the
    /// store's where that is what becomes full.
    pub(super) ready: fn(&Host<'_>) -> Vec<String>,
    /// What the settings are.
    pub(super) settings: fn(&Bench) -> String,
    /// Whose changes are counted.
    pub(super) whose: Whose,
    /// Which file system becomes full.
    pub(super) disk: Disk,
    /// Whether the command makes room: then it works in a full directory when it is asked for again.
    pub(super) makes_room: bool,
    /// What there is of the host's registry before the command.
    pub(super) before: Before,
    /// How it ends where there is room.
    pub(super) code: i32,
    /// Whether its answer may be right though something of it could not be kept: then it is asked for again.
    pub(super) again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// All of it.
    Whole,
    /// Nothing, nor anything else of the host.
    Nothing,
    /// It was lost.
    Lost,
}

fn plain(_: &Bench) -> String {
    String::new()
}

const fn case(name: &'static str, ready: fn(&Host<'_>) -> Vec<String>) -> Case {
    Case {
        name,
        ready,
        settings: plain,
        whose: Whose::Main,
        disk: Disk::State,
        makes_room: false,
        before: Before::Whole,
        code: 0,
        again: false,
    }
}

const fn room(name: &'static str, ready: fn(&Host<'_>) -> Vec<String>) -> Case {
    Case { makes_room: true, ..case(name, ready) }
}

/// The same with the file system of the store.
const fn store(case: Case) -> Case {
    Case { disk: Disk::Store, ..case }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A scanner that finds nothing.
fn scanner(bench: &Bench) -> String {
    let path = bench.path("scanner");
    let text = "#!/bin/sh\necho '{\"SchemaVersion\": 2, \"Results\": []}'\n";
    fs::write(&path, text).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("[scan]\ncommand = [\"{}\", \"{{}}\"]\n", path.display())
}

fn required(bench: &Bench) -> String {
    scanner(bench) + "policy = \"required\"\n"
}

/// A catalog of this serial is published, and one of serial 1 is in files, to come back to.
fn catalog_of(bench: &Bench, serial: u64) -> String {
    let public = bench.path("full.pub");
    let secret = bench.path("full.key").to_string_lossy().into_owned();
    if !public.exists() {
        key(bench, "full");
        let catalog = made(bench, 2);
        bench.host("maker").wipe();
        fs::write(bench.path("listed"), catalog["images"].to_string()).unwrap();
    }
    let images = fs::read(bench.path("listed")).unwrap();
    let images: Value = serde_json::from_slice(&images).unwrap();
    let bytes = |serial: u64| {
        let catalog = serde_json::json!({"version": 1, "serial": serial, "images": images});
        serde_json::to_vec_pretty(&catalog).unwrap()
    };
    let first = bytes(1);
    fs::write(bench.path("first.json"), &first).unwrap();
    fs::write(bench.path("first.json.minisig"), sign(bench, &secret, &first)).unwrap();
    let now = bytes(serial);
    bench.put("catalog.json.minisig", &sign(bench, &secret, &now));
    bench.put("catalog.json", &now);
    format!("[catalog]\nurl = \"{URL}\"\nkeys = [\"{}\"]\n", public.display())
}

fn catalog(bench: &Bench) -> String {
    catalog_of(bench, 2)
}

/// A second one is believed after a first.
fn newer_catalog(host: &Host<'_>) -> Vec<String> {
    host.ok(&["catalog"]);
    catalog_of(host.bench(), 3);
    words(&["catalog"])
}

fn catalog_back(host: &Host<'_>) -> Vec<String> {
    host.ok(&["catalog"]);
    let file = host.bench().path("first.json");
    words(&["catalog", "reset", "--to", &file.to_string_lossy()])
}

/// An image whose second layer is refused.
fn refused(host: &Host<'_>) -> Vec<String> {
    let bench = host.bench();
    bench.put("refused/1.tar", &layer::stacked(1, 4, 2000));
    bench.put("refused/2.tar", &layer::named("../escape"));
    words(&["ensure", REFUSED])
}

fn released(host: &Host<'_>) -> Vec<String> {
    let (code, said) = host.said(&[&refused(host)[0], REFUSED]);
    assert_eq!(code, 100, "{said}");
    let digest = &host.rows("SELECT digest FROM quarantine")[0];
    words(&["quarantine", "--release", &format!("sha256:{digest}")])
}

fn fork(host: &Host<'_>) -> Vec<String> {
    host.ok(&["deactivate", "a-1"]);
    words(&["fork", "a-1", "f-1"])
}

fn back_to_a_point(host: &Host<'_>) -> Vec<String> {
    host.ok(&["snapshot", "a-3", "p"]);
    let id = &host.rows("SELECT id FROM activations WHERE name = 'a-3'")[0];
    fs::write(host.store().join("volumes").join(id).join("later"), "later").unwrap();
    words(&["restore", "a-3", "p"])
}

/// An activation with a change, to be a layer.
fn changed(host: &Host<'_>, export: &[&str]) -> Vec<String> {
    let tree = host.store().join("active/a-1/srv");
    fs::write(tree.join("new"), vec![b'n'; 100_000]).unwrap();
    words(export)
}

/// An activation of an image in a layout, which gets a second image.
fn into_a_layout(host: &Host<'_>) -> Vec<String> {
    let layer = host.bench().path("of-a-layout.tar");
    fs::write(&layer, layer::stacked(6, 4, 2000)).unwrap();
    let image = Image::new(&[layer], ("org.opencontainers.image.ref.name", "v1")).unwrap();
    let layout = host.dir.join("out/layout");
    image.write(&layout).unwrap();
    host.ok(&["activate", &format!("oci:{}:v1", layout.display()), "--name", "w-1"]);
    fs::write(host.store().join("active/w-1/srv/new"), vec![b'n'; 20_000]).unwrap();
    words(&["export", "w-1", "--image", "oci:{out}/layout:v2"])
}

const REFUSED: &str = "s3://bucket/refused/";
const ACTIVATE_B: &[&str] = &["activate", B, "--name", "b-1"];
const BUNDLE: &[&str] = &["bundle", "a-1", "{out}/bundle", "--empty-machine-id", "--", "/bin/sh"];

pub(super) const CASES: &[Case] = &[
    Case { before: Before::Nothing, ..case("activate, fresh host", |_| words(ACTIVATE_B)) },
    case("activate", |_| words(ACTIVATE_B)),
    case("activate without a fetch", |_| words(&["activate", A, "--name", "a-4", "--no-fetch"])),
    case("activate with files of the caller's", |_| {
        words(&["activate", A, "--name", "a-4", "--copy", "/etc/passwd:/sbin/init:0755"])
    }),
    case("activate what is down", |_| words(&["activate", A, "--name", "a-3"])),
    case("ensure", |_| words(&["ensure", B])),
    case("pin", |_| words(&["pin", A])),
    room("unpin", |host| {
        host.ok(&["pin", A]);
        words(&["unpin", A])
    }),
    case("checked", |_| words(&["checked", "a-1"])),
    case("verify", |_| words(&["verify"])),
    case("rebuild", |_| words(&["rebuild"])),
    Case {
        before: Before::Lost,
        ..case("rebuild of a lost registry", |host| {
            host.lose_registry();
            words(&["rebuild"])
        })
    },
    room("cancel of what was killed", |host| {
        killed_once(host, ACTIVATE_B, "active/b-1");
        words(&["cancel", &host.rows("SELECT max(id) FROM runs")[0]])
    }),
    room("recover of what was killed", |host| {
        killed_once(host, &["rm", "a-1"], "active/a-1");
        words(&["recover"])
    }),
    room("deactivate", |_| words(&["deactivate", "a-1"])),
    room("rm of an activation", |_| words(&["rm", "a-1"])),
    room("rm of an image", |_| words(&["rm", "s3://bucket/garbage/"])),
    room("gc", |_| words(&["gc"])),
    Case {
        // No collection makes the file system of a directory store empty.
        code: 1,
        ..room("gc of every image", |host| {
            host.ok(&["ensure", B]);
            words(&["gc", "--keep-bytes", "0"])
        })
    },
    case("bundle", |_| words(BUNDLE)),
    Case { settings: scanner, ..case("scan", |_| words(&["scan", A])) },
    Case { settings: required, ..case("activate after a scan", |_| words(ACTIVATE_B)) },
    Case { settings: catalog, ..case("catalog, the first", |_| words(&["catalog"])) },
    Case { settings: catalog, ..case("catalog, a newer one", newer_catalog) },
    Case { settings: catalog, ..case("catalog reset", catalog_back) },
    Case { settings: catalog, ..case("activate what a catalog lists", |_| words(ACTIVATE_B)) },
    Case { code: 100, again: true, ..case("ensure of what is refused", refused) },
    case("quarantine, a release", released),
    case("fork", fork),
    case("snapshot", |_| words(&["snapshot", "a-3", "p"])),
    case("restore", back_to_a_point),
    case("label", |_| words(&["label", "a-1", "tier=1"])),
    case("ttl", |_| words(&["ttl", "a-1", "9h"])),
    case("rename", |_| words(&["rename", "a-1", "z-1"])),
    // And the store.
    store(Case {
        before: Before::Nothing,
        ..case("activate, fresh host, store", |_| words(ACTIVATE_B))
    }),
    store(case("activate, store", |_| words(ACTIVATE_B))),
    store(case("activate without a fetch, store", |_| {
        words(&["activate", A, "--name", "a-4", "--no-fetch"])
    })),
    store(case("activate with files of the caller's, store", |_| {
        words(&["activate", A, "--name", "a-4", "--copy", "/etc/passwd:/sbin/init:0755"])
    })),
    store(case("activate what is down, store", |_| words(&["activate", A, "--name", "a-3"]))),
    store(case("ensure, store", |_| words(&["ensure", B]))),
    store(Case {
        before: Before::Nothing,
        whose: Whose::Children,
        ..case("activate, fresh host, store, where layers are applied", |_| words(ACTIVATE_B))
    }),
    store(Case { code: 100, again: true, ..case("ensure of what is refused, store", refused) }),
    store(case("fork, store", fork)),
    store(case("snapshot, store", |_| words(&["snapshot", "a-3", "p"]))),
    store(case("restore, store", back_to_a_point)),
    store(case("rename, store", |_| words(&["rename", "a-1", "z-1"]))),
    store(case("rebuild, store", |_| words(&["rebuild"]))),
    store(Case {
        before: Before::Lost,
        ..case("rebuild of a lost registry, store", |host| {
            host.lose_registry();
            words(&["rebuild"])
        })
    }),
    // That the store did not keep the serial is told, and it is told to the store again.
    store(Case {
        settings: catalog,
        again: true,
        ..case("catalog, the first, store", |_| words(&["catalog"]))
    }),
    store(Case {
        settings: catalog,
        again: true,
        ..case("catalog, a newer one, store", newer_catalog)
    }),
    store(Case { settings: catalog, ..case("catalog reset, store", catalog_back) }),
    store(case("bundle on the store's disk", |_| words(BUNDLE))),
    store(case("export to a file on the store's disk", |host| {
        changed(host, &["export", "a-1", "-o", "{out}/layer.tar"])
    })),
    store(case("export to an image on the store's disk", into_a_layout)),
    store(room("deactivate, store", |_| words(&["deactivate", "a-1"]))),
    store(room("rm of an activation, store", |_| words(&["rm", "a-1"]))),
    store(room("rm of an image, store", |_| words(&["rm", "s3://bucket/garbage/"]))),
    store(room("gc, store", |_| words(&["gc"]))),
    store(room("recover of what was killed, store", |host| {
        killed_once(host, &["rm", "a-1"], "active/a-1");
        words(&["recover"])
    })),
    store(room("cancel of what was killed, store", |host| {
        killed_once(host, ACTIVATE_B, "active/b-1");
        words(&["cancel", &host.rows("SELECT max(id) FROM runs")[0]])
    })),
];
