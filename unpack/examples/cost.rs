//! What the costliest layer of each kind takes, beside GNU tar on as many new small files.
//!
//!     cargo build --release -p unpack
//!     cargo run --release -p unpack --example cost -- [seed] [changes] [MiB] [DIR]
//!
//! For each kind of `tests/costs` the costliest of so many changes is looked for, by processor time
//! to GNU tar's. It is then measured as a blob of 1 MiB, plain and packed (zstd, of at most so many
//! MiB, 256), and at a length and four times that, for how it grows. Into DIR (default target/cost)
//! go cost.tsv and cost.svg.
//! Needs root, GNU tar and mkfs.ext4: each run has an ext4 of its own.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

#[path = "../tests/costs/mod.rs"]
mod costs;
#[path = "../tests/costs/measure.rs"]
mod measure;

use costs::{Dice, Recipe, What, Written, kinds, op, plain_files};
use measure::{Place, Took};

/// The blob that the bound is about, and how much may come out of it before its ratio counts.
const BLOB: u64 = 1 << 20;
const PLAIN_MAX: u64 = 256 << 20;
/// Bytes of plain tar that a change is judged by.
const TRIED: u64 = 4 << 20;
/// What GNU tar's time is to be held against.
const BOUND: f64 = 4.0;

/// What was found of one kind.
struct Row {
    name: &'static str,
    form: &'static str,
    blob: u64,
    written: Written,
    ours: Took,
    tar: Took,
    /// Of time by length, where it was measured; 1 is linear.
    exponent: Option<f64>,
}

struct Bench {
    place: Place,
    unpack: PathBuf,
}

impl Bench {
    fn layer(&self) -> PathBuf {
        self.place.file("layer")
    }

    fn ours(&mut self, recipe: &Recipe, written: Written) -> Took {
        self.place.fresh(100_000 + 5 * written.entries);
        let root = self.place.root().display().to_string();
        let spill = self.place.file("").display().to_string();
        let args = ["-q", "--sandbox", "require", "--root", &root, "--spill-dir", &spill];
        let below = self.place.file("below");
        let mut to = BufWriter::new(File::create(&below).expect("the layer below"));
        let is = recipe.below(written.rounds, &mut to).and_then(|is| to.flush().map(|()| is));
        if is.expect("the layer below") {
            // More of it than a layer may have is less of it than this layer could meet.
            self.place.run(&self.unpack, &args, &below);
        }
        self.place.run(&self.unpack, &args, &self.layer())
    }

    fn tar(&mut self, written: Written) -> Took {
        let layer = self.place.file("files");
        let mut to = BufWriter::new(File::create(&layer).expect("a layer"));
        plain_files(written, &mut to).and_then(|()| to.flush()).expect("a layer");
        self.place.fresh(100_000 + written.entries);
        let root = self.place.root().display().to_string();
        let args = ["-x", "-p", "--numeric-owner", "-C", &root, "-f", "-"];
        let took = self.place.run(Path::new("tar"), &args, &layer);
        assert!(took.accepted, "GNU tar does not take its own");
        took
    }

    /// A plain layer of about that length.
    fn write(&self, recipe: &Recipe, bytes: u64) -> Written {
        let mut to = BufWriter::new(File::create(self.layer()).expect("a layer"));
        let written = recipe.write(bytes, &mut to).expect("a layer");
        to.flush().expect("a layer");
        written
    }

    /// The longest layer that is a blob of at most 1 MiB.
    fn packed(&self, recipe: &Recipe, plain_max: u64) -> (Written, u64) {
        let mut bytes = plain_max - (1 << 20);
        loop {
            let file = File::create(self.layer()).expect("a layer");
            let mut to = zstd::stream::write::Encoder::new(file, 9).expect("zstd");
            let written = recipe.write(bytes, &mut to).expect("a layer");
            let file = to.finish().expect("zstd");
            let blob = file.metadata().expect("a blob").len();
            if blob <= BLOB {
                return (written, blob);
            }
            bytes = bytes * BLOB / blob * 19 / 20;
        }
    }

    /// The costliest of so many changes, by the time to that of GNU tar.
    fn search(&mut self, kind: &Recipe, changes: u64, dice: &mut Dice, peers: &Peers) -> Recipe {
        let cost = |bench: &mut Bench, recipe: &Recipe| {
            let written = bench.write(recipe, TRIED);
            bench.ours(recipe, written).processor / peers.time(written)
        };
        let (mut best, mut most) = (kind.clone(), cost(self, kind));
        for _ in 0..changes {
            let other = best.changed(dice);
            let this = cost(self, &other);
            if this > most {
                (best, most) = (other, this);
            }
        }
        eprintln!("cost: {}: {most:.2} by {:?}", kind.name, best.ops);
        best
    }

    /// How the time grows with the length, from a fourth of it on.
    fn exponent(&mut self, recipe: &Recipe, bytes: u64) -> f64 {
        let mut time = |bytes| {
            let written = self.write(recipe, bytes);
            self.ours(recipe, written).processor
        };
        let (one, four) = (time(bytes / 4), time(bytes));
        (four / one).log2() / 2.0
    }
}

/// What GNU tar takes, out of a few runs: for a start, an entry and a byte.
struct Peers(f64, f64, f64);

impl Peers {
    fn new(bench: &mut Bench) -> Peers {
        let mut time = |entries: u64, each: u64| {
            bench.tar(Written { bytes: entries * (512 + each), entries, rounds: 0 }).processor
        };
        let (one, many, long) = (time(1, 0), time(20_000, 0), time(2000, 20 << 10));
        let entry = (many - one) / 20_000.0;
        Peers(one, entry, (long - one - 2000.0 * entry).max(0.0) / (2000.0 * 20480.0))
    }

    fn time(&self, written: Written) -> f64 {
        let content = written.bytes.saturating_sub(512 * written.entries);
        self.0 + self.1 * written.entries as f64 + self.2 * content as f64
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number =
        |at: usize, or| args.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(or);
    let (seed, changes) = (number(1, 1), number(2, 12));
    let plain_max = number(3, PLAIN_MAX >> 20) << 20;
    let dir = args.get(4).map_or_else(|| PathBuf::from("target/cost"), PathBuf::from);
    let here = std::env::current_exe().expect("this program");
    let unpack = here.ancestors().nth(2).expect("a folder").join("unpack");
    assert!(unpack.exists(), "{} is missing: cargo build --release -p unpack", unpack.display());
    fs::create_dir_all(&dir).expect("a directory for the table");
    let mut bench = Bench { place: Place::new(), unpack };
    let peers = Peers::new(&mut bench);
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    for (n, kind) in kinds().into_iter().enumerate() {
        // Each kind has chance of its own, so that a new one leaves the others as they are.
        let mut dice = Dice((seed * 1000 + n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let recipe = bench.search(&kind, changes, &mut dice, &peers);
        let written = bench.write(&recipe, BLOB - (8 << 10));
        let (ours, tar) = (bench.ours(&recipe, written), bench.tar(written));
        let (name, blob) = (kind.name, written.bytes);
        rows.push(Row { name, form: "plain", blob, written, ours, tar, exponent: None });
        save(&dir, &rows).expect("the table");
        found.push(recipe);
    }
    for mut recipe in found {
        let (mut written, mut blob) = bench.packed(&recipe, plain_max);
        let mut ours = bench.ours(&recipe, written);
        // What is refused on its way costs less than what is just let through.
        for _ in 0..4 {
            if ours.accepted {
                break;
            }
            recipe.ops.push(op(What::File));
            (written, blob) = bench.packed(&recipe, plain_max);
            ours = bench.ours(&recipe, written);
        }
        let tar = bench.tar(written);
        let exponent = Some(bench.exponent(&recipe, written.bytes.min(32 << 20)));
        rows.push(Row { name: recipe.name, form: "zstd", blob, written, ours, tar, exponent });
        save(&dir, &rows).expect("the table");
    }
    bench.place.close();
}

fn save(dir: &Path, rows: &[Row]) -> io::Result<()> {
    let mut tsv = String::from(
        "kind\tform\tblob bytes\tplain bytes\tentries\taccepted\tours s\ttar s\tratio\tus per blob byte\t\
         memory KiB\tspill per blob byte\ttree per blob byte\texponent\n",
    );
    for row in rows {
        let (ours, tar, blob) = (row.ours.processor, row.tar.processor, row.blob as f64);
        let line = format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{ours:.3}\t{tar:.3}\t{:.2}\t{:.3}\t{}\t{:.2}\t{:.2}\t{}",
            row.name,
            row.form,
            row.blob,
            row.written.bytes,
            row.written.entries,
            row.ours.accepted,
            ours / tar,
            ours * 1e6 / blob,
            row.ours.memory,
            row.ours.spill as f64 / blob,
            row.ours.tree as f64 / blob,
            row.exponent.map_or(String::new(), |exponent| format!("{exponent:.2}"))
        );
        tsv += &line;
        tsv.push('\n');
    }
    eprintln!("cost: {}", tsv.lines().last().unwrap_or_default());
    fs::write(dir.join("cost.tsv"), tsv)?;
    fs::write(dir.join("cost.svg"), plot(rows))
}

/// A bar for each kind and form, and a line where the bound is; on a scale of doublings.
fn plot(rows: &[Row]) -> String {
    let (left, width, step) = (260.0, 420.0, 16.0);
    let place = |ratio: f64| left + width * ((ratio.max(0.25).log2() + 2.0) / 9.0).min(1.0);
    let height = step * rows.len() as f64 + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"760\" height=\"{height}\" \
         fill=\"white\"/>\n<text x=\"10\" y=\"18\">processor time of the costliest 1 MiB blob of each \
         kind, to GNU tar's for as many bytes and new files</text>\n"
    );
    for (n, row) in rows.iter().enumerate() {
        let (y, ratio) = (28.0 + step * n as f64, row.ours.processor / row.tar.processor);
        let colour = if row.form == "zstd" { "#3b6ea5" } else { "#a5b8cc" };
        let to = place(ratio);
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}, {}</text>\
             <rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"11\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>\n",
            left - 6.0,
            y + 10.0,
            row.name,
            row.form,
            to - left,
            to + 4.0,
            y + 10.0
        );
    }
    let (bound, bottom) = (place(BOUND), height - 16.0);
    svg += &format!(
        "<line x1=\"{bound:.1}\" y1=\"24\" x2=\"{bound:.1}\" y2=\"{bottom}\" stroke=\"#c0392b\"/>\
         <text x=\"{:.1}\" y=\"{}\" fill=\"#c0392b\">4: the bound</text>\n</svg>\n",
        bound + 3.0,
        height - 6.0
    );
    svg
}
