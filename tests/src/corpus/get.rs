//! The archives of the corpus: real packages, pinned by name, version and sha256, each got by its own
//! registry's client and kept in the cache folder that ./bootstrap uses.
//!
//! `tests/corpus.list` has npm packages, Python's source distributions and Debian's sources, a line each:
//! kind, name, version, sha256, file. The crates are those that this workspace is built of: Cargo.lock pins
//! them, and cargo keeps them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::corpus::hex;

const LIST: &str = include_str!("../../corpus.list");
const LOCK: &str = include_str!("../../../Cargo.lock");

/// One archive that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// "crate", "npm", "pypi" or "debian".
    pub kind: String,
    /// The package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of the archive as it comes.
    pub sha256: String,
    /// What the archive is called.
    pub file: String,
}

/// All that are wanted: the list's, and the crates'.
///
/// # Errors
/// A line of the list is none.
pub fn wanted() -> Result<Vec<Wanted>> {
    let mut all = crates(LOCK);
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind, name, version, sha256, file] = fields.as_slice() else {
            bail!("not \"kind name version sha256 file\": {line}");
        };
        let own = |text: &str| text.to_owned();
        let (kind, name, version) = (own(kind), own(name), own(version));
        all.push(Wanted { kind, name, version, sha256: own(sha256), file: own(file) });
    }
    Ok(all)
}

/// The packages of a Cargo.lock that come from a registry.
fn crates(lock: &str) -> Vec<Wanted> {
    let mut found = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |key: &str| {
            let start = format!("{key} = \"");
            package.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sha256)) =
            (field("name"), field("version"), field("checksum"))
        {
            found.push(Wanted {
                kind: "crate".into(),
                name: name.into(),
                version: version.into(),
                sha256: sha256.into(),
                file: format!("{name}-{version}.crate"),
            });
        }
    }
    found
}

/// The folder that keeps them.
///
/// # Errors
/// There is no home.
pub fn cache() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let dir = cache.join("veneer/corpus");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Where the archive is, got if it was not there. What has another digest is an error, and stays away.
///
/// # Errors
/// It cannot be had, or is another.
pub fn get(wanted: &Wanted, cache: &Path) -> Result<PathBuf> {
    let kept = cache.join(&wanted.file);
    if !kept.exists() {
        let work = tempfile::tempdir_in(cache)?;
        let got = download(wanted, work.path(), cache)?;
        check(wanted, &got)?;
        std::fs::rename(got, &kept)?;
    }
    check(wanted, &kept)?;
    Ok(kept)
}

fn check(wanted: &Wanted, file: &Path) -> Result<()> {
    let found = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
    let found = hex(&Sha256::digest(found));
    ensure!(
        found == wanted.sha256,
        "{} has sha256 {found}, and {} is pinned: remove it, or correct tests/corpus.list",
        file.display(),
        wanted.sha256
    );
    Ok(())
}

fn download(wanted: &Wanted, work: &Path, cache: &Path) -> Result<PathBuf> {
    let Wanted { kind, name, version, file, .. } = wanted;
    let at = format!("{name}@{version}");
    let got = match kind.as_str() {
        "crate" => return cargo_has(file, work),
        "npm" => run(Command::new("npm").args(["pack", "--silent", &at]).current_dir(work)),
        "pypi" => run(Command::new("python3")
            .args(["-m", "pip", "download", "-q", "--no-deps", "--no-binary", name])
            .arg(format!("{name}=={version}"))
            .current_dir(work)),
        "debian" => {
            let own = sources(cache)?;
            run(apt(&own)
                .args(["source", "-q", "--download-only", "--tar-only"])
                .arg(format!("{name}={version}"))
                .current_dir(work))
        }
        other => bail!("\"{other}\" is no kind of package: crate, npm, pypi or debian"),
    };
    got.with_context(|| format!("{kind} package {name} {version}"))?;
    let found = work.join(file);
    ensure!(found.exists(), "{kind} package {name} {version} came without {file}");
    Ok(found)
}

/// cargo keeps what it has downloaded.
fn cargo_has(file: &str, work: &Path) -> Result<PathBuf> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let find = || -> Option<PathBuf> {
        let registries = std::fs::read_dir(home.join("registry/cache")).ok()?;
        registries.filter_map(|dir| Some(dir.ok()?.path().join(file))).find(|at| at.exists())
    };
    if find().is_none() {
        run(Command::new("cargo").args(["fetch", "--locked", "--quiet"]))?;
    }
    let to = work.join(file);
    std::fs::copy(find().with_context(|| format!("cargo has no {file}"))?, &to)?;
    Ok(to)
}

/// Whose sources the list has.
const SUITE: &str = "bookworm";

/// apt's lists of the suite's sources, apart from the system's.
fn sources(cache: &Path) -> Result<PathBuf> {
    let own = cache.join("apt");
    if own.join("done").exists() {
        return Ok(own);
    }
    std::fs::create_dir_all(own.join("lists/partial"))?;
    let mirror =
        std::env::var("VENEER_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".into());
    std::fs::write(own.join("sources.list"), format!("deb-src {mirror} {SUITE} main\n"))?;
    run(apt(&own).args(["update", "-q"]))?;
    std::fs::write(own.join("done"), "")?;
    Ok(own)
}

fn apt(own: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    let option = |key: &str, file: &str| format!("{key}={}", own.join(file).display());
    apt.args(["-o", &option("Dir::Etc::sourcelist", "sources.list")])
        .args(["-o", "Dir::Etc::sourceparts=-"])
        .args(["-o", &option("Dir::State::lists", "lists")])
        .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
    apt
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_reads_and_names_each_archive_once() {
        let all = wanted().unwrap();
        let kinds = ["crate", "npm", "pypi", "debian"];
        for kind in kinds {
            assert!(all.iter().filter(|wanted| wanted.kind == kind).count() > 10, "{kind}");
        }
        let mut files = std::collections::BTreeSet::new();
        for wanted in &all {
            assert!(
                kinds.contains(&wanted.kind.as_str()) && wanted.sha256.len() == 64,
                "{wanted:?}"
            );
            assert!(files.insert(&wanted.file), "{} twice", wanted.file);
            assert!(!wanted.file.contains('/'), "{wanted:?}");
        }
    }

    #[test]
    fn crates_of_a_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n[[package]]\n\
            name = \"a\"\nversion = \"1.2.3\"\nsource = \"registry+x\"\nchecksum = \"00ff\"\n";
        let found = crates(lock);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].file.as_str(), found[0].sha256.as_str()), ("a-1.2.3.crate", "00ff"));
    }

    /// Another archive under a pinned name is told, and neither used nor kept.
    #[test]
    fn another_digest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            kind: "npm".into(),
            name: "a".into(),
            version: "1".into(),
            sha256: hex(&Sha256::digest(b"right")),
            file: "a-1.tgz".into(),
        };
        std::fs::write(dir.path().join("a-1.tgz"), "right").unwrap();
        assert!(get(&wanted, dir.path()).is_ok());
        std::fs::write(dir.path().join("a-1.tgz"), "wrong").unwrap();
        let told = get(&wanted, dir.path()).unwrap_err().to_string();
        assert!(told.contains("is pinned"), "{told}");
    }
}
