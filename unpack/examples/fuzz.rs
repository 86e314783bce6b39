//! A seeded fuzzer for the parser and for apply, on stable Rust and without a harness.
//!
//!     cargo run --release -p unpack --example fuzz -- [seconds] [seed] [both|parser|apply] [DIR]
//!
//! What it makes and what it holds about each archive is in `tests/fuzzer`. `both` gives each its
//! time, one after the other. The same seed gives the same archives. Into DIR, if given, goes the
//! first archive of each different verdict, as zstd: what `tests/corpus` was made with. As root it
//! makes owners too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[path = "../tests/fuzzer/mod.rs"]
mod fuzzer;

use fuzzer::{Dice, Pit, archive};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let seconds = number(1).unwrap_or(30);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = number(2).unwrap_or(clock);
    let what = args.get(3).map_or("both", String::as_str);
    let corpus = args.get(4).map(PathBuf::from);
    let shm = Path::new("/dev/shm");
    let under = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
    println!("fuzz: seed {seed}, {seconds} s for each of {what}");
    if what != "apply" {
        parser(&under, seconds, seed);
    }
    if what != "parser" {
        trees(&under, seconds, seed, corpus.as_deref());
    }
}

fn finding(layer: &[u8], at: u64, text: &str) -> ! {
    let kept = std::env::temp_dir().join("unpack-fuzz-finding.tar");
    std::fs::write(&kept, layer).expect("write the finding");
    panic!("{text}; dice {at}, layer kept in {}", kept.display());
}

/// Only bytes in and a verdict out, so that far more of them are tried.
fn parser(under: &Path, seconds: u64, seed: u64) {
    let pit = Pit::new(under);
    let mut dice = Dice(seed | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut accepted) = (0u64, 0u64);
    while Instant::now() < end {
        let mut layer = archive(&mut dice);
        for _ in 0..dice.below(6) {
            let at = dice.below(layer.len() + 1);
            if let Some(byte) = layer.get_mut(at) {
                *byte = dice.roll().to_le_bytes()[0];
            }
        }
        accepted += u64::from(pit.parse(&layer) == "accepted");
        runs += 1;
    }
    pit.close();
    println!("fuzz: parser: {runs} layers, {accepted} accepted, no finding");
}

fn trees(under: &Path, seconds: u64, seed: u64, corpus: Option<&Path>) {
    let mut pit = Pit::new(under);
    let mut dice = Dice(seed | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut verdicts: BTreeMap<String, u64> = BTreeMap::new();
    let mut runs = 0u64;
    while Instant::now() < end {
        let at = dice.0;
        let layer = archive(&mut dice);
        let verdict = pit.hold(&layer).unwrap_or_else(|text| finding(&layer, at, &text));
        runs += 1;
        let count = verdicts.entry(verdict).or_default();
        *count += 1;
        if let Some(dir) = corpus
            && *count == 1
        {
            let packed = zstd::encode_all(layer.as_slice(), 19).expect("zstd");
            std::fs::write(dir.join(format!("{:03}.tar.zst", verdicts.len())), packed)
                .expect("write the corpus");
        }
    }
    let accepted = pit.accepted;
    pit.close();
    for (verdict, count) in &verdicts {
        println!("{count:>9} {verdict}");
    }
    println!("fuzz: apply: {runs} layers, {accepted} accepted, no finding");
}
