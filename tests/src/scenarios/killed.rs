//! `kill -9` in the middle of an unpack, then the same command again: the right end state, and no id,
//! node, mount or loop device left over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::veneer::{Mounted, Veneer, expected, image};
use crate::guest::{Guest, STORE};
use crate::s3::BUCKET;
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "killed",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

/// Where it is killed: the layer, and how many bytes of one answer have come by then. An answer may be a
/// range of 2 MiB.
const PLACES: [(&str, u64); 3] =
    [("golang/1.tar", 1_000_000), ("golang/3.tar", 1), ("golang/5.tar", 1_000_000)];

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let activate = ["activate", &image("golang"), "--name", "golang-1"];
    for (suffix, after) in PLACES {
        veneer.s3.proxy.hold(suffix, after);
        let mut running = veneer.cmd(&activate).spawn()?;
        veneer.s3.proxy.wait_held(Duration::from_secs(300))?;
        running.kill()?;
        running.wait()?;
        veneer.s3.proxy.release();
        let left = veneer.ok(&["recover", "--dry-run"])?;
        let repairs = left["repairs"].as_array().context("a list of repairs")?;
        ensure!(!repairs.is_empty(), "killed at {suffix}, and nothing to mend: {left}");
        // No other command in between: the same one mends and goes on.
    }
    veneer.cmd(&activate).run()?.expect(0)?;
    veneer.check()?;
    let mounted = Mounted::new(guest.scratch(), "golang-1")?;
    expected(guest, "golang", 256)?.expect_equal(&mounted.tree()?)?;
    drop(mounted);

    // Layer 1 was sealed when the second run was killed, and did not come again: its bytes are its
    // size, and what the first run lost of it.
    let size = std::fs::metadata(format!("{STORE}/{BUCKET}/images/golang/1.tar"))?.len();
    let gets = veneer.s3.object_gets();
    let first = gets.iter().filter(|get| get.target.ends_with("golang/1.tar"));
    let came: u64 = first.map(|get| get.bytes).sum();
    ensure!(came < size + size / 2, "layer 1 of {size} bytes came with {came}: {gets:?}");
    veneer.close()?;
    Ok(Report::new()
        .figure("kills", PLACES.len())
        .figure("bytes_of_layer_1", came)
        .figure("size_of_layer_1", size))
}
