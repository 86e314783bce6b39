//! Every scenario, in the order of a whole run.

use crate::scenario::Scenario;

pub mod activate;
pub mod boot;
pub mod by_hand;
pub mod killed;
pub mod oracle;
pub mod pool;
pub mod reboot;
pub mod refuse;
pub mod s3;

/// All scenarios. A new one is a file, a `pub mod` line above, and a line here.
pub const ALL: &[Scenario] =
    &[boot::SCENARIO, pool::SCENARIO, s3::SCENARIO, oracle::SCENARIO, reboot::SCENARIO,
    activate::SCENARIO, killed::SCENARIO, refuse::SCENARIO, by_hand::SCENARIO];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
