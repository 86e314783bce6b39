//! Where signatures of an image are: the names that they have beside it, lists of what refers to it, and the manifests
//! that hold them. Anybody who can write beside an image can put any number there: lists are counted, and cut.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::image::cosign::claim::CLAIM_BYTES_MAX;
use crate::image::cosign::marks::{is_artifact, likely, referrers_tag, signature_tag};
use crate::image::cosign::words;
use crate::image::descriptor::{Descriptor, Media, NAME, Raw};
use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::index::ENTRIES_MAX;
use crate::image::json::{self, Few};

/// Signatures of one manifest that are looked at.
pub const SIGNATURES_MAX: usize = 256;

/// Manifests with signatures that are looked at for one image.
pub const MANIFESTS_MAX: usize = 64;

/// One signature, before anything of it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// A claim of simple signing, in a blob.
    Simple {
        /// The blob.
        claim: Descriptor,
        /// Its signature, as it is written.
        signature: String,
    },
    /// A bundle of sigstore, in a blob.
    Bundle(Descriptor),
}

impl Candidate {
    /// The blob that it is in.
    pub fn blob(&self) -> &Descriptor {
        match self {
            Candidate::Simple { claim, .. } => claim,
            Candidate::Bundle(bundle) => bundle,
        }
    }
}

/// Signatures of one manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The first of them, at most [`SIGNATURES_MAX`].
    pub list: Vec<Candidate>,
    /// How many there are besides: those that are not looked at, and those whose blob is larger than any claim.
    pub more: usize,
}

#[derive(Deserialize)]
struct Text {
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<Few<Raw, SIGNATURES_MAX>>,
    #[serde(default)]
    subject: Option<Raw>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Option<String>>>,
}

/// The signatures that a manifest has for one of the digests of `images`. One that refers to another image has
/// none, and neither has one that says it is an attestation.
///
/// # Errors
/// [`Error::Json`], [`Error::TooLarge`], [`Error::Field`].
pub fn candidates(manifest: &[u8], images: &[Digest]) -> Result<Candidates, Error> {
    let document = Document::Signatures;
    let text: Text = json::read(document, manifest)?;
    if text.manifests.is_some() {
        let (field, got) = ("manifests", "beside layers or in their place".to_owned());
        return Err(Error::Field { document, field, got, why: "signatures are in a manifest" });
    }
    if let Some(subject) = text.subject
        && !subject.read(document).is_ok_and(|subject| images.contains(&subject.digest))
    {
        return Ok(Candidates::default());
    }
    let says = text.annotations.and_then(|own| own.get(words::SAYS).cloned().flatten());
    if says.is_some_and(|says| says != words::SIGN) {
        return Ok(Candidates::default());
    }
    let (layers, mut more) = text.layers.unwrap_or_default().first();
    let mut list = Vec::new();
    for raw in layers {
        // What cannot be read is nobody's signature, and no reason to pass over the next.
        let Ok(layer) = raw.read(document) else { continue };
        let candidate = match (layer.media_type.as_str(), raw.annotation(words::SIGNATURE)) {
            (words::SIMPLE, Some(signature)) => Candidate::Simple { claim: layer, signature },
            (words::BUNDLE, _) => Candidate::Bundle(layer),
            (_, _) => continue,
        };
        match candidate.blob().size <= CLAIM_BYTES_MAX {
            true => list.push(candidate),
            false => more += 1,
        }
    }
    Ok(Candidates { list, more })
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Option<Few<Raw, ENTRIES_MAX>>,
}

/// Of a list of what refers to an image, the manifests that may have signatures: the likely ones first, at most
/// [`MANIFESTS_MAX`]; and how many there are besides.
///
/// # Errors
/// [`Error::Json`], [`Error::TooLarge`].
pub fn referrers(list: &[u8]) -> Result<(Vec<Descriptor>, usize), Error> {
    let document = Document::Referrers;
    let list: List = json::read(document, list)?;
    let (all, more) = list.manifests.unwrap_or_default().first();
    let manifests = all.iter().filter(|raw| raw.media() == Media::Manifest);
    let mut found: Vec<(u8, Descriptor)> =
        manifests.filter_map(|raw| Some((likely(raw)?, raw.read(document).ok()?))).collect();
    found.sort_by_key(|(likely, _)| *likely);
    let more = more + found.len().saturating_sub(MANIFESTS_MAX);
    found.truncate(MANIFESTS_MAX);
    Ok((found.into_iter().map(|(_, descriptor)| descriptor).collect(), more))
}

/// What a layout has beside an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Manifests that may have signatures, at most [`MANIFESTS_MAX`].
    pub manifests: Vec<Descriptor>,
    /// Lists of what refers to the image.
    pub lists: Vec<Descriptor>,
    /// How many manifests there are besides.
    pub more: usize,
}

/// What of a layout's `index.json` may have signatures of one of `images`: under the two tags, as whoever copies a
/// repository brings them; as `cosign save` puts them; and artifacts that refer to an image, as `oras` copies them.
///
/// # Errors
/// [`Error::Json`], [`Error::TooLarge`].
pub fn beside(index: &[u8], images: &[Digest]) -> Result<Beside, Error> {
    let document = Document::Index;
    let list: List = json::read(document, index)?;
    let (all, more) = list.manifests.unwrap_or_default().first();
    let tags: Vec<String> = images.iter().map(signature_tag).collect();
    let lists: Vec<String> = images.iter().map(referrers_tag).collect();
    let (mut named, mut other, mut found) =
        (Vec::new(), Vec::new(), Beside { more, ..Beside::default() });
    for raw in &all {
        let Ok(descriptor) = raw.read(document) else { continue };
        let name = raw.annotation(NAME);
        let is = |tags: &[String]| name.as_ref().is_some_and(|name| tags.contains(name));
        match raw.media() {
            Media::Manifest if is(&tags) => named.push(descriptor),
            Media::Manifest if is_artifact(raw) => other.push(descriptor),
            Media::Index if is(&lists) => found.lists.push(descriptor),
            Media::Index
            | Media::Manifest
            | Media::Config
            | Media::Layer
            | Media::Refused(_)
            | Media::Unknown => {}
        }
    }
    named.extend(other);
    found.more += named.len().saturating_sub(MANIFESTS_MAX);
    named.truncate(MANIFESTS_MAX);
    found.manifests = named;
    Ok(found)
}
