//! A line of the AWS tools' shared files that cannot be read, as data.

use std::path::PathBuf;

/// What a shared file says that cannot be done as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The key, or the section.
    pub key: String,
    /// Why not, and what helps.
    pub why: String,
}
