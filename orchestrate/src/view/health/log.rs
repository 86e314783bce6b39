//! How long the registry's log is. It is begun anew as soon as nobody reads what stands in it, so one that grows is
//! kept by who has a transaction open: a person's shell, a backup of another program's.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bytes beyond which somebody is told: a burst of our own does not come near.
const LONG: u64 = 64 << 20;

/// SQLite's locks of readers: five bytes at 123 of the `-shm` file (sqlite.org/walformat.html).
const READERS: std::ops::RangeInclusive<u64> = 123..=127;

/// Processes that are named.
const NAMED: usize = 8;

/// How long it is, and who keeps it from being begun anew where it is long.
pub(super) fn look(database: &Path) -> Result<String, String> {
    let log = beside(database, "-wal");
    let bytes = std::fs::metadata(&log).map_or(0, |found| found.len());
    if bytes <= LONG {
        return Ok(format!("the registry's log has {bytes} bytes"));
    }
    let readers = readers(database);
    let who = match readers.is_empty() {
        true => "it does not show here who".to_owned(),
        false => readers.join(", "),
    };
    Err(format!(
        "{} has {bytes} bytes, more than {LONG}, and grows with every change, since somebody has a transaction open \
         on the registry ({who}): close the program that has it open",
        log.display()
    ))
}

fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The processes that read of the log now, but for this one, as far as the kernel shows them (proc(5), locks).
fn readers(database: &Path) -> Vec<String> {
    let index = std::fs::metadata(beside(database, "-shm")).map(|found| found.ino());
    let (Ok(inode), Ok(locks)) = (index, std::fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = locks.lines().filter_map(|line| reader(line, inode)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != std::process::id());
    let named = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} {}", name.trim().escape_debug())
    };
    pids.iter().take(NAMED).map(named).collect()
}

/// The process of a line of /proc/locks that is the lock of a reader of this file.
fn reader(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "POSIX", _, "READ", pid, place, first, last] = words.as_slice() else { return None };
    let here = place.rsplit(':').next()?.parse() == Ok(inode);
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let reads = READERS.contains(&first) && READERS.contains(&last);
    pid.parse().ok().filter(|pid| here && reads && *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_told_from_who_only_has_it_open_and_from_who_waits() {
        let of = |line: &str| reader(line, 77);
        assert_eq!(of("4: POSIX  ADVISORY  READ 4711 00:1b:77 124 124"), Some(4711));
        assert_eq!(of("4: POSIX  ADVISORY  READ 4711 00:1b:77 128 128"), None);
        assert_eq!(of("4: POSIX  ADVISORY  WRITE 4711 00:1b:77 120 120"), None);
        assert_eq!(of("4: POSIX  ADVISORY  READ 4711 00:1b:78 124 124"), None);
        assert_eq!(of("4: -> POSIX  ADVISORY  READ 4711 00:1b:77 124 124"), None);
        assert_eq!(of("4: POSIX  ADVISORY  READ 0 00:1b:77 124 124"), None);
    }
}
