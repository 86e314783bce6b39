//! The template: the empty volume that every first layer is a snapshot of.

use registry::{Digest, NewVolume, Role, Seal, Volume, VolumeId, VolumeState};

use crate::error::Error;
use crate::host::ids::{self, New};
use crate::host::{Host, owner, survey};
use crate::store::seal::{self, Key, SealRecord};
use crate::verbs::volumes::{abandon, discard_earlier};

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
        id: VolumeId::default(),
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
pub(crate) fn template_again(host: &mut Host, mut row: Volume) -> Result<Volume, Error> {
    let _alone = host.locks.store()?;
    host.say(1, format_args!("making the template file system again: it is gone from the store"));
    if ids::is_theirs(host, row.id)? {
        return Err(Error::NotOurs { id: row.id });
    }
    // What a killed run had begun of it.
    host.store.delete(row.id)?;
    host.fenced(|write| write.remake_template(row.id))?;
    row.bytes = host.store.make_template(row.id, row.bytes)?;
    let start = host.store.seal_record(row.id)?.unwrap_or_default();
    let key = match host.registry.seal_key()?.map(|key| Key(key.0)) {
        // A store that was begun by an older veneer has none, and nothing vouches for an image without.
        None if seal::mark(&start).is_some() => Some(new_key(host)?),
        key => key,
    };
    if let Some(key) = key {
        put_template_record(host, row.id, row.bytes, &key)?;
    }
    host.registry.write(|write| write.absolve_template(row.id))?;
    row.condemned = None;
    Ok(row)
}

pub(crate) fn put_template_record(
    host: &Host,
    id: VolumeId,
    bytes: u64,
    key: &Key,
) -> Result<(), Error> {
    let hex = Some(Digest(key.0).hex());
    let (role, parent) = (Role::Template, None);
    let seal_record =
        SealRecord { id, role, parent, bytes, made: None, key: hex, layer: None, origin: None };
    let start = host.store.seal_record(id)?.unwrap_or_default();
    host.store.put_seal_record(id, bytes, &seal_record.seal(key, seal::mark(&start)))
}

/// Makes the template on its volume, and commits that it is whole.
pub(crate) fn seal_template(host: &mut Host, volume: &mut Volume) -> Result<(), Error> {
    let before = host.store.space()?;
    volume.bytes = make_template(host, volume.id, volume.bytes)?;
    let own_bytes = host.store.taken(&before, 0)?;
    let blank = Seal {
        chain: None,
        diff: None,
        blob: None,
        tree: None,
        blocks: None,
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
pub(crate) fn make_template(host: &mut Host, id: VolumeId, bytes: u64) -> Result<u64, Error> {
    let key = new_key(host)?;
    let bytes = host.store.make_template(id, bytes)?;
    put_template_record(host, id, bytes, &key)?;
    Ok(bytes)
}

/// A key for the seals of a store that has none.
fn new_key(host: &mut Host) -> Result<Key, Error> {
    let key = Key::random()?;
    host.registry.write(|write| write.put_seal_key(Digest(key.0)))?;
    owner::remember(&host.registry, host.store.as_ref(), &host.settings.state);
    Ok(key)
}
