//! `restore`: the disk of an activation becomes what it was at a point.
//!
//! A fresh snapshot of the point is made first, under an id of its own; then one commit gives it to the activation and
//! puts the disk that it had aside. Killed before that commit the activation has its old disk, and after it the new
//! one; recovery maps whichever it is and takes the other out. The point stays.

use registry::{Activation, ActivationState, Point, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan::Wish;
use crate::store::snapshot::Snapshot;
use crate::verbs::named::check_name;

/// What `restore` did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// The activation's name.
    pub activation: String,
    /// The point.
    pub point: String,
    /// The activation's volume now; none while only planned.
    pub volume: Option<VolumeId>,
    /// Its size now, bytes: that of the point.
    pub bytes: u64,
    /// Whether it is mapped again, as it was before.
    pub mapped: bool,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Brings the disk of the activation `name` back to `point`. What was written since is gone.
    ///
    /// # Errors
    /// [`Error::Held`] naming who has it open: nothing is changed then. [`Error::Unknown`]; [`Error::Usage`] for a
    /// point that is none, and for a directory that is active.
    pub fn restore(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Restored, Error> {
        check_name(name)?;
        check_name(point)?;
        self.on_one_file(|host| host.restored(name, point, dry_run))
    }

    fn restored(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Restored, Error> {
        let _mine = self.locks.activation(name)?;
        let row = self.with_disk(name)?;
        let found = self.named_point(name, point)?;
        self.stands_still(&row)?;
        if let Some(by) = self.store.held(row.id)? {
            return Err(Error::Held { what: format!("activation {name}"), by });
        }
        let bytes = self.store.device_bytes(found.bytes);
        let up = row.state == ActivationState::Active;
        let mut done = Restored {
            activation: name.into(),
            point: point.into(),
            volume: None,
            bytes,
            mapped: up,
            dry_run,
        };
        if dry_run {
            return Ok(done);
        }
        self.drop_points(name)?;
        self.take_node(&row)?;
        self.store.unmap(row.id, name)?;
        let swapped = self.swapped(&row, &found);
        // The old disk where that is the activation's still, the fresh one where it is not.
        self.drop_points(name)?;
        if up && self.bar(&row)?.is_none() {
            self.drive(name, Wish::Up)?;
        }
        done.volume = Some(swapped?);
        done.mapped = self.is_up(name, &row.reference)?;
        Ok(done)
    }

    /// Makes a fresh snapshot of the point, and gives it to the activation.
    fn swapped(&mut self, row: &Activation, point: &Point) -> Result<VolumeId, Error> {
        let _alone = self.locks.store()?;
        self.store.admit(1)?;
        let new = New::Point { activation: &row.name, name: None, bytes: point.bytes };
        let origin = point.id;
        let (id, made) = ids::take(self, &new, |host, id| {
            host.store.snapshot(Snapshot { id, origin }).map_err(|error| match error {
                Error::Lost { .. } => Error::Gone { volume: origin },
                error => error,
            })
        })?;
        made?;
        let Some(fresh) = self.point_of(Some(id))? else { return Ok(id) };
        let from = point.name.as_deref().unwrap_or_default();
        self.fenced(|write| write.swap_disk(&fresh, row.id, from))?;
        Ok(id)
    }
}
