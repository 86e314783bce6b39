//! Looks at all that a store has and puts together the facts of which the registry is made anew.

use std::collections::HashSet;
use std::path::Path;

use registry::{Digest, Facts, ImageFact, Registry, VolumeId};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::owner::Marker;
use crate::store::seam::Store;
use crate::store::serials::Serials;
use crate::verbs::rebuild::activations;
use crate::verbs::rebuild::foundation::{Foundation, Look};
use crate::verbs::rebuild::known::Known;
use crate::verbs::rebuild::layers::{self, Layers};
use crate::verbs::rebuild::points;
use crate::verbs::rebuild::unread::Unread;

/// What makes no row.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What says nothing of itself.
    pub(super) foreign: Vec<VolumeId>,
    /// What is not as it should be.
    pub(super) unread: Vec<Unread>,
}

/// Looks at every volume of the store; one that cannot be read is told, and stays. The caller holds the
/// store's lock, or only looks.
pub(super) fn gather(
    store: &dyn Store,
    old: Option<&Registry>,
    state: &Path,
) -> Result<(Facts, Found), Error> {
    let look = Look::at(store)?;
    let foundation = Foundation::of(&look, old, Marker::read(state).as_ref())?;
    let known = old.filter(|_| foundation.old_counts).map(Known::of).unwrap_or_default();
    let mut told = Vec::new();
    let last = look.ids().next_back();
    let mut facts = Facts {
        store: store.binding(),
        transaction_id: store.transaction_id()?,
        // An id that was given is not given again, also where its volume is gone.
        next_id: last.map_or(VolumeId::new(1), VolumeId::next).max(known.next_id),
        seal_key: foundation.key.map(|key| Digest(key.0)),
        template: foundation.template,
        template_bytes: foundation.bytes,
        template_reserved_at: look.made_at(foundation.template),
        layers: Vec::new(),
        unsaid: Vec::new(),
        leftovers: Vec::new(),
        images: Vec::new(),
        activations: Vec::new(),
        points: Vec::new(),
        arrivals: Vec::new(),
        catalogs: Vec::new(),
        serial_volume: None,
    };
    if let Some(why) = foundation.unsaid {
        let why = format!(
            "the template, and {why}. The key of the store's seals is in the registry alone now: keep a copy of \
             that (`registry backup FILE`), since without it nothing of this store can be found again"
        );
        told.push(Unread::of(foundation.template, why));
    }
    believed(&mut facts, &look, &foundation, &known, old, &mut told)?;
    let mut found = Layers::find(&look, &foundation, &known, facts.serial_volume);
    facts.layers.clone_from(&found.facts);
    layers::condemn_twins(&mut facts);
    facts.images = images(&facts, &found, &known);
    let mut mapped = store.mapped()?;
    mapped.retain(|mapped| !store.is_work(mapped));
    facts.arrivals = points::arrivals(&look, &known);
    facts.points = points::find(&look, &known, &mut told);
    facts.activations = activations::find(&look, &foundation, &known, &mut found, &facts, &mapped);
    (facts.unsaid, facts.leftovers) = (found.unsaid, found.leftovers);
    told.extend(found.told);
    let ours: HashSet<VolumeId> = facts
        .layers
        .iter()
        .map(|layer| layer.id)
        .chain(facts.unsaid.iter().map(|row| row.id))
        .chain(facts.leftovers.iter().map(|row| row.id))
        .chain(facts.activations.iter().map(|row| row.id))
        .chain(facts.points.iter().copied())
        .chain(facts.arrivals.iter().copied())
        .chain([facts.template])
        .chain(facts.serial_volume)
        .collect();
    let foreign = look.ids().filter(|id| !ours.contains(id)).collect();
    let unread = look.unread().into_iter().map(|(id, why)| Unread::of(id, why));
    told.splice(0..0, unread);
    Ok((facts, Found { foreign, unread: told }))
}

/// Images by the rows of the registry that was there, and of layers that it does not know by their records.
fn images(facts: &Facts, found: &Layers<'_>, known: &Known) -> Vec<ImageFact> {
    let mut named = found.images.clone();
    for image in &known.images {
        let mut tops = facts.layers.iter().filter(|layer| layer.chain == image.chain);
        let top = tops.clone().find(|layer| layer.condemned.is_none()).or(tops.next());
        if let Some(top) = top {
            named.retain(|fact| fact.reference != image.reference);
            named.push(ImageFact {
                reference: image.reference.clone(),
                endpoint: image.endpoint.clone(),
                top: top.id,
                pinned: image.pinned,
                // The rows of the old registry say it.
                manifest: None,
            });
        }
    }
    named
}

/// Finds which catalogs were believed: by what the store keeps, and what the old registry knew above it.
fn believed(
    facts: &mut Facts,
    look: &Look<'_>,
    foundation: &Foundation,
    known: &Known,
    old: Option<&Registry>,
    told: &mut Vec<Unread>,
) -> Result<(), Error> {
    let store = look.store;
    let mut best: Option<Serials> = None;
    let mut look_at = |volume: Option<VolumeId>| -> Result<(), Error> {
        let copies = store.serials(volume)?;
        let found = foundation.key.as_ref().and_then(|key| Serials::newest(&copies, key, volume));
        if let Some((_, found)) = found
            && best.as_ref().is_none_or(|best| best.generation < found.generation)
        {
            best = Some(found);
        }
        Ok(())
    };
    if store.serials_need_volume() {
        // What has a row is what that says.
        let others = |id: &VolumeId| {
            *id != facts.template
                && known.volume(look, *id).is_none()
                && known.activation(look, *id).is_none()
        };
        let kept = known.serials.filter(|id| look.made.contains_key(id));
        let ids: Vec<VolumeId> = match kept {
            Some(id) => vec![id],
            None => look.ids().filter(others).collect(),
        };
        for id in ids
            .into_iter()
            .filter(|id| look.record(*id).starts_with(crate::store::seal::SERIALS_MAGIC))
        {
            if let Err(error) = look_at(Some(id)) {
                told.push(Unread::of(id, whole(&error)));
            }
        }
    } else {
        look_at(None)?;
    }
    let Serials { volume, catalogs, .. } = best.unwrap_or_default();
    (facts.serial_volume, facts.catalogs) = (volume, catalogs);
    // A registry that does not decode gives none.
    for fact in old.and_then(|old| old.catalogs().ok()).unwrap_or_default() {
        match facts.catalogs.iter_mut().find(|found| found.url == fact.url) {
            Some(found) if found.serial < fact.serial => *found = fact,
            Some(_) => {}
            None => facts.catalogs.push(fact),
        }
    }
    Ok(())
}
