//! What `resize`, `fork`, `snapshot` and `restore` have in common: which activation they are about, and what kind of
//! store they need.

use registry::{Activation, ActivationState, VolumeId};

use crate::error::Error;
use crate::host::{Host, ids};
use crate::plan::disks::{DiskUse, disk_state};
use crate::store::seam::Store;
use crate::store::snapshot::Snapshot;

/// Why a size is refused.
pub(crate) fn smaller(name: &str, has: u64, asked: u64) -> Error {
    Error::Usage(format!(
        "the disk of {name} has {has} bytes, and {asked} were asked for: a disk only grows; ask for {has} bytes or \
         more"
    ))
}

impl Host {
    /// The activation `name`, which somebody was told of, with what the store has of it still ours.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::NotOurs`].
    pub(crate) fn with_disk(&self, name: &str) -> Result<Activation, Error> {
        let row = self.registry.activation(name)?;
        let Some(row) = row.filter(crate::verbs::activate::is_told) else {
            return Err(self.unknown("activation", name));
        };
        match ids::is_theirs(self, row.id)? {
            true => Err(Error::NotOurs { id: row.id }),
            false => Ok(row),
        }
    }

    /// Whether activations here are directories.
    pub(crate) fn has_directories(&self, row: &Activation) -> bool {
        self.store.tree(row.id).is_some()
    }

    /// That an activation can be copied as it stands. The files of a directory cannot be held still, so it has to be
    /// down.
    ///
    /// # Errors
    /// [`Error::Usage`]; [`Error::Held`] by a mount.
    pub(crate) fn stands_still(&self, row: &Activation) -> Result<(), Error> {
        if !self.has_directories(row) {
            return Ok(());
        }
        if row.state == ActivationState::Active {
            let name = &row.name;
            return Err(Error::Usage(format!(
                "{name} is a directory of a directory store, and active: its files may change while they are copied; \
                 `orchestrate deactivate {name}` first"
            )));
        }
        match self.store.held(row.id)? {
            Some(by) => Err(Error::Held { what: format!("activation {}", row.name), by }),
            None => Ok(()),
        }
    }

    /// Who uses the disk `id`; nobody where it is a directory.
    pub(crate) fn disk_use(&self, id: VolumeId) -> Result<DiskUse, Error> {
        self.store.disks().map_or(Ok(DiskUse::Down), |disks| disks.disk_use(id))
    }

    /// Has every device of ours run again that a killed process has suspended, before anything else is looked at:
    /// whoever waits for one waits until then. The caller holds the store's lock.
    pub(crate) fn resume_suspended(&self) -> Result<(), Error> {
        let Some(disks) = self.store.disks() else { return Ok(()) };
        for line in disks.resume_suspended()? {
            self.warn(&line, &[]);
        }
        Ok(())
    }

    /// Makes the device of an activation as long as its row says; false when somebody else is at it.
    pub(crate) fn mend_length(&mut self, name: &str) -> Result<bool, Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
        let Some(row) = self.registry.activation(name)? else { return Ok(false) };
        let used = self.disk_use(row.id)?;
        if let Some(why) = self.lengthened(row.id, row.bytes, &used)? {
            self.warn(&format!("the file system of {name} could not be grown: {why}"), &[]);
        }
        Ok(used != DiskUse::Down)
    }

    /// What the file system on the snapshot `id` is, of a disk that was used so while it was made.
    pub(crate) fn state_of_disk(
        &self,
        id: VolumeId,
        used: &DiskUse,
    ) -> Result<registry::DiskState, Error> {
        if self.store.tree(id).is_some() {
            return Ok(registry::DiskState::Clean);
        }
        Ok(disk_state(used, &self.store.seal_record(id)?.unwrap_or_default()))
    }
}

/// Makes a snapshot of the disk `origin`, and tells how that was used meanwhile: of what was seen before and
/// after it the worse.
pub(crate) fn snapshot(store: &dyn Store, snapshot: Snapshot) -> Result<DiskUse, Error> {
    let Some(disks) = store.disks() else {
        return store.snapshot(snapshot).map(|()| DiskUse::Down);
    };
    let before = disks.disk_use(snapshot.origin)?;
    disks.snapshot_live(snapshot)?;
    let after = disks.disk_use(snapshot.origin)?;
    Ok(if matches!(after, DiskUse::Held { .. }) { after } else { before })
}
