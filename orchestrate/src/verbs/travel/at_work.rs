//! By which lock it is known that a living process sends or receives.

use registry::VolumeId;

/// Held by who receives a disk as the activation `name`.
pub(crate) fn arriving(name: &str) -> String {
    format!("arrival {name}")
}

/// Held by who sends the volume `id`.
pub(crate) fn sending(id: VolumeId) -> String {
    format!("sending {id}")
}
