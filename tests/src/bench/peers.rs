//! What others would use instead, as far as it is installed: `./bootstrap --peers` gets them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where a peer is: in the folder that bootstrap fills, or installed.
#[must_use]
pub fn find(peers: &Path, name: &str) -> Option<PathBuf> {
    let own = peers.join("bin").join(name);
    if own.is_file() {
        return Some(own);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| {
        // A stand-in of a version manager may be there for a program that is not.
        program.is_file()
            && Command::new(program)
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    })
}

/// Gets what is missing. Without it the bench runs with fewer columns, and says so.
///
/// # Errors
/// bootstrap does not end well.
pub fn install(root: &Path) -> Result<()> {
    let status = Command::new(root.join("bootstrap"))
        .arg("--peers")
        .status()
        .context("run ./bootstrap --peers")?;
    if !status.success() {
        bail!("./bootstrap --peers: {status}");
    }
    Ok(())
}

/// An OCI image layout of one plain layer at `image`, which is all that umoci takes.
///
/// # Errors
/// Files cannot be read or written.
pub fn oci_layout(layer: &Path, image: &Path) -> Result<()> {
    use sha2::{Digest as _, Sha256};
    let blobs = image.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let mut hash = Sha256::new();
    let size = std::io::copy(&mut std::fs::File::open(layer)?, &mut hash)?;
    let diff = format!("{:x}", hash.finalize());
    std::os::unix::fs::symlink(layer, blobs.join(&diff))?;
    let blob = |value: serde_json::Value, media: &str| -> Result<serde_json::Value> {
        let text = value.to_string();
        let digest = format!("{:x}", Sha256::digest(&text));
        std::fs::write(blobs.join(&digest), &text)?;
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
    std::fs::write(image.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    Ok(std::fs::write(image.join("index.json"), index.to_string())?)
}
