//! Performs single steps on volumes, images and activations; the build of a layer is in `build`.
//!
//! What to do is decided in `plan`. Each function here ends in a commit, and may be killed anywhere:
//! an intent is on disk before its effect.

use registry::{
    ActivationState, Blob, Digest, Image, ImageLayer, NewActivation, NewVolume, Role, Seal, Volume,
    VolumeState,
};

use crate::error::Error;
use crate::host::ids::{self, New};
use crate::host::{Host, owner, survey};
use crate::plan::{self, VolumeStep};
use crate::store::seal::{Key, SealRecord};
use crate::verbs::wanted::Wanted;

/// Commits that a volume goes, and takes it out. The caller holds the store's lock.
pub(crate) fn discard_alone(host: &mut Host, volume: &Volume) -> Result<(), Error> {
    host.registry.write(|write| write.advance_volume(volume, &VolumeState::Deleting))?;
    delete_volume(host, volume.id)
}

/// Takes a deleting volume out of the store and drops its row; of one that somebody else has made, only
/// the row goes. The caller holds the store's lock.
pub(crate) fn delete_volume(host: &mut Host, id: u32) -> Result<(), Error> {
    if ids::is_theirs(host, id)? {
        host.manifests.forget(id);
        return ids::disown_volume(host, id);
    }
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
            mapped.map_or(Ok(()), |mapped| host.store.unmap(volume.id, &mapped.name))
        }
        VolumeStep::Discard => discard_alone(host, volume),
        VolumeStep::Delete => delete_volume(host, volume.id),
    }
}

/// The sealed template; made when there is none.
pub(crate) fn template(host: &mut Host) -> Result<Volume, Error> {
    const BUILD: &str = "template";
    if let Some(template) = host.registry.template()?.filter(|row| row.condemned.is_none()) {
        return Ok(template);
    }
    let _lock = host.locks.build(BUILD)?;
    match host.registry.template()? {
        Some(template) if template.condemned.is_none() => return Ok(template),
        Some(gone) => return template_again(host, gone),
        None => {}
    }
    let bytes = host.settings.volume_bytes;
    let alone = host.locks.store()?;
    host.say(1, format_args!("making the template file system, once for this store"));
    discard_earlier(host, BUILD)?;
    survey::no_other(host)?;
    let new = NewVolume { role: Role::Template, parent: None, build: BUILD, bytes };
    let mut volume = Volume {
        id: 0,
        role: Role::Template,
        parent: None,
        build: BUILD.into(),
        bytes,
        state: VolumeState::Building,
        condemned: None,
    };
    let (_, made) = ids::take(host, &New::Volume(new), |host, id| {
        volume.id = id;
        seal_template(host, &mut volume)
    })?;
    match made {
        Ok(()) => Ok(volume),
        Err(error) => {
            drop(alone);
            Err(abandon(host, &volume, error))
        }
    }
}

/// The template of a store that has lost it is made again under its own id, since every layer's row names
/// it; no layer's blocks are its own any more. The caller holds the build's lock.
fn template_again(host: &mut Host, mut row: Volume) -> Result<Volume, Error> {
    let _alone = host.locks.store()?;
    host.say(1, format_args!("making the template file system again: it is gone from the store"));
    if ids::is_theirs(host, row.id)? {
        return Err(Error::NotOurs { id: row.id });
    }
    // What a killed run had begun of it.
    host.store.delete(row.id)?;
    host.fenced(|write| write.remake_template(row.id))?;
    row.bytes = host.store.make_template(row.id, row.bytes)?;
    if let Some(key) = host.registry.seal_key()? {
        put_template_record(host, row.id, row.bytes, &Key(key.0))?;
    }
    host.registry.write(|write| write.absolve_template(row.id))?;
    row.condemned = None;
    Ok(row)
}

fn put_template_record(host: &Host, id: u32, bytes: u64, key: &Key) -> Result<(), Error> {
    let hex = Some(Digest(key.0).hex());
    let (role, parent) = (Role::Template, None);
    let seal_record =
        SealRecord { id, role, parent, bytes, made: None, key: hex, layer: None, origin: None };
    host.store.put_seal_record(id, bytes, &seal_record.seal(key))
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
    owner::remember(&host.registry, host.store.as_ref(), &host.settings.state);
    let bytes = host.store.make_template(id, bytes)?;
    put_template_record(host, id, bytes, &key)?;
    Ok(bytes)
}

/// Publishes an image, with what was learnt of its blobs by ETag, and counts what was `reused`:
/// layers, and the bytes that were not fetched for it. Where a later listing than `listed` has come
/// before it, the image stays as that has it.
pub(crate) fn publish(
    host: &mut Host,
    reference: &str,
    chain: Digest,
    layers: &[(Wanted, u32, Blob)],
    reused: (u64, u64),
    listed: u64,
) -> Result<(), Error> {
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
    let same = before.as_ref() == Some(&image);
    Ok(host.registry.write(|write| {
        count_reused(write, reused)?;
        if write.was_listed_after(reference, listed)? {
            return write.use_image(reference);
        }
        for (wanted, _, blob) in layers.iter().filter(|_| !same) {
            let key = &wanted.layer.object.object.key;
            if let Some(source) = &wanted.source {
                write.put_guess(source, key, blob)?;
            }
        }
        write.put_image(&image)?;
        write.put_listing(reference, listed)?;
        write.use_image(reference)
    })?)
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
    host.still_sealed(new.origin)?;
    host.not_condemned(new.origin, new.reference)?;
    // Before anything is reserved: the row would stand in its own way for ever.
    if let Some(by) = host.store.stranger(None, new.name)? {
        return Err(Error::Stranger { name: new.name.into(), by });
    }
    host.store.admit(1)?;
    let (_, made) = ids::take(host, &New::Activation(new.clone()), |host, id| {
        host.store.snapshot(id, new.origin)
    })?;
    made
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
    // What took the place of ours is nobody's that we may map, take down or delete. What is to be
    // published was made under this very lock.
    let is_theirs = match step {
        Map | Unmap | Condemn | Delete => ids::is_theirs(host, row.id)?,
        Reserve | Publish | Rest | Done => false,
    };
    match step {
        Reserve | Done => Ok(()),
        Map | Unmap if is_theirs => Err(Error::NotOurs { id: row.id }),
        Publish | Map => {
            let origin = host.registry.volume(row.origin)?;
            host.store.map(row.id, name, row.bytes)?;
            if row.state == ActivationState::Reserved
                && origin.is_some_and(|origin| origin.bytes < row.bytes)
            {
                host.store.grow(row.id, name, row.bytes)?;
            }
            match row.state {
                // After a boot, or after somebody took it down by hand.
                ActivationState::Active => {
                    let boot = host.store.boot()?;
                    Ok(host.registry.write(|write| write.seen_up(name, boot.as_deref()))?)
                }
                ActivationState::Reserved
                | ActivationState::Inactive
                | ActivationState::Deleting => {
                    let (boot, from) = (host.store.boot()?, row.state);
                    Ok(host.registry.write(|write| {
                        write.seen_up(name, boot.as_deref())?;
                        write.advance_activation(name, from, ActivationState::Active)
                    })?)
                }
            }
        }
        Unmap => host.store.unmap(row.id, name),
        Rest => {
            let (from, next) = (row.state, ActivationState::Inactive);
            Ok(host.registry.write(|write| {
                write.seen_up(name, None)?;
                write.put_when_closed(name, None)?;
                write.advance_activation(name, from, next)
            })?)
        }
        Condemn => {
            // Known before it is too late to go back: a device that is open cannot go.
            if let Some(by) = host.store.held(row.id)?
                && !is_theirs
            {
                return Err(Error::Held { what: name.into(), by });
            }
            advance(host, ActivationState::Deleting)
        }
        Delete => {
            if is_theirs {
                let _alone = host.locks.store()?;
                return ids::disown_activation(host, name, row.id);
            }
            // Before the store's lock: nobody waits under it for what people have open.
            host.store.unmap(row.id, name)?;
            let _alone = host.locks.store()?;
            host.store.delete(row.id)?;
            host.fenced(|write| write.forget_activation(name))
        }
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
