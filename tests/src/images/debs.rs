//! Where the packages come from: apt's resolver and downloader on a root of its own, and dpkg-deb as the reader of a package.
//!
//! apt runs with its state, cache and source list under the cache directory, so it needs no privilege, reads none of the host's
//! package state and changes nothing outside. What a package's files become in a layer is not decided here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// The release the packages are from: one that has stopped moving between its point releases.
const SUITE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One package file that apt chose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deb {
    /// Package name.
    pub(super) name: String,
    /// The file in the cache: `name_version_arch.deb`, with `%3a` for a colon.
    pub(super) file: String,
    /// sha256 of the file, hex; from the signed package list.
    pub sha256: String,
}

impl Deb {
    /// `name=version`.
    #[must_use]
    pub(super) fn name_and_version(&self) -> String {
        let version = self.file.split('_').nth(1).unwrap_or("?").replace("%3a", ":");
        format!("{}={version}", self.name)
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.name, self.file, self.sha256)
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Self { name: words.next()?, file: words.next()?, sha256: words.next()? })
    }
}

/// A cache of package files, and apt's own root beside it.
#[derive(Debug)]
pub(super) struct Debs {
    root: PathBuf,
}

impl Debs {
    /// Opens (and makes) the cache: `$XDG_CACHE_HOME/veneer/debs`, else `~/.cache/veneer/debs`.
    ///
    /// # Errors
    /// Neither variable is set, or the folder cannot be made.
    pub(super) fn open() -> Result<Self> {
        let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) => PathBuf::from(home).join(".cache"),
            _ => {
                bail!("neither XDG_CACHE_HOME nor HOME is set: set one, packages are cached there")
            }
        };
        let root = base.join("veneer/debs");
        for folder in ["apt/lists/partial", "apt/empty.d", "apt/archives/partial", "pool"] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("make {}", root.join(folder).display()))?;
        }
        Ok(Self { root })
    }

    /// What each step of `steps` adds to the steps before it, with dependencies. The answer is kept under `key` and asked of apt only
    /// once, so that a later build takes the same versions; `refresh` asks again.
    ///
    /// # Errors
    /// apt is missing, cannot reach a mirror, or knows no such package.
    pub(super) fn resolve(
        &self,
        key: &str,
        chains: &[Vec<Vec<String>>],
        skip: &[String],
        refresh: bool,
    ) -> Result<Vec<Vec<Vec<Deb>>>> {
        let kept = self.root.join(format!("apt/{key}.resolved"));
        if !refresh
            && let Ok(text) = fs::read_to_string(&kept)
            && let Some(answer) = parse_resolved(&text, chains)
        {
            return Ok(answer);
        }
        self.update()?;
        let mut closures: BTreeMap<Vec<String>, Vec<Deb>> = BTreeMap::new();
        let mut text = String::new();
        let mut answer = Vec::new();
        for chain in chains {
            let mut names: Vec<String> = Vec::new();
            let mut have: BTreeSet<String> = skip.iter().cloned().collect();
            let mut per_layer = Vec::new();
            for step in chain {
                names.extend(step.iter().cloned());
                if !closures.contains_key(&names) {
                    closures.insert(names.clone(), self.closure(&names)?);
                }
                let mut added: Vec<Deb> = closures[&names]
                    .iter()
                    .filter(|deb| !have.contains(&deb.name))
                    .cloned()
                    .collect();
                added.sort();
                have.extend(added.iter().map(|deb| deb.name.clone()));
                text.push_str("layer\n");
                added.iter().for_each(|deb| text.push_str(&format!("{}\n", deb.line())));
                per_layer.push(added);
            }
            answer.push(per_layer);
        }
        fs::write(&kept, text).with_context(|| format!("write {}", kept.display()))?;
        Ok(answer)
    }

    /// Downloads what is not in the cache yet, and checks every file's sha256.
    ///
    /// # Errors
    /// A download fails, or a file is not what the package list says.
    pub(super) fn download(&self, debs: &BTreeSet<Deb>) -> Result<()> {
        let missing: Vec<String> =
            debs.iter().filter(|deb| !self.path(deb).exists()).map(Deb::name_and_version).collect();
        if !missing.is_empty() {
            eprintln!("images: {} packages to download", missing.len());
            // `install -d` with a fixed list would resolve anew; `download` takes exactly these versions, into the working directory.
            let mut apt = self.apt();
            apt.current_dir(self.root.join("pool"))
                .arg("-q")
                .arg("download")
                .args(&missing)
                .stdout(Stdio::null());
            run(&mut apt)?;
        }
        for deb in debs {
            let bytes = fs::read(self.path(deb))
                .with_context(|| format!("read package {}", self.path(deb).display()))?;
            let found = hex(&Sha256::digest(&bytes));
            ensure!(
                found == deb.sha256,
                "{}: sha256 {found}, the package list says {}: remove the file",
                self.path(deb).display(),
                deb.sha256
            );
        }
        Ok(())
    }

    /// The file of a package in the cache.
    #[must_use]
    pub(super) fn path(&self, deb: &Deb) -> PathBuf {
        self.root.join("pool").join(&deb.file)
    }

    fn update(&self) -> Result<()> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: apt-get install debian-archive-keyring"
        );
        let mirror = match std::env::var("VENEER_DEBIAN_MIRROR") {
            Ok(mirror) => mirror,
            Err(_) => host_mirror()?,
        };
        let source = format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n");
        fs::write(self.root.join("apt/sources.list"), source)?;
        fs::write(self.root.join("apt/status"), "")?;
        let mut apt = self.apt();
        apt.args(["-q", "update"]).stdout(Stdio::null());
        run(&mut apt)
    }

    /// apt on a root of its own. Proxies and the like still come from the host's configuration.
    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        let root = self.root.display();
        for option in [
            format!("Dir::State={root}/apt"),
            format!("Dir::State::status={root}/apt/status"),
            format!("Dir::Cache={root}/apt"),
            format!("Dir::Etc::sourcelist={root}/apt/sources.list"),
            format!("Dir::Etc::sourceparts={root}/apt/empty.d"),
            format!("Dir::Etc::preferencesparts={root}/apt/empty.d"),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            // As root, apt drops to a user that may not write to a home directory.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::ForceHash=sha256".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        apt.env("LC_ALL", "C").stdin(Stdio::null());
        apt
    }

    fn closure(&self, names: &[String]) -> Result<Vec<Deb>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let output = self
            .apt()
            .args(["install", "-y", "-qq", "--print-uris"])
            .args(names)
            .output()
            .context("run apt-get")?;
        ensure!(
            output.status.success(),
            "apt-get cannot resolve {names:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        // 'http://…/x.deb' name_version_arch.deb 12345 SHA256:…
        let text = String::from_utf8(output.stdout)?;
        text.lines()
            .filter(|line| line.starts_with('\''))
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [_, file, _, hash] = words[..] else {
                    bail!("apt-get printed an odd line: {line}")
                };
                let sha256 = hash
                    .strip_prefix("SHA256:")
                    .with_context(|| format!("no sha256: {line}"))?
                    .to_owned();
                let name = file.split('_').next().unwrap_or_default().to_owned();
                Ok(Deb { name, file: file.to_owned(), sha256 })
            })
            .collect()
    }
}

fn parse_resolved(text: &str, chains: &[Vec<Vec<String>>]) -> Option<Vec<Vec<Vec<Deb>>>> {
    let mut sections = text.split("layer\n").skip(1);
    let mut answer = Vec::new();
    for chain in chains {
        let mut per_layer = Vec::new();
        for _ in chain {
            per_layer
                .push(sections.next()?.lines().map(Deb::from_line).collect::<Option<Vec<_>>>()?);
        }
        answer.push(per_layer);
    }
    sections.next().is_none().then_some(answer)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Lower-case hex.
#[must_use]
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One of the two tars inside a package, as dpkg-deb unpacks it to a pipe.
#[derive(Debug)]
pub(super) struct DebTar {
    child: Child,
}

impl DebTar {
    /// The package's files (`data.tar`).
    ///
    /// # Errors
    /// dpkg-deb cannot be run.
    pub(super) fn files(path: &Path) -> Result<(Self, ChildStdout)> {
        Self::open("--fsys-tarfile", path)
    }

    /// The package's control files (`control.tar`).
    ///
    /// # Errors
    /// dpkg-deb cannot be run.
    pub(super) fn control(path: &Path) -> Result<(Self, ChildStdout)> {
        Self::open("--ctrl-tarfile", path)
    }

    fn open(what: &str, path: &Path) -> Result<(Self, ChildStdout)> {
        let mut child = Command::new("dpkg-deb")
            .arg(what)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run dpkg-deb: apt-get install dpkg")?;
        let stdout = child.stdout.take().context("dpkg-deb has no stdout")?;
        Ok((Self { child }, stdout))
    }

    /// Reads what is left and takes the exit status, so that a damaged package is an error.
    ///
    /// # Errors
    /// dpkg-deb said no.
    pub(super) fn finish(mut self, mut stdout: impl Read) -> Result<()> {
        std::io::copy(&mut stdout, &mut std::io::sink())?;
        let status = self.child.wait()?;
        ensure!(status.success(), "dpkg-deb failed: {status}");
        Ok(())
    }
}

/// A file that is hashed and counted as it is written.
#[derive(Debug)]
pub(super) struct Hashed {
    file: BufWriter<fs::File>,
    hash: Sha256,
    size: u64,
}

impl Hashed {
    /// Creates `path`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), size: 0 })
    }

    /// Flushes; the sha256 in hex and the size in bytes.
    ///
    /// # Errors
    /// The last write fails.
    pub(super) fn finish(mut self) -> Result<(String, u64)> {
        self.file.flush()?;
        Ok((hex(&self.hash.finalize()), self.size))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The mirror that this host's own apt takes the suite from.
fn host_mirror() -> Result<String> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(LABEL)";
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", format, "Identifier: Packages"]);
    let output = apt.output().context("run apt-get")?;
    mirror_among(&String::from_utf8_lossy(&output.stdout)).context(
        "this host's apt has no main suite of Debian: set VENEER_DEBIAN_MIRROR to a mirror's URL",
    )
}

/// The mirror of our suite; else that of another release, since a mirror of Debian has them all.
fn mirror_among(lines: &str) -> Option<String> {
    let mut other = None;
    for line in lines.lines() {
        let [mirror, suite, "main", "Debian"] = line.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        // What "trixie-updates" is a part of is listed too, and security has a mirror of its own.
        if suite == SUITE {
            return Some(mirror.to_owned());
        }
        if !suite.contains('-') {
            other.get_or_insert_with(|| mirror.to_owned());
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_another_release_has_a_mirror_too() {
        let trixie = "http://s/debian-security/ trixie-security main Debian-Security\n\
                      http://m/debian/ trixie-updates main Debian\n\
                      http://m/debian/ trixie main Debian\nhttp://x/ nodistro main .\n";
        assert_eq!(mirror_among(trixie).as_deref(), Some("http://m/debian/"));
        let both = format!("{trixie}http://b/debian/ bookworm main Debian\n");
        assert_eq!(mirror_among(&both).as_deref(), Some("http://b/debian/"));
        assert_eq!(mirror_among("http://x/ bookworm main other\n"), None);
    }

    #[test]
    fn a_resolution_survives_the_way_to_its_file_and_back() {
        let deb =
            Deb { name: "dash".into(), file: "dash_1%3a0.5_amd64.deb".into(), sha256: "ab".into() };
        assert_eq!(deb.name_and_version(), "dash=1:0.5");
        let text = format!("layer\n{}\nlayer\n", deb.line());
        let chains = [vec![vec!["dash".to_owned()], vec![]]];
        assert_eq!(parse_resolved(&text, &chains), Some(vec![vec![vec![deb], vec![]]]));
        assert_eq!(
            parse_resolved("layer\n", &chains),
            None,
            "another shape of set is asked of apt again"
        );
    }
}
