//! What operators say of activations: labels, a time after which one goes, read-only, another name; and who uses one.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};

use nix::mount::umount;
use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::Connection;
use serde_json::{Value, json};
use tests::trace::{self, Act, Call, Effect, Side, Whose};

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";

fn activation(host: &Host<'_>, name: &str) -> Value {
    host.ok(&["show", name])["activation"].clone()
}

fn names(listing: &Value) -> Vec<&str> {
    let lines = listing["activations"].as_array().unwrap();
    lines.iter().map(|line| line["name"].as_str().unwrap()).collect()
}

/// Refused for good, with these words.
fn refused(host: &Host<'_>, words: &[&str], why: &str) {
    let (code, said) = host.said(words);
    assert!(code == 100 && said.contains(why), "{words:?}: {code}: {said}");
}

/// Somebody at work in an activation's tree.
struct Worker(Child);

impl Worker {
    fn in_tree(host: &Host<'_>, name: &str) -> Worker {
        let tree = host.store().join("active").join(name);
        Worker(Command::new("sleep").arg("600").current_dir(tree).spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn labels_are_set_changed_and_asked_for() {
    let bench = Bench::small();
    let host = bench.host("host");
    let words = ["activate", A, "--name", "web-1", "--label", "app=web", "--label", "tier=front"];
    host.ok(&words);
    host.ok(&["activate", A, "--name", "db-1", "--label", "app=db"]);
    host.ok(&["activate", A, "--name", "bare"]);
    assert_eq!(activation(&host, "web-1")["labels"], json!({"app": "web", "tier": "front"}));
    assert_eq!(activation(&host, "bare")["labels"], json!({}));
    assert_eq!(names(&host.ok(&["ls", "--label", "app"])), ["db-1", "web-1"]);
    assert_eq!(names(&host.ok(&["ls", "--label", "app=web"])), ["web-1"]);
    assert_eq!(names(&host.ok(&["ls", "--label", "app", "--label", "tier=back"])), [""; 0]);
    assert_eq!(names(&host.ok(&["ls"])), ["bare", "db-1", "web-1"]);

    let done = host.ok(&["label", "web-1", "tier-", "app=shop", "empty="]);
    assert_eq!(done["labels"], json!({"app": "shop", "empty": ""}));
    assert_eq!(done["changed"], true);
    assert_eq!(host.ok(&["label", "web-1", "none-"])["changed"], false);
    let events =
        host.rows("SELECT detail FROM events WHERE subject = 'activation web-1' ORDER BY seq");
    assert_eq!(events.last().unwrap(), "labels: app=shop empty= tier-");

    // The same again is the same activation; with a label that it does not have it is not.
    host.ok(&["activate", A, "--name", "web-1"]);
    host.ok(&["activate", A, "--name", "web-1", "--label", "app=shop"]);
    refused(&host, &words, "without the label app=web");
    refused(&host, &["label", "web-1", "a b=c"], "A-Z a-z 0-9");
    refused(&host, &["label", "web-1", "a=1", "a=2"], "twice");
    refused(&host, &["label", "web-1"], "add a label");
    refused(&host, &["label", "none", "a=b"], "none");
    let many: Vec<String> = (0..31).map(|n| format!("k{n}=v")).collect();
    let words: Vec<&str> =
        ["label", "web-1"].into_iter().chain(many.iter().map(String::as_str)).collect();
    refused(&host, &words, "33 labels: an activation has at most 32");
    assert_eq!(activation(&host, "web-1")["labels"], json!({"app": "shop", "empty": ""}));

    // They go with it, and a rebuild takes them from the registry that was there.
    host.ok(&["rm", "db-1"]);
    assert_eq!(host.rows("SELECT count(*) FROM labels"), ["2"]);
    host.ok(&["rebuild"]);
    assert_eq!(activation(&host, "web-1")["labels"], json!({"app": "shop", "empty": ""}));
    host.check();
}

#[test]
fn what_has_a_time_goes_when_it_has_passed_and_nobody_uses_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    for (name, ttl) in [("gone", "1s"), ("used", "1s"), ("mounted", "1s"), ("later", "2h")] {
        host.ok(&["activate", A, "--name", name, "--ttl", ttl]);
    }
    host.ok(&["activate", A, "--name", "kept"]);
    host.ok(&["deactivate", "gone"]);
    let ends = |name: &str| activation(&host, name)["ends_ms"].as_i64();
    let left = ends("later").unwrap() - ends("gone").unwrap();
    assert!((7_100_000..7_300_000).contains(&left), "{left}");
    assert_eq!(ends("kept"), None);
    // The same again asks for nothing else; another time is another activation.
    host.ok(&["activate", A, "--name", "later", "--ttl", "2h"]);
    refused(&host, &["activate", A, "--name", "later", "--ttl", "3h"], "with a ttl of 7200 s");
    refused(&host, &["activate", A, "--name", "new", "--ttl", "0s"], "1s to 3650d");
    refused(&host, &["ttl", "later", "4w"], "1s to 3650d");

    let worker = Worker::in_tree(&host, "used");
    let at = bench.path("at");
    fs::create_dir(&at).unwrap();
    host.ok(&["mount", "mounted", at.to_str().unwrap()]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let ended = |dry: bool| -> Vec<(String, bool)> {
        let words: &[&str] = if dry { &["gc", "--dry-run"] } else { &["gc"] };
        let done = host.ok(words);
        let of = |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["stays"].is_null());
        done["ended"].as_array().unwrap().iter().map(of).collect()
    };
    let all = [("gone".into(), true), ("mounted".into(), false), ("used".into(), false)];
    assert_eq!(ended(true), all);
    assert_eq!(names(&host.ok(&["ls"])), ["gone", "kept", "later", "mounted", "used"]);
    assert_eq!(ended(false), all);
    let (_, said) = host.said(&["gc"]);
    assert!(said.contains(&format!("process {}", worker.0.id())), "{said}");
    assert_eq!(names(&host.ok(&["ls"])), ["kept", "later", "mounted", "used"]);
    host.check_tree("used", 3);
    // Given more time, it is not over; and without a time it never is.
    assert_eq!(host.ok(&["ttl", "used", "1h"])["ttl_s"], 3600);
    drop(worker);
    umount(&at).unwrap();
    assert_eq!(ended(false), [("mounted".into(), true)]);
    host.ok(&["ttl", "used", "none"]);
    assert_eq!((ends("used"), &activation(&host, "used")["ttl_s"]), (None, &Value::Null));
    assert_eq!(names(&host.ok(&["ls"])), ["kept", "later", "used"]);
    let told =
        host.rows("SELECT detail FROM events WHERE subject = 'activation gone' ORDER BY seq");
    assert!(told.contains(&"its time has ended".to_owned()), "{told:?}");
    host.check();
}

/// As if the clock had shown another year when it was last looked at.
#[test]
fn a_clock_that_was_set_by_a_year_removes_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    let year = 365_i64 * 86_400_000;
    for (name, by) in [("forward", -year), ("back", year)] {
        host.ok(&["activate", A, "--name", name, "--ttl", "1h"]);
        let registry = Connection::open(host.state().join("registry.db")).unwrap();
        let set = "UPDATE activations SET ttl_from_ms = ttl_from_ms + ?1 WHERE name = ?2";
        registry.execute(set, (by, name)).unwrap();
        registry.execute("UPDATE clock SET wall_ms = wall_ms + ?1, set_ms = NULL", [by]).unwrap();
        drop(registry);
        assert_eq!(host.ok(&["gc"])["ended"], json!([]), "{name}");
        // It ends an hour from when that was seen.
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let left = activation(&host, name)["ends_ms"].as_i64().unwrap() - now;
        assert!((3_400_000..3_700_000).contains(&left), "{name}: {left}");
    }
    host.check();
}

#[test]
fn a_directory_has_no_journal_to_leave_out() {
    let bench = Bench::small();
    let host = bench.host("host");
    refused(&host, &["activate", A, "--name", "bare", "--no-journal"], "directory store");
    assert_eq!(host.ok(&["ls"])["activations"].as_array().map(Vec::len), Some(0));
    host.check();
}

#[test]
fn what_is_read_only_is_mounted_and_bundled_so() {
    let bench = Bench::small();
    let host = bench.host("host");
    let words = ["activate", A, "--name", "ro", "--read-only"];
    assert_eq!(host.ok(&words)["read_only"], true);
    assert_eq!(host.ok(&words)["already"], true);
    assert_eq!(activation(&host, "ro")["read_only"], true);
    refused(&host, &["activate", A, "--name", "ro"], "a read-only activation of the same image");
    host.ok(&["activate", A, "--name", "rw"]);
    assert_eq!(activation(&host, "rw")["read_only"], false);
    let words = ["activate", A, "--name", "rw", "--read-only"];
    refused(&host, &words, "a writable activation of the same image");
    let words = ["activate", A, "--name", "new", "--read-only", "--size", "8G"];
    refused(&host, &words, "leave out --size or --read-only");

    let places = [bench.path("one"), bench.path("two")];
    for at in &places {
        fs::create_dir(at).unwrap();
        assert_eq!(host.ok(&["mount", "ro", at.to_str().unwrap()])["already"], false);
        assert!(statvfs(at).unwrap().flags().contains(FsFlags::ST_RDONLY | FsFlags::ST_NODEV));
        let error = fs::write(at.join("written"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS), "{error}");
    }
    assert_eq!(host.ok(&["umount", "ro"])["from"].as_array().unwrap().len(), 2);
    let dir = bench.path("bundle");
    for (name, read_only) in [("ro", true), ("rw", false)] {
        let dir = dir.with_extension(name);
        host.ok(&["bundle", name, dir.to_str().unwrap(), "--", "id"]);
        let config: Value =
            serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["root"]["readonly"], read_only, "{name}");
        let machine = host.ok(&["show", name, "--vm"]);
        assert_eq!(machine.get("read_only"), read_only.then_some(&json!(true)), "{name}");
    }
    // It is remembered.
    host.ok(&["deactivate", "ro"]);
    host.ok(&["activate", A, "--name", "ro", "--read-only"]);
    host.ok(&["rebuild"]);
    assert_eq!(activation(&host, "ro")["read_only"], true);
    host.check();
}

#[test]
fn a_new_name_takes_everything_with_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "old", "--label", "app=web", "--ttl", "4h"]);
    host.ok(&["activate", A, "--name", "other"]);
    let mut before = activation(&host, "old");
    let worker = Worker::in_tree(&host, "old");
    fs::write(host.store().join("active/old/written"), "kept").unwrap();
    refused(&host, &["rename", "old", "other"], "other");
    refused(&host, &["rename", "old", "old"], "that name already");
    refused(&host, &["rename", "old", "../x"], "A-Z a-z 0-9");
    refused(&host, &["rename", "none", "x"], "none");
    fs::write(host.store().join("active/strange"), "").unwrap();
    refused(&host, &["rename", "old", "strange"], "strange");
    fs::remove_file(host.store().join("active/strange")).unwrap();

    let done = host.ok(&["rename", "old", "new"]);
    assert_eq!((&done["name"], &done["former"]), (&json!("new"), &json!("old")));
    drop(worker);
    before["name"] = json!("new");
    before["path"] = done["path"].clone();
    assert_eq!(activation(&host, "new"), before);
    assert_eq!(fs::read_to_string(host.store().join("active/new/written")).unwrap(), "kept");
    assert!(fs::symlink_metadata(host.store().join("active/old")).is_err());
    refused(&host, &["label", "old", "a=b"], "old");
    let told =
        "SELECT subject || ': ' || detail FROM events WHERE detail LIKE '%named%' ORDER BY seq";
    let named = ["activation old: is named new now", "activation new: was named old"];
    assert_eq!(host.rows(told), named);
    // The name is free, and what is down is renamed, too.
    host.ok(&["activate", A, "--name", "old"]);
    host.ok(&["deactivate", "new"]);
    host.ok(&["rename", "new", "newer"]);
    assert_eq!(activation(&host, "newer")["state"], "inactive");
    host.ok(&["activate", A, "--name", "newer"]);
    host.check_tree("newer", 3);
    host.check();
}

/// The row first, then the links: wherever it is killed, the next command comes to the same end.
#[test]
fn a_rename_that_was_killed_is_finished() {
    let bench = Bench::small();
    let whole = bench.host("whole");
    whole.ok(&["activate", A, "--name", "old", "--label", "app=web"]);
    for links in [&["old"][..], &["old", "new"], &["new"], &[]] {
        for (command, up) in [("recover", true), ("ls", true), ("deactivate", false), ("rm", false)]
        {
            let told = format!("{links:?} {command}");
            let host = whole.copy_to("killed");
            let active = host.store().join("active");
            let target = fs::read_link(active.join("old")).unwrap();
            let registry = Connection::open(host.state().join("registry.db")).unwrap();
            registry
                .execute(
                    "UPDATE activations SET name = 'new', former = 'old' WHERE name = 'old'",
                    [],
                )
                .unwrap();
            drop(registry);
            fs::remove_file(active.join("old")).unwrap();
            links.iter().for_each(|name| symlink(&target, active.join(name)).unwrap());
            // Somebody is at work there: it is not taken down for it.
            let worker = links.first().map(|name| Worker::in_tree(&host, name));
            match command {
                "recover" => drop(host.ok(&["recover"])),
                "ls" => {
                    let listing = host.ok(&["ls"]);
                    assert_eq!(names(&listing), ["new"], "{told}");
                    assert!(listing["unsettled"].to_string().contains("was old before"), "{told}");
                    host.ok(&["recover"]);
                }
                command => drop(host.ok(&[command, "new"])),
            }
            drop(worker);
            host.check();
            let left = crate::bench::names(&active);
            assert_eq!(left, if up { vec!["new"] } else { vec![] }, "{told}");
            if up {
                assert_eq!(activation(&host, "new")["labels"], json!({"app": "web"}), "{told}");
                host.ok(&["activate", A, "--name", "old"]);
                host.check();
            }
        }
    }
}

/// The program itself, killed before each change that it makes.
#[test]
fn a_rename_is_killed_at_each_of_its_steps() {
    let bench = Bench::small();
    let start = bench.host("start");
    start.ok(&["activate", A, "--name", "old", "--label", "app=web"]);
    let words = ["rename", "old", "new"];
    let whole = start.copy_to("whole");
    whole.ok(&words);
    let (was, end) = (start.end_text(), whole.end_text());
    let mut ends = [0, 0];
    for at in 0.. {
        let host = start.copy_to("killed");
        let mut seen = 0;
        let each = |call: &Call, side: Side| {
            let here = side == Side::Before && call.effect == Effect::Changes;
            seen += usize::from(here);
            if here && seen > at { Act::Kill } else { Act::Go }
        };
        let ended = trace::run(&host.command(&words), &[&host.dir], Whose::Main, each).unwrap();
        host.ok(&["recover"]);
        host.check();
        let found = host.end_text();
        let renamed = usize::from(found == end);
        assert!(found == was || renamed == 1, "killed at {at}: {found}");
        ends[renamed] += 1;
        if ended.signal.is_none() {
            assert_eq!((ended.code, renamed), (Some(0), 1), "{ended:?}");
            break;
        }
    }
    assert!(ends[0] > 3 && ends[1] > 3, "{ends:?}");
}

#[test]
fn who_uses_an_activation_is_told() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "web"]);
    let nobody = host.ok(&["who", "web"]);
    assert_eq!((&nobody["held"], &nobody["processes"]), (&json!(false), &json!([])));
    let worker = Worker::in_tree(&host, "web");
    let at = bench.path("at");
    fs::create_dir(&at).unwrap();
    host.ok(&["mount", "web", at.to_str().unwrap()]);
    let found = host.ok(&["who", "web"]);
    umount(&at).unwrap();
    assert_eq!(found["held"], true);
    let process = &found["processes"][0];
    assert_eq!((&process["pid"], &process["command"]), (&json!(worker.0.id()), &json!("sleep")));
    assert_eq!(process["has"], json!(["cwd"]));
    let points: Vec<&str> = found["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["own"] == true)
        .map(|mount| mount["at"].as_str().unwrap())
        .collect();
    assert_eq!(points, [at.canonicalize().unwrap().to_str().unwrap()], "{found}");
    refused(&host, &["who", "none"], "none");
    drop(worker);
    assert_eq!(host.ok(&["who", "web"])["held"], false);

    // A container's overlay over it, here and in a mount namespace of its own.
    let link = host.store().join("active/web");
    let options = format!("lowerdir={}:/etc", link.display());
    let overlay = ["-t", "overlay", "overlay", "-o", &options];
    assert!(Command::new("mount").args(overlay).arg(&at).status().unwrap().success());
    let found = host.ok(&["who", "web"]);
    let (code, said) = host.said(&["rm", "web"]);
    umount(&at).unwrap();
    assert!(found["held"] == true && found.to_string().contains(at.to_str().unwrap()), "{found}");
    assert!(code == 111 && said.contains(at.to_str().unwrap()), "{code}: {said}");
    let script = format!("mount {} {} && exec sleep 60", overlay.join(" "), at.display());
    let mut apart = Command::new("unshare").args(["-m", "sh", "-c", &script]).spawn().unwrap();
    until("the overlay", || host.ok(&["who", "web"])["held"] == true);
    apart.kill().unwrap();
    apart.wait().unwrap();
    until("nobody", || host.ok(&["who", "web"])["held"] == false);
}

/// What a stranger met.
#[test]
fn names_that_are_odd_are_answered_plainly() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "web"]);
    refused(&host, &["rename", "web", "control"], "/dev/mapper/control");
    refused(&host, &["rename", "none", "none"], "no activation \"none\"");
    refused(&host, &["rename", "web", "web"], "that name already");
    refused(&host, &["label", "web"], "add a label");
    // The first run has that number.
    host.ok(&["rename", "web", "1"]);
    assert_eq!(host.ok(&["show", "1"])["activation"]["name"], "1");
    refused(&host, &["export", "1", "-o", ""], "empty");
    let out = host.command(&["export", "1", "-o", "-"]).output().unwrap();
    assert!(out.status.success() && out.stdout.len() >= 1024, "{out:?}");
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let from = std::time::Instant::now();
    while !is() {
        assert!(from.elapsed().as_secs() < 30, "not within 30 s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
