//! A snapshot that is to be made. Pure.

use registry::VolumeId;

/// A volume that is to be made as a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// What it will be.
    pub id: VolumeId,
    /// What it is a snapshot of.
    pub origin: VolumeId,
}
