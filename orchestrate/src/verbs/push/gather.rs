//! What of a layout or archive an image needs, checked before anything of it is sent.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use fetch::image::{
    ArchivePick, Archives, Config, Descriptor, Digest, Document, Entry, Index, Manifest, Media,
    Packed, Pick, Platform, manifest_of, media_type_of, named, told,
};
use fetch::{Place, Reference};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::host::settings::Settings;
use crate::local::archive::Archive;
use crate::local::layout::Layout;
use crate::local::piece::Piece;
use crate::local::spooled;
use crate::local::way::opened;
use crate::process::cancel::{Cancel, heedfully};
use crate::verbs::blobs::{Blobs, saved_config};
use crate::verbs::choose::{Chosen, best};
use crate::verbs::wanted;

/// Indexes inside of indexes.
const DEPTH_MAX: u32 = 4;

/// Documents of one image; a list of platforms has some dozens.
const DOCUMENTS_MAX: usize = 4096;

/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What one push sends.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Layers and configs.
    pub(crate) blobs: Vec<Blob>,
    /// Manifests and indexes, each after what it names.
    pub(crate) documents: Vec<Blob>,
    /// What stands in the index for it.
    pub(crate) entries: Vec<Entry>,
    /// The digests of those.
    pub(crate) digests: Vec<Digest>,
}

/// Bytes of this host, by their digest.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where they are, as a message has it.
    pub(crate) shown: String,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    /// Opened only while it is sent: there may be thousands.
    Blobs(Blobs),
    Piece(Piece),
    Made(Arc<[u8]>),
}

impl Blob {
    /// Opens the bytes; what this gives opens them again and again.
    pub(crate) fn opening(&self) -> Result<impl Fn() -> io::Result<Box<dyn Read>> + use<>, Error> {
        enum Bytes {
            Piece(Piece),
            Made(Arc<[u8]>),
        }
        let bytes = match &self.from {
            From::Made(bytes) => Bytes::Made(bytes.clone()),
            From::Blobs(_) | From::Piece(_) => Bytes::Piece(self.piece()?),
        };
        Ok(move || -> io::Result<Box<dyn Read>> {
            Ok(match &bytes {
                Bytes::Piece(piece) => Box::new(piece.clone()),
                Bytes::Made(bytes) => Box::new(Cursor::new(bytes.clone())),
            })
        })
    }

    fn piece(&self) -> Result<Piece, Error> {
        let blobs = match &self.from {
            From::Piece(piece) => return Ok(piece.clone()),
            From::Made(_) => None,
            From::Blobs(blobs) => Some(blobs),
        };
        match blobs.map(|blobs| blobs.layer(self.digest, self.size)).transpose()? {
            Some((wanted::Place::Here(piece), _)) => Ok(piece),
            Some((wanted::Place::Server { .. }, _)) | None => Err(Error::Image(Unusable::NoBlob {
                place: self.shown.clone(),
                digest: self.digest,
            })),
        }
    }

    /// All bytes of a document.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        match &self.from {
            From::Made(bytes) => Ok(bytes.to_vec()),
            From::Blobs(_) | From::Piece(_) => {
                self.piece()?.document(Document::Manifest, &self.shown)
            }
        }
    }

    /// How a layer is stored, by its first bytes.
    pub(crate) fn packed(&self) -> Result<Packed, Error> {
        packed(&self.piece()?, &self.shown)
    }
}

/// gzip by RFC 1952 2.3.1; zstd by RFC 8878 3.1, where a frame may be one to skip. What is neither is a tar, or
/// nobody will unpack it.
fn packed(piece: &Piece, shown: &str) -> Result<Packed, Error> {
    let mut start = Vec::new();
    let read = piece.clone().take(4).read_to_end(&mut start);
    read.map_err(|source| Error::Io { doing: "read", path: shown.into(), source })?;
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Packed::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Packed::Zstd,
        [first, 0x2a, 0x4d, 0x18] if first & 0xf0 == 0x50 => Packed::Zstd,
        _ => Packed::Plain,
    })
}

/// Everything that an image needs.
///
/// # Errors
/// [`Error::Usage`] where images are not pushed from, [`Error::Image`] for what is no whole image.
pub(crate) fn gather(
    settings: &Settings,
    from: &Reference,
    standard: File,
) -> Result<Gathered, Error> {
    match open(settings, from, standard)? {
        Opened::Layout(blobs, pick) => of_layout(&blobs, &pick, from.platform.as_ref()),
        Opened::Saved(archive, pick) => of_saved(settings, &archive, &pick, from),
    }
}

/// The layers of one image, from the lowest up.
///
/// # Errors
/// As [`gather`].
pub(crate) fn layers(
    settings: &Settings,
    from: &Reference,
    standard: File,
) -> Result<Vec<Blob>, Error> {
    match open(settings, from, standard)? {
        Opened::Layout(blobs, pick) => {
            let own = from.platform.clone().or_else(|| settings.platform.clone());
            let chosen = chosen(&blobs, &pick, &own.unwrap_or_else(Platform::own))?;
            let layers = &chosen.1.layers;
            layers.iter().map(|layer| blob_of(&blobs, layer.digest, layer.size)).collect()
        }
        Opened::Saved(archive, pick) => {
            let saved = Saved::read(&archive, &pick, from)?;
            let layers = saved.layers(settings)?;
            Ok(layers.into_iter().map(|(blob, _)| blob).collect())
        }
    }
}

/// Where images are pushed from.
enum Opened {
    Layout(Blobs, Pick),
    Saved(Archive, ArchivePick),
}

fn open(settings: &Settings, from: &Reference, standard: File) -> Result<Opened, Error> {
    let shown = from.to_string();
    let archive = |path: &std::path::Path| -> Result<Archive, Error> {
        let file = match from.is_stream() {
            true => arrived(settings, &shown, standard)?,
            false => {
                let file = Arc::new(opened(path)?);
                spooled::plain(&settings.state, file, path, &settings.limits)?
            }
        };
        Archive::open(file, &shown, &settings.limits)
    };
    match &from.place {
        Place::Layout { dir, pick } => {
            Ok(Opened::Layout(Blobs::Directory(Arc::new(Layout::open(dir)?)), pick.clone()))
        }
        Place::Archive { file, pick } => {
            Ok(Opened::Layout(Blobs::Tar(Arc::new(archive(file)?)), pick.clone()))
        }
        Place::DockerArchive { file, pick } => Ok(Opened::Saved(archive(file)?, pick.clone())),
        Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => {
            Err(Error::Usage(format!(
                "{from}: an image is pushed from a file of this host: oci:DIR:TAG, oci-archive:FILE or \
                 docker-archive:FILE"
            )))
        }
    }
}

/// What came through a pipe, in a file that goes with this process.
fn arrived(settings: &Settings, shown: &str, standard: File) -> Result<Arc<File>, Error> {
    let (to, name, limits) = (settings.state.clone(), shown.to_owned(), settings.limits.clone());
    let arrived = heedfully(&settings.cancel, move || {
        spooled::arrive(&to, &name, unpack::Timed::new(standard, &limits), &limits)
    })??;
    Ok(arrived.file.clone())
}

fn blob_of(blobs: &Blobs, digest: Digest, size: u64) -> Result<Blob, Error> {
    let (_, shown) = blobs.layer(digest, size)?;
    Ok(Blob { digest, size, shown, from: From::Blobs(blobs.clone()) })
}

/// The entries that are meant. A digest may be one that the layout's index does not list.
fn picked(blobs: &Blobs, pick: &Pick) -> Result<(Vec<u8>, Vec<Descriptor>), Error> {
    let failed = unusable(blobs.shown());
    let bytes = blobs.index()?;
    let index = Index::read(&bytes).map_err(&failed)?;
    let found = match (index.pick(pick), pick) {
        (Err(fetch::image::Error::NoName { .. }), Pick::Digest(digest)) => {
            let document = blobs.document(Document::Manifest, *digest)?;
            vec![Descriptor {
                media_type: media_type_of(&document),
                digest: *digest,
                size: document.len() as u64,
                platform: None,
                names: Vec::new(),
                attestation: false,
            }]
        }
        (found, _) => found.map_err(&failed)?.entries().to_vec(),
    };
    Ok((bytes, found))
}

/// The manifest for one platform, with its descriptor.
fn chosen(
    blobs: &Blobs,
    pick: &Pick,
    platform: &Platform,
) -> Result<(Descriptor, Manifest), Error> {
    let (_, entries) = picked(blobs, pick)?;
    let Chosen { manifest: (digest, manifest), config, .. } =
        best(blobs, &Index::of(entries), platform)?;
    let bytes = blobs.document(Document::Manifest, digest)?;
    let descriptor = Descriptor {
        media_type: media_type_of(&bytes),
        digest,
        size: bytes.len() as u64,
        platform: Some(config.1.platform),
        names: Vec::new(),
        attestation: false,
    };
    Ok((descriptor, manifest))
}

fn of_layout(blobs: &Blobs, pick: &Pick, platform: Option<&Platform>) -> Result<Gathered, Error> {
    let mut walk = Walk { blobs, seen: HashSet::new(), gathered: Gathered::default() };
    let (index, entries) = match platform {
        Some(platform) => (Vec::new(), vec![chosen(blobs, pick, platform)?.0]),
        None => picked(blobs, pick)?,
    };
    let mut whole = HashSet::new();
    for entry in entries.iter().filter(|entry| whole.insert(entry.digest)) {
        walk.document(entry, true, DEPTH_MAX)?;
        walk.gathered.entries.push(Entry::of(&index, entry));
        walk.gathered.digests.push(entry.digest);
    }
    Ok(walk.gathered)
}

/// Goes from documents to what they name.
struct Walk<'a> {
    blobs: &'a Blobs,
    seen: HashSet<Digest>,
    gathered: Gathered,
}

impl Walk<'_> {
    fn document(&mut self, of: &Descriptor, is_image: bool, depth: u32) -> Result<(), Error> {
        let failed = unusable(self.blobs.shown());
        if depth == 0 {
            return Err(failed(fetch::image::Error::Nested { depth_max: DEPTH_MAX }));
        }
        if !self.seen.insert(of.digest) {
            return Ok(());
        }
        let documents = self.gathered.documents.len() as u64;
        if documents >= DOCUMENTS_MAX as u64 {
            let (document, what, max) = (Document::Index, "manifests", DOCUMENTS_MAX as u64);
            return Err(failed(fetch::image::Error::TooMany {
                document,
                what,
                got: documents + 1,
                max,
            }));
        }
        let document =
            if of.media() == Media::Index { Document::Index } else { Document::Manifest };
        let bytes = self.blobs.promised(document, of)?;
        let mut images = HashSet::new();
        match told(&bytes).map_err(&failed)? {
            Media::Index => {
                let index = Index::read(&bytes).map_err(&failed)?;
                images.extend(index.entries().iter().map(|entry| entry.digest));
            }
            _ if is_image => drop(Manifest::read(&bytes, Some(&of.media_type)).map_err(&failed)?),
            // Such as an attestation, whose layers are none.
            _ => {}
        }
        for child in named(&bytes).map_err(&failed)? {
            match child.media() {
                Media::Index | Media::Manifest => {
                    self.document(&child, images.contains(&child.digest), depth - 1)?;
                }
                Media::Config | Media::Layer | Media::Refused(_) | Media::Unknown => {
                    if self.seen.insert(child.digest) {
                        let blob = blob_of(self.blobs, child.digest, child.size)?;
                        self.gathered.blobs.push(blob);
                    }
                }
            }
        }
        self.gathered.documents.push(blob_of(self.blobs, of.digest, of.size)?);
        Ok(())
    }
}

/// An image of what `docker save` writes.
struct Saved<'a> {
    archive: &'a Archive,
    config: (Vec<u8>, Config),
    /// Names of the members that are its layers.
    names: Vec<String>,
}

impl<'a> Saved<'a> {
    fn read(
        archive: &'a Archive,
        pick: &ArchivePick,
        from: &Reference,
    ) -> Result<Saved<'a>, Error> {
        let failed = unusable(archive.shown());
        let listed = archive.document(Document::Archive, "manifest.json")?;
        let archives = Archives::read(&listed).map_err(&failed)?;
        let archived = archives.pick(pick).map_err(&failed)?;
        let (bytes, _) = saved_config(archive, archived)?;
        let config = Config::read(&bytes).map_err(&failed)?;
        config.is_for(archived.layers.len()).map_err(&failed)?;
        if let Some(wanted) = &from.platform
            && config.platform.fit(wanted).is_none()
        {
            let have = vec![config.platform.to_string()];
            let wanted = wanted.to_string();
            return Err(failed(fetch::image::Error::NoPlatform { wanted, have }));
        }
        Ok(Saved { archive, config: (bytes, config), names: archived.layers.clone() })
    }

    /// The layers with how they are stored. Their digests are not known but by reading them, and neither is whether
    /// they are what the config says.
    fn layers(&self, settings: &Settings) -> Result<Vec<(Blob, Packed)>, Error> {
        let mut layers = Vec::new();
        for (name, diff) in self.names.iter().zip(&self.config.1.diff_ids) {
            let shown = format!("{}: {name}", self.archive.shown());
            let Some(piece) = self.archive.member(name)? else {
                let what = format!("{} has no member {name}", self.archive.shown());
                return Err(Error::Image(Unusable::NoLayout { what }));
            };
            let packed = packed(&piece, &shown)?;
            let digest = hashed(piece.clone(), &shown, &settings.cancel)?;
            let found = match packed {
                Packed::Plain => digest,
                Packed::Gzip | Packed::Zstd => {
                    let mut to = Hashing { hash: Sha256::new(), cancel: &settings.cancel };
                    let plain = unpack::plain(piece.clone(), &settings.limits, &mut to);
                    settings.cancel.check()?;
                    plain.map_err(|source| {
                        let source = Box::new(source);
                        Error::Image(Unusable::Archive { image: shown.clone(), source })
                    })?;
                    Digest(to.hash.finalize().into())
                }
            };
            let size = Piece::bytes(&piece);
            // A member of no bytes stands for an empty layer.
            if found != *diff && size > 0 {
                let (expected, found) = (registry::Digest(diff.0), registry::Digest(found.0));
                return Err(Error::Image(Unusable::DiffId { layer: shown, expected, found }));
            }
            layers.push((Blob { digest, size, shown, from: From::Piece(piece) }, packed));
        }
        Ok(layers)
    }
}

fn of_saved(
    settings: &Settings,
    archive: &Archive,
    pick: &ArchivePick,
    from: &Reference,
) -> Result<Gathered, Error> {
    let saved = Saved::read(archive, pick, from)?;
    let layers = saved.layers(settings)?;
    let (bytes, config) = &saved.config;
    let parts: Vec<_> =
        layers.iter().map(|(blob, packed)| (blob.digest, blob.size, *packed)).collect();
    let of_config = (Digest::of(bytes), bytes.len() as u64, &config.platform);
    let (manifest, entry) = manifest_of(of_config, &parts);
    let made = |bytes: &[u8]| Blob {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        shown: archive.shown().to_owned(),
        from: From::Made(bytes.into()),
    };
    let mut seen = HashSet::new();
    let mut blobs: Vec<Blob> = layers.into_iter().map(|(blob, _)| blob).collect();
    blobs.push(made(bytes));
    blobs.retain(|blob| seen.insert(blob.digest));
    let manifest = made(&manifest);
    let digests = vec![manifest.digest];
    Ok(Gathered { blobs, documents: vec![manifest], entries: vec![entry], digests })
}

fn hashed(mut from: impl Read, shown: &str, cancel: &Cancel) -> Result<Digest, Error> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        cancel.check()?;
        match from.read(&mut piece) {
            Ok(0) => return Ok(Digest(hash.finalize().into())),
            Ok(read) => hash.update(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Io { doing: "read", path: shown.into(), source }),
        }
    }
}

/// Takes bytes for their digest alone.
struct Hashing<'a> {
    hash: Sha256,
    cancel: &'a Cancel,
}

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_set() {
            return Err(io::Error::other("somebody asked to stop"));
        }
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
