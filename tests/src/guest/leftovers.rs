//! What a scenario may leave behind: nothing. Read from sysfs and procfs, with none of our own code
//! that is under test.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

/// Device-mapper devices, loop devices in use, mounts and processes, each as a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(BTreeSet<String>);

impl Seen {
    /// What is there now.
    ///
    /// # Errors
    /// /proc or /sys cannot be read.
    pub fn now() -> Result<Seen> {
        let mut seen = BTreeSet::new();
        for entry in std::fs::read_dir("/sys/block")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(dm) = line_of(&path.join("dm/name")) {
                seen.insert(format!("device-mapper device {name} \"{dm}\""));
            }
            if let Some(file) = line_of(&path.join("loop/backing_file")) {
                seen.insert(format!("loop device {name} on \"{file}\""));
            }
        }
        for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if let (Some(device), Some(point)) = (fields.get(2), fields.get(4)) {
                seen.insert(format!("mount of {device} on {point}"));
            }
        }
        for (id, name) in processes()? {
            seen.insert(format!("process {id} \"{name}\""));
        }
        Ok(Seen(seen))
    }

    /// What is here and was not in `before`.
    #[must_use]
    pub fn since(&self, before: &Seen) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// User-space processes besides init: kernel threads have no command line.
pub(crate) fn processes() -> Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // It may have ended since the directory was read.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        if id == 1 || line.is_empty() {
            continue;
        }
        let name = String::from_utf8_lossy(&line).replace('\0', " ");
        found.push((id, name.trim_end().to_owned()));
    }
    Ok(found)
}

fn line_of(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
