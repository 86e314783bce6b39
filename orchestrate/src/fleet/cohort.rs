//! Which hosts a roll-out has come to, and when a host begins: by digests of names, so that every host works out
//! the same without asking anybody. Pure.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::fleet::document::{By, PARTS, Rollout, Where};
use crate::fleet::member::Me;
use crate::fleet::why::Why;

/// The first 8 bytes, big-endian, of the sha256 of these words with a NUL between them.
fn number(words: &[&str]) -> u64 {
    let digest = Sha256::digest(words.join("\0"));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// Which part of the whole a host or a site is in, 0 to 9,999: it is in a roll-out of more than that many parts.
pub fn bucket(salt: &str, id: &str) -> u64 {
    number(&[salt, id]) % PARTS
}

/// When within a period a host asks.
pub fn phase(host: &str, period: Duration) -> Duration {
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(number(&["phase", host]) % period_ms)
}

/// How long after a document came a host begins with what is new in it.
pub fn spread(host: &str, serial: u64, spread_s: u64) -> Duration {
    let all_ms = spread_s.saturating_mul(1000).max(1);
    Duration::from_millis(number(&["spread", host, &serial.to_string()]) % all_ms)
}

/// Chance that is the same each time the same is asked: a pause that was drawn is not drawn again by who looks
/// again. Two processes have different seeds.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// In 0.0..1.0, of these words.
    pub fn share(self, words: &[&str]) -> f64 {
        let seed = self.0.to_string();
        let mut all = vec!["dice", &seed];
        all.extend(words);
        // 32 bits: exact in a float.
        let high = u32::try_from(number(&all) >> 32).unwrap_or(0);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Why an entry is not for this host at all; none where it is.
pub(super) fn elsewhere(only: &Where, me: &Me) -> Option<Why> {
    if let Some(sites) = &only.site {
        match &me.site {
            None => return Some(Why::NoSite),
            Some(site) if !sites.contains(site) => return Some(Why::OtherSite(site.clone())),
            Some(_) => {}
        }
    }
    let missing = only
        .labels
        .iter()
        .find(|(label, values)| me.labels.get(*label).is_none_or(|value| !values.contains(value)));
    missing.map(|(label, _)| Why::Label(label.clone()))
}

/// Whether the roll-out has come to this host; why not.
pub(super) fn reached(rollout: &Rollout, me: &Me) -> Result<(), Why> {
    let id = match rollout.by {
        By::Host => &me.host,
        // Without a site there is nothing to choose by, however large the part is.
        By::Site => me.site.as_ref().ok_or(Why::NoSite)?,
    };
    let bucket = bucket(&rollout.salt, id);
    match bucket < rollout.parts {
        true => Ok(()),
        false => Err(Why::Later { bucket, parts: rollout.parts }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any implementation has to come to the same: `printf 'salt\0host-1' | sha256sum`.
    #[test]
    fn the_bucket_is_what_the_documentation_says() {
        let digest = Sha256::digest(b"golang-7\0host-1");
        let first = u64::from_be_bytes(digest[..8].try_into().unwrap());
        assert_eq!((bucket("golang-7", "host-1"), first % 10_000), (1954, 1954));
        assert_eq!((bucket("a", "h"), bucket("b", "h")), (9971, 1490));
    }

    #[test]
    fn a_percent_of_hosts_is_about_that_many_of_them() {
        let inside = |parts: u64| {
            let of = |n: &u64| bucket("s", &format!("host-{n}")) < parts;
            (0..10_000).filter(of).count()
        };
        assert_eq!((inside(0), inside(10_000)), (0, 10_000));
        for (parts, wanted) in [(100, 100), (1000, 1000), (5000, 5000)] {
            let found = inside(parts);
            assert!(found.abs_diff(wanted) < wanted / 4 + 100, "{parts}: {found}");
        }
    }

    #[test]
    fn moments_are_within_their_period_and_apart() {
        let period = Duration::from_secs(30);
        let all: Vec<Duration> = (0..100).map(|n| phase(&format!("h{n}"), period)).collect();
        assert!(all.iter().all(|at| *at < period));
        assert!(all.iter().max().unwrap().saturating_sub(*all.iter().min().unwrap()) > period / 2);
        assert_eq!(spread("h", 7, 0), Duration::ZERO);
        assert!(spread("h", 7, 300) < Duration::from_secs(300));
        assert_ne!(spread("h", 7, 300), spread("h", 8, 300));
        let dice = Dice(7);
        assert_eq!(dice.share(&["a"]).to_bits(), dice.share(&["a"]).to_bits());
        assert!((0..1000).all(|n: u32| (0.0..1.0).contains(&dice.share(&[&n.to_string()]))));
    }
}
