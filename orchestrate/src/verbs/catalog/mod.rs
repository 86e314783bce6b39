//! The signed catalog: which objects an image is made of, and what each of them is. With a key
//! configured, only what it lists is made or activated, and digests are its own and not an ETag's word.
//! Its form is in `trust::catalog`; which one is believed, for how long, and what that says of what is here, in
//! `believe` and `bounds`; where it comes from in `ask`; what it says of an image before anybody is asked for that in `listed`.
//!
//! An image is named by what stands after the bucket, so that a mirror has the same catalog. The serial
//! never goes back: who can answer for the server must not bring back an image that was taken out.

mod ask;
pub(crate) mod believe;
pub(crate) mod bounds;
pub(crate) mod listed;

use fetch::Reference;
use minisign_verify::PublicKey;
use registry::Digest;

use crate::trust::keys::{Distrust, name, signed};

pub use crate::trust::catalog::{Catalog, Entry, Image, MadeOf, SERIAL_MAX, content};
pub use crate::trust::moment::{moment, seconds};
pub use crate::verbs::catalog::believe::Reset;
pub use crate::verbs::catalog::bounds::{allowed, expired};

impl Catalog {
    /// Reads a catalog that one of `keys` has signed. Pure.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn read(bytes: &[u8], signature: &str, keys: &[PublicKey]) -> Result<Catalog, Distrust> {
        signed(bytes, signature, keys, "catalog.keys").map_err(Distrust::Unsigned)?;
        Catalog::parse(bytes)
    }

    /// What it says of an image. Pure.
    ///
    /// # Errors
    /// [`Distrust::Unlisted`], [`Distrust::Manifest`].
    pub fn layers(&self, image: &Reference) -> Result<&[Entry], Distrust> {
        let (of, name) = (|| image.to_string(), name(image).unwrap_or_default());
        match self.images.get(&name).map(|listed| &listed.made_of) {
            Some(MadeOf::Layers(entries)) => Ok(entries),
            Some(MadeOf::Manifest(_)) => Err(Distrust::Manifest { image: of() }),
            None => {
                Err(Distrust::Unlisted { image: of(), why: format!("no image {name:?} in it") })
            }
        }
    }

    /// That it lists this manifest: under the image's name where it has one, else under any. Pure.
    ///
    /// # Errors
    /// [`Distrust::Unlisted`].
    pub fn manifest(&self, image: &Reference, manifest: Option<Digest>) -> Result<(), Distrust> {
        let refuse = |why: String| Err(Distrust::Unlisted { image: image.to_string(), why });
        let Some(manifest) = manifest else {
            return refuse("it came without a manifest, and the catalog lists manifests".into());
        };
        let is =
            |listed: &Image| matches!(&listed.made_of, MadeOf::Manifest(own) if *own == manifest);
        match name(image) {
            Some(name) => match self.images.get(&name) {
                Some(listed) if is(listed) => Ok(()),
                Some(_) => refuse(format!("{name:?} has another manifest in it than {manifest}")),
                None => refuse(format!("no image {name:?} in it")),
            },
            None if self.images.values().any(is) => Ok(()),
            None => refuse(format!("no image in it has the manifest {manifest}")),
        }
    }
}
