//! What others would use instead, as far as it is installed: `./bootstrap --peers` gets them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::oci::Image;

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
    let made = Image::new(&[layer.to_owned()], ("org.opencontainers.image.ref.name", "latest"))?;
    std::fs::create_dir_all(image.join("blobs/sha256"))?;
    for (path, layer) in &made.layers {
        std::os::unix::fs::symlink(layer, image.join(path))?;
    }
    for (path, text) in &made.texts {
        std::fs::write(image.join(path), text)?;
    }
    Ok(())
}
