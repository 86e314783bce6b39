//! The kernels that a guest can have: folders with `vmlinuz`, `modules` (as a package has it in
//! lib/modules) and `package`. `./bootstrap` makes one for each kernel of the host's suite.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::places::Places;

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its version as far as the second number, or that of its folder.
    pub name: String,
    /// Whether it is the one that runs where none is named.
    pub first: bool,
    dir: PathBuf,
}

impl Kernel {
    /// Those that `./bootstrap` has got, the oldest first.
    ///
    /// # Errors
    /// There is none.
    pub fn all(places: &Places) -> Result<Vec<Kernel>> {
        let dir = places.kernels();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir)
            .with_context(|| format!("read {}: run ./bootstrap", dir.display()))?
        {
            let entry = entry?;
            if entry.path().join("vmlinuz").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if names.is_empty() {
            bail!("no kernel is in {}: run ./bootstrap", dir.display());
        }
        names.sort_by_key(|name| numbers(name));
        let number = names.into_iter().enumerate();
        Ok(number.map(|(n, name)| Kernel { dir: dir.join(&name), first: n == 0, name }).collect())
    }

    /// The one of this name, or in this folder; without either the oldest of all.
    ///
    /// # Errors
    /// There is no such one.
    pub fn find(places: &Places, asked: Option<&str>) -> Result<Kernel> {
        if let Some(path) = asked.filter(|asked| asked.contains('/')) {
            let dir = std::fs::canonicalize(path).with_context(|| format!("--kernel {path}"))?;
            if !dir.join("vmlinuz").is_file() || !dir.join("modules").is_dir() {
                bail!("--kernel {path}: no \"vmlinuz\" or no folder \"modules\" is in there");
            }
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Kernel { name, first: false, dir });
        }
        let all = Kernel::all(places)?;
        let names: Vec<&str> = all.iter().map(|kernel| kernel.name.as_str()).collect();
        let names = names.join(", ");
        let found = all.into_iter().find(|kernel| asked.is_none_or(|asked| kernel.name == asked));
        found.with_context(|| {
            let asked = asked.unwrap_or_default().escape_debug();
            format!("no kernel \"{asked}\": there are {names}, or name a folder with a slash in it")
        })
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// Its modules and the list of those that are built in.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// A file of a run on it: those of the first kernel have plain names.
    #[must_use]
    pub fn file(&self, work: &Path, stem: &str, extension: &str) -> PathBuf {
        if self.first {
            return work.join(format!("{stem}.{extension}"));
        }
        work.join(format!("{stem}-{}.{extension}", self.name))
    }
}

/// "6.12" comes after "6.1", and what is no number first.
fn numbers(name: &str) -> Vec<u32> {
    name.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        let of = |name: &str| dir.join(name);
        Places { programs: of("bin"), cache: of("cache"), images: of("images"), work: of("work") }
    }

    #[test]
    fn the_oldest_is_the_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let places = places(dir.path());
        let none = Kernel::find(&places, None).map_err(|error| format!("{error:#}"));
        assert!(none.is_err_and(|text| text.contains("run ./bootstrap")));
        for name in ["6.12", "6.1", "7.0"] {
            let dir = places.kernels().join(name);
            std::fs::create_dir_all(dir.join("modules")).expect("a folder");
            std::fs::write(dir.join("vmlinuz"), "").expect("a file");
        }
        let names =
            |all: Vec<Kernel>| all.into_iter().map(|kernel| kernel.name).collect::<Vec<_>>();
        assert_eq!(names(Kernel::all(&places).expect("three")), ["6.1", "6.12", "7.0"]);
        let first = Kernel::find(&places, None).expect("the first");
        assert_eq!(first.file(&places.work, "results", "jsonl"), places.work.join("results.jsonl"));
        let other = Kernel::find(&places, Some("6.12")).expect("the second");
        assert!(!other.first);
        assert_eq!(
            other.file(&places.work, "results", "jsonl"),
            places.work.join("results-6.12.jsonl")
        );
        let own = places.kernels().join("7.0");
        let own = Kernel::find(&places, own.to_str()).expect("a folder");
        assert_eq!((own.name.as_str(), own.first), ("7.0", false));
        let odd = Kernel::find(&places, Some("6.13")).map_err(|error| error.to_string());
        assert!(odd.is_err_and(|text| text.contains("there are 6.1, 6.12, 7.0")));
    }
}
