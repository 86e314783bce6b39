//! A document that nobody gives: who was asked for it, and what each of them said.

use std::fmt;

use crate::error::Error;

/// A signed catalog that neither a source nor the bucket gives.
#[derive(Debug)]
pub struct Unheard {
    /// Where it is.
    pub url: String,
    /// The sources that were asked, and what came of it.
    pub others: Vec<(String, String)>,
    /// What came of asking the bucket.
    pub source: Box<Error>,
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the catalog {} is not to be had", self.url.escape_debug())?;
        for (source, why) in &self.others {
            write!(f, "; from source {source}: {why}")?;
        }
        if self.others.is_empty() {
            write!(f, "; no source could be asked")?;
        }
        write!(f, "; from the bucket: {}", self.source)
    }
}
