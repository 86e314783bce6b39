//! A state directory whose file system is full, of bytes or of inodes: what makes room works, looking works,
//! all else says it and is to be tried again, and nothing is lost. The same of a store's is in `store`.

mod cases;
mod each_change;
mod messages;
mod store;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::trace::{self, Act, Call, Side, Whose};

use crate::bench::{Bench, Host, names};
use crate::damage::Mount;

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Bytes,
    Inodes,
    Both,
}

/// A host with something of everything.
fn prepared(bench: &Bench) -> Host<'_> {
    let one = bench.host("one");
    for name in ["a-1", "a-2", "a-3"] {
        one.ok(&["activate", A, "--name", name]);
    }
    one.ok(&["ensure", "s3://bucket/garbage/"]);
    one.ok(&["deactivate", "a-3"]);
    one
}

/// Which file system becomes full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    State,
    /// The store's; the caller's own files are on it, too.
    Store,
}

/// A host of which a part has a small file system of its own.
struct Small<'b> {
    host: Host<'b>,
    disk: Disk,
    /// The last one is to go first.
    mounts: Vec<Mount>,
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
    }
}

/// A copy of `one` under this name, of which this disk is small.
fn small_of<'b>(one: &Host<'b>, name: &str, disk: Disk) -> Small<'b> {
    match disk {
        Disk::State => {
            let (host, mount) = small(one, name);
            Small { host, disk, mounts: vec![mount] }
        }
        Disk::Store => store::small(one, name),
    }
}

impl Small<'_> {
    /// Where the caller's own files are.
    fn out(&self) -> PathBuf {
        match self.disk {
            Disk::State => self.host.dir.join("out"),
            Disk::Store => self.host.dir.join("disk/out"),
        }
    }

    fn ballast(&self) -> PathBuf {
        match self.disk {
            Disk::State => ballast(&self.host),
            Disk::Store => self.host.dir.join("disk/ballast"),
        }
    }

    fn fill(&self, of: Of) {
        fill_at(&self.ballast(), of);
    }

    fn make_room(&self) {
        fs::remove_dir_all(self.ballast()).unwrap();
    }
}

/// A copy of it under this name, with its state directory on a small file system of its own.
fn small<'b>(one: &Host<'b>, name: &str) -> (Host<'b>, Mount) {
    let host = one.copy_to(name);
    let (state, kept) = (host.state(), host.dir.join("kept"));
    // A host of which nothing is there yet has none.
    fs::create_dir_all(&state).unwrap();
    fs::rename(&state, &kept).unwrap();
    fs::create_dir(&state).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=6m,nr_inodes=120", "none"];
    let mount = Mount::new(&options, &state);
    // What is kept back has no content, and takes room all the same.
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=never"]).arg(kept.join(".")).arg(&state);
    assert!(copy.status().unwrap().success());
    fs::create_dir_all(host.dir.join("out")).unwrap();
    (host, mount)
}

fn ballast(host: &Host<'_>) -> PathBuf {
    host.state().join("ballast")
}

fn fill(host: &Host<'_>, of: Of) {
    fill_at(&ballast(host), of);
}

/// Somebody else takes all that is left.
fn fill_at(ballast: &Path, of: Of) {
    // Where there is no inode left, there is one to take the bytes already.
    drop(fs::create_dir_all(ballast));
    match of {
        Of::Both => {
            fill_at(ballast, Of::Bytes);
            fill_at(ballast, Of::Inodes);
        }
        Of::Bytes => {
            let bytes = ballast.join("bytes");
            let mut file = File::options().create(true).append(true).open(bytes).unwrap();
            for size in [1 << 16, 1 << 12, 1] {
                while file.write_all(&vec![1; size]).is_ok() {}
            }
        }
        Of::Inodes => {
            let from = names(ballast).len();
            let _full = (from..).find(|n| File::create(ballast.join(n.to_string())).is_err());
        }
    }
}

fn make_room(host: &Host<'_>) {
    fs::remove_dir_all(ballast(host)).unwrap();
}

/// More of them than lock files may lie about.
const NAMES: usize = 30;

const FULL: &str = "the state directory is full";

fn images() -> Bench {
    Bench::new(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("garbage", &[1, 5])], 4, 2000)
}

#[test]
fn looking_and_making_room_work_in_a_full_state_directory_and_all_else_says_so() {
    let bench = images();
    let one = prepared(&bench);
    for of in [Of::Bytes, Of::Inodes] {
        let (host, _mount) = small(&one, "host");
        fill(&host, of);
        let before = host.rows("SELECT name, state FROM activations");
        for words in
            [&["ls"][..], &["df"], &["show", "a-1"], &["runs", "-a"], &["events"], &["metrics"]]
        {
            let (code, said) = host.said(words);
            assert!(code == 0 && said.contains(FULL), "{of:?} {words:?}: {code}: {said}");
        }
        let health = host.command(&["health"]).output().unwrap();
        let found: Value = serde_json::from_slice(&health.stdout).unwrap();
        let checks = found["checks"].to_string();
        assert!(health.status.code() == Some(1) && checks.contains(FULL), "{of:?}: {found}");
        for words in [
            &["ensure", B][..],
            &["activate", B, "--name", "b-1"],
            &["activate", A, "--name", "a-4", "--no-fetch"],
            &["pin", A],
            &["checked", "a-1"],
            &["rebuild"],
        ] {
            let (code, said) = host.said(words);
            assert!(code == 111 && said.contains(FULL), "{of:?} {words:?}: {code}: {said}");
            assert!(said.contains("no_space"), "{of:?} {words:?}: {said}");
        }
        assert_eq!(host.rows("SELECT name, state FROM activations"), before);
        // One after the other, though nobody else makes room.
        for words in [
            &["deactivate", "a-1"][..],
            &["rm", "a-1"],
            &["rm", "a-3"],
            &["unpin", A],
            &["rm", "s3://bucket/garbage/"],
            &["recover"],
            &["gc"],
            &["rm", "a-2"],
            &["rm", A],
            &["gc"],
        ] {
            let (code, said) = host.said(words);
            assert!(code == 0, "{of:?} {words:?}: {code}: {said}");
        }
        assert_eq!(host.rows("SELECT count(*) FROM activations"), ["0"]);
        make_room(&host);
        host.ok(&["activate", B, "--name", "b-1"]);
        host.check();
        host.check_tree("b-1", 4);
        assert_eq!(names(&host.state().join("reserve")).len(), 9, "room is kept back again");
    }
}

/// The file system is full of both at once, and what becomes free is taken at once by others: what makes room
/// works as often as it is asked for.
#[test]
fn making_room_works_as_often_as_it_is_asked_for() {
    let bench = images();
    let one = bench.host("one");
    let name = |number: usize| format!("a-{number}");
    for number in 0..NAMES {
        one.ok(&["activate", A, "--name", &name(number)]);
    }
    one.ok(&["ensure", "s3://bucket/garbage/"]);
    for of in [Of::Both, Of::Bytes, Of::Inodes] {
        let (host, _mount) = small(&one, "host");
        for number in 0..NAMES {
            let name = name(number);
            for words in [&["deactivate", &name][..], &["rm", &name], &["gc"]] {
                fill(&host, of);
                let (code, said) = host.said(words);
                assert!(code == 0, "{of:?} {words:?}: {code}: {said}");
            }
        }
        use std::os::unix::fs::MetadataExt as _;
        let room = fs::metadata(host.state().join("reserve/room"));
        let kept = room.map_or(0, |room| room.blocks() * 512);
        assert!(kept >= 256 << 10, "{of:?}: {kept} bytes are still kept back");
        fill(&host, of);
        let (code, said) = host.said(&["activate", A, "--name", "b-1", "--no-fetch"]);
        assert!(code == 111 && said.contains(FULL), "{of:?}: {code}: {said}");
        for words in [&["rm", A][..], &["gc"], &["recover"]] {
            fill(&host, of);
            let (code, said) = host.said(words);
            assert!(code == 0, "{of:?} {words:?}: {code}: {said}");
        }
        assert_eq!(host.rows("SELECT count(*) FROM activations"), ["0"]);
        make_room(&host);
        host.ok(&["activate", B, "--name", "b-1"]);
        host.check();
        host.check_tree("b-1", 4);
        assert_eq!(names(&host.state().join("reserve")).len(), 9, "room is kept back again");
    }
}

/// What makes no room takes nothing of what is kept back, not even while somebody makes room with it; and it is
/// kept again as a whole.
#[test]
fn what_is_kept_back_is_for_what_makes_room_alone() {
    let bench = images();
    let one = prepared(&bench);
    let free = |host: &Host<'_>| {
        let found = nix::sys::statvfs::statvfs(&host.state()).unwrap();
        found.blocks_available() * found.fragment_size()
    };
    let room = |host: &Host<'_>| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(host.state().join("reserve/room")).map_or(0, |room| room.blocks() * 512)
    };
    let others: &[&[&str]] = &[
        &["activate", A, "--name", "a-4", "--no-fetch"],
        &["pin", A],
        &["ensure", B],
        &["checked", "a-2"],
    ];
    let (host, _mount) = small(&one, "host");
    host.ok(&["recover"]);
    assert_eq!(room(&host), 512 << 10);
    fill(&host, Of::Bytes);
    // As `rm` does in another process, for as long as it works.
    let making = File::open(host.state().join("reserve")).unwrap();
    making.lock_shared().unwrap();
    for entry in fs::read_dir(host.state().join("reserve")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let before = free(&host);
    for words in others {
        let (code, said) = host.said(words);
        assert!(code == 111 && said.contains(FULL), "{words:?}: {code}: {said}");
        assert!(said.contains("in use or used up"), "{words:?}: {said}");
        assert_eq!(free(&host), before, "{words:?}");
    }
    drop(making);
    // One after the other, and others try between them, of what is left beside.
    for words in
        [&["rm", "a-1"][..], &["deactivate", "a-2"], &["gc"], &["rm", "a-2"], &["rm", "a-3"]]
    {
        for words in others {
            let (code, said) = host.said(words);
            assert!(code != 111 || said.contains(FULL), "{words:?}: {code}: {said}");
        }
        let (code, said) = host.said(words);
        assert!(code == 0, "{words:?}: {code}: {said}");
    }
    make_room(&host);
    // One that an older program had again only in part.
    File::options()
        .write(true)
        .open(host.state().join("reserve/room"))
        .unwrap()
        .set_len(0)
        .unwrap();
    host.ok(&["activate", B, "--name", "b-1"]);
    assert_eq!(room(&host), 512 << 10, "it is kept again");
    host.check();
    host.check_tree("b-1", 4);
}

/// What was rebuilt is put in the place of the registry as one file: where its log cannot be brought into it,
/// the registry that is there stays.
#[test]
fn a_rebuild_that_meets_the_end_of_the_room_leaves_the_registry_that_is_there() {
    let bench = images();
    let one = prepared(&bench);
    let (host, _mount) = small(&one, "host");
    let (mut logged, mut full) = (false, false);
    let each = |call: &Call, side: Side| {
        logged |= call.on == "state/registry.db.rebuilt-wal" && call.name == "pwrite64";
        let brought = logged && call.on == "state/registry.db.rebuilt" && call.name == "pwrite64";
        if brought && side == Side::Before && !std::mem::replace(&mut full, true) {
            fill(&host, Of::Bytes);
        }
        Act::Go
    };
    let ended = trace::run(&host.command(&["rebuild"]), &[&host.dir], Whose::Main, each).unwrap();
    assert!(full, "the log was brought into the file otherwise");
    assert!(ended.code == Some(111) && ended.stderr.contains(FULL), "{ended:?}");
    for words in [&["ls"][..], &["rm", "a-2"], &["gc"]] {
        let (code, said) = host.said(words);
        assert_eq!(code, 0, "{words:?}: {said}");
    }
    make_room(&host);
    host.ok(&["rebuild"]);
    host.check();
    host.check_tree("a-1", 3);
}
