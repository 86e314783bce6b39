//! Names of activations, and of images: words become references, and a digest becomes the image that is here under another name.

use fetch::{Place, Reference};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::quote::quoted;
use crate::host::Host;
use crate::local::spooled::{self, Kept};
use registry::Digest;

/// The reference that these words are.
///
/// # Errors
/// [`Unusable::Reference`] with the rule that is broken.
pub fn reference(text: &str) -> Result<Reference, Error> {
    text.parse().map_err(|error| Error::Image(Unusable::Reference(error)))
}

/// Whether an image's endpoint is a server that `--endpoint` may name, and no other kind of place.
pub(crate) fn is_server(endpoint: &str) -> bool {
    endpoint.starts_with("http://") || endpoint.starts_with("https://")
}

/// A name that may be a device's, a file's and a shell word.
///
/// # Errors
/// [`Error::Usage`] saying which rule it breaks.
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let good_start = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good_start && name.len() <= 100 && name.chars().all(plain) && name != "control" {
        return Ok(());
    }
    if name == "control" {
        let why = "the kernel keeps /dev/mapper/control for itself: choose another";
        return Err(Error::Usage(format!("--name {name}: {why}")));
    }
    Err(Error::Usage(format!(
        "--name {}: 1 to 100 of A-Z a-z 0-9 - _ . +, the first a letter or digit",
        quoted(name)
    )))
}

impl Host {
    /// The name that an image has on this host: `sha256:..` is that of whichever image has this manifest, or this
    /// config where it came without a manifest. Anything else is a name already.
    ///
    /// # Errors
    /// Those of the registry.
    pub(crate) fn own_name(&self, name: &str) -> Result<String, Error> {
        Ok(self.own_names(name)?.into_iter().next().unwrap_or_else(|| name.to_owned()))
    }

    /// As [`Host::own_name`], for what is done to a name and not to what is behind it.
    ///
    /// # Errors
    /// [`Error::Usage`] where several images are the same.
    pub(crate) fn only_name(&self, name: &str) -> Result<String, Error> {
        match self.own_names(name)?.as_slice() {
            [] => Ok(name.to_owned()),
            [one] => Ok(one.clone()),
            several => {
                let shown: Vec<_> = several.iter().map(|name| quoted(name).to_string()).collect();
                let text = format!("{name} is several images, name one of {}", shown.join(", "));
                Err(Error::Usage(text))
            }
        }
    }

    fn own_names(&self, name: &str) -> Result<Vec<String>, Error> {
        match name.parse() {
            Ok(Reference { place: Place::Here(digest), platform: None })
                if self.registry.image(name)?.is_none() =>
            {
                Ok(self.registry.images_of(Digest(digest.0))?)
            }
            Ok(_) | Err(_) => Ok(vec![name.to_owned()]),
        }
    }

    /// The archive of an image that came through a pipe, to this process or to another.
    pub(crate) fn kept_archive(&self, image: fetch::image::Digest) -> Result<Option<Kept>, Error> {
        match &self.arrived {
            Some(kept) if kept.image == image => Ok(Some(kept.clone())),
            Some(_) | None => spooled::find(&self.settings.state, image),
        }
    }

    /// As [`Host::own_name`], of a reference; and whether it can only be taken as it is on this host, because it
    /// came through a pipe.
    pub(crate) fn here(&self, image: &Reference) -> Result<(Reference, bool), Error> {
        let Place::Here(digest) = &image.place else { return Ok((image.clone(), false)) };
        if self.kept_archive(*digest)?.is_some() {
            return Ok((image.clone(), false));
        }
        let name = self.own_name(&image.to_string())?;
        Ok((reference(&name)?, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::document::is_name;

    #[test]
    fn a_document_has_the_same_rule_for_a_name() {
        let long = ["x".repeat(100), "x".repeat(101)];
        let words =
            ["web", "web-1.a_b+c", "", "-a", ".", "..", "a/b", "a b", "control", "ü", "a:b", "7"];
        for name in words.into_iter().chain(long.iter().map(String::as_str)) {
            assert_eq!(is_name(name), check_name(name).is_ok(), "{name:?}");
        }
    }
}
