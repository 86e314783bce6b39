//! What is garbage: rows in, removals out. Pure.
//!
//! Roots are images and activations. What nothing stands on goes from the top down; where room is
//! to be made, the image that was not asked for longest goes first, unless it is pinned or in use.

use std::collections::HashSet;

use registry::{Activation, Image, Role, Volume, VolumeId, VolumeState};
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
    /// Volumes that disks which arrive are to stand on.
    pub arriving: Vec<VolumeId>,
    /// Ids that the store has and no row knows.
    pub foreign: Vec<VolumeId>,
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
        volume: VolumeId,
        /// What it was measured to take, bytes.
        bytes: u64,
    },
    /// An id in the store that is not ours. Only where it was named.
    Foreign {
        /// The id.
        volume: VolumeId,
    },
}

/// What goes. Of what is not ours, only the ids that are named in `purge`.
pub fn garbage(facts: &Facts, purge: &[VolumeId]) -> Vec<Sweep> {
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
    let named = facts.foreign.iter().filter(|id| purge.contains(id));
    sweeps.extend(named.map(|id| Sweep::Foreign { volume: *id }));
    sweeps
}

/// Whether a removal that was planned by `then` is one by what is `now`.
pub fn still_garbage(now: &Facts, then: &Facts, sweep: &Sweep) -> bool {
    match sweep {
        Sweep::Image { image } => {
            let of =
                |facts: &Facts| facts.images.iter().find(|row| row.reference == *image).cloned();
            let in_use = now.activations.iter().any(|row| row.reference == *image);
            // Asked for or pinned since then, it is not what was planned to go.
            !in_use && of(now).is_some() && of(now) == of(then)
        }
        Sweep::Volume { volume, .. } => {
            let sealed = now
                .volumes
                .iter()
                .any(|row| row.id == *volume && matches!(row.state, VolumeState::Sealed(_)));
            sealed && !now.in_use(&now.images, &now.activations, []).contains(volume)
        }
        Sweep::Foreign { volume } => now.foreign.contains(volume),
    }
}

/// The layers of the image `reference`, from the top down: those that go with it, and those that
/// stay, since other images, activations or volumes stand on them.
pub fn with_image(facts: &Facts, reference: &str) -> (Vec<VolumeId>, Vec<VolumeId>) {
    let mut stack = facts.stack(reference);
    // Garbage on top of it keeps it too: only `gc` takes that away.
    let above = facts.volumes.iter().map(|volume| volume.id).filter(|id| !stack.contains(id));
    let others = facts.images.iter().filter(|image| image.reference != reference);
    let used = facts.in_use(others, &facts.activations, above);
    stack.reverse();
    stack.into_iter().partition(|id| !used.contains(id))
}

/// Sealed layers that no image of `images` and no activation stands on, children first.
fn unused<'a>(facts: &'a Facts, images: &[&Image]) -> Vec<&'a Volume> {
    let used = facts.in_use(images.iter().copied(), &facts.activations, []);
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

impl Facts {
    /// The volumes of an image, from the lowest up.
    pub(crate) fn stack(&self, reference: &str) -> Vec<VolumeId> {
        let image = self.images.iter().find(|image| image.reference == reference);
        let layers = image.into_iter().flat_map(|image| &image.layers);
        let mut stack: Vec<VolumeId> = layers.map(|layer| layer.volume).collect();
        stack.dedup();
        stack
    }

    /// The volumes that these images, activations or others stand on; or a build, or what a killed
    /// run has not taken out yet, for its row names its parent.
    pub(crate) fn in_use<'a>(
        &self,
        images: impl IntoIterator<Item = &'a Image>,
        activations: impl IntoIterator<Item = &'a Activation>,
        others: impl IntoIterator<Item = VolumeId>,
    ) -> HashSet<VolumeId> {
        let unsettled =
            self.volumes.iter().filter(|volume| !matches!(volume.state, VolumeState::Sealed(_)));
        let layers = images.into_iter().flat_map(|image| &image.layers);
        let mut look: Vec<VolumeId> = layers.map(|layer| layer.volume).collect();
        look.extend(activations.into_iter().map(|activation| activation.origin));
        look.extend(others);
        look.extend(&self.arriving);
        look.extend(unsettled.filter_map(|volume| volume.parent));
        let mut used = HashSet::new();
        while let Some(id) = look.pop() {
            if used.insert(id)
                && let Ok(at) = self.volumes.binary_search_by_key(&id, |volume| volume.id)
            {
                look.extend(self.volumes[at].parent);
            }
        }
        used
    }
}

/// What a volume was measured to take when it was sealed, bytes.
pub(crate) fn own_bytes(volume: &Volume) -> u64 {
    match &volume.state {
        VolumeState::Sealed(seal) => seal.own_bytes,
        VolumeState::Building | VolumeState::Deleting => 0,
    }
}

/// What a removal was measured to free, bytes.
pub(crate) fn bytes(sweep: &Sweep) -> u64 {
    match sweep {
        Sweep::Volume { bytes, .. } => *bytes,
        Sweep::Image { .. } | Sweep::Foreign { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use registry::{ActivationState, Digest, ImageLayer, Seal};

    use super::*;

    fn v(id: u32) -> VolumeId {
        VolumeId::new(id)
    }

    fn volume(id: u32, parent: Option<u32>) -> Volume {
        let role = if parent.is_some() { Role::Layer } else { Role::Template };
        let state = VolumeState::Sealed(Seal {
            chain: None,
            diff: None,
            blob: None,
            tree: None,
            blocks: None,
            own_bytes: 100,
            entries: 0,
            content_bytes: 0,
        });
        let (id, parent) = (v(id), parent.map(v));
        Volume { id, role, parent, build: String::new(), bytes: 1, state, condemned: None }
    }

    fn image(reference: &str, volumes: &[u32], used: u64) -> Image {
        let layers = volumes
            .iter()
            .map(|volume| ImageLayer {
                key: "k".into(),
                etag: None,
                size: 1,
                digest: Digest([0; 32]),
                volume: v(*volume),
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
        let (boot, unchecked, when_closed) = (None, false, None);
        let reference = reference.into();
        Activation {
            name,
            reference,
            origin: v(origin),
            id: v(99),
            bytes: 1,
            state,
            boot,
            unchecked,
            when_closed,
            endpoint: None,
            ttl: None,
            read_only: false,
            no_journal: false,
            former: None,
        }
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
            foreign: vec![v(77)],
            used: 700,
            ..Facts::default()
        }
    }

    #[test]
    fn what_an_arriving_disk_is_to_stand_on_stays() {
        let swept = |arriving| ids(&garbage(&Facts { arriving, ..facts() }, &[]));
        assert!(swept(Vec::new()).contains(&5));
        assert!(!swept(vec![v(5)]).contains(&5));
        let facts = Facts { arriving: vec![v(3)], ..facts() };
        assert!(with_image(&facts, "a").1.contains(&v(3)), "rm of its image takes it");
    }

    fn ids(sweeps: &[Sweep]) -> Vec<u32> {
        sweeps
            .iter()
            .filter_map(|sweep| match sweep {
                Sweep::Volume { volume, .. } | Sweep::Foreign { volume } => Some(volume.get()),
                Sweep::Image { .. } => None,
            })
            .collect()
    }

    #[test]
    fn only_what_nothing_stands_on_goes_and_children_first() {
        assert_eq!(ids(&garbage(&facts(), &[])), [6, 5]);
        let mut kept = facts();
        kept.activations.push(activation("gone", 5));
        assert_eq!(ids(&garbage(&kept, &[])), [6]);
    }

    #[test]
    fn the_foundation_of_what_is_half_made_or_half_gone_and_the_template_stay() {
        for state in [VolumeState::Building, VolumeState::Deleting] {
            let mut facts = facts();
            facts.volumes.push(Volume { state, ..volume(7, Some(5)) });
            facts.images.clear();
            assert_eq!(ids(&garbage(&facts, &[])), [6, 3]);
        }
    }

    #[test]
    fn with_an_image_go_the_layers_that_only_it_has() {
        let mut facts = facts();
        assert_eq!(with_image(&facts, "a"), (vec![v(3)], vec![v(2)]));
        // 5 stands on 4.
        assert_eq!(with_image(&facts, "b"), (vec![], vec![v(4), v(2)]));
        facts.volumes.retain(|volume| volume.id != v(5));
        facts.images.remove(0);
        facts.volumes.retain(|volume| volume.id != v(3));
        assert_eq!(with_image(&facts, "b"), (vec![v(4), v(2)], vec![]));
        facts.activations.push(activation("gone", 2));
        assert_eq!(with_image(&facts, "b"), (vec![v(4)], vec![v(2)]));
    }

    #[test]
    fn room_is_made_by_the_image_not_asked_for_longest() {
        let mut facts = facts();
        facts.bound = Some(450);
        let sweeps = garbage(&facts, &[]);
        assert_eq!(sweeps[0], Sweep::Image { image: "b".into() });
        assert_eq!(ids(&sweeps), [6, 5, 4]);
        // The pinned and the used stay, even if the bound is missed.
        facts.images[1].pinned = true;
        facts.activations.push(activation("a", 3));
        assert_eq!(ids(&garbage(&facts, &[])), [6, 5]);
        facts.bound = Some(0);
        facts.images[1].pinned = false;
        facts.activations.clear();
        assert_eq!(ids(&garbage(&facts, &[])), [6, 5, 4, 3, 2]);
    }

    #[test]
    fn what_is_not_ours_goes_only_where_it_is_named() {
        assert_eq!(ids(&garbage(&facts(), &[v(77)])), [6, 5, 77]);
        // One of ours is no foreign one, however it is named.
        assert_eq!(ids(&garbage(&facts(), &[v(2), v(78)])), [6, 5]);
    }

    #[test]
    fn what_was_planned_goes_only_if_nobody_came_between() {
        let then = Facts { bound: Some(450), ..facts() };
        let plan = garbage(&then, &[v(77)]);
        let left = |now: &Facts| -> Vec<u32> {
            let left: Vec<Sweep> =
                plan.iter().filter(|one| still_garbage(now, &then, one)).cloned().collect();
            ids(&left)
        };
        let mut now = then.clone();
        let b = now.images.remove(1);
        assert_eq!(left(&now), [6, 5, 4, 77]);
        // Published again, activated, built upon, or on its way out already.
        now.images.push(b.clone());
        assert_eq!(left(&now), [6, 5, 77]);
        now.activations.push(activation("gone", 5));
        assert_eq!(left(&now), [6, 77]);
        now.volumes.push(Volume { state: VolumeState::Building, ..volume(7, Some(6)) });
        now.foreign.clear();
        assert_eq!(left(&now), [0; 0]);
        // An image that was pinned or asked for meanwhile is another than was planned to go.
        let goes = Sweep::Image { image: "b".into() };
        assert!(still_garbage(&then, &then, &goes));
        for changed in [Image { pinned: true, ..b.clone() }, Image { used: 11, ..b }] {
            let now = Facts { images: vec![changed], ..then.clone() };
            assert!(!still_garbage(&now, &then, &goes));
        }
    }
}
