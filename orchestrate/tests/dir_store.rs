//! The whole job on a `dir:` store against the real S3 server: sharing, kills at random, many
//! processes at once, removal. Needs root, since layers have owners, and the server that
//! `./bootstrap` installs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const FILES: usize = 150;

/// A server with images `a` (layers 1, 2, 3) and `b` (layers 1, 2, 4), and a host beside it.
struct Bench {
    dir: tempfile::TempDir,
    server: Child,
    url: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        // It may have died by itself; then a test has failed and says so.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn server() -> PathBuf {
    if let Some(given) = std::env::var_os("VENEER_S3S_FS") {
        return given.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let path = cache.unwrap_or_else(|| home.join(".cache")).join("veneer/tools/bin/s3s-fs");
    assert!(path.exists(), "no S3 server at {}: run ./bootstrap", path.display());
    path
}

fn layer(number: u8) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    for file in 0..FILES {
        let content = [number; 1 << 14];
        add(&format!("srv/layer-{number}/{file}"), &content[file..]);
    }
    if number > 1 {
        add(&format!("srv/layer-{}/.wh.0", number - 1), b"");
    }
    tar.into_inner().unwrap()
}

impl Bench {
    fn new() -> Bench {
        assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E just test-native");
        let dir = tempfile::tempdir().unwrap();
        for (image, numbers) in [("a", [1, 2, 3]), ("b", [1, 2, 4])] {
            let place = dir.path().join("s3/bucket").join(image);
            fs::create_dir_all(&place).unwrap();
            for (pos, number) in numbers.iter().enumerate() {
                fs::write(place.join(format!("{}.tar", pos + 1)), layer(*number)).unwrap();
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(server())
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .arg(dir.path().join("s3"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the S3 server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Bench { dir, server, url: format!("http://127.0.0.1:{port}") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate"));
        command
            .args(["--json", "--anonymous", "--endpoint", &self.url, "--state"])
            .arg(self.path("state"))
            .arg("--store")
            .arg(format!("dir:{}", self.path("store").display()))
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> Value {
        let output = self.command(words).output().unwrap();
        json(words, &output)
    }

    /// Rows and directories agree, and nothing is half done.
    fn check(&self) {
        let recover = self.ok(&["recover", "--dry-run"]);
        assert_eq!(recover["repairs"], serde_json::json!([]));
        let registry = registry::Registry::open(&self.path("state/registry.db")).unwrap();
        assert_eq!(registry.check().unwrap(), []);
        let mut rows: Vec<u32> = registry.volumes().unwrap().iter().map(|row| row.id).collect();
        rows.extend(registry.activations().unwrap().iter().map(|row| row.id));
        rows.sort_unstable();
        let mut dirs: Vec<u32> = fs::read_dir(self.path("store/volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        dirs.sort_unstable();
        assert_eq!(rows, dirs);
    }

    fn check_tree(&self, name: &str, top: u8) {
        let srv = self.path("store/active").join(name).join("srv");
        let count = |number: u8| {
            fs::read_dir(srv.join(format!("layer-{number}"))).map_or(0, |entries| entries.count())
        };
        assert_eq!((count(1), count(top)), (FILES - 1, FILES), "the tree of {name}");
    }
}

fn json(words: &[&str], output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn layers_are_shared_and_a_second_time_costs_nothing() {
    let bench = Bench::new();
    let a = bench.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    assert_eq!(a["ensured"]["fetched_objects"], 3);
    let b = bench.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    assert_eq!(b["ensured"]["fetched_objects"], 1);
    bench.check_tree("a-1", 3);
    bench.check_tree("b-1", 4);
    let again = bench.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    assert_eq!((&again["already"], &again["ensured"]), (&true.into(), &Value::Null));
    let second = bench.ok(&["activate", "s3://bucket/a/", "--name", "a-2"]);
    assert_eq!(second["ensured"]["fetched_objects"], 0);
    bench.check();

    // A name belongs to one image, and an image that is in use stays.
    let taken = bench.command(&["activate", "s3://bucket/b/", "--name", "a-1"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(100));
    let used = bench.command(&["rm", "s3://bucket/a/"]).output().unwrap();
    assert_eq!(used.status.code(), Some(100));

    for name in ["a-1", "a-2"] {
        bench.ok(&["rm", name]);
    }
    let dry = bench.ok(&["rm", "s3://bucket/a/", "--dry-run"]);
    let done = bench.ok(&["rm", "s3://bucket/a/"]);
    assert_eq!(done["volumes"], dry["volumes"]);
    assert_eq!(done["volumes"].as_array().unwrap().len(), 1, "only layer 3 is a's alone");
    bench.check();
    bench.check_tree("b-1", 4);
}

#[test]
fn killed_at_any_moment_the_same_command_ends_well() {
    let bench = Bench::new();
    // The delays spread over one whole run, however fast the machine is.
    let begun = Instant::now();
    bench.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    let whole = begun.elapsed();
    let kills: u32 = std::env::var("VENEER_KILLS").map_or(10, |text| text.parse().unwrap());
    for kill in 0..kills {
        bench.ok(&["rm", "a-1"]);
        bench.ok(&["rm", "s3://bucket/a/"]);
        let mut running = bench
            .command(&["activate", "s3://bucket/a/", "--name", "a-1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * kill / kills);
        running.kill().unwrap();
        running.wait().unwrap();
        bench.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
        bench.check();
        bench.check_tree("a-1", 3);
    }
}

#[test]
fn many_processes_build_each_layer_once() {
    let bench = Bench::new();
    let jobs: Vec<(String, &str)> = (0..12)
        .map(|n| (format!("n-{n}"), if n % 2 == 0 { "s3://bucket/a/" } else { "s3://bucket/b/" }))
        .collect();
    let running: Vec<Child> = jobs
        .iter()
        .map(|(name, image)| {
            bench
                .command(&["activate", image, "--name", name])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut built = 0;
    for (child, (name, image)) in running.into_iter().zip(&jobs) {
        let done = json(&["activate", image, "--name", name], &child.wait_with_output().unwrap());
        let layers = done["ensured"]["layers"].as_array().unwrap();
        built += layers.iter().filter(|layer| layer["how"] != "reused").count();
    }
    assert_eq!(built, 4, "four layers are distinct");
    bench.check();
    for (name, image) in &jobs {
        bench.check_tree(name, if image.ends_with("a/") { 3 } else { 4 });
    }
}

#[test]
fn a_registry_of_another_day_is_refused_and_nothing_is_changed() {
    let bench = Bench::new();
    bench.ok(&["activate", "s3://bucket/a/", "--name", "a-1"]);
    let (state, kept) = (bench.path("state"), bench.path("kept"));
    copy(&state, &kept);
    bench.ok(&["activate", "s3://bucket/b/", "--name", "b-1"]);
    fs::remove_dir_all(&state).unwrap();
    copy(&kept, &state);
    let volumes = || fs::read_dir(bench.path("store/volumes")).unwrap().count();
    let before = volumes();
    let refused = bench.command(&["activate", "s3://bucket/b/", "--name", "b-2"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(100), "{said}");
    assert!(said.contains("not of the same moment"), "{said}");
    assert_eq!(volumes(), before);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
