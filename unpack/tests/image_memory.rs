//! What a layer of very many names takes of memory on its way into an image: the names are in a file for
//! records, so many more take hardly more. The long form, with a million of each shape, is
//! `just soak-image-memory`.
//!
//! The only test of this program, because what it asks for is the largest of all children so far.

mod forge;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use forge::{Tar, scratch, tar};
use nix::sys::resource::{UsageWho, getrusage};

/// KiB that 100,000 names more may take: filters of ten bits for each, and what an allocator does.
const GROWTH: i64 = 3 << 10;
/// KiB of the child with a million names: 32 MiB in all are asked for, and most of the rest is for names that the
/// layer below has, which take eight bytes more.
const MOST: i64 = 24 << 10;
/// The same where each name replaces one of the layer below.
const REPLACED: i64 = 32 << 10;

/// One shape of a layer: entry `n` of `of`.
type Entry = fn(n: usize, of: usize) -> Tar;

fn in_many(n: usize, of: usize) -> String {
    format!("d{:03}/some-file-name-{n:07}", n / of.div_ceil(1000))
}

const SHAPES: [(&str, Entry); 4] = [
    ("one directory", |n, _| tar().file(format!("d/some-file-name-{n:07}"), "")),
    ("links to sixteen files", |n, _| match n {
        0..16 => tar().file(format!("d/target-{n:02}"), "x"),
        _ => tar().hard(format!("d/some-link-name-{n:07}"), format!("d/target-{:02}", n % 16)),
    }),
    ("directories", |n, of| tar().dir(in_many(n, of))),
    ("1,000 directories", |n, of| tar().file(in_many(n, of), "")),
];

fn unpack(image: &Path, args: &[&str], feed: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_unpack"));
    program.args(args).args(["--quiet", "--image"]).arg(image);
    program.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = program.spawn().unwrap();
    let mut to = BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
    let fed = feed(&mut to).and_then(|()| to.flush());
    drop(to);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fed.unwrap();
}

/// Applies so many entries to a new image, and as many to the same directories above them if there are any.
/// Says what the largest child so far has taken, in KiB.
fn peak(entry: Entry, count: usize, twice: bool) -> i64 {
    let dir = scratch();
    let image = dir.path().join("image");
    File::create_new(&image).unwrap();
    // Inodes for both, since what is replaced is not taken again.
    let made = if twice { 2 * count } else { count };
    let (size, inodes) = (made * 6 + (64 << 10), made + 8000);
    unpack(&image, &["--blank", &format!("{size}K"), "--inodes", &inodes.to_string()], |_| Ok(()));
    let layer = |to: &mut dyn Write| {
        for n in 0..count {
            to.write_all(&entry(n, count).0)?;
        }
        to.write_all(&[0; 1024])
    };
    for _ in 0..1 + usize::from(twice) {
        unpack(&image, &[], layer);
    }
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss()
}

#[test]
fn memory_does_not_grow_with_names() {
    let (shape, entry) = SHAPES[0];
    if let Ok(text) = std::env::var("VENEER_NAMES") {
        return all_shapes(text.parse().unwrap());
    }
    let (small, large) = (peak(entry, 40_000, false), peak(entry, 140_000, false));
    assert!(large - small <= GROWTH, "{shape}: {large} KiB after {small}");
}

fn all_shapes(count: usize) {
    let above = [(SHAPES[3], true)];
    for ((shape, entry), twice) in SHAPES.map(|shape| (shape, false)).into_iter().chain(above) {
        let taken = peak(entry, count, twice);
        let above = if twice { ", which the layer below has" } else { "" };
        println!("{count} names, {shape}{above}: {taken} KiB at most");
        let most = if twice { REPLACED } else { MOST };
        assert!(taken <= most, "{shape}{above}: {taken} KiB");
    }
}
