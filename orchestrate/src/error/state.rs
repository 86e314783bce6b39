//! What can be wrong with the state directory itself: its registry's file was replaced under a command, an
//! older program is at work in it, or it is full.

use std::fmt;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::class::Class;

/// What is wrong with the state directory.
#[derive(Debug)]
pub enum OfState {
    /// The registry's file is not the one that was opened.
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// A daemon has the registry open that is older than this program.
    OlderDaemon {
        /// The file.
        path: PathBuf,
        /// The schema that it knows.
        found: i64,
        /// Who it is, as far as it said.
        holder: String,
    },
    /// Its file system has no room.
    Full {
        /// The directory.
        path: PathBuf,
        /// What there is none of.
        what: &'static str,
        /// Whether there are bytes that are kept back for what makes room.
        kept: bool,
        /// What failed by it.
        source: Box<Error>,
    },
}

impl OfState {
    /// What it means for whoever asked.
    pub(super) fn class(&self) -> Class {
        match self {
            OfState::Replaced { .. } | OfState::OlderDaemon { .. } => Class::Temporary,
            OfState::Full { .. } => Class::NoSpace,
        }
    }

    /// What is behind it.
    pub(super) fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OfState::Replaced { .. } | OfState::OlderDaemon { .. } => None,
            OfState::Full { source, .. } => Some(source),
        }
    }
}

impl fmt::Display for OfState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OfState::Replaced { path } => write!(
                f,
                "{} was replaced while this command was at work; nothing more was done. Try again",
                path.display()
            ),
            OfState::OlderDaemon { path, found, holder } => write!(
                f,
                "an older daemon runs ({holder}) with {} at schema {found}, which this program would \
                 change under it: restart it with this program, then try again",
                path.display()
            ),
            OfState::Full { path, what, kept: false, .. } => write!(
                f,
                "the state directory is full: the file system of {} has no {what} left, and what is kept back \
                 for `orchestrate rm` and `orchestrate gc` is in use or used up. Delete something else there, \
                 or make that file system larger; then try again",
                path.display()
            ),
            OfState::Full { path, what, .. } => write!(
                f,
                "the state directory is full: the file system of {} has no {what} left. Make room there, \
                 or `orchestrate rm` and `orchestrate gc`, for which some is kept back; then try again",
                path.display()
            ),
        }
    }
}

impl From<OfState> for Error {
    fn from(state: OfState) -> Error {
        Error::State(state)
    }
}
