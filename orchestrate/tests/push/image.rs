//! Images to push, and what has to hold of a bucket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::layer;

use crate::read_json;
use crate::standin::StandIn;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const NAME: &str = "org.opencontainers.image.ref.name";

fn sum(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A layer of one file that nothing compresses.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    layer::of(&[(format!("noise-{seed}"), content)])
}

/// A layout in a directory.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    /// Of the first image.
    pub(crate) chain: String,
    /// Digests of its layers.
    layers: Vec<String>,
}

impl Layout {
    pub(crate) fn new(dir: &Path, tag: &str, numbers: &[u8]) -> Layout {
        let layers: Vec<_> =
            numbers.iter().map(|number| layer::stacked(*number, 4, 2000)).collect();
        Layout::of(dir, tag, &layers)
    }

    pub(crate) fn of(dir: &Path, tag: &str, layers: &[Vec<u8>]) -> Layout {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(dir.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        let mut layout = Layout { dir: dir.to_owned(), chain: String::new(), layers: Vec::new() };
        layout.chain = layout.image(tag, layers, "amd64");
        layout.layers = layers.iter().map(|layer| sum(layer)).collect();
        layout
    }

    /// One more image, for arm64.
    pub(crate) fn add(&self, tag: &str, numbers: &[u8]) {
        let layers: Vec<_> =
            numbers.iter().map(|number| layer::stacked(*number, 4, 2000)).collect();
        self.image(tag, &layers, "arm64");
    }

    /// An index over images of the layout, with an attestation, under a tag.
    pub(crate) fn join(&self, tag: &str, of: &[(&str, &str)]) {
        let index = index_of(&self.dir);
        let all = index["manifests"].as_array().unwrap();
        let mut entries: Vec<Value> = of
            .iter()
            .map(|(name, architecture)| {
                let found = all.iter().find(|entry| entry["annotations"][NAME] == *name).unwrap();
                let mut entry = found.clone();
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry.as_object_mut().unwrap().remove("annotations");
                entry
            })
            .collect();
        let config = self.put(CONFIG, b"{\"os\":\"unknown\"}");
        let told = self.put("application/vnd.in-toto+json", b"{}");
        let attestation = json!({"schemaVersion": 2, "config": config, "layers": [told]});
        let mut attestation = self.put(MANIFEST, attestation.to_string().as_bytes());
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        entries.push(attestation);
        let joined = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let entry = self.put(INDEX, joined.to_string().as_bytes());
        self.list(tag, entry);
    }

    fn image(&self, tag: &str, layers: &[Vec<u8>], architecture: &str) -> String {
        let (mut chain, mut diffs, mut described) = (String::new(), Vec::new(), Vec::new());
        for layer in layers {
            let diff = format!("sha256:{}", sum(layer));
            chain = match chain.as_str() {
                "" => diff.clone(),
                below => format!("sha256:{}", sum(format!("{below} {diff}").as_bytes())),
            };
            diffs.push(diff);
            described.push(self.put(LAYER, layer));
        }
        let config = json!({"os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diffs}});
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": described});
        let entry = self.put(MANIFEST, manifest.to_string().as_bytes());
        self.list(tag, entry);
        chain
    }

    fn put(&self, media: &str, bytes: &[u8]) -> Value {
        let digest = sum(bytes);
        fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    fn list(&self, tag: &str, mut entry: Value) {
        let mut index = index_of(&self.dir);
        entry["annotations"] = json!({NAME: tag});
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    /// The file of a layer of the first image.
    pub(crate) fn blob(&self, layer: usize) -> PathBuf {
        self.dir.join("blobs/sha256").join(&self.layers[layer])
    }

    /// Bytes of all blobs.
    pub(crate) fn bytes(&self) -> u64 {
        let entries = fs::read_dir(self.dir.join("blobs/sha256")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

pub(crate) fn index_of(dir: &Path) -> Value {
    read_json(&dir.join("index.json"))
}

/// The names that an index has, one for each entry.
pub(crate) fn lists(index: &[u8]) -> Vec<String> {
    let index: Value = serde_json::from_slice(index).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    entries.map(|entry| entry["annotations"][NAME].as_str().unwrap().to_owned()).collect()
}

/// Everything that the index below a prefix names is there, of its size and digest, and so is what that names.
pub(crate) fn whole(standin: &StandIn, prefix: &str) -> usize {
    let Some(index) = standin.get(&format!("{prefix}index.json")) else { return 0 };
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert!(standin.get(&format!("{prefix}oci-layout")).is_some(), "an index and no oci-layout");
    let (mut open, mut count) = (vec![index], 0);
    while let Some(document) = open.pop() {
        let list = |name: &str| document[name].as_array().cloned().unwrap_or_default();
        let config = document.get("config").filter(|config| config.get("digest").is_some());
        let named = [list("manifests"), list("layers"), config.into_iter().cloned().collect()];
        for descriptor in named.into_iter().flatten() {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = standin.get(&format!("{prefix}blobs/sha256/{digest}"));
            let bytes = bytes.unwrap_or_else(|| panic!("{digest} is named and not there"));
            assert_eq!(
                (sum(&bytes).as_str(), bytes.len() as u64),
                (digest, descriptor["size"].as_u64().unwrap())
            );
            count += 1;
            if descriptor["mediaType"] == MANIFEST || descriptor["mediaType"] == INDEX {
                open.push(serde_json::from_slice(&bytes).unwrap());
            }
        }
    }
    count
}

/// What `docker save` writes, the second layer compressed; and the chain id of the image.
pub(crate) fn archive(numbers: &[u8], name: &str) -> (Vec<u8>, String) {
    let (mut files, mut diffs, mut names, mut chain) =
        (Vec::new(), Vec::new(), Vec::new(), String::new());
    for (at, number) in numbers.iter().enumerate() {
        let tar = layer::stacked(*number, 4, 2000);
        let diff = format!("sha256:{}", sum(&tar));
        chain = match chain.as_str() {
            "" => diff.clone(),
            below => format!("sha256:{}", sum(format!("{below} {diff}").as_bytes())),
        };
        diffs.push(diff);
        let path = format!("{at}/layer.tar");
        names.push(path.clone());
        files.push((path, if at == 1 { gzip(&tar) } else { tar }));
    }
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diffs}});
    files.push(("config.json".to_owned(), config.to_string().into_bytes()));
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    (layer::of(&files), chain)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = Command::new("gzip")
        .arg("-nc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || to.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    output.stdout
}
