//! The short form of the example `cost`: every kind of costly layer, and changes of each by a fixed
//! seed, held to what is counted. How long they take is told by the long form.

mod costs;
mod forge;

use costs::{Dice, kinds};
use forge::Pen;
use unpack::{Applied, Class, Error, Limits};

/// Steps and removals that a layer may cause, by its entries: what the limits promise.
fn within(applied: &Applied, rounds_below: u64) -> Result<(), String> {
    let nodes = applied.entries + applied.implicit_dirs;
    let steps = 32_768 + 12 * applied.entries;
    // A node is removed once, by who makes way for another, and looked at once in a whole directory.
    let removals = 4 * 256 * (nodes + 8 * rounds_below);
    if applied.steps > steps || applied.removals > removals {
        return Err(format!("over {steps} steps or {removals} removals: {applied:?}"));
    }
    Ok(())
}

fn hold(result: &Result<Applied, Error>, rounds: u64) -> Result<bool, String> {
    match result {
        Ok(applied) => within(applied, rounds).map(|()| true),
        Err(error) => match error.class() {
            // What a file system cannot hold is its own bound.
            Some(Class::Limit | Class::Path | Class::Xattr | Class::Link | Class::Fs) => Ok(false),
            class => Err(format!("{class:?}: {error}")),
        },
    }
}

#[test]
fn the_work_of_every_kind_is_bounded() {
    let mut dice = Dice(20_261_128);
    for kind in kinds() {
        let mut accepted = 0;
        let mut recipe = kind.clone();
        for _ in 0..6 {
            let mut layer = Vec::new();
            let written = recipe.write(128 << 10, &mut layer).unwrap();
            let pen = Pen::new();
            let mut below = Vec::new();
            if recipe.below(written.rounds, &mut below).unwrap() {
                pen.apply(&below, &Limits::default()).unwrap();
            }
            let result = pen.apply(&layer, &Limits::default());
            match hold(&result, written.rounds) {
                Ok(good) => accepted += usize::from(good),
                Err(text) => panic!("{}: {text}; {recipe:?}", kind.name),
            }
            recipe = recipe.changed(&mut dice);
        }
        assert!(accepted > 0, "{}: nothing was accepted", kind.name);
    }
}
