//! Disks that arrived in part: taken out by who gives them up, by recovery, and by `gc` when nobody goes on with them.

use std::time::{SystemTime, UNIX_EPOCH};

use registry::{Arrival, ArrivalState, PointState, VolumeId};

use crate::error::Error;
use crate::host::{Host, ids};

impl Host {
    /// Takes out what has arrived. The caller holds the arrival's lock.
    pub(crate) fn drop_arrival(&mut self, row: &Arrival) -> Result<(), Error> {
        let theirs = ids::is_theirs(self, row.id)?;
        let _alone = self.locks.store()?;
        self.registry.write(|write| write.condemn_arrival(row.id))?;
        if !theirs {
            self.store.delete(row.id)?;
        }
        self.fenced(|write| write.forget_arrival(&row.name, row.id))
    }

    /// As [`Host::drop_arrival`], for recovery; false when a living process is at it, or it can be gone on with.
    pub(crate) fn mend_arrival(&mut self, name: &str) -> Result<bool, Error> {
        let Some(_nobody) = self.lock_of_arrival(name)? else { return Ok(false) };
        let Some(row) = self.registry.arrival(name)? else { return Ok(false) };
        match row.state {
            ArrivalState::Arriving => Ok(false),
            ArrivalState::Reserved | ArrivalState::Deleting => {
                self.drop_arrival(&row).map(|()| true)
            }
        }
    }

    /// Takes down the device of a point or an arrival that a killed process has left; false where somebody uses it.
    pub(crate) fn mend_adrift(&mut self, id: VolumeId) -> Result<bool, Error> {
        let arrivals = self.registry.arrivals()?;
        let key = match arrivals.iter().find(|row| row.id == id) {
            Some(row) => crate::verbs::travel::at_work::arriving(&row.name),
            None => crate::verbs::travel::at_work::sending(id),
        };
        let Some(_nobody) = self.locks.try_build(&key)? else { return Ok(false) };
        let is_ours = arrivals.iter().any(|row| row.id == id)
            || self
                .registry
                .points()?
                .iter()
                .any(|point| point.id == id && point.state == PointState::Kept);
        let Some(left) = self.store.mapped_as(id)?.filter(|_| is_ours) else { return Ok(false) };
        if self.store.held(id)?.is_some() || ids::is_theirs(self, id)? {
            return Ok(false);
        }
        self.store.unmap(id, &left.name).map(|()| true)
    }

    /// That nothing arrives under this name, which somebody wants for something else.
    ///
    /// # Errors
    /// [`Error::Taken`].
    pub(crate) fn nothing_arrives(&self, name: &str) -> Result<(), Error> {
        match self.registry.arrival(name)?.filter(|row| row.state == ArrivalState::Arriving) {
            None => Ok(()),
            Some(row) => {
                let by =
                    format!("a disk of {} that arrives by `orchestrate receive`", row.reference);
                Err(Error::Taken { name: name.into(), by })
            }
        }
    }

    /// Takes out what has arrived in part and was not gone on with for the time of the settings. Gives the names.
    pub(crate) fn end_arrivals(&mut self, dry_run: bool) -> Result<Vec<String>, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let keep = self.settings.receive_keep;
        let mut ended = Vec::new();
        for row in self.registry.arrivals()? {
            let at = u64::try_from(row.touched_ms).unwrap_or(0);
            // A clock that went back keeps it.
            let age = now.as_millis().saturating_sub(u128::from(at));
            if age < keep.as_millis() {
                continue;
            }
            let Some(_nobody) = self.lock_of_arrival(&row.name)? else { continue };
            if !dry_run {
                self.drop_arrival(&row)?;
            }
            ended.push(row.name);
        }
        Ok(ended)
    }
}
