//! The states of a volume and of an activation, and every edge between them.
//!
//! A state is a durable FACT, and exists only where recovery does something different in it:
//!
//! ```text
//!                  reserve            seal               remove           forget
//!   volume      ·─────────▶ Building ──────▶ Sealed ───────────▶ Deleting ──────▶ ·
//!                              └──────────────────────────────────▲  discard
//!
//!                  reserve            map        unmap
//!   activation  ·─────────▶ Reserved ─────▶ Active ◀────▶ Inactive
//!                              │               │  map         │ remove
//!                              └───────────────┴──────────────┴─────▶ Deleting ──▶ ·
//! ```
//!
//! Building: the id is ours, the store may or may not have it, its content means nothing: recovery
//! deletes it. Sealed: applied, verified, unmounted, on disk; may be an origin and is never active
//! again. Reserved: as Building, for an activation. Active: mapped under its name, or to be mapped
//! again after a reboot. Inactive: not mapped, its writes are kept.

use crate::digest::Digest;

/// What sealing a volume proved.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Seal {
    /// The stack's chain id; none for the template.
    pub chain: Option<Digest>,
    /// sha256 of the plain tar; none for the template.
    pub diff: Option<Digest>,
    /// sha256 of the blob that was applied; none for the template.
    pub blob: Option<Digest>,
    /// Digest over the whole tree as it stood at the seal, where the store computes one.
    pub tree: Option<Digest>,
    /// Digest over the blocks of its device as they stood at the seal, where the store keeps images.
    pub blocks: Option<Digest>,
    /// Bytes of the store that this volume has and its parent has not, at the seal.
    pub own_bytes: u64,
    /// Entries that the layer held.
    pub entries: u64,
    /// Bytes of file content that the layer held.
    pub content_bytes: u64,
}

/// The state of a volume: the template or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// The id is reserved; the content is undefined.
    Building,
    /// The content is proven and never changes again.
    Sealed(Seal),
    /// On its way out: the store may or may not have it still.
    Deleting,
}

/// The state of an activation: a writable snapshot of an image's top layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationState {
    /// The id is reserved; nobody was told of it.
    Reserved,
    /// Handed out: mapped under its name, or to be mapped again after a reboot.
    Active,
    /// Not mapped; what was written to it is kept.
    Inactive,
    /// On its way out: the store may or may not have it still.
    Deleting,
}

impl VolumeState {
    /// The word in the table.
    pub fn word(&self) -> &'static str {
        match self {
            VolumeState::Building => "building",
            VolumeState::Sealed(_) => "sealed",
            VolumeState::Deleting => "deleting",
        }
    }

    /// Whether the edge from this state to `next` exists.
    pub fn may_become(&self, next: &VolumeState) -> bool {
        use VolumeState::{Building, Deleting, Sealed};
        match (self, next) {
            // Applied, verified, synced, unmounted.
            (Building, Sealed(_)) => true,
            // A failed or killed build is thrown away.
            (Building, Deleting) => true,
            // Nothing refers to it any more.
            (Sealed(_), Deleting) => true,
            // A sealed volume never changes, and a deleted one never comes back.
            (Building | Deleting, Building)
            | (Sealed(_), Building | Sealed(_))
            | (Deleting, Sealed(_) | Deleting) => false,
        }
    }
}

impl ActivationState {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            ActivationState::Reserved => "reserved",
            ActivationState::Active => "active",
            ActivationState::Inactive => "inactive",
            ActivationState::Deleting => "deleting",
        }
    }

    /// The state of a word in the table.
    pub fn from_word(word: &str) -> Option<ActivationState> {
        [
            ActivationState::Reserved,
            ActivationState::Active,
            ActivationState::Inactive,
            ActivationState::Deleting,
        ]
        .into_iter()
        .find(|state| state.word() == word)
    }

    /// Whether the edge from this state to `next` exists.
    pub fn may_become(self, next: ActivationState) -> bool {
        use ActivationState::{Active, Deleting, Inactive, Reserved};
        match (self, next) {
            // The snapshot exists and is mapped.
            (Reserved, Active) => true,
            // Unmapped on request, its writes kept; and mapped again.
            (Active, Inactive) | (Inactive, Active) => true,
            // Removed, or never finished.
            (Reserved | Active | Inactive, Deleting) => true,
            // Nobody was told of a reserved one, so it cannot be inactive.
            (Reserved, Inactive) => false,
            (Deleting, Reserved | Active | Inactive | Deleting) => false,
            (Reserved | Active | Inactive, Reserved) => false,
            (Active, Active) | (Inactive, Inactive) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal {
            chain: None,
            diff: None,
            blob: None,
            tree: None,
            blocks: None,
            own_bytes: 0,
            entries: 0,
            content_bytes: 0,
        }
    }

    #[test]
    fn a_volume_moves_only_forward() {
        let states = [VolumeState::Building, VolumeState::Sealed(seal()), VolumeState::Deleting];
        let edges: Vec<_> = states
            .iter()
            .flat_map(|from| states.iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.may_become(to))
            .map(|(from, to)| (from.word(), to.word()))
            .collect();
        assert_eq!(
            edges,
            [("building", "sealed"), ("building", "deleting"), ("sealed", "deleting")]
        );
    }

    #[test]
    fn an_activation_ends_only_by_deleting() {
        use ActivationState::{Active, Deleting, Inactive, Reserved};
        let states = [Reserved, Active, Inactive, Deleting];
        let edges: Vec<_> = states
            .iter()
            .flat_map(|from| states.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        assert_eq!(
            edges,
            [
                (Reserved, Active),
                (Reserved, Deleting),
                (Active, Inactive),
                (Active, Deleting),
                (Inactive, Active),
                (Inactive, Deleting)
            ]
        );
    }

    #[test]
    fn every_word_reads_back() {
        use ActivationState::{Active, Deleting, Inactive, Reserved};
        for state in [Reserved, Active, Inactive, Deleting] {
            assert_eq!(ActivationState::from_word(state.word()), Some(state));
        }
        assert_eq!(ActivationState::from_word("ready"), None);
    }
}
