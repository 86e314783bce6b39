//! A registry made anew from facts that somebody gathered from the store. Nothing is believed that
//! does not follow: every chain id is recomputed, every parent must be there.

pub(crate) mod inherit;

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, chain_id};
use crate::error::Error;
use crate::facts::catalogs::CatalogFact;
use crate::facts::condemned::tombstone;
use crate::facts::configs::Made;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rebuild::inherit::Memory;
use crate::rows::{Activation, Blob, Image, ImageLayer, Source, StoreBinding, WhenClosed};
use crate::state::ActivationState;
use crate::write::{Write, now_ms};

/// All that a registry can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The store.
    pub store: StoreBinding,
    /// The store's own transaction id.
    pub transaction_id: u64,
    /// Above every id that the store has.
    pub next_id: VolumeId,
    /// The key of the store's seals: a secret.
    pub seal_key: Option<Digest>,
    /// The template's id.
    pub template: VolumeId,
    /// The template's size, bytes.
    pub template_bytes: u64,
    /// The store's number when the template was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_reserved_at: Option<u64>,
    /// Sealed layers, parents before children.
    pub layers: Vec<LayerFact>,
    /// Layers of which only is known that they are some, and that they are not to be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaid: Vec<UnsaidFact>,
    /// Volumes that were being built, or removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<LeftoverFact>,
    /// Images that are known by name.
    pub images: Vec<ImageFact>,
    /// Snapshots that are not sealed.
    pub activations: Vec<ActivationFact>,
    /// Ids of points of activations, and of disks that a restore has put aside, whose rows in the registry that was
    /// there stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<VolumeId>,
    /// Ids of disks that arrive, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<VolumeId>,
    /// The newest catalogs that were believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub catalogs: Vec<CatalogFact>,
    /// The volume that keeps their serials; none: there is no such volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_volume: Option<VolumeId>,
}

/// One sealed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerFact {
    /// Its volume.
    pub id: VolumeId,
    /// The volume below.
    pub parent: VolumeId,
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
    /// Digest over the blocks of its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Digest>,
    /// Entries of the layer.
    pub entries: u64,
    /// Bytes of file content in the layer.
    pub content_bytes: u64,
    /// Where it was read from.
    pub source: Option<SourceFact>,
    /// Why it is never built on or handed out again; none: it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condemned: Option<String>,
    /// The store's number when its volume was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<u64>,
}

/// A layer that others stand on, and of which nothing else is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsaidFact {
    /// Its volume.
    pub id: VolumeId,
    /// Size of the volume, bytes, as far as it is known.
    pub bytes: u64,
    /// Why it is never built on or handed out again.
    pub condemned: String,
    /// The store's number when its volume was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<u64>,
}

/// A volume that was being built, or removed: recovery takes it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftoverFact {
    /// The volume.
    pub id: VolumeId,
    /// What was being built on its parent.
    pub build: String,
    /// Size of the volume, bytes.
    pub bytes: u64,
    /// Whether it was being removed; else it was being built.
    pub deleting: bool,
    /// The store's number when it was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<u64>,
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
    /// Whether that was seen to be the MD5 of what came; none where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<bool>,
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
    pub top: VolumeId,
    /// Whether it is kept whatever room is needed.
    pub pinned: bool,
    /// sha256 of its manifest, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
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
    pub origin: VolumeId,
    /// Its id.
    pub id: VolumeId,
    /// Size, bytes.
    pub bytes: u64,
    /// Whether it is, or is to be, mapped.
    pub active: bool,
    /// Whether it was up when the host went down, and nobody has looked at it since.
    #[serde(default)]
    pub unchecked: bool,
    /// What becomes of it as soon as nobody has it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_closed: Option<WhenClosed>,
    /// Whether its device refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether its file system was made without a journal.
    #[serde(default)]
    pub no_journal: bool,
    /// The server that its image came from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether somebody was removing it.
    #[serde(default)]
    pub deleting: bool,
    /// The store's number when its volume was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<u64>,
}

impl Registry {
    /// Makes a registry at `path`, which must not exist, of `facts`.
    ///
    /// # Errors
    /// [`Error::InTheWay`]; [`Error::NotFacts`] naming what does not follow; then nothing is left.
    pub fn rebuild(path: &Path, facts: &Facts) -> Result<Registry, Error> {
        Registry::rebuild_after(path, facts, None).map(|(made, _)| made)
    }

    /// As [`Registry::rebuild`], and takes over what `old` knew beside the facts. Gives what of that could not
    /// be taken over.
    ///
    /// # Errors
    /// As [`Registry::rebuild`].
    pub fn rebuild_after(
        path: &Path,
        facts: &Facts,
        old: Option<&Registry>,
    ) -> Result<(Registry, Vec<String>), Error> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::InTheWay { path: path.into() });
        }
        let memory = old.map(Memory::of);
        let made = Registry::open(path).and_then(|mut registry| {
            let lost = registry.write(|write| {
                memory.as_ref().map_or(Ok(()), |memory| write.take_over_history(memory))?;
                write.put_facts(facts)?;
                let stand = [("points", &*facts.points), ("arrivals", &*facts.arrivals)];
                let lost = memory
                    .as_ref()
                    .map_or(Ok(Vec::new()), |memory| write.take_over_memory(memory, &stand));
                for fact in &facts.catalogs {
                    write.put_catalog_fact(fact)?;
                }
                lost
            })?;
            // Who puts the file in another's place takes the file alone.
            registry.settle_log()?;
            Ok((registry, lost))
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
            "INSERT INTO volumes(id, role, build, bytes, state, own_bytes, created_ms, sealed_ms, reserved_at)
             VALUES (?1, 'template', 'template', ?2, 'sealed', 0, ?3, ?3, ?4)",
            (facts.template, facts.template_bytes, now, facts.template_reserved_at),
        )?;
        let mut chains: HashMap<VolumeId, Option<Digest>> = HashMap::from([(facts.template, None)]);
        for row in &facts.unsaid {
            self.put_unsaid(row, facts.template, now)?;
            chains.insert(row.id, None);
        }
        for layer in &facts.layers {
            let why = |why: &str| Error::NotFacts {
                subject: format!("volume {}", layer.id),
                why: why.into(),
            };
            let below = *chains.get(&layer.parent).ok_or_else(|| why("its parent is not there"))?;
            // One that is never handed out may stand on what is not known.
            if layer.condemned.is_none() && chain_id(below, layer.diff) != layer.chain {
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
        for row in &facts.leftovers {
            self.put_leftover(row, facts.template, now)?;
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
            let state = match (row.deleting, row.active) {
                (true, _) => ActivationState::Deleting,
                (false, true) => ActivationState::Active,
                (false, false) => ActivationState::Inactive,
            };
            self.put_activation(&Activation {
                name: row.name.clone(),
                reference: row.reference.clone(),
                origin: row.origin,
                id: row.id,
                bytes: row.bytes,
                state,
                boot: None,
                unchecked: row.unchecked,
                when_closed: row.when_closed,
                endpoint: row.endpoint.clone(),
                ttl: None,
                read_only: row.read_only,
                no_journal: row.no_journal,
                former: None,
            })?;
            self.run(
                "UPDATE activations SET reserved_at = ?2 WHERE id = ?1",
                (row.id, row.reserved_at),
            )?;
        }
        // By what the record of its image's layer says; what the registry that was there knows goes before it.
        self.run(
            "UPDATE activations SET manifest = (SELECT manifest FROM images JOIN volumes USING (chain)
               WHERE images.reference = activations.reference AND volumes.id = activations.origin)",
            [],
        )?;
        if let Some(id) = facts.serial_volume {
            if id >= facts.next_id || chains.contains_key(&id) {
                return Err(Error::NotFacts {
                    subject: format!("volume {id}"),
                    why: "it cannot be the volume of believed serials".into(),
                });
            }
            self.put_serial_volume(id)?;
        }
        let detail = format!(
            "{} layers, {} images, {} activations",
            facts.layers.len(),
            facts.images.len(),
            facts.activations.len()
        );
        self.event("store", None, Some("rebuilt"), &detail)
    }

    fn put_unsaid(&self, row: &UnsaidFact, template: VolumeId, now: i64) -> Result<(), Error> {
        let stand_in = tombstone(row.id).hex();
        self.run(
            "INSERT INTO volumes(id, role, parent, build, bytes, state, chain, diff, own_bytes, created_ms,
               sealed_ms, condemned, reserved_at)
             VALUES (?1, 'layer', ?2, ?3, ?4, 'sealed', ?5, ?5, 0, ?6, ?6, ?7, ?8)",
            (
                row.id,
                template,
                format!("rebuilt {}", row.id),
                row.bytes,
                stand_in,
                now,
                &row.condemned,
                row.reserved_at,
            ),
        )
        .map(drop)
    }

    fn put_leftover(&self, row: &LeftoverFact, template: VolumeId, now: i64) -> Result<(), Error> {
        let state = if row.deleting { "deleting" } else { "building" };
        self.run(
            "INSERT INTO volumes(id, role, parent, build, bytes, state, created_ms, reserved_at)
             VALUES (?1, 'layer', ?2, ?3, ?4, ?5, ?6, ?7)",
            (row.id, template, &row.build, row.bytes, state, now, row.reserved_at),
        )
        .map(drop)
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
            self.put_read(&row, &source.key, &blob, source.md5)?;
        }
        let chain = match layer.condemned {
            Some(_) => tombstone(layer.id),
            None => layer.chain,
        };
        self.run(
            "INSERT INTO volumes(id, role, parent, build, bytes, state, chain, diff, blob, tree,
               own_bytes, entries, content_bytes, created_ms, sealed_ms, condemned, sealed_chain,
               reserved_at, blocks)
             VALUES (?1, 'layer', ?2, ?3, ?4, 'sealed', ?5, ?6, ?7, ?8, ?9, ?10, ?9, ?11, ?11, ?12, ?13, ?14,
               ?15)",
            (
                layer.id,
                layer.parent,
                format!("rebuilt {}", layer.id),
                layer.bytes,
                chain.hex(),
                layer.diff.hex(),
                layer.blob.hex(),
                layer.tree.map(|tree| tree.hex()),
                layer.content_bytes,
                layer.entries,
                now,
                &layer.condemned,
                layer.condemned.as_ref().map(|_| layer.chain.hex()),
                layer.reserved_at,
                layer.blocks.map(|blocks| blocks.hex()),
            ),
        )
        .map(drop)
    }

    fn put_image_fact(
        &self,
        image: &ImageFact,
        facts: &Facts,
        chains: &HashMap<VolumeId, Option<Digest>>,
    ) -> Result<(), Error> {
        let mut layers = Vec::new();
        let mut at = image.top;
        // A shared layer says where it was first read, which may be another image's object.
        let own = |source: &&SourceFact| {
            let object = format!("s3://{}/{}", source.bucket, source.key);
            object == image.reference
                || (image.reference.ends_with('/') && object.starts_with(&image.reference))
        };
        while let Some(layer) = facts.layers.iter().find(|layer| layer.id == at) {
            let source = layer.source.as_ref().filter(own);
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
        if image.manifest.is_some() {
            let made = Made { manifest: image.manifest, ..Made::default() };
            self.put_made(&image.reference, &made, None)?;
        }
        self.pin_image(&image.reference, image.pinned).map(drop)
    }
}
