//! Frees I/O that is stuck on a volume: writers of a full pool in queue mode sit in the kernel,
//! and neither they nor an unmount can be killed.
//!
//! The order matters: an `error` table is loaded, the device suspended without waiting for its
//! I/O and without freezing its file system, and resumed. What was queued then ends in EIO, and
//! the device can be closed and removed in the ordinary way. The pool is not touched.
//!
//! It is told of other systems that cleaning up at once after a failure hangs the kernel. In the test VM
//! (6.1.192) a snapshot that was made, written until ENOSPC, closed, removed and deleted with no pause in
//! between left nothing stuck and no word in the kernel log, 1,000 times of 1,000, also on a host so busy
//! that a round took over a second (`thin_stuck`). What does hang for ever is I/O on a pool in queue
//! mode, and it is freed in this order, not by a kill or a timeout.

use serde::Serialize;

use crate::error::Error;
use crate::format::units::ThinId;
use crate::format::wire::Target;
use crate::kernel::dm::By;
use crate::pool::Pool;
use crate::pool::volume::ActiveThin;

/// A volume that now answers every request with an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Freed {
    /// The device.
    pub name: String,
    /// Its thin. What it held is still in the pool.
    pub id: ThinId,
}

impl Pool {
    /// Makes every request to the volume fail, those already queued among them. What the pool
    /// holds of it stays; deactivate it and activate it again to use it.
    ///
    /// # Errors
    /// [`Error::VolumeAbsent`]; [`Error::NotOurs`]; those of the commands.
    pub fn rescue(&self, name: &str) -> Result<Freed, Error> {
        let volume = self.volume(name)?;
        let uuid = self.thin_uuid(volume.id);
        let by = By::Uuid(&uuid);
        // Zero-length when it never had a table: then nothing can be queued on it either.
        let sectors = volume.sectors.0.max(1);
        self.dm.load(by, &[Target::whole(sectors, "error", "")], false)?;
        let suspended = self.dm.suspend(by, true);
        // A resume swaps the tables even where the suspend failed, and must always be tried.
        self.dm.resume(by)?;
        suspended?;
        Ok(Freed { name: volume.name, id: volume.id })
    }

    /// [`Pool::rescue`] of every open volume of the pool.
    ///
    /// # Errors
    /// The first failure, after all have been tried.
    pub fn rescue_all(&self) -> Result<Vec<Freed>, Error> {
        let open = |thin: &ActiveThin| thin.open_count > 0 || thin.suspended;
        let tried: Vec<_> =
            self.active()?.iter().filter(|thin| open(thin)).map(|t| self.rescue(&t.name)).collect();
        tried.into_iter().collect()
    }
}
