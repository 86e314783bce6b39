//! A push that is killed at each of its requests, before the server does what it asks for and after; and uploads in
//! parts that are gone on with.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image::{Layout, lists, noise, whole};
use crate::standin::{StandIn, When};
use crate::{Room, sent, url};

const TO: &str = "oci:s3://bkt/p/:v1";
const OLD: &str = "oci:s3://bkt/p/:old";

/// How it ended: true where it was killed.
fn killed(room: &Room, standin: &StandIn, words: &[&str]) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let mut command = room.command(&url(standin), words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    standin.victim(child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.signal() == Some(9) || output.status.success(), "{said}");
    !output.status.success()
}

#[test]
fn wherever_a_push_is_killed_the_index_names_whole_blobs_only() {
    let room = Room::new();
    let first = Layout::new(&room.path("old"), "v1", &[9]);
    // One layer goes in parts.
    let mut layers = vec![noise(1, 17 << 20)];
    layers.push(tests::layer::stacked(2, 4, 2000));
    let layout = Layout::of(&room.path("layout"), "v1", &layers);
    let from = format!("oci:{}:v1", layout.dir.display());
    let before = format!("oci:{}:v1", first.dir.display());
    let (mut kills, mut at) = (0, 0);
    'all: loop {
        for when in [When::Before, When::After] {
            // What was found of a server is remembered, and would save requests.
            drop(std::fs::remove_file(room.path("state/conditions.json")));
            let standin = StandIn::start();
            room.ok(&url(&standin), &["push", &before, OLD]);
            drop(std::fs::remove_file(room.path("state/conditions.json")));
            standin.kill_at(at, when);
            if !killed(&room, &standin, &["push", &from, TO]) {
                break 'all;
            }
            kills += 1;
            let counted = whole(&standin, "p/");
            assert!(counted >= 3, "request {at}, {when:?}: the old image is there still");
            standin.spare();
            room.ok(&url(&standin), &["push", &from, TO]);
            assert_eq!(whole(&standin, "p/"), 3 + 4, "request {at}, {when:?}");
            assert_eq!(lists(&standin.get("p/index.json").unwrap()), ["old", "v1"]);
            assert_eq!(standin.unfinished(), 0, "request {at}, {when:?}: an upload is left");
        }
        at += 1;
    }
    println!("killed {kills} times, at each of {at} requests");
    assert!(at > 15, "only {at} requests");
}

#[test]
fn an_upload_in_parts_is_gone_on_with_and_its_parts_are_looked_at() {
    let (room, standin) = (Room::new(), StandIn::start());
    let layout = Layout::of(&room.path("layout"), "v1", &[noise(1, 70 << 20)]);
    let from = format!("oci:{}:v1", layout.dir.display());
    let part = 16_u64 << 20;
    let at = |wanted: &str| {
        let requests = standin.requests();
        requests.iter().filter(|(request, _)| request.contains(wanted)).count()
    };
    // Where the fourth part is.
    room.ok(&url(&standin), &["push", &from, "oci:s3://bkt/count/:v1"]);
    let requests = standin.requests();
    let fourth = requests.iter().position(|(request, _)| request.contains("partNumber=4")).unwrap();
    // What was found of the server saves the same request here.
    let probe = requests.iter().position(|(request, _)| request.contains("probe")).unwrap();
    assert!(probe < fourth);
    standin.kill_at(fourth - 1, When::Before);
    assert!(killed(&room, &standin, &["push", &from, TO]));
    assert_eq!(standin.unfinished(), 1);
    standin.damage_part(2);
    standin.spare();
    let done = room.ok(&url(&standin), &["push", &from, TO]);
    // The first and the third part are those of this blob, the second is not.
    assert_eq!(done["objects"][0]["bytes_there"], 2 * part, "{done}");
    assert_eq!(at("partNumber=1&") + at("partNumber=3&"), 0);
    assert_eq!(at("partNumber=2&"), 1);
    assert_eq!(standin.unfinished(), 0);
    whole(&standin, "p/");
}

#[test]
fn a_signal_stops_a_push_and_the_same_push_goes_on() {
    let (room, standin) = (Room::new(), StandIn::start());
    let layout = Layout::of(&room.path("layout"), "v1", &[noise(1, 70 << 20)]);
    let from = format!("oci:{}:v1", layout.dir.display());
    let mut command = room.command(&url(&standin), &["push", &from, TO]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while !standin.requests().iter().any(|(request, _)| request.contains("partNumber=2")) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "no second part came");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(111), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"cancelled\""), "{said}");
    assert_eq!(standin.get("p/index.json"), None);
    let done = room.ok(&url(&standin), &["push", &from, TO]);
    assert!(sent(&done).1 >= 16 << 20, "{done}");
    whole(&standin, "p/");
}
