//! Numbers in headers and extensions.

use crate::archive::header::out_of_range;
use crate::error::refusal::{Class, Refusal};

pub(crate) fn decimal(value: &[u8], what: &'static str, max: u64) -> Result<u64, Refusal> {
    let mut acc = 0u64;
    for &b in value {
        if !b.is_ascii_digit() {
            return Err(Refusal::new(Class::Number, "PAX number is not digits").bytes(value));
        }
        acc = acc
            .checked_mul(10)
            .and_then(|acc| acc.checked_add(u64::from(b - b'0')))
            .ok_or_else(|| Refusal::new(Class::Number, "PAX number overflows").bytes(value))?;
    }
    if acc > max { Err(out_of_range(what, acc)) } else { Ok(acc) }
}
