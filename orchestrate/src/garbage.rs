//! What is garbage: rows in, removals out. Pure.
//!
//! Roots are images and activations. What nothing stands on goes from the top down; where room is
//! to be made, the image that was not asked for longest goes first, unless it is pinned or in use.

use std::collections::HashSet;

use registry::{Activation, Image, Role, Volume, VolumeState};
use serde::{Deserialize, Serialize};

/// What a collection is decided by.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Rows; nobody is building while this is looked at.
    pub volumes: Vec<Volume>,
    /// Rows.
    pub images: Vec<Image>,
    /// Rows.
    pub activations: Vec<Activation>,
    /// Ids that the store has and no row knows.
    pub foreign: Vec<u32>,
    /// Bytes that the store has taken.
    pub used: u64,
    /// Bytes that may stay taken; none: no room is to be made.
    pub bound: Option<u64>,
}

/// One removal. They are in the order in which they can be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Sweep {
    /// An image is forgotten to make room; its layers follow, where only it had them.
    Image {
        /// Its reference.
        image: String,
    },
    /// A layer that nothing stands on.
    Volume {
        /// The volume.
        volume: u32,
        /// What it was measured to take, bytes.
        bytes: u64,
    },
    /// An id in the store that is not ours. Only on demand.
    Foreign {
        /// The id.
        volume: u32,
    },
}

/// What goes. With `purge_foreign` also what is not ours.
pub fn garbage(facts: &Facts, purge_foreign: bool) -> Vec<Sweep> {
    let mut images: Vec<&Image> = facts.images.iter().collect();
    images.sort_by_key(|image| (image.used, &image.reference));
    let mut sweeps = Vec::new();
    let mut gone = unused(facts, &images);
    let room = |gone: &[&Volume]| gone.iter().map(|volume| own_bytes(volume)).sum::<u64>();
    while facts.bound.is_some_and(|bound| facts.used.saturating_sub(room(&gone)) > bound) {
        let in_use =
            |image: &Image| facts.activations.iter().any(|a| a.reference == image.reference);
        let Some(oldest) = images.iter().position(|image| !image.pinned && !in_use(image)) else {
            break;
        };
        let image = images.remove(oldest);
        sweeps.push(Sweep::Image { image: image.reference.clone() });
        gone = unused(facts, &images);
    }
    sweeps.extend(
        gone.iter().map(|volume| Sweep::Volume { volume: volume.id, bytes: own_bytes(volume) }),
    );
    if purge_foreign {
        sweeps.extend(facts.foreign.iter().map(|id| Sweep::Foreign { volume: *id }));
    }
    sweeps
}

/// Sealed layers that no image of `images` and no activation stands on, children first.
fn unused<'a>(facts: &'a Facts, images: &[&Image]) -> Vec<&'a Volume> {
    let used = in_use(
        &facts.volumes,
        images
            .iter()
            .flat_map(|image| &image.layers)
            .map(|layer| layer.volume)
            .chain(facts.activations.iter().map(|activation| activation.origin)),
    );
    let garbage = |volume: &&Volume| {
        volume.role == Role::Layer
            && matches!(volume.state, VolumeState::Sealed(_))
            && !used.contains(&volume.id)
    };
    let mut gone: Vec<&Volume> = facts.volumes.iter().filter(garbage).collect();
    // An id is never used again, so a child's is above its parent's.
    gone.sort_by_key(|volume| std::cmp::Reverse(volume.id));
    gone
}

/// The volumes that `roots`, or a build, stand on.
pub(crate) fn in_use(volumes: &[Volume], roots: impl Iterator<Item = u32>) -> HashSet<u32> {
    let mut used = HashSet::new();
    let building = volumes.iter().filter(|volume| volume.state == VolumeState::Building);
    let mut look: Vec<u32> = roots.chain(building.filter_map(|volume| volume.parent)).collect();
    while let Some(id) = look.pop() {
        if used.insert(id)
            && let Ok(at) = volumes.binary_search_by_key(&id, |volume| volume.id)
        {
            look.extend(volumes[at].parent);
        }
    }
    used
}

/// What a volume was measured to take when it was sealed, bytes.
pub(crate) fn own_bytes(volume: &Volume) -> u64 {
    match &volume.state {
        VolumeState::Sealed(seal) => seal.own_bytes,
        VolumeState::Building | VolumeState::Deleting => 0,
    }
}

#[cfg(test)]
mod tests {
    use registry::{ActivationState, Digest, ImageLayer, Seal};

    use super::*;

    fn volume(id: u32, parent: Option<u32>) -> Volume {
        let role = if parent.is_some() { Role::Layer } else { Role::Template };
        let state = VolumeState::Sealed(Seal {
            chain: None,
            diff: None,
            blob: None,
            tree: None,
            own_bytes: 100,
            entries: 0,
            content_bytes: 0,
        });
        Volume { id, role, parent, build: String::new(), bytes: 1, state }
    }

    fn image(reference: &str, volumes: &[u32], used: u64) -> Image {
        let layers = volumes
            .iter()
            .map(|volume| ImageLayer {
                key: "k".into(),
                etag: None,
                size: 1,
                digest: Digest([0; 32]),
                volume: *volume,
            })
            .collect();
        Image {
            reference: reference.into(),
            endpoint: String::new(),
            chain: Digest([0; 32]),
            layers,
            pinned: false,
            used,
        }
    }

    fn activation(reference: &str, origin: u32) -> Activation {
        let (name, state) = ("n".into(), ActivationState::Active);
        Activation { name, reference: reference.into(), origin, id: 99, bytes: 1, state }
    }

    /// Template 1; a = 2,3; b = 2,4; 5 on 4 and 6 on 1 are nobody's.
    fn facts() -> Facts {
        Facts {
            volumes: vec![
                volume(1, None),
                volume(2, Some(1)),
                volume(3, Some(2)),
                volume(4, Some(2)),
                volume(5, Some(4)),
                volume(6, Some(1)),
            ],
            images: vec![image("a", &[2, 3], 10), image("b", &[2, 4], 5)],
            foreign: vec![77],
            used: 700,
            ..Facts::default()
        }
    }

    fn ids(sweeps: &[Sweep]) -> Vec<u32> {
        sweeps
            .iter()
            .filter_map(|sweep| match sweep {
                Sweep::Volume { volume, .. } | Sweep::Foreign { volume } => Some(*volume),
                Sweep::Image { .. } => None,
            })
            .collect()
    }

    #[test]
    fn only_what_nothing_stands_on_goes_and_children_first() {
        assert_eq!(ids(&garbage(&facts(), false)), [6, 5]);
        let mut kept = facts();
        kept.activations.push(activation("gone", 5));
        assert_eq!(ids(&garbage(&kept, false)), [6]);
    }

    #[test]
    fn the_foundation_of_a_build_and_the_template_stay() {
        let mut facts = facts();
        let state = VolumeState::Building;
        facts.volumes.push(Volume { state, ..volume(7, Some(5)) });
        facts.images.clear();
        assert_eq!(ids(&garbage(&facts, false)), [6, 3]);
    }

    #[test]
    fn room_is_made_by_the_image_not_asked_for_longest() {
        let mut facts = facts();
        facts.bound = Some(450);
        let sweeps = garbage(&facts, false);
        assert_eq!(sweeps[0], Sweep::Image { image: "b".into() });
        assert_eq!(ids(&sweeps), [6, 5, 4]);
        // The pinned and the used stay, even if the bound is missed.
        facts.images[1].pinned = true;
        facts.activations.push(activation("a", 3));
        assert_eq!(ids(&garbage(&facts, false)), [6, 5]);
        facts.bound = Some(0);
        facts.images[1].pinned = false;
        facts.activations.clear();
        assert_eq!(ids(&garbage(&facts, false)), [6, 5, 4, 3, 2]);
    }

    #[test]
    fn what_is_not_ours_goes_only_on_demand() {
        assert_eq!(ids(&garbage(&facts(), true)), [6, 5, 77]);
    }
}
