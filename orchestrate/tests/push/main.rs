//! What `push` promises, held against the real program: the image that was pushed is the one that is activated,
//! nothing is sent twice, concurrent pushes lose nothing, and wherever one is killed the index names whole blobs only.
//! Needs root for the directory store, and the S3 server that `./bootstrap` installs for the signatures.

mod again;
mod full;
mod image;
mod kills;
mod standin;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::layer;
use tests::s3::{KEYS, Server};

use image::{Layout, archive, index_of, lists, whole};
use standin::StandIn;

/// Directories of one test.
pub(crate) struct Room(tempfile::TempDir);

impl Room {
    pub(crate) fn new() -> Room {
        assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E just test-native");
        let room = Room(tempfile::Builder::new().prefix("veneer-push-").tempdir().unwrap());
        fs::write(room.path("settings.toml"), "").unwrap();
        room
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program against this server, signed.
    pub(crate) fn command(&self, url: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate"));
        command
            .args(["--json", "--no-daemon", "--endpoint", url, "--state"])
            .arg(self.path("state"))
            .arg("--store")
            .arg(format!("dir:{}", self.path("store").display()))
            .args(words)
            .env("AWS_ACCESS_KEY_ID", KEYS.access)
            .env("AWS_SECRET_ACCESS_KEY", KEYS.secret)
            .env("VENEER_CONFIG", self.path("settings.toml"))
            .env("VENEER_FETCH_PATIENCE", "20")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn ok(&self, url: &str, words: &[&str]) -> Value {
        let output = self.command(url, words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn fails(&self, url: &str, words: &[&str]) -> (i32, String) {
        let output = self.command(url, words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }
}

pub(crate) fn url(standin: &StandIn) -> String {
    format!("http://{}", standin.address)
}

fn real() -> PathBuf {
    if let Some(given) = std::env::var_os("VENEER_S3S_FS") {
        return given.into();
    }
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let path = home.join(".cache/veneer/tools/bin/s3s-fs");
    assert!(path.exists(), "no S3 server at {}: run ./bootstrap", path.display());
    path
}

fn sent(done: &Value) -> (u64, u64) {
    (done["bytes_sent"].as_u64().unwrap(), done["bytes_there"].as_u64().unwrap())
}

const TO: &str = "oci:s3://bkt/images/app/:v2";

#[test]
fn a_pushed_image_is_the_same_image_and_is_sent_once() {
    let room = Room::new();
    fs::create_dir_all(room.path("s3/bkt")).unwrap();
    let server = Server::start(&real(), &room.path("s3"), Some(KEYS)).unwrap();
    let url = format!("http://{}", server.address);
    // One layer goes in parts.
    let layers =
        [layer::stacked(1, 4, 2000), image::noise(2, 20 << 20), layer::stacked(3, 4, 2000)];
    let layout = Layout::of(&room.path("layout"), "v1", &layers);
    let from = format!("oci:{}:v1", layout.dir.display());
    let first = room.ok(&url, &["push", &from, TO]);
    assert_eq!(first["objects"].as_array().unwrap().len(), 5);
    assert_eq!((sent(&first), first["index_written"].as_bool()), ((layout.bytes(), 0), Some(true)));
    let again = room.ok(&url, &["push", &from, TO]);
    assert_eq!(
        (sent(&again), again["index_written"].as_bool()),
        ((0, layout.bytes()), Some(false))
    );
    let done = room.ok(&url, &["ensure", TO]);
    assert_eq!(done["chain"], layout.chain.as_str());
    // The bucket is a layout for everybody else, too.
    let copy = room.path("s3/bkt/images/app");
    match Command::new("skopeo").arg("inspect").arg(format!("oci:{}:v2", copy.display())).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "skopeo: {said}");
            let read: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(read["Layers"].as_array().unwrap().len(), 3);
        }
        Err(_) => eprintln!("SKIPPED: skopeo is not installed"),
    }
    // A second tag sends an index and nothing else.
    let other = room.ok(&url, &["push", &from, "oci:s3://bkt/images/app/:v3"]);
    assert_eq!((sent(&other).0, other["index_written"].as_bool()), (0, Some(true)));
    let named = lists(&fs::read(copy.join("index.json")).unwrap());
    assert_eq!(named, ["v2", "v3"]);
}

#[test]
fn eight_pushes_at_once_lose_nothing() {
    let (room, standin) = (Room::new(), StandIn::start());
    let layouts: Vec<Layout> = (1..=8)
        .map(|number| Layout::new(&room.path(&format!("layout-{number}")), "x", &[1, number]))
        .collect();
    std::thread::scope(|scope| {
        for (number, layout) in layouts.iter().enumerate() {
            let (room, url) = (&room, url(&standin));
            scope.spawn(move || {
                let from = format!("oci:{}:x", layout.dir.display());
                room.ok(&url, &["push", &from, &format!("oci:s3://bkt/p/:v{number}")]);
            });
        }
    });
    let named = lists(&standin.get("p/index.json").unwrap());
    let mut sorted = named.clone();
    sorted.sort();
    let due: Vec<String> = (0..8).map(|number| format!("v{number}")).collect();
    assert_eq!(sorted, due);
    whole(&standin, "p/");
    let lost = standin.requests().iter().filter(|(_, status)| *status == 412).count();
    println!("8 pushes: {lost} answers of 412, {} requests", standin.requests().len());
    let probes = standin.keys().iter().filter(|key| key.contains("probe")).count();
    assert_eq!(probes, 0);
}

#[test]
fn a_server_that_ignores_conditions_is_found_out() {
    let (room, standin) = (Room::new(), StandIn::start());
    standin.ignore_conditions();
    let layout = Layout::new(&room.path("layout"), "v1", &[1]);
    let from = format!("oci:{}:v1", layout.dir.display());
    let (code, said) = room.fails(&url(&standin), &["push", &from, TO]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("ignores If-Match") && said.contains("--unsafe-index"), "{said}");
    assert_eq!(standin.keys(), Vec::<String>::new(), "the probe is removed, and nothing was sent");
    standin.spare();
    let (code, said) = room.fails(&url(&standin), &["push", &from, TO]);
    assert!(code == 100 && said.contains("believed for a day"), "{code} {said}");
    let probed = standin.requests().iter().any(|(request, _)| request.contains("probe"));
    assert!(!probed, "it is remembered");
    room.ok(&url(&standin), &["push", "--unsafe-index", &from, TO]);
    whole(&standin, "images/app/");
    assert_eq!(lists(&standin.get("images/app/index.json").unwrap()), ["v2"]);
}

#[test]
fn what_cannot_be_signed_or_is_no_place_is_refused() {
    let (room, standin) = (Room::new(), StandIn::start());
    let layout = Layout::new(&room.path("layout"), "v1", &[1]);
    let from = format!("oci:{}:v1", layout.dir.display());
    for (words, says) in [
        (&["--anonymous", "push", &from, TO][..], "always signed"),
        (&["push", &from, "oci:s3://bkt/images/app/"], "under a tag"),
        (&["push", &from, "s3://bkt/images/app/"], "--numbered"),
        (&["push", "--numbered", &from, TO], "--numbered"),
        (&["push", "--numbered", "--unsafe-index", &from, "s3://bkt/p/"], "no index"),
        (&["push", &from, &from], "into a bucket"),
        (&["push", TO, TO], "from a file of this host"),
        (&["push", "oci:/nonexistent:v1", TO], "/nonexistent"),
        (&["push", "--platform", "linux/riscv64", &from, TO], "linux/riscv64"),
    ] {
        let (code, said) = room.fails(&url(&standin), words);
        assert_eq!(code, 100, "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
    assert_eq!(standin.keys(), Vec::<String>::new());
    // Of several images one has to be named.
    let two = Layout::new(&room.path("two"), "a", &[1]);
    two.add("b", &[2]);
    let (code, said) =
        room.fails(&url(&standin), &["push", &format!("oci:{}", two.dir.display()), TO]);
    assert_eq!(code, 100, "{said}");
    standin.put("images/app/index.json", b"[]");
    let (code, said) = room.fails(&url(&standin), &["push", &from, TO]);
    assert!(code == 100 && said.contains("index.json"), "{said}");
    assert_eq!(standin.keys(), ["images/app/index.json"]);
}

#[test]
fn a_blob_that_has_not_its_digest_is_refused_and_nothing_of_it_stays() {
    let (room, standin) = (Room::new(), StandIn::start());
    for (name, bytes) in [("small", 2000), ("large", 20 << 20)] {
        let layout = Layout::of(&room.path(name), "v1", &[image::noise(1, bytes)]);
        let path = layout.blob(0);
        let mut damaged = fs::read(&path).unwrap();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        fs::write(&path, damaged).unwrap();
        let from = format!("oci:{}:v1", layout.dir.display());
        let to = format!("oci:s3://bkt/{name}/:v1");
        let (code, said) = room.fails(&url(&standin), &["push", &from, &to]);
        assert_eq!(code, 100, "{said}");
        let digest = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(digest) && said.contains("it is not uploaded"), "{said}");
        assert!(!standin.keys().iter().any(|key| key.ends_with(digest)), "{name}");
        assert_eq!(standin.unfinished(), 0, "{name}");
        assert_eq!(standin.get(&format!("{name}/index.json")), None);
        fs::write(&path, b"short").unwrap();
        let (code, said) = room.fails(&url(&standin), &["push", &from, &to]);
        assert!(code == 100 && said.contains("it has 5 bytes"), "{said}");
    }
}

#[test]
fn all_platforms_of_an_index_go_or_the_one_that_is_asked_for() {
    let (room, standin) = (Room::new(), StandIn::start());
    let layout = Layout::new(&room.path("layout"), "amd64", &[1, 2]);
    layout.add("arm64", &[1, 3]);
    layout.join("all", &[("amd64", "amd64"), ("arm64", "arm64")]);
    let from = format!("oci:{}:all", layout.dir.display());
    let done = room.ok(&url(&standin), &["push", &from, "oci:s3://bkt/all/:v1"]);
    // Three layers, two configs, two manifests, an attestation with its config and layer, an index.
    assert_eq!(done["objects"].as_array().unwrap().len(), 11);
    whole(&standin, "all/");
    let one = ["push", "--platform", "linux/arm64", &from, "oci:s3://bkt/one/:v1"];
    let done = room.ok(&url(&standin), &one);
    assert_eq!(done["objects"].as_array().unwrap().len(), 4);
    let index: Value = serde_json::from_slice(&standin.get("one/index.json").unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
    whole(&standin, "one/");
    let a =
        room.ok(&url(&standin), &["ensure", "--platform", "linux/arm64", "oci:s3://bkt/all/:v1"]);
    let b =
        room.ok(&url(&standin), &["ensure", "--platform", "linux/arm64", "oci:s3://bkt/one/:v1"]);
    assert_eq!(a["chain"], b["chain"]);
    // A tag is replaced and not doubled.
    let amd64 = format!("oci:{}:amd64", layout.dir.display());
    room.ok(&url(&standin), &["push", &amd64, "oci:s3://bkt/one/:v1"]);
    assert_eq!(lists(&standin.get("one/index.json").unwrap()), ["v1"]);
    // By its digest, and what is not all there.
    let digest = index_of(&layout.dir)["manifests"][2]["digest"].as_str().unwrap().to_owned();
    let by = format!("oci:{}@{digest}", layout.dir.display());
    let done = room.ok(&url(&standin), &["push", &by, "oci:s3://bkt/all/:v2"]);
    assert_eq!(sent(&done).0, 0);
    fs::remove_file(layout.blob(1)).unwrap();
    let (code, said) = room.fails(&url(&standin), &["push", &from, "oci:s3://bkt/sparse/:v1"]);
    assert!(code == 100 && said.contains("was not copied whole"), "{said}");
    assert!(!standin.keys().iter().any(|key| key.starts_with("sparse/")));
}

#[test]
fn an_archive_of_docker_save_becomes_an_image_with_a_manifest() {
    let (room, standin) = (Room::new(), StandIn::start());
    let (bytes, chain) = archive(&[1, 2, 3], "app:v1");
    fs::write(room.path("saved.tar"), &bytes).unwrap();
    let from = format!("docker-archive:{}:app:v1", room.path("saved.tar").display());
    let done = room.ok(&url(&standin), &["push", &from, TO]);
    assert_eq!(done["objects"].as_array().unwrap().len(), 5);
    whole(&standin, "images/app/");
    let manifest = done["digests"][0].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest = standin.get(&format!("images/app/blobs/sha256/{manifest}")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let media: Vec<_> =
        manifest["layers"].as_array().unwrap().iter().map(|layer| &layer["mediaType"]).collect();
    let tar = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(media, [tar, &format!("{tar}+gzip"), tar]);
    assert_eq!(room.ok(&url(&standin), &["ensure", TO])["chain"], chain.as_str());
    // Through a pipe, and by the layout's own archive form.
    let mut command = room.command(&url(&standin), &["push", "docker-archive:-:app:v1", TO]);
    let piped = command.stdin(fs::File::open(room.path("saved.tar")).unwrap()).output().unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let piped: Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!((sent(&piped).0, &piped["digests"]), (0, &done["digests"]));
    let left = fs::read_dir(room.path("state/archives")).unwrap().count();
    assert_eq!(left, 0, "what came through the pipe is gone");
    // A layer that is not what the config says.
    let (mut bytes, _) = archive(&[1, 2, 3], "app:v1");
    let at = bytes.windows(11).position(|text| text == b"srv/layer-3").unwrap();
    bytes[at + 600] ^= 1;
    fs::write(room.path("bad.tar"), &bytes).unwrap();
    let from = format!("docker-archive:{}", room.path("bad.tar").display());
    let (code, said) = room.fails(&url(&standin), &["push", &from, "oci:s3://bkt/bad/:v1"]);
    assert!(code == 100 && said.contains("config says"), "{said}");
    assert!(!standin.keys().iter().any(|key| key.starts_with("bad/")));
}

#[test]
fn numbered_layers_are_written_from_the_top_and_never_replaced() {
    let (room, standin) = (Room::new(), StandIn::start());
    let (bytes, chain) = archive(&[1, 2, 3], "app:v1");
    fs::write(room.path("saved.tar"), &bytes).unwrap();
    let from = format!("docker-archive:{}", room.path("saved.tar").display());
    let words = ["push", "--numbered", &from, "s3://bkt/plain/"];
    let done = room.ok(&url(&standin), &words);
    assert_eq!(standin.keys(), ["plain/1.tar", "plain/2.tar.gz", "plain/3.tar"]);
    let puts: Vec<String> = standin.requests().into_iter().map(|(request, _)| request).collect();
    let puts: Vec<&String> = puts.iter().filter(|request| request.starts_with("PUT")).collect();
    assert_eq!(puts, ["PUT /bkt/plain/3.tar", "PUT /bkt/plain/2.tar.gz", "PUT /bkt/plain/1.tar"]);
    assert_eq!(room.ok(&url(&standin), &["ensure", "s3://bkt/plain/"])["chain"], chain.as_str());
    let again = room.ok(&url(&standin), &words);
    assert_eq!(sent(&again), (0, sent(&done).0));
    // Other layers, and more layers than there are now.
    for numbers in [&[1, 2, 4][..], &[1, 2]] {
        let (bytes, _) = archive(numbers, "app:v1");
        fs::write(room.path("other.tar"), &bytes).unwrap();
        let from = format!("docker-archive:{}", room.path("other.tar").display());
        let before = standin.get("plain/3.tar");
        let (code, said) =
            room.fails(&url(&standin), &["push", "--numbered", &from, "s3://bkt/plain/"]);
        assert!(code == 100 && said.contains("prefix that is empty"), "{code} {said}");
        assert_eq!(standin.get("plain/3.tar"), before);
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
