//! Formats, pure: text in, values or a refusal out. No clock, no file, no socket.

pub(crate) mod base64;
pub(crate) mod date;
pub(crate) mod digest;
#[cfg(test)]
mod fuzz;
pub(crate) mod quote;
pub(crate) mod range;
pub(crate) mod warning;
pub(crate) mod words;
pub(crate) mod xml;
