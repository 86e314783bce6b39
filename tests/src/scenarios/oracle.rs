//! The crate `unpack` against the oracle: every layer of a family applied by both, on two ext4, and
//! the trees compared path for path.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::guest::{Guest, STORE};
use crate::oracle;
use crate::s3::BUCKET;
use crate::scenario::{Images, Needs, Report, Scenario};
use crate::tree::Tree;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "oracle",
    needs: Needs { images: Images::Small, timeout_s: 600, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let mut report = Report::new();
    for family in ["golang", "node", "python"] {
        let expected = guest.ext4("expected", 256)?;
        let found = guest.ext4("found", 256)?;
        for number in 1..=5 {
            let layer = PathBuf::from(format!("{STORE}/{BUCKET}/images/{family}/{number}.tar"));
            oracle::apply(&layer, expected.path()).with_context(|| layer.display().to_string())?;
            let unpack =
                guest.cmd("unpack").args(["--devices", "keep", "--root"]).arg(found.path());
            unpack.stdin(File::open(&layer)?).run()?.expect(0)?;
        }
        let expected_tree = Tree::read_volume(expected.path())?;
        let found_tree = Tree::read_volume(found.path())?;
        ensure!(expected_tree.len() > 100, "{family} has only {} paths", expected_tree.len());
        expected_tree.expect_equal(&found_tree).with_context(|| family.to_owned())?;
        report = report.figure(&format!("{family}_paths"), expected_tree.len());
    }
    Ok(report)
}
