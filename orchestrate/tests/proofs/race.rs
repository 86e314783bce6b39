//! Many processes at once: what they share is fetched and built once, and killed together they leave
//! nothing undone.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::Instant;

use tests::dice::Dice;

use crate::bench::{Bench, Host, json, names};
use crate::matrix::killed_once;

const IMAGES: &[(&str, &[u8])] = &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[1, 5])];

fn start(host: &Host<'_>, words: &[&str]) -> Child {
    let mut command = host.command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn sixty_four_processes_fetch_and_build_each_layer_once() {
    let bench = Bench::new(IMAGES, 20, 5000);
    let host = bench.host("host");
    let jobs: Vec<(String, String)> = (0..64)
        .map(|n| (format!("n-{n}"), format!("s3://bucket/{}/", ["a", "b", "c"][n % 3])))
        .collect();
    let words =
        |job: &(String, String)| ["activate".into(), job.1.clone(), "--name".into(), job.0.clone()];
    let running: Vec<Child> = jobs
        .iter()
        .map(|job| {
            let words: [String; 4] = words(job);
            start(&host, &words.each_ref().map(String::as_str))
        })
        .collect();
    let mut built = 0;
    for (child, job) in running.into_iter().zip(&jobs) {
        let words = words(job);
        let words = words.each_ref().map(String::as_str);
        let done = json(&words, &child.wait_with_output().unwrap());
        let layers = done["ensured"]["layers"].as_array().unwrap();
        built += layers.iter().filter(|layer| layer["how"] != "reused").count();
    }
    assert_eq!(built, 5, "five layers are distinct");
    let gets = bench.gets();
    assert_eq!(gets.len(), 5, "each blob comes once: {gets:?}");
    host.check();
    for (name, image) in &jobs {
        let top = if image.ends_with("a/") {
            3
        } else if image.ends_with("b/") {
            4
        } else {
            5
        };
        let files = std::fs::read_dir(
            host.store().join("active").join(name).join("srv").join(format!("layer-{top}")),
        );
        assert_eq!(files.unwrap().count(), 20, "the tree of {name}");
    }
}

/// The bug of superfly/fsm: the second and third of the runs that are taken up again skip the steps
/// that the first had done.
#[test]
fn three_runs_killed_together_are_each_taken_up_where_they_were() {
    let rounds: u64 = std::env::var("VENEER_ROUNDS").map_or(4, |text| text.parse().unwrap());
    let bench = Bench::new(IMAGES, 30, 9000);
    let jobs = [
        ["activate", "s3://bucket/a/", "--name", "n-1"],
        ["activate", "s3://bucket/b/", "--name", "n-2"],
        ["activate", "s3://bucket/c/", "--name", "n-3"],
    ];
    let undisturbed = bench.host("undisturbed");
    let begun = Instant::now();
    let running: Vec<Child> = jobs.iter().map(|words| start(&undisturbed, words)).collect();
    for (child, words) in running.into_iter().zip(&jobs) {
        json(words, &child.wait_with_output().unwrap());
    }
    let whole = begun.elapsed();
    undisturbed.check();
    let end = undisturbed.end_text();
    let mut dice = Dice::new(7);
    let mut left_to_do = 0;
    for round in 0..rounds {
        let host = bench.host("host");
        host.wipe();
        let mut running: Vec<Child> = jobs.iter().map(|words| start(&host, words)).collect();
        std::thread::sleep(whole * u32::try_from(dice.roll(1000)).unwrap() / 1000);
        for child in &mut running {
            child.kill().unwrap();
        }
        for mut child in running {
            child.wait().unwrap();
        }
        left_to_do += usize::from(host.end_text() != end);
        // All at once again: they recover what the others were at, too.
        let running: Vec<Child> = jobs.iter().map(|words| start(&host, words)).collect();
        for (child, words) in running.into_iter().zip(&jobs) {
            json(words, &child.wait_with_output().unwrap());
        }
        host.check();
        assert_eq!(host.end_text(), end, "round {round}");
    }
    assert!(left_to_do > 0, "no kill came in time");
    eprintln!("{rounds} times three runs killed together, {left_to_do} with work left");
}

/// Who holds a lock is told by the lock and not by the number that its file names: a dead holder's
/// number may be somebody else's by now, and a living one's file may name nobody.
#[test]
fn a_lock_is_held_by_who_holds_it_and_not_by_whom_its_file_names() {
    let bench = Bench::new(IMAGES, 4, 2000);
    let host = bench.host("host");
    let words = ["activate", "s3://bucket/a/", "--name", "n-1"];
    killed_once(&host, &words, "volumes/3");
    let locks = host.state().join("locks");
    let files = names(&locks);
    assert!(files.len() > 3, "{files:?}");
    for file in &files {
        std::fs::write(locks.join(file), format!("process {}", std::process::id())).unwrap();
    }
    let mut command = host.command(&words);
    json(&words, &command.env("VENEER_WAIT", "0").output().unwrap());
    host.check();
    // The other way round: nobody of that number lives, and yet it is held.
    let held: Vec<File> = files
        .iter()
        .filter(|file| !file.starts_with("serve"))
        .map(|file| {
            std::fs::write(locks.join(file), "process 4194305").unwrap();
            let held = File::options().read(true).write(true).open(locks.join(file)).unwrap();
            held.lock().unwrap();
            held
        })
        .collect();
    let mut command = host.command(&["deactivate", "n-1"]);
    let refused = command.env("VENEER_WAIT", "0").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(111), "{said}");
    assert!(said.contains("still held by process 4194305"), "{said}");
    drop(held);
    host.ok(&["deactivate", "n-1"]);
    host.check();
}

/// Four a name, and names come once: those that nobody uses go.
#[test]
fn lock_files_of_many_names_do_not_stay() {
    let bench = Bench::new(IMAGES, 4, 2000);
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    for round in 0..40 {
        let name = format!("machine-{round}");
        host.ok(&["activate", "s3://bucket/a/", "--name", &name, "--no-fetch"]);
        host.ok(&["rm", &name]);
    }
    let locks = host.state().join("locks");
    let files = names(&locks);
    assert!(files.len() < 40, "{} lock files: {files:?}", files.len());
    // One that somebody has open stays, though nobody holds it now: an older program may be about to.
    let open: Vec<File> = (0..30)
        .map(|number| File::create_new(locks.join(format!("run-rm-{number:024}.lock"))).unwrap())
        .collect();
    host.ok(&["recover"]);
    let left = |files: &[String]| files.iter().filter(|file| file.contains("-0000000000")).count();
    assert_eq!(left(&names(&locks)), 30);
    drop(open);
    // Another test may be starting a program just now: until that runs, it has all files of this process open.
    for _ in 0..50 {
        host.ok(&["recover"]);
        if left(&names(&locks)) == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(left(&names(&locks)), 0);
    host.check();
}
