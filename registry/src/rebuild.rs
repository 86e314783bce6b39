//! A registry made anew from facts that somebody gathered from the store. Nothing is believed that
//! does not follow: every chain id is recomputed, every parent must be there.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::write::now_ms;
use crate::{
    Activation, ActivationState, Blob, Digest, Error, Image, ImageLayer, KnownBy, Registry, Source,
    StoreBinding, Write, chain_id,
};

/// All that a registry can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The store.
    pub store: StoreBinding,
    /// The store's own transaction id.
    pub transaction_id: u64,
    /// Above every id that the store has.
    pub next_id: u32,
    /// The key of the store's seals: a secret.
    pub seal_key: Option<Digest>,
    /// The template's id.
    pub template: u32,
    /// The template's size, bytes.
    pub template_bytes: u64,
    /// Sealed layers, parents before children.
    pub layers: Vec<LayerFact>,
    /// Images that are known by name.
    pub images: Vec<ImageFact>,
    /// Snapshots that are not sealed.
    pub activations: Vec<ActivationFact>,
}

/// One sealed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerFact {
    /// Its volume.
    pub id: u32,
    /// The volume below.
    pub parent: u32,
    /// Size of the volume, bytes.
    pub bytes: u64,
    /// Chain id of the stack.
    pub chain: Digest,
    /// sha256 of the plain tar.
    pub diff: Digest,
    /// Bytes of the plain tar.
    pub diff_size: u64,
    /// sha256 of the blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest over the whole tree.
    pub tree: Option<Digest>,
    /// Entries of the layer.
    pub entries: u64,
    /// Bytes of file content in the layer.
    pub content_bytes: u64,
    /// Where it was read from.
    pub source: Option<SourceFact>,
}

/// Where a layer was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFact {
    /// The server.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// Its entity tag.
    pub etag: Option<String>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFact {
    /// Its reference.
    pub reference: String,
    /// The server.
    pub endpoint: String,
    /// The volume of the whole stack.
    pub top: u32,
    /// Whether it is kept whatever room is needed.
    pub pinned: bool,
}

/// One activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationFact {
    /// Its name.
    pub name: String,
    /// The image that was asked for.
    pub reference: String,
    /// The sealed volume it is a snapshot of.
    pub origin: u32,
    /// Its id.
    pub id: u32,
    /// Size, bytes.
    pub bytes: u64,
    /// Whether it is, or is to be, mapped.
    pub active: bool,
}

impl Registry {
    /// Makes a registry at `path`, which must not exist, of `facts`.
    ///
    /// # Errors
    /// [`Error::InTheWay`]; [`Error::NotFacts`] naming what does not follow; then nothing is left.
    pub fn rebuild(path: &Path, facts: &Facts) -> Result<Registry, Error> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::InTheWay { path: path.into() });
        }
        let made = Registry::open(path).and_then(|mut registry| {
            registry.write(|write| write.put_facts(facts))?;
            Ok(registry)
        });
        if made.is_err() {
            for suffix in ["", "-wal", "-shm"] {
                let mut file = path.as_os_str().to_owned();
                file.push(suffix);
                // The error is the news.
                drop(std::fs::remove_file(file));
            }
        }
        made
    }
}

impl Write<'_> {
    fn put_facts(&self, facts: &Facts) -> Result<(), Error> {
        let now = now_ms();
        self.run(
            "UPDATE meta SET store_kind = ?1, store_id = ?2, transaction_id = ?3, next_id = ?4,
               seal_key = ?5",
            (
                &facts.store.kind,
                &facts.store.id,
                facts.transaction_id,
                facts.next_id,
                facts.seal_key.map(|key| key.hex()),
            ),
        )?;
        self.run(
            "INSERT INTO volumes(id, role, build, bytes, state, own_bytes, created_ms, sealed_ms)
             VALUES (?1, 'template', 'template', ?2, 'sealed', 0, ?3, ?3)",
            (facts.template, facts.template_bytes, now),
        )?;
        let mut chains: HashMap<u32, Option<Digest>> = HashMap::from([(facts.template, None)]);
        for layer in &facts.layers {
            let why = |why: &str| Error::NotFacts {
                subject: format!("volume {}", layer.id),
                why: why.into(),
            };
            let below = *chains.get(&layer.parent).ok_or_else(|| why("its parent is not there"))?;
            if chain_id(below, layer.diff) != layer.chain {
                return Err(why("its chain id is not its parent's and its own"));
            }
            if layer.id >= facts.next_id {
                return Err(why("its id is not below the next"));
            }
            if chains.insert(layer.id, Some(layer.chain)).is_some() {
                return Err(why("it is there twice"));
            }
            self.put_layer(layer, now)?;
        }
        for image in &facts.images {
            self.put_image_fact(image, facts, &chains)?;
        }
        for row in &facts.activations {
            if row.id >= facts.next_id || !chains.contains_key(&row.origin) {
                return Err(Error::NotFacts {
                    subject: format!("activation {}", row.name),
                    why: "its id or origin is not the store's".into(),
                });
            }
            let state =
                if row.active { ActivationState::Active } else { ActivationState::Inactive };
            self.put_activation(&Activation {
                name: row.name.clone(),
                reference: row.reference.clone(),
                origin: row.origin,
                id: row.id,
                bytes: row.bytes,
                state,
            })?;
        }
        let detail = format!(
            "{} layers, {} images, {} activations",
            facts.layers.len(),
            facts.images.len(),
            facts.activations.len()
        );
        self.event("store", None, Some("rebuilt"), &detail)
    }

    fn put_layer(&self, layer: &LayerFact, now: i64) -> Result<(), Error> {
        let blob = Blob {
            digest: layer.blob,
            diff: layer.diff,
            size: layer.size,
            diff_size: layer.diff_size,
        };
        self.put_blob(&blob)?;
        if let Some((source, etag)) =
            layer.source.as_ref().and_then(|source| Some((source, source.etag.clone()?)))
        {
            let (endpoint, bucket) = (source.endpoint.clone(), source.bucket.clone());
            let row = Source { endpoint, bucket, etag, size: layer.size };
            self.put_source(&row, &source.key, &blob, KnownBy::Read)?;
        }
        self.run(
            "INSERT INTO volumes(id, role, parent, build, bytes, state, chain, diff, blob, tree,
               own_bytes, entries, content_bytes, created_ms, sealed_ms)
             VALUES (?1, 'layer', ?2, ?3, ?4, 'sealed', ?5, ?6, ?7, ?8, ?9, ?10, ?9, ?11, ?11)",
            (
                layer.id,
                layer.parent,
                format!("rebuilt {}", layer.id),
                layer.bytes,
                layer.chain.hex(),
                layer.diff.hex(),
                layer.blob.hex(),
                layer.tree.map(|tree| tree.hex()),
                layer.content_bytes,
                layer.entries,
                now,
            ),
        )
        .map(drop)
    }

    fn put_image_fact(
        &self,
        image: &ImageFact,
        facts: &Facts,
        chains: &HashMap<u32, Option<Digest>>,
    ) -> Result<(), Error> {
        let mut layers = Vec::new();
        let mut at = image.top;
        while let Some(layer) = facts.layers.iter().find(|layer| layer.id == at) {
            let source = layer.source.as_ref();
            layers.push(ImageLayer {
                key: source.map_or_else(|| format!("volume {at}"), |source| source.key.clone()),
                etag: source.and_then(|source| source.etag.clone()),
                size: layer.size,
                digest: layer.blob,
                volume: at,
            });
            at = layer.parent;
        }
        layers.reverse();
        let Some(Some(chain)) = chains.get(&image.top) else {
            return Err(Error::NotFacts {
                subject: format!("image {}", image.reference),
                why: format!("volume {} is no sealed layer", image.top),
            });
        };
        self.put_image(&Image {
            reference: image.reference.clone(),
            endpoint: image.endpoint.clone(),
            chain: *chain,
            layers,
            pinned: image.pinned,
            used: 0,
        })?;
        self.pin_image(&image.reference, image.pinned).map(drop)
    }
}
