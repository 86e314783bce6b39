//! What comes next: facts in, step out. No I/O, no clock, nothing to fail.
//!
//! Every state and every edge: who takes it, what is durable before and after it is committed, and the steps that
//! recovery takes when the process was killed in the state `from`, where nothing of it is mapped and where it still
//! is. `states.rs` compares the table with the code. "-" is: no row. The edges themselves are in `registry::state`.
//!
//! | what | from | to | taken by | durable before | durable after | killed, not mapped | killed, mapped |
//! |---|---|---|---|---|---|---|---|
//! | volume | - | building | `verbs/build.rs` | the run | the id, the parent, the next transaction number | - | - |
//! | volume | building | sealed | `verbs/build.rs` | tree and seal record synced, volume closed, pool committed | chain id, digests and counts | Discard, Delete | Discard, Delete |
//! | volume | building | deleting | `verbs/volumes.rs` | nothing that counts | that its content means nothing | Discard, Delete | Discard, Delete |
//! | volume | sealed | deleting | `verbs/remove.rs` | no image, activation or volume needs it | that it goes | Keep | Unmap |
//! | volume | deleting | - | `verbs/volumes.rs` | the store has it no more | nothing; the id is not used again | Delete | Delete |
//! | activation | - | reserved | `verbs/activation.rs` | the run, the sealed origin | the name, the id, the next transaction number | - | - |
//! | activation | reserved | active | `verbs/activation.rs` | the snapshot exists and is mapped | that it was handed out | Condemn, Delete | Condemn, Delete |
//! | activation | reserved | deleting | `verbs/mend.rs` | nobody was told of it | that it goes | Condemn, Delete | Condemn, Delete |
//! | activation | active | inactive | `verbs/activation.rs` | it is unmapped, its writes are on disk | that it stays down | Map | Keep |
//! | activation | active | deleting | `verbs/remove.rs` | nobody has it open | that it goes, with its writes | Map | Keep |
//! | activation | inactive | active | `verbs/activation.rs` | it is mapped | that it is up, and of which boot | Keep | Unmap |
//! | activation | inactive | deleting | `verbs/remove.rs` | nobody has it open | that it goes, with its writes | Keep | Unmap |
//! | activation | deleting | - | `verbs/mend.rs` | the store has it no more | nothing; the name is free | Delete | Delete |
//! | run | - | queued | `serve/daemon.rs` | nothing | what was asked for | - | - |
//! | run | - | running | `host/run.rs` | nothing | what was asked for | - | - |
//! | run | queued | running | `host/run.rs` | what was asked for | one more begin | a daemon begins it | - |
//! | run | running | queued | `host/run.rs` | a safe point was reached | that nobody is at work on it | resumed, or failed | - |
//! | run | running | done | `host/run.rs` | all that was asked for | what it gave | resumed, or failed | - |
//! | run | running | failed | `host/run.rs` | what it began was discarded, or recovery will | the class and the message | resumed, or failed | - |
//! | run | running | cancelled | `host/run.rs` | what it began was discarded, or recovery will | that somebody took it back | resumed, or failed | - |
//! | run | queued | cancelled | `host/run.rs` | nothing was begun | that somebody took it back | a daemon begins it | - |
//! | run | queued | failed | `verbs/resume.rs` | nothing was begun | why it cannot be begun | a daemon begins it | - |
//!
//! A disk that was received becomes an activation that is inactive in one commit (`verbs/travel/land.rs`): it takes the
//! edges on the way at once, and nobody sees it reserved or active. Before that it is an arrival, which recovery leaves as
//! it is unless its maker died before its volume was there, or it was given up.
//!
//! A layer whose stack is sealed already is reused and not built. A run is a loop: load the facts, ask this module
//! for the next step, take it. Recovery ([`repair`]) asks the same functions. An interrupted run is resumed by
//! the same request, `recover` or a daemon unless it was begun five times without progress or died twice in one step.

pub(crate) mod class;
pub(crate) mod condemned;
pub(crate) mod disks;
pub(crate) mod epoch;
pub mod garbage;
pub mod guard;
pub(crate) mod mapped;
pub mod repair;
pub mod retry;
#[cfg(test)]
mod states;

use registry::{ActivationState, Digest, VolumeId, VolumeState, chain_id};

/// What to do for one layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStep {
    /// A sealed volume has this stack already.
    Reuse {
        /// The stack's chain id.
        chain: Digest,
        /// The sealed volume.
        volume: VolumeId,
    },
    /// It must be fetched and applied.
    Build {
        /// The stack's chain id, where the blob is known.
        chain: Option<Digest>,
    },
}

/// The stack below a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nothing but the template.
    Template,
    /// A stack of this chain id.
    Chain(Digest),
    /// A stack that holds a blob nobody has read yet.
    Unknown,
}

/// The step for one layer with `diff` (none: the blob was never read) on top of `below`.
pub fn layer(
    below: Below,
    diff: Option<Digest>,
    sealed: impl FnOnce(Digest) -> Option<VolumeId>,
) -> LayerStep {
    let chain = match (below, diff) {
        (Below::Template, Some(diff)) => Some(chain_id(None, diff)),
        (Below::Chain(parent), Some(diff)) => Some(chain_id(Some(parent), diff)),
        (Below::Unknown, _) | (_, None) => None,
    };
    match chain.and_then(|chain| Some((chain, sealed(chain)?))) {
        Some((chain, volume)) => LayerStep::Reuse { chain, volume },
        None => LayerStep::Build { chain },
    }
}

/// The steps for a whole image, from the lowest layer up.
pub fn image(
    diffs: &[Option<Digest>],
    sealed: impl Fn(Digest) -> Option<VolumeId>,
) -> Vec<LayerStep> {
    let mut below = Below::Template;
    diffs
        .iter()
        .map(|diff| {
            let step = layer(below, *diff, &sealed);
            below = match step {
                LayerStep::Reuse { chain, .. } | LayerStep::Build { chain: Some(chain) } => {
                    Below::Chain(chain)
                }
                LayerStep::Build { chain: None } => Below::Unknown,
            };
            step
        })
        .collect()
}

/// What is wanted of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Mapped under its name.
    Up,
    /// Not mapped, its writes kept.
    Down,
    /// Not there.
    Gone,
}

/// What the store has of an activation's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// None.
    Absent,
    /// Mapped and usable.
    Live,
    /// Half made: no table, or suspended.
    Half,
    /// Usable, under another name than its own: somebody renamed it.
    Astray,
}

/// One step for an activation. Each ends in a commit, so the next plan starts from facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationStep {
    /// Commit a row with a fresh id.
    Reserve,
    /// Snapshot the origin under the reserved id, map it, commit Active.
    Publish,
    /// Map it, commit Active where it was Inactive.
    Map,
    /// Take away the mapping; commit Inactive where it was Active and that is wished.
    Unmap,
    /// Commit Inactive.
    Rest,
    /// Commit Deleting.
    Condemn,
    /// Unmap, delete from the store, drop the row.
    Delete,
    /// It is as wished.
    Done,
}

/// The next step for an activation that is in `state` (none: no row), so that it becomes as wished.
pub fn activation(state: Option<ActivationState>, mapping: Mapping, wish: Wish) -> ActivationStep {
    use ActivationState::{Active, Deleting, Inactive, Reserved};
    use ActivationStep::{Condemn, Delete, Done, Map, Publish, Reserve, Rest, Unmap};
    match (wish, state, mapping) {
        // Whatever is wished, what is on its way out goes first.
        (Wish::Up | Wish::Down | Wish::Gone, Some(Deleting), _) => Delete,

        (Wish::Up, None, _) => Reserve,
        (Wish::Up, Some(Reserved), _) => Publish,
        (Wish::Up, Some(Active | Inactive), Mapping::Half | Mapping::Astray) => Unmap,
        (Wish::Up, Some(Active), Mapping::Live) => Done,
        (Wish::Up, Some(Active), Mapping::Absent) => Map,
        (Wish::Up, Some(Inactive), Mapping::Absent | Mapping::Live) => Map,

        (Wish::Down, None, _) => Done,
        // Nobody was told of it and nothing was written to it.
        (Wish::Down, Some(Reserved), _) => Condemn,
        (Wish::Down, Some(Active | Inactive), Mapping::Live | Mapping::Half | Mapping::Astray) => {
            Unmap
        }
        (Wish::Down, Some(Active), Mapping::Absent) => Rest,
        (Wish::Down, Some(Inactive), Mapping::Absent) => Done,

        (Wish::Gone, None, _) => Done,
        (Wish::Gone, Some(Reserved | Active | Inactive), _) => Condemn,
    }
}

/// What a row says should be, when nobody is at work on it.
pub fn settled(state: ActivationState) -> Wish {
    match state {
        // Its maker died before telling anyone.
        ActivationState::Reserved => Wish::Gone,
        ActivationState::Active => Wish::Up,
        ActivationState::Inactive => Wish::Down,
        ActivationState::Deleting => Wish::Gone,
    }
}

/// What to do about a volume that nobody is at work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// It is as it should be.
    Keep,
    /// Take away a mapping that a sealed volume must not have.
    Unmap,
    /// Commit Deleting: its content means nothing.
    Discard,
    /// Unmap, delete from the store, drop the row.
    Delete,
}

/// The next step for a volume that no living process is building.
pub fn volume(state: &VolumeState, mapping: Mapping) -> VolumeStep {
    match (state, mapping) {
        (VolumeState::Building, _) => VolumeStep::Discard,
        (VolumeState::Sealed(_), Mapping::Absent) => VolumeStep::Keep,
        (VolumeState::Sealed(_), Mapping::Live | Mapping::Half | Mapping::Astray) => {
            VolumeStep::Unmap
        }
        (VolumeState::Deleting, _) => VolumeStep::Delete,
    }
}

/// Registry and store must be of the same moment (DESIGN 4; LVM2 has the same rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// They agree.
    Agree,
    /// The registry committed an intent and the store has not the number yet.
    InFlight,
    /// One of them is of another day.
    Apart,
}

/// Compares the transaction ids.
pub fn fence(registry: u64, store: u64) -> Fence {
    if registry == store {
        Fence::Agree
    } else if registry.checked_sub(1) == Some(store) {
        Fence::InFlight
    } else {
        Fence::Apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    #[test]
    fn layers_are_reused_up_to_the_first_that_is_not_sealed() {
        let base = chain_id(None, digest(1));
        let steps = image(&[Some(digest(1)), Some(digest(2)), None, Some(digest(4))], |chain| {
            (chain == base).then_some(VolumeId::new(7))
        });
        let second = chain_id(Some(base), digest(2));
        assert_eq!(
            steps,
            [
                LayerStep::Reuse { chain: base, volume: VolumeId::new(7) },
                LayerStep::Build { chain: Some(second) },
                LayerStep::Build { chain: None },
                LayerStep::Build { chain: None },
            ]
        );
    }

    #[test]
    fn a_layer_above_a_gap_is_reused_when_its_stack_is_sealed() {
        let base = chain_id(None, digest(1));
        let top = chain_id(Some(base), digest(2));
        let steps = image(&[Some(digest(1)), Some(digest(2))], |chain| {
            (chain == top).then_some(VolumeId::new(9))
        });
        assert_eq!(steps[1], LayerStep::Reuse { chain: top, volume: VolumeId::new(9) });
    }

    /// Follows the plan as a run would, with a store that does what it is told.
    fn follow(
        mut state: Option<ActivationState>,
        mut mapping: Mapping,
        wish: Wish,
    ) -> Vec<ActivationStep> {
        use ActivationState::{Active, Deleting, Inactive, Reserved};
        let mut steps = Vec::new();
        for _ in 0..10 {
            let step = activation(state, mapping, wish);
            let before = state;
            match step {
                ActivationStep::Reserve => state = Some(Reserved),
                ActivationStep::Publish | ActivationStep::Map => {
                    (state, mapping) = (Some(Active), Mapping::Live);
                }
                ActivationStep::Unmap => mapping = Mapping::Absent,
                ActivationStep::Rest => state = Some(Inactive),
                ActivationStep::Condemn => state = Some(Deleting),
                ActivationStep::Delete => (state, mapping) = (None, Mapping::Absent),
                ActivationStep::Done => return steps,
            }
            if let (Some(from), Some(to)) = (before, state) {
                assert!(from == to || from.may_become(to), "{from:?} to {to:?} is no edge");
            }
            steps.push(step);
        }
        panic!("no end: {steps:?}");
    }

    #[test]
    fn every_wish_is_reached_from_everywhere_by_legal_edges() {
        use ActivationState::{Active, Deleting, Inactive, Reserved};
        for state in [None, Some(Reserved), Some(Active), Some(Inactive), Some(Deleting)] {
            for mapping in [Mapping::Absent, Mapping::Live, Mapping::Half, Mapping::Astray] {
                for wish in [Wish::Up, Wish::Down, Wish::Gone] {
                    follow(state, mapping, wish);
                }
            }
        }
    }

    #[test]
    fn an_active_and_mapped_activation_needs_nothing() {
        let steps = follow(Some(ActivationState::Active), Mapping::Live, Wish::Up);
        assert_eq!(steps, []);
    }

    #[test]
    fn after_a_reboot_an_active_one_is_mapped_and_not_made_anew() {
        let wish = settled(ActivationState::Active);
        let steps = follow(Some(ActivationState::Active), Mapping::Absent, wish);
        assert_eq!(steps, [ActivationStep::Map]);
    }

    #[test]
    fn the_fence_lets_one_commit_be_in_flight_and_no_more() {
        assert_eq!(fence(7, 7), Fence::Agree);
        assert_eq!(fence(8, 7), Fence::InFlight);
        assert_eq!(fence(7, 8), Fence::Apart);
        assert_eq!(fence(9, 7), Fence::Apart);
        assert_eq!(fence(0, 1), Fence::Apart);
    }
}
