//! A seeded fuzzer for the reader of ext4 images, on stable Rust and without a harness.
//!
//!     cargo run --release -p unpack --example fuzz_image -- [seconds] [seed]
//!
//! What it makes and what it holds about each image is in `tests/images/fuzzer.rs`. It says what memory it took in
//! the end, and the longest time for one image.

use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../tests/images/mod.rs"]
mod images;

use images::fuzzer::{Dice, Pit};

fn main() {
    let number = |at: usize| std::env::args().nth(at).and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (number(1).unwrap_or(30), number(2).unwrap_or(1));
    let shm = Path::new("/dev/shm");
    let dir = match shm.is_dir() {
        true => tempfile::tempdir_in(shm),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("a temporary directory");
    let mut pit = Pit::new(dir.path());
    pit.unchanged();
    let mut dice = Dice(seed | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut longest) = (0u64, Duration::ZERO);
    while Instant::now() < end {
        let (at, start) = (dice.0, Instant::now());
        if let Err(text) = pit.hold(&mut dice) {
            panic!("{text}; dice {at}");
        }
        longest = longest.max(start.elapsed());
        runs += 1;
    }
    for (verdict, count) in &pit.verdicts {
        println!("{count:>9} {verdict}");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    // Most of it are the images themselves, each twice, and what is changed of them.
    assert!(kib < 192 << 10, "{kib} KiB of memory");
    assert!(longest < Duration::from_secs(20), "{longest:?} for one image");
    println!(
        "fuzz: image: {runs} images, {} accepted, {} verdicts, no finding; longest {longest:?}, {kib} KiB",
        pit.accepted,
        pit.verdicts.len()
    );
}
