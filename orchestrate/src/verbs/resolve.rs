//! What a reference stands for: its layers with all that is known of them beforehand, and for an image with a
//! manifest also its config. The digest is the identity: nothing is believed that does not have it.

use std::path::Path;
use std::sync::Arc;

use fetch::image::{
    ArchivePick, Archives, Config, Descriptor, Digest as Sha, Document, Index, Manifest, Media,
    Pick, Platform, told,
};
use fetch::{Client, ImageRef, Place as Where, Reference};
use registry::{Digest, Made, Source};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::host::Host;
use crate::local::archive::Archive;
use crate::local::layout::Layout;
use crate::local::spooled::{self, Form, Kept};
use crate::process::cancel::heedfully;
use crate::verbs::blobs::{Blobs, saved_config};
use crate::verbs::wanted::{Place, TopOf, Wanted};

/// Indexes inside of indexes.
const DEPTH_MAX: u32 = 4;

/// Entries of indexes that are looked into for one image. Most are told from others by the index alone.
const LOOKS_MAX: u32 = 64;

/// What a reference stands for.
pub(crate) struct Resolved {
    /// From the lowest up.
    pub(crate) layers: Vec<Wanted>,
    /// Whose word it is: the server, or the kind of a local place.
    pub(crate) endpoint: String,
    /// Of an image with a config: which documents it was made from.
    pub(crate) made: Option<Made>,
    /// The config as it came, where it came just now.
    pub(crate) config: Option<String>,
}

/// An image that was chosen, with its documents checked.
pub(crate) struct Chosen {
    /// What the place answered for the name.
    found: Sha,
    pub(crate) manifest: (Sha, Manifest),
    config: (Vec<u8>, Config),
}

fn ours(digest: Sha) -> Digest {
    Digest(digest.0)
}

fn unusable(shown: impl Into<String>) -> impl Fn(fetch::image::Error) -> Error {
    let image = shown.into();
    move |source| Error::Image(Unusable::Document { image: image.clone(), source })
}

impl Host {
    /// The layers of an image, with what the registry knows of each. With `keep` the store is told which catalog
    /// is believed.
    pub(crate) fn resolve(&mut self, image: &Reference, keep: bool) -> Result<Resolved, Error> {
        let (mut resolved, of) = match &image.place {
            Where::Numbered(numbered) => (self.numbered(image, numbered, keep)?, None),
            Where::Bucket { bucket, prefix, pick } => {
                let client = self.client()?.clone();
                let blobs = Blobs::Bucket {
                    client,
                    bucket: bucket.clone(),
                    prefix: prefix.clone(),
                    cancel: self.settings.cancel.clone(),
                };
                self.layout(image, &blobs, pick)?
            }
            Where::Layout { dir, pick } => {
                let blobs = Blobs::Directory(Arc::new(Layout::open(dir)?));
                self.layout(image, &blobs, pick)?
            }
            Where::Archive { file, pick } => {
                let archive = self.archive(image, file)?;
                self.layout(image, &Blobs::Tar(Arc::new(archive)), pick)?
            }
            Where::DockerArchive { file, pick } => {
                let archive = self.archive(image, file)?;
                self.saved(image, &archive, pick)?
            }
            Where::Registry(_) => {
                let text = format!("{image}: images of registries cannot be asked for yet");
                return Err(Error::Usage(text));
            }
            Where::Here(digest) => self.kept(image, *digest)?,
        };
        if let Some(made) = &resolved.made {
            self.vouched(image, made, keep)?;
        }
        for wanted in &mut resolved.layers {
            self.know(wanted)?;
        }
        if let Some(top) = resolved.layers.last_mut() {
            top.top_of = Some(TopOf { image: image.to_string(), manifest: of });
        }
        Ok(resolved)
    }

    fn numbered(
        &mut self,
        image: &Reference,
        numbered: &ImageRef,
        keep: bool,
    ) -> Result<Resolved, Error> {
        let client = self.client()?.clone();
        let endpoint = client.endpoint().to_owned();
        let catalog = self.catalog_of(&client, image, keep)?;
        let (of, what) = (client.clone(), numbered.clone());
        let layers = heedfully(&self.settings.cancel, move || of.layers(&what))??;
        let signed = catalog.map(|catalog| catalog.check(image, &layers)).transpose();
        let signed = signed.map_err(Error::Catalog)?;
        let wanted = |(pos, layer): (usize, fetch::Layer)| {
            let object = layer.object;
            let source = object.etag.as_ref().map(|etag| Source {
                endpoint: endpoint.clone(),
                bucket: object.object.bucket.clone(),
                etag: etag.clone(),
                size: object.size,
            });
            Wanted {
                number: layer.number,
                key: object.object.key.clone(),
                title: object.object.to_string(),
                size: object.size,
                etag: object.etag,
                place: Place::Server { client: client.clone(), object: object.object },
                source,
                blob: None,
                guessed: false,
                signed: signed.as_ref().map(|digests| digests[pos]),
                diff: None,
                top_of: None,
            }
        };
        let layers = layers.into_iter().enumerate().map(wanted).collect();
        Ok(Resolved { layers, endpoint, made: None, config: None })
    }

    pub(crate) fn platform(&self, image: &Reference) -> Platform {
        image
            .platform
            .clone()
            .or_else(|| self.settings.platform.clone())
            .unwrap_or_else(Platform::own)
    }

    /// An image of a layout. One whose name still stands for what it stood for is known by its rows.
    fn layout(
        &mut self,
        image: &Reference,
        blobs: &Blobs,
        pick: &Pick,
    ) -> Result<(Resolved, Option<Digest>), Error> {
        let wanted = self.platform(image);
        let told = unusable(blobs.shown());
        let first = match pick {
            Pick::Digest(digest) => {
                if let Some(known) = self.unchanged(image, *digest, &wanted, blobs)? {
                    return Ok(known);
                }
                None
            }
            Pick::Only | Pick::Name(_) => {
                let index = Index::read(&blobs.index()?).map_err(&told)?;
                let index = index.pick(pick).map_err(&told)?;
                let found = index.candidates(&wanted).map_err(&told)?[0].digest;
                if let Some(known) = self.unchanged(image, found, &wanted, blobs)? {
                    return Ok(known);
                }
                Some(index)
            }
        };
        let chosen = match (&first, pick) {
            (None, Pick::Digest(digest)) => self.by_digest(blobs, *digest, &wanted)?,
            (Some(index), _) => best(blobs, index, &wanted)?,
            (None, Pick::Only | Pick::Name(_)) => {
                return Err(told(fetch::image::Error::Empty { document: Document::Index }));
            }
        };
        let Chosen { found, manifest: (digest, manifest), config: (bytes, config) } = chosen;
        let layers = manifest.layers.iter().zip(&config.diff_ids).zip(1..);
        let layers = layers
            .map(|((layer, diff), number)| of_blob(blobs, number, layer.digest, layer.size, *diff));
        let made = Made {
            found: Some(ours(found)),
            manifest: Some(ours(digest)),
            config: Some(ours(manifest.config.digest)),
            platform: Some(wanted.to_string()),
        };
        let resolved = Resolved {
            layers: layers.collect::<Result<_, _>>()?,
            endpoint: endpoint(blobs),
            made: Some(made),
            config: Some(text(bytes, &told)?),
        };
        Ok((resolved, Some(ours(digest))))
    }

    /// What the rows say of an image, if its name still stands for `found`: no document has to be read again.
    fn unchanged(
        &self,
        image: &Reference,
        found: Sha,
        wanted: &Platform,
        blobs: &Blobs,
    ) -> Result<Option<(Resolved, Option<Digest>)>, Error> {
        let reference = image.to_string();
        let Some(made) = self.registry.made(&reference)? else { return Ok(None) };
        let same = made.found == Some(ours(found)) && made.platform == Some(wanted.to_string());
        let (Some(config), true) = (made.config, same) else { return Ok(None) };
        let Some(config) = self.registry.config(config)? else { return Ok(None) };
        let (Some(row), Ok(config)) =
            (self.registry.image(&reference)?, Config::read(config.as_bytes()))
        else {
            return Ok(None);
        };
        if config.is_for(row.layers.len()).is_err() {
            return Ok(None);
        }
        let layers = row.layers.iter().zip(&config.diff_ids).zip(1..);
        let layers = layers.map(|((layer, diff), number)| {
            // A registry that was made anew does not know each blob's name.
            let digest = Sha::parse(&layer.key).ok();
            digest.map(|digest| of_blob(blobs, number, digest, layer.size, *diff)).transpose()
        });
        let Some(layers) = layers.collect::<Result<Option<_>, _>>()? else { return Ok(None) };
        let manifest = made.manifest;
        let endpoint = endpoint(blobs);
        Ok(Some((Resolved { layers, endpoint, made: Some(made), config: None }, manifest)))
    }

    /// A manifest or index that is named by its digest, whether the layout's index lists it or not.
    pub(crate) fn by_digest(
        &self,
        blobs: &Blobs,
        digest: Sha,
        wanted: &Platform,
    ) -> Result<Chosen, Error> {
        let failed = unusable(blobs.shown());
        let bytes = blobs.document(Document::Manifest, digest)?;
        if told(&bytes).map_err(&failed)? == Media::Index {
            let index = Index::read(&bytes).map_err(&failed)?;
            let mut chosen = best(blobs, &index, wanted)?;
            chosen.found = digest;
            return Ok(chosen);
        }
        let manifest = Manifest::read(&bytes, None).map_err(&failed)?;
        let config = config(blobs, &manifest)?;
        if config.1.platform.fit(wanted).is_none() {
            // Whoever asks for these very bytes gets them.
            let line = format!(
                "{}: {digest} is for {}, and this host is {wanted}",
                blobs.shown(),
                config.1.platform
            );
            self.warn(&line, &[]);
        }
        Ok(Chosen { found: digest, manifest: (digest, manifest), config })
    }

    fn archive(&self, image: &Reference, file: &Path) -> Result<Archive, Error> {
        let limits = &self.settings.limits;
        let (state, path, bounds) = (self.settings.state.clone(), file.to_owned(), limits.clone());
        // A compressed one is written plain first, which may take as long as it is large.
        let open = move || spooled::open(&state, &path, &bounds);
        let file = heedfully(&self.settings.cancel, open)??;
        Archive::open(file, &image.to_string(), limits)
    }

    /// An image that came through a pipe and is not built yet, or one that is here.
    fn kept(
        &mut self,
        image: &Reference,
        digest: Sha,
    ) -> Result<(Resolved, Option<Digest>), Error> {
        let Some(Kept { form, file, .. }) = self.kept_archive(digest)? else {
            return Err(Error::Image(Unusable::NotKept { digest }));
        };
        let archive = Archive::open(file, &image.to_string(), &self.settings.limits)?;
        match form {
            Form::Layout => {
                self.layout(image, &Blobs::Tar(Arc::new(archive)), &Pick::Digest(digest))
            }
            Form::Docker => {
                let at = place_of(&archive, digest)?;
                self.saved(image, &archive, &ArchivePick::At(at))
            }
        }
    }

    /// An image of what `docker save` writes. Its blobs have no digests of their own: what counts is that each
    /// unpacks to what the config says.
    fn saved(
        &self,
        image: &Reference,
        archive: &Archive,
        pick: &ArchivePick,
    ) -> Result<(Resolved, Option<Digest>), Error> {
        let failed = unusable(archive.shown());
        let listed = archive.document(Document::Archive, "manifest.json")?;
        let archives = Archives::read(&listed).map_err(&failed)?;
        let archived = archives.pick(pick).map_err(&failed)?;
        let member = |name: &str| {
            archive.member(name)?.ok_or_else(|| {
                let what = format!("{} has no member {name}", archive.shown());
                Error::Image(Unusable::NoLayout { what })
            })
        };
        let (bytes, digest) = saved_config(archive, archived)?;
        let config = Config::read(&bytes).map_err(&failed)?;
        config.is_for(archived.layers.len()).map_err(&failed)?;
        let wanted = self.platform(image);
        if config.platform.fit(&wanted).is_none() {
            let line = format!("{image} is for {}, and this host is {wanted}", config.platform);
            self.warn(&line, &[]);
        }
        let layers = archived.layers.iter().zip(&config.diff_ids).zip(1..);
        let layers = layers.map(|((name, diff), number)| {
            let piece = member(name)?;
            Ok(Wanted {
                number,
                key: name.clone(),
                title: format!("{}: {name}", archive.shown()),
                size: piece.bytes(),
                etag: None,
                place: Place::Here(piece),
                source: None,
                blob: None,
                guessed: false,
                signed: None,
                diff: Some(ours(*diff)),
                top_of: None,
            })
        });
        let layers = layers.collect::<Result<_, Error>>()?;
        let made = Made {
            found: Some(ours(digest)),
            manifest: None,
            config: Some(ours(digest)),
            platform: Some(config.platform.to_string()),
        };
        let endpoint = "docker-archive:".to_owned();
        let config = Some(text(bytes, &failed)?);
        Ok((Resolved { layers, endpoint, made: Some(made), config }, None))
    }
}

/// The place of an image in an archive, by the digest of its config.
fn place_of(archive: &Archive, digest: Sha) -> Result<u32, Error> {
    let failed = unusable(archive.shown());
    let archives = Archives::read(&archive.document(Document::Archive, "manifest.json")?);
    let archives = archives.map_err(&failed)?;
    let mut at = 0;
    while let Ok(archived) = archives.pick(&ArchivePick::At(at)) {
        // One that is broken is another image's fault.
        if saved_config(archive, archived).is_ok_and(|(_, found)| found == digest) {
            return Ok(at);
        }
        at += 1;
    }
    Err(Error::Image(Unusable::NotKept { digest }))
}

/// One layer of an image with a manifest.
fn of_blob(blobs: &Blobs, number: u64, digest: Sha, size: u64, diff: Sha) -> Result<Wanted, Error> {
    let (place, title) = blobs.layer(digest, size)?;
    Ok(Wanted {
        number,
        key: digest.to_string(),
        title,
        size,
        etag: None,
        place,
        source: None,
        blob: None,
        guessed: false,
        signed: Some(ours(digest)),
        diff: Some(ours(diff)),
        top_of: None,
    })
}

fn endpoint(blobs: &Blobs) -> String {
    match blobs {
        Blobs::Bucket { client, .. } => Client::endpoint(client).to_owned(),
        Blobs::Directory(_) => "oci:".to_owned(),
        Blobs::Tar(_) => "oci-archive:".to_owned(),
    }
}

/// A config that is kept as it came.
fn text(bytes: Vec<u8>, failed: impl Fn(fetch::image::Error) -> Error) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|_| {
        let (document, source) = (Document::Config, "it is not UTF-8".to_owned());
        failed(fetch::image::Error::Json { document, source })
    })
}

fn config(blobs: &Blobs, manifest: &Manifest) -> Result<(Vec<u8>, Config), Error> {
    let failed = unusable(blobs.shown());
    let bytes = blobs.promised(Document::Config, &manifest.config)?;
    let config = Config::read(&bytes).map_err(&failed)?;
    config.is_for(manifest.layers.len()).map_err(&failed)?;
    Ok((bytes, config))
}

/// The digest of the manifest that fits best, with its config looked at.
pub(crate) fn best_of(blobs: &Blobs, index: &Index, wanted: &Platform) -> Result<Sha, Error> {
    Ok(best(blobs, index, wanted)?.manifest.0)
}

/// The image of an index that fits best. The choice is made once: what was chosen is not looked for again.
fn best(blobs: &Blobs, index: &Index, wanted: &Platform) -> Result<Chosen, Error> {
    best_below(blobs, index, wanted, DEPTH_MAX, &mut 0)
}

fn best_below(
    blobs: &Blobs,
    index: &Index,
    wanted: &Platform,
    depth: u32,
    looks: &mut u32,
) -> Result<Chosen, Error> {
    let failed = unusable(blobs.shown());
    if depth == 0 {
        return Err(failed(fetch::image::Error::Nested { depth_max: DEPTH_MAX }));
    }
    let mut others = Vec::new();
    for entry in index.candidates(wanted).map_err(&failed)? {
        *looks += 1;
        if *looks > LOOKS_MAX {
            let (document, what) = (Document::Index, "entries that say too little to choose from");
            let (got, max) = (u64::from(*looks), u64::from(LOOKS_MAX));
            return Err(failed(fetch::image::Error::TooMany { document, what, got, max }));
        }
        match within(blobs, entry, wanted, depth, looks)? {
            Ok(chosen) => return Ok(chosen),
            Err(other) => others.extend(other),
        }
    }
    others.truncate(8);
    Err(failed(fetch::image::Error::NoPlatform { wanted: wanted.clone(), have: others }))
}

/// The image of one entry; or the platforms that it is for, where that is none of those wanted.
fn within(
    blobs: &Blobs,
    entry: &Descriptor,
    wanted: &Platform,
    depth: u32,
    looks: &mut u32,
) -> Result<Result<Chosen, Vec<String>>, Error> {
    let failed = unusable(blobs.shown());
    if entry.media() == Media::Index {
        let index = Index::read(&blobs.promised(Document::Index, entry)?).map_err(&failed)?;
        return match best_below(blobs, &index, wanted, depth - 1, looks) {
            Ok(chosen) => Ok(Ok(Chosen { found: entry.digest, ..chosen })),
            Err(Error::Image(Unusable::Document {
                source: fetch::image::Error::NoPlatform { have, .. },
                ..
            })) => Ok(Err(have)),
            Err(Error::Image(Unusable::Document {
                source: fetch::image::Error::Empty { .. },
                ..
            })) => Ok(Err(Vec::new())),
            Err(error) => Err(error),
        };
    }
    let bytes = blobs.promised(Document::Manifest, entry)?;
    let manifest = Manifest::read(&bytes, Some(&entry.media_type)).map_err(&failed)?;
    let config = config(blobs, &manifest)?;
    let own = &config.1.platform;
    // Where the index names no platform the config decides.
    if entry.platform.is_none() && own.fit(wanted).is_none() {
        return Ok(Err(vec![own.to_string()]));
    }
    Ok(Ok(Chosen { found: entry.digest, manifest: (entry.digest, manifest), config }))
}
