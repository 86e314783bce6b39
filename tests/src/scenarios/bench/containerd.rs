//! containerd with its devmapper snapshotter, by `ctr`. It reads the image from a local OCI archive, which
//! is to its advantage: no network.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Took;
use crate::guest::{Cmd, Guest, Running, ScratchExt4};
use crate::oci::Image;

/// Whether the guest has it: `./bootstrap --peers` gets it, `just bench` packs it.
pub(super) fn installed() -> bool {
    Path::new("/usr/bin/containerd").exists()
}

/// Packs a family's layers as an OCI archive; gives the chain id of its top.
///
/// # Errors
/// Files cannot be read or written.
pub(super) fn archive(family: &str, path: &Path) -> Result<String> {
    let layers: Vec<PathBuf> = (1..=5).map(|n| super::layer(family, n).into()).collect();
    let image = Image::new(&layers, ("io.containerd.image.name", "bench/image:latest"))?;
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    // containerd passes over sparse entries.
    tar.sparse(false);
    for (path, layer) in &image.layers {
        tar.append_path_with_name(layer, path)?;
    }
    for (path, text) in &image.texts {
        append(&mut tar, path, text)?;
    }
    tar.into_inner()?.into_inner().context("flush the archive")?;
    Ok(image.chain)
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
        // There is no udevd here: libdevmapper is to make the nodes itself.
        let daemon = guest.cmd("containerd").env("DM_DISABLE_UDEV", "1");
        let running = daemon.arg("-c").arg(&config).spawn()?;
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
