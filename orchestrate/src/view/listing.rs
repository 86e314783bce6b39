//! What there is on this host, as `ls` and `show` tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use registry::{
    ActivationState, Digest, PointState, StoreBinding, VolumeId, VolumeState, WhenClosed,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::handover::device::Given;
use crate::host::Host;
use crate::plan::Mapping;
use crate::store::seam::Space;
use crate::verbs::label::{LabelFilter, Labels};
use crate::verbs::unsettled::Unsettled;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// Kind and identity of the store.
    pub store: StoreBinding,
    /// Its room, bytes.
    pub space: Space,
    /// Bytes of the distinct layers that are sealed, as they lie in the bucket.
    pub layer_bytes: u64,
    /// Bytes that the images' layers would be without sharing.
    pub unshared_bytes: u64,
    /// By reference.
    pub images: Vec<ImageLine>,
    /// By name.
    pub activations: Vec<ActivationLine>,
    /// What is not as its row says.
    #[serde(default)]
    pub unsettled: Vec<Unsettled>,
}

/// One image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageLine {
    /// `s3://bucket/prefix/`.
    pub image: String,
    /// Chain id of the stack.
    pub chain: Digest,
    /// From the lowest up.
    pub layers: Vec<LayerLine>,
    /// Names of its activations.
    pub activations: Vec<String>,
    /// sha256 of its manifest, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// sha256 of its config, where it has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    /// The platform that was chosen, where there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// By which keys of cosign's it was found to be signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<SignedLine>,
}

/// A signature that was verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedLine {
    /// sha256 of the public key, as DER.
    pub key: Digest,
    /// The file that has the key now; none: the settings have it no longer.
    pub file: Option<String>,
    /// The digest that was signed: the manifest's, or that of the index that it was chosen from.
    pub signed: Digest,
}

impl ImageLine {
    /// Whether this is a name of the image: its reference, or the digest of its manifest, or of its config where it
    /// came without a manifest.
    pub fn is_called(&self, name: &str) -> bool {
        let digest = self.manifest.or(self.config);
        self.image == name || digest.is_some_and(|digest| digest.to_string() == name)
    }
}

/// One layer of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerLine {
    /// Its object.
    pub key: String,
    /// Bytes of the object.
    pub bytes: u64,
    /// sha256 of the blob.
    pub digest: Digest,
    /// The sealed volume.
    pub volume: VolumeId,
    /// Bytes of the store that it added at its seal.
    pub own_bytes: u64,
    /// How many other images have this very layer.
    pub shared_with: usize,
    /// Why it is never handed out again; none: nothing was found wrong with it.
    #[serde(default)]
    pub condemned: Option<String>,
}

/// One activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivationLine {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its state.
    pub state: String,
    /// Whether it is mapped and usable now.
    pub mapped: bool,
    /// Its device, or its directory for `dir` stores.
    pub path: PathBuf,
    /// Its volume.
    pub volume: VolumeId,
    /// The sealed volume it is a snapshot of.
    pub origin: VolumeId,
    /// Why that one is never handed out again; none: nothing was found wrong with it.
    #[serde(default)]
    pub condemned: Option<String>,
    /// Its size, bytes.
    pub bytes: u64,
    /// Whether it was up when the host went down without a journal, and nobody has checked its file system since.
    #[serde(default)]
    pub unchecked: bool,
    /// The activation whose disk it was made a snapshot of, by its name then; none: it is one of its image's volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<String>,
    /// How many points its disk has.
    #[serde(default)]
    pub points: usize,
    /// What becomes of it as soon as nobody has it open.
    #[serde(default)]
    pub when_closed: Option<WhenClosed>,
    /// Why it may not come up, or runs and may not: its image is revoked, or blocked by the scan policy.
    #[serde(default)]
    pub barred: Option<String>,
    /// To whom its device is given, where somebody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Given>,
    /// Whether its device refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether its file system was made without a journal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_journal: bool,
    /// What is said of it.
    #[serde(default)]
    pub labels: Labels,
    /// For how long it is kept, seconds; none: until somebody removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// When that ends: wall clock, milliseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<i64>,
}

impl Listing {
    /// Only the activations with all of these labels; without images, which have none.
    pub fn only(&mut self, filters: &[LabelFilter]) {
        if filters.is_empty() {
            return;
        }
        self.images.clear();
        self.activations.retain(|line| filters.iter().all(|filter| filter.fits(&line.labels)));
        let shown = |subject: &str| {
            let name = subject.strip_prefix("activation ");
            name.is_some_and(|name| self.activations.iter().any(|line| line.name == name))
        };
        self.unsettled.retain(|found| shown(&found.subject));
    }
}

impl Host {
    /// What there is.
    pub fn list(&self) -> Result<Listing, Error> {
        let images = self.registry.images()?;
        let volumes = self.registry.volumes()?;
        let rows = self.registry.activations()?;
        let devices: BTreeMap<String, registry::Device> =
            self.registry.devices()?.into_iter().collect();
        let (mut labels, clock) = (self.registry.all_labels()?, self.clock()?);
        let forks: BTreeMap<String, registry::Fork> = self.registry.forks()?.into_iter().collect();
        let mut points = self.registry.points()?;
        points.retain(|point| point.name.is_some() && point.state == PointState::Kept);
        let mapped = self.store.mapped()?;
        let bars = self.judge().bars(&self.registry, &rows, &volumes)?;
        let live: BTreeSet<(&str, VolumeId)> = mapped
            .iter()
            .filter(|name| name.mapping == Mapping::Live)
            .map(|name| (name.name.as_str(), name.id))
            .collect();
        let sealed: BTreeMap<VolumeId, u64> = volumes
            .iter()
            .filter_map(|volume| match &volume.state {
                VolumeState::Sealed(seal) => Some((volume.id, seal.own_bytes)),
                VolumeState::Building | VolumeState::Deleting => None,
            })
            .collect();
        let condemned = crate::verbs::condemned::reasons(&volumes);
        // An image has a volume once: each is the snapshot of the one below.
        let mut users: BTreeMap<VolumeId, usize> = BTreeMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            *users.entry(layer.volume).or_default() += 1;
        }
        let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in &rows {
            names.entry(&row.reference).or_default().push(row.name.clone());
        }
        let mut made: BTreeMap<String, registry::Made> =
            self.registry.all_made()?.into_iter().collect();
        let signatures = self.registry.all_signatures()?;
        let signed_by = |made: Option<&registry::Made>| {
            let manifest = made.and_then(|made| made.manifest);
            let of = signatures.iter().filter(|(of, _)| Some(*of) == manifest);
            let line = of.map(|(_, signature)| SignedLine {
                key: signature.key,
                file: self.settings.trust.cosign.file_of(signature.key).map(str::to_owned),
                signed: signature.signed,
            });
            line.collect()
        };
        let lines = images
            .iter()
            .map(|image| (image, made.remove(&image.reference)))
            .map(|(image, made)| ImageLine {
                signed_by: signed_by(made.as_ref()),
                manifest: made.as_ref().and_then(|made| made.manifest),
                config: made.as_ref().and_then(|made| made.config),
                platform: made.and_then(|made| made.platform),
                image: image.reference.clone(),
                chain: image.chain,
                layers: image
                    .layers
                    .iter()
                    .map(|layer| LayerLine {
                        key: layer.key.clone(),
                        bytes: layer.size,
                        digest: layer.digest,
                        volume: layer.volume,
                        own_bytes: sealed.get(&layer.volume).copied().unwrap_or_default(),
                        shared_with: users[&layer.volume] - 1,
                        condemned: condemned.get(&layer.volume).cloned(),
                    })
                    .collect(),
                activations: names.remove(image.reference.as_str()).unwrap_or_default(),
            })
            .collect();
        let mut layers: Vec<_> =
            images.iter().flat_map(|image| &image.layers).map(|l| (l.volume, l.size)).collect();
        let unshared_bytes = layers.iter().map(|(_, size)| size).sum();
        layers.sort_unstable();
        layers.dedup();
        Ok(Listing {
            store: self.store.binding(),
            space: self.store.space()?,
            layer_bytes: layers.iter().map(|(_, size)| size).sum(),
            unshared_bytes,
            unsettled: self.unsettled()?,
            images: lines,
            activations: rows
                .iter()
                .map(|row| ActivationLine {
                    name: row.name.clone(),
                    image: row.reference.clone(),
                    state: row.state.word().into(),
                    mapped: row.state == ActivationState::Active
                        && live.contains(&(row.name.as_str(), row.id)),
                    path: self.store.path(&row.name),
                    volume: row.id,
                    origin: row.origin,
                    condemned: condemned.get(&row.origin).cloned(),
                    bytes: row.bytes,
                    unchecked: row.unchecked,
                    forked_from: forks.get(&row.name).map(|fork| fork.from.clone()),
                    points: points.iter().filter(|point| point.activation == row.name).count(),
                    when_closed: row.when_closed,
                    barred: bars
                        .get(&row.name)
                        .filter(|bar| {
                            bar.why.is_verdict() || !live.contains(&(row.name.as_str(), row.id))
                        })
                        .map(|bar| bar.why.to_string()),
                    device: devices.get(&row.name).map(Given::from),
                    read_only: row.read_only,
                    no_journal: row.no_journal,
                    labels: labels.remove(&row.id).unwrap_or_default(),
                    ttl_s: row.ttl.map(|ttl| ttl.seconds),
                    ends_ms: row.ttl.map(|ttl| clock.end_of(&ttl)),
                })
                .collect(),
        })
    }
}
