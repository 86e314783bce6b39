//! `df`: what takes the room of a store, by image and by activation.

use std::collections::HashMap;

use registry::{Activation, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::plan::garbage::{bytes, garbage, own_bytes};
use crate::store::seam::{Space, Taken};
use crate::verbs::condemned;

/// What one image takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageUse {
    /// Its reference.
    pub image: String,
    /// What its layers take together, bytes.
    pub bytes: u64,
    /// Of these, what other images or their activations need too.
    pub shared_bytes: u64,
    /// Of these, what only it needs.
    pub exclusive_bytes: u64,
    /// What removing it would free now: nothing while there are activations of it.
    pub would_free_bytes: u64,
    /// Whether `gc` leaves it.
    pub pinned: bool,
    /// Names of its activations.
    pub activations: Vec<String>,
}

/// What one activation takes of the store. On a pool, whole blocks of it are counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivationUse {
    /// Its name.
    pub name: String,
    /// The size of its device, bytes.
    pub size_bytes: u64,
    /// Bytes that it holds, shared ones among them; none where the store cannot tell.
    pub mapped_bytes: Option<u64>,
    /// Of these, what its image or another activation holds too.
    pub shared_bytes: Option<u64>,
    /// Of these, what only it holds: what removing it frees.
    pub exclusive_bytes: Option<u64>,
}

/// What takes the room of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Its room.
    pub space: Space,
    /// By reference.
    pub images: Vec<ImageUse>,
    /// By name.
    pub activations: Vec<ActivationUse>,
    /// Points of activations, as `ACTIVATION/POINT`, with the bytes that only they have.
    #[serde(default)]
    pub points: Vec<(String, Option<u64>)>,
    /// The sizes of all activations together, bytes: what they would take if everything were written to.
    pub promised_bytes: u64,
    /// What they may come to by the setting `overcommit`, bytes; none where nothing bounds it.
    #[serde(default)]
    pub promised_bytes_max: Option<u64>,
    /// What `gc` would free without a bound, bytes.
    pub garbage_bytes: u64,
    /// Ids that no row knows.
    pub foreign: Vec<VolumeId>,
    /// Condemned volumes that are still there.
    #[serde(default)]
    pub condemned: Vec<VolumeId>,
}

impl Host {
    /// What takes the room, by image.
    pub fn usage(&self) -> Result<Usage, Error> {
        let facts = self.garbage_facts(None)?;
        let taken = self.store.taken_by_each()?;
        // By id: nothing is searched for once for each of many.
        let taken: Option<HashMap<VolumeId, Taken>> =
            taken.map(|all| all.into_iter().map(|taken| (taken.id, taken)).collect());
        let own_bytes: HashMap<VolumeId, u64> =
            facts.volumes.iter().map(|volume| (volume.id, own_bytes(volume))).collect();
        let of = |id: VolumeId| own_bytes.get(&id).copied().unwrap_or(0);
        let images = facts
            .images
            .iter()
            .map(|image| {
                let others = facts.images.iter().filter(|other| other.reference != image.reference);
                let of_others = facts.activations.iter().filter(|a| a.reference != image.reference);
                let kept = facts.in_use(others, of_others, []);
                let stack = facts.stack(&image.reference);
                let bytes = stack.iter().map(|id| of(*id)).sum();
                let shared_bytes =
                    stack.iter().filter(|id| kept.contains(id)).map(|id| of(*id)).sum();
                let activations: Vec<String> = facts
                    .activations
                    .iter()
                    .filter(|a| a.reference == image.reference)
                    .map(|a| a.name.clone())
                    .collect();
                let exclusive_bytes = bytes - shared_bytes;
                ImageUse {
                    image: image.reference.clone(),
                    bytes,
                    shared_bytes,
                    exclusive_bytes,
                    would_free_bytes: if activations.is_empty() { exclusive_bytes } else { 0 },
                    pinned: image.pinned,
                    activations,
                }
            })
            .collect();
        let takes = |id: VolumeId| taken.as_ref().and_then(|all| all.get(&id));
        let activations: Vec<ActivationUse> =
            facts.activations.iter().map(|row| ActivationUse::of(row, takes(row.id))).collect();
        let named = |point: registry::Point| {
            let name = format!("{}/{}", point.activation, point.name?);
            Some((name, takes(point.id).map(|taken| taken.exclusive_bytes)))
        };
        let points = self.registry.points()?.into_iter().filter_map(named).collect();
        let space = self.store.space()?;
        let percent = self.settings.overcommit.filter(|_| self.store.alone());
        Ok(Usage {
            promised_bytes_max: percent.map(|percent| bound(space.total, percent)),
            space,
            images,
            points,
            promised_bytes: promised(&facts.activations),
            activations,
            garbage_bytes: garbage(&facts, &[]).iter().map(bytes).sum(),
            condemned: condemned::reasons(&facts.volumes).into_keys().collect(),
            foreign: facts.foreign,
        })
    }
}

impl Host {
    /// Whether so many bytes more may be promised to an activation, by the setting `overcommit`. A directory promises
    /// nothing. The caller holds the store's lock.
    ///
    /// # Errors
    /// [`Error::NoSpace`] naming the bound.
    pub(crate) fn may_promise(&self, name: &str, more: u64) -> Result<(), Error> {
        let Some(percent) = self.settings.overcommit.filter(|_| self.store.alone()) else {
            return Ok(());
        };
        let bound = bound(self.store.space()?.total, percent);
        let free = bound.saturating_sub(promised(&self.registry.activations()?));
        if more <= free {
            return Ok(());
        }
        let what = format!(
            "activation {name:?}: the setting overcommit = {percent} lets all activations have {bound} bytes together"
        );
        // What a collection frees is promised to nobody.
        Err(Error::NoSpace { what, needs: more, free, garbage: None })
    }
}

impl ActivationUse {
    fn of(row: &Activation, taken: Option<&Taken>) -> ActivationUse {
        ActivationUse {
            name: row.name.clone(),
            size_bytes: row.bytes,
            mapped_bytes: taken.map(|taken| taken.exclusive_bytes + taken.shared_bytes),
            shared_bytes: taken.map(|taken| taken.shared_bytes),
            exclusive_bytes: taken.map(|taken| taken.exclusive_bytes),
        }
    }
}

/// What may be promised of so many bytes.
pub(crate) fn bound(total: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// The sizes of all activations together, bytes.
pub(crate) fn promised(activations: &[Activation]) -> u64 {
    activations.iter().fold(0, |sum, row| sum.saturating_add(row.bytes))
}
