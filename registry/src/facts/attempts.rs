//! How often builds were begun without an end: when that no longer counts. It is counted where an id is
//! reserved ([`Write::reserve_volume`]).

use crate::error::Error;
use crate::write::Write;

impl Write<'_> {
    /// A build came to an orderly end without a seal: it does not count as a crash.
    pub fn settle_attempt(&self, build: &str) -> Result<(), Error> {
        self.run("DELETE FROM attempts WHERE build = ?1", [build]).map(drop)
    }

    /// Builds whose names begin so can never be begun again, since what they build on goes.
    pub fn settle_attempts_named(&self, start: &str) -> Result<(), Error> {
        let sql = "DELETE FROM attempts WHERE substr(build, 1, length(?1)) = ?1";
        self.run(sql, [start]).map(drop)
    }

    /// Forgets all attempts: an operator looked into it.
    pub fn settle_attempts(&self) -> Result<(), Error> {
        self.run("DELETE FROM attempts", []).map(drop)
    }
}
