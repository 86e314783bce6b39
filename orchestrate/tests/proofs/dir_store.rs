//! The whole job on a `dir:` store: sharing, removal, and a registry of another day.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::bench::Bench;

fn bench() -> Bench {
    Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4])], 150, 1 << 14)
}

#[test]
fn layers_are_shared_and_a_second_time_costs_nothing() {
    let bench = bench();
    let host = bench.host("host");
    let a = host.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    assert_eq!(a["ensured"]["fetched_objects"], 3);
    let b = host.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    assert_eq!(b["ensured"]["fetched_objects"], 1);
    host.check_tree("a-1", 3);
    host.check_tree("b-1", 4);
    let again = host.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    assert_eq!((&again["already"], &again["ensured"]), (&true.into(), &Value::Null));
    let second = host.ok(&["activate", "s3://bucket/a/", "--name", "a-2"]);
    assert_eq!(second["ensured"]["fetched_objects"], 0);
    host.check();

    // A name belongs to one image, and an image that is in use stays.
    let taken = host.command(&["activate", "s3://bucket/b/", "--name", "a-1"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(100));
    let used = host.command(&["rm", "s3://bucket/a/"]).output().unwrap();
    assert_eq!(used.status.code(), Some(100));

    for name in ["a-1", "a-2"] {
        host.ok(&["rm", name]);
    }
    let dry = host.ok(&["rm", "s3://bucket/a/", "--dry-run"]);
    let done = host.ok(&["rm", "s3://bucket/a/"]);
    assert_eq!(done["volumes"], dry["volumes"]);
    assert_eq!(done["volumes"].as_array().unwrap().len(), 1, "only layer 3 is a's alone");
    host.check();
    host.check_tree("b-1", 4);
}

#[test]
fn without_a_fetch_an_image_is_taken_as_it_is_here_and_nobody_is_asked() {
    let bench = bench();
    let host = bench.host("host");
    let words = |name| ["activate", "s3://bucket/a/", "--name", name, "--no-fetch"];
    let missing = host.command(&words("a-1")).output().unwrap();
    assert_eq!(missing.status.code(), Some(100), "{missing:?}");
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.contains("s3://bucket/a/ is not on this host; without --no-fetch"), "{said}");
    assert_eq!(host.rows("SELECT name FROM activations"), [""; 0]);

    host.ok(&["ensure", "s3://bucket/a/"]);
    host.ok(&["ensure", "s3://bucket/b/"]);
    bench.put("a/3.tar", b"something else by now");
    bench.proxy.clear();
    assert_eq!(host.ok(&[&words("a-1")[..], &["-n"]].concat())["volume"], Value::Null);
    let done = host.ok(&words("a-1"));
    assert_eq!((&done["already"], &done["ensured"]), (&false.into(), &Value::Null));
    host.check_tree("a-1", 3);
    // It was asked for just now: gc takes the other one first.
    let last = host.rows("SELECT reference FROM images ORDER BY used DESC LIMIT 1");
    assert!(last[0].contains("s3://bucket/a/"), "{last:?}");
    // Killed, it is taken up as it was asked for.
    let volume = done["volume"].as_u64().unwrap() + 1;
    crate::matrix::killed_once(&host, &words("a-2"), &format!("volumes/{volume}"));
    let taken = host.ok(&["recover"]);
    assert_eq!(taken["resumed"][0]["state"], "done", "{taken}");
    host.check_tree("a-2", 3);
    assert!(bench.proxy.exchanges().is_empty(), "{:?}", bench.proxy.exchanges());
    host.check();
}

#[test]
fn a_registry_of_another_day_is_refused_and_nothing_is_changed() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    let (state, kept) = (host.state(), bench.path("kept"));
    copy(&state, &kept);
    host.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    fs::remove_dir_all(&state).unwrap();
    copy(&kept, &state);
    let volumes = || fs::read_dir(host.store().join("volumes")).unwrap().count();
    let before = volumes();
    // `recover` would only look, and `rm` only take away: no store's own number stops them early.
    let activate = ["activate", "s3://bucket/b/", "--name", "b-2"];
    for words in [&activate[..], &["recover"], &["rm", "a-1"], &["gc", "--keep-bytes", "0"]] {
        let refused = host.command(words).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(100), "{words:?}: {said}");
        assert!(said.contains("out of step"), "{words:?}: {said}");
    }
    assert_eq!(volumes(), before);

    // The way out that the message names: nothing of today is lost.
    let done = host.ok(&["rebuild"]);
    assert_eq!((&done["layers"], done["activations"].as_array().unwrap().len()), (&4.into(), 2));
    host.ok(&["activate", "s3://bucket/b/", "--name", "b-2"]);
    host.check();
    host.check_tree("b-1", 4);
}

/// The store is made anew under a registry: what that knows is not there, and it says whose it is.
#[test]
fn a_store_made_anew_under_its_registry_is_refused_and_stays_empty() {
    let bench = bench();
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    let kept = host.copy_to("kept");
    fs::remove_dir_all(host.store()).unwrap();
    // Another host's first command is what makes one.
    let other = bench.host("other");
    other.ok(&["ensure", "s3://bucket/b/"]);
    for anew in [None, Some(other.store())] {
        if let Some(from) = &anew {
            drop(fs::remove_dir_all(host.store()));
            fs::rename(from, host.store()).unwrap();
        }
        let rows = host.state_text();
        for words in
            [&["activate", "s3://bucket/b/", "--name", "b-1"][..], &["rm", "a-1"], &["recover"]]
        {
            let refused = host.command(words).output().unwrap();
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(100), "{words:?}: {said}");
            assert!(said.contains("belongs to store"), "{words:?}: {said}");
        }
        if anew.is_some() {
            assert_eq!(host.state_text(), rows, "refused, and something is changed");
        }
        match anew {
            Some(_) => assert_eq!(fs::read_dir(host.store().join("volumes")).unwrap().count(), 4),
            None => assert!(!host.store().exists(), "a store was made"),
        }
    }
    // With its own store back, nothing was lost.
    fs::remove_dir_all(host.store()).unwrap();
    fs::rename(kept.store(), host.store()).unwrap();
    host.ok(&["deactivate", "a-1"]);
    host.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    host.check();
    host.check_tree("a-1", 3);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
