//! What a spool may take of a disk, and what becomes of spools that nobody comes back for. That one
//! is continued rightly is in `resume.rs`.

mod fault;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fault::{Server, noise};
use fetch::{Client, CredentialsFrom, Event, Expect, ObjectRef, Options, Watch, leftovers};

const SIZE: u64 = 3_000_000;

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn options(server: &Server) -> (Options, Arc<Mutex<String>>) {
    let notes: Arc<Mutex<String>> = Arc::default();
    let told = notes.clone();
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        watch: Watch::new(move |event| {
            if let Event::Note { text } = event {
                told.lock().unwrap().push_str(text);
            }
        }),
        ..Options::default()
    };
    (options, notes)
}

fn server() -> (Vec<u8>, Server) {
    let bytes = noise(usize::try_from(SIZE).unwrap(), 21);
    let server = Server::start(bytes.clone(), Arc::new(|_, reply| reply));
    (bytes, server)
}

/// All bytes by way of a spool, and what lies there before it is discarded.
fn through(options: &Options, expect: &Expect, dir: &Path) -> (Vec<u8>, u64) {
    let client = Client::new(options).unwrap();
    let mut body = client.open_spooled(object(), expect, dir).unwrap();
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    let lies = leftovers(dir).unwrap().iter().map(|left| left.bytes).sum();
    body.discard_spool().unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    (bytes, lies)
}

#[test]
fn a_spool_leaves_the_reserve_alone() {
    let (bytes, server) = server();
    let dir = tempfile::tempdir().unwrap();
    let (mut options, notes) = options(&server);
    options.spool_reserve = 0;
    assert!(through(&options, &Expect::default(), dir.path()) == (bytes.clone(), SIZE));
    assert_eq!(*notes.lock().unwrap(), "");
    // What the disk has free, and a little: there is room for less than the object.
    let free = nix::sys::statvfs::statvfs(dir.path()).unwrap();
    options.spool_reserve = free.blocks_available() * free.fragment_size() + (1 << 40);
    assert!(through(&options, &Expect::default(), dir.path()) == (bytes, 0));
    assert!(notes.lock().unwrap().contains("no room for a spool"), "{notes:?}");
}

#[test]
fn what_is_kept_is_used_where_nothing_more_may_be() {
    let (bytes, server) = server();
    let dir = tempfile::tempdir().unwrap();
    let (mut options, notes) = options(&server);
    options.spool_reserve = 0;
    let client = Client::new(&options).unwrap();
    let mut body = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    body.read_exact(&mut vec![0; 1_000_000]).unwrap();
    drop(body);
    let kept: u64 = leftovers(dir.path()).unwrap().iter().map(|left| left.bytes).sum();
    options.spool_reserve = u64::MAX;
    assert!(through(&options, &Expect::default(), dir.path()) == (bytes, kept));
    assert!(notes.lock().unwrap().contains("no room"), "{notes:?}");
    // Not the last one: a part that was asked for ahead, before the first body was given up, may come later.
    let requests = server.requests.lock().unwrap();
    let goes_on =
        |at: u64| requests.iter().any(|one| one.range().is_some_and(|r| r.0 as u64 == at));
    assert!(goes_on(kept), "nothing was asked for from byte {kept} on");
}

#[test]
fn a_small_object_is_not_spooled() {
    let (bytes, server) = server();
    let dir = tempfile::tempdir().unwrap();
    let (mut options, _) = options(&server);
    let known = Expect { size: Some(SIZE), ..Expect::default() };
    for expect in [Expect::default(), known] {
        options.spool_min = SIZE + 1;
        assert!(through(&options, &expect, dir.path()) == (bytes.clone(), 0));
        options.spool_min = SIZE;
        assert!(through(&options, &expect, dir.path()) == (bytes.clone(), SIZE));
    }
}

#[test]
fn leftovers_are_listed_with_age_and_go_unless_in_use() {
    let (_, server) = server();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(leftovers(&dir.path().join("absent")).unwrap(), []);
    let old = dir.path().join("fetch-0-1.partial");
    let file = fs::File::create(&old).unwrap();
    file.set_len(77).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
    fs::create_dir(dir.path().join("fetch-dir.partial")).unwrap();
    let (options, _) = options(&server);
    let client = Client::new(&options).unwrap();
    let mut body = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    body.read_exact(&mut [0; 1000]).unwrap();
    let found = leftovers(dir.path()).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0].path, found[0].bytes), (&old, 77));
    assert!(found[0].age >= Duration::from_secs(7200) && found[1].age < Duration::from_secs(600));
    assert_eq!(body.spool_path(), Some(found[1].path.as_path()));
    assert!(found[0].discard().unwrap() && !old.exists());
    assert!(found[0].discard().unwrap(), "gone is gone");
    assert!(!found[1].discard().unwrap() && found[1].path.exists(), "a process is at it");
    // Its owner may take it away under the body's feet.
    fs::remove_file(&found[1].path).unwrap();
    let mut rest = Vec::new();
    body.read_to_end(&mut rest).unwrap();
    body.discard_spool().unwrap();
    assert_eq!(leftovers(dir.path()).unwrap(), []);
}
