//! Transaction numbers: the epoch of their owner in the upper half, the commits of it in the lower.

use crate::error::Error;
use crate::error::refusal::{Refusal, epoch};

/// The transaction id with which a store is moved to the epoch after this one.
///
/// # Errors
/// [`Error::Usage`] where the registry could not count so far (its numbers are signed).
pub(crate) fn next_epoch(transaction: u64) -> Result<u64, Error> {
    let next = epoch(transaction) + 1;
    if next >= 1 << 31 {
        let text =
            format!("transaction id {transaction}: there is no later epoch to take it over to");
        return Err(Error::Usage(text));
    }
    Ok(next << 32 | transaction & u64::from(u32::MAX))
}

/// Registry and store are out of step: another has taken the store over, or one of them is
/// of another day.
pub(crate) fn apart(registry: u64, store: u64) -> Error {
    match epoch(store) > epoch(registry) {
        true => Refusal::TakenOver { registry, store }.into(),
        false => Error::Fence { registry, store },
    }
}
