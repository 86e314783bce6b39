//! What can be wrong with the state directory itself: its registry's file was replaced under a command, an
//! older program is at work in it, or it is full.

use std::fmt;

use crate::error::OfState;
use crate::error::class::Class;

impl OfState {
    /// What it means for whoever asked.
    pub(crate) fn class(&self) -> Class {
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
