//! What the daemon takes on: everything, nothing new, or nothing at all. Pure.

use serde::{Deserialize, Serialize};

/// What the daemon takes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything.
    #[default]
    Normal,
    /// What waits is done; nothing new is taken.
    Drain,
    /// Only questions are answered: the host is sick, or somebody wants it left alone.
    Rescue,
}

impl Mode {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Normal => "normal",
            Mode::Drain => "drain",
            Mode::Rescue => "rescue",
        }
    }
}

/// What somebody asked for, and what the host can.
#[derive(Clone, Debug, Default)]
pub(super) struct Modes {
    pub(super) asked: Mode,
    pub(super) sick: Option<String>,
}

impl Modes {
    /// Sickness goes before wishes.
    pub(super) fn now(&self) -> Mode {
        match (&self.sick, self.asked) {
            (Some(_), _) => Mode::Rescue,
            (None, asked) => asked,
        }
    }

    /// Why it is not `normal`.
    pub(super) fn why(&self) -> Option<String> {
        match (&self.sick, self.asked) {
            (Some(sick), _) => Some(sick.clone()),
            (None, Mode::Normal) => None,
            (None, Mode::Drain | Mode::Rescue) => Some("somebody asked for it".into()),
        }
    }
}
