//! The layers that are here, as a placer sees them.

use std::collections::HashMap;

use registry::{Digest, Role, Volume, VolumeId, VolumeState};
use serde::Serialize;

/// One sealed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LayerLine {
    chain: Option<Digest>,
    parent: Option<Digest>,
    diff: Option<Digest>,
    digest: Option<Digest>,
    own_bytes: u64,
}

/// The sealed layers of these volumes, in their order. Each volume is looked at twice, however many there are.
pub(crate) fn layers<'v>(volumes: impl Iterator<Item = &'v Volume> + Clone) -> Vec<LayerLine> {
    let chain = |volume: &Volume| match &volume.state {
        VolumeState::Sealed(seal) => seal.chain,
        VolumeState::Building | VolumeState::Deleting => None,
    };
    let chains: HashMap<VolumeId, Option<Digest>> =
        volumes.clone().map(|volume| (volume.id, chain(volume))).collect();
    let layer = |volume: &Volume| match &volume.state {
        VolumeState::Sealed(seal) if volume.role == Role::Layer => Some(LayerLine {
            chain: seal.chain,
            parent: volume.parent.and_then(|below| chains.get(&below).copied().flatten()),
            diff: seal.diff,
            digest: seal.blob,
            own_bytes: seal.own_bytes,
        }),
        VolumeState::Sealed(_) | VolumeState::Building | VolumeState::Deleting => None,
    };
    volumes.filter_map(layer).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use registry::Seal;

    use super::*;

    fn digest(n: u32) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Digest(bytes)
    }

    #[test]
    fn a_host_with_many_layers_is_told_in_one_pass_over_them() {
        let volume = |id: u32| Volume {
            id: VolumeId::new(id),
            role: if id == 1 { Role::Template } else { Role::Layer },
            parent: (id > 1).then(|| VolumeId::new(id - 1)),
            build: String::new(),
            bytes: 1,
            state: match id % 10 {
                7 => VolumeState::Building,
                _ => VolumeState::Sealed(Seal {
                    chain: (id > 1).then(|| digest(id)),
                    diff: None,
                    blob: None,
                    tree: None,
                    blocks: None,
                    own_bytes: u64::from(id),
                    entries: 0,
                    content_bytes: 0,
                }),
            },
            condemned: None,
        };
        let volumes: Vec<Volume> = (1..=3000).map(volume).collect();
        let looked = Cell::new(0);
        let seen = volumes.iter().inspect(|_| looked.set(looked.get() + 1));
        let lines = layers(seen);
        assert_eq!((lines.len(), looked.get()), (2699, 6000));
        let parent =
            |id: u32| lines.iter().find(|line| line.chain == Some(digest(id))).unwrap().parent;
        // On the template, on a layer, on one that is being built.
        assert_eq!((parent(2), parent(4), parent(8)), (None, Some(digest(3)), None));
    }
}
