//! `send` and `receive`: the disk of an activation travels as a stream of blocks.
//!
//! Neither is a run. A send changes nothing but for a snapshot that goes with it. A receive commits an arrival before
//! anything of it is in the store, holds a lock for as long as it lives, and gives the volume to an activation in one
//! commit, after all of it was compared.

pub(crate) mod arrivals;
pub(crate) mod at_work;
pub(crate) mod brought;
pub(crate) mod land;
pub(crate) mod patient;
pub(crate) mod receive;
pub(crate) mod send;

use registry::{Digest, Point, StoreBinding};
use sha2::{Digest as _, Sha256};

/// What tells a point from every other anywhere: for one that was received, what the sender's has.
pub(crate) fn identity(store: &StoreBinding, point: &Point) -> Digest {
    if let Some(identity) = point.identity {
        return identity;
    }
    // An id is never used again in one store; the time is for a registry that was lost and made anew.
    let mut hash = Sha256::new();
    hash.update(b"veneer point 1\0");
    for part in [store.kind.as_str(), store.id.as_str()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(point.id.get().to_le_bytes());
    hash.update(point.created_ms.to_le_bytes());
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use registry::{PointState, VolumeId};

    use super::*;

    #[test]
    fn points_differ_by_store_volume_and_time_and_a_received_one_has_the_senders() {
        let point = Point {
            id: VolumeId::new(7),
            activation: "a".into(),
            name: Some("p".into()),
            bytes: 1,
            state: PointState::Kept,
            disk_state: None,
            created_ms: 5,
            identity: None,
        };
        let store = |id: &str| StoreBinding { kind: "thin".into(), id: id.into() };
        let own = identity(&store("x"), &point);
        assert_eq!(own, identity(&store("x"), &Point { name: None, ..point.clone() }));
        for other in [
            identity(&store("y"), &point),
            identity(&store("x"), &Point { id: VolumeId::new(8), ..point.clone() }),
            identity(&store("x"), &Point { created_ms: 6, ..point.clone() }),
        ] {
            assert_ne!(own, other);
        }
        let received = Point { identity: Some(own), ..point };
        assert_eq!(identity(&store("z"), &received), own);
    }
}
