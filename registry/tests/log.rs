//! The log beside the registry stays short, whoever reads and for however long.

use std::path::Path;
use std::process::{Command, Stdio};

use registry::Registry;

/// In memory, where there is a file system in it: each commit waits for the disk.
fn dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn log_bytes(path: &Path) -> u64 {
    let log = format!("{}-wal", path.display());
    std::fs::metadata(log).map_or(0, |found| found.len())
}

fn write(registry: &mut Registry, times: u32) {
    let detail = "x".repeat(2000);
    for _ in 0..times {
        registry.write(|write| write.happened("pool p", &detail)).unwrap();
    }
}

/// As into a pager that nobody scrolls.
#[test]
fn an_export_that_nobody_reads_on_keeps_no_log_long() {
    let dir = dir();
    let path = dir.path().join("registry.db");
    let mut registry = Registry::open(&path).unwrap();
    write(&mut registry, 200);
    let mut export = Command::new(env!("CARGO_BIN_EXE_registry"))
        .args(["--state", dir.path().to_str().unwrap(), "export"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first bytes are there: it is in the middle.
    let mut out = export.stdout.take().unwrap();
    let mut first = [0; 100];
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    write(&mut registry, 8000);
    let bytes = log_bytes(&path);
    assert!(bytes < 10 << 20, "{bytes} bytes");
    // And what it gives is of the moment when it was asked.
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert!(export.wait().unwrap().success());
    assert_eq!(rest.lines().filter(|line| line.contains("\"table\":\"events\"")).count(), 200);
}

/// Readers that follow upon each other, so that there is no moment without one.
#[test]
fn readers_upon_readers_keep_no_log_long() {
    let dir = dir();
    let path = dir.path().join("registry.db");
    let mut registry = Registry::open(&path).unwrap();
    let open = || {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
        let _: i64 = conn.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
        conn
    };
    let mut reader = open();
    let mut longest = 0;
    for _ in 0..60 {
        write(&mut registry, 150);
        let next = open();
        drop(std::mem::replace(&mut reader, next));
        longest = longest.max(log_bytes(&path));
    }
    drop(reader);
    std::thread::sleep(std::time::Duration::from_secs(2));
    write(&mut registry, 1);
    let bytes = log_bytes(&path);
    assert!(bytes <= 4 << 20, "{bytes} bytes stay after {longest}");
}
