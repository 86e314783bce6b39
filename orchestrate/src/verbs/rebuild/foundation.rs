//! What a rebuild stands on: the key under which the store's volumes say what they are, and the template. Both
//! are taken from the registry that was there, or from what is kept beside it; only where there is neither, from
//! the store alone, and then from nothing that a guest could have written.

use std::cell::RefCell;
use std::collections::BTreeMap;

use registry::{Registry, Role, VolumeId};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::owner::Marker;
use crate::store::seal::{Key, SealRecord};
use crate::store::seam::{Made, Store};

/// The store's volumes, as they are read when they are asked for.
pub(super) struct Look<'s> {
    pub(super) store: &'s dyn Store,
    /// Every id, with when it was made.
    pub(super) made: BTreeMap<VolumeId, Made>,
    records: RefCell<BTreeMap<VolumeId, Result<Vec<u8>, String>>>,
}

impl<'s> Look<'s> {
    pub(super) fn at(store: &'s dyn Store) -> Result<Look<'s>, Error> {
        Ok(Look { store, made: store.made()?, records: RefCell::default() })
    }

    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = VolumeId> {
        self.made.keys().copied()
    }

    /// What stands where the record of a volume is, whoever wrote it; nothing where it cannot be read.
    pub(super) fn record(&self, id: VolumeId) -> Vec<u8> {
        let mut records = self.records.borrow_mut();
        let read = || match self.store.seal_record(id) {
            Ok(bytes) => Ok(bytes.unwrap_or_default()),
            Err(error) => Err(whole(&error)),
        };
        records.entry(id).or_insert_with(read).clone().unwrap_or_default()
    }

    /// Those that were asked for and could not be read, with why.
    pub(super) fn unread(&self) -> Vec<(VolumeId, String)> {
        let records = self.records.borrow();
        let failed = records.iter().filter_map(|(id, read)| Some((*id, read.clone().err()?)));
        failed.collect()
    }

    /// Whether the volume that the store has under this id is the one that was made at this number, as far
    /// as that can be told: an id may have been given again after a registry was lost.
    pub(super) fn is_of(&self, id: VolumeId, at: Option<u64>) -> bool {
        match (self.made.get(&id), at) {
            (None, _) => false,
            (Some(Made::At(made)), Some(at)) => *made == at,
            (Some(Made::At(_)), None) => true,
            (Some(Made::Never | Made::Unknown | Made::Foreign), _) => true,
        }
    }

    /// When the store says that it made this volume.
    pub(super) fn made_at(&self, id: VolumeId) -> Option<u64> {
        match self.made.get(&id) {
            Some(Made::At(at)) => Some(*at),
            Some(Made::Never | Made::Unknown | Made::Foreign) | None => None,
        }
    }

    /// What a volume says of itself under this key, and of no other, nor of one that had its id before.
    pub(super) fn own(&self, id: VolumeId, key: Option<&Key>) -> Option<SealRecord> {
        let seal_record = SealRecord::read(&self.record(id), Some(key?))?;
        (seal_record.id == id && self.is_of(id, seal_record.made)).then_some(seal_record)
    }

    /// The template's record, with its key, where the volume `id` has one. Anybody can write one.
    fn template(&self, id: VolumeId) -> Option<(SealRecord, Key)> {
        let seal_record = SealRecord::read(&self.record(id), None)?;
        let key = seal_record.own_key()?;
        (seal_record.id == id && seal_record.role == Role::Template && seal_record.parent.is_none())
            .then_some((seal_record, key))
    }
}

/// The template, and the key of the store's seals.
pub(super) struct Foundation {
    /// None in a store that was begun before volumes had records.
    pub(super) key: Option<Key>,
    pub(super) template: VolumeId,
    pub(super) bytes: u64,
    /// Whether the registry that was there is of this store.
    pub(super) old_counts: bool,
    /// Why the template's own record does not say it; none: it does.
    pub(super) unsaid: Option<&'static str>,
}

impl Foundation {
    /// Finds it.
    ///
    /// # Errors
    /// [`Error::NoNotes`] where nothing says it that may be believed.
    pub(super) fn of(
        look: &Look<'_>,
        old: Option<&Registry>,
        kept: Option<&Marker>,
    ) -> Result<Foundation, Error> {
        if let Some(found) = old.and_then(|old| by_registry(look, old)) {
            return Ok(found);
        }
        let found = |id: VolumeId, (seal_record, key): (SealRecord, Key)| Foundation {
            key: Some(key),
            template: id,
            bytes: seal_record.bytes,
            old_counts: false,
            unsaid: None,
        };
        let mut why = None;
        for id in look.ids() {
            let Some((seal_record, key)) = look.template(id) else { continue };
            // Nobody has the key who has not seen the template itself, or the registry.
            let kept = kept.is_some_and(|kept| kept.is_of_key(&key));
            let older = if kept { None } else { older_than(look, id) };
            match older {
                None => return Ok(found(id, (seal_record, key))),
                Some(older) => {
                    why.get_or_insert((id, older));
                }
            }
        }
        let volumes = look.made.len();
        Err(Error::NoNotes { store: look.store.binding().id, volumes, forged: why })
    }
}

/// What the registry that was there says, where it is this store's: the store's template has its key; or the
/// template says nothing, and registry and store are tied to each other all the same.
fn by_registry(look: &Look<'_>, old: &Registry) -> Option<Foundation> {
    let key = old.seal_key().ok()?.map(|key| Key(key.0));
    let row = old.template().ok()??;
    let reserved = old.reserved_at(row.id).ok()?;
    let unsaid = match look.template(row.id) {
        Some((_, found)) if Some(found) == key => None,
        // Another's store, whatever its name.
        Some(_) => return None,
        None => {
            let bound = old.store().ok()?? == look.store.binding();
            let there = look.made.contains_key(&row.id) && look.is_of(row.id, reserved);
            if !bound || !(there || look.ids().any(|id| look.own(id, key.as_ref()).is_some())) {
                return None;
            }
            Some(match look.made.contains_key(&row.id) {
                true => "it has no good seal record",
                false => "it is gone from the store",
            })
        }
    };
    let (template, bytes) = (row.id, row.bytes);
    Some(Foundation { key, template, bytes, old_counts: true, unsaid })
}

/// A volume that may be of the same registry and was there before this one, which therefore is no template:
/// that is the first which a registry makes, and never anybody's to write to.
fn older_than(look: &Look<'_>, id: VolumeId) -> Option<VolumeId> {
    let at = look.made_at(id);
    look.made
        .range(..id)
        .find(|(_, made)| match (made, at) {
            // What was there before any registry is others'.
            (Made::At(0) | Made::Never | Made::Foreign, _) => false,
            (Made::At(made), Some(at)) => *made < at,
            (Made::At(_), None) | (Made::Unknown, _) => true,
        })
        .map(|(older, _)| *older)
}
