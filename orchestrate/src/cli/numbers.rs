//! Numbers of the command line, with their units and ranges.

use orchestrate::config::{BYTES_MAX, bytes_rule};

/// Bytes of one thing, with K, M, G or T for powers of 1024 if need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes<const MIN: u64>(pub(crate) u64);

impl<const MIN: u64> std::str::FromStr for Bytes<MIN> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match fetch::parse_bytes(text) {
            Some(bytes) if (MIN..=BYTES_MAX).contains(&bytes) => Ok(Bytes(bytes)),
            _ => Err(bytes_rule(MIN)),
        }
    }
}

/// A number that the registry has given, or can count to.
pub(crate) type Counted<const MIN: u64> = Whole<MIN, { i64::MAX as u64 }>;

/// A whole number of the command line between these, both included. Those of settings are judged with
/// them, wherever they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> std::str::FromStr for Whole<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Whole(number)),
            _ => Err(format!("expected a whole number from {MIN} to {MAX}")),
        }
    }
}
