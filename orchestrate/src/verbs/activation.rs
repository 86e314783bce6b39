//! The steps of one activation, each as the plan asks for it.

use registry::{Activation, ActivationState, NewActivation};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan;
use crate::store::content::Content;
use crate::store::seam::Ground;
use crate::store::snapshot::Snapshot;
use crate::verbs::history::moment;

/// Commits a fresh activation of `origin`; its snapshot does not exist yet.
pub(crate) fn reserve_activation(host: &mut Host, new: &NewActivation<'_>) -> Result<(), Error> {
    let _alone = host.locks.store()?;
    host.nothing_arrives(new.name)?;
    host.still_sealed(new.origin)?;
    host.not_condemned(new.origin, new.reference)?;
    // Before anything is reserved: the row would stand in its own way for ever.
    if let Some(by) = host.store.stranger(None, new.name)? {
        return Err(Error::Stranger { name: new.name.into(), by });
    }
    host.store.admit(1)?;
    host.may_promise(new.name, new.bytes)?;
    let (_, made) = ids::take(host, &New::Activation(new.clone()), |host, id| {
        host.store.snapshot(Snapshot { id, origin: new.origin })
    })?;
    made
}

/// Takes the journal of an activation that is only reserved. What has none loses none: a stack that an older program
/// made through mounts. The caller holds its lock.
pub(crate) fn drop_journal(host: &Host, row: &Activation) -> Result<(), Error> {
    let origin = host.registry.volume(row.origin)?;
    if !origin.is_some_and(|origin| origin.is_image()) {
        return Ok(());
    }
    let work = host.store.open(row.id, row.bytes, &|_| Ok(Ground::Written))?;
    let dropped = match work.content() {
        Content::Tree(_) => Ok(()),
        Content::Image(device) => unpack::drop_journal(device),
    };
    let closed = work.close(None);
    dropped.map_err(|source| Error::Volume { volume: row.id, source: Box::new(source) })?;
    closed
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
            host.store.map(row.id, name, row.bytes, row.read_only)?;
            // Whatever had the disk that a fork is of may have written what is on it: it is not mounted here.
            if row.state == ActivationState::Reserved
                && !row.read_only
                && host.registry.fork(name)?.is_none()
                && origin.is_some_and(|origin| origin.bytes < row.bytes)
            {
                host.store.grow(row.id, name, row.bytes)?;
            }
            match row.state {
                // After a boot, or after somebody took it down by hand.
                ActivationState::Active => {
                    let boot = host.store.boot()?;
                    host.registry.write(|write| write.seen_up(name, boot.as_deref()))?;
                    host.hand_over_again(name)
                }
                ActivationState::Reserved
                | ActivationState::Inactive
                | ActivationState::Deleting => {
                    let (boot, from) = (host.store.boot()?, row.state);
                    let now = moment()?;
                    host.registry.write(|write| {
                        write.seen_up(name, boot.as_deref())?;
                        if from == ActivationState::Reserved && row.ttl.is_some() {
                            write.begin_ttl(name, &now)?;
                        }
                        write.advance_activation(name, from, ActivationState::Active)
                    })?;
                    host.hand_over_again(name)
                }
            }
        }
        Unmap => {
            host.take_node(&row)?;
            host.store.unmap(row.id, name)
        }
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
            host.take_node(&row)?;
            // Before the store's lock: nobody waits under it for what people have open.
            host.store.unmap(row.id, name)?;
            let _alone = host.locks.store()?;
            host.store.delete(row.id)?;
            host.fenced(|write| write.forget_activation(name))
        }
    }
}
