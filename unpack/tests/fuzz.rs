//! The short form of the example `fuzz`, by a fixed seed, and what it once found to be of
//! interest, again.

mod forge;
mod fuzzer;

use fuzzer::{Dice, Pit, archive};

#[test]
fn two_thousand_layers_without_a_finding() {
    let dir = forge::scratch();
    let mut pit = Pit::new(dir.path());
    let mut dice = Dice(20_261_121);
    for _ in 0..2000 {
        let at = dice.0;
        let layer = archive(&mut dice);
        pit.hold(&layer).unwrap_or_else(|text| panic!("{text}; dice {at}"));
    }
    assert!(pit.accepted > 500, "{} accepted: the generator has come loose", pit.accepted);
    for _ in 0..10_000 {
        let mut layer = archive(&mut dice);
        let at = dice.below(layer.len() + 1);
        if let Some(byte) = layer.get_mut(at) {
            *byte = dice.roll().to_le_bytes()[0];
        }
        pit.parse(&layer);
    }
    pit.close();
}

#[test]
fn the_corpus() {
    let dir = forge::scratch();
    let mut pit = Pit::new(dir.path());
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20);
    for path in files {
        let layer = zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
        pit.hold(&layer).unwrap_or_else(|text| panic!("{text}: {}", path.display()));
        // Cut short it is no more welcome.
        for cut in [layer.len() / 3, layer.len() / 2, layer.len().saturating_sub(1)] {
            pit.hold(&layer[..cut]).unwrap_or_else(|text| panic!("{text}: {}", path.display()));
        }
    }
    pit.close();
}
