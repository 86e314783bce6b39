//! Values of settings as text has them: times, sizes, numbers, yes and no.

use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;

/// Seconds, with a fraction if need be; zero would mean "never wait" and is refused.
pub(crate) fn parse_seconds(name: &'static str, text: &str) -> Result<Duration, Error> {
    let bad = |why| Error::Setting { name, value: text.to_owned(), why };
    let seconds: f64 = text.parse().map_err(|_| bad("expected seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(bad("expected seconds, more than 0")),
    }
}

pub(crate) fn parse_switch(name: &'static str, text: &str) -> Result<bool, Error> {
    match text {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(Error::Setting { name, value: text.to_owned(), why: "expected yes or no" }),
    }
}

/// Bytes: a whole number, with K, M, G or T for powers of 1024 if need be.
pub(crate) fn parse_bytes(name: &'static str, text: &str) -> Result<u64, Error> {
    let why = "expected bytes: a whole number, with K, M, G or T for powers of 1024 if need be, below 16 EiB";
    bytes(text).ok_or_else(|| Error::Setting { name, value: text.to_owned(), why })
}

/// Bytes from text: a whole number, with K, M, G or T for powers of 1024 if need be. None where it is no such number.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[digits..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(crate) fn parse_number<T: FromStr + Default + PartialEq>(
    name: &'static str,
    text: &str,
) -> Result<T, Error> {
    let why = "expected a whole number, more than 0";
    let bad = || Error::Setting { name, value: text.to_owned(), why };
    text.parse().ok().filter(|n| *n != T::default()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_1024() {
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("64K"), Some(65536));
        assert_eq!(bytes("20G"), Some(20 << 30));
        assert_eq!(bytes("16777215T"), Some(16_777_215 << 40));
        for wrong in
            ["", "G", "20g", "1.5G", "20GB", "-1", "+1", " 1", "16777216T", "99999999999999999999"]
        {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
