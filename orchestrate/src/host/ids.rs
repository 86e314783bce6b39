//! Which ids are ours. An id that the store has and no row knows is somebody else's: it is passed over
//! when ids are given, and what is under it is never deleted, also where a row of ours came to name it.

use std::collections::BTreeSet;

use registry::{NewActivation, NewArrival, NewVolume, Reserved, VolumeId};

use crate::error::Error;
use crate::host::Host;
use crate::store::seam::Made;

/// How often another id is tried, where somebody makes volumes while ours are made.
const TRIES: usize = 8;

/// What becomes of a row over somebody else's volume, for its history.
const NOT_OURS: &str = "the store has this id from somebody else: not ours, and left alone";

/// A row that needs an id.
pub(crate) enum New<'a> {
    /// A volume.
    Volume(NewVolume<'a>),
    /// An activation; its image is used now.
    Activation(NewActivation<'a>),
    /// An activation that is a snapshot of the disk of another, which is named.
    Fork(NewActivation<'a>, &'a str),
    /// A snapshot of an activation's disk: a point, or without a name the disk that a restore makes.
    Point {
        /// The activation.
        activation: &'a str,
        /// The point.
        name: Option<&'a str>,
        /// Size, bytes.
        bytes: u64,
    },
    /// A disk that is to arrive from another host.
    Arrival(NewArrival<'a>),
    /// The volume of the believed serials.
    Serials,
}

/// Commits a row with an id that the store has not, and has `make` make what the row stands for. Gives
/// the id, and what came of that. The caller holds the store's lock.
///
/// The store refuses to make what it has: that is what nothing of others is lost by. To ask it before
/// keeps their ids out of rows.
pub(crate) fn take<T>(
    host: &mut Host,
    new: &New<'_>,
    mut make: impl FnMut(&mut Host, VolumeId) -> Result<T, Error>,
) -> Result<(VolumeId, Result<T, Error>), Error> {
    let mut last = VolumeId::default();
    for _ in 0..TRIES {
        let theirs = match host.store.has(host.registry.next_id()?)? {
            true => host.store.ids()?.into_iter().collect(),
            false => BTreeSet::new(),
        };
        let run = host.run;
        let Reserved { id, skipped } = host.fenced(|write| match new {
            New::Volume(new) => write.reserve_volume(new, &theirs),
            New::Activation(new) => {
                let by = write.asker(run)?;
                write.use_image(new.reference)?;
                write.image_asked(new.reference, by, false)?;
                let reserved = write.reserve_activation(new, &theirs)?;
                write.activation_asked(new.name, by, true)?;
                Ok(reserved)
            }
            New::Fork(new, from) => {
                write.use_image(new.reference)?;
                let reserved = write.reserve_activation(new, &theirs)?;
                write.put_fork(new.name, from)?;
                Ok(reserved)
            }
            New::Point { activation, name, bytes } => {
                write.reserve_point(activation, *name, *bytes, &theirs)
            }
            New::Arrival(new) => write.reserve_arrival(new, &theirs),
            New::Serials => write.reserve_serial_volume(&theirs),
        })?;
        skipped.iter().filter(|id| theirs.contains(id)).for_each(|id| warn(host, *id));
        match make(host, id) {
            Err(Error::NotOurs { id: theirs }) if theirs == id => {
                // Made since we asked.
                warn(host, id);
                host.fenced(|write| match new {
                    New::Volume(_) => write.disown_volume(id, NOT_OURS),
                    New::Activation(new) | New::Fork(new, _) => {
                        write.disown_activation(new.name, NOT_OURS)
                    }
                    New::Point { .. } => {
                        write.condemn_point(id)?;
                        write.forget_point(id)
                    }
                    New::Arrival(new) => {
                        write.condemn_arrival(id)?;
                        write.forget_arrival(new.name, id)
                    }
                    New::Serials => write.forget_serial_volume(NOT_OURS),
                })?;
                last = id;
            }
            made => return Ok((id, made)),
        }
    }
    Err(Error::NotOurs { id: last })
}

/// Whether what the store has under an id of ours was made by somebody else. A row of an older veneer
/// does not say when its id was reserved, and is believed.
pub(crate) fn is_theirs(host: &Host, id: VolumeId) -> Result<bool, Error> {
    let made = host.store.made_at(id)?;
    if made == Made::Foreign {
        return Ok(true);
    }
    let Some(reserved_at) = host.registry.reserved_at(id)? else { return Ok(false) };
    Ok(match made {
        Made::Never => false,
        // Ours is made under the lock under which its id was reserved, so at that very number.
        Made::At(transaction) => transaction != reserved_at,
        Made::Unknown | Made::Foreign => true,
    })
}

/// Drops the row of a volume whose id is somebody else's. The caller holds the store's lock.
pub(crate) fn disown_volume(host: &mut Host, id: VolumeId) -> Result<(), Error> {
    warn(host, id);
    host.fenced(|write| write.disown_volume(id, NOT_OURS))
}

/// As [`disown_volume`], for the activation `name` with that id.
pub(crate) fn disown_activation(host: &mut Host, name: &str, id: VolumeId) -> Result<(), Error> {
    warn(host, id);
    host.fenced(|write| write.disown_activation(name, NOT_OURS))
}

fn warn(host: &Host, id: VolumeId) {
    host.warn(
        &format!("id {id} in the store is not ours (no row has it): left alone, skipped"),
        &[("volume", id.into())],
    );
}
