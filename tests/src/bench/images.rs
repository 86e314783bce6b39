//! `just bench images`: an image out of a real registry to a tree that can be written to, by ours on a store of
//! directories and by what one would use instead; and what a second image costs that shares all but its last layer.
//!
//! The image is of files of this machine, so that sizes and contents are what they are in life: its figures are for
//! comparison within a run, not between machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::jobs::Columns;
use super::measure::{self, Measured};
use super::out::Out;
use super::{Job, On, Setup, layers, peers};
use crate::distribution::Registry;
use crate::host::places::host_program;
use crate::oci::Image;

/// What the layers are of, and at most how many bytes of it.
const LAYERS: [(&str, u64); 4] = [
    ("usr/lib", 220 << 20),
    ("usr/bin", 100 << 20),
    ("usr/share", 100 << 20),
    ("usr/sbin", 20 << 20),
];

/// Larger files are left out, so that none is a layer by itself.
const FILE_MAX: u64 = 40 << 20;

/// A registry with the image `app:v1`, and `app:v2` that has another last layer.
#[derive(Debug)]
pub struct Pulled {
    registry: Registry,
    what: String,
    last: u64,
}

impl Pulled {
    /// Makes the two images and puts them there; none without skopeo, which does.
    ///
    /// # Errors
    /// The registry does not start, or the images cannot be made.
    pub fn start(setup: &Setup, program: &Path) -> Result<Option<Pulled>> {
        let Some(skopeo) = peers::find(&setup.peers, "skopeo") else { return Ok(None) };
        let dir = setup.scratch.join("images");
        fs::create_dir_all(&dir)?;
        let mut tars = Vec::new();
        let (mut bytes, mut entries) = (0, 0);
        for (n, (of, most)) in LAYERS.iter().enumerate() {
            let path = dir.join(format!("{n}.tar"));
            entries += tar_of(of, *most, &path)?;
            bytes += fs::metadata(&path)?.len();
            tars.push(path);
        }
        let registry = Registry::start(program, &dir.join("registry"))?;
        let other = dir.join("other.tar");
        layers::made(&other, 1000, 12)?;
        let mut last = 0;
        for (tag, top) in [("v1", None), ("v2", Some(&other))] {
            let mut of = tars.clone();
            if let Some(top) = top {
                of.pop();
                of.push(top.clone());
            }
            let layout = dir.join(tag);
            Image::new(&of, ("org.opencontainers.image.ref.name", tag))?.write(&layout)?;
            // To a registry it packs plain layers by gzip.
            let line = format!(
                "{} --insecure-policy copy -q --dest-tls-verify=false oci:{}:{tag} docker://{}/app:{tag}",
                skopeo.display(),
                layout.display(),
                registry.host(),
            );
            let before = stored(&dir.join("registry"))?;
            measure::run(&line, &dir, false)?;
            last = stored(&dir.join("registry"))?.saturating_sub(before);
            fs::remove_dir_all(&layout)?;
        }
        for tar in tars.iter().chain([&other]) {
            fs::remove_file(tar)?;
        }
        let packed = stored(&dir.join("registry"))?.saturating_sub(last);
        let what = format!(
            "an image of {} layers, {entries} entries, {} MB, {} MB by gzip",
            LAYERS.len(),
            bytes / 1_000_000,
            packed / 1_000_000
        );
        Ok(Some(Pulled { registry, what, last }))
    }

    /// From an empty directory to a tree, synced; on a file system where each copy of a file takes room, and on one where
    /// it does not.
    #[must_use]
    pub fn first(&self, setup: &Setup) -> Vec<Job> {
        let what = |on| {
            format!("{} from a registry on this machine, to a tree on {on}, synced", self.what)
        };
        let columns = || self.columns(setup, "v1");
        let ext4 = columns().onto(On::Ext4).job("images", what("ext4"), Some(1.0));
        let xfs = columns().onto(On::Xfs).job("images-xfs", what("XFS"), Some(1.0));
        match host_program("mkfs.xfs") {
            Ok(_) => vec![ext4, xfs],
            Err(_) => vec![ext4],
        }
    }

    /// What the second image takes where the first is: a line each.
    ///
    /// # Errors
    /// Ours fails, or the log of the registry cannot be read.
    pub fn second(&self, setup: &Setup) -> Result<Vec<String>> {
        let lasts = format!(
            "what is new of the second image, by what the registry keeps: {} bytes",
            self.last
        );
        let mut notes = vec![lasts];
        let both = self.columns(setup, "v1").there.into_iter();
        for (first, next) in both.zip(self.columns(setup, "v2").there) {
            let out = Out::new(&setup.scratch, On::Ext4)?;
            let ran = self.pair(&first.line, &next.line, out.path());
            out.close()?;
            match ran {
                Ok((took, bytes)) => notes.push(format!(
                    "the second image by {}: {bytes} bytes, {:.2} s, {:.2} s of processor",
                    next.name, took.wall, took.processor
                )),
                Err(error) if notes.len() == 1 => return Err(error.context("ours")),
                Err(error) => eprintln!("bench: images: {} is left out: {error:#}", next.name),
            }
        }
        Ok(notes)
    }

    /// What the second line took, and how many bytes the registry has sent for it.
    fn pair(&self, first: &str, next: &str, out: &Path) -> Result<(Measured, u64)> {
        measure::run(first, out, false)?;
        let before = self.registry.sent()?;
        let took = measure::run(next, out, false)?;
        Ok((took, self.registry.sent()? - before))
    }

    /// Everybody's line for one of the images; what was pulled before may be there.
    fn columns<'a>(&self, setup: &'a Setup, tag: &str) -> Columns<'a> {
        let (host, sync) = (self.registry.host(), "sync -f \"$OUT\"");
        let ours = format!(
            "{} -q --state \"$OUT/state\" --store dir:\"$OUT/store\" --anonymous activate docker://{host}/app:{tag} --name {tag}; {sync}",
            setup.programs.join("orchestrate").display(),
        );
        let copy = format!(
            "{{skopeo}} --insecure-policy copy -q --src-tls-verify=false docker://{host}/app:{tag} oci:\"$OUT/oci\":{tag}"
        );
        let podman = "{podman} --root \"$OUT/root\" --runroot \"$OUT/run\" --storage-driver overlay --cgroup-manager cgroupfs";
        Columns::ours(setup, "orchestrate", ours)
            .peer(
                "skopeo, umoci unpack",
                &["skopeo", "umoci"],
                &format!("{copy}; {{umoci}} unpack --image \"$OUT/oci\":{tag} \"$OUT/{tag}\"; {sync}"),
            )
            .peer(
                "skopeo, umoci raw unpack",
                &["skopeo", "umoci"],
                &format!("{copy}; {{umoci}} raw unpack --image \"$OUT/oci\":{tag} \"$OUT/{tag}\"; {sync}"),
            )
            .peer(
                "podman, overlay",
                &["podman"],
                &format!(
                    "{podman} pull -q --tls-verify=false {host}/app:{tag}; \
                     {podman} create --name {tag} {host}/app:{tag} /none; {podman} mount {tag}; {sync}; {podman} umount {tag}"
                ),
            )
            .peer("containerd, overlay", &["containerd", "ctr"], &containerd(&host, tag))
    }
}

/// Its daemon is started and ended too, which is a fraction of a second.
fn containerd(host: &str, tag: &str) -> String {
    format!(
        "printf 'version = 2\\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n' > \"$OUT/config.toml\"
         {{containerd}} -c \"$OUT/config.toml\" --root \"$OUT/root\" --state \"$OUT/state\" -a \"$OUT/sock\" 2> \"$OUT/said\" & daemon=$!
         trap 'kill $daemon; wait $daemon || true' EXIT
         until {{ctr}} -a \"$OUT/sock\" version 2> /dev/null; do kill -0 $daemon; sleep 0.02; done
         {{ctr}} -a \"$OUT/sock\" images pull --plain-http --snapshotter overlayfs {host}/app:{tag}
         mkdir -p \"$OUT/at\"
         {{ctr}} -a \"$OUT/sock\" images mount --rw --snapshotter overlayfs {host}/app:{tag} \"$OUT/at\"
         sync -f \"$OUT\"
         {{ctr}} -a \"$OUT/sock\" images unmount --snapshotter overlayfs --rm \"$OUT/at\""
    )
}

/// Bytes of the blobs of a registry over `dir`.
fn stored(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    let mut todo = vec![dir.join("data/docker/registry/v2/blobs")];
    while let Some(at) = todo.pop() {
        if !at.exists() {
            continue;
        }
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let found = entry.metadata()?;
            match found.is_dir() {
                true => todo.push(entry.path()),
                false => sum += found.len(),
            }
        }
    }
    Ok(sum)
}

/// Writes a layer of what is below a directory of this machine, by name, until that many bytes; gives its entries.
fn tar_of(of: &str, most: u64, to: &Path) -> Result<u64> {
    let root = Path::new("/");
    let mut tar =
        tar::Builder::new(std::io::BufWriter::with_capacity(1 << 20, fs::File::create(to)?));
    tar.follow_symlinks(false);
    tar.mode(tar::HeaderMode::Complete);
    let (mut bytes, mut entries) = (0, 0);
    let mut todo = vec![PathBuf::from(of)];
    while let Some(at) = todo.pop() {
        let path = root.join(&at);
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let kind = found.file_type();
        if kind.is_dir() {
            tar.append_dir(&at, &path).with_context(|| path.display().to_string())?;
            let mut below = Vec::new();
            for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
                below.push(at.join(entry?.file_name()));
            }
            below.sort_unstable_by(|a, b| b.cmp(a));
            todo.extend(below);
        } else if (kind.is_file() && found.len() <= FILE_MAX) || kind.is_symlink() {
            if bytes + found.len() > most {
                break;
            }
            bytes += found.len();
            tar.append_path_with_name(&path, &at).with_context(|| path.display().to_string())?;
        } else {
            continue;
        }
        entries += 1;
    }
    ensure!(entries > 1, "there is nothing below /{of}");
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(entries)
}
