//! What the registry that was there says of the store's volumes. It is root's alone, and so goes before whatever
//! a volume says of itself.

use std::collections::BTreeMap;

use registry::{Activation, Arrival, Blob, Image, Point, Registry, Volume, VolumeId};

use crate::verbs::rebuild::foundation::Look;

/// Rows of the registry that was there; of a table that does not decode there are none.
#[derive(Default)]
pub(super) struct Known {
    /// Volumes by id, each with the store's number when its id was reserved.
    pub(super) volumes: BTreeMap<VolumeId, (Volume, Option<u64>)>,
    /// Activations, likewise.
    pub(super) activations: Vec<(Activation, Option<u64>)>,
    /// Points of activations, and disks that a restore makes or has put aside, likewise.
    pub(super) points: Vec<(Point, Option<u64>)>,
    /// Disks that arrive, likewise.
    pub(super) arrivals: Vec<(Arrival, Option<u64>)>,
    /// Images.
    pub(super) images: Vec<Image>,
    /// The volume of the believed serials.
    pub(super) serials: Option<VolumeId>,
    /// The blobs of the volumes.
    blobs: BTreeMap<VolumeId, Blob>,
    /// The first id that it would have given next.
    pub(super) next_id: VolumeId,
}

impl Known {
    /// Reads them.
    pub(super) fn of(old: &Registry) -> Known {
        let at = |id: VolumeId| old.reserved_at(id).ok().flatten();
        let volumes = old.volumes().unwrap_or_default().into_iter();
        let activations = old.activations().unwrap_or_default().into_iter();
        let points = old.points().unwrap_or_default().into_iter();
        let arrivals = old.arrivals().unwrap_or_default().into_iter();
        let mut known = Known {
            volumes: volumes.map(|row| (row.id, (row.clone(), at(row.id)))).collect(),
            activations: activations.map(|row| (row.clone(), at(row.id))).collect(),
            points: points.map(|row| (row.clone(), at(row.id))).collect(),
            arrivals: arrivals.map(|row| (row.clone(), at(row.id))).collect(),
            images: old.images().unwrap_or_default(),
            serials: old.serial_volume().ok().flatten(),
            blobs: BTreeMap::new(),
            next_id: old.next_id().unwrap_or_default(),
        };
        for (id, (row, _)) in &known.volumes {
            if let registry::VolumeState::Sealed(seal) = &row.state
                && let Some(digest) = seal.blob
                && let Ok(Some(blob)) = old.blob(digest)
            {
                known.blobs.insert(*id, blob);
            }
        }
        known
    }

    /// The row of a layer, or of the template, where the store's volume is the one that it is of.
    pub(super) fn volume(&self, look: &Look<'_>, id: VolumeId) -> Option<&Volume> {
        let (row, reserved) = self.volumes.get(&id)?;
        look.is_of(id, *reserved).then_some(row)
    }

    /// The row of an activation, likewise.
    pub(super) fn activation(&self, look: &Look<'_>, id: VolumeId) -> Option<&Activation> {
        let (row, reserved) = self.activations.iter().find(|(row, _)| row.id == id)?;
        look.is_of(id, *reserved).then_some(row)
    }

    /// What was applied to a volume.
    pub(super) fn blob(&self, id: VolumeId) -> Option<&Blob> {
        self.blobs.get(&id)
    }
}
