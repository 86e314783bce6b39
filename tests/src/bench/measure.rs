//! One run of one shell line: wall time, processor time, and the most memory that its processes had
//! at a time.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};

/// Between two looks at memory. Looking costs, so only the round that does not count does it.
const LOOK: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Wall time, seconds.
    pub wall: f64,
    /// Processor time of it and all that it waited for, seconds.
    pub processor: f64,
    /// Most memory at a time, KiB; 0 when nobody looked.
    pub peak_kib: u64,
}

/// Runs `line` with `$OUT`, looking at memory or not.
///
/// # Errors
/// It cannot be started, or does not end with 0; the message has what it wrote last.
pub fn run(line: &str, out: &Path, memory: bool) -> Result<Measured> {
    let before = processor()?;
    let begun = Instant::now();
    let child = Command::new("bash")
        .args(["-c", &format!("set -euo pipefail\n{line}")])
        .env("OUT", out)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("start bash")?;
    let (group, done) = (child.id(), AtomicBool::new(false));
    let (output, wall, peak_kib) = thread::scope(|scope| {
        let watch = memory.then(|| scope.spawn(|| peak(group, &done)));
        let output = child.wait_with_output();
        let wall = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let peak = watch.map_or(0, |watch| watch.join().unwrap_or(0));
        (output, wall, peak)
    });
    let output = output.context("wait for bash")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("nothing").escape_debug().to_string();
        bail!("{}: it said {last}; the line was: {line}", output.status);
    }
    Ok(Measured { wall, processor: processor()? - before, peak_kib })
}

/// KiB on the disk of all that lies in a directory, each inode once; what cannot be read takes none.
#[must_use]
pub fn space(dir: &Path) -> u64 {
    let mut seen = HashSet::new();
    let (mut blocks, mut todo) = (0, vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if seen.insert((found.dev(), found.ino())) {
                blocks += found.blocks();
            }
            if found.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    // st_blocks counts 512 bytes, whatever the file system's own are (stat(3type)).
    blocks / 2
}

/// Of all children so far, seconds.
fn processor() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn peak(group: u32, done: &AtomicBool) -> u64 {
    let mut most = 0;
    while !done.load(Ordering::Relaxed) {
        most = most.max(resident(group));
        thread::sleep(LOOK);
    }
    most
}

/// KiB of all processes of a group: shared pages are counted once, spread over those who share them
/// (Linux Documentation/filesystems/proc.rst, Pss).
fn resident(group: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let mut sum = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // "pid (name) state ppid pgrp ..", and the name may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if fields.split_whitespace().nth(2) != Some(group.to_string().as_str()) {
            continue;
        }
        let Ok(smaps) = std::fs::read_to_string(path.join("smaps_rollup")) else { continue };
        let name = stat.split_once('(').map_or("", |(_, rest)| rest);
        // The shell that holds the line together belongs to no contender.
        if name.starts_with("bash)") {
            continue;
        }
        let pss = smaps.lines().find_map(|line| line.strip_prefix("Pss:"));
        sum += pss.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0u64);
    }
    sum
}
