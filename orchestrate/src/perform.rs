//! Performs single steps on volumes, images and activations; the build of a layer is in `build`.
//!
//! What to do is decided in `plan`. Each function here ends in a commit, and may be killed anywhere:
//! an intent is on disk before its effect.

use registry::{
    ActivationState, Blob, Digest, Image, ImageLayer, KnownBy, NewActivation, NewVolume, Role,
    Seal, Volume, VolumeState,
};

use crate::build::{Wanted, abandon};
use crate::note::{Key, Note};
use crate::plan::{self, VolumeStep};
use crate::{Error, Host};

/// Commits that a volume goes, and takes it out. The caller holds the store's lock.
pub(crate) fn discard_alone(host: &mut Host, volume: &Volume) -> Result<(), Error> {
    host.registry.write(|write| write.advance_volume(volume, &VolumeState::Deleting))?;
    delete_volume(host, volume.id)
}

/// Takes a deleting volume out of the store and drops its row. The caller holds the store's lock.
pub(crate) fn delete_volume(host: &mut Host, id: u32) -> Result<(), Error> {
    host.store.delete(id)?;
    host.manifests.forget(id);
    host.fenced(|write| write.forget_volume(id))
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
            mapped.map_or(Ok(()), |mapped| host.store.unmap(&mapped.name))
        }
        VolumeStep::Discard => discard_alone(host, volume),
        VolumeStep::Delete => delete_volume(host, volume.id),
    }
}

/// The sealed template; made when there is none.
pub(crate) fn template(host: &mut Host) -> Result<Volume, Error> {
    const BUILD: &str = "template";
    if let Some(template) = host.registry.template()? {
        return Ok(template);
    }
    let _lock = host.locks.build(BUILD)?;
    if let Some(template) = host.registry.template()? {
        return Ok(template);
    }
    let bytes = host.settings.volume_bytes;
    let alone = host.locks.store()?;
    host.say(1, format_args!("making the template file system, once for this store"));
    discard_earlier(host, BUILD)?;
    let new = NewVolume { role: Role::Template, parent: None, build: BUILD, bytes };
    let id = host.fenced(|write| write.reserve_volume(&new))?;
    let mut volume = Volume {
        id,
        role: Role::Template,
        parent: None,
        build: BUILD.into(),
        bytes,
        state: VolumeState::Building,
    };
    match seal_template(host, &mut volume) {
        Ok(()) => Ok(volume),
        Err(error) => {
            drop(alone);
            Err(abandon(host, &volume, error))
        }
    }
}

/// Makes the template on its volume, and commits that it is whole.
fn seal_template(host: &mut Host, volume: &mut Volume) -> Result<(), Error> {
    let before = host.store.space()?;
    volume.bytes = make_template(host, volume.id, volume.bytes)?;
    let own_bytes = host.store.taken(&before, 0)?;
    let blank = Seal {
        chain: None,
        diff: None,
        blob: None,
        tree: None,
        own_bytes,
        entries: 0,
        content_bytes: 0,
    };
    let sealed = VolumeState::Sealed(blank);
    host.fenced(|write| write.advance_volume(volume, &sealed))?;
    volume.state = sealed;
    Ok(())
}

/// Makes the template's file system, and the key under which the volumes on it say what they are.
fn make_template(host: &mut Host, id: u32, bytes: u64) -> Result<u64, Error> {
    let key = Key::random()?;
    host.registry.write(|write| write.put_seal_key(Digest(key.0)))?;
    let bytes = host.store.make_template(id, bytes)?;
    let hex = Some(Digest(key.0).hex());
    let (role, parent) = (Role::Template, None);
    let note = Note { id, role, parent, bytes, key: hex, layer: None, origin: None };
    host.store.put_note(id, bytes, &note.seal(&key))?;
    Ok(bytes)
}

/// Publishes an image, with what was learnt of its blobs by ETag, and counts what was `reused`:
/// layers, and the bytes that were not fetched for it.
pub(crate) fn publish(
    host: &mut Host,
    reference: &str,
    chain: Digest,
    layers: &[(Wanted, u32, Blob)],
    reused: (u64, u64),
) -> Result<Image, Error> {
    let before = host.registry.image(reference)?;
    let image = Image {
        reference: reference.into(),
        pinned: before.as_ref().is_some_and(|image| image.pinned),
        used: before.as_ref().map_or(0, |image| image.used),
        endpoint: host.client()?.endpoint().into(),
        chain,
        layers: layers
            .iter()
            .map(|(wanted, volume, blob)| ImageLayer {
                key: wanted.layer.object.object.key.clone(),
                etag: wanted.layer.object.etag.clone(),
                size: wanted.layer.object.size,
                digest: blob.digest,
                volume: *volume,
            })
            .collect(),
    };
    if before.as_ref() == Some(&image) {
        host.registry.write(|write| {
            count_reused(write, reused)?;
            write.use_image(reference)
        })?;
        return Ok(image);
    }
    host.registry.write(|write| {
        count_reused(write, reused)?;
        for (wanted, _, blob) in layers {
            let key = &wanted.layer.object.object.key;
            if let Some(source) = &wanted.source {
                write.put_source(source, key, blob, KnownBy::Etag)?;
            }
        }
        write.put_image(&image)?;
        write.use_image(reference)
    })?;
    Ok(image)
}

fn count_reused(
    write: &registry::Write<'_>,
    (layers, bytes): (u64, u64),
) -> Result<(), registry::Error> {
    write.count("layers_total", "how=\"reused\"", layers)?;
    write.count("fetch_dedup_bytes_total", "", bytes)
}

/// Commits a fresh activation of `origin`; its snapshot does not exist yet.
pub(crate) fn reserve_activation(host: &mut Host, new: &NewActivation<'_>) -> Result<(), Error> {
    let _alone = host.locks.store()?;
    host.store.admit(1)?;
    let id = host.fenced(|write| {
        write.use_image(new.reference)?;
        write.reserve_activation(new)
    })?;
    host.store.snapshot(id, new.origin)
}

/// One step of an activation. The caller holds the activation's lock.
pub(crate) fn activation_step(
    host: &mut Host,
    name: &str,
    step: plan::ActivationStep,
) -> Result<(), Error> {
    use plan::ActivationStep::{Condemn, Delete, Done, Map, Publish, Reserve, Rest, Unmap};
    let row = host.registry.activation(name)?;
    let Some(row) = row else {
        return match step {
            Reserve | Done => Ok(()),
            Publish | Map | Unmap | Rest | Condemn | Delete => {
                Err(Error::Unknown { what: "activation", name: name.into() })
            }
        };
    };
    let advance = |host: &mut Host, next: ActivationState| -> Result<(), Error> {
        Ok(host.registry.write(|write| write.advance_activation(name, row.state, next))?)
    };
    match step {
        Reserve | Done => Ok(()),
        Publish | Map => {
            let origin = host.registry.volume(row.origin)?;
            host.store.map(row.id, name, row.bytes)?;
            if row.state == ActivationState::Reserved
                && origin.is_some_and(|origin| origin.bytes < row.bytes)
            {
                host.store.grow(row.id, name, row.bytes)?;
            }
            match row.state {
                ActivationState::Active => Ok(()),
                ActivationState::Reserved
                | ActivationState::Inactive
                | ActivationState::Deleting => advance(host, ActivationState::Active),
            }
        }
        Unmap => host.store.unmap(name),
        Rest => advance(host, ActivationState::Inactive),
        Condemn => advance(host, ActivationState::Deleting),
        Delete => {
            let _alone = host.locks.store()?;
            host.store.unmap(name)?;
            host.store.delete(row.id)?;
            host.fenced(|write| write.forget_activation(name))
        }
    }
}
