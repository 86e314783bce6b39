//! Every scenario, in the order of a whole run.

use crate::scenario::Scenario;

pub mod boot;
pub mod s3;

/// All scenarios. A new one is a file, a `pub mod` line above, and a line here.
pub const ALL: &[Scenario] = &[boot::SCENARIO, s3::SCENARIO];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
