//! A layer that was made of what differs between two trees, put on the lower one by the oracle, gives the upper one path
//! for path: by GNU tar, and not by who made the layer. Needs root.

#[path = "../../unpack/tests/changes/mod.rs"]
mod changes;

use std::fs::{self, File};

use changes::{Dice, change, plant};
use tests::oracle;
use tests::tree::Tree;
use unpack::{Devices, Limits, Root, Stop, clone_tree, diff_trees};

#[test]
fn the_oracle_makes_of_the_lower_tree_the_upper_one() {
    for (seed, count) in [(31u64, 2), (32, 30), (33, 150), (34, 300), (35, 518)] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["base", "upper", "applied"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut dice = Dice(seed);
        plant(&at("base"), &mut dice, 120);
        let root = |name: &str| Root::open(&at(name)).unwrap();
        for name in ["upper", "applied"] {
            clone_tree(&root("base"), &root(name), &Stop::default()).unwrap();
        }
        for _ in 0..count {
            change(&at("upper"), &mut dice);
        }
        let limits = Limits { devices: Devices::Keep, ..Limits::default() };
        let mut layer = File::create(at("layer.tar")).unwrap();
        diff_trees(&root("upper"), &root("base"), &mut layer, &limits).unwrap();
        oracle::apply(&at("layer.tar"), &at("applied")).unwrap();
        let read = |name: &str| Tree::read(&at(name)).unwrap().without_root();
        let equal = read("applied").expect_equal(&read("upper"));
        equal.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}
