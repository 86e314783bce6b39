//! Which kernel modules the guest loads, in which order. The package has no modules.dep (that is made
//! on installing it), so each module's own ".modinfo" is asked.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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

/// The wanted modules and their dependencies, each after those it needs.
///
/// # Errors
/// A module is missing or unreadable.
pub fn in_load_order(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut known = BTreeMap::new();
    collect(tree, &mut known).with_context(|| format!("{}: run ./bootstrap", tree.display()))?;
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in WANTED {
        visit(name, &known, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn collect(dir: &Path, known: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, known)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            known.insert(stem, path);
        }
    }
    Ok(())
}

fn visit(
    name: &str,
    known: &BTreeMap<String, PathBuf>,
    seen: &mut HashSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let path = known.get(name).with_context(|| format!("no kernel module \"{name}\""))?;
    for needed in depends(&std::fs::read(path)?) {
        visit(&needed, known, seen, order)?;
    }
    order.push(path.clone());
    Ok(())
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
    use super::depends;

    #[test]
    fn dependencies_come_out_of_modinfo() {
        let module = b"\x7fELF..\0license=GPL\0depends=dm-mod,libcrc32c\0retpoline=Y\0";
        assert_eq!(depends(module), ["dm_mod", "libcrc32c"]);
        assert!(depends(b"\0depends=\0").is_empty());
    }
}
