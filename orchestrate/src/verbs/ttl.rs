//! `ttl`: for how long an activation is kept; and what goes when its time has ended.
//!
//! The time counts from when the activation came up for the first time, or was given another. It goes by the wall
//! clock, and counts anew after that was set (`registry/src/past/ttl.rs`). What somebody uses never goes by it.

use std::str::FromStr;

use registry::{Activation, Clock};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::quote::quoted;
use crate::host::Host;
use crate::plan::Wish;
use crate::verbs::activate::is_told;
use crate::verbs::history::moment;

/// The longest time, seconds: ten years.
pub(crate) const TTL_MAX: u64 = 3650 * 86_400;

/// A time as it is typed: a number with `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
        let read = units.into_iter().find_map(|(unit, seconds)| {
            let digits = text.strip_suffix(unit)?;
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(seconds)
        });
        match read.filter(|seconds| (1..=TTL_MAX).contains(seconds)) {
            Some(seconds) => Ok(Time(seconds)),
            None => Err(format!(
                "{}: expected a time from 1s to 3650d, a whole number with s, m, h or d, such as 2h",
                quoted(text)
            )),
        }
    }
}

/// Whether a time that came from elsewhere is one.
///
/// # Errors
/// [`Error::Usage`].
pub(crate) fn check_ttl(seconds: Option<u64>) -> Result<(), Error> {
    match seconds.filter(|seconds| !(1..=TTL_MAX).contains(seconds)) {
        None => Ok(()),
        Some(seconds) => {
            Err(Error::Usage(format!("ttl {seconds} s: expected 1 to {TTL_MAX} seconds")))
        }
    }
}

/// What `ttl` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// The activation's name.
    pub name: String,
    /// For how long it is kept from now on, seconds; none: until somebody removes it.
    pub ttl_s: Option<u64>,
    /// When that ends: wall clock, milliseconds since 1970 UTC.
    pub ends_ms: Option<i64>,
}

/// An activation whose time has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// Why it is still there; none: it was removed, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
}

impl Host {
    /// Has the activation `name` be kept for so long from now on; none: until somebody removes it.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Usage`] for no time.
    pub fn set_ttl(&mut self, name: &str, seconds: Option<u64>) -> Result<Timed, Error> {
        check_ttl(seconds)?;
        let _mine = self.locks.activation(name)?;
        if self.registry.activation(name)?.is_none_or(|row| !is_told(&row)) {
            return Err(self.unknown("activation", name));
        }
        if seconds.is_some() {
            crate::process::reserve::spare(&self.settings.state)?;
        }
        let now = moment()?;
        self.commit_told(|write| {
            write.person_has(name)?;
            write.put_ttl(name, seconds, &now)
        })?;
        let row = self.registry.activation(name)?;
        let clock = self.registry.clock_at(&now)?;
        let ends_ms = row.and_then(|row| row.ttl).map(|ttl| clock.end_of(&ttl));
        Ok(Timed { name: name.into(), ttl_s: seconds, ends_ms })
    }

    /// What is known of the clock now, for who tells when times end.
    pub(crate) fn clock(&self) -> Result<Clock, Error> {
        Ok(self.registry.clock_at(&moment()?)?)
    }

    /// Removes the activations whose time has ended and that nobody uses. One that cannot be removed stops no other.
    ///
    /// # Errors
    /// Those of the registry; [`Error::Cancelled`].
    pub(crate) fn end_ttls(&mut self, dry_run: bool) -> Result<Vec<Ended>, Error> {
        if !self.registry.has_ttls()? {
            return Ok(Vec::new());
        }
        let now = moment()?;
        let clock = self.registry.clock_at(&now)?;
        let mut over = self.registry.activations()?;
        over.retain(|row| is_over(row, &clock));
        if !dry_run && !over.is_empty() {
            // What it is decided by is remembered.
            self.registry.watch_clock(&now)?;
        }
        let mut all = Vec::new();
        for row in over {
            self.settings.cancel.check()?;
            let ended = match self.end_one(&row.name, &clock, dry_run) {
                Ok(None) => continue,
                Ok(Some(ended)) => ended,
                Err(error @ Error::Cancelled { .. }) => return Err(error),
                Err(error) => {
                    Ended { name: row.name, stays: Some(crate::error::leaves::whole(&error)) }
                }
            };
            all.push(ended);
        }
        Ok(all)
    }

    /// One of them; none where it is not over any more, or somebody is at work on it.
    fn end_one(
        &mut self,
        name: &str,
        clock: &Clock,
        dry_run: bool,
    ) -> Result<Option<Ended>, Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(None) };
        let Some(row) = self.registry.activation(name)? else { return Ok(None) };
        if !is_over(&row, clock) {
            return Ok(None);
        }
        if let Some(by) = self.in_use(&row)? {
            return Ok(Some(Ended { name: name.into(), stays: Some(by) }));
        }
        self.leaves_no_node(name)?;
        if !dry_run {
            let subject = format!("activation {name}");
            self.registry.write(|write| write.happened(&subject, "its time has ended"))?;
            self.drive(name, Wish::Gone)?;
            self.drop_points(name)?;
            self.say(1, format_args!("activation {name} is removed: its time has ended"));
        }
        Ok(Some(Ended { name: name.into(), stays: None }))
    }
}

fn is_over(row: &Activation, clock: &Clock) -> bool {
    is_told(row) && row.ttl.is_some_and(|ttl| clock.is_over(&ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_its_unit() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5400), ("2h", 7200), ("3650d", TTL_MAX), ("007s", 7)]
        {
            assert_eq!(text.parse(), Ok(Time(seconds)), "{text}");
        }
        for bad in [
            "",
            "2",
            "h",
            "0s",
            "-1s",
            "+1s",
            "1.5h",
            "3651d",
            "87601h",
            "2 h",
            "1w",
            "99999999999999999999d",
        ] {
            let said = bad.parse::<Time>().unwrap_err();
            assert!(said.contains("1s to 3650d"), "{bad}: {said}");
        }
        assert!(check_ttl(Some(0)).is_err() && check_ttl(Some(TTL_MAX + 1)).is_err());
        assert!(check_ttl(None).is_ok() && check_ttl(Some(TTL_MAX)).is_ok());
    }
}
