//! What the store has mapped.

use registry::VolumeId;

use crate::plan::Mapping;

/// One device or tree that is mapped under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The name; for a volume at work a name that no activation can have.
    pub name: String,
    /// The volume.
    pub id: VolumeId,
    /// Usable, or half made.
    pub mapping: Mapping,
    /// Bytes of its device; 0 where there is none or its size was not asked.
    pub bytes: u64,
}
