//! What a store can do so that disks travel: tell where two differ, have one read that nobody writes to, and have one
//! written that is nobody's yet.

use registry::VolumeId;

use crate::error::Error;

/// A store whose disks can travel, block by block.
pub trait Travels {
    /// Bytes of a block.
    fn travel_block(&self) -> u64;

    /// Where the disk `right` differs from `left`, from the block `from` on, in at most `most` stretches; without a
    /// `left`, all blocks that `right` has.
    ///
    /// # Errors
    /// [`Error::Lost`] where the store has not one of them.
    fn delta(
        &self,
        left: Option<VolumeId>,
        right: VolumeId,
        from: u64,
        most: usize,
    ) -> Result<thin::Delta, Error>;

    /// Opens a disk that nobody writes to.
    fn open_still(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn Blocks>, Error>;

    /// Makes `id` a disk without a block.
    ///
    /// # Errors
    /// [`Error::NotOurs`] where the store has this id.
    fn make_empty(&self, id: VolumeId) -> Result<(), Error>;

    /// Opens a disk that is nobody's yet, to be written to.
    fn open_arriving(&self, id: VolumeId, bytes: u64) -> Result<Box<dyn Blocks>, Error>;

    /// That so many bytes more may be written.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    fn has_room(&self, bytes: u64) -> Result<(), Error>;
}

/// A disk that is open, block by block.
pub trait Blocks {
    /// Fills `into` with the block of this number; `into` is one block.
    fn read(&mut self, block: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Writes the block of this number.
    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Has so many blocks read as zeros, and take no room where the store can do that.
    fn zero(&mut self, begin: u64, blocks: u64) -> Result<(), Error>;

    /// Has on disk what was written.
    fn sync(&mut self) -> Result<(), Error>;

    /// Takes the device away that it was opened through.
    fn close(self: Box<Self>) -> Result<(), Error>;
}
