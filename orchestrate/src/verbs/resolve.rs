//! What a reference stands for: its layers with all that is known of them beforehand, and for an image with a
//! manifest also its config. The digest is the identity: nothing is believed that does not have it.

use std::path::Path;
use std::sync::Arc;

use fetch::image::{
    ArchivePick, Archives, Config, Digest as Sha, Document, Index, Manifest, Media, Pick, Platform,
    RegistryRef, told,
};
use fetch::{Client, ImageRef, Place as Where, Reference};
use registry::{Digest, Made, Signature, Source};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::host::Host;
use crate::local::archive::Archive;
use crate::local::spooled::{self, Form, Kept};
use crate::process::cancel::heedfully;
use crate::trust::catalog::Catalog;
use crate::verbs::blobs::{Blobs, saved_config};
use crate::verbs::choose::{Chosen, best, config, ours};
use crate::verbs::wanted::{Place, TopOf, Wanted};

/// An image, and the digest of its manifest where it has one.
type Known = (Resolved, Option<Digest>);

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
    /// Where its blobs are, by digest.
    pub(crate) blobs: Option<Blobs>,
    /// Signatures that were found just now.
    pub(crate) signatures: Vec<Signature>,
}

impl Resolved {
    fn new(
        layers: Vec<Wanted>,
        endpoint: String,
        made: Option<Made>,
        config: Option<String>,
        blobs: Option<&Blobs>,
    ) -> Resolved {
        let signatures = Vec::new();
        Resolved { layers, endpoint, made, config, blobs: blobs.cloned(), signatures }
    }
}

impl Host {
    /// The layers of an image, with what the registry knows of each. With `keep` the store is told which catalog
    /// is believed.
    pub(crate) fn resolve(&mut self, image: &Reference, keep: bool) -> Result<Resolved, Error> {
        let catalog = self.catalog_for_new(keep)?;
        let named = catalog.as_ref().and_then(|catalog| catalog.named(image));
        let (mut resolved, of) = match &image.place {
            Where::Numbered(numbered) => (self.numbered(image, numbered, catalog.as_ref())?, None),
            Where::Bucket { pick, .. }
            | Where::Layout { pick, .. }
            | Where::Archive { pick, .. } => {
                let blobs = self.blobs_of(image)?;
                let blobs = blobs.ok_or_else(|| Error::NotHere { image: image.to_string() })?;
                match named {
                    Some(digest) => self.as_signed(image, &blobs, digest)?,
                    None => self.layout(image, &blobs, pick)?,
                }
            }
            Where::DockerArchive { file, pick } => {
                let archive = self.archive(image, file)?;
                self.saved(image, &archive, pick)?
            }
            Where::Registry(at) => self.at_registry(image, at, named)?,
            Where::Here(digest) => self.kept(image, *digest)?,
        };
        if let (Some(made), Some(catalog)) = (&resolved.made, &catalog) {
            catalog.manifest(image, made.manifest).map_err(Error::Catalog)?;
        }
        resolved.signatures = self.signed(image, &resolved)?;
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
        catalog: Option<&Catalog>,
    ) -> Result<Resolved, Error> {
        let client = self.client()?.clone();
        let endpoint = client.endpoint().to_owned();
        let layers: Vec<(fetch::Layer, Option<Digest>)> = match catalog {
            Some(catalog) => {
                let layers = catalog.numbered(&client, image, numbered).map_err(Error::Catalog)?;
                layers.into_iter().map(|(layer, digest)| (layer, Some(digest))).collect()
            }
            None => {
                let (of, what) = (client.clone(), numbered.clone());
                let layers = heedfully(&self.settings.cancel, move || of.layers(&what))??;
                layers.into_iter().map(|layer| (layer, None)).collect()
            }
        };
        let wanted = |(layer, signed): (fetch::Layer, Option<Digest>)| {
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
                place: Place::Server { client: client.clone(), object: object.object.into() },
                source,
                blob: None,
                guessed: false,
                signed,
                diff: None,
                top_of: None,
            }
        };
        let layers = layers.into_iter().map(wanted).collect();
        Ok(Resolved::new(layers, endpoint, None, None, None))
    }

    pub(crate) fn platform(&self, image: &Reference) -> Platform {
        image
            .platform
            .clone()
            .or_else(|| self.settings.platform.clone())
            .unwrap_or_else(Platform::own)
    }

    /// An image of a layout. One whose name still stands for what it stood for is known by its rows.
    fn layout(&mut self, image: &Reference, blobs: &Blobs, pick: &Pick) -> Result<Known, Error> {
        let wanted = self.platform(image);
        let told = unusable(blobs.shown());
        let mut etag = None;
        let first = match pick {
            Pick::Digest(digest) => {
                if let Some(known) = self.unchanged(image, *digest, &wanted, blobs)? {
                    return Ok(known);
                }
                None
            }
            Pick::Only | Pick::Name(_) => {
                let known = self.known_by_index(image, &wanted, blobs)?;
                let (seen, known) =
                    known.map_or((None, None), |(seen, known)| (Some(seen), Some(known)));
                let indexed = match (blobs.index_unless(seen)?, known) {
                    (None, Some(known)) => return Ok(known),
                    (Some(indexed), _) => indexed,
                    (None, None) => {
                        return Err(told(fetch::image::Error::Empty { document: Document::Index }));
                    }
                };
                etag = indexed.etag;
                let index = Index::read(&indexed.bytes).map_err(&told)?;
                let index = index.pick(pick).map_err(&told)?;
                let found = index.candidates(&wanted).map_err(&told)?[0].digest;
                if let Some((mut known, of)) = self.unchanged(image, found, &wanted, blobs)? {
                    // Another image of this index is another: it is asked by its new tag from now on.
                    if let Some(made) = &mut known.made {
                        made.index_etag = etag;
                    }
                    return Ok((known, of));
                }
                Some(index)
            }
        };
        let chosen = match (&first, pick) {
            (None, Pick::Digest(digest)) => self.by_digest(blobs, *digest, &wanted, true)?,
            (Some(index), _) => best(blobs, index, &wanted)?,
            (None, Pick::Only | Pick::Name(_)) => {
                return Err(told(fetch::image::Error::Empty { document: Document::Index }));
            }
        };
        let (mut resolved, of) = made_of(blobs, chosen, &wanted)?;
        if let Some(made) = &mut resolved.made {
            made.index_etag = etag;
        }
        Ok((resolved, of))
    }

    /// The entity tag that an index had when it named this image, and what the rows say of the image: it is that still
    /// where the index is. Only the server that told the tag is asked by it.
    fn known_by_index(
        &self,
        image: &Reference,
        wanted: &Platform,
        blobs: &Blobs,
    ) -> Result<Option<(String, Known)>, Error> {
        let reference = image.to_string();
        let Some(Made { index_etag: Some(etag), found: Some(found), .. }) =
            self.registry.made(&reference)?
        else {
            return Ok(None);
        };
        let row = self.registry.image(&reference)?;
        if row.is_none_or(|row| row.endpoint != endpoint(blobs)) {
            return Ok(None);
        }
        let known = self.unchanged(image, Sha(found.0), wanted, blobs)?;
        Ok(known.map(|known| (etag, known)))
    }

    /// An image of a registry: a tag is asked for its digest alone, which costs nothing that registries count.
    fn at_registry(
        &mut self,
        image: &Reference,
        at: &RegistryRef,
        named: Option<Sha>,
    ) -> Result<Known, Error> {
        let wanted = self.platform(image);
        let client = self.registry_client(at)?;
        let cancel = self.settings.cancel.clone();
        let blobs = Blobs::Registry { client: client.clone(), at: at.clone(), cancel };
        if let Some(digest) = named {
            return self.as_signed(image, &blobs, digest);
        }
        let found = match (&at.digest, &at.tag) {
            (Some(digest), _) => *digest,
            (None, tag) => {
                let tag = tag.clone().unwrap_or_default();
                let ask = move || client.head_manifest(&tag);
                let told = heedfully(&self.settings.cancel, ask)?.map_err(Error::Fetch)?;
                told.ok_or_else(|| {
                    let what = "tag of that name at the registry";
                    Error::Unknown { what, name: image.to_string() }
                })?
            }
        };
        if let Some(known) = self.unchanged(image, found, &wanted, &blobs)? {
            return Ok(known);
        }
        let chosen = self.by_digest(&blobs, found, &wanted, at.digest.is_some())?;
        made_of(&blobs, chosen, &wanted)
    }

    /// An image whose name stands for this manifest by the signed catalog: nobody else is asked what it stands for.
    fn as_signed(
        &mut self,
        image: &Reference,
        blobs: &Blobs,
        manifest: Sha,
    ) -> Result<Known, Error> {
        let wanted = self.platform(image);
        if let Some(known) = self.unchanged(image, manifest, &wanted, blobs)? {
            return Ok(known);
        }
        let chosen = self.by_digest(blobs, manifest, &wanted, false)?;
        made_of(blobs, chosen, &wanted)
    }

    /// What the rows say of an image, if its name still stands for `found`: no document has to be read again.
    fn unchanged(
        &self,
        image: &Reference,
        found: Sha,
        wanted: &Platform,
        blobs: &Blobs,
    ) -> Result<Option<Known>, Error> {
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
        Ok(Some((Resolved::new(layers, endpoint, Some(made), None, Some(blobs)), manifest)))
    }

    /// A manifest or index that is named by its digest, whether the layout's index lists it or not.
    /// `asked`: it was named by this digest, and not by a tag.
    pub(crate) fn by_digest(
        &self,
        blobs: &Blobs,
        digest: Sha,
        wanted: &Platform,
        asked: bool,
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
            let have = vec![config.1.platform.to_string()];
            if !asked {
                let wanted = wanted.to_string();
                return Err(failed(fetch::image::Error::NoPlatform { wanted, have }));
            }
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

    pub(crate) fn archive(&self, image: &Reference, file: &Path) -> Result<Archive, Error> {
        let limits = &self.settings.limits;
        let (state, path, bounds) = (self.settings.state.clone(), file.to_owned(), limits.clone());
        let file = self.way.image(file, &image.to_string())?;
        // A compressed one is written plain first, which may take as long as it is large.
        let open = move || spooled::plain(&state, file, &path, &bounds);
        let file = heedfully(&self.settings.cancel, open)??;
        Archive::open(file, &image.to_string(), limits)
    }

    /// An image that came through a pipe and is not built yet, or one that is here.
    fn kept(&mut self, image: &Reference, digest: Sha) -> Result<Known, Error> {
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
    ) -> Result<Known, Error> {
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
            index_etag: None,
        };
        let endpoint = "docker-archive:".to_owned();
        let config = Some(text(bytes, &failed)?);
        Ok((Resolved::new(layers, endpoint, Some(made), config, None), None))
    }
}

/// The layers of an image that was chosen, and which documents it was made from.
fn made_of(blobs: &Blobs, chosen: Chosen, wanted: &Platform) -> Result<Known, Error> {
    let told = unusable(blobs.shown());
    let Chosen { found, manifest: (digest, manifest), config: (bytes, config) } = chosen;
    let layers = manifest.layers.iter().zip(&config.diff_ids).zip(1..);
    let layers = layers
        .map(|((layer, diff), number)| of_blob(blobs, number, layer.digest, layer.size, *diff));
    let made = Made {
        found: Some(ours(found)),
        manifest: Some(ours(digest)),
        config: Some(ours(manifest.config.digest)),
        platform: Some(wanted.to_string()),
        index_etag: None,
    };
    let (layers, config) = (layers.collect::<Result<_, _>>()?, text(bytes, &told)?);
    let resolved = Resolved::new(layers, endpoint(blobs), Some(made), Some(config), Some(blobs));
    Ok((resolved, Some(ours(digest))))
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
        Blobs::Registry { at, .. } => format!("docker://{}", at.host),
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
