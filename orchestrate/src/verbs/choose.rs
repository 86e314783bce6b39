//! Which of the images of an index is meant: by the platform, through indexes inside of indexes.

use fetch::image::{Config, Descriptor, Digest as Sha, Document, Index, Manifest, Media, Platform};
use registry::Digest;

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::verbs::blobs::Blobs;

/// Indexes inside of indexes.
const DEPTH_MAX: u32 = 4;

/// Entries of indexes that are looked into for one image. Most are told from others by the index alone.
const LOOKS_MAX: u32 = 64;

/// An image that was chosen, with its documents checked.
pub(crate) struct Chosen {
    /// What the place answered for the name.
    pub(crate) found: Sha,
    /// Its manifest, with the digest of that.
    pub(crate) manifest: (Sha, Manifest),
    /// Its config, with the bytes of that.
    pub(crate) config: (Vec<u8>, Config),
}

/// A digest as the registry has it.
pub(crate) fn ours(digest: Sha) -> Digest {
    Digest(digest.0)
}

/// The config of a manifest, which has a diff id for each of its layers.
pub(crate) fn config(blobs: &Blobs, manifest: &Manifest) -> Result<(Vec<u8>, Config), Error> {
    let failed = unusable(blobs.shown());
    let bytes = blobs.promised(Document::Config, &manifest.config)?;
    let config = Config::read(&bytes).map_err(&failed)?;
    config.is_for(manifest.layers.len()).map_err(&failed)?;
    Ok((bytes, config))
}

/// The image of an index that fits best. The choice is made once: what was chosen is not looked for again.
pub(crate) fn best(blobs: &Blobs, index: &Index, wanted: &Platform) -> Result<Chosen, Error> {
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
    Err(failed(fetch::image::Error::NoPlatform { wanted: wanted.to_string(), have: others }))
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
