//! What stands on a volume that is condemned. Rows in, names out.

use std::collections::BTreeMap;

use registry::{Activation, Image, Role, Volume, VolumeId, VolumeState};
use serde::{Deserialize, Serialize};

/// What stands on condemned volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The volumes, those on which nothing stands among them.
    pub condemned: Vec<Condemned>,
    /// Images, by reference: an `ensure` builds them anew.
    pub images: Vec<String>,
    /// Activations, by name: they hold blocks of a condemned volume.
    pub activations: Vec<String>,
}

impl Standing {
    /// Who needs an operator; none when nothing stands on a condemned volume.
    pub fn advice(&self) -> Option<String> {
        let ids: Vec<String> = self.condemned.iter().map(|line| line.volume.to_string()).collect();
        let mut text = match (self.images.is_empty(), self.activations.is_empty()) {
            (true, true) => return None,
            _ => format!("condemned volumes {}", ids.join(", ")),
        };
        if !self.images.is_empty() {
            let images = self.images.join(", ");
            text += &format!("; under {images}: `orchestrate ensure IMAGE` builds it again");
        }
        if !self.activations.is_empty() {
            let names = self.activations.join(", ");
            text += &format!(
                "; under the activations {names}: copy out what you need, `orchestrate rm` them and \
                 activate again"
            );
        }
        Some(text)
    }
}

/// What stands on the condemned among `volumes`.
pub(crate) fn standing(
    volumes: &[Volume],
    images: &[Image],
    activations: &[Activation],
) -> Standing {
    let condemned: Vec<Condemned> = volumes
        .iter()
        .filter(|row| row.role == Role::Layer && matches!(row.state, VolumeState::Sealed(_)))
        .filter_map(|row| Some(Condemned { volume: row.id, why: row.condemned.clone()? }))
        .collect();
    let bad = |id: VolumeId| condemned.iter().any(|line| line.volume == id);
    let on_bad = |image: &&Image| image.layers.iter().any(|layer| bad(layer.volume));
    let images = images.iter().filter(on_bad).map(|image| image.reference.clone()).collect();
    let activations = activations.iter().filter(|row| bad(row.origin));
    let activations = activations.map(|row| row.name.clone()).collect();
    Standing { condemned, images, activations }
}

/// With these volumes, what is a snapshot of them: it shares their blocks.
pub(crate) fn with_descendants(
    volumes: &[Volume],
    bad: &BTreeMap<VolumeId, String>,
) -> BTreeMap<VolumeId, String> {
    let mut all = bad.clone();
    // An id is never used again, so a parent comes before its children.
    for row in volumes.iter().filter(|row| row.role == Role::Layer) {
        let Some(parent) = row.parent.filter(|parent| all.contains_key(parent)) else { continue };
        all.entry(row.id)
            .or_insert_with(|| format!("it stands on volume {parent}, which is condemned"));
    }
    all
}

/// A condemned volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// The volume.
    pub volume: VolumeId,
    /// Why.
    pub why: String,
}
