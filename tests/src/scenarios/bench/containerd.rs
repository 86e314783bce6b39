//! containerd with its devmapper snapshotter, by `ctr`. It reads the image from a local OCI archive, which
//! is to its advantage: no network.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Took;
use crate::guest::{Cmd, Guest, Running, ScratchExt4};

/// Whether the guest has it: `./bootstrap --peers` gets it, `just bench` packs it.
pub(super) fn installed() -> bool {
    Path::new("/usr/bin/containerd").exists()
}

/// Packs a family's layers as an OCI archive; gives the chain id of its top.
///
/// # Errors
/// Files cannot be read or written.
pub(super) fn archive(family: &str, path: &Path) -> Result<String> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let (mut layers, mut diffs, mut chain) = (Vec::new(), Vec::new(), String::new());
    for number in 1..=5 {
        let layer = super::layer(family, number);
        let mut hash = Sha256::new();
        let size = std::io::copy(&mut File::open(&layer)?, &mut hash)?;
        let diff = format!("{:x}", hash.finalize());
        tar.append_path_with_name(&layer, format!("blobs/sha256/{diff}"))?;
        chain = match chain.as_str() {
            "" => format!("sha256:{diff}"),
            below => format!("sha256:{:x}", Sha256::digest(format!("{below} sha256:{diff}"))),
        };
        diffs.push(format!("sha256:{diff}"));
        layers.push(json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{diff}"), "size": size }));
    }
    let mut blob = |value: serde_json::Value, media: &str| -> Result<serde_json::Value> {
        let text = value.to_string();
        let digest = format!("{:x}", Sha256::digest(&text));
        append(&mut tar, &format!("blobs/sha256/{digest}"), &text)?;
        Ok(json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": text.len() }))
    };
    let config = blob(
        json!({ "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diffs } }),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let mut manifest = blob(
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers }),
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    manifest["annotations"] = json!({ "io.containerd.image.name": "bench/image:latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    append(&mut tar, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", &index.to_string())?;
    tar.into_inner()?.into_inner().context("flush the archive")?;
    Ok(chain)
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, text: &str) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(u64::try_from(text.len())?);
    Ok(tar.append_data(&mut header, path, text.as_bytes())?)
}

/// The image onto an empty pool, then activations.
///
/// # Errors
/// containerd does not start, or fails.
pub(super) fn run(
    guest: &Guest,
    disk: &ScratchExt4,
    archive: &Path,
    chain: &str,
    count: usize,
) -> Result<Took> {
    let pool = super::fresh(disk, "ctrd")?;
    let daemon = Daemon::start(guest, disk)?;
    let begun = Instant::now();
    daemon.ctr(&[
        "images",
        "import",
        "--snapshotter",
        "devmapper",
        &archive.display().to_string(),
    ])?;
    daemon.ctr(&["snapshots", "--snapshotter", "devmapper", "prepare", "a0", chain])?;
    let image_s = begun.elapsed().as_secs_f64();
    let status = pool.pool().status()?;
    let blocks = status.working().context("the pool has failed")?.used_data.0;
    let mut activation_s = Vec::new();
    for n in 1..=count {
        let name = format!("a{n}");
        let begun = Instant::now();
        daemon.ctr(&["snapshots", "--snapshotter", "devmapper", "prepare", &name, chain])?;
        activation_s.push(begun.elapsed().as_secs_f64());
    }
    let root = daemon.stop()?;
    // Its devices are named after its pool.
    let listed = Cmd::new("dmsetup").arg("ls").run()?.expect(0)?;
    for line in listed.text()?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.starts_with("ctrd-") {
            Cmd::new("dmsetup")
                .args(["remove", "--noudevsync", "--retry", name])
                .run()?
                .expect(0)?;
        }
    }
    super::gone(disk, "ctrd", pool)?;
    std::fs::remove_dir_all(root)?;
    Ok(Took { image_s, activation_s, blocks })
}

struct Daemon {
    running: Running,
    root: PathBuf,
    socket: String,
}

impl Daemon {
    fn start(guest: &Guest, disk: &ScratchExt4) -> Result<Daemon> {
        let root = disk.path().join("containerd");
        std::fs::create_dir_all(&root)?;
        let socket = "/run/containerd.sock".to_owned();
        let config = root.join("config.toml");
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\naddress = \"{socket}\"\n\
                 [plugins.\"io.containerd.snapshotter.v1.devmapper\"]\n\
                 root_path = \"{0}/dm\"\npool_name = \"ctrd\"\nbase_image_size = \"4GB\"\n",
                root.display()
            ),
        )?;
        let running = guest.cmd("containerd").arg("-c").arg(&config).spawn()?;
        let mut daemon = Daemon { running, root, socket };
        let begun = Instant::now();
        while daemon.ctr(&["version"]).is_err() {
            ensure!(daemon.running.running()?, "containerd has ended");
            if begun.elapsed() > Duration::from_secs(120) {
                bail!("containerd does not answer");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(daemon)
    }

    fn ctr(&self, words: &[&str]) -> Result<()> {
        Cmd::new("ctr").args(["-a", &self.socket]).args(words).run()?.expect(0).map(drop)
    }

    fn stop(mut self) -> Result<PathBuf> {
        self.running.kill()?;
        self.running.wait()?;
        Ok(self.root)
    }
}
