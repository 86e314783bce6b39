//! Random operations of `orchestrate` on a thin pool, killed at random moments: five in every run, 200
//! in the long form. What a killed one leaves the next command mends.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::crash_host::{IMAGES, Ready, on_a_pool};
use crate::dice::Dice;
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_random",
    needs: Needs { timeout_s: 600, soak_timeout_s: Some(2 * 3600), ..Needs::DEFAULT },
    run,
};

const NAMES: [&str; 3] = ["n-1", "n-2", "n-3"];

/// A random command.
pub(crate) fn words(dice: &mut Dice) -> Vec<&'static str> {
    let (image, name) = (dice.of(&IMAGES), dice.of(&NAMES));
    match dice.roll(8) {
        0 => vec!["ensure", image],
        1..=4 => vec!["activate", image, "--name", name],
        5 => vec!["deactivate", name],
        6 => vec!["rm", name],
        _ => vec!["rm", image],
    }
}

fn run(guest: &mut Guest) -> Result<Report> {
    let (runs, dice) = (if guest.long() { 200 } else { 5 }, guest.dice());
    let report = on_a_pool(guest, |ready| kill(ready, runs, dice))?;
    Ok(report.figure("seed", guest.seed()))
}

fn kill(Ready { host, right, whole }: &Ready<'_>, runs: usize, mut dice: Dice) -> Result<Report> {
    host.remove_all()?;
    let (mut killed, mut operations) = (0, 0);
    while killed < runs {
        let words = words(&mut dice);
        let mut running = host.cmd(&words).spawn()?;
        let part = u32::try_from(dice.roll(1000).pow(2) / 1000)?;
        std::thread::sleep((*whole * part / 1000).max(Duration::from_millis(5)));
        if running.running()? {
            running.kill()?;
            killed += 1;
        }
        operations += 1;
        let ran = running.wait()?;
        let refused = ["fatal: no ", "is taken by", "is in use by its activations", "is making it"];
        let refused = refused.iter().any(|words| ran.stderr.contains(words));
        ensure!(matches!(ran.code, None | Some(0)) || refused, "{ran}");
        host.recover()?;
        host.check()?;
        host.check_trees(right)?;
    }
    Ok(Report::new().figure("kills", killed).figure("operations", operations))
}
