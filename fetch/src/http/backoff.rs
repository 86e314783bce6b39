//! The pauses between the tries of one request. Of nothing but numbers: the simulation of a fleet goes by the same.

use std::time::Duration;

const WAIT_BASE: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Full jitter: anything up to a doubling limit, so that many clients spread
/// ("Exponential Backoff And Jitter", AWS Architecture Blog). `dice` is a random number.
pub(crate) fn backoff(tries: u32, dice: u64) -> Duration {
    let limit = WAIT_BASE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(WAIT_MAX);
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(dice % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        for dice in [0, 1, 12_345, u64::MAX] {
            assert!(backoff(1, dice) <= Duration::from_millis(100));
            assert!(backoff(4, dice) <= Duration::from_millis(800));
            assert!(backoff(40, dice) <= WAIT_MAX);
        }
        assert_eq!(backoff(3, 400), Duration::from_millis(400));
    }
}
