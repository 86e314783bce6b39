//! Times this extractor, with every fence required, against those that are installed: GNU tar,
//! bsdtar and umoci, each in turn on one layer, each synced at its end.
//!
//!     cargo build --release -p unpack
//!     cargo run --release -p unpack --example versus -- DIR [LAYER] [ROUNDS]
//!
//! DIR is on the file system to be written to. Without LAYER one is made from a fixed seed (about
//! 12,000 entries and 600 MB, sizes spread evenly over their orders of magnitude). Prints medians
//! of wall and processor time, and the wall time's ratio to GNU tar's, round by round. Says
//! nothing but figures: a loaded machine makes them worthless, so it is no test.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use sha2::{Digest, Sha256};

struct Contender {
    name: &'static str,
    command: Box<dyn Fn(&Path) -> Command>,
    /// Wall and processor time of each round, in seconds.
    rounds: Vec<(f64, f64)>,
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let Some(dir) = args.get(1).map(PathBuf::from) else {
        eprintln!("versus: DIR is missing");
        std::process::exit(100);
    };
    let rounds: usize = args.get(3).and_then(|text| text.parse().ok()).unwrap_or(5);
    let scratch = tempfile::tempdir_in(&dir)?;
    let layer = match args.get(2) {
        Some(path) => fs::canonicalize(path)?,
        None => made(&scratch.path().join("layer.tar"))?,
    };
    let mut contenders = contenders(&layer, &scratch.path().join("image"))?;
    for round in 0..=rounds {
        for contender in &mut contenders {
            let root = scratch.path().join("root");
            fs::create_dir(&root)?;
            let before = (Instant::now(), processor());
            let status = (contender.command)(&root).stdout(Stdio::null()).status()?;
            let synced = Command::new("sync").arg("-f").arg(&root).status()?;
            let took = (before.0.elapsed().as_secs_f64(), processor() - before.1);
            if !status.success() || !synced.success() {
                eprintln!("versus: {} failed: {status}", contender.name);
                std::process::exit(111);
            }
            // The first round only warms the cache.
            if round > 0 {
                contender.rounds.push(took);
            }
            fs::remove_dir_all(&root)?;
        }
    }
    let tar = contenders[1].rounds.clone();
    for contender in &contenders {
        let wall: Vec<f64> = contender.rounds.iter().map(|round| round.0).collect();
        let cpu: Vec<f64> = contender.rounds.iter().map(|round| round.1).collect();
        let ratio: Vec<f64> = wall.iter().zip(&tar).map(|(ours, tar)| ours / tar.0).collect();
        println!(
            "{:<8} wall {:6.2} s, processor {:6.2} s, wall to GNU tar's {:.2} ({:.2} to {:.2})",
            contender.name,
            middle(&wall),
            middle(&cpu),
            middle(&ratio),
            ratio.iter().copied().fold(f64::INFINITY, f64::min),
            ratio.iter().copied().fold(0.0, f64::max),
        );
    }
    Ok(())
}

fn middle(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of all children so far, in seconds.
fn processor() -> f64 {
    let seconds = |time: TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::new(u64::try_from(time.tv_sec()).unwrap_or(0), 0).as_secs_f64()
            + Duration::from_micros(micros).as_secs_f64()
    };
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_or(f64::NAN, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Ours first, GNU tar second, then what else is there.
fn contenders(layer: &Path, image: &Path) -> io::Result<Vec<Contender>> {
    let ours = std::env::current_exe()?.with_file_name("../unpack");
    let contender = |name, command: Box<dyn Fn(&Path) -> Command>| Contender {
        name,
        command,
        rounds: Vec::new(),
    };
    let from = layer.to_path_buf();
    let unpack = move |root: &Path| {
        let mut command = Command::new(&ours);
        command.args(["-q", "--sandbox", "require", "--sync", "--root"]).arg(root);
        command.stdin(File::open(&from).map_or(Stdio::null(), Stdio::from));
        command
    };
    let mut all = vec![contender("unpack", Box::new(unpack))];
    for (name, flags) in [
        ("tar", &["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"][..]),
        ("bsdtar", &["-x", "-p", "--numeric-owner", "--xattrs"]),
    ] {
        let from = layer.to_path_buf();
        let command = move |root: &Path| {
            let mut command = Command::new(name);
            command.args(flags).arg("-C").arg(root).arg("-f").arg(&from);
            command
        };
        if name == "tar" || found(name) {
            all.push(contender(name, Box::new(command)));
        }
    }
    if found("umoci") {
        oci_image(layer, image)?;
        let image = format!("{}:latest", image.display());
        let command = move |root: &Path| {
            let mut command = Command::new("umoci");
            command.args(["raw", "unpack", "--image", &image]).arg(root.join("rootfs"));
            command
        };
        all.push(contender("umoci", Box::new(command)));
    }
    Ok(all)
}

fn found(program: &str) -> bool {
    let (out, err) = (Stdio::null(), Stdio::null());
    Command::new(program).arg("--version").stdout(out).stderr(err).status().is_ok()
}

/// An OCI image layout of one plain layer, which is all that umoci takes.
fn oci_image(layer: &Path, image: &Path) -> io::Result<()> {
    let blobs = image.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut hash = Sha256::new();
    let size = io::copy(&mut File::open(layer)?, &mut hash)?;
    let diff = format!("{:x}", hash.finalize());
    symlink(layer, blobs.join(&diff))?;
    let blob = |value: serde_json::Value, media: &str| -> io::Result<serde_json::Value> {
        let text = value.to_string();
        let digest = format!("{:x}", Sha256::digest(&text));
        fs::write(blobs.join(&digest), &text)?;
        let digest = format!("sha256:{digest}");
        Ok(serde_json::json!({ "mediaType": media, "digest": digest, "size": text.len() }))
    };
    let config = blob(
        serde_json::json!({ "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] } }),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let layer = serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": format!("sha256:{diff}"), "size": size });
    let mut manifest = blob(
        serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] }),
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
    fs::write(image.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(image.join("index.json"), index.to_string())
}

/// A layer out of a fixed seed.
fn made(path: &Path) -> io::Result<PathBuf> {
    let mut dice = 0x9e37_79b9_7f4a_7c15u64;
    let mut roll = move |below: u64| {
        dice ^= dice >> 12;
        dice ^= dice << 25;
        dice ^= dice >> 27;
        dice.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    };
    let noise: Vec<u8> = (0..8 << 20).map(|_| roll(256).to_le_bytes()[0]).collect();
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    for n in 0..12_000u64 {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_000_000_000 + n);
        header.set_uid(0);
        header.set_gid(0);
        let dir = format!("d{}/e{}", n / 1000, n / 10 % 100);
        if n % 10 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, format!("{dir}/"), io::empty())?;
            continue;
        }
        let most = 1u64 << (6 + roll(17));
        let size = most / 2 + roll(most / 2);
        let from = usize::try_from(roll(4096)).unwrap_or(0);
        header.set_mode(0o644);
        header.set_size(size);
        let body = &noise[from..from + usize::try_from(size).unwrap_or(0)];
        tar.append_data(&mut header, format!("{dir}/f{n}"), body)?;
    }
    tar.into_inner()?.flush()?;
    Ok(path.to_path_buf())
}
