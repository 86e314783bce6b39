//! The sealed layers: by the rows of the registry that was there, else by records with a good seal. A layer
//! whose own record is damaged is told, and what stands on it is kept.

use std::collections::{BTreeMap, HashMap};

use registry::{
    Digest, Facts, ImageFact, LayerFact, LeftoverFact, SourceFact, UnsaidFact, Volume, VolumeId,
    VolumeState, chain_id,
};

use crate::store::seal::SealRecord;
use crate::verbs::rebuild::foundation::{Foundation, Look};
use crate::verbs::rebuild::known::Known;
use crate::verbs::rebuild::unread::Unread;

/// What is below a layer.
#[derive(Clone, Copy)]
enum Below {
    /// A sound layer of this chain id; none: the template.
    Sound(Option<Digest>),
    /// One of which it is not known what it holds, or that is condemned.
    Bad,
    /// Nothing that a layer could stand on.
    Never,
}

/// The layers as they are found.
pub(super) struct Layers<'a> {
    look: &'a Look<'a>,
    foundation: &'a Foundation,
    known: &'a Known,
    below: HashMap<VolumeId, Below>,
    /// Volumes with facts.
    pub(super) facts: Vec<LayerFact>,
    /// Those of which only is known that they are layers.
    pub(super) unsaid: Vec<UnsaidFact>,
    /// What was being built, or removed.
    pub(super) leftovers: Vec<LeftoverFact>,
    /// Images that the records name.
    pub(super) images: Vec<ImageFact>,
    /// The image of which a volume is the last layer, by its own record.
    pub(super) titles: BTreeMap<VolumeId, String>,
    /// What is not as it should be.
    pub(super) told: Vec<Unread>,
}

impl<'a> Layers<'a> {
    pub(super) fn find(
        look: &'a Look<'a>,
        foundation: &'a Foundation,
        known: &'a Known,
        serials: Option<VolumeId>,
    ) -> Layers<'a> {
        let mut found = Layers {
            look,
            foundation,
            known,
            below: HashMap::from([(foundation.template, Below::Sound(None))]),
            facts: Vec::new(),
            unsaid: Vec::new(),
            leftovers: Vec::new(),
            images: Vec::new(),
            titles: BTreeMap::new(),
            told: Vec::new(),
        };
        if let Some(serials) = serials {
            found.below.insert(serials, Below::Never);
        }
        for (row, _) in &known.activations {
            if known.activation(look, row.id).is_some() {
                found.below.insert(row.id, Below::Never);
            }
        }
        // An id is never used again, so a parent comes before its children.
        for id in look.ids() {
            if !found.below.contains_key(&id) {
                found.one(id);
            }
        }
        found
    }

    /// The template.
    pub(super) fn template(&self) -> VolumeId {
        self.foundation.template
    }

    /// Whether a volume has a row of a layer, or is the template.
    pub(super) fn has(&self, id: VolumeId) -> bool {
        match self.below.get(&id) {
            Some(Below::Sound(_) | Below::Bad) => true,
            Some(Below::Never) | None => self.leftovers.iter().any(|row| row.id == id),
        }
    }

    /// A row for a volume that something stands on which has one; false where it can have none.
    pub(super) fn need(&mut self, id: VolumeId, why: &str) -> bool {
        match self.below.get(&id) {
            Some(Below::Sound(_) | Below::Bad) => return true,
            Some(Below::Never) => return self.has(id),
            None => {}
        }
        let bytes = self.known.volumes.get(&id).map_or(self.foundation.bytes, |(row, _)| row.bytes);
        let condemned = why.to_owned();
        let reserved_at = self.known.volumes.get(&id).and_then(|(_, at)| *at);
        let reserved_at = reserved_at.or_else(|| self.look.made_at(id));
        self.unsaid.push(UnsaidFact { id, bytes, condemned, reserved_at });
        self.below.insert(id, Below::Bad);
        let then = "it is kept, with all that stands on it, and never handed out again: `orchestrate \
                    ensure IMAGE` builds its images anew, and `orchestrate gc` takes it when nothing stands \
                    on it";
        self.told.push(Unread::of(id, format!("a layer, and {why}: {then}")));
        true
    }

    fn one(&mut self, id: VolumeId) {
        match self.known.volume(self.look, id) {
            Some(row) => match &row.state {
                VolumeState::Sealed(_) => self.by_row(row),
                // Killed between its record and its row, it is whole.
                VolumeState::Building => {
                    if !self.by_record(id) {
                        self.leftover(row, false);
                    }
                }
                VolumeState::Deleting => self.leftover(row, true),
            },
            None => {
                self.by_record(id);
            }
        }
    }

    fn leftover(&mut self, row: &Volume, deleting: bool) {
        self.leftovers.push(LeftoverFact {
            id: row.id,
            build: row.build.clone(),
            bytes: row.bytes,
            deleting,
            reserved_at: self.look.made_at(row.id),
        });
        self.below.insert(row.id, Below::Never);
    }

    /// What is below `child`, which says that it stands on `parent`.
    fn below(&mut self, parent: VolumeId, child: VolumeId) -> Below {
        if !self.below.contains_key(&parent) && parent < child {
            let why = match self.look.made.contains_key(&parent) {
                true => "its seal record is damaged",
                false => "it is gone from the store",
            };
            self.need(parent, why);
        }
        self.below.get(&parent).copied().unwrap_or(Below::Never)
    }

    /// What the registry that was there says stands, whatever the volume does.
    fn by_row(&mut self, row: &Volume) {
        let VolumeState::Sealed(seal) = &row.state else { return };
        let (Some(chain), Some(diff), Some(parent), Some(blob)) =
            (seal.chain, seal.diff, row.parent, self.known.blob(row.id))
        else {
            // An earlier rebuild knew no more.
            let why =
                row.condemned.as_deref().unwrap_or("the registry that was there knew no more");
            self.need(row.id, why);
            return;
        };
        let key = self.foundation.key.as_ref();
        if key.is_some() && self.look.own(row.id, key).is_none() {
            let why = "it has no good seal record. What the registry that was there says of it stands; \
                       `orchestrate verify` reads whether its tree is as it was sealed, and `registry backup \
                       FILE` keeps what a rebuild without a registry would not find";
            self.told.push(Unread::of(row.id, why));
        }
        let below = self.below(parent, row.id);
        let mut condemned = row.condemned.clone();
        match below {
            Below::Sound(below) if chain_id(below, diff) == chain => {}
            Below::Sound(_) | Below::Never if condemned.is_none() => {
                condemned = Some("its chain id is not its parent's and its own".into());
            }
            Below::Sound(_) | Below::Bad | Below::Never => {}
        }
        let parent = match below {
            Below::Sound(_) | Below::Bad => parent,
            Below::Never => self.foundation.template,
        };
        let fact = LayerFact {
            id: row.id,
            parent,
            bytes: row.bytes,
            chain,
            diff,
            diff_size: blob.diff_size,
            blob: blob.digest,
            size: blob.size,
            tree: seal.tree,
            blocks: seal.blocks,
            entries: seal.entries,
            content_bytes: seal.content_bytes,
            source: None,
            condemned,
            reserved_at: self.look.made_at(row.id),
        };
        self.put(fact, below);
    }

    fn put(&mut self, mut fact: LayerFact, below: Below) {
        if let (Below::Bad, None) = (below, &fact.condemned) {
            fact.condemned =
                Some(format!("it stands on volume {}, which is condemned", fact.parent));
        }
        let as_below = match &fact.condemned {
            None => Below::Sound(Some(fact.chain)),
            Some(_) => Below::Bad,
        };
        self.below.insert(fact.id, as_below);
        self.facts.push(fact);
    }

    /// What the volume says of itself, under the store's key; whether it does.
    fn by_record(&mut self, id: VolumeId) -> bool {
        let Some(seal_record) = self.look.own(id, self.foundation.key.as_ref()) else {
            return false;
        };
        let SealRecord { layer: Some(layer), parent: Some(parent), bytes, origin, .. } =
            seal_record
        else {
            return false;
        };
        let below = self.below(parent, id);
        match below {
            Below::Sound(below) if chain_id(below, layer.diff) == layer.chain => {}
            Below::Bad => {}
            Below::Sound(_) | Below::Never => {
                self.told.push(Unread::of(
                    id,
                    format!("its seal record does not follow from volume {parent} below it"),
                ));
                return false;
            }
        }
        if let Some((origin, image)) =
            origin.as_ref().and_then(|origin| Some((origin, origin.image.clone()?)))
        {
            self.titles.insert(id, image.clone());
            // One that stands on what is not known has to be built anew.
            if let Below::Sound(_) = below {
                self.images.retain(|fact| fact.reference != image);
                let endpoint = origin.endpoint.clone();
                let manifest = origin.manifest;
                let (top, pinned) = (id, false);
                self.images.push(ImageFact { reference: image, endpoint, top, pinned, manifest });
            }
        }
        let source = origin.map(|origin| SourceFact {
            endpoint: origin.endpoint,
            bucket: origin.bucket,
            key: origin.key,
            etag: origin.etag,
            md5: origin.md5,
        });
        let fact = LayerFact {
            id,
            parent,
            bytes,
            chain: layer.chain,
            diff: layer.diff,
            diff_size: layer.diff_size,
            blob: layer.blob,
            size: layer.size,
            tree: layer.tree,
            blocks: layer.blocks,
            entries: layer.entries,
            content_bytes: layer.content,
            source,
            condemned: None,
            reserved_at: self.look.made_at(id),
        };
        self.put(fact, below);
        true
    }
}

/// Of several layers of one stack the youngest sound one counts; what stands on the others is condemned with
/// them.
pub(super) fn condemn_twins(facts: &mut Facts) {
    let layers = &mut facts.layers;
    for at in 0..layers.len() {
        let (id, parent) = (layers[at].id, layers[at].parent);
        let below =
            layers[..at].iter().any(|layer| layer.id == parent && layer.condemned.is_some());
        if layers[at].condemned.is_none() && below {
            layers[at].condemned =
                Some(format!("it stands on volume {parent}, which is condemned"));
        }
        // A younger twin was built when this one was not taken any more; or nobody knew of it.
        let chain = layers[at].chain;
        if layers[at].condemned.is_none() {
            let why = format!("volume {id} is of the same stack, and younger");
            let mut older: Vec<VolumeId> = Vec::new();
            for layer in &mut layers[..at] {
                let twin = layer.chain == chain && layer.condemned.is_none();
                if twin || (layer.condemned.is_none() && older.contains(&layer.parent)) {
                    let on = format!("it stands on volume {}, which is condemned", layer.parent);
                    layer.condemned = Some(if twin { why.clone() } else { on });
                    older.push(layer.id);
                }
            }
        }
    }
}
