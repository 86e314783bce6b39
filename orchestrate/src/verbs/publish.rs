//! An image's row: which volumes it is made of from now on.

use registry::{Blob, Digest, Image, ImageLayer, VolumeId};

use crate::error::Error;
use crate::host::Host;
use crate::verbs::resolve::Resolved;
use crate::verbs::wanted::Wanted;

/// Publishes an image, with what was learnt of its blobs by ETag, and counts what was `reused`:
/// layers, and the bytes that were not fetched for it. Where a later listing than `listed` has come
/// before it, the image stays as that has it.
pub(crate) fn publish(
    host: &mut Host,
    reference: &str,
    chain: Digest,
    layers: &[(Wanted, VolumeId, Blob)],
    reused: (u64, u64),
    listed: u64,
    resolved: &Resolved,
) -> Result<(), Error> {
    let before = host.registry.image(reference)?;
    let image = Image {
        reference: reference.into(),
        pinned: before.as_ref().is_some_and(|image| image.pinned),
        used: before.as_ref().map_or(0, |image| image.used),
        endpoint: resolved.endpoint.clone(),
        chain,
        layers: layers
            .iter()
            .map(|(wanted, volume, blob)| ImageLayer {
                key: wanted.key.clone(),
                etag: wanted.etag.clone(),
                size: wanted.size,
                digest: blob.digest,
                volume: *volume,
            })
            .collect(),
    };
    let same = before.as_ref() == Some(&image);
    let run = host.run;
    Ok(host.registry.write(|write| {
        count_reused(write, reused)?;
        let (by, fresh) = (write.asker(run)?, write.is_new_image(reference)?);
        if write.was_listed_after(reference, listed)? {
            write.image_asked(reference, by, false)?;
            return write.use_image(reference);
        }
        for (wanted, _, blob) in layers.iter().filter(|_| !same) {
            if let Some(source) = &wanted.source {
                write.put_guess(source, &wanted.key, blob)?;
            }
        }
        write.put_image(&image)?;
        write.image_asked(reference, by, fresh)?;
        if let Some(made) = &resolved.made {
            write.put_made(reference, made, resolved.config.as_deref())?;
            if let Some(manifest) = made.manifest {
                for signature in &resolved.signatures {
                    write.put_signature(manifest, signature)?;
                }
            }
        }
        write.put_listing(reference, listed)?;
        write.use_image(reference)
    })?)
}

pub(crate) fn count_reused(
    write: &registry::Write<'_>,
    (layers, bytes): (u64, u64),
) -> Result<(), registry::Error> {
    write.count("layers_total", "how=\"reused\"", layers)?;
    write.count("fetch_dedup_bytes_total", "", bytes)
}
