//! Broken streams, killed processes, spools: nothing is mixed, nothing is fetched twice.

mod fault;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fault::{Dice, ETAG, Pace, Plan, Reply, Server, good, noise};
use fetch::{Body, Client, CredentialsFrom, Error, Expect, Kind, ObjectRef, Options};
use sha2::{Digest as _, Sha256};

fn client(server: &Server, jobs: usize) -> Client {
    let options = Options {
        endpoint: Some(server.url()),
        credentials: CredentialsFrom::Anonymous,
        jobs: Some(jobs),
        spool_min: 0,
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

fn object() -> ObjectRef {
    "s3://bkt/key".parse().unwrap()
}

fn plain() -> Plan {
    Arc::new(|_, reply| reply)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn drain(body: &mut Body) -> Result<Vec<u8>, Kind> {
    let mut bytes = Vec::new();
    match body.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => Err(e.get_ref().unwrap().downcast_ref::<Error>().unwrap().kind()),
    }
}

#[test]
fn two_hundred_cuts_cost_no_byte() {
    let bytes = noise(40_000_000, 7);
    let mut dice = Dice(0x5eed);
    let mut cuts: Vec<usize> = (0..200).map(|_| dice.below(bytes.len())).collect();
    cuts.sort_unstable();
    let left = Mutex::new(cuts);
    let server = Server::start(
        bytes.clone(),
        Arc::new(move |request, reply| {
            let start = request.range().map_or(0, |(first, _)| first);
            let mut left = left.lock().unwrap();
            match left.first().copied() {
                Some(cut) => {
                    left.remove(0);
                    reply.pace(Pace::Cut(cut.saturating_sub(start)))
                }
                None => reply,
            }
        }),
    );
    let expect = Expect { sha256: Some(digest(&bytes)), ..Expect::default() };
    let mut body = client(&server, 1).open(object(), &expect).unwrap();
    let got = drain(&mut body).unwrap();
    assert!(got == bytes);
    let summary = body.summary().unwrap();
    assert_eq!(summary.tries, 201);
    // A cut by FIN loses nothing on the way, so each byte crossed the wire exactly once.
    assert_eq!(server.sent.load(Ordering::SeqCst), bytes.len() as u64);
    for pair in server.requests.lock().unwrap()[1..].iter() {
        assert_eq!(pair.headers.get("if-match").map(String::as_str), Some(ETAG));
    }
}

#[test]
fn cuts_and_resets_in_ranges_leave_the_digest_right() {
    let bytes = noise(30_000_001, 8);
    let dice = Mutex::new(Dice(0xfeed));
    let server = Server::start(
        bytes.clone(),
        Arc::new(move |_, reply| {
            let mut dice = dice.lock().unwrap();
            let cut = dice.below(reply.body.len() * 2);
            match dice.below(3) {
                0 => reply.pace(Pace::Reset(cut)),
                1 => reply.pace(Pace::Cut(cut)),
                _ => reply,
            }
        }),
    );
    let expect = Expect { sha256: Some(digest(&bytes)), ..Expect::default() };
    let mut body = client(&server, 4).open(object(), &expect).unwrap();
    assert!(drain(&mut body).unwrap() == bytes);
    let summary = body.summary().unwrap();
    assert!(summary.resumed > 0 && summary.tries > 8, "{summary:?}");
}

#[test]
fn without_etag_and_digest_a_broken_stream_is_not_continued() {
    let server = Server::start(
        noise(100_000, 9),
        Arc::new(|_, reply: Reply| reply.without("etag").pace(Pace::Cut(50_000))),
    );
    let mut body = client(&server, 1).open(object(), &Expect::default()).unwrap();
    assert_eq!(drain(&mut body), Err(Kind::Network));
    assert_eq!(server.count(), 1);
    // And once failed it stays failed: no end of file that reads like success.
    assert!(body.read(&mut [0; 10]).is_err() && body.summary().is_none());
}

/// Runs the program again and again and kills it at random, `kills` times, or VENEER_KILLS.
fn kill_often(kills: usize, args: &dyn Fn(&Path) -> Vec<String>, to_file: bool) {
    let kills = std::env::var("VENEER_KILLS").map_or(kills, |text| text.parse().unwrap());
    let bytes = noise(12_000_000, 10);
    let server = Server::start(bytes.clone(), Arc::new(|_, reply| reply.pace(Pace::Steady(500))));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layer.tar");
    let mut dice = Dice(0xdead);
    let (mut killed, mut whole, mut reused) = (0, 0_u64, 0_u64);
    // The first run is left alone, and its time is the measure for the others; so is one after
    // nine kills, since on a busy machine all of them may come too early.
    let (mut time, mut row) = (None, 0);
    while killed < kills {
        let jobs = if dice.below(2) == 0 { "1" } else { "3" };
        let mut child = Command::new(env!("CARGO_BIN_EXE_fetch"))
            .args(["s3://bkt/key", "--anonymous", "--json", "--jobs", jobs])
            .args(["--endpoint", &server.url()])
            .args(args(dir.path()))
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let start = Instant::now();
        if let Some(time) = time
            && row < 9
        {
            thread::sleep(Duration::from_micros(dice.next() % time));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
            }
        }
        let out = child.wait_with_output().unwrap();
        time.get_or_insert_with(|| u64::try_from(start.elapsed().as_micros()).unwrap());
        let got = reader.join().unwrap();
        if to_file && file.exists() {
            assert!(fs::read(&file).unwrap() == bytes, "A WRONG FILE UNDER THE FINAL NAME");
        }
        if !out.status.success() {
            assert_eq!(out.status.code(), None, "{}", String::from_utf8_lossy(&out.stderr));
            killed += 1;
            row += 1;
            continue;
        }
        whole += 1;
        row = 0;
        let summary = if to_file {
            got
        } else {
            assert!(got == bytes);
            out.stderr
        };
        let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
        reused += summary["reused"].as_u64().unwrap();
        if to_file {
            fs::remove_file(&file).unwrap();
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    println!(
        "{killed} kills, {whole} whole downloads, {reused} bytes saved by resuming, {} sent",
        server.sent.load(Ordering::SeqCst)
    );
    assert!(whole > 0 && reused > 0, "the test killed too early or too late to show anything");
}

#[test]
fn killed_at_random_a_file_is_right_or_absent() {
    kill_often(60, &|dir| vec!["-o".into(), dir.join("layer.tar").display().to_string()], true);
}

#[test]
fn killed_at_random_a_spool_goes_on() {
    kill_often(40, &|dir| vec!["--spool".into(), dir.display().to_string()], false);
}

#[test]
fn a_spool_is_read_again_instead_of_fetched() {
    let bytes = noise(5_000_000, 11);
    let server = Server::start(bytes.clone(), plain());
    let dir = tempfile::tempdir().unwrap();
    let client = client(&server, 1);
    let mut body = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    let mut some = vec![0; 2_000_000];
    body.read_exact(&mut some).unwrap();
    drop(body);
    let mut body = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    assert!(drain(&mut body).unwrap() == bytes);
    let summary = body.summary().unwrap();
    assert!(summary.reused >= 2_000_000 && summary.sha256 == digest(&bytes), "{summary:?}");
    let last = server.requests.lock().unwrap().last().unwrap().clone();
    assert_eq!(last.range(), Some((usize::try_from(summary.reused).unwrap(), bytes.len() - 1)));
    // All of it is there now: a pinned object needs no request at all.
    let before = server.count();
    drop(body);
    let expect = Expect { size: Some(5_000_000), etag: Some(ETAG.into()), ..Expect::default() };
    let mut body = client.open_spooled(object(), &expect, dir.path()).unwrap();
    assert!(drain(&mut body).unwrap() == bytes);
    assert_eq!(server.count(), before);
    body.discard_spool().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_spool_of_another_version_is_not_continued() {
    let (old, new) = (noise(1_000_000, 12), noise(1_000_000, 13));
    let replaced = Arc::new(AtomicBool::new(false));
    let (flag, newer) = (replaced.clone(), new.clone());
    let server = Server::start(
        old,
        Arc::new(move |request, reply| {
            if !flag.load(Ordering::SeqCst) {
                return reply;
            }
            let mut request = request.clone();
            request.headers.remove("if-match");
            good(&request, &newer).with("ETag", "\"new\"")
        }),
    );
    let dir = tempfile::tempdir().unwrap();
    let client = client(&server, 1);
    let open = || client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    let names = || -> Vec<_> {
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect()
    };
    open().read_exact(&mut [0; 1000]).unwrap();
    let before = names();
    replaced.store(true, Ordering::SeqCst);
    let mut body = open();
    assert!(drain(&mut body).unwrap() == new);
    assert_eq!(body.summary().unwrap().reused, 0);
    // And the old one is gone instead of filling the disk.
    let after = names();
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
}

#[test]
fn rotten_bytes_in_a_spool_are_found_and_thrown_away() {
    let bytes = noise(1_000_000, 14);
    let server = Server::start(bytes.clone(), plain());
    let dir = tempfile::tempdir().unwrap();
    let expect = Expect { sha256: Some(digest(&bytes)), ..Expect::default() };
    let client = client(&server, 1);
    let mut body = client.open_spooled(object(), &expect, dir.path()).unwrap();
    body.read_exact(&mut vec![0; 500_000]).unwrap();
    drop(body);
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut kept = fs::read(&path).unwrap();
    kept[1000] ^= 1;
    fs::write(&path, kept).unwrap();
    let mut body = client.open_spooled(object(), &expect, dir.path()).unwrap();
    // Not the server's fault, as far as anybody knows: to be tried again.
    assert_eq!(drain(&mut body), Err(Kind::Io));
    assert!(!path.exists());
    let mut body = client.open_spooled(object(), &expect, dir.path()).unwrap();
    assert!(drain(&mut body).unwrap() == bytes);
    body.discard_spool().unwrap();
    // The program does it by itself where nobody has seen a byte.
    let file = dir.path().join("f");
    let mut body = client.open_for_file(object(), &expect, &file).unwrap();
    body.read_exact(&mut vec![0; 500_000]).unwrap();
    drop(body);
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    fs::write(&path, vec![0; 400_000]).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--endpoint", &server.url(), "-o"])
        .arg(&file)
        .args(["--digest", &expect.sha256.map(|d| fetch::write_digest(&d)).unwrap()])
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("starting again"), "{said}");
    assert!(fs::read(&file).unwrap() == bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn two_processes_do_not_share_a_file() {
    let bytes = noise(1_000_000, 15);
    let server = Server::start(bytes.clone(), plain());
    let dir = tempfile::tempdir().unwrap();
    let client = client(&server, 1);
    let path = dir.path().join("f");
    let mut one = client.open_for_file(object(), &Expect::default(), &path).unwrap();
    let two = client.open_for_file(object(), &Expect::default(), &path);
    assert!(matches!(two, Err(Error::Busy { .. })), "{two:?}");
    // A spool is an extra: the second goes without.
    let mut three = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    let mut four = client.open_spooled(object(), &Expect::default(), dir.path()).unwrap();
    assert!(drain(&mut three).unwrap() == bytes && drain(&mut four).unwrap() == bytes);
    assert!(drain(&mut one).unwrap() == bytes);
    one.keep().unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_body_that_was_not_read_is_not_kept() {
    let server = Server::start(noise(1_000_000, 16), plain());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let mut body = client(&server, 1).open_for_file(object(), &Expect::default(), &path).unwrap();
    body.read_exact(&mut [0; 10]).unwrap();
    assert!(body.keep().is_err() && !path.exists());
}

/// A file size limit stands in for a full disk: both fail the write.
#[test]
fn a_full_disk_ends_the_file_but_not_the_stream() {
    let bytes = noise(2_000_000, 17);
    let server = Server::start(bytes.clone(), plain());
    let dir = tempfile::tempdir().unwrap();
    let limited = |args: &[&str]| {
        Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"])
            .args([env!("CARGO_BIN_EXE_fetch"), "s3://bkt/key", "--anonymous", "-v"])
            .args(["--endpoint", &server.url()])
            .args(args)
            .output()
            .unwrap()
    };
    let spooled = limited(&["--spool", dir.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&spooled.stderr);
    assert!(spooled.status.success() && spooled.stdout == bytes, "{said}");
    assert!(said.contains("the spool is full"), "{said}");
    let file = dir.path().join("f");
    let filed = limited(&["-o", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&filed.stderr);
    assert_eq!(filed.status.code(), Some(111), "{said}");
    assert!(said.contains("unable to write") && !file.exists(), "{said}");
}

#[test]
fn checksums_of_the_server_are_checked() {
    // The check value of crc32c: "123456789".
    let good_sum: Plan = Arc::new(|_, r| r.with("x-amz-checksum-crc32c", "4waSgw=="));
    let bad_sum: Plan = Arc::new(|_, r| r.with("x-amz-checksum-crc32c", "4waSgg=="));
    for (plan, due) in [(good_sum, Ok(b"123456789".to_vec())), (bad_sum, Err(Kind::Digest))] {
        let server = Server::start(b"123456789".to_vec(), plan);
        let mut body = client(&server, 1).open(object(), &Expect::default()).unwrap();
        assert_eq!(drain(&mut body), due);
        let asked = server.requests.lock().unwrap()[0].headers.clone();
        assert_eq!(asked.get("x-amz-checksum-mode").map(String::as_str), Some("ENABLED"));
    }
    // Ranges come without; the checksum of the whole is asked for apart.
    let bytes = noise(9_000_000, 18);
    let server = Server::start(
        bytes,
        Arc::new(|request, reply| match request.method.as_str() {
            "HEAD" => reply.with("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
            _ => reply,
        }),
    );
    let mut body = client(&server, 3).open(object(), &Expect::default()).unwrap();
    assert_eq!(drain(&mut body), Err(Kind::Digest));
}
