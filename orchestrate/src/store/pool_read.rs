//! What is read of a pool, in the words of a store.

use std::collections::BTreeMap;

use registry::VolumeId;
use thin::{Pool, ThinId};

use crate::error::Error;
use crate::plan::Mapping;
use crate::store::pool_ids::volume_id;
use crate::store::seam::Made;

/// Every thin, with the pool's number when it was made: one read, however many there are.
pub(super) fn made(pool: &Pool) -> Result<BTreeMap<VolumeId, Made>, Error> {
    let made = |record: &thin::ThinRecord| (volume_id(record.id), Made::At(record.transaction_id));
    Ok(pool.ids()?.iter().map(made).collect())
}

pub(super) fn told(holders: &[thin::Holder]) -> String {
    let told: Vec<String> = holders.iter().map(ToString::to_string).collect();
    match told.as_slice() {
        [] => "open, by nobody that /proc or /sys shows".into(),
        some => some.join("; "),
    }
}

pub(super) fn mapping(active: &thin::ActiveThin) -> Mapping {
    match active.has_table && !active.suspended {
        true => Mapping::Live,
        false => Mapping::Half,
    }
}

/// Why a thin was not made: its id is somebody else's, or its origin is gone.
pub(super) fn not_made(error: thin::Error, id: VolumeId, origin: Option<VolumeId>) -> Error {
    match (error, origin) {
        (thin::Error::ThinExists { .. }, _) => Error::NotOurs { id },
        (thin::Error::ThinAbsent { .. }, Some(volume)) => Error::Lost { volume },
        (error, _) => error.into(),
    }
}

/// A sealed volume that the pool no longer has is lost.
pub(super) fn lost(error: thin::Error, volume: VolumeId) -> Error {
    match error {
        thin::Error::ThinAbsent { .. } => Error::Lost { volume },
        error => error.into(),
    }
}

/// Gives the device of a thin another name.
pub(super) fn rename(pool: &Pool, id: ThinId, former: &str, new: &str) -> Result<(), Error> {
    match pool.rename(id, former, new) {
        Err(thin::Error::NameTaken { .. }) => {
            let uuid = pool.stranger(Some(id), new)?.unwrap_or_default();
            let by = format!("the device-mapper device with uuid {uuid:?}");
            Err(Error::Stranger { name: new.into(), by })
        }
        renamed => Ok(renamed.map(drop)?),
    }
}

/// A device that should refuse writes does not: it is none of ours.
pub(super) fn takes_writes(name: String) -> Error {
    Error::Stranger { name, by: "a device of this very volume that takes writes".into() }
}
