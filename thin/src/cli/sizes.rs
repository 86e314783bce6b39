//! The sizes on the command line, which are judged before anything is opened.

use std::str::FromStr;

use thin::{Garbled, Sectors, parse_bytes, parse_length};

/// Bytes, read by [`parse_bytes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = Garbled;

    fn from_str(text: &str) -> Result<Size, Garbled> {
        parse_bytes(text).map(Size)
    }
}

/// A device's length, read by [`parse_length`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length(pub(crate) Sectors);

impl FromStr for Length {
    type Err = Garbled;

    fn from_str(text: &str) -> Result<Length, Garbled> {
        parse_length(text).map(Length)
    }
}
