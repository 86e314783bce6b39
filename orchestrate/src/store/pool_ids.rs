//! The one place where a volume's id becomes the id of a thin, and comes back. Pure.

use registry::VolumeId;
use thin::ThinId;

use crate::error::Error;

/// The thin that the volume `id` is on a pool.
///
/// # Errors
/// [`Error::Thin`] where a pool can have no such id.
pub(super) fn thin_id(id: VolumeId) -> Result<ThinId, Error> {
    Ok(ThinId::new(id.get().into()).map_err(thin::Error::from)?)
}

/// The volume that a thin of this id is.
pub(super) fn volume_id(id: ThinId) -> VolumeId {
    VolumeId::new(id.get())
}
