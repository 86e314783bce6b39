//! Performs single steps on volumes, images and activations; the build of a layer is in `build`.
//!
//! What to do is decided in `plan`. Each function here ends in a commit, and may be killed anywhere:
//! an intent is on disk before its effect.

use registry::{Volume, VolumeId, VolumeState};

use crate::error::Error;
use crate::host::{Host, ids};
use crate::plan::VolumeStep;
use crate::verbs::wanted::keys_on;

/// Commits that a volume goes, and takes it out. The caller holds the store's lock.
pub(crate) fn discard_alone(host: &mut Host, volume: &Volume) -> Result<(), Error> {
    host.registry.write(|write| write.advance_volume(volume, &VolumeState::Deleting))?;
    delete_volume(host, volume.id)
}

/// Takes a deleting volume out of the store and drops its row; of one that somebody else has made, only
/// the row goes. The caller holds the store's lock.
pub(crate) fn delete_volume(host: &mut Host, id: VolumeId) -> Result<(), Error> {
    if ids::is_theirs(host, id)? {
        host.manifests.forget(id);
        return ids::disown_volume(host, id);
    }
    host.store.delete(id)?;
    host.manifests.forget(id);
    host.fenced(|write| {
        // No id is used twice, so nothing can be built on it again.
        write.settle_attempts_named(&keys_on(id))?;
        write.forget_volume(id)
    })
}

/// Takes out what an earlier try of this build has left: its id was committed, and it never heard so.
/// The caller holds the build's lock, so that nobody is at work on it, and the store's lock.
pub(crate) fn discard_earlier(host: &mut Host, build: &str) -> Result<(), Error> {
    let rows = host.registry.volumes()?;
    for row in rows.iter().rev().filter(|row| row.build == build) {
        match row.state {
            VolumeState::Building => discard_alone(host, row)?,
            VolumeState::Deleting => delete_volume(host, row.id)?,
            VolumeState::Sealed(_) => {}
        }
    }
    Ok(())
}

/// One step of a volume that nobody is building. The caller holds the store's lock.
pub(crate) fn settle_volume(
    host: &mut Host,
    volume: &Volume,
    step: VolumeStep,
) -> Result<(), Error> {
    match step {
        VolumeStep::Keep => Ok(()),
        VolumeStep::Unmap => {
            let mapped = host.store.mapped_as(volume.id)?;
            mapped.map_or(Ok(()), |mapped| host.store.unmap(volume.id, &mapped.name))
        }
        VolumeStep::Discard => discard_alone(host, volume),
        VolumeStep::Delete => delete_volume(host, volume.id),
    }
}

/// Throws away a volume that was being built, and gives back why. Where that fails too, the next
/// command's recovery does it.
pub(crate) fn abandon(host: &mut Host, volume: &Volume, why: Error) -> Error {
    let discarded = host
        .locks
        .store()
        .and_then(|_alone| discard_alone(host, volume))
        .and_then(|()| Ok(host.registry.write(|write| write.settle_attempt(&volume.build))?));
    if let Err(error) = discarded {
        host.say(1, format_args!("volume {} is left to recovery: {error}", volume.id));
    }
    why
}
