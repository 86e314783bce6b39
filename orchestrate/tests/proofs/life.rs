//! What an operator does with a host besides activating: room, pins, checks, a lost registry, refused
//! blobs, runs that are cancelled, killed and taken up again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::layer;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

fn code(host: &Host<'_>, words: &[&str]) -> (Option<i32>, String) {
    let output = host.command(words).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn lines(host: &Host<'_>, words: &[&str]) -> Vec<Value> {
    let output = host.command(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A run that is under way: its process, and its number.
fn begun(host: &Host<'_>, words: &[&str]) -> (Child, u64) {
    // The row of a killed run is taken up, and counts that.
    let before: u32 = host
        .rows("SELECT attempt FROM runs WHERE state = 'running'")
        .first()
        .map_or(0, |text| text.parse().unwrap());
    let mut child =
        host.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let ids = host.rows(&format!(
            "SELECT id FROM runs WHERE state = 'running' AND step <> '' AND attempt > {before}"
        ));
        if let [id] = ids.as_slice() {
            return (child, id.parse().unwrap());
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none() && Instant::now() < deadline, "{words:?} never began: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn room_is_told_and_given_back_and_pins_and_activations_hold() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    host.ok(&["activate", B, "--name", "b-1"]);
    let df = host.ok(&["df"]);
    let of = |image: &str| {
        let images = df["images"].as_array().unwrap();
        images.iter().find(|line| line["image"] == image).unwrap().clone()
    };
    let (a, b) = (of(A), of(B));
    assert_eq!(a["shared_bytes"], b["shared_bytes"]);
    assert!(a["exclusive_bytes"].as_u64().unwrap() > 0);
    assert_eq!(a["would_free_bytes"], a["exclusive_bytes"]);
    assert_eq!((&b["would_free_bytes"], &b["activations"]), (&json!(0), &json!(["b-1"])));
    assert_eq!(df["garbage_bytes"], 0);
    // Copied trees share what a file system can share, and nobody counts that.
    let row = &df["activations"][0];
    assert_eq!((&row["name"], &row["mapped_bytes"]), (&json!("b-1"), &Value::Null));
    assert_eq!(df["promised_bytes"], row["size_bytes"]);

    // Nothing is garbage; with a bound the one without activations goes, unless it is pinned.
    assert_eq!(host.ok(&["gc"])["sweeps"], json!([]));
    host.ok(&["pin", A]);
    // A bound that is missed is a no, and it says by how much and what holds the room.
    let missed = |words: &[&str]| -> Value {
        let output = host.command(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let done = missed(&["gc", "--keep-bytes", "0"]);
    assert_eq!(done["sweeps"], json!([]));
    let held: Vec<(&str, &str)> = done["holds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hold| (hold["what"].as_str().unwrap(), hold["why"].as_str().unwrap()))
        .collect();
    assert!(held.contains(&("image s3://bucket/a/", "pinned")), "{held:?}");
    assert!(held.contains(&("image s3://bucket/b/", "its activations b-1")), "{held:?}");
    host.ok(&["unpin", A]);
    let plan = missed(&["gc", "--max-used", "0%", "--dry-run"]);
    let done = missed(&["gc", "--max-used", "0%"]);
    assert_eq!(plan["sweeps"], done["sweeps"]);
    assert_eq!(done["sweeps"][0], json!({"what": "image", "image": A}));
    assert_eq!(done["sweeps"].as_array().unwrap().len(), 2, "and the layer that only it had");
    host.check();
    host.check_tree("b-1", 4);
    assert_eq!(code(&host, &["pin", A]).0, Some(100));
    assert_eq!(code(&host, &["gc", "--max-used", "101%"]).0, Some(100));
}

#[test]
fn foreign_volumes_are_told_and_go_only_on_demand() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    fs::create_dir(host.store().join("volumes/7777")).unwrap();
    assert_eq!(host.ok(&["gc"])["foreign"], json!([7777]));
    assert!(host.store().join("volumes/7777").exists());
    host.ok(&["gc", "--purge-foreign", "7777"]);
    host.check();
}

#[test]
fn verify_finds_the_one_byte_that_changed() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let sound = host.ok(&["verify"]);
    // A directory has no blocks of its own.
    for line in sound["volumes"].as_array().into_iter().flatten() {
        assert_eq!(line["compared"], "tree", "{line}");
        assert!(line["blocks"].is_null() && line["sealed"].is_string(), "{line}");
    }
    assert_eq!((&sound["intact"], sound["volumes"].as_array().unwrap().len()), (&json!(true), 3));

    // The same size and time, another byte, in the top layer's copy of layer 2.
    let top = host.rows("SELECT max(id) FROM volumes")[0].clone();
    let file = host.store().join("volumes").join(&top).join("srv/layer-2/3");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let mut content = fs::read(&file).unwrap();
    content[17] ^= 1;
    fs::write(&file, content).unwrap();
    let times = fs::FileTimes::new().set_modified(modified);
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    for words in [&["verify"][..], &["verify", A]] {
        let output = host.command(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let changed: Vec<&Value> = found["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["now"] != "intact")
            .collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0]["volume"].to_string(), top);
    }
    assert_eq!(code(&host, &["verify", B]).0, Some(100));
}

#[test]
fn a_lost_registry_is_made_again_from_the_store_and_nothing_is_fetched_again() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    host.ok(&["activate", B, "--name", "b-1"]);
    host.ok(&["activate", B, "--name", "b-2"]);
    host.ok(&["deactivate", "b-2"]);
    host.ok(&["pin", A]);
    fs::write(host.store().join("active/b-1/mark"), "kept").unwrap();
    let before = host.end_text();
    let gets = bench.gets().len();

    // All of it lost: what the store says of itself is enough for all but pins and the names of
    // activations that are not up.
    let lost = host.copy_to("lost");
    fs::remove_dir_all(lost.state()).unwrap();
    let dry = lost.ok(&["rebuild", "--dry-run", "--take-over"]);
    assert!(!lost.state().join("registry.db").exists());
    let done = lost.ok(&["rebuild", "--take-over"]);
    assert_eq!(done["layers"], 4);
    assert_eq!((&dry["images"], &done["images"]), (&json!([A, B]), &json!([A, B])));
    assert_eq!(done["activations"].as_array().unwrap().len(), 2);
    assert_eq!(done["activations"][0], "b-1");
    lost.check();
    assert_eq!(lost.ok(&["verify"])["intact"], true);
    let again = lost.ok(&["activate", B, "--name", "b-1"]);
    assert_eq!(again["already"], true);
    assert_eq!(fs::read(lost.store().join("active/b-1/mark")).unwrap(), b"kept");
    assert_eq!(lost.ok(&["ensure", A])["fetched_objects"], 0);
    assert_eq!(bench.gets().len(), gets, "nothing is fetched again");

    // With the old one at hand, names and pins come too; and it is kept.
    let damaged = host.copy_to("damaged");
    let done = damaged.ok(&["rebuild"]);
    assert!(done["kept"].as_str().unwrap().ends_with("registry.db.replaced-1"));
    damaged.check();
    let strip = |text: &str| -> Vec<String> {
        // What was measured at the seal is not in the notes, nor by which other keys a blob is known.
        let kept = |line: &&str| {
            !["volume:", "source:", "image layer:"].iter().any(|part| line.starts_with(part))
        };
        text.lines().filter(kept).map(str::to_owned).collect()
    };
    assert_eq!(strip(&damaged.end_text()), strip(&before));
    assert_eq!(damaged.rows("SELECT reference FROM images WHERE pinned"), [A]);

    // A pipe of the small tools does the same.
    let facts = host.command(&["rebuild", "--facts"]).output().unwrap();
    assert!(facts.status.success());
    let facts: registry::Facts = serde_json::from_slice(&facts.stdout).unwrap();
    let piped = bench.path("piped.db");
    let made = registry::Registry::rebuild(&piped, &facts).unwrap();
    assert_eq!((made.totals().unwrap().layers, made.check().unwrap()), (4, vec![]));
}

#[test]
fn a_note_that_was_not_sealed_here_makes_no_layer() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", A]);
    let ids = host.rows("SELECT id FROM volumes WHERE role = 'layer' ORDER BY id");
    let notes = host.store().join("notes");
    let top = notes.join(&ids[2]);
    let mut note = fs::read(&top).unwrap();
    // One hex digit of its tree digest: the seal no longer fits.
    let at = note.windows(6).position(|text| text == b"\"tree\"").unwrap() + 20;
    note[at] = if note[at] == b'0' { b'1' } else { b'0' };
    fs::write(&top, note).unwrap();
    fs::remove_dir_all(host.state()).unwrap();
    let done = host.ok(&["rebuild", "--take-over"]);
    assert_eq!((&done["layers"], &done["images"]), (&json!(2), &json!([])));
    // It was made here, and what is in it may be somebody's: it is kept, and said.
    let kept = format!("recovered-{}", ids[2]);
    assert_eq!(done["activations"], json!([kept]));
    assert!(done["unread"].to_string().contains("written over"), "{done}");
    assert_eq!(done["foreign"], json!([]));

    // Without the template's there is nothing to go by, and nothing is written.
    fs::remove_dir_all(host.state()).unwrap();
    for entry in fs::read_dir(&notes).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (code, said) = code(&host, &["rebuild", "--take-over"]);
    assert_eq!(code, Some(100), "{said}");
    assert!(!host.state().join("registry.db").exists());
}

#[test]
fn a_refused_blob_is_known_by_its_bytes_wherever_they_come_from() {
    let bench = Bench::small();
    let host = bench.host("host");
    let hostile = layer::named("../../evil");
    bench.put("bad/1.tar", &hostile);
    bench.put("copy/1.tar", &hostile);
    let (first, said) = code(&host, &["ensure", "s3://bucket/bad/"]);
    assert_eq!(first, Some(100), "{said}");
    assert!(said.contains("path"), "{said}");
    let kept = lines(&host, &["quarantine"]);
    assert_eq!(kept.len(), 1, "{said}");
    // An ETag of another key is no word against an object: it is judged by its own bytes.
    let (copy, said) = code(&host, &["ensure", "s3://bucket/copy/"]);
    assert_eq!(copy, Some(100), "{said}");
    assert!(!said.contains("refused before"), "{said}");
    assert_eq!(lines(&host, &["quarantine"]).len(), 1, "the same bytes");
    let gets = bench.gets().len();
    // Then no retry of either fetches or unpacks them again.
    for image in ["s3://bucket/bad/", "s3://bucket/copy/"] {
        let (again, said) = code(&host, &["ensure", image]);
        assert_eq!(again, Some(100), "{said}");
        assert!(said.contains("refused before"), "{said}");
    }
    assert_eq!(bench.gets().len(), gets);
    let digest = kept[0]["digest"].as_str().unwrap();
    host.ok(&["quarantine", "--release", digest]);
    assert_eq!(code(&host, &["quarantine", "--release", digest]).0, Some(1));
    let (released, said) = code(&host, &["ensure", "s3://bucket/bad/"]);
    assert_eq!(released, Some(100));
    assert!(!said.contains("refused before"), "{said}");
    assert!(bench.gets().len() > gets);
    let runs = lines(&host, &["runs", "--all"]);
    assert!(runs.iter().all(|run| run["state"] == "failed" && run["class"] == "refused"));
    host.check();
}

#[test]
fn a_run_is_cancelled_while_it_works_and_leaves_nothing_half_done() {
    let bench = Bench::new(&[("a", &[1, 2, 3])], 40, 1 << 16);
    let host = bench.host("host");
    bench.proxy.hold("/a/1.tar", 1 << 20);
    let (mut child, run) = begun(&host, &["ensure", A]);
    let done = host.ok(&["cancel", &run.to_string()]);
    assert_eq!(done["state"], "cancelled");
    assert_eq!(child.wait().unwrap().code(), Some(111));
    bench.proxy.release();
    host.check();
    // Again it says how it ended, and the next run is another one.
    assert_eq!(host.ok(&["cancel", &run.to_string()])["state"], "cancelled");
    host.ok(&["ensure", A]);
    assert_eq!(
        code(&host, &["cancel", &(run + 1).to_string()]).0,
        Some(1),
        "done is not cancelled"
    );
    assert_eq!(code(&host, &["cancel", "4711"]).0, Some(100));
}

#[test]
fn a_signal_stops_at_a_safe_point_and_a_killed_run_is_cancelled_or_taken_up() {
    let bench = Bench::new(&[("a", &[1, 2, 3])], 40, 1 << 16);
    let host = bench.host("host");
    let words = ["activate", A, "--name", "a-1"];
    bench.proxy.hold("/a/1.tar", 1 << 20);
    let (mut child, _) = begun(&host, &words);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(111));
    assert_eq!(host.rows("SELECT state FROM runs"), ["cancelled"]);
    host.check();

    // Killed, it stands as interrupted; a wish to cancel is carried out though nobody is there.
    let (mut child, run) = begun(&host, &words);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines(&host, &["runs"])[0]["interrupted"], true);
    let show = host.ok(&["show", "a-1"]);
    assert_eq!(show["runs"].as_array().unwrap().len(), 2);
    assert_eq!(host.ok(&["cancel", &run.to_string()])["state"], "cancelled");
    host.check();

    // Killed again, `recover` takes it up and brings it to its end.
    let (mut child, run) = begun(&host, &words);
    child.kill().unwrap();
    child.wait().unwrap();
    bench.proxy.release();
    let plan = host.ok(&["recover", "--dry-run"]);
    assert_eq!(plan["resumed"][0]["run"], run);
    let done = host.ok(&["recover"]);
    assert_eq!(
        (&done["resumed"][0]["run"], &done["resumed"][0]["state"]),
        (&json!(run), &json!("done"))
    );
    host.check();
    host.check_tree("a-1", 3);
    assert_eq!(host.ok(&["recover"])["resumed"], json!([]));
}

#[test]
fn a_run_that_kills_its_process_each_time_is_given_up() {
    let bench = Bench::new(&[("a", &[1]), ("b", &[2])], 40, 1 << 16);
    let host = bench.host("host");
    bench.proxy.hold("/a/1.tar", 1 << 16);
    for time in 1..=5 {
        let (mut child, _) = begun(&host, &["ensure", A]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while host.rows("SELECT begun FROM attempts WHERE build <> 'template'")
            != [time.to_string()]
        {
            assert!(Instant::now() < deadline, "the build never began");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let done = host.command(&["recover"]).output().unwrap();
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    let end = &done["resumed"][0];
    assert_eq!((&end["state"], &end["class"]), (&json!("failed"), &json!("crash_loop")));
    bench.proxy.release();
    let (refused, said) = code(&host, &["ensure", A]);
    assert_eq!(refused, Some(100), "{said}");
    assert!(said.contains("recover --retry"), "{said}");
    // It is in nobody else's way.
    host.ok(&["activate", B, "--name", "b-1"]);
    host.ok(&["recover", "--retry"]);
    host.ok(&["ensure", A]);
    host.check();
}

#[test]
fn the_history_is_told_as_it_happens() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", B]);
    let seen = lines(&host, &["events"]);
    let last = seen.last().unwrap()["seq"].to_string();
    let mut follow = host
        .command(&["events", "--follow", "--since", &last])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(follow.stdout.take().unwrap()).lines();
    host.ok(&["activate", B, "--name", "b-1"]);
    let subject = loop {
        let line: Value = serde_json::from_str(&told.next().unwrap().unwrap()).unwrap();
        if line["to"] == "active" {
            break line["subject"].clone();
        }
    };
    assert_eq!(subject, "activation b-1");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(follow.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(0));
    let only = lines(&host, &["events", "--subject", "activation b-1"]);
    let states: Vec<&Value> = only.iter().map(|event| &event["to"]).collect();
    assert_eq!(states, ["reserved", "active"]);
}
