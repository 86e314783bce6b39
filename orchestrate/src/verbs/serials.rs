//! The believed serials of catalogs, as the store itself keeps them: a registry that is lost is made again
//! from the store, and whoever answers for the server then must not bring back an old catalog.
//!
//! On a directory store it is a file, replaced by rename. On a pool it is a small volume of its own, with two
//! copies of which the older is written over: torn, the other one still stands. The template's record has the
//! store's key and is never written again for this. Each copy is under an HMAC of that key:
//!
//! ```text
//!   0  16  magic "veneer-serials1\n"
//!  16   4  length of the text, little-endian
//!  20  32  HMAC-SHA256 of magic and text
//!  52      the text, JSON
//! ```

use registry::{CatalogFact, VolumeId};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan::{self, Fence, epoch};
use crate::store::seal::Key;
use crate::store::serials::Serials;

impl Host {
    /// Has the store keep that this catalog is believed; false where there is nothing yet to keep it in.
    ///
    /// # Errors
    /// Those of the store and its lock: then what it kept before stands.
    pub(crate) fn keep_serial(&mut self, fact: &CatalogFact, reset: bool) -> Result<bool, Error> {
        let (Some(key), Some(_)) = (self.registry.seal_key()?, self.registry.template()?) else {
            return Ok(false);
        };
        let key = Key(key.0);
        let known = self.registry.catalog(&fact.url)?;
        if !reset
            && known.is_some_and(|known| known.stored == Some(fact.serial))
            && self.serials_are_there()?
        {
            return Ok(true);
        }
        let _alone = self.locks.store()?;
        let (registry, store) = (self.registry.transaction_id()?, self.store.transaction_id()?);
        if plan::fence(registry, store) == Fence::Apart {
            return Err(epoch::apart(registry, store));
        }
        let volume = match self.store.serials_need_volume() {
            true => Some(self.volume_of_serials()?),
            false => None,
        };
        let found = Serials::newest(&self.store.serials(volume)?, &key, volume);
        let (at, before) = match found {
            Some((at, serials)) => (at + 1, serials),
            None => (0, Serials { volume, ..Serials::default() }),
        };
        if let Some(next) = before.with(fact, reset) {
            self.store.put_serials(volume, at % 2, &next.seal(&key)?)?;
        }
        Ok(true)
    }

    /// Whether nobody has deleted what keeps them.
    fn serials_are_there(&self) -> Result<bool, Error> {
        match (self.registry.serial_volume()?, self.store.serials_need_volume()) {
            (Some(id), true) => self.store.has(id),
            (None, true) => Ok(false),
            (_, false) => Ok(!self.store.serials(None)?.is_empty()),
        }
    }

    /// The volume that keeps them, made where there is none. The caller holds the store's lock.
    fn volume_of_serials(&mut self) -> Result<VolumeId, Error> {
        if let Some(id) = self.registry.serial_volume()? {
            if self.store.has(id)? && !ids::is_theirs(self, id)? {
                return Ok(id);
            }
            self.fenced(|write| write.forget_serial_volume("the store does not have it"))?;
        }
        self.store.admit(1)?;
        let (id, made) = ids::take(self, &New::Serials, |host, id| host.store.make_serials(id))?;
        match made {
            Ok(()) => Ok(id),
            Err(error) => {
                self.store.delete(id)?;
                self.fenced(|write| write.forget_serial_volume("it could not be made"))?;
                Err(error)
            }
        }
    }
}
