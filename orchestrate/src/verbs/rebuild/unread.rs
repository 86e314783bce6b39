//! What of a store could not be read.

use registry::VolumeId;
use serde::Serialize;

/// A volume that did not let itself be read, or put away, or does not say what it should.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    /// The volume.
    pub volume: VolumeId,
    /// The activation that it is, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl Unread {
    pub(crate) fn of(volume: VolumeId, why: impl Into<String>) -> Unread {
        Unread { volume, name: None, why: why.into() }
    }
}
