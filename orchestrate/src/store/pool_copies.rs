//! Where a daemon's copies of a pool's metadata are, and which one is the newest.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The directory, within the state directory.
const DIR: &str = "pool-metadata";

/// The directory of the copies, for this state directory.
pub(crate) fn directory(state: &Path) -> PathBuf {
    state.join(DIR)
}

/// The file of the copy that is taken at this time, seconds since 1970: by their names they are in the order of their times.
pub(crate) fn file(dir: &Path, pool: &str, seconds: i64) -> PathBuf {
    dir.join(format!("{pool}-{seconds:012}"))
}

/// The copies of this pool, the oldest first.
pub(crate) fn list(dir: &Path, pool: &str) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let time = name.strip_prefix(pool).and_then(|rest| rest.strip_prefix('-'));
        time.is_some_and(|time| time.len() == 12 && time.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_ours).collect();
    found.sort();
    found
}

/// When the newest copy of this pool was written; none where there is none.
pub(crate) fn newest(dir: &Path, pool: &str) -> Option<SystemTime> {
    std::fs::metadata(list(dir, pool).last()?).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_pools_copies_are_listed_and_the_oldest_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "veneer-000000000100",
            "veneer-000000000020",
            "veneer-2-000000000001",
            "veneer-00000000002",
            "veneer-000000000020.new",
            "other-000000000020",
            "veneer-00000000002x",
        ] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let names = |pool: &str| -> Vec<String> {
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            list(dir.path(), pool).into_iter().map(name).collect()
        };
        assert_eq!(names("veneer"), ["veneer-000000000020", "veneer-000000000100"]);
        assert_eq!(names("veneer-2"), ["veneer-2-000000000001"]);
        assert_eq!(names("nobody"), [""; 0]);
        assert!(list(&dir.path().join("none"), "veneer").is_empty());
        assert_eq!(newest(dir.path(), "nobody"), None);
        assert!(newest(dir.path(), "veneer").is_some());
        let name = file(dir.path(), "veneer", 21);
        std::fs::write(&name, "x").unwrap();
        assert_eq!(list(dir.path(), "veneer")[1], name);
    }
}
