//! The activations: by the rows of the registry that was there, else what carries a good record of a layer
//! below it. Whoever has an activation may have written over that, also with a good one of another layer that
//! was his: it is believed only of which of the stacks the volume itself is.

use std::collections::HashSet;

use registry::{Activation, ActivationFact, ActivationState, Facts, Role, VolumeId};

use crate::plan::mapped::Mapped;
use crate::store::seal::{self, SealRecord};
use crate::store::seam::Made;
use crate::verbs::named::check_name;
use crate::verbs::rebuild::foundation::{Foundation, Look};
use crate::verbs::rebuild::known::Known;
use crate::verbs::rebuild::layers::Layers;
use crate::verbs::rebuild::unread::Unread;

/// What an activation's own bytes say of where it comes from.
enum Said {
    /// A record with a good seal, of a layer that was there before it.
    Layer(Box<SealRecord>),
    /// A record that is not one of this store, or not one that it can have.
    Other,
    /// None.
    Nothing,
}

fn said(look: &Look<'_>, foundation: &Foundation, id: VolumeId) -> Said {
    let bytes = look.record(id);
    match foundation.key.as_ref().and_then(|key| SealRecord::read(&bytes, Some(key))) {
        Some(seal_record) if seal_record.id < id && seal_record.layer.is_some() => {
            Said::Layer(Box::new(seal_record))
        }
        Some(_) => Said::Other,
        None if seal::is_record(&bytes) => Said::Other,
        None => Said::Nothing,
    }
}

/// Whether it is a snapshot of the template: a build that never ended.
fn is_build(look: &Look<'_>, foundation: &Foundation, id: VolumeId) -> bool {
    let seal_record =
        foundation.key.as_ref().and_then(|key| SealRecord::read(&look.record(id), Some(key)));
    seal_record.is_some_and(|seal_record| seal_record.role == Role::Template)
}

/// All that is found of them.
pub(super) fn find(
    look: &Look<'_>,
    foundation: &Foundation,
    known: &Known,
    layers: &mut Layers<'_>,
    facts: &Facts,
    mapped: &[Mapped],
) -> Vec<ActivationFact> {
    let mut found: Vec<ActivationFact> = Vec::new();
    for (row, reserved) in &known.activations {
        let gone = match (look.made.get(&row.id), look.is_of(row.id, *reserved)) {
            (None, _) => Some("is gone from the store"),
            (Some(_), false) => Some("has another one's volume"),
            (Some(_), true) => None,
        };
        match gone {
            None => found.push(by_row(look, known, layers, row)),
            Some(_) if row.state == ActivationState::Deleting => {}
            Some(why) => {
                let why = format!("the activation of the registry that was there {why}");
                layers
                    .told
                    .push(Unread { name: Some(row.name.clone()), ..Unread::of(row.id, why) });
            }
        }
    }
    let mut names: HashSet<String> =
        known.activations.iter().map(|(row, _)| row.name.clone()).collect();
    let taken: HashSet<VolumeId> = found.iter().map(|fact| fact.id).collect();
    // A layer whose own record is damaged is known by what stands on it, before it is taken for one of those.
    for id in look.ids().filter(|id| !taken.contains(id)) {
        if let Said::Layer(seal_record) = said(look, foundation, id)
            && !layers.has(id)
        {
            origin_of(look, layers, &seal_record);
        }
    }
    for id in look.ids() {
        let has_row = taken.contains(&id)
            || layers.has(id)
            || facts.serial_volume == Some(id)
            || facts.points.contains(&id)
            || facts.arrivals.contains(&id);
        if has_row || is_build(look, foundation, id) {
            continue;
        }
        let device = mapped.iter().find(|mapped| mapped.id == id);
        if let Some(fact) = by_record(look, foundation, layers, facts, id, device, &names) {
            names.insert(fact.name.clone());
            found.push(fact);
        }
    }
    found
}

/// What the registry that was there says stands, whatever is written on the volume.
fn by_row(
    look: &Look<'_>,
    known: &Known,
    layers: &mut Layers<'_>,
    row: &Activation,
) -> ActivationFact {
    let why = match look.made.contains_key(&row.origin) {
        true => "its seal record is damaged",
        false => "it is gone from the store",
    };
    // Another volume has come to have that id.
    let reserved = known.volumes.get(&row.origin).and_then(|(_, reserved)| *reserved);
    let other = look.made.contains_key(&row.origin) && !look.is_of(row.origin, reserved);
    let origin = match !other && layers.need(row.origin, why) {
        true => row.origin,
        false => {
            let why = format!(
                "the layer that it stands on, volume {}, is gone and another has its id: it is kept as it is",
                row.origin
            );
            layers.told.push(Unread { name: Some(row.name.clone()), ..Unread::of(row.id, why) });
            layers.template()
        }
    };
    let (active, deleting) = match row.state {
        ActivationState::Active => (true, false),
        ActivationState::Inactive => (false, false),
        // Nobody was told of what was only reserved.
        ActivationState::Reserved | ActivationState::Deleting => (false, true),
    };
    ActivationFact {
        name: row.name.clone(),
        reference: row.reference.clone(),
        origin,
        id: row.id,
        bytes: row.bytes,
        active,
        unchecked: row.unchecked,
        when_closed: row.when_closed,
        read_only: row.read_only,
        no_journal: row.no_journal,
        endpoint: row.endpoint.clone(),
        deleting,
        reserved_at: look.made_at(row.id),
    }
}

fn by_record(
    look: &Look<'_>,
    foundation: &Foundation,
    layers: &mut Layers<'_>,
    facts: &Facts,
    id: VolumeId,
    device: Option<&Mapped>,
    names: &HashSet<String>,
) -> Option<ActivationFact> {
    let said = said(look, foundation, id);
    // A directory store keeps itself what it has made; a pool has others' thins, too.
    let ours = look.store.keeps_made() && matches!(look.made.get(&id), Some(Made::At(_)));
    let given = device.map(|device| &device.name).filter(|name| check_name(name).is_ok());
    let name = given.filter(|name| !names.contains(*name)).cloned();
    let name = name.unwrap_or_else(|| free_name(id, names));
    let tell = |layers: &mut Layers<'_>, why: String| {
        let name = Some(name.clone());
        layers.told.push(Unread { name, ..Unread::of(id, why) });
    };
    let kept = format!(
        "it is kept as activation {name:?}; copy out what you need, then `orchestrate rm {name}` and activate \
         again"
    );
    let (origin, reference) = match said {
        Said::Layer(seal_record) => match origin_of(look, layers, &seal_record) {
            Some(bad) if !bad.is_empty() => {
                tell(layers, format!("it stands on volume {}, and {bad}: {kept}", seal_record.id));
                let image = seal_record.origin.and_then(|origin| origin.image);
                (seal_record.id, image.unwrap_or_else(|| format!("volume {}", seal_record.id)))
            }
            Some(_) => {
                let image = facts.images.iter().find(|image| image.top == seal_record.id);
                let image = image.map(|image| image.reference.clone());
                (seal_record.id, image.unwrap_or_else(|| format!("volume {}", seal_record.id)))
            }
            None => {
                let why =
                    format!("the layer that it names, volume {}, is not known", seal_record.id);
                tell(layers, format!("{why}: {kept}"));
                (foundation.template, format!("volume {id}"))
            }
        },
        Said::Other | Said::Nothing if ours => {
            tell(
                layers,
                format!(
                    "its record was written over, so of which image it is is not known: {kept}"
                ),
            );
            (foundation.template, format!("volume {id}"))
        }
        Said::Other if given.is_some() => {
            tell(
                layers,
                format!(
                    "its record was written over, so of which image it is is not known: {kept}"
                ),
            );
            (foundation.template, format!("volume {id}"))
        }
        Said::Other | Said::Nothing => {
            if let Some(device) = device {
                let why = "it is active and has no seal record of this store: not taken for ours, and left alone";
                let name = Some(device.name.clone());
                layers.told.push(Unread { name, ..Unread::of(id, why) });
            } else if matches!(said, Said::Other) {
                let why = format!(
                    "it has a record that is not good here: not taken for ours, and left alone. `thin look {id}` \
                     shows what it holds"
                );
                layers.told.push(Unread::of(id, why));
            }
            return None;
        }
    };
    let origin_bytes = facts.layers.iter().find(|layer| layer.id == origin).map_or(0, |l| l.bytes);
    let device_bytes = device.map_or(0, |device| device.bytes);
    let bytes = match device_bytes {
        // The owner may have written anything where the size of a file system is.
        0 => file_system_bytes(&look.record(id)),
        bytes => bytes,
    };
    Some(ActivationFact {
        name,
        reference,
        origin,
        id,
        bytes: bytes.max(origin_bytes),
        // Under whatever name it is up: it is in use.
        active: device.is_some(),
        unchecked: false,
        when_closed: None,
        read_only: device.is_some() && look.store.read_only(id).unwrap_or(false),
        no_journal: has_no_journal(&look.record(id)),
        endpoint: None,
        deleting: false,
        reserved_at: look.made_at(id),
    })
}

/// What is wrong with the layer that a record names, nothing where it is sound; none: it is no layer of now.
fn origin_of(look: &Look<'_>, layers: &mut Layers<'_>, seal_record: &SealRecord) -> Option<String> {
    if let Some(fact) = layers.facts.iter().find(|fact| fact.id == seal_record.id) {
        // The same layer, and not another that came to have its id.
        let same = seal_record.layer.as_ref().is_some_and(|layer| layer.chain == fact.chain);
        let bad = fact.condemned.as_ref().map(|why| format!("that is condemned ({why})"));
        return same.then(|| bad.unwrap_or_default());
    }
    if let Some(fact) = layers.unsaid.iter().find(|fact| fact.id == seal_record.id) {
        return Some(fact.condemned.clone());
    }
    // Its seal proves that the layer was ours; only the number, that it is the one of now.
    let why = "its seal record is damaged";
    let certain = seal_record.made.is_some() && seal_record.made == look.made_at(seal_record.id);
    (certain && layers.need(seal_record.id, why)).then(|| why.to_owned())
}

fn free_name(id: VolumeId, names: &HashSet<String>) -> String {
    let more = (2..).map(|more| format!("recovered-{id}-{more}"));
    let mut all = [format!("recovered-{id}")].into_iter().chain(more);
    all.find(|name| !names.contains(name)).unwrap_or_default()
}

/// Whether there is an ext4 after the seal record that names no journal (kernel's ext4/super.rst): `has_journal` is bit 2
/// of the compatible features.
fn has_no_journal(bytes: &[u8]) -> bool {
    const MAGIC: [u8; 2] = [0x53, 0xef];
    let magic = bytes.get(1024 + 0x38..1024 + 0x3a);
    magic == Some(&MAGIC) && bytes.get(1024 + 0x5c).is_some_and(|features| features & 4 == 0)
}

/// Size of the ext4 after the seal record, where the bytes go so far (kernel's ext4/super.rst).
fn file_system_bytes(bytes: &[u8]) -> u64 {
    let number = |at: usize| {
        let field = bytes.get(1024 + at..1024 + at + 4)?;
        Some(u32::from_le_bytes(field.try_into().ok()?))
    };
    let size = || {
        let magic = number(0x38)? & 0xffff;
        let (low, high, log) = (number(0x04)?, number(0x150)?, number(0x18)?);
        // 16 TiB is far beyond what a pool of ours holds: the owner may have written anything here.
        let blocks = u64::from(high & 0xffff) << 32 | u64::from(low);
        let bytes = blocks.checked_mul(1024 << log.min(6))?;
        (magic == 0xef53 && bytes <= 16 << 40).then_some(bytes)
    };
    size().unwrap_or(0)
}
