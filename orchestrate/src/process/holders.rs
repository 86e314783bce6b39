//! Who uses a device or a tree, as /proc and /sys show it to this process: mounts in every mount namespace, processes,
//! loop devices and device-mapper tables. It only looks, and no further than so many of each.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

use crate::handover::mounts;

/// Of each kind, so many are told.
pub const SHOWN_MAX: usize = 256;

/// Open files of one process that are looked at.
const FILES_MAX: usize = 65_536;

/// Bytes of one table of mounts.
const TABLE_MAX: u64 = 16 << 20;

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) enum Used {
    /// A block device, and the file system on it.
    Device(u32, u32),
    /// A directory with all that is in it.
    Tree(PathBuf),
}

/// A mount of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountHolder {
    /// The number of the mount namespace, as in /proc/PID/ns/mnt.
    pub namespace: u64,
    /// Whether that is the namespace of who asked.
    pub own: bool,
    /// A process in it.
    pub pid: u32,
    /// That one's command.
    pub command: String,
    /// Where, as that process sees it.
    pub at: String,
}

/// A process that has something of it open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessHolder {
    /// Its number.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// What it has: `root`, `cwd`, `exe`, `file`, or `device` for the device itself.
    pub has: Vec<String>,
}

/// A loop device over it, or over a file in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopHolder {
    /// Its name, such as `loop3`.
    pub device: String,
    /// What it is over.
    pub file: String,
}

/// Another device that is made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHolder {
    /// Its name in the kernel, such as `dm-7`.
    pub device: String,
    /// Its device-mapper name, where it has one.
    pub name: Option<String>,
}

/// All who were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// Mounts.
    pub mounts: Vec<MountHolder>,
    /// Processes.
    pub processes: Vec<ProcessHolder>,
    /// Loop devices.
    pub loops: Vec<LoopHolder>,
    /// Other device-mapper tables.
    pub tables: Vec<TableHolder>,
    /// What could not be seen, and why.
    pub unseen: Vec<String>,
}

impl Holders {
    /// The first of them in words; none where nobody was seen.
    pub(crate) fn first(&self) -> Option<String> {
        if let Some(mount) = self.mounts.first() {
            let MountHolder { at, pid, command, .. } = mount;
            return Some(format!("mounted at {at} for process {pid} ({command})"));
        }
        if let Some(ProcessHolder { pid, command, .. }) = self.processes.first() {
            return Some(format!("in use by process {pid} ({command})"));
        }
        if let Some(found) = self.loops.first() {
            return Some(format!("under the loop device {}", found.device));
        }
        self.tables.first().map(|found| format!("under the device {}", found.device))
    }
}

/// What was looked at on the way.
#[derive(Default)]
struct Look {
    found: Holders,
    namespaces: BTreeSet<u64>,
    hidden: usize,
    cut: BTreeSet<&'static str>,
}

/// Who uses it.
pub(crate) fn of(used: &Used) -> Holders {
    let mut look = Look::default();
    look.processes(used);
    look.loops(used);
    if let Used::Device(major, minor) = used {
        look.tables(*major, *minor);
    }
    let Look { mut found, hidden, cut, .. } = look;
    if hidden > 0 {
        found.unseen.push(format!(
            "{hidden} processes of others could not be looked into; ask as root to see what they have"
        ));
    }
    let told = |what| {
        format!("there are more than {SHOWN_MAX} {what}; only the first {SHOWN_MAX} are listed")
    };
    found.unseen.extend(cut.into_iter().map(told));
    found
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.take(FILES_MAX);
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

impl Used {
    /// What of it is at this path, which the kernel follows by itself: `device` for the device, `file` for what is in
    /// it.
    fn at(&self, path: &Path) -> Option<&'static str> {
        match self {
            Used::Device(of, number) => {
                let is = fs::metadata(path).ok()?;
                let same =
                    |dev: u64| (major(dev), minor(dev)) == (u64::from(*of), u64::from(*number));
                if is.file_type().is_block_device() && same(is.rdev()) {
                    return Some("device");
                }
                same(is.dev()).then_some("file")
            }
            Used::Tree(tree) => {
                if fs::read_link(path).is_ok_and(|target| target.starts_with(tree)) {
                    return Some("file");
                }
                // Seen from another root it has another path.
                let (is, tree) = (fs::metadata(path).ok()?, fs::metadata(tree).ok()?);
                ((is.dev(), is.ino()) == (tree.dev(), tree.ino())).then_some("file")
            }
        }
    }

    /// Where it is mounted, of a table of another process.
    fn mounts(
        &self,
        process: &Path,
        table: &[mounts::Mounted],
        own: &[mounts::Mounted],
    ) -> Vec<PathBuf> {
        match self {
            Used::Device(major, minor) => mounts::on_device(table, &format!("{major}:{minor}")),
            Used::Tree(tree) => {
                let mut at = mounts::of_place(table, own, tree);
                let made_of = |mount: &&mounts::Mounted| {
                    mount.parts.iter().any(|part| is_within(part, tree, process))
                };
                at.extend(table.iter().filter(made_of).map(|mount| mount.point.clone()));
                at
            }
        }
    }
}

/// Whether a directory that an overlay was given by a process is the tree or in it: by its path here, which may be the
/// link of a name, or by what is there for that process.
pub(crate) fn is_within(part: &Path, tree: &Path, process: &Path) -> bool {
    if part.starts_with(tree) || fs::canonicalize(part).is_ok_and(|part| part.starts_with(tree)) {
        return true;
    }
    let theirs = process.join("root").join(part.strip_prefix("/").unwrap_or(part));
    let (Ok(is), Ok(tree)) = (fs::metadata(theirs), fs::metadata(tree)) else { return false };
    (is.dev(), is.ino()) == (tree.dev(), tree.ino())
}

fn table(process: &Path) -> io::Result<Vec<mounts::Mounted>> {
    let mut bytes = Vec::new();
    fs::File::open(process.join("mountinfo"))?.take(TABLE_MAX).read_to_end(&mut bytes)?;
    Ok(mounts::table(&bytes))
}

fn namespace(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/mnt")).ok().map(|is| is.ino())
}

impl Look {
    fn processes(&mut self, used: &Used) {
        let itself = Path::new("/proc/self");
        let own = table(itself).unwrap_or_default();
        let own_namespace = namespace(itself);
        let Ok(all) = names(Path::new("/proc")) else {
            self.found.unseen.push("/proc cannot be read, so no process was looked at".into());
            return;
        };
        for pid in all.iter().filter_map(|name| name.parse::<u32>().ok()) {
            let dir = PathBuf::from(format!("/proc/{pid}"));
            let command = || text(&dir.join("comm")).unwrap_or_default();
            let entered = namespace(&dir);
            if let Some(number) = entered.filter(|number| self.namespaces.insert(*number)) {
                let points = used.mounts(&dir, &table(&dir).unwrap_or_default(), &own);
                for at in points {
                    if self.found.mounts.len() >= SHOWN_MAX {
                        self.cut.insert("mounts");
                        break;
                    }
                    self.found.mounts.push(MountHolder {
                        namespace: number,
                        own: own_namespace == Some(number),
                        pid,
                        command: command(),
                        at: at.to_string_lossy().into_owned(),
                    });
                }
            }
            if pid == std::process::id() {
                continue;
            }
            self.process(used, &dir, pid, command());
        }
    }

    fn process(&mut self, used: &Used, dir: &Path, pid: u32, command: String) {
        let mut has: Vec<String> = Vec::new();
        for what in ["root", "cwd", "exe"] {
            if used.at(&dir.join(what)).is_some() {
                has.push(what.into());
            }
        }
        match names(&dir.join("fd")) {
            Ok(files) => {
                if files.len() >= FILES_MAX {
                    self.cut.insert("open files of one process");
                }
                let found: BTreeSet<&str> =
                    files.iter().filter_map(|file| used.at(&dir.join("fd").join(file))).collect();
                has.extend(found.into_iter().map(str::to_owned));
            }
            // It has ended since.
            Err(_) if !dir.exists() => return,
            Err(_) => self.hidden += 1,
        }
        if has.is_empty() {
            return;
        }
        if self.found.processes.len() >= SHOWN_MAX {
            self.cut.insert("processes");
            return;
        }
        self.found.processes.push(ProcessHolder { pid, command, has });
    }

    fn loops(&mut self, used: &Used) {
        let mut all = names(Path::new("/sys/block")).unwrap_or_default();
        all.sort_unstable();
        for device in all.into_iter().filter(|name| name.starts_with("loop")) {
            let backing = Path::new("/sys/block").join(&device).join("loop/backing_file");
            let Some(file) = text(&backing) else { continue };
            let path = Path::new(file.strip_suffix(" (deleted)").unwrap_or(&file));
            let is = match used {
                Used::Device(..) => used.at(path).is_some(),
                Used::Tree(tree) => path.starts_with(tree),
            };
            if is && self.found.loops.len() >= SHOWN_MAX {
                self.cut.insert("loop devices");
            } else if is {
                self.found.loops.push(LoopHolder { device, file });
            }
        }
    }

    fn tables(&mut self, major: u32, minor: u32) {
        let dir = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/holders"));
        for device in names(&dir).unwrap_or_default() {
            if self.found.tables.len() >= SHOWN_MAX {
                self.cut.insert("devices over it");
                return;
            }
            let name = text(&Path::new("/sys/block").join(&device).join("dm/name"));
            self.found.tables.push(TableHolder { device, name });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_what_it_has_in_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().canonicalize().unwrap().join("7");
        fs::create_dir(&tree).unwrap();
        let used = Used::Tree(tree.clone());
        assert_eq!(of(&used).first(), None);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(&tree)
            .stdin(fs::File::create(tree.join("in")).unwrap())
            .spawn()
            .unwrap();
        let found = of(&used);
        // What lies beside it is another's.
        let beside = of(&Used::Tree(tree.with_file_name("77")));
        child.kill().unwrap();
        child.wait().unwrap();
        let [process] = found.processes.as_slice() else { panic!("{found:?}") };
        assert_eq!(process.pid, child.id());
        assert_eq!(process.has, ["cwd", "file"]);
        assert!(found.first().unwrap().contains(&format!("process {}", child.id())), "{found:?}");
        assert_eq!(beside.first(), None);
        assert_eq!(of(&used).first(), None);
    }
}
