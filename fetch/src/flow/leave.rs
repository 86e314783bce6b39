//! How long a source that is away is waited for before the origin is asked. Pure; the simulation of a fleet compiles it.
//!
//! What a host reads of the origin meanwhile it reads in vain, and so do all the others of its site: no host knows of
//! them. So nobody goes for the whole time that was set, and then most go late.

use std::time::Duration;

/// So many draws are made, and the latest counts: of many hosts few go early, and they go one after the other.
const DRAWS: usize = 4;

/// From when a source was found to be away: at least this time, and at most twice as long.
pub(crate) fn wait(time: Duration, mut dice: impl FnMut() -> u64) -> Duration {
    let latest = (0..DRAWS).map(|_| dice() % 1024).max().unwrap_or(0);
    time + time.mul_f64(latest as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_before_the_time_is_over_and_all_before_twice_that() {
        let time = Duration::from_secs(60);
        assert_eq!(wait(time, || 0), time);
        let mut seed = 1_u64;
        let mut dice = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed >> 20
        };
        let mut waits: Vec<Duration> = (0..1000).map(|_| wait(time, &mut dice)).collect();
        waits.sort_unstable();
        assert!(waits[0] >= time && waits[999] < time * 2);
        // A sixteenth of them goes in the first half.
        let early = waits.iter().filter(|wait| **wait < time * 3 / 2).count();
        assert!((40..=90).contains(&early), "{early}");
    }
}
