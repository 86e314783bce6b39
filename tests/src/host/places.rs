//! Where things lie on the host: our static programs, what `./bootstrap` fetched, what a run writes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::guest_root::GuestRoot;

/// Folders of one run.
#[derive(Debug, Clone)]
pub struct Places {
    /// Our static release programs; `e2e` itself is one of them.
    pub programs: PathBuf,
    /// The guest's kernels and programs and s3s-fs, shared by all clones.
    pub cache: PathBuf,
    /// The image sets that `just images` builds.
    pub images: PathBuf,
    /// What runs write: results, consoles, disks.
    pub work: PathBuf,
}

impl Places {
    /// Found from where this program lies, `target/<triple>/release/e2e`.
    ///
    /// # Errors
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set, or the program lies elsewhere.
    pub fn find() -> Result<Places> {
        let program = std::env::current_exe().context("find this program")?;
        let programs = program.parent().context("this program has no folder")?.to_owned();
        let target = programs
            .ancestors()
            .filter(|dir| dir.join("CACHEDIR.TAG").exists())
            .last()
            .with_context(|| format!("{} is in no cargo target folder", program.display()))?;
        let work = target.join("e2e");
        std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let images = target.join("images");
        Ok(Places { work, images, cache: cache()?, programs })
    }

    /// The same with a folder of its own for what one lane writes, so that lanes do not meet.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn lane(&self, number: usize) -> Result<Places> {
        let work = self.work.join(format!("lane-{number}"));
        std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        Ok(Places { work, ..self.clone() })
    }

    /// The guest's kernels; see [`Kernel`](super::kernel::Kernel).
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.cache.join("kernels")
    }

    /// The guest's programs that are not ours.
    ///
    /// # Errors
    /// `./bootstrap` has not got them.
    pub fn guest_root(&self) -> Result<GuestRoot> {
        GuestRoot::open(self.cache.join("guest"))
    }

    /// What others would use instead, for `just bench`.
    #[must_use]
    pub fn peers(&self) -> PathBuf {
        self.cache.join("peers")
    }

    /// The registry that images are pulled from.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.cache.join("registry/docker-registry")
    }

    /// The S3 server, a static program.
    #[must_use]
    pub fn s3_server(&self) -> PathBuf {
        self.cache.join("tools/bin/s3s-fs")
    }
}

fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        Some(_) | None => {
            PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache")
        }
    };
    Ok(base.join("veneer"))
}

/// A program of the host, also from the folders that a user's PATH may lack.
///
/// # Errors
/// It is not installed; the message says how to get it.
pub fn host_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    for dir in std::env::split_paths(&path).chain(system) {
        let program = dir.join(name);
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("\"{name}\" is not installed: run ./bootstrap")
}

/// Reads a file that `./bootstrap` or the build should have made.
///
/// # Errors
/// It is not there; the message says what to run.
pub fn read_needed(path: &Path, command: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}: run {command}", path.display()))
}
