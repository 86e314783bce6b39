//! A scenario's first stage, with what the environment says of it; and power cuts, how many, and when. A
//! cut is the end of the QEMU process; what its disks then keep is in `qemu.rs`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::protocol::{Ended, Figures, Outcome, Stage};
use crate::scenario::Scenario;

/// A number of the environment, such as a seed.
fn given<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).with_context(|| format!("{name}={} is no number", text.display()))
}

/// A scenario's first boot.
///
/// # Errors
/// A variable that a number is taken from has none.
pub fn first_stage(scenario: &Scenario, long: bool) -> Result<Stage> {
    let asked = scenario.needs.power_cuts.map(|cuts| if long { cuts.soak } else { cuts.count });
    let power_cuts = match asked {
        Some(asked) => given("VENEER_POWER_CUTS")?.unwrap_or(asked),
        None => 0,
    };
    let seed = given("VENEER_SEED")?.unwrap_or(1);
    let mut numbers = BTreeMap::new();
    for name in scenario.needs.numbers {
        if let Some(number) = given(name)? {
            numbers.insert((*name).to_owned(), number);
        }
    }
    let name = scenario.name.to_owned();
    Ok(Stage { name, phase: 0, power_cuts, long, seed, given: numbers })
}

/// When to cut after the guest has armed; `None` when this phase is to live.
#[must_use]
pub fn moment(stage: &Stage) -> Option<Duration> {
    if stage.phase >= stage.power_cuts {
        return None;
    }
    let cuts = crate::scenarios::find(&stage.name)?.needs.power_cuts?;
    let millis = roll(stage) % u64::from(cuts.within_ms.max(1));
    Some(Duration::from_millis(millis))
}

/// The seed's number for this phase (splitmix64).
#[must_use]
pub fn roll(stage: &Stage) -> u64 {
    let seed = u64::from(stage.seed) << 32 | u64::from(stage.phase);
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What stands for the report that a phase could not make any more.
#[must_use]
pub fn ended(stage: Stage, took: Duration) -> Ended {
    Ended {
        outcome: Outcome::Reboot,
        stage,
        seconds: took.as_secs_f64(),
        figures: Figures::new(),
        output: String::new(),
        kernel_log: Vec::new(),
        dirty: true,
    }
}
