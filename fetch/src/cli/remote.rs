//! What a registry has: the manifest behind a tag, and its layers, or the platforms of an index.

use fetch::image::{self, Descriptor, Index, Manifest, Media, RegistryRef};
use fetch::{BlobRef, Client, Fetched, Which};
use serde::Serialize;

use crate::cli::output::{escape, harmless, line};

/// A line of the list. `kind` is `index` or `manifest` for what was asked for, then `platform`, or `config` and
/// `layer`.
#[derive(Serialize)]
struct Entry<'a> {
    kind: &'static str,
    number: Option<usize>,
    digest: String,
    size: u64,
    media_type: &'a str,
    platform: Option<String>,
    /// What it is asked for by: a manifest by `--list`, a blob without.
    reference: String,
}

/// Prints what a reference means now.
pub(crate) fn list(client: &Client, at: &RegistryRef, json: bool) -> anyhow::Result<()> {
    let fetched = client.manifest(&Which::of(at))?;
    let own = |kind| Entry {
        kind,
        number: None,
        digest: fetched.digest.to_string(),
        size: fetched.bytes.len() as u64,
        media_type: &fetched.media_type,
        platform: None,
        reference: RegistryRef { tag: None, digest: Some(fetched.digest), ..at.clone() }
            .to_string(),
    };
    let of = |kind, number, descriptor: &Descriptor| {
        let entry = Entry {
            kind,
            number,
            digest: descriptor.digest.to_string(),
            size: descriptor.size,
            media_type: &descriptor.media_type,
            platform: descriptor.platform.as_ref().map(ToString::to_string),
            reference: BlobRef::new(at, descriptor.digest).to_string(),
        };
        text(&entry, json)
    };
    let mut lines = String::new();
    if is_index(&fetched)? {
        let index = Index::read(&fetched.bytes)?;
        lines.push_str(&text(&own("index"), json)?);
        for entry in index.entries() {
            let kind = if entry.attestation { "attestation" } else { "platform" };
            lines.push_str(&of(kind, None, entry)?);
        }
    } else {
        let said = Some(fetched.media_type.as_str()).filter(|said| !said.is_empty());
        let manifest = Manifest::read(&fetched.bytes, said)?;
        lines.push_str(&text(&own("manifest"), json)?);
        lines.push_str(&of("config", None, &manifest.config)?);
        for (number, layer) in (1..).zip(&manifest.layers) {
            lines.push_str(&of("layer", Some(number), layer)?);
        }
    }
    line(lines.trim_end_matches('\n'))
}

/// By what the registry says, else by what is in it.
fn is_index(fetched: &Fetched) -> anyhow::Result<bool> {
    let said = match Media::of(&fetched.media_type) {
        Media::Unknown => image::told(&fetched.bytes)?,
        said => said,
    };
    Ok(said == Media::Index)
}

fn text(entry: &Entry<'_>, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(harmless(&serde_json::to_string(entry)?) + "\n");
    }
    let number = entry.number.map_or_else(String::new, |number| number.to_string());
    let what = entry.platform.as_deref().unwrap_or(entry.media_type);
    Ok(format!(
        "{number:>3}  {:<11}{:>14}  {}  {}\n",
        entry.kind,
        entry.size,
        escape(&entry.reference),
        escape(what)
    ))
}
