//! Random operations of `orchestrate` on a thin pool, killed at random moments: five in every run, 200
//! in the long form. What a killed one leaves the next command mends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::crash_host::{CrashHost, IMAGES, put_images};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "crash_random",
    needs: Needs { timeout_s: 600, soak_timeout_s: Some(2 * 3600), ..Needs::DEFAULT },
    run,
};

const NAMES: [&str; 3] = ["n-1", "n-2", "n-3"];

/// xorshift64*, from `VENEER_SEED`.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Dice {
        let seed = std::env::var("VENEER_SEED").ok().and_then(|text| text.parse().ok());
        Dice(seed.unwrap_or(1_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    pub(crate) fn of(&mut self, choices: &[&'static str]) -> &'static str {
        let at = usize::try_from(self.roll(choices.len() as u64)).unwrap_or_default();
        choices[at]
    }

    /// A random command.
    pub(crate) fn words(&mut self) -> Vec<&'static str> {
        let (image, name) = (self.of(&IMAGES), self.of(&NAMES));
        match self.roll(8) {
            0 => vec!["ensure", image],
            1..=4 => vec!["activate", image, "--name", name],
            5 => vec!["deactivate", name],
            6 => vec!["rm", name],
            _ => vec!["rm", image],
        }
    }
}

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = guest.pool("veneer")?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let pool = scratch.pool();
    let host = CrashHost { state: guest.scratch().join("state"), pool, s3: &s3 };
    let begun = Instant::now();
    for image in IMAGES {
        host.ok(&["ensure", image])?;
    }
    let whole = begun.elapsed();
    let right = host.trees()?;
    ensure!(right.len() == 4, "four layers are distinct: {right:?}");
    host.remove_all()?;
    let runs = if guest.long() { 200 } else { 5 };
    let (mut dice, mut killed, mut operations) = (Dice::new(), 0, 0);
    while killed < runs {
        let words = dice.words();
        let mut running = host.cmd(&words).spawn()?;
        let part = u32::try_from(dice.roll(1000).pow(2) / 1000)?;
        std::thread::sleep((whole * part / 1000).max(Duration::from_millis(5)));
        if running.running()? {
            running.kill()?;
            killed += 1;
        }
        operations += 1;
        let ran = running.wait()?;
        let refused = ran.stderr.contains("fatal: no ") || ran.stderr.contains("is taken by");
        ensure!(matches!(ran.code, None | Some(0)) || refused, "{ran}");
        host.ok(&["recover"])?;
        host.check()?;
        host.check_trees(&right)?;
    }
    host.remove_all()?;
    host.check()?;
    for record in pool.ids()? {
        pool.delete(record.id)?;
    }
    scratch.close()?;
    Ok(Report::new().figure("kills", killed).figure("operations", operations))
}
