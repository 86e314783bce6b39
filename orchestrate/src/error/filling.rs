//! Work on an image that a pool which fills up does not let begin, or go on.

use std::fmt;

/// What is not done for want of room that is kept for activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// What is not done.
    pub what: String,
    /// How full the pool is, and which setting it has reached.
    pub why: String,
    /// How long it was waited for room, seconds; none where it was not begun.
    pub waited_s: Option<u64>,
    /// Bytes that a collection would free, where that was looked at.
    pub garbage: Option<u64>,
}

impl fmt::Display for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filling { what, why, waited_s, garbage } = self;
        match waited_s {
            None => write!(f, "{} is not begun: {why}", what.escape_debug())?,
            Some(seconds) => write!(
                f,
                "{} is given up for now after {seconds} s without room (pool.pause_s): {why}",
                what.escape_debug()
            )?,
        }
        f.write_str(", so that the rest is left to activations; ")?;
        if let Some(bytes) = garbage.filter(|bytes| *bytes > 0) {
            write!(f, "`orchestrate gc` would free {bytes} bytes, else ")?;
        }
        f.write_str(
            "`orchestrate rm` an image or an activation, or grow the pool (`thin pool grow`)",
        )
    }
}
