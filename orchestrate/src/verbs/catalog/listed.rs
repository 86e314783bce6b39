//! What a signed catalog says of an image before anybody is asked for it: which objects it is made of, or by which digest
//! its manifest goes. So neither a listing nor a head is asked for, and a site whose bucket is away goes on by its cache.

use fetch::image::Digest as Sha;
use fetch::{Client, ImageRef, Layer, Object, ObjectRef, Reference};
use registry::Digest;

use crate::error::Error;
use crate::error::leaves::{stream_error, whole};
use crate::trust::catalog::{Catalog, MadeOf};
use crate::trust::keys::{Distrust, name};

impl Catalog {
    /// The layers of an image of numbered objects, from the lowest up, each with its digest. Asks nobody.
    ///
    /// # Errors
    /// [`Distrust::Unlisted`], also where what is listed are no layers of this image; [`Distrust::Manifest`].
    pub(crate) fn numbered(
        &self,
        client: &Client,
        image: &Reference,
        numbered: &ImageRef,
    ) -> Result<Vec<(Layer, Digest)>, Distrust> {
        let refuse = |why: String| Distrust::Unlisted { image: image.to_string(), why };
        let entries = self.layers(image)?;
        let bucket = match numbered {
            ImageRef::Prefix { bucket, .. } => bucket,
            ImageRef::Object(object) => &object.bucket,
        };
        let object = |entry: &crate::trust::catalog::Entry| Object {
            object: ObjectRef { bucket: bucket.clone(), key: entry.key.clone() },
            size: entry.size,
            etag: entry.etag.clone(),
        };
        let layers = client.layers_of(numbered, entries.iter().map(object).collect());
        let layers = layers.map_err(|error| refuse(whole(&Error::Fetch(error))))?;
        if let Some((entry, _)) =
            entries.iter().zip(&layers).find(|(entry, layer)| entry.key != layer.object.object.key)
        {
            return Err(refuse(format!("{:?} is not in the place of its number", entry.key)));
        }
        Ok(layers.into_iter().zip(entries.iter().map(|entry| entry.sha256)).collect())
    }

    /// The digest of the manifest that an image's name stands for; none where it is not listed so. Pure.
    pub(crate) fn named(&self, image: &Reference) -> Option<Sha> {
        match self.images.get(&name(image)?).map(|listed| &listed.made_of) {
            Some(MadeOf::Manifest(digest)) => Some(Sha(digest.0)),
            Some(MadeOf::Layers(_)) | None => None,
        }
    }
}

/// What a layer that the catalog lists by its key failed with: an object of another size or version is not the one that
/// was signed, and does not become it.
pub(crate) fn not_as_listed(layer: &str, error: Error) -> Error {
    let why = match stream_error(&error) {
        Some(fetch::Error::Changed { field, want, got, .. }) => {
            format!("the {field} differs: {got} on the server, {want} in it")
        }
        Some(other) if other.kind() == fetch::Kind::Changed => other.to_string(),
        Some(_) | None => return error,
    };
    Error::Catalog(Distrust::Unlisted { image: layer.to_owned(), why })
}
