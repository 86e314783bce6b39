//! A registry made anew beside others that have the old one open: they go on with the new one, and what only
//! the old one knew is in it.

use std::fs;
use std::process::{Child, Stdio};

use rusqlite::Connection;
use serde_json::json;

use crate::bench::{Bench, Host, names};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn start(host: &Host<'_>, words: &[&str]) -> Child {
    let mut command = host.command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Ended well, or to be tried again; the second is rare and nothing was done then.
fn ended(words: &[&str], child: Child) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {}: {said}", output.status);
}

#[test]
fn commands_that_were_begun_beside_a_rebuild_go_on_with_what_it_made() {
    let rounds: usize = std::env::var("VENEER_ROUNDS").map_or(8, |text| text.parse().unwrap());
    let bench = Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[1, 2, 5])], 12, 3000);
    let begun: [&[&str]; 4] = [
        &["ensure", A],
        &["ensure", B],
        &["activate", "s3://bucket/c/", "--name", "c-1"],
        &["ensure", "s3://bucket/c/"],
    ];
    let also: [&[&str]; 3] = [&["pin", A], &["deactivate", "a-1"], &["ls"]];
    for round in 0..rounds {
        let host = bench.host("host");
        host.wipe();
        host.ok(&["activate", A, "--name", "a-1"]);
        let mut running: Vec<(&[&str], Child)> = Vec::new();
        for (at, words) in begun.iter().chain(&also).enumerate() {
            if at == round % 5 {
                running.push((&["rebuild"], start(&host, &["rebuild"])));
            }
            running.push((words, start(&host, words)));
        }
        for (words, child) in running {
            ended(words, child);
        }
        for words in [&["ls"][..], &["recover"], &["ensure", A], &["verify"], &["gc"]] {
            host.ok(words);
        }
        host.check();
        host.check_tree("c-1", 5);
        assert_eq!(
            host.rows("SELECT pinned FROM images WHERE reference = 's3://bucket/a/'"),
            ["1"]
        );
        assert_eq!(
            host.rows("SELECT count(*) FROM activations"),
            ["2"],
            "a build was taken for one"
        );
        let live = host.rows("SELECT count(*) FROM runs WHERE finished_ms IS NULL");
        assert_eq!(live, ["0"], "round {round}");
    }
}

/// Who waits for a lock while the file is moved away and another put in its place, by hand or by a rebuild
/// of one that was damaged, opens that.
#[test]
fn whoever_got_a_lock_looks_again_whether_its_registry_is_the_registry() {
    let bench = Bench::small();
    for lock in ["images.lock", "store.lock"] {
        let host = bench.host("host");
        host.wipe();
        host.ok(&["activate", A, "--name", "a-1"]);
        let held = fs::File::options()
            .read(true)
            .write(true)
            .open(host.state().join("locks").join(lock))
            .unwrap();
        held.lock().unwrap();
        let words = ["activate", B, "--name", "b-1", "--verbose"];
        let waiting = start(&host, &words);
        // It has begun its run, or waits before that.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (path, moved) = (host.state().join("registry.db"), host.state().join("moved.db"));
        let conn = Connection::open(&path).unwrap();
        let copy = host.state().join("copy.db");
        conn.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        drop(conn);
        for end in ["", "-wal", "-shm"] {
            let name = |path: &std::path::Path| format!("{}{end}", path.display());
            drop(fs::rename(name(&path), name(&moved)));
        }
        fs::rename(copy, &path).unwrap();
        drop(held);
        ended(&words, waiting);
        host.check_tree("b-1", 4);
        assert_eq!(host.rows("SELECT name FROM activations"), ["a-1", "b-1"]);
        host.ok(&["recover"]);
        host.check();
    }
}

#[test]
fn a_rebuild_waits_for_those_that_have_the_registry_open() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    bench.proxy.hold("/b/3.tar", 100);
    let words = ["activate", B, "--name", "b-1"];
    let slow = start(&host, &words);
    bench.proxy.wait_held(std::time::Duration::from_secs(60)).unwrap();
    let (code, said) = host.said(&["rebuild", "--wait", "0"]);
    assert!(code == 111 && said.contains("other commands have open"), "{code}: {said}");
    // It says for whom: the run, and its process.
    for text in ["activate b-1", &format!("process {}", slow.id())] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(!said.contains("after 0 s"), "{said}");
    let mut told = start(&host, &["rebuild", "--verbose"]);
    let mut line = String::new();
    let mut out = std::io::BufReader::new(told.stderr.take().unwrap());
    while !line.contains("waits since") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "it ended untold");
    }
    assert!(line.contains(&format!("process {}", slow.id())) && line.contains("cancel"), "{line}");
    // It is heard when somebody asks it to stop, and has changed nothing.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(told.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(!told.wait().unwrap().success());
    // Nobody else waits for the one that waits.
    let waiting = start(&host, &["rebuild"]);
    host.ok(&["activate", A, "--name", "a-1", "--no-fetch"]);
    host.ok(&["ls", "--wait", "0"]);
    bench.proxy.release();
    ended(&words, slow);
    ended(&["rebuild"], waiting);
    host.check();
    host.check_tree("b-1", 4);
}

/// All that was asked for, refused, seen, scanned and counted; and each image's own objects.
#[test]
fn what_only_the_old_registry_knew_is_in_the_new_one() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["ensure", B]);
    host.ok(&["pin", B]);
    bench.put("evil/1.tar", &tests::layer::named("../../evil"));
    let (code, _) = host.said(&["ensure", "s3://bucket/evil/"]);
    assert_eq!(code, 100);
    let path = host.state().join("registry.db");
    let mut registry = registry::Registry::open(&path).unwrap();
    let queued = registry::NewRun {
        verb: registry::Verb::Ensure,
        subject: "s3://bucket/later/",
        input: "{}",
        priority: 7,
        webhook: Some("https://example.com/told"),
    };
    let queued = registry.write(|write| write.enqueue_run(&queued, |_| None)).unwrap();
    let registry::Enqueued::Fresh(queued) = queued else { panic!("{queued:?}") };
    drop(registry);
    let kept = [
        "SELECT id, verb, subject, state, priority, finished_ms, message FROM runs ORDER BY id",
        "SELECT run, address, ended FROM webhooks",
        "SELECT digest, below, key, message FROM quarantine ORDER BY 1",
        "SELECT bucket, key, etag, digest FROM refused_sources ORDER BY 1, 2",
        "SELECT bucket, key, etag, size, digest, known_by, md5 FROM sources ORDER BY 1, 2",
        "SELECT reference, pos, key, etag, digest FROM image_layers ORDER BY 1, 2",
        "SELECT reference, pinned, used FROM images ORDER BY 1",
        "SELECT name, label, value FROM counters ORDER BY 1, 2",
        "SELECT name, reference, endpoint, state FROM activations",
    ];
    let rows = |host: &Host<'_>| kept.map(|sql| host.rows(sql));
    let (before, events) = (rows(&host), host.rows("SELECT seq, subject, detail FROM events"));
    assert!(before[5].iter().any(|row| row.contains("b/1.tar")), "{:?}", before[5]);
    let inode = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).unwrap().ino()
    };
    let (at, damaged) = (inode(&path), host.copy_to("damaged"));
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["lost"], json!([]));
    assert_eq!(inode(&path), at, "who has the file open has the registry open");
    assert_eq!(rows(&host), before);
    let after = host.rows("SELECT seq, subject, detail FROM events");
    assert_eq!(after[..events.len()], events[..], "history");
    // Numbers that were given stay given.
    let mut registry = registry::Registry::open(&path).unwrap();
    let next = registry.write(|write| write.begin_run(registry::Verb::Gc, "store", "{}")).unwrap();
    assert!(next > queued);
    drop(registry);
    // What was kept is the registry as it was.
    let kept_at = done["kept"].as_str().unwrap();
    let old = registry::Registry::open_existing(std::path::Path::new(kept_at)).unwrap();
    assert_eq!(old.check().unwrap(), []);
    assert_eq!(old.runs(true).unwrap().len(), before[0].len());

    // Without it no image says that it has another one's objects.
    damaged.lose_registry();
    damaged.ok(&["rebuild"]);
    let keys = damaged.rows("SELECT key FROM image_layers WHERE reference = 's3://bucket/b/'");
    assert!(keys.iter().all(|key| !key.starts_with("a/")), "{keys:?}");
    assert_eq!(names(&damaged.store().join("active")), ["a-1"]);
    damaged.check();
}
