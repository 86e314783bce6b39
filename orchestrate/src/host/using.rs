//! What a run counts on while no row of its own says so: from one step of a build to the next it holds
//! the images' lock, shared, and never while it waits for a network, another build, or a scanner. While a
//! layer arrives, the row of its volume keeps what is below; whoever lets go looks again.

use registry::{Volume, VolumeId, VolumeState};

use crate::error::Error;
use crate::host::Host;
use crate::host::reach::Reach;

impl Host {
    /// A run that needs more than it may is put by, for who may.
    ///
    /// # Errors
    /// [`Error::NotHere`], which tells nobody: the run has not ended.
    pub(crate) fn may_reach(&mut self, most: Reach, what: &str) -> Result<(), Error> {
        let needs_more = match (self.reach, most) {
            (Reach::Fetching, _) | (Reach::Listing, Reach::Listing | Reach::Here) => false,
            (Reach::Here, Reach::Here) => false,
            (Reach::Here | Reach::Listing, _) => true,
        };
        if needs_more {
            self.put_by = true;
            return Err(Error::NotHere { image: what.into() });
        }
        Ok(())
    }

    /// Until it lets go, nothing is removed that this run has found.
    pub(crate) fn use_images(&mut self) -> Result<(), Error> {
        if self.using.is_none() {
            self.using = Some(self.locks.images_shared()?);
        }
        Ok(())
    }

    /// Whoever removes has its turn.
    pub(crate) fn let_images_go(&mut self) {
        self.using = None;
    }

    /// A volume that was found sealed, if it is still.
    ///
    /// # Errors
    /// [`Error::Lost`] where it was removed meanwhile: who needs it has it built anew.
    pub(crate) fn still_sealed(&self, id: VolumeId) -> Result<Volume, Error> {
        let row = self.registry.volume(id)?;
        let sealed = row.filter(|row| matches!(row.state, VolumeState::Sealed(_)));
        sealed.ok_or(Error::Lost { volume: id })
    }
}
