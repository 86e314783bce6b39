//! What a store can do with the disks of activations while they are used, where activations have disks.

use registry::VolumeId;

use crate::error::Error;
use crate::plan::disks::DiskUse;
use crate::store::snapshot::Snapshot;
use crate::store::travel::Travels;

/// A store whose activations are block devices.
pub trait Disks {
    /// How its disks travel.
    fn travels(&self) -> &dyn Travels;

    /// Who uses the disk `id`.
    fn disk_use(&self, id: VolumeId) -> Result<DiskUse, Error>;

    /// Writes out what the kernel has of the disk `id`, so that little is left to be done while it stands still.
    fn write_out(&self, id: VolumeId) -> Result<(), Error>;

    /// Makes a snapshot of the disk `origin`, whoever uses that: it stands still for the moment, and runs again
    /// whatever fails.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where the store has this id: nothing is changed then. [`Error::Lost`] where
    /// it has no `origin`.
    fn snapshot_live(&self, snapshot: Snapshot) -> Result<(), Error>;

    /// Makes the device of `id` so many bytes long, live, unless it is longer.
    ///
    /// # Errors
    /// [`Error::LookedAt`] where the device refuses writes.
    fn lengthen(&self, id: VolumeId, bytes: u64) -> Result<(), Error>;

    /// Grows the file system of the disk `id` to so many bytes where this kernel has it mounted; why not, where it
    /// cannot. Nothing is mounted for it.
    fn grow_mounted(&self, id: VolumeId, bytes: u64) -> Result<Option<String>, Error>;

    /// Has every device of this store run again that a killed process has suspended, and gives each its nodes that one
    /// had not made yet; in words, what was done. The caller holds the store's lock, which whoever suspends or
    /// activates one holds.
    fn resume_suspended(&self) -> Result<Vec<String>, Error>;
}
