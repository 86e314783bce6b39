//! Single values as text.

use std::fmt::Write as _;

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

/// As it is where nothing in it acts on a terminal, so that it can be typed again: a backslash and quotes are
/// part of a name. Else escaped as a whole, so that it cannot be taken for another.
pub(crate) fn safe(text: &str) -> String {
    let plain = |c: char| matches!(c, '\'' | '"' | '\\') || c.escape_debug().len() == 1;
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => text.escape_debug().to_string(),
    }
}

pub(crate) fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes everything");
}

pub(crate) const MIB: f64 = 1024.0 * 1024.0;
