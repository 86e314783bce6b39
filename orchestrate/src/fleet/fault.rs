//! What is wrong with a document, all of it in one go: each fault with its place.

use std::fmt;

use serde::Serialize;

/// Faults that are told one by one; beyond these they are counted.
const FAULTS_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where: `images.golang.rollout.percent`; `document` for the whole.
    pub place: String,
    /// What, with the value and the limit.
    pub why: String,
}

/// All that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// The first hundred, in the document's order of checks.
    pub faults: Vec<Fault>,
    /// How many there are besides.
    pub more: usize,
}

impl Faults {
    /// One more.
    pub(super) fn put(&mut self, place: &str, why: impl Into<String>) {
        match self.faults.len() < FAULTS_MAX {
            true => self.faults.push(Fault { place: place.into(), why: why.into() }),
            false => self.more += 1,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
