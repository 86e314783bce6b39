//! Volumes that could not be looked at, and what that means for whoever wanted to know of them.

use std::fmt;

use crate::error::class::Class;

/// What kept sealed volumes from being looked at, though nothing is known to be wrong with them.
#[derive(Debug)]
pub struct Unseen {
    /// How many.
    pub volumes: usize,
    /// What was in the way of it.
    pub class: Class,
    /// That in words, of one of them.
    pub why: String,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = match self.class.may_retry() {
            true => "try again later",
            false => "repair that, then run `orchestrate verify` again",
        };
        write!(
            f,
            "{} volumes could not be looked at, and nothing is known of them: {}; {then}",
            self.volumes,
            self.why.escape_debug()
        )
    }
}
