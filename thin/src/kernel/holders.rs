//! Who keeps a device open: other devices on top of it, mounts in any namespace, processes.
//! Only looks, and only below `/sys` and `/proc`; a partial answer is better than none.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::format::holder::Holder;
use crate::format::units::Dev;

/// Enough names for a message.
const LIMIT: usize = 8;

/// The holders of `dev`, at most a handful. A detached mount shows as nobody, or as a process
/// whose working directory is in it.
pub fn of(dev: Dev) -> Vec<Holder> {
    let mut found = BTreeSet::new();
    for entry in entries(Path::new(&format!("/sys/dev/block/{dev}/holders"))) {
        let mapped = fs::read_to_string(format!("/sys/block/{entry}/dm/name")).ok();
        let mapped = mapped.map(|name| name.trim_end().to_owned());
        found.insert(Holder::Device { name: entry, mapped });
    }
    found.extend(loops_on(dev).into_iter().map(|name| Holder::Device { name, mapped: None }));
    let mut namespaces = BTreeSet::new();
    for entry in entries(Path::new("/proc")) {
        let Ok(pid) = entry.parse::<u32>() else { continue };
        if found.len() >= LIMIT {
            break;
        }
        let dir = Path::new("/proc").join(&entry);
        let command = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        let command = command.trim_end().to_owned();
        // One namespace is read once, through the first process that is in it.
        let new = fs::read_link(dir.join("ns/mnt")).is_ok_and(|ns| namespaces.insert(ns));
        if new {
            let table = fs::read_to_string(dir.join("mountinfo")).unwrap_or_default();
            for target in mounts_of(&table, dev) {
                found.insert(Holder::Mount { pid, command: command.clone(), target });
            }
        }
        if has_open(&dir, dev) {
            found.insert(Holder::Process { pid, command });
        }
    }
    found.into_iter().take(LIMIT).collect()
}

/// Loop devices whose file is the device: no list of the kernel's has them as holders.
fn loops_on(dev: Dev) -> Vec<String> {
    let is_on = |name: &String| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        let meta = file.ok().and_then(|file| fs::metadata(file.trim_end()).ok());
        meta.is_some_and(|meta| {
            meta.file_type().is_block_device() && Dev::from_stat(meta.rdev()) == dev
        })
    };
    let loops =
        entries(Path::new("/sys/block")).into_iter().filter(|name| name.starts_with("loop"));
    loops.filter(is_on).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .map(|list| list.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default()
}

fn has_open(process: &Path, dev: Dev) -> bool {
    let on_it = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|meta| {
            let is_node = meta.file_type().is_block_device() && Dev::from_stat(meta.rdev()) == dev;
            is_node || Dev::from_stat(meta.dev()) == dev
        })
    };
    on_it(process.join("cwd"))
        || on_it(process.join("root"))
        || entries(&process.join("fd")).into_iter().any(|fd| on_it(process.join("fd").join(fd)))
}

/// Mount points of `dev` in the text of a `mountinfo` (proc(5): third field `major:minor`, fifth
/// the mount point).
fn mounts_of(table: &str, dev: Dev) -> Vec<PathBuf> {
    let number = dev.to_string();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let found = fields.nth(2)?;
            let target = fields.nth(1)?;
            (found == number).then(|| PathBuf::from(target))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_rows_of_one_device() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     40 22 253:7 / /mnt/a rw,relatime shared:1 - ext4 /dev/dm-7 rw\n\
                     41 22 253:70 / /mnt/b rw - ext4 /dev/dm-70 rw\n\
                     short 253:7\n";
        let dev = Dev { major: 253, minor: 7 };
        assert_eq!(mounts_of(table, dev), [PathBuf::from("/mnt/a")]);
    }
}
