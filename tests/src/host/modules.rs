//! Which kernel modules the guest loads, in which order. The package has no modules.dep (that is made
//! on installing it), so each module's own ".modinfo" is asked. What is built in needs no module, and
//! a compressed one is unpacked here, so that the guest needs nothing for it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::places::host_program;

/// What the guest needs; what these depend on comes by itself.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "crc32c_intel",
    "loop",
    "dm_mod",
    "dm_thin_pool",
    "dm_flakey",
    "dm_delay",
    "dm_log_writes",
    "overlay",
];

/// A module as the guest loads it.
#[derive(Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The file, uncompressed.
    pub content: Vec<u8>,
}

/// The wanted modules and their dependencies, each after those it needs. The folder is a kernel's in
/// /lib/modules.
///
/// # Errors
/// A module is missing or unreadable.
pub fn in_load_order(tree: &Path) -> Result<Vec<Module>> {
    let wrong = || format!("{}: run ./bootstrap", tree.display());
    let mut known = Known::default();
    known.collect(tree).with_context(wrong)?;
    let built_in = std::fs::read_to_string(tree.join("modules.builtin")).with_context(wrong)?;
    known.built_in = built_in.lines().map(|line| Known::name(Path::new(line))).collect();
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in WANTED {
        known.visit(name, &mut seen, &mut order)?;
    }
    Ok(order)
}

/// The modules of one kernel.
#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<String, PathBuf>,
    built_in: HashSet<String>,
}

impl Known {
    /// Of "kernel/drivers/md/dm-mod.ko.xz", "dm_mod".
    fn name(file: &Path) -> String {
        let name = file.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
        name.split(".ko").next().unwrap_or_default().to_owned()
    }

    fn collect(&mut self, dir: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                self.collect(&path)?;
            } else if name.ends_with(".ko") || name.contains(".ko.") {
                self.files.insert(Known::name(&path), path);
            }
        }
        Ok(())
    }

    fn visit(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).with_context(|| format!("no kernel module \"{name}\""))?;
        let content = read(path)?;
        for needed in depends(&content) {
            self.visit(&needed, seen, order)?;
        }
        order.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// A module file, unpacked if it is compressed.
fn read(path: &Path) -> Result<Vec<u8>> {
    let unpack = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        Some(_) | None => return std::fs::read(path).with_context(|| path.display().to_string()),
    };
    let output = Command::new(host_program(unpack)?).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("run {unpack}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{unpack} -dc {}: {}", path.display(), said.escape_debug());
    }
    Ok(output.stdout)
}

/// The names after "depends=" in a module file.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_out_of_modinfo() {
        let module = b"\x7fELF..\0license=GPL\0depends=dm-mod,libcrc32c\0retpoline=Y\0";
        assert_eq!(depends(module), ["dm_mod", "libcrc32c"]);
        assert!(depends(b"\0depends=\0").is_empty());
    }

    /// As 6.12 has them: some built in, also as a dependency, and all others compressed.
    #[test]
    fn what_is_built_in_is_left_out_and_what_is_compressed_is_unpacked() {
        let dir = tempfile::tempdir().expect("a folder");
        let drivers = dir.path().join("kernel/drivers");
        std::fs::create_dir_all(&drivers).expect("a folder");
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/libcrc32c.ko\n";
        std::fs::write(dir.path().join("modules.builtin"), builtin).expect("the list");
        for name in WANTED.iter().filter(|name| **name != "virtio_pci") {
            let file = drivers.join(format!("{}.ko", name.replace('_', "-")));
            let needs = if *name == "loop" { "dm-mod,libcrc32c" } else { "" };
            std::fs::write(&file, format!("\0depends={needs}\0")).expect("a module");
            let xz = Command::new("xz").arg(&file).status().expect("xz");
            assert!(xz.success() && !file.exists());
        }
        let order = in_load_order(dir.path()).expect("an order");
        let names: Vec<&str> = order.iter().map(|module| module.name.as_str()).collect();
        let place = |name: &str| names.iter().position(|other| *other == name);
        assert_eq!((place("virtio_pci"), place("libcrc32c")), (None, None));
        assert!(place("dm_mod") < place("loop") && place("dm_mod").is_some(), "{names:?}");
        assert_eq!(names.len(), WANTED.len() - 1);
        assert!(order.iter().all(|module| module.content.starts_with(b"\0depends=")));

        std::fs::remove_file(drivers.join("overlay.ko.xz")).expect("away");
        let error = in_load_order(dir.path()).expect_err("one is missing");
        assert!(error.to_string().contains("no kernel module \"overlay\""), "{error}");
    }
}
