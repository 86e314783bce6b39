//! `rebuild`: a registry made anew from what the store's volumes say of themselves.
//!
//! A volume whose note names it and has a good seal is a sealed layer. One whose note names another
//! was a snapshot of that: an activation, or a build that never ended; nothing tells these two apart
//! when no device is there, so it is kept as an inactive activation. What has no note stays foreign.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use registry::{ActivationFact, Facts, ImageFact, LayerFact, Registry, Role, SourceFact};
use serde::Serialize;

use crate::activate::check_name;
use crate::host::open_store;
use crate::lock::Locks;
use crate::note::{Key, Note};
use crate::store::{Mapped, Store};
use crate::{Error, Settings};

/// What a rebuild found.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// Sealed layers.
    pub layers: usize,
    /// Images by name.
    pub images: Vec<String>,
    /// Activations by name.
    pub activations: Vec<String>,
    /// Ids in the store that say nothing of themselves; they stay.
    pub foreign: Vec<u32>,
    /// Where the registry that was there is now; none when there was none or nothing was written.
    pub kept: Option<PathBuf>,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
    /// What the registry is made of: with the store's secret.
    #[serde(skip)]
    pub facts: Facts,
}

/// Makes the registry of `settings.state` anew. Names and pins are taken from the one that is there,
/// where it can be read and agrees.
///
/// # Errors
/// [`Error::NoNotes`] when the store has no template that says so; then nothing is changed.
pub fn rebuild(mut settings: Settings, dry_run: bool) -> Result<Rebuilt, Error> {
    let store = open_store(&mut settings)?;
    let path = settings.state.join("registry.db");
    let old = Registry::open_existing(&path).ok();
    if dry_run {
        let (facts, foreign) = gather(store.as_ref(), old.as_ref())?;
        return Ok(rebuilt(facts, foreign, None, true));
    }
    fs::create_dir_all(&settings.state).map_err(io_error("make", &settings.state))?;
    let locks = Locks::new(&settings.state, settings.wait, settings.cancel.clone())?;
    let Some(_no_daemon) = locks.try_serve()? else {
        // It would go on with the registry that is moved away.
        let (what, holder) = ("the registry".into(), "`orchestrate serve`: stop it first".into());
        return Err(Error::Locked { what, holder, waited_s: 0 });
    };
    let _images = locks.images_alone()?;
    let _store = locks.store()?;
    // Nobody is at work now: these are what killed builds and looks left.
    for left in store.mapped()?.iter().filter(|mapped| is_work(&mapped.name)) {
        store.unmap(&left.name)?;
    }
    let (facts, foreign) = gather(store.as_ref(), old.as_ref())?;
    drop(old);
    let new = settings.state.join("registry.db.rebuilt");
    // What a killed rebuild left.
    for suffix in ["", "-wal", "-shm"] {
        remove(&with_suffix(&new, suffix))?;
    }
    // Closing it brings its log into the file.
    drop(Registry::rebuild(&new, &facts)?);
    let kept = keep_old(&path)?;
    fs::rename(&new, &path).map_err(io_error("rename", &new))?;
    fs::File::open(&settings.state)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", &settings.state))?;
    Ok(rebuilt(facts, foreign, kept, false))
}

fn rebuilt(facts: Facts, foreign: Vec<u32>, kept: Option<PathBuf>, dry_run: bool) -> Rebuilt {
    Rebuilt {
        layers: facts.layers.len(),
        images: facts.images.iter().map(|image| image.reference.clone()).collect(),
        activations: facts.activations.iter().map(|row| row.name.clone()).collect(),
        foreign,
        kept,
        dry_run,
        facts,
    }
}

/// Moves the registry that is there, with its log, to a name that is free.
fn keep_old(path: &Path) -> Result<Option<PathBuf>, Error> {
    if !path.exists() {
        // A log without its file belongs to nothing.
        for suffix in ["-wal", "-shm"] {
            remove(&with_suffix(path, suffix))?;
        }
        return Ok(None);
    }
    let free = (1..).map(|n| with_suffix(path, &format!(".replaced-{n}"))).find(|p| !p.exists());
    let kept = free.unwrap_or_else(|| unreachable!("one of endlessly many is free"));
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&kept, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(io_error("rename", &from))?;
        }
    }
    Ok(Some(kept))
}

/// Looks at every volume of the store. The caller holds the store's lock, or only looks.
fn gather(store: &dyn Store, old: Option<&Registry>) -> Result<(Facts, Vec<u32>), Error> {
    let mut ids = store.ids()?;
    ids.sort_unstable();
    let mut notes = Vec::new();
    for id in &ids {
        notes.push((*id, store.note(*id)?.unwrap_or_default()));
    }
    let template = notes.iter().find_map(|(id, bytes)| {
        let note = Note::read(bytes, None)?;
        (note.id == *id && note.role == Role::Template).then_some(note)
    });
    let Some((key, template)) = template.and_then(|note| Some((note.own_key()?, note))) else {
        return Err(Error::NoNotes { store: store.binding().id, volumes: ids.len() });
    };
    let mut facts = Facts {
        store: store.binding(),
        transaction_id: store.transaction_id()?,
        next_id: ids.last().map_or(1, |id| id.saturating_add(1)),
        seal_key: Some(registry::Digest(key.0)),
        template: template.id,
        template_bytes: template.bytes,
        layers: Vec::new(),
        images: Vec::new(),
        activations: Vec::new(),
    };
    let mut named = layers(&mut facts, &notes, &key);
    if let Some(old) = old {
        // A registry that does not decode gives no names; what the store says stands without.
        for image in old.images().unwrap_or_default() {
            let top = facts.layers.iter().find(|layer| layer.chain == image.chain);
            if let Some(top) = top {
                named.retain(|fact| fact.reference != image.reference);
                named.push(ImageFact {
                    reference: image.reference,
                    endpoint: image.endpoint,
                    top: top.id,
                    pinned: image.pinned,
                });
            }
        }
    }
    facts.images = named;
    let mapped = store.mapped()?;
    facts.activations = activations(&facts, &notes, &mapped, old);
    let ours: HashSet<u32> = facts
        .layers
        .iter()
        .map(|layer| layer.id)
        .chain(facts.activations.iter().map(|row| row.id))
        .chain([facts.template])
        .collect();
    let foreign = ids.into_iter().filter(|id| !ours.contains(id)).collect();
    Ok((facts, foreign))
}

/// Fills in the sealed layers whose whole stack is there; gives the images that they name.
fn layers(facts: &mut Facts, notes: &[(u32, Vec<u8>)], key: &Key) -> Vec<ImageFact> {
    let mut images = Vec::new();
    let mut chains = std::collections::HashMap::from([(facts.template, None)]);
    // An id is never used again, so a parent comes before its children.
    for (id, bytes) in notes {
        let Some(note) = Note::read(bytes, Some(key)).filter(|note| note.id == *id) else {
            continue;
        };
        let (Some(layer), Some(parent)) = (note.layer, note.parent) else { continue };
        let Some(below) = chains.get(&parent).copied() else { continue };
        if registry::chain_id(below, layer.diff) != layer.chain {
            continue;
        }
        chains.insert(*id, Some(layer.chain));
        if let Some((origin, image)) =
            note.origin.as_ref().and_then(|origin| Some((origin, origin.image.clone()?)))
        {
            images.retain(|fact: &ImageFact| fact.reference != image);
            let endpoint = origin.endpoint.clone();
            images.push(ImageFact { reference: image, endpoint, top: *id, pinned: false });
        }
        facts.layers.push(LayerFact {
            id: *id,
            parent,
            bytes: note.bytes,
            chain: layer.chain,
            diff: layer.diff,
            diff_size: layer.diff_size,
            blob: layer.blob,
            size: layer.size,
            tree: layer.tree,
            entries: layer.entries,
            content_bytes: layer.content,
            source: note.origin.map(|origin| SourceFact {
                endpoint: origin.endpoint,
                bucket: origin.bucket,
                key: origin.key,
                etag: origin.etag,
            }),
        });
    }
    images
}

/// Volumes that are snapshots of a sealed layer and not sealed themselves.
fn activations(
    facts: &Facts,
    notes: &[(u32, Vec<u8>)],
    mapped: &[Mapped],
    old: Option<&Registry>,
) -> Vec<ActivationFact> {
    let rows = old.and_then(|old| old.activations().ok()).unwrap_or_default();
    let mut found = Vec::new();
    for (id, bytes) in notes {
        if *id == facts.template || facts.layers.iter().any(|layer| layer.id == *id) {
            continue;
        }
        let row = rows.iter().find(|row| row.id == *id);
        // Whoever has the activation may have written over the note that it inherited.
        let origin = Note::named_id(bytes).or(row.map(|row| row.origin));
        let Some(origin) = origin.and_then(|origin| facts.layers.iter().find(|l| l.id == origin))
        else {
            continue;
        };
        let device = mapped.iter().find(|mapped| mapped.id == *id).map(|mapped| &mapped.name);
        let name = device
            .filter(|name| check_name(name).is_ok() && !is_work(name))
            .or(row.map(|row| &row.name))
            .cloned()
            .unwrap_or_else(|| format!("recovered-{id}"));
        let image = facts.images.iter().find(|image| image.top == origin.id);
        let reference = row
            .map(|row| row.reference.clone())
            .or_else(|| image.map(|image| image.reference.clone()))
            .unwrap_or_else(|| format!("volume {}", origin.id));
        let bytes = row.map_or(0, |row| row.bytes).max(file_system_bytes(bytes)).max(origin.bytes);
        let active = device.is_some_and(|device| *device == name);
        found.push(ActivationFact { name, reference, origin: origin.id, id: *id, bytes, active });
    }
    found
}

/// Whether a device is one of ours at work, and no activation: see `store::pool`.
fn is_work(name: &str) -> bool {
    let ours = |infix: &str| {
        let number = name.rsplit_once(infix).map(|(_, number)| number);
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    ours("-work-") || ours("-look-")
}

/// Size of the ext4 after the note, where the bytes go so far (kernel's ext4/super.rst).
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
