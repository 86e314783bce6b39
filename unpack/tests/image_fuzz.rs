//! The short form of the example `fuzz_image`: images that somebody changed are read or refused by a rule with
//! a name, whatever was changed and whether the checksums were made right again.

mod images;

use images::fuzzer::{Dice, Pit};

#[test]
fn three_hundred_images_without_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let mut pit = Pit::new(dir.path());
    pit.unchanged();
    let mut dice = Dice(20_261_129);
    for _ in 0..300 {
        let at = dice.0;
        pit.hold(&mut dice).unwrap_or_else(|text| panic!("{text}; dice {at}"));
    }
    for (verdict, count) in &pit.verdicts {
        println!("{count:>9} {verdict}");
    }
    assert!(pit.accepted > 60, "{} accepted: the fuzzer has come loose", pit.accepted);
    assert!(pit.verdicts.len() > 15, "{} verdicts: all is refused early", pit.verdicts.len());
}
