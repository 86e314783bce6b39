//! A killed `orchestrate` fetches only the rest when it comes again, and leaves nothing behind.
//! Needs root, since layers have owners. The server is of this file's own: it counts what it sends
//! and stops after as many bytes as it is told, so that a kill falls into the middle of a layer.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tests::layer;

/// Bytes of the layer's only file.
const SIZE: usize = 24 << 20;

/// Objects under `s3://bucket/image/`, and a dam.
struct Server {
    url: String,
    /// Bytes of bodies that were sent.
    sent: AtomicU64,
    /// So many may be sent.
    dam: AtomicU64,
    stop: AtomicBool,
    objects: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Server {
    fn start(objects: Vec<(String, Vec<u8>)>) -> Arc<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Arc::new(Server {
            url: format!("http://{}", listener.local_addr().unwrap()),
            sent: AtomicU64::new(0),
            dam: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            objects: Mutex::new(objects),
        });
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        server
    }

    fn serve(&self, mut out: TcpStream) {
        let mut reader = BufReader::new(out.try_clone().unwrap());
        while let Some((target, range)) = read_request(&mut reader) {
            let objects = self.objects.lock().unwrap().clone();
            let found = objects.iter().find(|(key, _)| target == format!("/bucket/{key}"));
            let (head, body) = match (found, range) {
                (Some((_, bytes)), Some((first, last))) => {
                    let last = last.min(bytes.len() - 1);
                    let head = format!(
                        "206 X\r\nContent-Range: bytes {first}-{last}/{}\r\nETag: {}\r\n",
                        bytes.len(),
                        etag(bytes)
                    );
                    (head, bytes[first..=last].to_vec())
                }
                (Some((_, bytes)), None) => {
                    (format!("200 X\r\nETag: {}\r\n", etag(bytes)), bytes.clone())
                }
                (None, _) => ("200 X\r\n".to_owned(), listing(&objects)),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {head}Content-Length: {length}\r\n\r\n");
            if out.write_all(head.as_bytes()).is_err() {
                return;
            }
            for piece in body.chunks(16 << 10) {
                while self.sent.load(Ordering::SeqCst) >= self.dam.load(Ordering::SeqCst) {
                    if self.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                if out.write_all(piece).is_err() {
                    return;
                }
                if found.is_some() {
                    self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, Option<(usize, usize)>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Some((target, range));
        }
        if let Some(text) = line.strip_prefix("range: bytes=") {
            let (first, last) = text.split_once('-').unwrap();
            range = Some((first.parse().unwrap(), last.parse().unwrap()));
        }
    }
}

fn etag(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(*byte)));
    format!("\"{sum:032x}\"")
}

fn listing(objects: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut text = String::from("<ListBucketResult><Name>bucket</Name><Prefix>image/</Prefix>");
    for (key, bytes) in objects {
        let (size, etag) = (bytes.len(), etag(bytes).replace('"', "&quot;"));
        text.push_str(&format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{etag}</ETag></Contents>"
        ));
    }
    text.push_str("<IsTruncated>false</IsTruncated></ListBucketResult>");
    text.into_bytes()
}

/// One file of noise.
fn noisy(name: &str) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.len() as u64;
    let mut noise = Vec::with_capacity(SIZE);
    while noise.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    layer::of(&[(format!("srv/{name}"), noise)])
}

struct Bench {
    dir: tempfile::TempDir,
    server: Arc<Server>,
}

impl Bench {
    fn new(objects: Vec<(String, Vec<u8>)>) -> Bench {
        assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E just test-native");
        Bench { dir: tempfile::tempdir().unwrap(), server: Server::start(objects) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate"));
        command
            .args(["--json", "--anonymous", "--endpoint", &self.server.url, "--state"])
            .arg(self.path("state"))
            .arg("--store")
            .arg(format!("dir:{}", self.path("store").display()))
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn spooled(&self) -> u64 {
        fetch::leftovers(&self.path("state/spool")).unwrap().iter().map(|left| left.bytes).sum()
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("state/spool")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Runs until the dam has stopped it and nothing more is spooled, and kills it.
    fn run_and_kill(&self, words: &[&str], jobs: &str, dam: u64) {
        self.server.dam.store(dam, Ordering::SeqCst);
        let mut child = self.start(words, jobs);
        let (deadline, mut last) = (Instant::now() + Duration::from_secs(600), (0, 0));
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = (self.server.sent.load(Ordering::SeqCst), self.spooled());
            if now == last && now.0 >= dam {
                break;
            }
            last = now;
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            assert!(Instant::now() < deadline, "the dam of {dam} is never reached: {now:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn start(&self, words: &[&str], jobs: &str) -> Child {
        self.command(words)
            .env("VENEER_FETCH_JOBS", jobs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.stop.store(true, Ordering::SeqCst);
    }
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

const ACTIVATE: &[&str] = &["activate", "s3://bucket/image/", "--name", "one"];

/// Kills at a quarter, half and three quarters; `lost` bytes may come twice for each kill.
fn killed_three_times(jobs: &str, lost: u64) {
    let object = noisy("file");
    let size = object.len() as u64;
    let bench = Bench::new(vec![("image/1.tar".into(), object)]);
    for quarter in 1..4 {
        let sent = bench.server.sent.load(Ordering::SeqCst);
        let have = bench.spooled();
        bench.run_and_kill(ACTIVATE, jobs, sent + size * quarter / 4 - have);
        let files = bench.files();
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(bench.spooled() + lost >= size * quarter / 4, "{} spooled", bench.spooled());
    }
    bench.server.dam.store(u64::MAX, Ordering::SeqCst);
    let output = bench.command(ACTIVATE).env("VENEER_FETCH_JOBS", jobs).output().unwrap();
    let done = json(&output);
    let sent = bench.server.sent.load(Ordering::SeqCst);
    println!("jobs {jobs}: {sent} bytes sent for {size}, three kills");
    assert!(sent <= size + 3 * lost, "{sent} bytes sent for {size}");
    // The report says what this run fetched, not what it had.
    let fetched = done["ensured"]["fetched_bytes"].as_u64().unwrap();
    assert!(fetched < size / 2, "{fetched} said to be fetched");
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
    let tree = bench.path("store/active/one/srv/file");
    assert_eq!(fs::metadata(tree).unwrap().len(), SIZE as u64);
}

#[test]
fn a_killed_run_goes_on_where_its_stream_was() {
    // What sockets and buffers held.
    killed_three_times("1", 1 << 20);
}

#[test]
fn a_killed_run_loses_no_more_than_its_ranges_in_flight() {
    killed_three_times("2", (2 * 4 + 1) << 20);
}

#[test]
fn a_refused_layer_leaves_no_spool_of_itself_or_of_the_next() {
    let mut bad = layer::named("../../escape");
    bad.resize(2 << 20, 0);
    let objects = vec![("image/1.tar".into(), bad), ("image/2.tar".into(), noisy("next"))];
    let bench = Bench::new(objects);
    let output = bench.command(ACTIVATE).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(100), "{said}");
    assert!(said.contains("escape"), "{said}");
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

/// Makes the layer's digest known, and takes the layer away again.
fn known(bench: &Bench) {
    json(&bench.command(ACTIVATE).output().unwrap());
    json(&bench.command(&["rm", "one"]).output().unwrap());
    json(&bench.command(&["rm", "s3://bucket/image/"]).output().unwrap());
}

#[test]
fn a_rotten_spool_of_a_known_layer_is_thrown_away() {
    let object = noisy("file");
    let bench = Bench::new(vec![("image/1.tar".into(), object.clone())]);
    known(&bench);
    bench.run_and_kill(ACTIVATE, "1", 2 * object.len() as u64 - (8 << 20));
    let spool = bench.files().pop().unwrap();
    let mut bytes = fs::read(&spool).unwrap();
    assert!(bytes.len() > 8 << 20);
    // Inside the file's content, where only the digest can tell.
    bytes[5 << 20] ^= 1;
    fs::write(&spool, bytes).unwrap();
    bench.server.dam.store(u64::MAX, Ordering::SeqCst);
    json(&bench.command(ACTIVATE).output().unwrap());
    let tree = fs::read(bench.path("store/active/one/srv/file")).unwrap();
    assert!(tree == object[512..][..SIZE], "rotten bytes in a sealed layer");
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_source_that_lies_does_not_keep_a_layer_from_its_origin() {
    let bench = Bench::new(vec![("image/1.tar".into(), noisy("file"))]);
    known(&bench);
    let mut flipped = noisy("file");
    flipped[5 << 20] ^= 1;
    // One lie is found out at its end, the other is no archive at all.
    let key = "image/1.tar".to_owned();
    let liars = [flipped, vec![b'?'; 2 << 20]].map(|lie| Bench {
        dir: tempfile::tempdir().unwrap(),
        server: Server::start(vec![(key.clone(), lie)]),
    });
    let sources = liars.each_ref().map(|liar| liar.server.url.clone()).join(",");
    let output = bench.command(ACTIVATE).env("VENEER_FETCH_SOURCES", sources).output().unwrap();
    json(&output);
    for liar in &liars {
        assert!(liar.server.sent.load(Ordering::SeqCst) > 0, "a liar was not asked");
    }
    let tree = fs::read(bench.path("store/active/one/srv/file")).unwrap();
    assert!(tree == noisy("file")[512..][..SIZE], "a lie in a sealed layer");
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

/// What one layer has found out of a source, the others know.
#[test]
fn a_source_that_hangs_costs_its_time_out_once_and_not_once_a_layer() {
    let object = |number: usize| {
        let content = number.to_string().into_bytes();
        (format!("image/{number}.tar"), layer::of(&[(format!("srv/{number}"), content)]))
    };
    let bench = Bench::new((1..=6).map(object).collect());
    known(&bench);
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("http://{}", hung.local_addr().unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    thread::spawn(move || {
        // Kept open, and never answered.
        let mut kept = Vec::new();
        for connection in hung.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            kept.push(connection);
        }
    });
    let mut command = bench.command(ACTIVATE);
    command.env("VENEER_FETCH_SOURCES", source).env("VENEER_FETCH_FIRST_BYTE_TIMEOUT", "1");
    json(&command.output().unwrap());
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=2).contains(&asked), "two layers are on their way at a time: {asked}");
}

#[test]
fn an_old_spool_is_swept_and_a_young_one_kept() {
    let bench = Bench::new(vec![("image/1.tar".into(), noisy("file"))]);
    let dir = bench.path("state/spool");
    fs::create_dir_all(&dir).unwrap();
    let make = |name: &str, hours: u64| {
        let file = fs::File::create(dir.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    };
    make("fetch-old-x.partial", 25);
    make("fetch-young-x.partial", 23);
    make("somebody's file", 1000);
    let names = || {
        let mut names: Vec<String> = bench.files().iter().map(|path| name(path)).collect();
        names.sort();
        names
    };
    json(&bench.command(&["recover", "--dry-run"]).output().unwrap());
    assert_eq!(names().len(), 3, "a dry run removes nothing");
    json(&bench.command(&["recover"]).output().unwrap());
    assert_eq!(names(), ["fetch-young-x.partial", "somebody's file"]);
    json(&bench.command(&["recover", "--spool-age", "3600"]).output().unwrap());
    assert_eq!(names(), ["somebody's file"]);
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A spool is an extra: where it cannot be, the layer is made all the same.
#[test]
fn no_spool_is_no_reason_to_fail() {
    let bench = Bench::new(vec![("image/1.tar".into(), noisy("file"))]);
    let output =
        bench.command(ACTIVATE).env("VENEER_FETCH_SPOOL_RESERVE", "1000000000000000").output();
    json(&output.unwrap());
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}
