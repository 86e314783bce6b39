//! Archives of the world held against GNU tar: each is applied by `unpack` and by tar, and the two trees
//! have to be equal, or the refusal has its rule. Which archives, and where they come from, is in [`get`].
//!
//! tar's tree is put into the one form that `unpack` gives where an archive is silent: a directory that
//! it does not name is 0755, root's, of time 0.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use sha2::{Digest, Sha256};

use crate::oracle;
use crate::tree::Tree;

pub mod get;

/// What came of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Both made the same tree, of so many paths.
    Equal(usize),
    /// Both made a tree, and these are the differences.
    Differs(Vec<String>),
    /// `unpack` refused it by this rule.
    Refused {
        /// Class and rule, without the value that broke it.
        rule: String,
        /// Whether tar refused it as well.
        both: bool,
    },
    /// tar refused what `unpack` applied.
    TarRefused(String),
    /// `unpack` ended otherwise.
    Failed(String),
}

impl Outcome {
    /// The kind, for counts.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Outcome::Equal(_) => "equal".into(),
            Outcome::Differs(_) => "DIFFERENT".into(),
            Outcome::Refused { rule, both: false } => format!("refused: {rule}"),
            Outcome::Refused { rule, both: true } => format!("refused by both: {rule}"),
            Outcome::TarRefused(_) => "refused by tar alone".into(),
            Outcome::Failed(_) => "FAILED".into(),
        }
    }

    /// Whether it is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        match self {
            Outcome::Equal(_) | Outcome::Refused { .. } | Outcome::TarRefused(_) => true,
            Outcome::Differs(_) | Outcome::Failed(_) => false,
        }
    }

    /// What there is to say besides the kind.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Outcome::Equal(paths) => format!("{paths} paths"),
            Outcome::Differs(lines) => {
                let shown: Vec<&str> = lines.iter().take(5).map(String::as_str).collect();
                format!("{} differences: {}", lines.len(), shown.join("; "))
            }
            Outcome::Refused { .. } => String::new(),
            Outcome::TarRefused(text) | Outcome::Failed(text) => text.clone(),
        }
    }
}

/// Applies `archive` by the program `unpack` and by tar, below `scratch`, and compares.
///
/// # Errors
/// A tool is missing, or what it made cannot be read.
pub fn compare(unpack: &Path, archive: &Path, scratch: &Path) -> Result<Outcome> {
    ensure!(rustix::process::geteuid().is_root(), "owners need root: run `sudo -E just corpus`");
    let work = tempfile::tempdir_in(scratch)?;
    let plain = plain(archive, work.path())?;
    let (ours, theirs) = (work.path().join("ours"), work.path().join("theirs"));
    std::fs::create_dir(&ours)?;
    std::fs::create_dir(&theirs)?;
    // Like a layer that a manifest names: its digest vouches for its end.
    let digest = hex(&Sha256::digest(std::fs::read(&plain)?));
    let said = Command::new(unpack)
        .args(["--json", "--sandbox", "off", "--digest", &format!("sha256:{digest}"), "--root"])
        .arg(&ours)
        .stdin(File::open(&plain)?)
        .output()
        .with_context(|| format!("run {}", unpack.display()))?;
    let tar = Command::new("tar")
        .args(["-x", "-p", "--same-owner", "--numeric-owner", "--delay-directory-restore", "-C"])
        .arg(&theirs)
        .args(["--xattrs", "--xattrs-include=user.*", "--warning=no-timestamp", "-f"])
        .arg(&plain)
        .stdout(Stdio::null())
        .output()
        .context("run tar: apt-get install tar")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match said.status.code() {
        Some(0) if !tar.status.success() => Ok(Outcome::TarRefused(text(&tar.stderr))),
        Some(0) => differences(&plain, &ours, &theirs),
        Some(100) => {
            let rule = rule(&said.stdout)?;
            Ok(Outcome::Refused { rule, both: !tar.status.success() })
        }
        code => Ok(Outcome::Failed(format!("{code:?}: {}", text(&said.stderr)))),
    }
}

fn differences(archive: &Path, ours: &Path, theirs: &Path) -> Result<Outcome> {
    let normal = |path: &Path| -> PathBuf {
        path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
    };
    let named: BTreeSet<PathBuf> =
        oracle::list(archive)?.iter().map(|entry| normal(&entry.path)).collect();
    let is_named = |path: &Path| named.contains(path);
    for path in below(theirs)? {
        let relative = path.strip_prefix(theirs)?;
        if std::fs::symlink_metadata(&path)?.is_dir() && !is_named(relative) {
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o755))?;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let both = Timestamps { last_access: zero, last_modification: zero };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &both, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    let (mut expected, mut found) = (Tree::read(theirs)?, Tree::read(ours)?);
    // The root has the time of its making, unless an entry is for it.
    if !is_named(Path::new("")) {
        (expected, found) = (expected.without_root(), found.without_root());
    }
    let lines = expected.differences(&found);
    Ok(if lines.is_empty() { Outcome::Equal(found.len()) } else { Outcome::Differs(lines) })
}

/// Every path below a directory, parents after what is in them.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut all, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.reverse();
    Ok(all)
}

/// Class and rule out of the words in which a refusal is told.
fn rule(json: &[u8]) -> Result<String> {
    let said: BTreeMap<String, serde_json::Value> = serde_json::from_slice(json)?;
    let text = |key: &str| said.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let (class, error) = (text("class"), text("error"));
    ensure!(!class.is_empty(), "no class of a refusal: {error}");
    let start = format!(": {class}: ");
    let rule = error.rsplit_once(&start).map_or(error, |(_, rule)| rule);
    // What broke it differs from archive to archive.
    let rule = rule.split(": ").next().unwrap_or(rule);
    Ok(format!("{class}: {rule}"))
}

/// The archive as `unpack` and tar both read it: what no layer is packed with is unpacked first.
fn plain(archive: &Path, work: &Path) -> Result<PathBuf> {
    let start = std::fs::read(archive)?;
    let program = match start.as_slice() {
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x1f, 0x9d, ..] => "gzip",
        _ => return Ok(archive.to_owned()),
    };
    let plain = work.join("plain");
    let status = Command::new(program)
        .arg("-dc")
        .stdin(File::open(archive)?)
        .stdout(File::create(&plain)?)
        .status()
        .with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} cannot read {}", archive.display());
    Ok(plain)
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every regular file below a folder, in order: for archives that are on no list.
///
/// # Errors
/// It cannot be read.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = below(dir)?;
    all.retain(|path| path.is_file());
    all.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(all)
}
